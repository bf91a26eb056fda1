"""What sanitizers, assertions and the C++ runtime print about a program that went wrong, whoever started it."""

import re

FINDING = re.compile(r"^.*(?:Sanitizer|runtime error:|data race|Assertion .*failed|terminate called).*$", re.M)


def findings(text):
    """The lines of TEXT that tell of one."""
    return FINDING.findall(text)

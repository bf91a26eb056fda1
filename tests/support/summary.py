"""summary.py TESTLOG STATUS: counts test cases in what meson's tests printed; the last line of tests/run.

TESTLOG is meson's testlog.json (one JSON object per test), STATUS the exit status of meson test. Test cases are counted
from the last lines of Catch2 and pytest; a fuzzer is one case. A program that ended without such a line has failed, and
so has one that printed what a sanitizer found, whatever status it ended with. Reasons of skipped cases, of cases
that passed only when run again, and a list of the slowest, are repeated, since meson shows no output of a test that did
not fail; so is the end of what a failed test printed, which is far above by then. Exits with 1 if anything failed.
"""

import json
import pathlib
import re
import sys

from findings import findings

CATCH_ALL = re.compile(r"^All tests passed \(.* in (\d+) test cases?\)", re.M)
CATCH_SOME = re.compile(r"^test cases:(.*)$", re.M)
PYTEST = re.compile(r"^(?:=+ )?((?:\d+ [a-z]+(?:, )?)+) in [\d.]+s", re.M)
CATCH_SKIPPED = re.compile(r"^SKIPPED: (.*?): ", re.M)  # skipped.hpp; a case with generators says it several times
NOTED = re.compile(r"^(?:(?:SKIPPED \[\d+\]|SKIPPED:|RERUN) .*|\d+\.\d\ds (?:call|setup|teardown) .*)$", re.M)

BLAMED = re.compile(r"^(?:(?:FAILED|ERROR|E  ) .*|.*: FAILED:(?:\n.*){4})$", re.M)


def numbers(line):
    """{"passed": 3, "failed": 1} of a line such as "3 passed, 1 failed"."""
    return {word: int(number) for number, word in re.findall(r"(\d+) ([a-z]+)", line)}


def count(output):
    """Passed, failed and skipped test cases that OUTPUT tells of; None if it tells of none."""
    skipped = len(set(CATCH_SKIPPED.findall(output)))
    if found := CATCH_ALL.findall(output):
        return int(found[-1]) - skipped, 0, skipped
    if found := CATCH_SOME.findall(output):
        words = numbers(found[-1].replace("failed as expected", "passed"))
        words["passed"] = words.get("passed", 0) - skipped
        words["skipped"] = words.get("skipped", 0) + skipped
    elif found := PYTEST.findall(output):
        words = numbers(found[-1])
    else:
        return None
    failed = sum(words.get(word, 0) for word in ("failed", "error", "errors"))
    return words.get("passed", 0), failed, words.get("skipped", 0)


def wrong(test):
    """Why TEST has failed although its program ended with status 0, or nothing."""
    if found := findings(test.get("stdout", "") + test.get("stderr", "")):
        return found[0]
    fuzzer = any(pathlib.Path(word).name.startswith("fuzz_") for word in test["command"])
    return None if fuzzer or count(test.get("stdout", "")) else "it ended without telling of its test cases"


def count_test(test):
    result = test["result"]
    if result == "SKIP":
        return 0, 0, 1
    good = result in ("OK", "EXPECTEDFAIL") and not wrong(test)
    passed, failed, skipped = count(test.get("stdout", "")) or ((1, 0, 0) if good else (0, 0, 0))
    return passed, failed if good or failed else 1, skipped


def notes(test):
    """What is worth reading again of TEST, a line each."""
    output = test.get("stdout", "")
    found = [*dict.fromkeys(NOTED.findall(output))]
    if count_test(test)[1]:
        output += test.get("stderr", "")
        blamed = (BLAMED.findall(output) + findings(output))[-20:]
        ending = output.splitlines()[-20:]
        found += [f"FAILED ({wrong(test) if test['result'] == 'OK' else test['result']})",
                  *(line[:300] for line in blamed or ending)]
    return found


def main(log, status):
    tests = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    passed, failed, skipped = map(sum, zip((0, 0, 0), *map(count_test, tests)))
    if status != 0 and failed == 0:  # meson itself failed
        failed = 1
    for test in tests:
        for line in notes(test):
            print(f"{test['name']}: {line}")
    print(f"{passed} passed, {failed} failed, {skipped} skipped")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(pathlib.Path(sys.argv[1]), int(sys.argv[2])))

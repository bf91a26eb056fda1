"""Fixtures of the vm suite: what guests are started from, or the reason why there can be none."""

import os
import pathlib

import pytest

import fetch
from bed import Bed, lacking
from guest import Guest
from programs import Programs

BUILD = pathlib.Path(os.environ.get("SMARTIO_BUILD", pathlib.Path(__file__).parents[2] / "build")).resolve()
LOGS = BUILD / "vm-logs" / os.environ.get("PYTEST_XDIST_WORKER", "")  # guests of two files may have the same name


@pytest.fixture(scope="session")
def bed(tmp_path_factory):
    try:
        tree = fetch.fetch()
    except fetch.Unavailable as reason:
        lacking(reason)
    return Bed(tree, tmp_path_factory.mktemp("bed"), BUILD, LOGS)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    report = (yield).get_result()
    item.failed = getattr(item, "failed", False) or report.failed
    if report.failed:  # guests of several tests do not see it
        for guest in Guest.living:
            guest.save_messages()


@pytest.fixture
def programs(request):
    result = Programs(BUILD, LOGS / request.node.name)
    yield result
    result.clean_up(keep_logs=request.node.failed)


def pytest_terminal_summary(terminalreporter):
    """Of a case that was run again the first failure is told, with all of its output."""
    for report in terminalreporter.stats.get("rerun", ()):
        terminalreporter.section(f"First run of {report.nodeid}")
        terminalreporter.write_line(report.longreprtext)
        reason = " | ".join(line[1:].strip() for line in report.longreprtext.splitlines() if line.startswith("E "))
        terminalreporter.write_line(f"RERUN {report.nodeid}: {reason[:600]}")

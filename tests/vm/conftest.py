"""Fixtures of the vm suite: what guests are started from, or the reason why there can be none. What looks at the
clock does so while no other test runs (`alone`)."""

import contextlib
import fcntl
import os
import pathlib

import pytest

import fetch
from bed import Bed, lacking
from guest import Guest
from programs import Programs

BUILD = pathlib.Path(os.environ.get("SMARTIO_BUILD", pathlib.Path(__file__).parents[2] / "build")).resolve()
LOGS = BUILD / "vm-logs" / os.environ.get("PYTEST_XDIST_WORKER", "")  # guests of two files may have the same name


@contextlib.contextmanager
def locked(name, how):
    BUILD.mkdir(exist_ok=True)
    with open(BUILD / f"vm-{name}.lock", "w") as file:
        fcntl.flock(file, how)
        yield file


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_protocol(item):
    with contextlib.ExitStack() as held:
        with locked("queue", fcntl.LOCK_EX):  # who waits to be alone is overtaken by nobody
            item.company = held.enter_context(locked("company", fcntl.LOCK_SH))
        yield


@pytest.fixture
def alone(request):
    """What looks at the clock does it in here: with alone(): ... begins when no other test is running."""
    company = request.node.company

    @contextlib.contextmanager
    def without_company():
        fcntl.flock(company, fcntl.LOCK_UN)  # two that wait for each other would wait for ever
        with locked("queue", fcntl.LOCK_EX):
            fcntl.flock(company, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(company, fcntl.LOCK_SH)
    return without_company


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
    result = Programs(BUILD, request.node.nodeid)
    yield result
    result.close(request.node.failed)


def pytest_terminal_summary(terminalreporter):
    """Of a case that was run again the first failure is told, with all of its output."""
    for report in terminalreporter.stats.get("rerun", ()):
        terminalreporter.section(f"First run of {report.nodeid}")
        terminalreporter.write_line(report.longreprtext)
        reason = " | ".join(line[1:].strip() for line in report.longreprtext.splitlines() if line.startswith("E "))
        terminalreporter.write_line(f"RERUN {report.nodeid}: {reason[:600]}")

"""Fixtures of tests with whole programs: a test fails, too, if a program that it started did not end as it should."""

import pytest

from processes import close_all
from world import World


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    report = (yield).get_result()
    item.failed = getattr(item, "failed", False) or report.failed
    if report.failed and report.when == "call":
        for world in World.open:
            report.sections.append((f"programs: {world.logs}", world.text()))


@pytest.fixture(autouse=True)
def nothing_unseen():
    """Of the programs that live longer than a test none has died, and no others live."""
    yield
    complaints = [complaint for world in World.open for complaint in world.died()]
    complaints += close_all(kept=[process for world in World.open for process in world.processes()])
    assert not complaints, "\n".join(complaints)


@pytest.fixture
def world(request):
    made = World(request.node.nodeid)
    yield made
    made.close(getattr(request.node, "failed", False))


@pytest.fixture(scope="module")
def shared_world(request):
    """For tests that leave everything as it was."""
    made = World(request.node.nodeid)
    failed = request.session.testsfailed
    yield made
    made.close(request.session.testsfailed > failed)

# Fixtures of the whole-program tests.
import pytest

import harness
from fixtures import nothing_unseen, pytest_runtest_makereport, shared_world, world  # noqa: F401 (pytest finds them here)


def make_pair(world):
    return world.node(8), world.node(4), world.disk()


@pytest.fixture
def pair(world):
    """Nodes 8 and 4, and a simulated disk; not yet connected."""
    return make_pair(world)


@pytest.fixture
def lent(pair):
    """Node 8 lends the disk to node 4: connected, added, available. The device's id is 80000."""
    return lend(*pair)


@pytest.fixture(scope="module")
def shared_lent(shared_world):
    return lend(*make_pair(shared_world))


def lend(lender, borrower, disk):
    lender.ok("connect", 4, "--address", borrower.address)
    lender.ok("add", disk.device)
    lender.ok("available", disk.device)
    harness.wait_for(lambda: "80000" in borrower.devices(), "the borrower sees the disk")
    return lender, borrower, disk

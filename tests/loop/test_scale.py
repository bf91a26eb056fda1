# Many devices, many peers, and nothing to do.
import pathlib
import sys
import time

import pytest

from control import Control
from harness import context_switches, sanitized, sanitizer, wait_for

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "bench"))
import growth  # noqa: E402

MANY_DEVICES, MANY_PEERS = (100, 10) if sanitized() else (1000, 50)


def is_quick(node, limit, *words):
    """Whether a command takes less than `limit` seconds of a processor, of the node's and of its own with its start;
    and does not wait for anything, either. The best of some, since other programs only ever make it slower."""
    worked, took = [], []
    for _ in range(7):
        start, before = time.monotonic(), growth.processor_seconds(node)
        node.ok(*words)
        worked.append(growth.processor_seconds(node) - before)
        took.append(time.monotonic() - start)
    return sanitized() or min(worked) < limit and min(took) < 20 * limit


def test_many_devices_are_listed_at_once(pair, world):
    lender, borrower, _ = pair
    lender.ok("connect", 4, "--address", borrower.address)
    client = Control(lender)
    for device in world.many_devices(MANY_DEVICES).devices:
        client.call("add", {"device": device})
    assert len(lender.devices()) == MANY_DEVICES
    wait_for(lambda: len(borrower.devices()) == MANY_DEVICES, "the borrower sees them all")
    for node in (lender, borrower):
        assert len(node.ok("list").splitlines()) == MANY_DEVICES
        assert is_quick(node, 0.1, "list")
        assert is_quick(node, 0.2, "status", "--json")
    lender.status()
    lender.kill()
    lender.start()
    wait_for(lambda: len(lender.devices()) == MANY_DEVICES, "the lender has them all again")
    wait_for(lambda: len(borrower.devices()) == MANY_DEVICES and all(device["reachable"] for device in borrower.devices().values()), "the lender is back")


def test_many_peers_are_served(world):
    lender, disk = world.node(8), world.disk()
    lender.ok("add", disk.device)
    lender.ok("available", disk.device)
    borrowers = [world.node(100 + i) for i in range(MANY_PEERS)]
    for borrower in borrowers:
        lender.ok("connect", borrower.number, "--address", borrower.address)
    assert sum(peer["role"] == "borrower" and peer["state"] == "up" for peer in lender.status()["peers"]) == MANY_PEERS
    for borrower in borrowers:
        wait_for(lambda borrower=borrower: "80000" in borrower.devices(), "every peer sees the disk")
    borrowers[0].ok("borrow", "80000")
    for borrower in borrowers[1:]:
        wait_for(lambda borrower=borrower: borrower.devices()["80000"]["borrower"] == 100, "every peer sees the loan")
        borrower.tool("borrow", "80000").failed(4)
    borrowers[0].ok("return", "80000")
    assert is_quick(lender, 0.2, "status", "--json")


@pytest.mark.skipif(sanitized(), reason="times of instrumented programs say nothing")
def test_no_cost_grows_faster_than_the_number_of_devices_and_peers():
    """Measured again where it seems to: other programs only ever make it slower."""
    for _ in range(4):
        few, many = growth.measure(1, rest=False), growth.measure(10, rest=False)
        if many["add a device"] < 2.5 * few["add a device"] and all(many[step] < 15 * few[step] for step in few):
            return  # the first: a tenth of linear, and noise
    raise AssertionError(f"{few} became {many}")


@pytest.mark.skipif(sanitizer() == "thread", reason="the sanitizer has a thread that wakes up by itself")
@pytest.mark.parametrize("borrowed", [False, True])
def test_an_idle_node_does_not_wake_up_but_for_heartbeats(lent, borrowed):
    lender, borrower, _ = lent
    if borrowed:
        borrower.ok("borrow", "80000")
    time.sleep(1)  # what was going on has ended
    before = [context_switches(node) for node in (lender, borrower)]
    time.sleep(3)
    after = [context_switches(node) for node in (lender, borrower)]
    # Each beat wakes its sender and its receiver: 2 per 500 ms, a few more where timers are set again.
    allowed = 30 if borrowed else 3
    assert all(late - early <= allowed for early, late in zip(before, after)), (before, after)

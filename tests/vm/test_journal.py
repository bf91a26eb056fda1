"""A lender that dies at any step of taking a disk or giving it back, with room in its state directory or without: its
next start leaves no disk without a driver."""

import pathlib
import re

import pytest

from guest import Guest
from lending import LENDER, Function, Nodes
from topology import Topology, blank_disk

SOURCE = pathlib.Path(__file__).parents[2] / "vfio/host/journal.hpp"
STEPS = re.findall(r'\b(?:take|give)_\w+ = "([a-z-]+)"', SOURCE.read_text())
EXPECTED = ["0000:01:00.0 has nvme again", "No space left"]  # of the log, which is one for all tests
STOPPED = 77  # the status of a smartiod that SMARTIO_STOP_AT ended


def test_the_steps_are_known():
    assert len(STEPS) >= 8 and len(set(STEPS)) == len(STEPS)


@pytest.fixture(scope="module")
def machine(bed, tmp_path_factory):
    topology = Topology()
    disk = topology.nvme(blank_disk(tmp_path_factory.mktemp("journal") / "disk"))
    with Guest(bed, "journal", topology.devices, kernel="full", iommu="intel", programs=["ours"]) as guest:
        guest.check("head -c 262144 /dev/urandom >/run/data && dd if=/run/data of=/dev/nvme0n1 bs=64k conv=fsync")
        guest.check("mkdir /run/state8 && mount -t tmpfs -o size=256k,mode=0755 none /run/state8")
        nodes = Nodes(guest)
        yield guest, nodes, disk, Function(guest, disk)


def fill(guest):
    guest.check("! cat /dev/zero >/run/state8/filler 2>/dev/null")


def make_room(guest):
    guest.check("rm /run/state8/filler")


def refuse(nodes, words):
    """With one sentence about the disk that is full."""
    refused = nodes.tool(LENDER, words)
    assert refused.status == 1 and refused.errors.count("\n") == 1 and "No space left" in refused.errors, refused


@pytest.mark.parametrize("step", STEPS)
def test_a_lender_killed_at_any_step_leaves_a_disk_that_works(machine, step):
    guest, nodes, disk, function = machine
    nodes.start(LENDER, 7808, environment=f"SMARTIO_STOP_AT={step}")
    nodes.check(LENDER, f"add {disk}")
    if step.startswith("give"):
        nodes.check(LENDER, f"available --yes {disk}")
        assert function.driver() == "vfio-pci"
    died = nodes.tool(LENDER, f"{'un' * step.startswith('give')}available {'--yes' * step.startswith('take')} {disk}")
    assert died.status != 0 and nodes.await_end(LENDER) == STOPPED

    fill(guest)
    nodes.start(LENDER, 7808)
    nodes.await_state(LENDER, disk, "unavailable")  # the one command did not succeed, the other's wish is on record
    check_disk(guest, function)
    refuse(nodes, f"available --yes {disk}")
    assert function.driver() == "nvme"
    make_room(guest)
    check_cycle(guest, nodes, disk, function)
    nodes.end()
    assert nodes.complaints(LENDER, *EXPECTED) == []


def test_a_lender_killed_again_while_it_recovers_leaves_a_disk_that_works(machine):
    guest, nodes, disk, function = machine
    nodes.start(LENDER, 7808)
    nodes.lend(disk)
    nodes.kill(LENDER)
    nodes.launch(LENDER, 7808, environment="SMARTIO_STOP_AT=give-unbind")
    assert nodes.await_end(LENDER) == STOPPED

    nodes.start(LENDER, 7808)
    nodes.await_state(LENDER, disk, "available")  # as intended
    check_cycle(guest, nodes, disk, function, lent=True)
    nodes.end()
    assert nodes.complaints(LENDER, *EXPECTED) == []


def test_a_lender_killed_while_its_disk_is_borrowed_lends_it_again(machine):
    guest, nodes, disk, function = machine
    nodes.start_pair()
    device = nodes.lend(disk)
    nodes.check(4, f"borrow {device}")
    reading = guest.start(f"smartio_nvme --run-dir /run/node4 {device} bench --rw randread --seconds 60")
    guest.check(f"until smartio_tool --run-dir /run/node4 --json status | grep -q '\"window_bytes\": *[1-9]'; "
                "do usleep 20000; done")
    nodes.kill(LENDER)
    assert guest.run(f"cat {reading.path}").output != "0\n"  # the program ends by itself

    nodes.start(LENDER, 7808)
    nodes.await_state(LENDER, disk, "available")
    assert nodes.device(LENDER, disk)["id"] == device
    guest.check(f"until smartio_tool --run-dir /run/node4 borrow {device}; do usleep 50000; done")  # it redials
    guest.check(f"smartio_nvme --run-dir /run/node4 {device} read 0 512 | cmp - /run/data")
    nodes.check(4, f"return {device}")
    check_cycle(guest, nodes, disk, function, lent=True)
    nodes.end(LENDER, 4)
    assert nodes.complaints(LENDER, *EXPECTED) == []


def test_a_full_state_directory_keeps_no_disk_from_its_driver(machine):
    guest, nodes, disk, function = machine
    nodes.start_pair()
    device = nodes.lend(disk)
    fill(guest)
    nodes.check(4, f"borrow {device}")
    guest.check(f"smartio_nvme --run-dir /run/node4 {device} read 0 512 | cmp - /run/data")
    nodes.check(4, f"return {device}")
    nodes.check(LENDER, f"unavailable {disk}")
    check_disk(guest, function)
    refuse(nodes, f"available --yes {disk}")
    check_disk(guest, function)
    make_room(guest)
    check_lent_and_killed(guest, nodes, disk, function)
    nodes.end(LENDER, 4)
    assert nodes.complaints(LENDER, *EXPECTED) == []


def check_lent_and_killed(guest, nodes, disk, function):
    """While it is lent; at the next start there is no room to lend it again, and then there is."""
    nodes.check(LENDER, f"available --yes {disk}")
    fill(guest)
    nodes.kill(LENDER)
    nodes.start(LENDER, 7808)
    nodes.await_state(LENDER, disk, "unavailable")
    check_disk(guest, function)
    make_room(guest)
    check_cycle(guest, nodes, disk, function)


def test_a_driver_override_that_somebody_writes_while_a_disk_is_lent_is_gone_with_the_loan(machine):
    guest, nodes, disk, function = machine
    nodes.start(LENDER, 7808)
    for override in ("nonsense", ""):
        nodes.lend(disk)
        guest.check(f"echo '{override}' >{function.path}/driver_override")
        nodes.check(LENDER, f"unavailable {disk}")
        check_disk(guest, function)
    nodes.lend(disk)
    guest.check(f"echo pci-stub >{function.path}/driver_override")
    nodes.kill(LENDER)
    nodes.start(LENDER, 7808)
    nodes.await_state(LENDER, disk, "available")
    check_cycle(guest, nodes, disk, function, lent=True)
    nodes.end()
    assert nodes.complaints(LENDER, *EXPECTED) == []


def check_cycle(guest, nodes, disk, function, lent=False):
    if not lent:
        nodes.check(LENDER, f"available --yes {disk}")
    assert function.driver() == "vfio-pci" and nodes.state(LENDER, disk) == "available"
    nodes.check(LENDER, f"unavailable {disk}")
    check_disk(guest, function)


def check_disk(guest, function):
    assert function.driver() == "nvme"
    override = guest.check(f"cat {function.path}/driver_override")
    assert override == "(null)\n"
    guest.check("until [ -b /dev/nvme0n1 ]; do usleep 20000; done; head -c 262144 /dev/nvme0n1 | cmp - /run/data")

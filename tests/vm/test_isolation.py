"""A device told to write where its borrower has no window (any more): memory is unchanged, the kernel says so."""

import re

import pytest

from guest import Guest
from lending import Function, Nodes
from topology import Topology

FAULT = re.compile(r"DMAR: \[DMA Write.* fault addr (0x[0-9a-f]+)")
TRANSFER_USECONDS = 100_000  # edu.rst


@pytest.fixture(scope="module")
def machine(bed):
    topology = Topology()
    edu = topology.edu()
    with Guest(bed, "isolation", topology.devices, kernel="full", iommu="intel", programs=["ours"]) as guest:
        nodes = Nodes(guest)
        nodes.start_pair()
        yield guest, nodes, nodes.lend(edu), Function(guest, edu)
        nodes.end()


def test_a_device_does_not_reach_what_its_borrower_unmapped(machine):
    guest, nodes, device, _ = machine
    guest.check("dmesg -c >/dev/null")
    iova = int(guest.check(f"trespass /run/node4 {device} unmapped"), 16)
    assert fault_within(guest) == iova
    await_available(nodes, device)
    assert nodes.complaints(8) == nodes.complaints(4) == []


def test_a_borrower_does_not_reach_the_memory_of_the_one_before(machine):
    guest, nodes, device, _ = machine
    before, iova = start(guest, f"trespass /run/node4 {device} hold")
    await_available(nodes, device)
    guest.check("dmesg -c >/dev/null")
    guest.check(f"trespass /run/node4 {device} aim {iova}")
    assert fault_within(guest) == int(iova, 16)
    guest.check("kill $(pidof trespass)")
    before.check()  # its memory is untouched
    await_available(nodes, device)
    assert nodes.complaints(8) == nodes.complaints(4) == []


@pytest.mark.parametrize("end", ["killed", "unavailable"])
def test_no_dma_after_the_end_of_a_loan(machine, end):
    guest, nodes, device, function = machine
    if nodes.state(8, device) == "unavailable":
        nodes.check(8, f"available --yes {device}")
    guest.check("dmesg -c >/dev/null; dd if=/dev/zero of=/run/memory bs=4096 count=1; "
                "head -c 4096 /dev/urandom >/run/next")
    program, _ = start(guest, f"trespass /run/node4 {device} stream /run/memory")
    if end == "killed":
        guest.check("kill -9 $(pidof trespass)")
        await_available(nodes, device)
    else:
        nodes.check(8, f"unavailable {device}")
        assert function.driver() == ""
    assert guest.run(f"cat {program.path}").output != "0\n"
    # The pages are somebody else's now.
    guest.check(f"cat /run/next >/run/memory; usleep {3 * TRANSFER_USECONDS}; cmp /run/next /run/memory")
    # Bus mastering is off before the window is unmapped: what was under way ends without a fault.
    assert "DMAR" not in guest.dmesg()
    if end == "unavailable":
        nodes.check(8, f"available --yes {device}")
    assert nodes.exercise(4, device, "edu")["device_writes_memory"]
    assert nodes.complaints(8) == nodes.complaints(4, "was taken back: node 8 made it unavailable") == []


def fault_within(guest):
    """The address of the first fault the kernel logs."""
    return int(FAULT.search(guest.check("until dmesg | grep 'fault addr'; do usleep 20000; done", 20))[1], 16)


def start(guest, command):
    """The program, and its line once it is under way."""
    job = guest.start(command)
    return job, guest.check(f"until grep . {job.path}.out; do usleep 20000; done", 20).strip()


def await_available(nodes, device):
    nodes.await_state(8, device, "available")

"""A device that is pulled out while it is borrowed, and borrowers that do not let go of one."""

import re

import pytest

from guest import Guest
from lending import Function, Nodes
from topology import Topology, blank_disk

NOTICE_SECONDS = 1
BACK_SECONDS = 5


@pytest.fixture(scope="module")
def machine(bed, tmp_path_factory):
    """A disk that can be pulled out and put back, lent by node 8 to node 4; what QEMU makes it of."""
    topology = Topology()
    file = blank_disk(tmp_path_factory.mktemp("unplug") / "disk")
    topology.devices.append(f"-blockdev driver=raw,node-name=media,file.driver=file,file.filename={file}")
    where = topology.behind_port("nvme", "disk", serial="DISK1", drive="media")
    with Guest(bed, "unplug", topology.devices, kernel="full", iommu="intel", programs=["ours"]) as guest:
        nodes = Nodes(guest)
        nodes.start_pair()
        yield guest, nodes, Function(guest, where), nodes.lend(where), topology.devices[-1]
        nodes.end()


def test_a_borrowed_disk_is_pulled_out_and_put_back(machine):
    guest, nodes, function, device, hardware = machine
    start(guest, f"trespass /run/node4 {device} keep")
    kernel = take_notes(guest, "cat /dev/kmsg")
    monitor = take_notes(guest, "smartio_tool --run-dir /run/node4 --json monitor")
    guest.qmp("device_del", id="disk")
    asked = time_of(guest, kernel, "vfio-pci.*Relaying device request")
    assert time_of(guest, monitor, "loan-taken-back") - asked < NOTICE_SECONDS
    nobody_holds_what_was_pulled_out(machine)
    guest.qmp("device_add", **hardware)
    works_again(machine)
    end_trespassers(guest)
    check_messages(nodes)


def nobody_holds_what_was_pulled_out(machine):
    guest, nodes, function, device, _ = machine
    guest.event("DEVICE_DELETED", device="disk")
    guest.check(f"until [ ! -e {function.path} ]; do usleep 20000; done")
    nodes.await_state(8, device, "unavailable")
    assert nodes.state(4, device) == "unavailable"
    shown = nodes.json(8, f"show {device}")
    assert shown["reason"] and shown["loan"] is None
    assert guest.run("ls /dev/vfio/[0-9]*").status != 0


def works_again(machine):
    _, nodes, function, device, _ = machine
    nodes.await_state(8, device, "available")
    assert function.driver() == "vfio-pci"
    verified = nodes.exercise(4, device, "nvme")
    assert verified["device_writes_memory"] and verified["interrupts"]


def test_a_stopped_program_is_ended_when_its_device_is_taken_back(machine):
    guest, nodes, function, device, _ = machine
    program = start(guest, f"trespass /run/node4 {device} keep")
    guest.check("kill -STOP $(pidof trespass)")
    nodes.check(8, f"unavailable {device}", seconds=BACK_SECONDS)
    assert function.driver() == "nvme"
    assert guest.check(f"cat {program.path}") == f"{128 + 9}\n"
    nodes.check(8, f"available --yes {device}")
    check_messages(nodes)


def test_a_stranger_that_keeps_a_device_is_named(machine):
    guest, nodes, function, device, _ = machine
    _, socket = nodes.check(4, f"borrow {device}").split()
    program = start(guest, f"trespass - vfio-user:{socket} keep")
    pid = guest.check("pidof trespass; kill -STOP $(pidof trespass)").strip()
    refused = nodes.tool(8, f"unavailable {device}")
    holder = f"process {pid} (trespass)"
    assert refused.status == 4 and holder in refused.errors, refused
    assert nodes.state(8, device) == nodes.state(4, device) == "quarantined"
    assert holder in nodes.json(8, f"show {device}")["reason"]
    assert nodes.tool(4, f"borrow {device}").status == 4

    guest.check("kill -9 $(pidof trespass)")
    assert guest.check(f"cat {program.path}") == f"{128 + 9}\n"
    nodes.check(8, f"unavailable {device}")
    assert function.driver() == "nvme" and nodes.state(4, device) == "unavailable"
    nodes.check(8, f"available --yes {device}")
    assert nodes.exercise(4, device, "nvme")["device_writes_memory"]
    check_messages(nodes, re.escape(holder))


def test_a_lender_that_cannot_give_a_device_back_says_so_when_it_stops_and_gives_it_back_later(machine):
    guest, nodes, function, device, _ = machine
    _, socket = nodes.check(4, f"borrow {device}").split()
    start(guest, f"trespass - vfio-user:{socket} keep")
    holder = f"process {guest.check('pidof trespass; kill -STOP $(pidof trespass)').strip()} (trespass)"
    guest.check("kill $(cat /run/node8.pid)")
    assert nodes.await_end(8) == 1
    said = guest.check("grep 'did not go back' /run/node8.log")
    assert holder in said and function.driver() != "nvme", said
    guest.check("kill -9 $(pidof trespass)")
    nodes.start(8, 7808)
    nodes.await_state(8, device, "available")
    check_messages(nodes, r"\(trespass\)", "has nvme again", "node 8 lost: it closed the connection")


def start(guest, command):
    """The program, under way."""
    job = guest.start(command)
    guest.check(f"until grep . {job.path}.out; do usleep 20000; done", 20)
    return job


def take_notes(guest, source):
    """A file of all that SOURCE says, each line with the time, in seconds, at which it was said."""
    job = guest.start(f"{source} | while read -r line; do echo \"$(cut -d' ' -f1 /proc/uptime) $line\"; done")
    return f"{job.path}.out"


def time_of(guest, notes, pattern):
    return float(guest.check(f"until grep -m 1 '{pattern}' {notes}; do usleep 20000; done", 30).split()[0])


def end_trespassers(guest):
    guest.check("kill $(pidof trespass); while pidof trespass; do usleep 20000; done")


def check_messages(nodes, *expected):
    assert nodes.complaints(8, "the kernel wants it back", "it was pulled out",
                            "VFIO_DEVICE_RESET: Resource temporarily unavailable",  # the kernel is removing it
                            *expected) == []
    assert nodes.complaints(4, "was taken back", *expected) == []

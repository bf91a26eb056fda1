"""A device is lent again where it is found again, and no other in its place."""

import pytest

from guest import Guest
from lending import Function, Nodes
from topology import Topology, blank_disk


@pytest.fixture(scope="module")
def machine(bed, tmp_path_factory):
    """A disk that is lent by node 8, and an empty slot; the place of each."""
    topology = Topology()
    for name in ["media", "other"]:
        file = blank_disk(tmp_path_factory.mktemp("identity") / name)
        topology.devices.append(f"-blockdev driver=raw,node-name={name},file.driver=file,file.filename={file}")
    topology.devices.append({"driver": "pcie-root-port", "id": "empty", "bus": "pcie.0", "addr": "0x18", "chassis": 99,
                             "slot": 99})
    where = topology.behind_port("nvme", "disk", serial="MINE", drive="media")
    with Guest(bed, "identity", topology.devices, kernel="full", iommu="intel", programs=["ours"]) as guest:
        nodes = Nodes(guest)
        nodes.start_pair()
        bus = int(guest.check("cat /sys/bus/pci/devices/0000:00:18.0/secondary_bus_number"))
        elsewhere = f"{bus:02x}:00.0"
        yield guest, nodes, where, elsewhere, nodes.lend(where), topology.devices[-1]
        nodes.end()


def test_another_disk_in_the_place_of_a_lent_one_is_not_lent(machine):
    guest, nodes, where, _, device, hardware = machine
    pull_out(machine, "disk", where)
    nodes.await_state(8, device, "unavailable")
    guest.qmp("device_add", **hardware | {"id": "stranger", "serial": "OTHER", "drive": "other"})
    reason = await_reason(nodes, device, "another device")
    assert "OTHER" in reason and "MINE" in reason
    assert nodes.state(8, device) == nodes.state(4, device) == "unavailable"
    assert Function(guest, where).driver() == "nvme"
    assert nodes.tool(4, f"borrow {device}").status == 4


def test_a_disk_that_is_put_into_another_slot_is_lent_from_there(machine):
    guest, nodes, where, elsewhere, device, hardware = machine
    guest.qmp("device_add", **hardware | {"bus": "empty"})
    nodes.await_state(8, device, "available")
    assert nodes.device(8, device)["address"] == f"0000:{elsewhere}"
    guest.check(f"grep 'device {device} is at 0000:{elsewhere} now; it was at 0000:{where}' /run/node8.log")
    assert Function(guest, elsewhere).driver() == "vfio-pci" and Function(guest, where).driver() == "nvme"
    verified = nodes.exercise(4, device, "nvme")
    assert verified["device_writes_memory"] and verified["interrupts"]


def test_another_function_that_is_there_at_a_start_is_lent_once_that_is_said(machine):
    guest, nodes, where, elsewhere, device, _ = machine
    nodes.end(8)
    pull_out(machine, "disk", elsewhere)
    guest.qmp("device_add", driver="e1000e", bus="empty", addr="0x0.0", id="network")
    guest.check(f"modprobe e1000e; until [ -e /sys/bus/pci/devices/0000:{elsewhere}/driver ]; do usleep 20000; done", 20)
    nodes.start(8, 7808)
    assert "class 020000" in await_reason(nodes, device, "another device")
    assert nodes.state(8, device) == "unavailable" and Function(guest, elsewhere).driver() == "e1000e"
    nodes.check(8, f"available --yes {device}")
    assert nodes.state(8, device) == "available" and Function(guest, elsewhere).driver() == "vfio-pci"
    nodes.check(8, f"unavailable {device}")
    assert Function(guest, elsewhere).driver() == "e1000e"
    assert nodes.complaints(8, "the kernel wants it back", "it was pulled out", "another device",
                            "There is no PCI function") == []


def pull_out(machine, name, where):
    guest = machine[0]
    guest.qmp("device_del", id=name)
    guest.event("DEVICE_DELETED", device=name)
    guest.check(f"until [ ! -e /sys/bus/pci/devices/0000:{where} ]; do usleep 20000; done")


def await_reason(nodes, device, phrase):
    shown = f"smartio_tool --run-dir /run/node8 show {device}"
    nodes.guest.check(f"until {shown} 2>/dev/null | grep -q '{phrase}'; do usleep 20000; done", 20)
    return nodes.json(8, f"show {device}")["reason"]

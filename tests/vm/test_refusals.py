"""What cannot be lent, and IOMMU groups, which are lent as a whole: every refusal is one sentence and changes nothing."""

import pytest

from guest import Guest
from lending import Function, Nodes
from topology import Topology, blank_disk


@pytest.fixture(scope="module")
def machine(bed):
    """A guest with groups of several functions, and a device that has no reset: (guest, nodes, places)."""
    topology = Topology()
    places = {"sound card": topology.two_functions(), "twins": topology.twins(), "bridge": topology.bridge(),
              "no reset": topology.edu_on_root_bus()}
    with Guest(bed, "refusals", topology.devices, kernel="full", iommu="intel", programs=["ours"]) as guest:
        guest.check("modprobe e1000e; modprobe snd_hda_intel")
        nodes = Nodes(guest)
        nodes.start_pair()
        yield guest, nodes, places
        nodes.end()


def refuse(nodes, words, status, *phrases, node=8):
    """The command is refused with that exit code and one sentence that has the phrases."""
    refused = nodes.tool(node, words)
    assert refused.status == status and refused.errors.count("\n") == 1, refused
    assert all(phrase in refused.errors for phrase in phrases), refused


def drivers(guest, places):
    return [Function(guest, where).driver() for where in places]


def group_number(guest, where):
    return guest.check(f"readlink {Function(guest, where).path}/iommu_group | sed 's,.*/,,'").strip()


def test_companions_are_named_then_bound_and_all_go_back(machine):
    guest, nodes, places = machine
    pair = network, sound = places["sound card"]
    before = drivers(guest, pair)
    assert before == ["e1000e", "snd_hda_intel"]
    nodes.check(8, f"add {network}")
    refuse(nodes, f"available --yes {network}", 5,
           f"{sound} (snd_hda_intel) shares IOMMU group {group_number(guest, network)}: add it too")
    assert drivers(guest, pair) == before
    nodes.check(8, f"add {sound}")
    nodes.check(8, f"available --yes {network}")
    assert drivers(guest, pair) == ["vfio-pci", "vfio-pci"]
    assert nodes.state(8, sound) == "unavailable"
    refuse(nodes, f"available --yes {sound}", 5, f"{sound} has no reset method")
    nodes.check(8, f"unavailable {network}")
    assert drivers(guest, pair) == before


def test_functions_of_a_group_go_to_one_borrower_and_stay_bound_until_the_last(machine):
    guest, nodes, places = machine
    twins = places["twins"]
    for where in twins:
        nodes.check(8, f"add {where}")
    interface = guest.check(f"ls {Function(guest, twins[1]).path}/net").strip()
    guest.check(f"ip address add 10.1.0.2/24 dev {interface} && ip link set {interface} up")
    refuse(nodes, f"available --yes {twins[0]}", 4, f"{twins[1]} shares IOMMU group", f"{interface} is up and has")
    assert drivers(guest, twins) == ["e1000e", "e1000e"]
    guest.check(f"ip link set {interface} down")
    first, second = (nodes.lend(where) for where in twins)
    nodes.check(4, f"borrow {first}")
    refuse(nodes, f"borrow {second}", 4, f"shares IOMMU group {group_number(guest, twins[0])}", twins[0])
    assert nodes.state(8, second) == "available"
    nodes.check(4, f"borrow {second}")
    assert nodes.exercise(4, second, "e1000e")["interrupts"]  # while the other one is open too
    for device in (first, second):
        nodes.check(4, f"return {device}")
    nodes.check(8, f"borrow {second}")
    refuse(nodes, f"borrow {first}", 4, "shares IOMMU group", node=4)
    nodes.check(8, f"return {second}")
    nodes.check(8, f"unavailable {first}")
    assert drivers(guest, twins) == ["vfio-pci", "vfio-pci"] and nodes.state(8, second) == "available"
    nodes.check(8, f"unavailable {second}")
    assert drivers(guest, twins) == ["e1000e", "e1000e"]


def test_a_bridge_with_a_driver_stands_in_the_way_and_a_reset_has_to_work(machine):
    guest, nodes, places = machine
    devices = places["bridge"]
    bridge = next(iter(Function(guest, devices[0]).group() - set(devices)))
    for where in devices:
        nodes.check(8, f"add {where}")
    refuse(nodes, f"available --yes {devices[0]}", 5, f"{bridge} (shpchp) shares IOMMU group", "unbind that driver")
    path = Function(guest, bridge).path
    guest.check(f"echo 0000:{bridge} >{path}/driver/unbind")
    # The kernel offers a reset of the bus for the device it found first, and then does not carry it out.
    refuse(nodes, f"available --yes {devices[0]}", 5, "reset does not work")
    assert drivers(guest, devices) == ["", "", ""] and nodes.state(8, devices[0]) == "unavailable"


def test_a_device_without_a_reset_and_a_bridge_are_refused(machine):
    guest, nodes, places = machine
    nodes.check(8, f"add {places['no reset']}")
    refuse(nodes, f"available --yes {places['no reset']}", 5, f"{places['no reset']} has no reset method")
    assert Function(guest, places["no reset"]).driver() == ""
    before = nodes.json(8, "list")
    refuse(nodes, "add 00:10.0", 5, "00:10.0 is a bridge")
    assert nodes.json(8, "list") == before


@pytest.mark.parametrize("iommu, sentence", [(None, "has no IOMMU group: turn the IOMMU on"),
                                             ("virtio", "Interrupts are not remapped on this host")])
def test_without_isolation_nothing_is_lent(bed, tmp_path, iommu, sentence):
    topology = Topology()
    disk = topology.nvme(blank_disk(tmp_path / "disk"))
    with Guest(bed, f"refusals-{iommu}", topology.devices, iommu=iommu, programs=["ours"]) as guest:
        nodes = Nodes(guest)
        nodes.start(8, 7808)
        nodes.check(8, f"add {disk}")
        refuse(nodes, f"available --yes --force {disk}", 5, sentence)
        assert Function(guest, disk).driver() == "nvme" and nodes.state(8, disk) == "unavailable"
        guest.check("until [ -b /dev/nvme0n1 ]; do usleep 20000; done; head -c 4096 /dev/nvme0n1 >/dev/null")
        nodes.end()

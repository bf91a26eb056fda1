"""A function that can have virtual ones, lent together with them: vfio-pci wants a token then that only the lender has."""

import re

import pytest

from guest import Guest
from lending import Function, Nodes
from topology import Topology, blank_disk, nvme_vf

ONLINE_SECONDS = 20


@pytest.fixture(scope="module", params=[("full", "type1"), ("own", "iommufd")], ids=lambda way: way[1])
def machine(bed, tmp_path_factory, request):
    """A disk that is lent, with two virtual functions made then, and lent too."""
    kernel, interface = request.param
    topology = Topology()
    disk = topology.nvme_with_vfs(blank_disk(tmp_path_factory.mktemp("sriov") / "disk"))
    with Guest(bed, f"sriov-{interface}", topology.devices, kernel=kernel, iommu="intel", programs=["ours"]) as guest:
        nodes = Nodes(guest)
        nodes.start_pair()
        physical = nodes.lend(disk)
        guest.check("echo Y >/sys/module/vfio_pci/parameters/enable_sriov")
        Function(guest, disk).make_vfs(2)
        virtual = [nodes.lend(nvme_vf(disk, number)) for number in (1, 2)]
        yield guest, nodes, Function(guest, disk), physical, virtual
        nodes.end()


def test_a_physical_function_and_its_virtual_ones_are_driven_at_once(machine):
    guest, nodes, _, physical, virtual = machine
    assert nodes.json(8, f"show {virtual[0]}")["driver"] == "vfio-pci"
    primary = bring_online(guest, physical)
    for device in virtual:
        verified = nodes.exercise(4, device, "nvme")
        assert verified["device_writes_memory"] and verified["device_reads_memory"]
        assert verified["interrupts"] and verified["reset"]
    guest.check("kill $(pidof primary)")
    primary.check()
    nodes.await_state(8, physical, "available")
    assert nodes.exercise(4, physical, "nvme")["device_reads_memory"]


def test_a_physical_function_is_opened_again_while_a_virtual_one_is_in_use(machine):
    guest, nodes, _, physical, virtual = machine
    holder = start(guest, f"trespass /run/node4 {virtual[0]} keep")
    assert re.match(r"keeps [1-9]", guest.check(f"cat {holder.path}.out"))
    for _ in range(2):  # closed and opened for each loan
        assert nodes.exercise(4, physical, "nvme")["device_writes_memory"]
    assert nodes.state(8, virtual[0]) == "borrowed"
    guest.check("kill $(pidof trespass)")
    holder.check()
    nodes.await_state(8, virtual[0], "available")
    assert complaints(nodes) == []


@pytest.mark.parametrize("state", ["idle", "in use"])
def test_making_a_physical_function_unavailable_takes_its_virtual_ones_away(machine, state):
    guest, nodes, function, physical, virtual = machine
    if function.driver() != "vfio-pci":
        nodes.check(8, f"available --yes {physical}")
        function.make_vfs(2)
        for device in virtual:
            nodes.check(8, f"available --yes {device}")
    if state == "in use":
        holder = start(guest, f"trespass /run/node4 {virtual[0]} keep")
    nodes.check(8, f"unavailable {physical}")
    assert function.driver() == "nvme"
    assert guest.check(f"cat {function.path}/sriov_numvfs") == "0\n"
    for device in virtual:
        nodes.await_state(8, device, "unavailable")
    if state == "in use":
        guest.check("kill $(pidof trespass)")
        holder.check()
    assert complaints(nodes) == []


def bring_online(guest, physical):
    """A borrower of the physical function, at work, that gave its virtual ones what they need."""
    job = start(guest, f"primary /run/node4 {physical} 2")
    assert guest.check(f"cat {job.path}.out") == "online\n"
    return job


def start(guest, command):
    """The program, under way."""
    job = guest.start(command)
    guest.check(f"until grep . {job.path}.out; do usleep 20000; done", ONLINE_SECONDS)
    return job


def complaints(nodes):
    """But for the virtual functions that went with their physical one."""
    return (nodes.complaints(8, "device 8000[12]: the kernel wants it back",
                             "01:00.[12]: VFIO_DEVICE_RESET: Resource temporarily unavailable") +
            nodes.complaints(4, "device 8000[12] was taken back: .*the kernel wants it back"))

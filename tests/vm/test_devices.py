"""Each kind of device, on each way the kernel offers: lent, driven in every way a driver does, and back."""

import pytest

from guest import Guest
from lending import Function, Nodes, bring_vf_online
from topology import Topology, blank_disk, igb_vf, nvme_vf


@pytest.fixture(scope="module", params=[("full", "type1"), ("own", "iommufd")], ids=lambda way: way[1])
def machine(bed, tmp_path_factory, request):
    """A guest with one of each; nodes 8 and 4 in it."""
    kernel, interface = request.param
    topology = Topology()
    disk = topology.nvme_with_vfs(blank_disk(tmp_path_factory.mktemp("devices") / "disk"))
    igb = topology.igb()
    places = {"nvme": disk, "nvme-vf": nvme_vf(disk), "igb": igb, "igb-vf": igb_vf(igb),
              "e1000e": topology.e1000e(peer=igb), "edu": topology.edu()}
    with Guest(bed, f"devices-{interface}", topology.devices, kernel=kernel, iommu="intel", programs=["ours"]) as guest:
        guest.check("modprobe igb; modprobe igbvf; modprobe e1000e; true")  # built in where they are no modules
        nodes = Nodes(guest)
        nodes.start_pair()
        yield guest, nodes, places, interface
        nodes.end()


PROGRAMS = {"nvme": "nvme", "nvme-vf": "nvme", "igb": "igb", "igb-vf": "igbvf", "e1000e": "e1000e", "edu": "edu"}


# Virtual functions last: lending their physical function takes them away.
@pytest.mark.parametrize("kind", ["nvme", "igb", "e1000e", "edu", "nvme-vf", "igb-vf"])
def test_a_device_is_lent_driven_and_goes_back(machine, kind):
    guest, nodes, places, interface = machine
    where = places[kind]
    prepare(guest, places, kind)
    function = Function(guest, where)
    driver = function.driver()
    device = nodes.lend(where)
    shown = nodes.json(8, f"show {device}")
    assert shown["interface"] == interface and shown["driver"] == "vfio-pci"
    assert function.driver() == "vfio-pci"
    verified = nodes.exercise(4, device, PROGRAMS[kind])
    assert verified["reset"] and verified["interrupts"]
    if kind != "igb-vf":  # its physical function decides whether it may send
        assert verified["device_writes_memory"] and verified["device_reads_memory"]
    nodes.check(8, f"unavailable {device}")
    assert function.driver() == driver
    nodes.check(8, f"remove {device}")
    if kind == "nvme":
        guest.check("until [ -b /dev/nvme0n1 ]; do usleep 20000; done; dd if=/dev/nvme0n1 of=/dev/null bs=4096 count=1")


def prepare(guest, places, kind):
    """Makes the virtual function that KIND stands for."""
    if not kind.endswith("-vf"):
        return
    physical = places[kind.removesuffix("-vf")]
    Function(guest, physical).make_vfs(1)
    if kind == "igb-vf":  # the physical function's driver answers only while its interface is up
        guest.check(f"ip link set $(ls {Function(guest, physical).path}/net) up")
    if kind == "nvme-vf":
        bring_vf_online(guest, 1)

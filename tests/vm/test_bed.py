"""The bed that programs run in: an IOMMU, PCI topologies, hot-unplug, our programs. If this fails, the bed is broken. One
guest with one of each; other kernels and IOMMUs fail where they are used."""

import pytest

from guest import Guest
from lending import Function, Nodes, bring_vf_online
from topology import Topology, blank_disk, igb_vf, nvme_vf


@pytest.fixture(scope="module")
def machine(bed, tmp_path_factory):
    """The guest, and where its devices are."""
    directory, topology = tmp_path_factory.mktemp("bed"), Topology()
    places = {"disk": topology.nvme(blank_disk(directory / "disk"), name="disk"), "network": topology.igb()}
    places["gigabit"] = topology.e1000e(peer=places["network"])
    places |= {"pair": topology.two_functions(), "switched": topology.switch(), "bridged": topology.bridge(),
               "disk with virtual functions": topology.nvme_with_vfs(blank_disk(directory / "vfs")),
               "on root bus": topology.edu_on_root_bus()}
    with Guest(bed, "bed", topology.devices, kernel="full", iommu="intel", programs=["ours"]) as guest:
        yield guest, places


def test_a_disk_is_bound_to_vfio_by_hand_behind_an_iommu(machine):
    guest, places = machine
    function = Function(guest, places["disk"])
    assert function.driver() == "nvme"
    assert function.group() == {places["disk"]}
    function.bind("vfio-pci")
    assert function.driver() == "vfio-pci"
    group = guest.check(f"basename $(readlink {function.path}/iommu_group)").strip()
    assert guest.run(f"[ -c /dev/vfio/{group} ]").status == 0
    function.bind("nvme")
    assert function.driver() == "nvme"


def test_groups_are_as_the_topology_says(machine):
    guest, places = machine

    def group(where):
        return Function(guest, where).group()
    for alone in ("network", "gigabit", "disk with virtual functions", "on root bus"):
        assert group(places[alone]) == {places[alone]}
    assert group(places["pair"][0]) == set(places["pair"])
    for device in places["switched"]:
        assert device in group(device) and len(group(device)) >= 2
    assert set(places["bridged"]) < group(places["bridged"][0])
    assert "1234:11e8" in guest.check(f"lspci -n -s {places['switched'][0]}")


def test_linux_networks_reach_each_other(machine):
    guest, places = machine
    guest.check("modprobe igb && modprobe e1000e")
    names = [guest.check(f"ls {Function(guest, places[which]).path}/net").strip() for which in ("network", "gigabit")]
    guest.check(f"ip link set {names[0]} up && ip link set {names[1]} up && ip addr add 10.1.0.1/24 dev {names[0]}")
    received = f"cat /sys/class/net/{names[1]}/statistics/rx_packets"
    guest.check(f"ping -c 1 -W 1 10.1.0.2; until [ $({received}) -gt 0 ]; do usleep 50000; "
                "ping -c 1 -W 1 10.1.0.2; done; true")  # the question for the address arrives


def test_virtual_functions_have_groups_and_drivers(machine):
    guest, places = machine
    disk = places["disk with virtual functions"]
    guest.check("modprobe igb")
    for physical, find in ((disk, nvme_vf), (places["network"], igb_vf)):
        Function(guest, physical).make_vfs(2)
        assert Function(guest, find(physical)).group() == {find(physical)}
    controller = guest.check(f"ls {Function(guest, disk).path}/nvme").strip()
    bring_vf_online(guest, 1, f"/dev/{controller}")
    function = Function(guest, nvme_vf(disk))
    function.bind("nvme")
    guest.check(f"until grep -q live {function.path}/nvme/*/state; do usleep 20000; done")


def test_a_disk_is_pulled_out(machine):
    guest, places = machine
    assert "NVM" in guest.check(f"lspci -s {places['disk']}")
    guest.qmp("device_del", id="disk")
    guest.event("DEVICE_DELETED", device="disk")
    assert guest.check(f"lspci -s {places['disk']}") == ""


def test_our_programs_lend_a_simulated_disk_within_a_guest(machine):
    guest, _ = machine
    assert "available" in guest.check("smartio_tool help")
    guest.check("smartio_sim nvme --socket /run/disk.sock --file /run/disk --size 1048576 >/run/sim.log 2>&1 & "
                "until grep -q ready /run/sim.log; do usleep 20000; done")
    nodes = Nodes(guest)
    nodes.start_pair()
    device = nodes.lend("vfio-user:/run/disk.sock")
    assert device == "80000" and nodes.state(4, device) == "available"
    nodes.check(4, f"borrow {device}")
    assert nodes.state(8, device) == "borrowed"
    guest.check("head -c 65536 /dev/urandom >/run/data && "
                f"smartio_nvme --run-dir /run/node4 {device} write 8 </run/data && "
                f"smartio_nvme --run-dir /run/node4 {device} read 8 128 | cmp - /run/data && "
                "dd if=/run/disk bs=512 skip=8 count=128 2>/dev/null | cmp - /run/data")
    nodes.check(4, f"return {device}")
    assert nodes.state(8, device) == "available"
    verified = nodes.exercise(4, device, "nvme")
    assert verified["device_writes_memory"] and verified["device_reads_memory"] and verified["interrupts"]
    assert nodes.tool(8, "available 9f:00.0").status == 3
    nodes.end()

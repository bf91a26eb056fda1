"""The bed that programs run in: kernels, IOMMUs, PCI topologies, hot-unplug. If this fails, the bed is broken."""

from guest import Guest
from lending import Function, Nodes, bring_vf_online
from topology import Topology, blank_disk, igb_vf, nvme_vf


def test_a_disk_is_bound_to_vfio_by_hand_behind_an_iommu(bed, tmp_path):
    machine = Topology()
    disk = machine.nvme(blank_disk(tmp_path / "disk"))
    with Guest(bed, "bound-by-hand", machine.devices, kernel="full", iommu="intel") as guest:
        function = Function(guest, disk)
        assert function.driver() == "nvme"
        assert function.group() == {disk}
        function.bind("vfio-pci")
        assert function.driver() == "vfio-pci"
        group = guest.check(f"basename $(readlink {function.path}/iommu_group)").strip()
        assert guest.run(f"[ -c /dev/vfio/{group} ]").status == 0
        function.bind("nvme")
        assert function.driver() == "nvme"


def test_groups_are_as_the_topology_says(bed, tmp_path):
    machine = Topology()
    network = machine.igb()
    gigabit = machine.e1000e(peer=network)
    pair = machine.two_functions()
    switched = machine.switch()
    bridged = machine.bridge()
    disk = machine.nvme_with_vfs(blank_disk(tmp_path / "disk"))
    on_root_bus = machine.edu_on_root_bus()
    with Guest(bed, "groups", machine.devices, kernel="full", iommu="intel") as guest:
        def group(where):
            return Function(guest, where).group()
        for alone in (network, gigabit, disk, on_root_bus):
            assert group(alone) == {alone}
        assert group(pair[0]) == set(pair)
        for device in switched:
            assert device in group(device) and len(group(device)) >= 2
        assert set(bridged) < group(bridged[0])
        assert "1234:11e8" in guest.check(f"lspci -n -s {switched[0]}")
        guest.check("modprobe igb")
        for physical, find in ((disk, nvme_vf), (network, igb_vf)):
            Function(guest, physical).make_vfs(2)
            assert group(find(physical)) == {find(physical)}
        bring_vf_online(guest, 1)
        Function(guest, nvme_vf(disk)).bind("nvme")
        guest.check("until grep -q live /sys/class/nvme/nvme1/state; do usleep 20000; done")


def test_linux_networks_reach_each_other(bed):
    machine = Topology()
    network = machine.igb()
    machine.e1000e(peer=network)
    with Guest(bed, "networks", machine.devices, kernel="full", iommu="intel") as guest:
        guest.check("modprobe igb && modprobe e1000e")
        names = guest.check("ls /sys/class/net | grep -v lo").split()
        assert len(names) == 2
        guest.check(f"ip link set {names[0]} up && ip link set {names[1]} up && ip addr add 10.1.0.1/24 dev {names[0]}")
        received = f"cat /sys/class/net/{names[1]}/statistics/rx_packets"
        guest.check(f"ping -c 1 -W 1 10.1.0.2; until [ $({received}) -gt 0 ]; do usleep 50000; "
                    "ping -c 1 -W 1 10.1.0.2; done; true")  # the question for the address arrives


def test_the_own_kernel_has_iommufd_and_ntb_modules(bed, tmp_path):
    machine = Topology()
    disk = machine.nvme(blank_disk(tmp_path / "disk"))
    with Guest(bed, "own-kernel", machine.devices, kernel="own", iommu="intel") as guest:
        guest.check("[ -c /dev/iommu ]")
        Function(guest, disk).bind("vfio-pci")
        guest.check("[ -c /dev/vfio/devices/vfio0 ]")
        guest.check("modprobe ntb_tool && modprobe ntb_transport")


def test_a_virtio_iommu_makes_groups(bed, tmp_path):
    machine = Topology()
    disk = machine.nvme(blank_disk(tmp_path / "disk"))
    with Guest(bed, "virtio-iommu", machine.devices, kernel="full", iommu="virtio") as guest:
        function = Function(guest, disk)
        assert function.group() == {disk}
        function.bind("vfio-pci")
        assert function.driver() == "vfio-pci"


def test_a_disk_is_pulled_out(bed, tmp_path):
    machine = Topology()
    disk = machine.nvme(blank_disk(tmp_path / "disk"), name="disk")
    with Guest(bed, "pulled-out", machine.devices, kernel="full", iommu="intel") as guest:
        assert "NVM" in guest.check(f"lspci -s {disk}")
        guest.qmp("device_del", id="disk")
        guest.event("DEVICE_DELETED", device="disk")
        assert guest.check(f"lspci -s {disk}") == ""


def test_our_programs_lend_a_simulated_disk_within_a_guest(bed):
    with Guest(bed, "seed-session", kernel="full", programs=["ours"]) as guest:
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
        assert nodes.tool(8, "available 9:00.0").status == 3
        nodes.end()

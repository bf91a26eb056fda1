"""vfio/kernel by itself, without nodes: devices bound by hand and driven by vfio_probe, on each way a kernel offers."""

import pytest

from guest import Guest
from lending import Function
from topology import Topology, blank_disk


@pytest.mark.parametrize("kernel, interfaces", [("full", ["type1"]), ("own", ["iommufd", "type1"])],
                         ids=["full", "own"])
def test_devices_bound_by_hand_are_driven_and_let_go(bed, tmp_path, kernel, interfaces):
    topology = Topology()
    nvme, edu_without_reset = topology.nvme(blank_disk(tmp_path / "disk")), topology.edu_on_root_bus()
    with Guest(bed, f"kernel-vfio-{kernel}", topology.devices, kernel=kernel, iommu="intel",
               memory_mib=2048, programs=["ours"]) as guest:
        disk, edu = Function(guest, nvme), Function(guest, edu_without_reset)
        guest.check("modprobe vfio_pci; echo 520 >/proc/sys/vm/nr_hugepages")
        for function in (disk, edu):
            function.bind("vfio-pci")
        for interface in interfaces:
            output = guest.check(f"vfio_probe {disk.where} {interface} {edu.where}")
            assert f"{edu.where}: {interface}" in output  # both were driven, and that way
            hold = guest.start(f"vfio_probe {disk.where} {interface} hold")
            guest.check(f"until grep -q holding {hold.path}.out; do usleep 20000; done")
            guest.check(f"echo {disk.where} >{disk.path}/driver/unbind")  # returns once nobody has it open
            hold.check()
            disk.bind("vfio-pci")

"""The seed's session with a disk of the kernel's: lent, borrowed, driven, taken back, with the data that was written."""

from guest import Guest
from lending import Function, Nodes
from topology import Topology, blank_disk

IN_A_ROW = 60


def test_a_disk_of_this_host_is_lent_and_comes_back_with_its_data(bed, tmp_path):
    machine = Topology()
    disk = machine.nvme(blank_disk(tmp_path / "disk"))
    with Guest(bed, "lending", machine.devices, kernel="full", iommu="intel", programs=["ours"]) as guest:
        function = Function(guest, disk)
        guest.check("mkfs.ext4 -q /dev/nvme0n1 && mount /dev/nvme0n1 /mnt && echo precious >/mnt/file")
        nodes = Nodes(guest)
        nodes.start_pair()
        nodes.check(8, f"add {disk}")
        assert function.driver() == "nvme" and guest.check("cat /mnt/file") == "precious\n"
        assert nodes.state(4, disk) == "unavailable"
        assert nodes.tool(4, "borrow 80000").status == 4

        refused = nodes.tool(8, f"available --yes {disk}")
        assert refused.status == 4 and "/dev/nvme0n1 is mounted on /mnt" in refused.errors, refused
        assert function.driver() == "nvme" and guest.check("cat /mnt/file") == "precious\n"

        guest.check("umount /mnt")
        nodes.check(8, f"available --yes {disk}")
        assert function.driver() == "vfio-pci" and nodes.state(4, disk) == "available"
        assert nodes.json(8, f"show {disk}")["interface"] == "type1"
        # Each program borrows the disk, uses it and gives it back; none is refused: it waits for the end before it.
        guest.check(f"for i in $(seq {IN_A_ROW}); do smartio_nvme --run-dir /run/node4 80000 identify >/dev/null || exit; done",
                    seconds=10 * IN_A_ROW)
        nodes.check(4, "borrow 80000")
        guest.check("head -c 1048576 /dev/urandom >/run/data && "
                    "smartio_nvme --run-dir /run/node4 80000 write 64 </run/data && "
                    "smartio_nvme --run-dir /run/node4 80000 read 64 2048 | cmp - /run/data", seconds=120)

        nodes.check(8, f"unavailable {disk}")  # while it is borrowed
        assert function.driver() == "nvme" and nodes.state(4, disk) == "unavailable"
        guest.check("until [ -b /dev/nvme0n1 ]; do usleep 20000; done; "
                    "dd if=/dev/nvme0n1 bs=512 skip=64 count=2048 2>/dev/null | cmp - /run/data")
        nodes.check(8, f"available --yes {disk}")
        nodes.end()
        assert function.driver() == "nvme"  # an orderly end gives devices back

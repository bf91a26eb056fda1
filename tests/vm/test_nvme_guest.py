"""Unmodified Linux under QEMU drives the simulated disk: attached straight, and borrowed from another node."""

import json

import boot_disk
from guest import Guest
from nvme_checks import (DISK, Claims, check_nvme_disk, files_are_as_they_were, no_complaints, start_load,
                         wait_for_load)
from programs import free_port
from topology import vfio_user

DISK_BYTES = 256 << 20
CLAIMS = Claims(serial="SIM[0-9A-F]{16}", model="smartio simulated NVMe controller", maximum_transfer=1 << 20,
                queue_pairs=64, block_size=512)
COMMANDS = 10_000


def test_linux_uses_the_simulated_disk(bed, programs, tmp_path):
    disk = programs.simulate_nvme("disk", DISK_BYTES)
    with Guest(bed, "simulated-disk", [vfio_user(disk.socket)], programs=["fio"]) as guest:
        check_nvme_disk(guest, disk.file, CLAIMS, tmp_path / "files")
    programs.end()


class Borrowed:
    """A simulated disk that node 8 lends and node 4 has borrowed; guests use LOAN, the loan's socket."""

    def __init__(self, programs):
        self.programs, self.disk = programs, programs.simulate_nvme("disk", DISK_BYTES)
        port = free_port()
        self.lender, self.borrower = programs.start_node(8), programs.start_node(4, f"127.0.0.1:{port}")
        programs.tool(self.lender, "connect", 4, "--address", f"127.0.0.1:{port}")
        programs.tool(self.lender, "add", f"vfio-user:{self.disk.socket}")
        programs.tool(self.lender, "available", "80000")
        self.device, self.loan = programs.tool(self.borrower, "borrow", "80000").splitlines()

    def state(self):
        devices = json.loads(self.programs.tool(self.lender, "list", "--json"))["devices"]
        return next(entry["state"] for entry in devices if entry["id"] == self.device)

    def shown(self):
        return json.loads(self.programs.tool(self.borrower, "show", self.device, "--json"))

    def counters(self):
        return self.programs.counters("disk")


def test_linux_uses_the_borrowed_disk_and_so_does_the_next_guest(bed, programs, tmp_path):
    borrowed = Borrowed(programs)
    with Guest(bed, "borrowed-disk", [vfio_user(borrowed.loan)], programs=["fio"]) as guest:
        check_nvme_disk(guest, borrowed.disk.file, CLAIMS, tmp_path / "files", fio_seconds=4,
                        more=[lambda guest: no_message_for_each_command(guest, borrowed), survives_the_reset_button])
    assert borrowed.state() == "borrowed"  # a loan outlives its client
    # A message for each page that the guest gives to the disk.
    with Guest(bed, "borrowed-disk-iommu", [vfio_user(borrowed.loan)], iommu="intel", programs=["fio"],
               arguments="nvme_core.io_timeout=3 nvme_core.admin_timeout=3") as guest:
        files_are_as_they_were(guest)
        pages_are_mapped_one_by_one(guest, borrowed)
        no_complaints(guest, guest.dmesg())
        survives_that_its_disk_is_taken_back(guest, borrowed)
    programs.tool(borrowed.lender, "available", "80000")
    programs.end()


def no_message_for_each_command(guest, borrowed):
    before = borrowed.counters()
    guest.check(f"fio --name=many --filename={DISK} --rw=randread --bs=4k --ioengine=libaio --direct=1 --iodepth=8 "
                f"--number_ios={COMMANDS}")
    after = borrowed.counters()
    assert after["io_commands"] - before["io_commands"] >= COMMANDS
    assert after["messages"] - before["messages"] < 100, (before, after)


def survives_the_reset_button(guest):
    """In the middle of writes: the file system is repaired from its journal, and what was on it before is there."""
    guest.check(f"mount {DISK} /mnt")
    start_load(guest, 60)
    wait_for_load(guest)
    guest.reset()
    files_are_as_they_were(guest)
    guest.check(f"mount {DISK} /mnt && rm -f /mnt/load && umount /mnt && e2fsck -fn {DISK}")


def pages_are_mapped_one_by_one(guest, borrowed):
    before = borrowed.counters()
    guest.check(f"mount {DISK} /mnt")
    start_load(guest, 3).check()
    guest.check("rm /mnt/load && umount /mnt")
    after = borrowed.counters()
    assert after["messages"] - before["messages"] > after["io_commands"] - before["io_commands"] > 0


def survives_that_its_disk_is_taken_back(guest, borrowed):
    guest.check(f"mount {DISK} /mnt")
    load = start_load(guest, 60)
    wait_for_load(guest)
    borrowed.programs.tool(borrowed.lender, "unavailable", "80000")
    assert borrowed.state() == "unavailable"
    assert load.outcome().status != 0
    assert "I/O error" in guest.dmesg()
    guest.power_off()


def test_firmware_boots_from_the_borrowed_disk(bed, programs):
    borrowed = Borrowed(programs)
    boot_disk.write(borrowed.disk.file)
    for _ in range(2):  # one guest after the other
        said, status = boot_disk.start(bed, {**vfio_user(borrowed.loan), "bootindex": 1})
        assert (said, status) == (boot_disk.SAYS, boot_disk.DONE)
        assert boot_disk.was_written(borrowed.disk.file) and borrowed.state() == "borrowed"
    programs.tool(borrowed.borrower, "return", borrowed.device)
    run = [programs.build / "tools/smartio_tool/smartio_tool", "--run-dir", borrowed.borrower, "run", borrowed.device, "--"]
    said, status = boot_disk.start(bed, {**vfio_user("{socket}"), "bootindex": 1}, under=run)
    assert (said, status) == (boot_disk.SAYS, boot_disk.DONE)
    assert boot_disk.was_written(borrowed.disk.file) and borrowed.state() == "available"
    programs.end()


def test_firmware_without_shared_memory_has_no_disk_and_the_reason_says_what_to_set(bed, programs, tmp_path):
    borrowed = Borrowed(programs)
    boot_disk.write(borrowed.disk.file)
    with boot_disk.launch(bed, vfio_user(borrowed.loan), tmp_path / "serial", shared=False) as qemu:
        try:
            assert any("Unrecoverable error detected" in line for line in qemu.stderr)  # QEMU's word for ERR
            assert "start QEMU with share=on memory" in borrowed.shown()["reason"]
            assert qemu.poll() is None and not boot_disk.was_written(borrowed.disk.file)
        finally:
            qemu.kill()
    programs.end()

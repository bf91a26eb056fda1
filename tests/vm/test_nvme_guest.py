"""Unmodified Linux under QEMU drives the simulated disk: attached straight, and borrowed from another node."""

import json

from guest import Guest
from nvme_checks import Claims, check_nvme_disk
from programs import free_port
from topology import vfio_user

DISK_BYTES = 256 << 20
CLAIMS = Claims(serial="SIM[0-9A-F]{16}", model="smartio simulated NVMe controller", maximum_transfer=1 << 20,
                queue_pairs=64, block_size=512, logs_errors=True)


def test_linux_uses_the_simulated_disk(bed, programs, tmp_path):
    disk = programs.simulate_nvme("disk", DISK_BYTES)
    with Guest(bed, "simulated-disk", [vfio_user(disk.socket)], programs=["fio"]) as guest:
        check_nvme_disk(guest, disk.file, CLAIMS, tmp_path / "files")
    programs.end()


def test_linux_uses_the_borrowed_disk(bed, programs, tmp_path):
    disk = programs.simulate_nvme("disk", DISK_BYTES)
    port = free_port()
    lender, borrower = programs.start_node(8), programs.start_node(4, f"127.0.0.1:{port}")
    programs.tool(lender, "connect", 4, "--address", f"127.0.0.1:{port}")
    programs.tool(lender, "add", f"vfio-user:{disk.socket}")
    programs.tool(lender, "available", "80000")
    device, loan = programs.tool(borrower, "borrow", "80000").splitlines()
    with Guest(bed, "borrowed-disk", [vfio_user(loan)], programs=["fio"]) as guest:
        check_nvme_disk(guest, disk.file, CLAIMS, tmp_path / "files")
    assert state(programs, lender, device) == "borrowed"  # a loan outlives its client
    programs.tool(borrower, "return", device)
    assert state(programs, lender, device) == "available"
    programs.end()


def state(programs, run, device):
    devices = json.loads(programs.tool(run, "list", "--json"))["devices"]
    return next(entry["state"] for entry in devices if entry["id"] == device)

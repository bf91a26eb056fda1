"""The test bed itself, with QEMU's own NVMe controller: if this fails, the bed is broken, not our programs."""

import pytest

from guest import Guest, GuestError
from nvme_checks import Claims, features_agree, identity_is_as_claimed, no_complaints
from topology import blank_disk


@pytest.fixture(scope="module")
def machine(bed, tmp_path_factory):
    """A guest with a disk, and what the disk must say of itself."""
    disk = blank_disk(tmp_path_factory.mktemp("guest") / "disk")
    devices = [f"-drive file={disk},format=raw,if=none,id=disk,cache=unsafe",
               {"driver": "nvme", "serial": "EMULATED", "drive": "disk"}]
    with Guest(bed, "emulated-disk", devices) as guest:
        yield guest, disk.stat().st_size, Claims("EMULATED", "QEMU NVMe Ctrl", 512 << 10, 64, 512)


def test_commands_report_status_output_and_errors(machine):
    guest, _, _ = machine
    outcome = guest.run("echo out; echo err >&2; exit 7")
    assert (outcome.status, outcome.output, outcome.errors) == (7, "out\n", "err\n")
    job = guest.start("sleep 1; echo late")
    assert guest.check("echo early") == "early\n"
    assert job.check() == "late\n"


def test_an_emulated_disk_is_what_it_claims(machine):
    guest, size, claims = machine
    identity_is_as_claimed(guest, size, claims)
    features_agree(guest, claims)
    no_complaints(guest, guest.dmesg())


def test_a_command_past_its_deadline_ends_the_guest_and_names_the_log(machine):
    guest, _, _ = machine
    with pytest.raises(GuestError, match="no answer in time, waiting for: sleep 60\nLog: .*emulated-disk.log"):
        guest.run("sleep 60", seconds=1)
    assert guest.process.wait(10) is not None

"""The test bed itself, with QEMU's own NVMe controller: if this fails, the bed is broken, not our programs."""

import pytest

from guest import Guest, GuestError
from nvme_checks import Claims, features_agree, identity_is_as_claimed, no_complaints


def test_commands_report_status_output_and_errors(bed):
    with Guest(bed, "commands") as guest:
        outcome = guest.run("echo out; echo err >&2; exit 7")
        assert (outcome.status, outcome.output, outcome.errors) == (7, "out\n", "err\n")
        job = guest.start("sleep 1; echo late")
        assert guest.check("echo early") == "early\n"
        assert job.check() == "late\n"
        guest.power_off()


def test_a_command_past_its_deadline_fails_and_names_the_log(bed):
    with pytest.raises(GuestError, match="no answer in time, waiting for: sleep 60\nLog: .*deadline.log"):
        with Guest(bed, "deadline") as guest:
            guest.run("sleep 60", seconds=1)
    assert guest.process.returncode is not None
    guest.log.unlink()


def test_an_emulated_disk_is_what_it_claims(bed, tmp_path):
    disk = tmp_path / "disk"
    with open(disk, "wb") as file:
        file.truncate(256 << 20)
    devices = [f"-drive file={disk},format=raw,if=none,id=disk,cache=unsafe",
               {"driver": "nvme", "serial": "EMULATED", "drive": "disk"}]
    claims = Claims("EMULATED", "QEMU NVMe Ctrl", 512 << 10, 64, 512)
    with Guest(bed, "emulated-disk", devices) as guest:
        identity_is_as_claimed(guest, disk.stat().st_size, claims)
        features_agree(guest, claims)
        no_complaints(guest, guest.dmesg())

# smartio_sim nvme as a program: which disk it is, its shapes, and the faults that its socket takes, as smartio_nvme and
# its exit codes see them.
import json
import os
import shutil
import socket
import subprocess

import pytest

from harness import NVME, SIM, Disk, wait_for


class Shaped(Disk):
    """A simulated disk with more options, and with a socket for faults."""

    def __init__(self, place, name="disk", options=(), before=(), file=None):
        super().__init__(place, name, 16 << 20)
        self.faults, self.before = place / f"{name}.faults", before
        self.options = [*options, "--faults", self.faults]
        self.file = file or self.file

    def launch(self, *command):
        super().launch(*self.before, *command, *self.options)

    def inject(self, line):
        """Gives the answer, by when the fault is in force."""
        with socket.socket(socket.AF_UNIX) as faults:
            faults.connect(str(self.faults))
            faults.sendall(f"{line}\n".encode())
            return faults.makefile().readline().strip()


def nvme(disk, *words, data=b""):
    return subprocess.run([NVME, "--json", disk.device, *map(str, words)], input=data, capture_output=True, timeout=120)


def identity(disk):
    return json.loads(nvme(disk, "identify").stdout)["serial"]


def identity_of(world, **how):
    """Who the disk of a fresh simulator is."""
    disk = world.keep(Shaped(world.place, **how)).start()
    serial = identity(disk)
    assert disk.end() == 0
    return serial


def test_a_file_is_the_same_disk_after_a_restart_and_under_another_name(world):
    disk = world.keep(Shaped(world.place)).start()
    serial = identity(disk)
    disk.end()
    disk.start()
    assert identity(disk) == serial
    disk.end()
    os.rename(disk.file, world.place / "renamed.img")
    assert identity_of(world, name="other", file=world.place / "renamed.img") == serial
    shutil.copyfile(world.place / "renamed.img", disk.file)
    assert identity_of(world, name="copy", file=disk.file) != serial


def test_the_same_path_in_two_containers_is_two_disks(world):
    seen = world.place / "seen"
    seen.mkdir()
    (seen / "disk.img").touch()
    serials = set()
    for container in ("one", "two"):
        own = world.place / container
        own.mkdir()
        (own / "disk.img").write_bytes(bytes(1 << 20))
        before = ["unshare", "--mount", "sh", "-c", f"mount --bind {own} {seen} && exec \"$@\"", "sh"]
        for _ in range(2):  # and each is itself again after a restart
            serials.add((container, identity_of(world, name=container, before=before, file=seen / "disk.img")))
    assert len(serials) == 2 and len({serial for _, serial in serials}) == 2


def test_a_named_identity_goes_from_file_to_file(world):
    named = [identity_of(world, name=name, options=["--identity", "archive"]) for name in ("a", "b")]
    assert named[0] == named[1] != identity_of(world, name="c")


@pytest.mark.parametrize("options", [
    ["--vectors", "0"], ["--vectors", "2049"], ["--vectors", "x"], ["--vectors", ""], ["--vectors", "8", "--no-msix"],
    ["--mqes", "0"], ["--mqes", "65536"], ["--mqes", "-1"], ["--dstrd", "16"], ["--dstrd", "1K"], ["--namespaces", "0"],
    ["--namespaces", "1025"], ["--namespaces", "9"], ["--no-msix", "1"]])
def test_a_shape_that_cannot_be_is_refused_with_one_sentence(world, options):
    file = world.place / "small.img"
    file.write_bytes(bytes(4096))  # 8 blocks
    ran = subprocess.run([SIM, "nvme", "--socket", world.place / "s", "--file", file, *options], capture_output=True,
                         text=True, timeout=60)
    assert ran.returncode == 2 and ran.stdout == "", ran
    assert ran.stderr.startswith("smartio_sim: ") and ran.stderr.count("\n") == 1, ran


@pytest.mark.parametrize("options,entries", [
    (["--mqes", "1"], 2), (["--mqes", "65535"], 1024), (["--dstrd", "4"], 1024), (["--no-msix"], 1024),
    (["--vectors", "1"], 1024), (["--namespaces", "3"], 1024)])
def test_smartio_nvme_drives_controllers_of_other_shapes(world, options, entries):
    disk = world.keep(Shaped(world.place, options=options)).start()
    document = json.loads(nvme(disk, "identify").stdout)
    assert document["queue_entries"] == entries
    assert document["blocks"] == 32768 // (3 if "--namespaces" in options else 1)
    data = os.urandom(300 * 512)
    assert nvme(disk, "write", 5, data=data).returncode == 0
    for more in ([], ["--interrupts"]):
        assert nvme(disk, *more, "read", 5, 300).stdout == data
    assert disk.file.read_bytes()[5 * 512:305 * 512] == data


def test_help_and_unknown_faults(world):
    text = subprocess.run([SIM, "nvme", "--help"], capture_output=True, text=True, timeout=60).stdout
    disk = world.keep(Shaped(world.place)).start()
    for group in ("interrupts pass | lose", "completions pass | hold | delay MILLISECONDS", "controller works | fails | gone",
                  "reads pass | fail", "writes pass | fail | no-space", "flushes pass | fail | lose | hold"):
        assert f"  {group}\n" in text
        word, *states = group.replace(" |", "").split()
        for state in states[::-1]:  # back to normal at the end
            line = {"delay": "delay 1", "MILLISECONDS": "delay 2"}.get(state, state)
            assert disk.inject(f"{word} {line}") == "ok"
    for line in ("", "reads", "reads fail now", "nonsense"):
        assert disk.inject(line) == "unknown"
    assert nvme(disk, "read", 0, 8).returncode == 0


@pytest.mark.parametrize("fault,code,says", [
    ("reads fail", 1, b"unrecovered read error"), ("controller gone", 4, b"all ones"),
    ("controller fails", 1, b"fatal")])
def test_faults_of_a_read_have_their_exit_codes(world, fault, code, says):
    disk = world.keep(Shaped(world.place)).start()
    assert disk.inject(fault) == "ok"
    ran = nvme(disk, "read", 0, 8)
    assert ran.returncode == code and says in ran.stderr, ran


@pytest.mark.parametrize("fault,says", [("writes no-space", b"capacity exceeded"), ("writes fail", b"write fault")])
def test_a_full_disk_and_a_broken_one_are_told_apart(world, fault, says):
    disk = world.keep(Shaped(world.place)).start()
    assert disk.inject(fault) == "ok"
    ran = nvme(disk, "write", 0, data=bytes(512))
    assert ran.returncode == 1 and says in ran.stderr, ran
    assert disk.inject("writes pass") == "ok"
    assert nvme(disk, "write", 0, data=bytes(512)).returncode == 0


def test_what_is_written_is_flushed_and_a_failed_flush_is_never_forgotten(world):
    disk = world.keep(Shaped(world.place)).start()
    assert nvme(disk, "write", 0, data=bytes(512)).returncode == 0
    assert disk.counters()["flushes"] == 1
    disk.inject("flushes lose")
    assert nvme(disk, "write", 0, data=bytes(512)).returncode == 0
    assert disk.counters()["lost_flushes"] == 1
    disk.inject("flushes fail")
    assert b"write fault" in nvme(disk, "write", 0, data=bytes(512)).stderr
    disk.inject("flushes pass")
    ran = nvme(disk, "write", 0, data=bytes(512))  # another client, a fresh controller
    assert ran.returncode == 1 and b"write fault" in ran.stderr
    assert disk.counters()["failed_commands"] >= 2
    assert disk.end() == 0
    disk.start()
    assert nvme(disk, "write", 0, data=bytes(512)).returncode == 0


def test_a_held_flush_does_not_keep_the_program_from_ending(world):
    disk = world.keep(Shaped(world.place)).start()
    disk.inject("flushes hold")
    writing = subprocess.Popen([NVME, disk.device, "write", "0"], stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    writing.stdin.write(bytes(512))
    writing.stdin.close()
    wait_for(lambda: disk.counters()["io_commands"] >= 2, "the flush is under way")
    assert disk.end() == 0
    assert writing.wait(60) == 4
    writing.stderr.close()

# smartio_nvme against a simulated disk, straight: data, polling without messages, interrupts, bad input, and disks that
# go away.
import json
import os
import signal
import subprocess
import time

import pytest

from harness import NVME, PATIENCE, Process, check, run, sanitized, wait_for

BLOCK = 512


class Ran:
    """How one run of smartio_nvme ended; standard output is bytes."""

    def __init__(self, done):
        self.exit, self.out, self.err = done.returncode, done.stdout, done.stderr.decode()

    def __repr__(self):
        return f"exit {self.exit}\nstdout: {self.out[:500]}\nstderr: {self.err}"

    def ok(self):
        assert self.exit == 0 and self.err == "", self
        return self.out

    def failed(self, code):
        """Fails unless the run ended with `code` and one sentence; gives the sentence."""
        assert self.exit == code and self.err.startswith("smartio_nvme: ") and self.err.count("\n") == 1, self
        return self.err[len("smartio_nvme: "):-1]


def nvme(*words, data=b"", stdin=None, env=None):
    given = {"stdin": stdin} if stdin is not None else {"input": data}
    return Ran(run(NVME, *words, env={**os.environ, **(env or {})}, **given))


def background(*words):
    return Process(NVME, *words, stdout=subprocess.PIPE)


def test_64_mib_are_identical_read_back_and_in_the_file(world):
    disk = world.disk(size=80 << 20)
    data = os.urandom(64 << 20)
    nvme(disk.device, "write", 0, data=data).ok()
    assert disk.file.read_bytes()[:64 << 20] == data
    assert nvme(disk.device, "read", 0, (64 << 20) // BLOCK).ok() == data
    assert nvme("--interrupts", disk.device, "read", 1001, 2999).ok() == data[1001 * BLOCK:4000 * BLOCK]


@pytest.mark.parametrize("blocks", [1, 8, 9, 16, 17, 511, 512, 513, 5000])
def test_transfers_of_every_shape_touch_only_their_blocks(world, blocks):
    disk = world.disk(size=4 << 20)
    before, data = os.urandom(4 << 20), os.urandom(blocks * BLOCK)
    disk.file.write_bytes(before)
    nvme(disk.device, "write", 7, data=data).ok()
    assert disk.file.read_bytes() == before[:7 * BLOCK] + data + before[(7 + blocks) * BLOCK:]
    assert nvme(disk.device, "read", 7, blocks).ok() == data


def test_identify_says_what_the_disk_is(world):
    disk = world.disk(size=16 << 20)
    text = nvme(disk.device, "identify").ok().decode()
    assert "32768 blocks of 512 bytes" in text
    document = check(json.loads(nvme("--json", disk.device, "identify").ok()), "nvme_identify")
    assert (document["blocks"], document["block_bytes"]) == (32768, 512)
    assert document["model"] and document["queue_entries"] >= 64


def test_polled_io_sends_no_message(world):
    disk = world.disk()
    running = background(disk.device, "bench", "--qd", 1, "--seconds", 120)
    try:
        wait_for(lambda: disk.counters()["commands"] > 100, "the benchmark is under way")
        first = disk.counters()
        second = wait_for(lambda: (now := disk.counters())["commands"] > first["commands"] + 1000 and now,
                          "1000 more commands", seconds=60)
        assert running.poll() is None, "the benchmark ended too early to say anything"
        assert second["messages"] == first["messages"]
    finally:
        running.kill()
        running.wait()
    wait_for(lambda: nvme(disk.device, "identify").exit == 0, "the disk serves its next client")
    assert disk.counters()["messages"] > second["messages"]  # what counts messages does count


@pytest.mark.parametrize("options", [["--qd", 32], ["--interrupts"], ["--interrupts", "--qd", 8, "--bs", "64K"],
                                     ["--rw", "randwrite", "--bs", 512, "--qd", 4]])
def test_bench_does_exactly_as_many_commands_as_asked(world, options):
    disk = world.disk()
    document = check(json.loads(nvme("--json", disk.device, "bench", "--commands", 500, *options).ok()), "nvme_bench")
    assert document["commands"] == 500
    assert document["interrupts"] == ("--interrupts" in options)
    latency = document["latency_us"]
    assert 0 < latency["min"] <= latency["median"] <= latency["p99"] <= latency["max"]
    text = nvme(disk.device, "bench", "--commands", 10, *options).ok().decode()
    assert "10 commands" in text and "IOPS" in text


def test_a_bench_of_a_second_takes_a_second(world):
    disk = world.disk()
    document = json.loads(nvme("--json", disk.device, "bench", "--seconds", 1).ok())
    assert 0.9 < document["seconds"] and (sanitized() or document["seconds"] < 3)


def test_input_that_is_not_whole_blocks_is_refused(world, tmp_path):
    disk = world.disk(size=1 << 20)
    before = os.urandom(1 << 20)
    disk.file.write_bytes(before)
    assert "whole blocks of 512" in nvme(disk.device, "write", 0, data=b"x" * 700).failed(2)
    odd = tmp_path / "odd"
    odd.write_bytes(b"x" * (600_000 + 1))
    with open(odd, "rb") as file:
        nvme(disk.device, "write", 0, stdin=file).failed(2)
    assert disk.file.read_bytes() == before
    assert nvme(disk.device, "write", 0, data=b"").ok() == b""


def test_blocks_that_are_not_there_are_refused(world, tmp_path):
    disk = world.disk(size=1 << 20)
    before = disk.file.read_bytes()
    for words in (("read", 2048, 1), ("read", 0, 2049), ("read", 2**64 - 1, 2), ("read", 0, 2**64 - 1), ("read", 0, 0),
                  ("write", 2049)):
        nvme(disk.device, *words, data=b"").failed(2)
    nvme(disk.device, "write", 2047, data=b"x" * 1024).failed(2)
    large = tmp_path / "large"
    large.write_bytes(b"x" * ((1 << 20) + 512))
    with open(large, "rb") as file:
        assert "does not fit" in nvme(disk.device, "write", 0, stdin=file).failed(2)
    assert disk.file.read_bytes() == before


@pytest.mark.parametrize("words", [
    [], ["vfio-user:/x"], ["vfio-user:/x", "frobnicate"], ["vfio-user:/x", "read", 0], ["vfio-user:/x", "read", 0, 1, 2],
    ["vfio-user:/x", "read", "zero", 1], ["vfio-user:/x", "read", "-1", 1], ["vfio-user:/x", "read", 0, "0x10"],
    ["vfio-user:/x", "write", 2**64], ["vfio-user:/x", "bench", "--qd", "many"], ["vfio-user:/x", "bench", "--rw", "seq"],
    ["vfio-user:/x", "bench", "--bs", "4Q"], ["vfio-user:/x", "bench", "--seconds", 0], ["vfio-user:/x", "bench", "--qd"],
    ["vfio-user:/x", "identify", "--loud"], ["nvme0", "identify"], ["", "identify"], ["80000000000", "identify"],
    ["vfio-user:", "identify"]])
def test_wrong_arguments_get_one_sentence(words):
    nvme(*words).failed(2)


def test_help_needs_no_device():
    assert b"identify" in nvme("--help").ok()


def test_bench_limits_are_the_devices(world):
    disk = world.disk(size=1 << 20)
    for options in (["--bs", 100], ["--bs", 0], ["--bs", "1G"], ["--qd", 0], ["--qd", 100000]):
        nvme(disk.device, "bench", *options).failed(2)


def test_devices_that_are_not_there_are_exit_6_or_3(world):
    nvme("vfio-user:" + str(world.place / "nothing"), "identify").failed(6)
    nvme("vfio-user:/etc/passwd", "identify").failed(6)
    assert "smartiod" in nvme("80002", "identify", env={"SMARTIO_RUN_DIR": str(world.place)}).failed(6)
    failed = nvme("--json", "vfio-user:/etc/passwd", "identify")
    assert check(json.loads(failed.out), "error")["error"]["exit"] == 6


def test_a_second_client_is_told_that_the_disk_is_in_use(world):
    disk = world.disk()
    running = background(disk.device, "bench", "--seconds", 60)
    try:
        wait_for(lambda: disk.counters()["commands"] > 0, "the benchmark is under way")
        nvme(disk.device, "identify").failed(4)
    finally:
        running.kill()
        running.wait()
    wait_for(lambda: nvme(disk.device, "identify").exit == 0, "the disk serves its next client")


@pytest.mark.parametrize("options", [[], ["--interrupts"], ["--qd", 16]])
def test_a_disk_that_dies_under_way_is_exit_4(world, options):
    disk = world.disk()
    running = background(disk.device, "bench", "--seconds", 60, *options)
    try:
        wait_for(lambda: disk.counters()["commands"] > 100, "the benchmark is under way")
        disk.kill()
        began = time.monotonic()
        out = running.communicate(timeout=PATIENCE)[0]
        assert sanitized() or time.monotonic() - began < 5
        assert running.returncode == 4 and "taken back" in running.text() and out == b""
    finally:
        running.kill()
        running.wait()


def test_a_reader_that_goes_away_is_an_error_and_the_disk_is_left_in_order(world):
    disk = world.disk()
    running = background(disk.device, "read", 0, 32768)
    running.stdout.close()
    assert running.wait(PATIENCE) == 1
    assert "Broken pipe" in running.text()
    nvme(disk.device, "identify").ok()

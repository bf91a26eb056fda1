# smartio_sim as a program: its command line, its signals, and what clients leave behind, however they end.
import os
import pathlib
import signal
import socket
import subprocess
import time

import pytest

from harness import NVME, SIM, Process, answers, run, sanitized, wait_for

MIB = 1 << 20


def sim(*words):
    return run(SIM, *words, text=True)


def refused(ran, code):
    """Fails unless the run ended with `code` and one sentence; gives the sentence."""
    assert ran.returncode == code and ran.stdout == "", ran
    assert ran.stderr.startswith("smartio_sim: ") and ran.stderr.count("\n") == 1, ran
    return ran.stderr[len("smartio_sim: "):-1]


def client(disk, *words):
    return Process(NVME, disk.device, *words)


def holdings(disk):
    """What the simulator holds: open descriptors, and kilobytes of memory of its own."""
    process = pathlib.Path(f"/proc/{disk.process.pid}")
    rollup = (process / "smaps_rollup").read_text()
    private = sum(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Private_Dirty"))
    maps = len((process / "maps").read_text().splitlines())
    return len(os.listdir(process / "fd")), maps, private


def processor_seconds(disk):
    fields = pathlib.Path(f"/proc/{disk.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def sleeps(disk):
    text = pathlib.Path(f"/proc/{disk.process.pid}/status").read_text()
    return int(text.split("\nvoluntary_ctxt_switches:")[1].split()[0])


def test_a_client_killed_in_mid_io_leaves_nothing_behind_50_times(world):
    disk = world.disk()
    holds = []
    for round in range(50):
        commands = disk.counters()["io_commands"]
        load = client(disk, "bench", "--rw", "randwrite", "--qd", 32, "--seconds", 60,
                      *(["--interrupts"] if round % 2 else []))
        wait_for(lambda: disk.counters()["io_commands"] > commands + 100, "the client is in mid-I/O")
        load.kill()
        load.wait()
        # The next client is served at once.
        run(NVME, disk.device, "identify", check=True)
        wait_for(lambda: disk.counters()["windows"] == 0, "the client's end is noticed")
        holds.append(holdings(disk))
    assert disk.counters()["clients"] == 100
    descriptors, mappings, private = zip(*holds)
    assert descriptors[-1] == descriptors[4]
    assert sanitized() or mappings[-1] <= mappings[4] + 2
    assert sanitized() or private[-1] <= private[4] + 256
    assert disk.end() == 0


def test_every_bad_command_line_is_exit_2_and_one_sentence(world):
    disk, gone = world.place / "present", world.place / "gone"
    disk.write_bytes(bytes(4096))
    path = world.place / "x.sock"
    both = ["nvme", "--socket", path, "--file", disk]
    for words in ([], ["nmve"], ["ntb", "--socket", path], ["--socket", path], ["nvme"], ["nvme", "--socket", path],
                  ["nvme", "--file", disk], ["nvme", "--socket", "", "--file", disk], [*both, "more"],
                  [*both, "--frobnicate"], [*both, "--siz", "1M"], [*both, "--socket", path], [*both, "--size"],
                  [*both, "--size", "0"], [*both, "--size", "1000"], [*both, "--size", "-512"],
                  [*both, "--size", "1T1"], [*both, "--size", "99999999999999999999"],
                  [*both, "--block-size", "1024"], [*both, "--block-size", "0"], [*both, "--block-size", "x"],
                  ["nvme", "--socket", path, "--file", "/dev/null"]):
        refused(sim(*words), 2)
    assert refused(sim("nvme", "--socket", path, "--file", gone), 2) == f"{gone} does not exist; --size creates it."
    assert not gone.exists() and not path.exists()
    (world.place / "odd").write_bytes(bytes(1000))
    assert "whole number of blocks" in refused(sim("nvme", "--socket", path, "--file", world.place / "odd"), 2)


def test_help_and_version():
    assert "nvme" in sim("--help").stdout
    assert "--block-size" in sim("nvme", "--help").stdout
    assert sim("--version").stdout.startswith("smartio_sim ")


def test_a_file_or_socket_in_use_is_refused(world):
    disk = world.disk()
    other = world.place / "other.img"
    assert "in use" in refused(sim("nvme", "--socket", world.place / "y.sock", "--file", disk.file), 4)
    refused(sim("nvme", "--socket", disk.socket, "--file", other, "--size", "1M"), 4)
    plain = world.place / "plain"
    plain.write_text("precious")
    refused(sim("nvme", "--socket", plain, "--file", other), 2)
    assert plain.read_text() == "precious"
    assert sim("nvme", "--socket", world.place / "no" / "dir.sock", "--file", other).returncode == 1
    assert disk.counters()["clients"] == 0


def test_size_makes_and_extends_but_never_cuts(world):
    file, path = world.place / "made.img", world.place / "made.sock"

    def size_after(*words):
        program = Process(SIM, "nvme", "--socket", path, "--file", file, *words, stdout=subprocess.PIPE, text=True)
        assert program.stdout.readline() == f"ready {path}\n"
        program.send_signal(signal.SIGINT)
        assert program.wait(60) == 0
        assert not path.exists()
        return file.stat().st_size

    assert size_after("--size", "1M") == MIB
    assert size_after("--size", "3M", "--block-size", "4096") == 3 * MIB
    assert size_after("--size", "512") == 3 * MIB
    assert size_after() == 3 * MIB


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_cleanly_in_mid_io(world, how):
    disk = world.disk()
    load = client(disk, "bench", "--qd", 8, "--seconds", 60)
    wait_for(lambda: disk.counters()["io_commands"] > 100, "the client is in mid-I/O")
    assert disk.end(how) == 0
    assert not disk.socket.exists()
    load.wait(60)


def test_a_stale_socket_is_replaced_after_a_crash(world):
    disk = world.disk()
    disk.kill()
    assert disk.socket.exists() and not answers(disk.socket)
    disk.start()
    run(NVME, disk.device, "identify", check=True)


def test_without_a_client_it_sleeps(world):
    disk = world.disk()
    run(NVME, disk.device, "identify", check=True)
    wait_for(lambda: disk.counters()["windows"] == 0, "the client's end is noticed")
    before = sleeps(disk)
    time.sleep(1)  # no event tells that nothing happens
    assert sleeps(disk) - before <= 1


def test_an_idle_client_costs_little(world):
    disk = world.disk()
    load = client(disk, "bench", "--qd", 1, "--seconds", 60)
    wait_for(lambda: disk.counters()["io_commands"] > 100, "the client is in mid-I/O")
    load.send_signal(signal.SIGSTOP)  # its controller stays enabled
    time.sleep(0.1)
    used = processor_seconds(disk)
    slept = sleeps(disk)
    time.sleep(1)
    assert sanitized() or processor_seconds(disk) - used < 0.3
    assert sleeps(disk) - slept < 1500
    commands = disk.counters()["io_commands"]
    load.send_signal(signal.SIGCONT)
    wait_for(lambda: disk.counters()["io_commands"] > commands + 100, "work goes on")
    load.kill()
    load.wait()


def test_connections_that_say_nothing_or_nonsense_do_not_keep_clients_out(world):
    disk = world.disk()
    silent = [socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) for _ in range(20)]
    for connection in silent:
        connection.connect(str(disk.socket))
    silent[0].sendall(b"\xff" * 64)
    run(NVME, disk.device, "identify", check=True)
    for connection in silent:
        connection.close()
    wait_for(lambda: holdings(disk)[0] < 25, "their descriptors are closed")
    run(NVME, disk.device, "identify", check=True)

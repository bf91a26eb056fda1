# Standard streams that are closed, full, or have lost their reader: what goes on goes on, nothing is printed into a
# file that is not for it, and output that was asked for and cannot be written is one sentence and exit 1.
import contextlib
import fcntl
import os
import signal
import subprocess
import time

import pytest

from fake_daemon import FakeDaemon
from harness import NVME, SIM, SMARTIOD, TOOL, Disk, Process, run, tool, wait_for

LOST = {">&-": "Bad file descriptor", ">/dev/full": "No space left", "|": "Broken pipe"}
ALL_CLOSED = "<&- >&- 2>&-"


def sh(redirections):
    """What goes before a command so that the shell gives it these."""
    return ["sh", "-c", f'exec "$@" {redirections}', "sh"]


@contextlib.contextmanager
def no_reader():
    """A pipe whose reader has gone."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        yield writer
    finally:
        os.close(writer)


def run_to(stream, lost, *command, **options):
    """Runs the command with that stream lost."""
    if lost == "|":
        with no_reader() as writer:
            return run(*command, **{"text": True, stream: writer, **options})
    return run(*sh(lost if stream == "stdout" else "2" + lost), *command, **{"text": True, **options})


def standard_files(program):
    return [os.readlink(f"/proc/{program.process.pid}/fd/{number}") for number in range(3)]


@pytest.fixture
def daemon(world):
    """Starts a fake daemon; gives the option that leads to it."""
    started = []

    def start(answer):
        started.append(FakeDaemon(world.place, answer))
        return ["--run-dir", world.place]
    yield start
    for each in started:
        each.end()


def no_devices(command, arguments):
    return {"result": {"schema_version": 1, "devices": [], "device": "80002", "socket": "/s"}, "note": "A note."}


# Output that was asked for

HELP = [[SMARTIOD, "--help"], [SMARTIOD, "--version"], [SIM, "--help"], [SIM, "--version"], [SIM, "nvme", "--help"],
        [SIM, "ntb", "--help"], [TOOL, "--help"], [TOOL, "--version"], [TOOL, "--json", "help", "list"], [NVME, "--help"]]


@pytest.mark.parametrize("lost", LOST)
@pytest.mark.parametrize("command", HELP, ids=lambda command: "-".join([command[0].name, *command[1:]]))
def test_help_that_cannot_be_written_is_exit_1_and_one_sentence(command, lost):
    ran = run_to("stdout", lost, *command)
    assert ran.returncode == 1, ran
    assert ran.stderr == f"{command[0].name}: write to standard output: {ran.stderr.split(': ')[-1]}", ran
    assert LOST[lost] in ran.stderr and ran.stderr.count("\n") == 1, ran


@pytest.mark.parametrize("lost", LOST)
def test_a_result_that_cannot_be_written_is_exit_1_and_one_sentence(world, daemon, lost):
    option = daemon(lambda command, arguments: {"result": {"schema_version": 1, "devices": [], "options": {"a": "b"}}})
    for words in (["config"], ["--json", "config"], ["--json", "list"]):
        ran = run_to("stdout", lost, TOOL, *option, *words)
        assert ran.returncode == 1 and LOST[lost] in ran.stderr and ran.stderr.count("\n") == 1, ran
    disk = world.disk()
    for words in (["identify"], ["--json", "identify"], ["read", 0, 1], ["bench", "--seconds", 1]):
        ran = run_to("stdout", lost, NVME, disk.device, *words)
        assert ran.returncode == 1 and LOST[lost] in ran.stderr and ran.stderr.count("\n") == 1, ran


def test_input_that_is_closed_is_not_empty(world):
    disk = world.disk()
    ran = run(*sh("<&-"), NVME, disk.device, "write", 0, text=True)
    assert ran.returncode == 1 and "read from standard input: Bad file descriptor" in ran.stderr, ran


def test_input_waits_for_a_writer_that_made_the_pipe_non_blocking(world):
    disk = world.disk()
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    with Process(NVME, disk.device, "write", 0, stdin=reader) as writing, os.fdopen(writer, "wb", buffering=0) as end:
        os.close(reader)
        wait_for(lambda: disk.counters()["admin_commands"] > 3, "it has started")
        for _ in range(4):
            end.write(b"word" * 128)
            time.sleep(0.05)
        end.close()
        assert writing.wait() == 0, writing.text()
    assert disk.file.read_bytes()[:2048] == b"word" * 512


def test_output_waits_for_a_reader_that_made_the_pipe_non_blocking(world):
    disk = world.disk()
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with Process(NVME, disk.device, "read", 0, 1024, stdout=writer) as reading, os.fdopen(reader, "rb") as end:
        os.close(writer)
        blank = end.read() == bytes(1024 * 512)
        assert blank and reading.wait() == 0


# Standard error

FAILING = [([SMARTIOD, "--node", "0"], 2), ([SMARTIOD, "--nonsense"], 2), ([SIM, "--nonsense"], 2), ([SIM], 2),
           ([TOOL, "nonsense"], 2), ([TOOL, "--run-dir", "/nowhere", "list"], 6), ([NVME, "--nonsense"], 2),
           ([NVME, "vfio-user:/nowhere", "identify"], 6)]


@pytest.mark.parametrize("lost", LOST)
@pytest.mark.parametrize("command, code", FAILING)
def test_exit_codes_are_the_same_where_nobody_hears_the_sentence(command, code, lost):
    assert run_to("stderr", lost, *command).returncode == code
    assert run(*sh(ALL_CLOSED), *command).returncode == code


@pytest.mark.parametrize("lost", LOST)
def test_a_note_that_cannot_be_written_is_no_failure(world, daemon, lost):
    option = daemon(no_devices)
    ran = run_to("stderr", lost, TOOL, *option, "borrow", "80002")
    assert ran.returncode == 0 and ran.stdout == "80002\n/s\n", ran
    assert run_to("stderr", lost, TOOL, *option, "run", "80002", "sh", "-c", "exit 7").returncode == 7
    assert run_to("stderr", lost, TOOL, *option, "run", "80002", "no-such-program").returncode == 127


def test_the_command_of_run_has_its_signals_and_closed_descriptors_as_they_were(world, daemon):
    option = daemon(no_devices)
    for name in ("PIPE", "XFSZ"):
        command = [TOOL, *option, "run", "80002", "sh", "-c", f"kill -{name} $$; exit 3"]
        assert run(*command).returncode == 128 + getattr(signal, f"SIG{name}")
        assert run("sh", "-c", f'trap "" {name}; exec "$@"', "sh", *command).returncode == 3
    printing = [TOOL, *option, "run", "80002", "sh", "-c", "echo word || exit 9"]
    assert run(*sh(">&-"), *printing).returncode == 9


# What goes on

STREAMS = ["<&-", ">&-", "2>&-", ALL_CLOSED, ">/dev/full 2>/dev/full"]


@pytest.mark.parametrize("streams", STREAMS)
def test_smartiod_goes_on_and_ends_well(world, streams):
    node = world.node(8, start=False)
    node.wrapper = sh(streams)
    node.start()
    for number, closed in enumerate(["<&-", ">&-", "2>&-"]):
        assert closed not in streams.split() or standard_files(node)[number] == "/dev/null"
    node.tool("config", "ntb", "vfio-user:/nowhere")  # which is logged
    node.ok("status")
    node.end()


def test_smartiod_goes_on_when_the_reader_of_its_log_has_gone(world):
    node = world.node(8, start=False)
    reader, writer = os.pipe()
    node.launch = lambda *command: type(node).launch(node, *command, stderr=writer, stdout=writer)
    node.start()
    os.close(writer)
    os.close(reader)
    for bridge in ("vfio-user:/nowhere", "vfio-user:/nowhere/else"):
        node.ok("config", "ntb", bridge)
    node.ok("status")
    node.end()


def test_smartiod_goes_on_when_the_reader_of_its_log_stands_still(world):
    node = world.node(8, start=False)
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    node.launch = lambda *command: type(node).launch(node, *command, stderr=writer)
    node.start()
    os.close(writer)
    for number in range(100):
        node.ok("config", "ntb", f"vfio-user:/nowhere/{number}")
    node.ok("status")
    os.set_blocking(reader, False)
    assert os.read(reader, 65536).endswith(b"\n"), "lines are whole"
    node.ok("config", "ntb", "vfio-user:/nowhere/else")
    with os.fdopen(reader, "rb", buffering=0) as log:
        said = []
        wait_for(lambda: said.append(log.read()) or b"lines could not be logged\n" in b"".join(filter(None, said)),
                 "it says how many were lost")
        node.end()


def test_smartiod_goes_on_when_its_log_is_a_file_at_its_size_limit(world):
    node = world.node(8, start=False)
    (world.place / "full.log").write_bytes(bytes(65536))
    node.wrapper = ["sh", "-c", f'ulimit -f 64; exec "$@" 2>>{world.place}/full.log', "sh"]
    node.start()
    node.ok("config", "ntb", "vfio-user:/nowhere")
    node.ok("status")
    node.end()


@pytest.mark.parametrize("value", ["", "@", "/nowhere", "nonsense", "@nobody", "/", "/dev/null", "x" * 107, "x" * 108, "\udcff"])
def test_a_socket_to_notify_that_is_none_is_nobodys_trouble(world, value):
    node = world.node(8, start=False)
    node.wrapper = ["env", os.fsencode(f"NOTIFY_SOCKET={value}")]
    node.start()
    node.end()


def counts(disk):
    """Asks for the counters, which are printed by when a client has been served twice: the loop takes turns."""
    disk.process.send_signal(signal.SIGUSR1)
    for _ in range(2):
        run(NVME, disk.device, "identify", check=True)


@pytest.mark.parametrize("streams", STREAMS)
def test_a_simulated_disk_goes_on_and_prints_nothing_into_its_image(world, streams):
    disk = world.keep(Disk(world.place, "disk", 1 << 20))
    disk.launch = lambda *command: Disk.launch(disk, *sh(streams), *command)
    disk.counters = lambda: {"windows": 0}  # nobody reads them
    disk.start()
    counts(disk)
    blank = disk.file.read_bytes() == bytes(1 << 20)
    assert blank, "there is something in the image"
    disk.end()
    if "2>" not in streams:
        missing = disk.text().count("smartio_sim: write to standard output: ")
        assert missing == (2 if ">" in streams else 0), disk.text()  # the line "ready", and the counters


@pytest.mark.parametrize("streams", STREAMS)
def test_a_simulated_bridge_goes_on(world, streams):
    bridge = world.bridge()
    bridge.end()
    bridge.launch = lambda *command: type(bridge).launch(bridge, *sh(streams), *command)
    bridge.start()
    bridge.process.send_signal(signal.SIGUSR1)
    bridge.end()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
def test_a_simulated_disk_counts_again_when_its_full_output_has_room(world):
    place = world.place / "small"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8k", "none", place], capture_output=True).returncode != 0:
        pytest.skip("nothing can be mounted here")
    try:
        (place / "filler").write_bytes(bytes(8192))
        disk = world.keep(Disk(world.place, "disk", 1 << 20))
        disk.launch = lambda *command: Disk.launch(disk, *sh(f">>{place}/output"), *command)
        disk.start()
        wait_for(lambda: "ready" not in disk.text() and "No space left" in disk.text(), "it says that there is no room")
        (place / "filler").unlink()
        disk.process.send_signal(signal.SIGUSR1)
        wait_for(lambda: (place / "output").read_text().endswith("}\n"), "the counters are printed")
        assert (place / "output").read_text().startswith('{"messages":'), "what failed before is not printed late"
        disk.counters = lambda: {"windows": 0}
        disk.end()
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)

# smartio_tool by itself: its command line, help, exit codes, text and JSON, against a fake daemon.
import json
import os
import pty
import select
import signal
import subprocess

import pytest

from control import frame
from fake_daemon import FakeDaemon
from harness import TOOL, Process, check, default_signals, sanitized, tool
from harness import run as run_command

COMMANDS = ["connect", "disconnect", "add", "remove", "available", "unavailable", "list", "show", "borrow", "return",
            "status", "monitor", "config", "scan", "add-filter", "available-filter", "unavailable-filter", "remove-filter",
            "filters", "lspci", "run"]

DISK = {"id": "80000", "node": 8, "address": "vfio-user:/d.sock", "bdf": None, "class": "010802", "vendor": "8086",
        "device": "f1a5", "name": "Non-Volatile memory controller: Intel Corporation Device f1a5",
        "state": "available", "borrower": None, "reachable": True}
LOAN = {"device": "80000", "borrower": 4, "epoch": 1, "shared": False, "client": None, "pid": None, "socket": None,
        "access": None, "windows": 0, "window_bytes": 0, "vectors": 0}
SHOWN = {"schema_version": 1, "device": DISK, "reason": None,
         "bars": [{"bar": 0, "size": 16384, "mapped_bytes": 4096}], "vectors": 65, "iommu_group": None,
         "interface": "vfio-user", "driver": None, "fabric": "local", "loan": LOAN, "counters": {}}
STATUS = {"schema_version": 1, "node": 8, "version": "0.1.0",
          "peers": [{"node": 4, "address": "127.0.0.1:7808", "role": "borrower", "state": "up",
                     "since": "2026-01-01T00:00:00Z"}],
          "fabrics": [{"kind": "local", "peer": 4, "address": None, "state": "up", "reason": None, "aperture_bytes": 0, "used_bytes": 0}],
          "devices": [DISK], "loans": [LOAN], "filters": [], "removed": [], "seq": 9, "unsaved": None, "counters": {"requests": 7}}
FILTERS = {"schema_version": 1, "filters": [{"ids": "::0108", "slot": "", "available": False},
                                            {"ids": "10de::", "slot": "1:", "available": True}],
           "removed": ["0000:06:00.0"]}


def result(**members):
    return {"result": members}


@pytest.fixture
def daemon(world):
    """Starts a fake daemon that answers by the function given; gives a function that runs the tool on it."""
    started = []

    def start(answer):
        started.append(FakeDaemon(world.place, answer))

        def run(*words, **more):
            return tool(*words, run_dir=world.place, **more)
        run.requests = started[-1].requests
        return run
    yield start
    for each in started:
        each.end()


# Usage

@pytest.mark.parametrize("words", [
    [], ["nonsense"], ["lspci"], ["lspci", "80000", "--raw", "--emulated"], ["lspci", "--nothing", "80000"], ["restart"],
    ["add-filter"], ["add-filter", "-d"], ["add-filter", "::0108"], ["list", "-d", "::0108"], ["lis"], [""], ["list", "80000"],
    ["add"], ["connect"], ["connect", "0"], ["connect", "65536"], ["connect", "-1"], ["connect", "4x"], ["connect", ""],
    ["connect", "4", "5"], ["connect", "4", "--shared"], ["list", "--force"], ["list", "--jso"], ["list", "--nothing"],
    ["list", "--json=1"], ["borrow", "80000", "12Q"], ["borrow", "80000", "99999999999G"], ["borrow", "80000", "-5"],
    ["borrow", "80000", "--owner"], ["return", "8"], ["return", "xyz"], ["return", "100000000"], ["return", ""],
    ["add", "vfio-user:"], ["add", "zz:00.0"],
    ["add", "06:00.8"], ["add", "06:20.0"], ["add", "100:00.0"], ["add", "1:2:3:4.0"], ["add", "06:00.0x"],
    ["add", "100000000:06:00.0"], ["add", "vfio:/d.sock"], ["list", "--run-dir"], ["--run-dir", "/a", "list", "--run-dir", "/b"],
    ["run"], ["run", "80000"], ["run", "80000", "--"], ["run", "--nothing", "80000", "true"], ["run", "xyz", "true"],
    ["run", "80000", "--force", "true"], ["run", "80000", "--owner"],
    ["config", "a", "b", "c"], ["help", "nonsense"], ["nonsense", "--help"], ["list", "--run-dir", "/" + "x" * 200]])
def test_what_cannot_be_meant_is_refused_with_exit_2_and_one_sentence(words):
    if not sanitized():  # what a sanitizer sees is the same
        assert len(tool(*words).failed(2)) > 10
    ran = tool("--json", *words)
    assert ran.exit == 2
    document = ran.json("error")
    assert document["error"]["exit"] == 2 and document["error"]["message"] + "\n" in ran.err


def test_help_names_every_command_and_each_has_its_own():
    everything = tool("help")
    assert everything.exit == 0 and everything.err == ""
    assert tool("--help").out == everything.out
    for command in COMMANDS:
        assert f"\n  {command} " in everything.out
        one = tool("help", command)
        assert one.exit == 0 and one.out.startswith(f"Usage: smartio_tool {command}")
        assert tool(command, "--help").out == tool("--help", command).out == one.out
        assert all(option in one.out for option in ["--run-dir", "--json", "--yes"])
    assert tool("help", "borrow", "--json").json("result")["help"] == tool("help", "borrow").out


def test_version_is_printed():
    assert tool("--version").out.startswith("smartio_tool 0.")
    assert "smartio_tool" in tool("--version", "--json").json("result")["version"]


# No daemon

def test_without_a_daemon_the_exit_code_is_6(world):
    assert "smartiod.sock" in tool("list", run_dir=world.place).failed(6)
    assert "smartiod.sock" in tool("list", run_dir=world.place / "nowhere").failed(6)
    assert tool("list", "--json", run_dir=world.place).json("error")["error"]["exit"] == 6


def test_a_control_socket_that_is_no_socket_is_no_daemon(world):
    (world.place / "smartiod.sock").write_text("hello")
    tool("list", run_dir=world.place).failed(6)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may open everything")
def test_a_run_directory_of_somebody_else_is_not_permitted(world):
    os.chmod(world.place, 0)
    tool("list", run_dir=world.place).failed(5)
    os.chmod(world.place, 0o700)


def test_the_run_directory_comes_from_the_option_or_else_the_environment(world, daemon):
    daemon(lambda command, arguments: result(schema_version=1, devices=[DISK]))
    here, nowhere = str(world.place), str(world.place / "nowhere")
    assert tool("list", env={"SMARTIO_RUN_DIR": here}).exit == 0
    assert tool("list", "--run-dir", here, env={"SMARTIO_RUN_DIR": nowhere}).exit == 0
    assert tool("--run-dir", here, "list").exit == 0
    assert tool("list", env={"SMARTIO_RUN_DIR": nowhere}).exit == 6


# Errors of the daemon

@pytest.mark.parametrize("code, exit_code", [
    ("no_such_device", 3), ("no_such_node", 3), ("busy", 4), ("wrong_state", 4), ("revoked", 4), ("not_permitted", 5),
    ("peer_down", 6), ("timed_out", 6), ("bad_request", 2), ("no_window", 1), ("system", 1), ("unheard_of", 1)])
def test_the_exit_code_follows_the_daemons_error_and_the_sentence_is_its_own(daemon, code, exit_code):
    run = daemon(lambda command, arguments: {"error": {"code": code, "message": "It is so."}})
    assert run("list").failed(exit_code) == "It is so."
    ran = run("show", "80000", "--json")
    assert ran.json("error")["error"] == {"exit": exit_code, "message": "It is so."}
    assert ran.failed(exit_code) == "It is so."


GOOD = frame({"id": 1, "result": {}})
NO_ANSWERS = {
    "hang up": None, "nothing": b"", "half a header": b"\0\0", "length 0": b"\0\0\0\0\0", "length 1": b"\1\0\0\0\0",
    "length 4 GiB": b"\xff\xff\xff\xff\0", "too long": frame({"id": 1, "result": {"fill": "x" * (17 << 20)}}),
    "other kind": frame({"id": 1, "result": {}}, kind=1), "half a frame": GOOD[:-1], "no JSON": frame(b"{"),
    "no object": frame(b"[]"), "no UTF-8": frame(b'{"id":1,"result":{"a":"\xff"}}'), "deep": frame(b"[" * 1000000),
    "no result": frame({"id": 1}), "other id": frame({"id": 2, "result": {}}), "id no number": frame({"id": "1"}),
    "result no object": frame({"id": 1, "result": 5}), "empty error": frame({"id": 1, "error": {}}),
    "error no text": frame({"id": 1, "error": {"code": 5, "message": []}}),
    "both": frame({"id": 1, "result": {}, "error": {"message": "x"}}), "only an event": frame({"event": {}})}


@pytest.mark.parametrize("name", NO_ANSWERS)
def test_an_answer_that_is_no_answer_is_one_sentence(daemon, name):
    ran = daemon(lambda command, arguments: NO_ANSWERS[name])("list")
    assert ran.exit in (1, 6)
    ran.failed(ran.exit)


# Requests

@pytest.mark.parametrize("words, request_", [
    ("connect 4", {"node": 4, "wait": False}),
    ("connect 4 --address h:1 --wait", {"node": 4, "wait": True, "address": "h:1"}),
    ("disconnect 65535", {"node": 65535}), ("add 06:00.0", {"device": "06:00.0"}),
    ("add 0000:06:00.0", {"device": "0000:06:00.0"}), ("add 1:", {"device": "1:"}), ("add .1", {"device": ".1"}),
    ("add *:1f.7", {"device": "*:1f.7"}), ("add vfio-user:/d.sock", {"device": "vfio-user:/d.sock"}), ("remove 0x80002", {"device": "80002"}),
    ("available 80002", {"device": "80002", "force": False}),
    ("--force available 80002", {"device": "80002", "force": True}),
    ("available --without-reset 80002", {"device": "80002", "force": False, "without_reset": True}), ("unavailable 80002", {"device": "80002"}),
    ("list", {}), ("status", {}), ("scan", {}), ("show 80002", {"device": "80002"}), ("return 80002", {"device": "80002"}),
    ("borrow 80002", {"device": "80002", "window": 0, "shared": False, "owner": ""}),
    ("borrow 80002 2M --shared --owner me:us", {"device": "80002", "window": 2 << 20, "shared": True, "owner": "me:us"}),
    ("add-filter -d ::0108", {"ids": "::0108", "slot": ""}), ("available-filter -s 1:", {"ids": "", "slot": "1:"}),
    ("unavailable-filter -d 10de:: -s 1:", {"ids": "10de::", "slot": "1:"}),
    ("remove-filter -s1:", {"ids": "", "slot": "1:"}),
    ("config", {}), ("config a", {"option": "a"}), ("config a b", {"option": "a", "value": "b"})])
def test_a_command_becomes_the_request_of_the_control_protocol(daemon, words, request_):
    run = daemon(lambda command, arguments: result())
    ran = run(*words.split())
    assert ran.exit == 0, ran
    command = next(word for word in words.split() if not word.startswith("--"))
    assert run.requests == [(command, request_)]


def test_a_relative_socket_path_is_relative_to_the_tool(daemon):
    run = daemon(lambda command, arguments: result(device="80000"))
    run("add", "vfio-user:d.sock")
    assert run.requests == [("add", {"device": f"vfio-user:{os.getcwd()}/d.sock"})]


def test_arguments_that_are_no_text_are_refused_before_they_are_sent(daemon, world):
    run = daemon(lambda command, arguments: result())
    ran = run_command(TOOL, b"--run-dir", bytes(world.place), b"config", b"a", b"\xff")
    assert ran.returncode == 2 and ran.stderr.count(b"\n") == 1
    most = "x" * 100000
    assert run("config", most, most).exit == 0
    assert [command for command, _ in run.requests] == ["config"]


# Text and JSON

def test_list_prints_one_line_per_device(daemon):
    devices = [DISK, {**DISK, "id": "80001", "state": "unavailable"},
               {**DISK, "id": "80002", "state": "borrowed", "borrower": 4},
               {**DISK, "id": "80003", "state": "quarantined"}, {**DISK, "id": "80004", "reachable": False}]
    run = daemon(lambda command, arguments: result(schema_version=1, devices=devices))
    name = DISK["name"]
    assert run("list").out.splitlines() == [
        f"80000: {name} [available]", f"80001: {name} [unavailable]", f"80002: {name} [borrowed by 4]",
        f"80003: {name} [quarantined]", f"80004: {name} [available, unreachable]"]
    assert run("list", "--json").json("list")["devices"] == devices


def test_names_from_peers_cannot_command_the_terminal_or_add_lines(daemon):
    evil = {**DISK, "name": "disk\n80009: other [available]\x1b[2J\x7f\u009b1m\r"}
    run = daemon(lambda command, arguments: {**result(schema_version=1, devices=[evil]), "note": "a\x1bb"})
    ran = run("list")
    assert ran.out == "80000: disk\\x0a80009: other [available]\\x1b[2J\\x7f\\x9b1m\\x0d [available]\n"
    assert ran.err == "smartio_tool: a\\x1bb\n"
    assert run("list", "--json").json("list")["devices"] == [evil]


def test_a_document_that_lacks_everything_is_printed_all_the_same(daemon):
    answers = {}
    run = daemon(lambda command, arguments: answers)
    for members in [{}, {"devices": 5, "peers": 5, "loans": {}, "device": [], "bars": 1, "counters": [], "found": 1,
                         "options": 1, "filters": 1, "removed": {}},
                    {"devices": [5], "peers": [5], "bars": [[]], "found": [5], "loan": {}, "removed": [5]}]:
        answers["result"] = members
        for words in ["list", "status", "show 80000", "scan", "config", "borrow 80000", "filters"]:
            ran = run(*words.split())
            assert ran.exit == 0 and ran.err == "", ran


def test_show_and_status_are_readable_text_and_one_document(daemon):
    run = daemon(lambda command, arguments: {"result": SHOWN if command == "show" else STATUS})
    shown = run("show", "80000").out
    assert "name         Non-Volatile memory controller" in shown and "BAR 0: 16384 bytes" in shown
    status = run("status").out
    assert "4     borrower  up     127.0.0.1:7808  2026-01-01T00:00:00Z\n" in status and "requests  7" in status
    assert run("show", "80000", "--json").json("show") == SHOWN
    assert run("status", "--json").json("status") == STATUS


def test_what_there_is_to_say_is_said_with_an_error_too(daemon):
    run = daemon(lambda command, arguments: {"error": {"code": "busy", "message": "No."}, "note": "Not saved."})
    ran = run("unavailable", "80000")
    assert (ran.exit, ran.out, ran.err) == (4, "", "smartio_tool: Not saved.\nsmartio_tool: No.\n")


def test_filters_are_printed_as_the_commands_that_made_them(daemon):
    run = daemon(lambda command, arguments: {"result": FILTERS})
    assert run("filters").out == "add-filter -d ::0108\navailable-filter -d 10de:: -s 1:\nremove 0000:06:00.0\n"
    assert run("filters", "--json").json("filters") == FILTERS


def test_borrow_prints_id_and_socket_on_two_lines_and_a_note_goes_to_standard_error(daemon):
    run = daemon(lambda command, arguments: {**result(device="80002", socket="/run/x/cntrl"), "note": "Already so."})
    ran = run("borrow", "80002")
    assert (ran.exit, ran.out, ran.err) == (0, "80002\n/run/x/cntrl\n", "smartio_tool: Already so.\n")
    document = run("borrow", "80002", "--json").json("result")
    assert document == {"schema_version": 1, "device": "80002", "socket": "/run/x/cntrl"}


def test_simple_commands_print_nothing_or_one_document(daemon):
    results = {"connect": {"node": 4, "address": "h:1", "state": "up"}, "scan": {"found": ["80000"]},
               "config": {"options": {"peer-timeout": "3000"}}, "disconnect": {}}
    run = daemon(lambda command, arguments: {"result": results.get(command, {"device": "80000"})})
    for words in ["connect 4", "disconnect 4", "add 80000", "remove 80000", "available 80000", "unavailable 80000",
                  "return 80000"]:
        assert run(*words.split()).out == ""
        document = run(*words.split(), "--json").json("result")
        assert document.get("node", document.get("device")) in (4, "80000")
    assert run("scan").out == "80000\n"
    assert run("config", "peer-timeout").out == "peer-timeout 3000\n"
    assert run("config", "peer-timeout", "3000").out == ""
    assert run("scan", "--json").json("result")["found"] == ["80000"]
    assert run("config", "--json").json("result")["options"] == {"peer-timeout": "3000"}


def test_lspci_renders_what_the_daemon_gives(daemon):
    config = bytes([0x86, 0x80, 0xa5, 0xf1, 6, 0, 0x10, 0, 3, 2, 8, 1] + 52 * [0])
    run = daemon(lambda command, arguments: result(device="80002", address="0000:06:00.0", hex=config.hex()))
    for words, form in [("lspci 80002 -n -v", "vfio"), ("--raw lspci 80002 -n", "raw"), ("lspci 80002 --emulated -n", "emulated")]:
        ran = run(*words.split())
        assert ran.exit == 0 and "06:00.0 0108: 8086:f1a5 (rev 03)" in ran.out, ran
        assert run.requests[-1] == ("config-space", {"device": "80002", "form": form})
    assert "06:00.0" in run("lspci", "80002", "--json").json("result")["lspci"]
    assert "lspci failed: lspci: invalid option" in run("lspci", "80002", "-!").failed(2)


# Run

OPENED = result(device="80002", socket="/run/x/cntrl")
REQUESTS = [("open", {"device": "80002", "shared": False, "owner": ""}), ("return", {"device": "80002", "opened": True})]


@pytest.fixture
def run_on(daemon):
    return daemon(lambda command, arguments: OPENED if command == "open" else result(device="80002"))


@pytest.mark.parametrize("words, printed", [
    ("run 80002 echo {socket} a{socket}b{socket}", "/run/x/cntrl a/run/x/cntrlb/run/x/cntrl\n"),
    ("run 0x80002 -- echo -- {socket} --json", "-- /run/x/cntrl --json\n"),
    ("--json run 80002 echo --help {sock}", "--help {sock}\n"), ("run 80002 --json -- echo -d -s", "-d -s\n"),
    ("run 80002 echo run 80003 --run-dir /", "run 80003 --run-dir /\n")])
def test_run_replaces_the_socket_and_leaves_all_else_of_the_command_alone(run_on, words, printed):
    ran = run_on(*words.split())
    assert (ran.exit, ran.out, ran.err) == (0, printed, "")
    assert run_on.requests == REQUESTS


def test_run_takes_its_own_options_before_the_command(run_on):
    for words in ["run --shared --owner me:us 80002 true", "--owner me:us run 80002 --shared -- true"]:
        assert run_on(*words.split()).exit == 0
        assert run_on.requests[-2:] == [("open", {**REQUESTS[0][1], "shared": True, "owner": "me:us"}), REQUESTS[1]]


@pytest.mark.parametrize("command, code", [
    ("exit 0", 0), ("exit 3", 3), ("exit 255", 255), ("kill -9 $$", 137), ("kill -15 $$", 143), ("kill -11 $$", 139)])
def test_run_ends_with_the_commands_exit_code_and_returns_the_device(run_on, command, code):
    ran = run_on("run", "80002", "sh", "-c", command)
    assert (ran.exit, ran.out, ran.err) == (code, "", "")
    assert run_on.requests == REQUESTS


def test_run_of_what_cannot_be_run_ends_as_env_does_and_returns_the_device(run_on, world):
    (world.place / "text").write_text("no program")
    for word, code in [("no-such-program-anywhere", 127), (world.place / "missing", 127), (world.place / "text", 126),
                       (world.place, 126)]:
        assert str(word) in run_on("run", "80002", word).failed(code)
        assert run_on.requests[-2:] == REQUESTS


def test_run_does_not_start_the_command_without_the_device(daemon, world):
    run = daemon(lambda command, arguments: {"error": {"code": "busy", "message": "Not now."}})
    assert run("run", "80002", "touch", world.place / "started").failed(4) == "Not now."
    assert run("--json", "run", "80002", "touch", world.place / "started").json("error")["error"]["exit"] == 4
    assert run("run", "80002", "touch", "--json").out == ""  # --json is the command's
    assert not (world.place / "started").exists()


def test_run_says_when_the_device_was_not_returned_and_keeps_the_commands_exit_code(daemon):
    run = daemon(lambda command, arguments: OPENED if command == "open" else
                 {"error": {"code": "peer_down", "message": "Gone."}})
    assert "80002 was not returned: " in run("run", "80002", "sh", "-c", "exit 7").failed(7)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2"])
def test_run_passes_signals_on_and_returns_the_device_after_the_command(run_on, world, name):
    command = f"trap 'echo got; exit 5' {name[3:]}; echo ready; while :; do sleep 0.01; done"
    with Process(TOOL, "--run-dir", world.place, "run", "80002", "sh", "-c", command, stdout=subprocess.PIPE,
                 text=True) as process:
        assert process.stdout.readline() == "ready\n"
        assert run_on.requests == REQUESTS[:1]
        process.send_signal(getattr(signal, name))
        assert process.communicate(timeout=20)[0] == "got\n"
    assert process.returncode == 5 and run_on.requests == REQUESTS


def test_an_interrupt_from_the_terminal_reaches_the_command_of_run_once(run_on, world):
    """The command ends with its second interrupt; the terminal's key sends one to each of the foreground group."""
    command = "n=0; trap 'n=$((n+1)); echo got $n' INT; echo ready; while [ $n -lt 2 ]; do sleep 0.2; done; exit 9"
    pid, master = pty.fork()
    if pid == 0:
        default_signals()
        os.execv(TOOL, [TOOL, "--run-dir", world.place, "run", "80002", "sh", "-c", command])
    seen = read_until(master, b"ready")
    for count in (b"got 1", b"got 2"):
        os.write(master, b"\x03")
        seen += read_until(master, count)
    assert seen.count(b"got") == 2
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 9
    os.close(master)
    assert run_on.requests == REQUESTS


def read_until(terminal, text):
    seen = b""
    while text not in seen:
        assert select.select([terminal], [], [], 20)[0], seen
        seen += os.read(terminal, 4096)
    return seen


def test_output_that_cannot_be_written_is_a_failure(daemon, world):
    daemon(lambda command, arguments: result(schema_version=1, devices=[DISK]))
    with open("/dev/full", "w") as full:
        ran = run_command(TOOL, "--run-dir", world.place, "list", stdout=full, text=True)
    assert ran.returncode == 1 and "No space left" in ran.stderr


# Monitor

def event(number, **members):
    return {"event": {"seq": number, "time": "2026-01-01T00:00:00.5Z", "event": "device-available", **members}}


def monitor_answer(command, arguments):
    # The first event overtakes the reply.
    return frame(event(1)) + frame({"id": 1, "result": {}}) + frame(event(2, device="80000", reason="a\nb"))


def test_monitor_prints_one_line_per_event_until_the_daemon_ends(daemon):
    ran = daemon(monitor_answer)("monitor")
    assert ran.out.splitlines() == ["2026-01-01T00:00:00.5Z device-available",
                                    "2026-01-01T00:00:00.5Z device-available device=80000 reason=a\\x0ab"]
    assert "ended" in ran.failed(6)


def test_monitor_json_prints_one_object_per_line(daemon):
    lines = daemon(monitor_answer)("monitor", "--json").out.splitlines()
    assert [check(json.loads(line), "event")["seq"] for line in lines[:2]] == [1, 2]
    assert check(json.loads(lines[2]), "error")["error"]["exit"] == 6


def test_an_event_that_is_none_ends_monitor_with_one_sentence(daemon):
    run = daemon(lambda command, arguments: frame({"id": 1, "result": {}}) + frame({"event": 5}))
    run("monitor").failed(1)


# Confirmation

def available_on_terminal(place, answer, *options):
    """Runs `available` on a terminal and types `answer` when asked; gives exit code and what the terminal showed."""
    master, slave = pty.openpty()
    with Process(TOOL, "--run-dir", place, "available", "80000", *options, stdin=slave, stdout=slave,
                 stderr=slave) as process:
        os.close(slave)
        seen = b""
        while select.select([master], [], [], 20)[0]:
            try:
                seen += os.read(master, 4096)
            except OSError:  # the terminal's other end is closed
                break
            if seen.endswith(b"[y/N] "):
                os.write(master, answer)
    os.close(master)
    return process.returncode, seen.decode()


def test_available_asks_on_a_terminal_before_a_driver_loses_the_device(daemon, world):
    driver = ["nvme"]
    run = daemon(lambda command, arguments: {"result": {**SHOWN, "driver": driver[0]} if command == "show" else {}})

    def made_available(answer, *options):
        run.requests.clear()
        code, seen = available_on_terminal(world.place, answer, *options)
        asked = "[y/N]" in seen and "nvme" in seen
        return code, asked, "available" in [command for command, _ in run.requests]
    assert made_available(b"y\n") == (0, True, True)
    assert made_available(b"n\n") == (1, True, False)
    assert made_available(b"\n") == (1, True, False)
    assert made_available(b"\x04") == (1, True, False)
    assert made_available(b"", "--yes") == (0, False, True)
    assert made_available(b"", "--force") == (0, False, True)
    driver[0] = None
    assert made_available(b"") == (0, False, True)
    assert run("available", "80000").exit == 0  # no terminal, no question

# What is wrong, absurd or hostile: one sentence, the right exit code, nothing changed, and the daemon goes on.
import contextlib
import json
import os
import re
import socket
import struct
import subprocess
import time

import pytest

from control import Control, frame
from harness import PATIENCE, SMARTIOD, TOOL, Process, free_port, refused_start, run, sanitizer, wait_for


@pytest.fixture
def unchanged(shared_lent):
    """Nodes 8 and 4 with a disk lent, which must be as they were when the test ends."""
    lender, borrower, disk = shared_lent
    wait_for(lambda: borrower.devices()["80000"]["state"] == "available", "the disk is available")
    before = [(node.process.pid, node.devices(), peers(node)) for node in (lender, borrower)]
    yield lender, borrower, disk
    assert before == [(node.process.pid, node.devices(), peers(node)) for node in (lender, borrower)]
    assert lender.alive() and borrower.alive()


def peers(node):
    return [(peer["node"], peer["role"], peer["state"]) for peer in node.status()["peers"]]


# Commands

@pytest.mark.parametrize("words, code", [
    ("show 80077", 3), ("available 80077", 3), ("unavailable 80077", 3), ("remove 80077", 3), ("borrow 80077", 3),
    ("return 80077", 3), ("show 90000", 3), ("borrow 90000", 3), ("show vfio-user:/nowhere", 3), ("show 06:00.0", 3),
    ("connect 77", 3), ("available zz:00.0", 2), ("show 06:00.9", 2), ("show 6:0:0:0.0", 2),
    ("add 80000", 2), ("add 06:1f.7", 3), ("add-filter -d zz", 2), ("config iommu maybe", 2), ("config no-such-option", 2),
    ("config no-such-option 1", 2), ("config peer-timeout soon", 2), ("config peer-timeout -- -1", 2),
    ("config peer-timeout 0", 2), ("config peer-timeout 99999999999999999999", 2), ("remove 80000", 4),
    ("connect 65536", 2), ("connect 77 --address nonsense", 2), ("connect 77 --address 127.0.0.1:0", 2),
    ("connect 77 --address 127.0.0.1:65536", 2), ("connect 77 --address :::::", 2)])
def test_a_wrong_command_gets_its_exit_code_and_one_sentence(unchanged, words, code):
    lender, _, _ = unchanged
    assert len(lender.tool(*words.split()).failed(code)) > 10
    assert lender.tool("--json", *words.split()).json("error")["error"]["exit"] == code


def test_an_owner_that_does_not_exist_ends_the_loan_at_once(lent):
    lender, borrower, _ = lent
    for owner in ["no-such-user", "root:no-such-group", ":", "x" * 1000]:
        borrower.tool("borrow", "80000", "--owner", owner).failed(2)
        wait_for(lambda: lender.devices()["80000"]["state"] == "available", "the loan has ended")


def test_a_borrower_cannot_manage_the_lenders_device(unchanged):
    _, borrower, _ = unchanged
    for command in ["available", "unavailable", "remove"]:
        assert borrower.tool(command, "80000").failed(borrower.tool(command, "80000").exit)
        assert borrower.tool(command, "80000").exit in (2, 3, 4, 5)


def test_what_is_no_device_is_not_added(unchanged, world):
    lender, _, _ = unchanged
    (world.place / "file").write_text("no socket")
    lender.tool("add", f"vfio-user:{world.place}/file").failed(6)
    lender.tool("add", f"vfio-user:{world.place}/missing").failed(6)
    lender.tool("add", f"vfio-user:{world.place}").failed(6)
    lender.tool("add", "vfio-user:/" + "x" * 200).failed(2)


def test_a_server_that_speaks_nonsense_is_not_added(unchanged, world):
    lender, _, _ = unchanged
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(world.place / "odd.sock"))
        listener.listen()
        with Process(TOOL, "--run-dir", lender.run_dir, "add", f"vfio-user:{world.place}/odd.sock") as adding:
            client, _ = listener.accept()
            with client:
                client.sendall(b"\xff" * 4096)
                assert adding.wait(PATIENCE) != 0
                assert adding.text().count("\n") == 1


def test_a_connection_to_what_is_not_that_node_fails_and_is_not_kept(unchanged, world):
    lender, borrower, _ = unchanged
    lender.tool("connect", 77, "--address", f"127.0.0.1:{free_port()}").failed(6)
    assert lender.tool("connect", 77, "--address", borrower.address).exit != 0
    assert lender.tool("connect", 77, "--address", lender.address).exit != 0
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts, says nothing
        ran = lender.tool("connect", 77, "--address", f"127.0.0.1:{silent.getsockname()[1]}")
        ran.failed(6)


# Programs that must not start

def test_a_second_smartiod_on_the_same_run_directory_is_refused(unchanged, world):
    lender, _, _ = unchanged
    refused_start("--node", 9, "--run-dir", lender.run_dir, "--state-dir", world.place / "s9")
    refused_start("--node", 8, "--run-dir", world.place / "r9", "--state-dir", lender.state_dir)


def test_a_port_in_use_is_refused(unchanged, world):
    lender, _, _ = unchanged
    refused_start("--node", 9, "--run-dir", world.place / "r9", "--listen", lender.address)


@pytest.mark.parametrize("options", [
    [], ["--node", "0"], ["--node", "65536"], ["--node", "-1"], ["--node", "eight"], ["--node"], ["--nonsense"],
    ["--node", "9", "word"], ["--node", "9", "--listen", "nonsense"], ["--node", "9", "--listen", "127.0.0.1:65536"],
    ["--node", "9", "--listen", "0.0.0.0:0"], ["--node", "9", "--run-dir", "/proc/nowhere"],
    ["--node", "9", "--run-dir", "/dev/null"], ["--node", "9", "--run-dir", "/" + "x" * 120],
    ["--node", "9", "--state-dir", "/proc/nowhere"], ["--node", "9", "--state-dir", "/dev/null/x"],
    ["--node", "9", "--config", "/nowhere"], ["--node", "9\n8"], ["--no\nde"],
    ["--node", "9", "--listen", "non\nsense"], ["--node", "9", "--config", "/"]])
def test_smartiod_does_not_start_on_wrong_options(world, options):
    more = [] if "--run-dir" in options else ["--run-dir", world.place / "r"]
    more += [] if "--listen" in options else ["--listen", "127.0.0.1:0"]
    refused_start(*options, *more)


# The control socket

BAD_FRAMES = {
    "length 0": b"\0\0\0\0\0", "length 1": b"\1\0\0\0\0", "length 4 GiB": b"\xff\xff\xff\xff\0" + b"x" * 1000,
    "length 2 MiB": struct.pack("<IB", 2 << 20, 0) + b"x" * 100000, "kind 9": frame({"id": 1}, kind=9),
    "kind vfio-user": frame(b"\0" * 64, kind=1), "random": bytes(range(256)) * 64, "HTTP": b"GET / HTTP/1.1\r\n\r\n"}
BAD_REQUESTS = {
    "no JSON": b"{", "no object": b"[]", "number": b"5", "no UTF-8": b'{"id":1,"command":"\xff","arguments":{}}',
    "deep": b"[" * 500000, "deep object": b'{"id":1,"command":"list","arguments":' + b'{"a":' * 100000, "empty": b"{}",
    "no command": b'{"id":1}', "command 5": b'{"id":1,"command":5,"arguments":{}}',
    "id text": b'{"id":"1","command":"list","arguments":{}}', "id negative": b'{"id":-1,"command":"list"}',
    "unknown": b'{"id":1,"command":"nonsense","arguments":{}}',
    "arguments text": b'{"id":1,"command":"list","arguments":"x"}',
    "NUL": b'{"id":1,"command":"add","arguments":{"device":"vfio-user:/a\\u0000b"}}'}


@pytest.mark.parametrize("name", [*BAD_FRAMES, *BAD_REQUESTS])
def test_nonsense_on_the_control_socket_is_refused(unchanged, name):
    data = BAD_FRAMES.get(name) or frame(BAD_REQUESTS[name])
    for node in unchanged[:2]:
        with Control(node) as client:
            with contextlib.suppress(ConnectionError):
                client.send(data)
            reply = client.reply()
            assert reply is None or reply["error"]["message"], reply


WRONG = [None, True, -1, 0, 1.5, 1e300, 1 << 63, 65536, "", "x", "80077", "x" * 5000, [], [1], {}, {"a": {}}]


@pytest.mark.parametrize("command, fields", [
    ("connect", ["node", "address", "wait"]), ("disconnect", ["node"]), ("add", ["device"]), ("remove", ["device"]),
    ("available", ["device"]), ("unavailable", ["device"]), ("show", ["device"]), ("return", ["device"]),
    ("borrow", ["device"]), ("open", ["device"]), ("config", ["option"])])
def test_arguments_of_wrong_types_are_refused_with_a_sentence(unchanged, command, fields):
    good = {"node": 77, "address": f"127.0.0.1:{free_port()}", "wait": False, "device": "80077", "option": "none"}
    with Control(unchanged[0]) as client:
        for field in fields:
            for wrong in WRONG:
                if (field, wrong) in [("wait", True), ("option", None), ("address", None)]:
                    continue
                arguments = {**{each: good[each] for each in fields}, field: wrong}
                client.send(frame({"id": 7, "command": command, "arguments": arguments}))
                reply = client.reply()
                assert reply and reply["id"] == 7 and reply["error"]["message"], (arguments, reply)


def test_requests_that_are_cut_short_leave_nothing_behind(unchanged):
    lender, _, _ = unchanged
    whole = frame({"id": 1, "command": "remove", "arguments": {"device": "80000"}})
    before = len(os.listdir(f"/proc/{lender.process.pid}/fd"))
    for cut in range(len(whole)):
        with Control(lender) as client:
            client.send(whole[:cut])
    wait_for(lambda: len(os.listdir(f"/proc/{lender.process.pid}/fd")) <= before, "descriptors are closed")


def test_slow_and_silent_clients_hold_nobody_up(unchanged):
    lender, _, _ = unchanged
    whole = frame({"id": 1, "command": "list", "arguments": {}})
    with contextlib.ExitStack() as open_:
        for _ in range(100):
            open_.enter_context(Control(lender))
        slow = open_.enter_context(Control(lender))
        for byte in whole:
            with contextlib.suppress(ConnectionError):  # it has its time, and is closed then
                slow.send(bytes([byte]))
            assert lender.status()["node"] == 8
        reply = slow.reply()
        assert reply is None or reply["result"]["devices"]


def test_a_client_that_does_not_read_does_not_fill_the_daemons_memory(unchanged):
    lender, _, _ = unchanged
    request = frame({"id": 1, "command": "status", "arguments": {}})
    before = resident(lender)
    with Control(lender) as client:
        client.socket.settimeout(0.5)
        end = time.monotonic() + 3
        with contextlib.suppress(OSError):
            while time.monotonic() < end:
                client.send(request * 100)
        assert lender.status()["node"] == 8
        # The thread sanitizer's own memory is several times the program's.
        assert resident(lender) - before < (256 if sanitizer() == "thread" else 64) << 20


def resident(node):
    with open(f"/proc/{node.process.pid}/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


# The peer port

def hello(**members):
    return frame({"type": "hello", "version": 1, "node": 7, "to": 4, "boot_id": "x", "nonce": "0" * 64, "fabrics": [],
                  **members})


def devices(**members):
    """A list with one device, which is all right but for `members`."""
    return frame({"type": "devices", "changed": [entry(**members)], "removed": []})


def entry(**members):
    return {"id": "70000", "address": "vfio-user:/x", "name": "Disk", "vendor": 1, "device": 2, "class": 3,
            "state": "available", "borrower": 0, **members}


NO_TYPE, NO_OBJECT, TOO_DEEP = "'type' is missing", "a JSON object was expected", "nested deeper than 16 levels"
TOO_LONG = "a frame of .* bytes is not allowed"

# name: what it sends, and why it is refused.
BAD_PEERS = {
    **{f"frame: {name}": (data, {"length 1": NO_OBJECT, "kind 9": "kind 9 is not known",
                                 "kind vfio-user": "spoke out of turn"}.get(name, TOO_LONG))
       for name, data in BAD_FRAMES.items()},
    **{f"JSON: {name}": (frame(data), {"no JSON": NO_OBJECT, "no object": NO_OBJECT, "number": NO_OBJECT,
                                       "no UTF-8": NO_OBJECT, "deep": TOO_LONG, "deep object": TOO_LONG}.get(name, NO_TYPE))
       for name, data in BAD_REQUESTS.items()},
    "nothing": (b"", "it sent no hello"), "not a hello": (frame({"type": "heartbeat"}), "spoke out of turn"),
    "other version": (hello(version=99), "speaks version 99"),
    "to another node": (hello(to=5), "this is node 4, not node 5"),
    "our own number": (hello(node=4), "node id 4 is taken"), "node 0": (hello(node=0), "'node' is not a node id"),
    "node 70000": (hello(node=70000), "'node' is above 65535"), "node text": (hello(node="8"), "'node' is missing or not"),
    "long boot id": (hello(boot_id="x" * 100000), "'boot_id' is longer"),
    "short nonce": (hello(nonce="0"), "'nonce' is not 64 hex digits"),
    "fabrics text": (hello(fabrics="x"), "'fabrics' is missing or not a short list"),
    "fabrics nested": (hello(fabrics=[[[]]]), "'kind' is missing"),
    "fabric path": (hello(fabrics=[{"kind": "local", "socket": "/run/x"}]), "'token' is missing"),
    "fabric token": (hello(fabrics=[{"kind": "local", "token": "/run/x"}]), "'token' is not 32 hex digits"),
    "hello twice": (hello() + hello(), "spoke out of turn"),
    **{name: (hello() + data, why) for name, (data, why) in {
        "deep": (frame(BAD_REQUESTS["deep"]), TOO_DEEP),
        "unknown type": (frame({"type": "nonsense"}), "message of an unknown type"),
        "type number": (frame({"type": 5}), NO_TYPE),
        "device of another node": (devices(id="80000"), "offered a device of another node"),
        "device id 0": (devices(id="0"), "'0' is not a device"),
        "device state": (devices(state="mine"), "'mine' is not a state of a device"),
        "device name": (devices(name="x" * 100000), "'name' is longer"),
        "device class": (devices(**{"class": 1 << 24}), "'class' is above"),
        "devices text": (frame({"type": "devices", "changed": "x", "removed": {}}), "'changed' or 'removed' is missing"),
        "answer to nothing": (frame({"type": "answer", "number": 1, "epoch": 1}), "it answered what was not asked"),
        "borrow from a borrower": (frame({"type": "borrow", "number": 1, "device": "80000", "shared": False}),
                                   "it asked for a device but is no borrower"),
        "takes back what is not its": (frame({"type": "taken_back", "device": "80000", "epoch": 1, "reason": ""}),
                                       "it took back what it did not lend"),
        "a device operation cut short": (frame(b"\0" * 3, kind=1), "malformed message for a device")}.items()}}


@pytest.mark.parametrize("name", BAD_PEERS)
def test_a_hostile_peer_is_refused_with_the_reason_and_changes_nothing(unchanged, name):
    _, borrower, _ = unchanged
    data, reason = BAD_PEERS[name]
    greeted = data.startswith(hello())
    before, said = len(borrower.text()), b""
    with leaving(borrower), socket.create_connection(("127.0.0.1", borrower.port), timeout=PATIENCE) as peer:
        with contextlib.suppress(ConnectionError):
            peer.sendall(data)
            while more := peer.recv(65536):  # until the node closes it: this end stays open
                said += more
        kinds = [message["type"] for message in messages(said)]
        assert kinds in ([["hello"]] if greeted else [[], ["refused"]]), said
        log = lambda: borrower.text()[before:]
        why = "connection from node 7 lost" if greeted else "a connection was refused"
        wait_for(lambda: re.search(f"{why}: .*{reason}", log()), f"the reason is logged, {reason}; there is {log()}", 2)
        assert greeted == ("node 7 lends to this node" in log())


def test_a_peer_that_was_greeted_may_send_long_frames(unchanged):
    _, borrower, _ = unchanged
    with leaving(borrower), socket.create_connection(("127.0.0.1", borrower.port), timeout=PATIENCE) as peer:
        stream = peer.makefile("rb")
        for data, kind in ((hello(), "hello"), (frame(b'{"type":"heartbeat","asks":true}' + b" " * 900000), "heartbeat")):
            peer.sendall(data)
            size, _ = struct.unpack("<IB", stream.read(5))
            assert json.loads(stream.read(size - 1))["type"] == kind
        peer.sendall(frame({"type": "refused", "reason": "It leaves."}))
        assert not stream.read()


def test_a_peer_cannot_operate_a_device_without_a_loan(unchanged):
    _, borrower, disk = unchanged
    before = disk.counters()
    with leaving(borrower), socket.create_connection(("127.0.0.1", borrower.port), timeout=PATIENCE) as peer:
        peer.sendall(hello() + frame(b"\0" * 64, kind=1) + frame({"type": "refused", "reason": "It leaves."}))
        said = b""
        while more := peer.recv(65536):
            said += more
    assert [message["type"] for message in messages(said)][0] == "hello"
    after = disk.counters()
    assert {name: after[name] for name in ("messages", "clients")} == {name: before[name] for name in ("messages", "clients")}


def messages(stream):
    """What frames hold, one after another."""
    while stream:
        length, kind = struct.unpack_from("<IB", stream)
        yield json.loads(stream[5:4 + length]) if kind == 0 else {"type": "of a device"}
        stream = stream[4 + length:]


@contextlib.contextmanager
def leaving(borrower):
    """A peer that said a good hello is remembered as a lender that is down: in the end it says that it disconnects."""
    try:
        yield
    finally:
        with socket.create_connection(("127.0.0.1", borrower.port), timeout=PATIENCE) as peer:
            with contextlib.suppress(OSError):
                peer.sendall(hello() + frame({"type": "refused", "reason": "It leaves."}))
                while peer.recv(65536):
                    pass
        wait_for(lambda: all(entry_["node"] != 7 for entry_ in borrower.status()["peers"]), "the peer is forgotten")


def test_many_silent_peers_hold_nobody_up(unchanged):
    _, borrower, _ = unchanged
    with contextlib.ExitStack() as open_:
        peers_ = [open_.enter_context(socket.create_connection(("127.0.0.1", borrower.port), timeout=PATIENCE))
                  for _ in range(100)]
        borrower.ok("borrow", "80000")
        borrower.ok("return", "80000")
        wait_for(lambda: borrower.devices()["80000"]["state"] == "available", "the disk is available")
        end = time.monotonic() + PATIENCE
        for peer in peers_:  # each is let go in bounded time, though it never says a word
            peer.settimeout(max(0.1, end - time.monotonic()))
            with contextlib.suppress(ConnectionResetError):
                while peer.recv(65536):
                    pass


def test_an_answer_that_is_too_long_is_told_as_that(unchanged):
    """Many devices with long names: more than a reply may hold."""
    _, borrower, _ = unchanged
    with leaving(borrower), socket.create_connection(("127.0.0.1", borrower.port), timeout=PATIENCE) as peer:
        def taken():
            """Whether the node has read all that was sent: it answers."""
            peer.sendall(frame({"type": "heartbeat", "asks": True}))
            with peer.makefile("rb", buffering=0) as stream:
                return b"heartbeat" in stream.read(65536)
        peer.sendall(hello())
        assert b"hello" in peer.recv(65536)
        for first in range(0, 16384 + 2048, 512):
            peer.sendall(frame({"type": "devices", "removed": [], "changed": [
                entry(id=f"{0x70000 + first + i:x}", name="x" * 1024) for i in range(512)]}))
        assert taken()
        answer = borrower.tool("list")
        assert answer.exit == 1 and "no more than 16777216 can be sent" in answer.err, answer
        peer.sendall(frame({"type": "devices", "changed": [],
                            "removed": [f"{0x70000 + i:x}" for i in range(2048, 16384 + 2048)]}))
        assert taken() and borrower.tool("list").exit == 0


# The socket of a loan

@pytest.mark.parametrize("data", [b"", b"\0" * 16, b"\xff" * 4096, bytes(range(256)) * 16, b"\1\0\1\0\x10\0\0\0" + b"\0" * 8])
def test_nonsense_on_the_socket_of_a_loan_ends_that_client_only(lent, data):
    lender, borrower, _ = lent
    path = borrower.ok("borrow", "80000").splitlines()[1]
    for _ in range(3):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.settimeout(PATIENCE)
            client.connect(path)
            with contextlib.suppress(OSError):
                client.sendall(data)
                client.shutdown(socket.SHUT_WR)
                while client.recv(65536):
                    pass
        assert borrower.devices()["80000"]["borrower"] == 4 and lender.alive()
    borrower.ok("return", "80000")

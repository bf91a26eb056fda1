# What must not end, hold up or confuse a node: its peers, its clients, its host's shortages.
import contextlib
import os
import pathlib
import resource
import signal
import socket
import struct
import time

import pytest

from conftest import lend
from control import frame
from harness import NVME, PATIENCE, run, sanitized, sanitizer, wait_for
from raw_client import RawClient, guest_memory

CONFIG, ONES, PAGE = 7, b"\xff" * 4, 4096
VERSION = struct.pack("<HHIIIHH", 1, 1, 22, 0, 0, 0, 1) + b"{}"  # a vfio-user client's first message


def test_a_client_hears_that_its_memory_is_free_when_the_device_has_let_go(lent):
    _, borrower, disk = lent
    memory = guest_memory(PAGE)
    with RawClient(borrower.ok("borrow", "80000").splitlines()[1]) as raw:
        assert raw.map(0, PAGE, fd=memory) == 0
        assert disk.counters()["windows"] == 1
        returning = borrower.begin("return", "80000")
        wait_for(lambda: raw.read(CONFIG, 0, 4) == ONES, "the loan ends")
        assert isinstance(raw.unmap(0, PAGE), bytes)
        assert disk.counters()["windows"] == 0
    assert returning.wait(20) == 0


def test_programs_one_right_after_the_other_all_get_the_device(lent):
    _, borrower, _ = lent
    for _ in range(10 if sanitized() else 60):
        ran = run(NVME, "--run-dir", borrower.run_dir, "80000", "identify")
        assert ran.returncode == 0, ran


def test_a_second_node_with_a_lenders_id_is_refused_while_the_first_lives(world, lent):
    lender, borrower, _ = lent
    borrower.ok("borrow", "80000")
    second = world.node(8, place="second")
    ran = second.tool("connect", 4, "--address", borrower.address)
    assert "node id 8 is taken" in ran.failed(6)
    assert borrower.peer(8, "lender") == "up" and len(borrower.status()["loans"]) == 1
    assert borrower.text().count("node id 8 is taken") == 1
    lender.kill()
    ran = second.tool("connect", 4, "--address", borrower.address)
    assert ran.exit == 0, ran


def test_a_lender_that_froze_gets_back_in_after_it_started_again(world, lent):
    lender, borrower, _ = lent
    lender.process.send_signal(signal.SIGSTOP)
    again = world.node(8, place="again")
    assert again.tool("connect", 4, "--address", borrower.address).exit == 0
    lender.process.send_signal(signal.SIGCONT)
    wait_for(lambda: "fell silent" in borrower.text(), "the frozen one is let go")


def test_loans_outlive_a_pause_of_both_nodes(lent):
    lender, borrower, _ = lent
    with RawClient(borrower.ok("borrow", "80000").splitlines()[1]) as raw:
        for node in (lender, borrower):
            node.process.send_signal(signal.SIGSTOP)
        time.sleep(4)  # longer than a peer may be silent
        for node in (lender, borrower):
            node.process.send_signal(signal.SIGCONT)
        time.sleep(1)  # two heartbeats: nothing happens, which is the point
        assert raw.read(CONFIG, 0, 2) != ONES[:2]
    assert "lost" not in borrower.text() + lender.text()


def test_disconnecting_and_stopping_take_loans_back(lent):
    lender, borrower, _ = lent
    memory = guest_memory(PAGE)
    for end in (lambda: lender.ok("disconnect", 4), lambda: lender.end()):
        borrower.ok("borrow", "80000")
        with RawClient(borrower.status()["loans"][0]["socket"]) as raw:
            assert raw.map(0, PAGE, fd=memory) == 0
            end()
            wait_for(lambda: raw.read(CONFIG, 0, 4) == ONES, "the loan has ended")
            assert isinstance(raw.unmap(0, PAGE), bytes)  # an error if the memory could still be written
        assert "taken back" in borrower.text() and "80000 was lost" not in borrower.text()
        if lender.alive():
            lender.ok("connect", 4, "--address", borrower.address)
            wait_for(lambda: borrower.devices()["80000"]["state"] == "available", "the device is free again")


def test_a_node_that_stops_waits_five_seconds_for_its_lender_and_leaves_no_socket(lent):
    lender, borrower, _ = lent
    borrower.ok("config", "peer-timeout", 60000)
    with RawClient(borrower.ok("borrow", "80000").splitlines()[1]) as raw:
        lender.process.send_signal(signal.SIGSTOP)
        try:
            start = time.monotonic()
            borrower.end()  # which looks for what was left
            assert 4.5 < time.monotonic() - start
        finally:
            lender.process.send_signal(signal.SIGCONT)
        assert raw.socket.recv(1) == b""


def test_what_a_node_makes_is_its_users_alone(world):
    node = world.node(9, start=False)
    node.launch(*node.command())
    wait_for(node.ready, "it answers")
    node.ok("config", "peer-timeout", 4000)
    for path, mode in ((node.run_dir, 0o711), (node.socket, 0o600), (node.state_dir, 0o700),
                       (node.state_dir / "state.json", 0o600)):
        assert path.stat().st_mode & 0o777 == mode, path


def abstract_sockets(node):
    """The name of its local fabric, as proc(5) has it: "Num RefCount Protocol Flags Type St Inode Path"."""
    mine = {link.readlink().name for link in pathlib.Path(f"/proc/{node.process.pid}/fd").iterdir() if link.is_symlink()}
    listed = [line.split() for line in open("/proc/net/unix")]
    names = [words[7] for words in listed if len(words) == 8 and words[7].startswith("@") and f"socket:[{words[6]}]" in mine]
    assert len(set(names)) == 1, names
    return names[:1]


def test_the_local_fabric_is_for_whoever_has_the_nonce_of_its_link(lent):
    """The lender's socket is found among all of the host's by another process of the same user."""
    lender, borrower, _ = lent
    borrower.ok("borrow", "80000")
    loan, = borrower.status()["loans"]
    for name in abstract_sockets(lender) + abstract_sockets(borrower):
        for nonce in ("0" * 64, "a" * 64):
            with socket.socket(socket.AF_UNIX) as stranger:
                stranger.connect("\0" + name[1:])
                stranger.settimeout(PATIENCE)
                stranger.sendall(nonce.encode() + struct.pack("<IQ", 0x80000, loan["epoch"]) + VERSION)
                with contextlib.suppress(ConnectionError):
                    assert stranger.recv(1) == b""  # and no answer
    with RawClient(loan["socket"]) as client:
        assert client.read(CONFIG, 0, 2) != ONES[:2]


def test_signals_that_ask_for_no_end_are_none(lent):
    lender, borrower, _ = lent
    borrower.ok("borrow", "80000")
    for node in (lender, borrower):
        for name in ("HUP", "USR1", "USR2", "ALRM", "VTALRM", "PROF", "IO", "PIPE", "WINCH", "URG", "CONT", "CHLD"):
            node.process.send_signal(signal.Signals[f"SIG{name}"])
    assert borrower.status()["loans"] and lender.devices()["80000"]["state"] == "borrowed"


@pytest.mark.skipif("undefined" in sanitizer(), reason="this sanitizer's checks need descriptors themselves")
def test_without_descriptors_connections_wait_and_nothing_spins(pair):
    lender, _, _ = pair
    used = len(os.listdir(f"/proc/{lender.process.pid}/fd"))
    limit = resource.prlimit(lender.process.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(lender.process.pid, resource.RLIMIT_NOFILE, (used, limit[1]))
    with socket.socket(socket.AF_UNIX) as control:
        control.connect(str(lender.socket))
        wait_for(lambda: "no file descriptors left" in lender.text(), "it says so")
        before = lender.cpu_seconds()
        time.sleep(1)  # in which nothing may happen
        assert lender.cpu_seconds() - before < 0.2
        assert lender.text().count("no file descriptors left") == 1
    resource.prlimit(lender.process.pid, resource.RLIMIT_NOFILE, limit)
    assert lender.status()["node"] == 8


def test_the_soft_limit_of_descriptors_is_raised(pair):
    lender, _, _ = pair
    soft, hard = resource.prlimit(lender.process.pid, resource.RLIMIT_NOFILE)
    assert soft == hard


def test_peers_take_no_more_than_their_share_of_the_descriptors(world):
    lender = world.node(8, start=False)
    lender.wrapper = ["sh", "-c", 'ulimit -n 256 && exec "$0" "$@"']
    lender.start()
    peers = [socket.create_connection(("127.0.0.1", lender.port)) for _ in range(300)]
    wait_for(lambda: len(os.listdir(f"/proc/{lender.process.pid}/fd")) > 64, "they have been accepted")
    assert lender.status()["node"] == 8
    for peer in peers:
        peer.close()


@pytest.fixture
def crowded(world):
    """A loan, whose borrower may have 1,024 descriptors, with a client of its own; and a disk that is about to be lent."""
    lender, borrower, disk = world.node(8), world.node(4, start=False), world.disk()
    borrower.wrapper = ["sh", "-c", 'ulimit -n 1024 && exec "$0" "$@"']
    lend(lender, borrower.start(), disk)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
    path = borrower.ok("borrow", "80000").splitlines()[1]
    with contextlib.ExitStack() as crowd, RawClient(path) as client:
        yield lender, borrower, path, client, crowd
    borrower.ok("return", "80000")
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def goes_on(lender, borrower, client):
    """The client, its events, commands and the lender's connection work as ever."""
    assert len(client.read(CONFIG, 0, 4)) == 4
    client.set_error_interrupt()
    assert client.map(0x100000, 4096, fd=os.memfd_create("m")) != 0  # an empty file: refused, and not for want of one
    assert borrower.status()["node"] == 4
    assert lender.peer(4, "borrower") == "up" and borrower.peer(8, "lender") == "up"


def greet(crowd, borrower, number, device=None):
    """A peer with that number, which offers `device`."""
    peer = crowd.enter_context(socket.create_connection(("127.0.0.1", borrower.port), timeout=PATIENCE))
    with contextlib.suppress(ConnectionError):
        peer.sendall(frame({"type": "hello", "version": 1, "node": number, "to": 4, "boot_id": "x", "nonce": "0" * 64,
                            "fabrics": []}))
        if device:
            peer.sendall(frame({"type": "devices", "changed": [device], "removed": []}))
        peer.recv(5)


@pytest.mark.skipif("undefined" in sanitizer(), reason="this sanitizer's checks need descriptors themselves")
def test_a_thousand_lenders_are_too_many_and_end_no_loan(crowded):
    lender, borrower, _, client, crowd = crowded
    for number in range(1000, 2030):
        greet(crowd, borrower, number, {"id": f"{number:x}0000", "address": "vfio-user:/x", "name": "Disk", "vendor": 1,
                                        "device": 2, "class": 3, "state": "available", "borrower": 0})
    goes_on(lender, borrower, client)
    assert sum(peer["role"] == "lender" and peer["state"] == "up" for peer in borrower.status()["peers"]) <= 256


@pytest.mark.skipif("undefined" in sanitizer(), reason="this sanitizer's checks need descriptors themselves")
def test_a_thousand_greeted_peers_of_one_user_end_no_loan_and_keep_no_lender_out(world, crowded):
    lender, borrower, _, client, crowd = crowded
    for number in range(1000, 2030):
        greet(crowd, borrower, number)
    goes_on(lender, borrower, client)
    newcomer = world.node(9)
    newcomer.ok("connect", 4, "--address", borrower.address)
    goes_on(lender, borrower, client)


@pytest.mark.skipif("undefined" in sanitizer(), reason="this sanitizer's checks need descriptors themselves")
def test_clients_full_of_descriptors_end_no_loan_but_their_own(crowded):
    lender, borrower, path, client, crowd = crowded
    event = os.eventfd(0)
    for _ in range(58):
        hoarder = crowd.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        hoarder.connect(path)
        with contextlib.suppress(ConnectionError):  # a message that never ends
            socket.send_fds(hoarder, [struct.pack("<HHIII", 1, 1, 4096, 0, 0)], [event] * 16)
    time.sleep(0.5)  # until all that will be taken has been
    goes_on(lender, borrower, client)
    os.close(event)


def test_a_name_that_nobody_answers_for_holds_nobody_up(world, tmp_path):
    """The resolver's server takes questions and is silent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        try:
            silent.bind(("127.0.0.53", 53))
        except OSError as error:
            pytest.skip(f"no name server can be set up: {error}")
        resolv = tmp_path / "resolv.conf"
        resolv.write_text("nameserver 127.0.0.53\noptions timeout:5 attempts:3\n")
        lender = world.node(8, start=False)
        lender.wrapper = ["unshare", "--mount", "sh", "-c", 'mount --bind "$0" /etc/resolv.conf && exec "$@"', resolv]
        lender.start()
        borrower = world.node(4)
        stuck = lender.begin("connect", 5, "--address", "nobody.example:7808")
        start = time.monotonic()
        assert lender.tool("connect", 4, "--address", borrower.address).exit == 0
        assert sanitized() or time.monotonic() - start < 2
        assert stuck.wait(15) == 6
        assert "not found in time" in stuck.text()
        lender.ok("connect", 6, "--address", "nobody.example:7808", "--wait")
        start = time.monotonic()
        assert lender.end() == 0
        assert sanitized() or time.monotonic() - start < 3


def test_a_log_that_nobody_reads_ends_nothing(world):
    lender, borrower = world.node(8, start=False), world.node(4)
    lender.wrapper = ["sh", "-c", 'exec "$0" "$@" 2>/dev/full']
    lender.start()
    lender.ok("connect", 4, "--address", borrower.address)
    assert lender.end() == 0


def test_bridges_whose_server_dies_end_their_loans_only_and_come_back(world, lent):
    lender, borrower, _ = lent
    bridge = world.bridge()
    for node, end in ((lender, bridge.a), (borrower, bridge.b)):
        node.ok("config", "ntb", f"vfio-user:{end}")
    state = lambda node: [fabric["state"] for fabric in node.status()["fabrics"] if fabric["kind"] == "ntb"]
    wait_for(lambda: state(lender) == state(borrower) == ["up"], "the bridge is up")
    with RawClient(borrower.ok("borrow", "80000").splitlines()[1]) as raw:
        bridge.kill()
        wait_for(lambda: state(lender) == state(borrower) == ["down"], "both see that it is down")
        assert raw.read(CONFIG, 0, 2) != ONES[:2]
        bridge.start()
        wait_for(lambda: state(lender) == state(borrower) == ["up"], "the bridge is up again")
        assert raw.read(CONFIG, 0, 2) != ONES[:2]


def test_a_bridge_that_is_given_under_two_names_is_used_once(world):
    node, peer, bridge = world.node(8), world.node(4), world.bridge()
    link = world.place / "link"
    link.symlink_to(bridge.a)
    peer.ok("config", "ntb", f"vfio-user:{bridge.b}")
    node.ok("config", "ntb", f"vfio-user:{bridge.a},vfio-user:{link}")

    def fabrics():
        return {fabric["address"]: fabric for fabric in node.status()["fabrics"] if fabric["kind"] == "ntb"}
    wait_for(lambda: fabrics()[f"vfio-user:{bridge.a}"]["state"] == "up", "the bridge is up")
    other = fabrics()[f"vfio-user:{link}"]
    assert other["state"] == "down" and f"its server is that of the bridge vfio-user:{bridge.a}" in other["reason"]
    node.ok("config", "ntb", f"vfio-user:{link}")
    wait_for(lambda: [fabric["state"] for fabric in fabrics().values()] == ["up"], "it is up under its other name")

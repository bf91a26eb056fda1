# The page this project started from, "Lending out devices to other hosts", command by command: node 8 lends a simulated
# disk to node 4. Its filters are for devices of the host: tests/vm.
import json
import os
import re
import signal
import subprocess
import time

import pytest

from harness import NVME, TOOL, Process, check, run, sanitized, wait_for

LINE = re.compile(r"80000: Non-Volatile memory controller: \S.* \[([a-z0-9 ,]+)\]")


def shown(node):
    """What `list` says in brackets about the disk, which must be all it lists; None if it lists nothing."""
    lines = node.ok("list").splitlines()
    if not lines:
        return None
    found = LINE.fullmatch(lines[0])
    assert found and len(lines) == 1, lines
    return found[1]


def wait_shown(node, state, seconds=20):
    wait_for(lambda: shown(node) == state, f"'list' of node {node.number} shows [{state}]", seconds)


def wait_up(lender, borrower):
    wait_for(lambda: (lender.peer(borrower.number, "borrower"), borrower.peer(lender.number, "lender")) == ("up", "up"),
             "the two are connected")


def note(node, *words):
    """A command that has nothing left to do: exit 0, and one sentence that says so."""
    ran = node.tool(*words)
    assert ran.exit == 0 and ran.err.startswith("smartio_tool: ") and ran.err.count("\n") == 1, ran
    return ran


# Establishing connection to other nodes

def test_a_connection_is_one_way_from_lender_to_borrower(world):
    lender, borrower = world.node(8), world.node(4)
    assert lender.tool("connect", 4, "--address", borrower.address).out == ""
    wait_up(lender, borrower)
    assert lender.peer(4, "lender") is None and borrower.peer(8, "borrower") is None
    note(lender, "connect", 4)


def test_two_nodes_may_connect_in_both_directions(world):
    eight, four = world.node(8), world.node(4)
    document = eight.document("result", "connect", 4, "--address", four.address)
    assert document == {"schema_version": 1, "node": 4, "address": four.address, "state": "up"}
    four.ok("connect", 8, "--address", eight.address)
    wait_up(eight, four)
    wait_up(four, eight)
    assert eight.document("result", "disconnect", 4) == {"schema_version": 1, "node": 4}
    assert eight.peer(4, "borrower") is None and eight.peer(4, "lender") == "up"


def test_a_node_is_connected_to_itself_and_may_borrow_its_own_device(world):
    node, disk = world.node(8), world.disk()
    assert node.peer(8, "self") == "up"
    note(node, "connect", 8)
    node.ok("add", disk.device)
    node.ok("available", disk.device)
    assert node.ok("borrow", "80000").splitlines() == ["80000", f"{node.run_dir}/loans/80000/cntrl"]
    assert shown(node) == "borrowed by 8"
    node.ok("return", "80000")
    assert shown(node) == "available"


def test_the_address_of_a_node_may_come_from_the_configuration(world):
    borrower = world.node(4)
    lender = world.node(8, config={"nodes": {"4": borrower.address}})
    lender.ok("connect", 4)
    wait_up(lender, borrower)


def test_the_connection_comes_back_by_itself_when_the_borrower_was_down(world):
    lender, borrower = world.node(8), world.node(4)
    lender.ok("connect", 4, "--address", borrower.address)
    for how in [signal.SIGKILL, signal.SIGTERM]:
        assert borrower.end(how) == (0 if how == signal.SIGTERM else -how)
        wait_for(lambda: lender.peer(4, "borrower") != "up", "the lender notices")
        borrower.start()
        wait_up(lender, borrower)


def test_the_connection_comes_back_by_itself_when_the_lender_was_down(world):
    lender, borrower = world.node(8), world.node(4)
    lender.ok("connect", 4, "--address", borrower.address)
    for how in [signal.SIGKILL, signal.SIGTERM]:
        lender.end(how)
        wait_for(lambda: borrower.peer(8, "lender") != "up", "the borrower notices")
        lender.start()
        wait_up(lender, borrower)


def test_disconnect_is_for_good(lent):
    lender, borrower, _ = lent
    lender.ok("disconnect", 4)
    wait_for(lambda: shown(borrower) is None, "the borrower forgets the disk")
    note(lender, "disconnect", 4)
    lender.end()
    lender.start()
    assert lender.peer(4, "borrower") is None


def test_a_borrower_that_is_down_is_kept_with_wait_only(world):
    lender, borrower = world.node(8), world.node(4, start=False)
    lender.tool("connect", 4, "--address", borrower.address).failed(6)
    assert lender.peer(4, "borrower") is None
    lender.ok("connect", 4, "--address", borrower.address, "--wait")
    assert lender.peer(4, "borrower") in ("down", "connecting")
    borrower.start()
    wait_up(lender, borrower)


# Finding, adding and lending devices

def test_the_page_command_by_command(pair):
    lender, borrower, disk = pair
    lender.ok("connect", 4, "--address", borrower.address)
    assert lender.tool("add", disk.device).out == ""
    assert shown(lender) == "unavailable"
    wait_shown(borrower, "unavailable")
    note(lender, "add", disk.device)
    borrower.tool("borrow", "80000").failed(4)

    assert lender.tool("available", disk.device).out == ""
    assert shown(lender) == "available"
    wait_shown(borrower, "available")
    note(lender, "available", disk.device)
    lender.tool("remove", disk.device).failed(4)

    socket = f"{borrower.run_dir}/loans/80000/cntrl"
    assert borrower.ok("borrow", "80000").splitlines() == ["80000", socket]
    assert shown(borrower) == "borrowed by 4"
    wait_shown(lender, "borrowed by 4")
    again = note(borrower, "borrow", "80000")
    assert again.out.splitlines() == ["80000", socket]
    lender.tool("borrow", "80000").failed(4)
    lender.tool("remove", "80000").failed(4)

    borrower.ok("return", "80000")
    wait_shown(lender, "available")
    wait_shown(borrower, "available")
    assert not os.path.exists(socket)

    borrower.ok("borrow", "80000")
    start = time.monotonic()
    lender.ok("unavailable", disk.device)
    assert sanitized() or time.monotonic() - start < 5
    assert shown(lender) == "unavailable"
    wait_shown(borrower, "unavailable")
    note(lender, "unavailable", disk.device)
    borrower.tool("borrow", "80000").failed(4)

    lender.ok("remove", disk.device)
    assert shown(lender) is None
    wait_for(lambda: shown(borrower) is None, "the borrower forgets the disk")
    lender.tool("remove", disk.device).failed(3)
    lender.ok("disconnect", 4)
    wait_for(lambda: borrower.peer(8, "lender") is None, "the borrower forgets the lender")


def test_every_document_of_the_page_is_what_its_schema_says(pair):
    lender, borrower, disk = pair
    for words in [("list",), ("status",)]:
        for node in (lender, borrower):
            node.document(words[0], *words)
    lender.document("result", "connect", 4, "--address", borrower.address)
    assert lender.document("result", "add", disk.device) == {"schema_version": 1, "device": "80000"}
    lender.document("show", "show", disk.device)
    assert lender.document("result", "available", "80000")["device"] == "80000"
    wait_for(lambda: "80000" in borrower.devices(), "the borrower sees the disk")
    found = borrower.devices()["80000"]
    assert found["node"] == 8 and found["address"] == disk.device and found["bdf"] is None
    assert found["class"] == "010802" and found["reachable"] and found["borrower"] is None
    wait_shown(borrower, "available")
    loan = borrower.document("result", "borrow", "80000", "64M")
    assert loan["socket"].startswith(str(borrower.run_dir))
    wait_shown(lender, "borrowed by 4")
    for node in (lender, borrower):
        status = node.status()
        assert [(each["device"], each["borrower"]) for each in status["loans"]] == [("80000", 4)]
        shown_ = node.document("show", "show", "80000")
        assert shown_["loan"]["borrower"] == 4 and shown_["device"]["state"] == "borrowed"
        assert shown_["interface"] == "vfio-user"
    bars = lender.document("show", "show", "80000")
    assert bars["bars"][0]["size"] > 0 and bars["vectors"] > 0
    assert borrower.status()["loans"][0]["socket"] == loan["socket"]
    assert any(fabric["kind"] == "local" for fabric in borrower.status()["fabrics"])
    borrower.document("result", "return", "80000")
    lender.document("result", "unavailable", "80000")
    lender.document("result", "remove", "80000")
    lender.document("result", "scan")
    lender.document("result", "config")
    lender.document("result", "disconnect", 4)


def test_text_of_show_and_status_names_what_matters(lent):
    lender, borrower, disk = lent
    borrower.ok("borrow", "80000")
    for node in (lender, borrower):
        assert "80000" in node.ok("status") and "Non-Volatile" in node.ok("show", "80000")
    assert str(borrower.run_dir) in borrower.ok("show", "80000")
    assert disk.device in lender.ok("show", "80000")


def watch(node, disk):
    """Runs `monitor --json` on a node; gives the program and the file it writes, once it listens."""
    path = node.run_dir / "events"
    with open(path, "wb") as out:
        program = Process(TOOL, "--run-dir", node.run_dir, "monitor", "--json", stdout=out)

    def heard():
        node.ok("add", disk.device)
        node.ok("remove", disk.device)
        return path.read_text().count("device-removed") > 0
    wait_for(heard, "monitor tells an event")
    return program, path


def test_monitor_tells_what_happens_on_both_nodes(pair):
    lender, borrower, disk = pair
    watches = [watch(node, disk) for node in (lender, borrower)]
    try:
        lender.ok("connect", 4, "--address", borrower.address)
        lender.ok("add", disk.device)
        lender.ok("available", disk.device)
        wait_shown(borrower, "available")
        borrower.ok("borrow", "80000")
        lender.ok("unavailable", "80000")
        wait_shown(borrower, "unavailable")
        lender.ok("remove", "80000")
        for node in (lender, borrower):
            node.end()
        assert [program.wait(20) for program, _ in watches] == [6, 6]
    finally:
        for program, _ in watches:
            program.kill()
            program.wait()
    told = [[json.loads(line) for line in path.read_text().splitlines()] for _, path in watches]
    for lines in told:
        check(lines.pop(), "error")
        numbers = [check(event, "event")["seq"] for event in lines]
        assert numbers == sorted(set(numbers))
    kinds = [" ".join(event["event"] for event in lines) for lines in told]
    assert re.search("peer-up .*device-added .*device-available .*device-borrowed .*device-unavailable .*device-removed",
                     kinds[0]), kinds[0]
    assert re.search("peer-up .*loan-opened .*loan-taken-back", kinds[1]), kinds[1]


# Rebooted nodes

def test_a_rebooted_lender_restores_its_devices_and_connections(lent):
    lender, borrower, disk = lent
    for how in [signal.SIGTERM, signal.SIGKILL]:
        lender.end(how)
        wait_shown(borrower, "available, unreachable")
        borrower.tool("borrow", "80000").failed(6)
        lender.start()
        wait_shown(borrower, "available")
        assert shown(lender) == "available"
    borrower.ok("borrow", "80000")
    assert lender.devices()["80000"]["address"] == disk.device


def test_a_rebooted_lender_keeps_what_was_unavailable_unavailable_and_ids_as_they_were(world):
    lender, first, second = world.node(8), world.disk("a"), world.disk("b")
    lender.ok("add", first.device)
    lender.ok("add", second.device)
    lender.ok("available", second.device)
    lender.ok("remove", first.device)
    lender.kill()
    lender.start()
    wait_for(lambda: {id_: device["state"] for id_, device in lender.devices().items()} == {"80001": "available"},
             "the second disk is available again")
    lender.ok("unavailable", "80001")
    lender.kill()
    lender.start()
    wait_for(lambda: "80001" in lender.devices(), "the second disk is there again")
    assert lender.devices()["80001"]["state"] == "unavailable"


def test_a_rebooted_borrower_is_reconnected_and_its_loan_has_ended(lent):
    lender, borrower, _ = lent
    for how in [signal.SIGKILL, signal.SIGTERM]:
        borrower.ok("borrow", "80000")
        borrower.end(how)
        wait_shown(lender, "available")
        borrower.start()
        assert not (borrower.run_dir / "loans").exists()  # what a killed one left
        wait_shown(borrower, "available")


def test_the_loan_of_a_lender_that_dies_ends_at_the_borrower(lent):
    lender, borrower, _ = lent
    borrower.ok("borrow", "80000")
    lender.kill()
    wait_for(lambda: not borrower.status()["loans"], "the loan ends")
    assert not os.path.exists(f"{borrower.run_dir}/loans/80000/cntrl")
    lender.start()
    wait_shown(borrower, "available")
    borrower.ok("borrow", "80000")


def test_a_silent_borrower_loses_its_loan_and_gets_it_again(lent):
    lender, borrower, _ = lent
    borrower.ok("borrow", "80000")
    borrower.process.send_signal(signal.SIGSTOP)
    try:
        wait_shown(lender, "available")
    finally:
        borrower.process.send_signal(signal.SIGCONT)
    wait_shown(borrower, "available")
    borrower.ok("borrow", "80000")


def test_a_device_whose_server_died_cannot_be_borrowed_until_it_is_back(lent):
    lender, borrower, disk = lent
    disk.kill()
    wait_for(lambda: shown(lender) != "available", "the lender notices")
    assert borrower.tool("borrow", "80000").exit in (4, 6)
    disk.start()
    lender.ok("available", "--force", disk.device)
    wait_shown(borrower, "available")
    borrower.ok("borrow", "80000")


# Using what was borrowed

def nvme(node, *words, data=None):
    done = run(NVME, *words, input=data, env={**os.environ, "SMARTIO_RUN_DIR": str(node.run_dir)})
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(not NVME.exists(), reason="smartio_nvme is not built")
def test_what_the_borrower_writes_is_on_the_lenders_disk(lent):
    _, borrower, disk = lent
    data = os.urandom(disk.file.stat().st_size)
    borrower.ok("borrow", "80000")
    nvme(borrower, "80000", "write", "0", data=data)
    assert nvme(borrower, "80000", "read", "0", str(len(data) // 512)) == data
    assert disk.file.read_bytes()[:len(data)] == data
    assert shown(borrower) == "borrowed by 4"  # it waits for its next client


@pytest.mark.skipif(not NVME.exists(), reason="smartio_nvme is not built")
def test_a_program_borrows_for_itself_and_returns_however_it_ends(lent):
    lender, borrower, disk = lent
    data = os.urandom(4096)
    nvme(borrower, "80000", "write", "0", data=data)
    assert disk.file.read_bytes()[:4096] == data
    wait_shown(lender, "available")
    with bench(borrower) as program:
        wait_shown(lender, "borrowed by 4")
        program.kill()
    wait_shown(lender, "available")


def bench(node):
    return Process(NVME, "80000", "bench", "--seconds", 60,
                   env={**os.environ, "SMARTIO_RUN_DIR": str(node.run_dir)})


@pytest.mark.skipif(not NVME.exists(), reason="smartio_nvme is not built")
def test_unavailable_takes_the_device_back_within_a_second_from_a_program_in_mid_io(lent):
    lender, borrower, disk = lent
    with bench(borrower) as program:
        try:
            wait_shown(lender, "borrowed by 4")
            time.sleep(0.3)  # in mid-I/O
            start = time.monotonic()
            lender.ok("unavailable", disk.device)
            assert sanitized() or time.monotonic() - start < 1.5
            assert shown(lender) == "unavailable"
            assert program.wait(20) not in (0, -signal.SIGSEGV, -signal.SIGBUS, -signal.SIGABRT)
        finally:
            program.kill()
    lender.ok("available", disk.device)
    wait_shown(borrower, "available")
    nvme(borrower, "80000", "identify")


# Running a command with a device

def run_with_disk(node, *command):
    return Process(TOOL, "--run-dir", node.run_dir, "run", "80000", *command, stdout=subprocess.PIPE, text=True)


def test_run_borrows_for_the_command_and_has_returned_when_it_ends(lent):
    lender, borrower, _ = lent
    for command, code in [("test -S {socket}", 0), ("exit 3", 3), ("kill -9 $$", 137)]:
        ran = borrower.tool("run", "80000", "sh", "-c", f"test -S {{socket}} || exit 99; {command}")
        assert (ran.exit, ran.err) == (code, "")
        assert shown(borrower) == "available" and shown(lender) == "available"


def test_run_that_is_killed_returns_the_device_too(lent):
    lender, borrower, _ = lent
    with run_with_disk(borrower, "sh", "-c", "echo $$; exec sleep 60") as process:
        command = int(process.stdout.readline())
        try:
            assert shown(lender) == "borrowed by 4"
            process.kill()
            wait_shown(lender, "available")
        finally:
            os.kill(command, signal.SIGKILL)


def test_run_uses_the_loan_of_its_node_and_leaves_it(lent):
    _, borrower, _ = lent
    socket = borrower.ok("borrow", "80000").splitlines()[1]
    ran = borrower.tool("run", "80000", "echo", "{socket}")
    assert (ran.exit, ran.out, ran.err) == (0, f"{socket}\n", "smartio_tool: device 80000 stays borrowed\n")
    assert shown(borrower) == "borrowed by 4"
    assert borrower.tool("run", "80000", "smartio_tool").exit in (126, 127)
    assert shown(borrower) == "borrowed by 4"


@pytest.mark.skipif(not NVME.exists(), reason="smartio_nvme is not built")
def test_run_gives_the_device_to_programs_of_ours_too(lent):
    _, borrower, _ = lent
    for device in ["80000", "vfio-user:{socket}"]:
        ran = borrower.tool("run", "80000", NVME, "--run-dir", borrower.run_dir, device, "identify", "--json")
        assert ran.exit == 0 and "SIM" in ran.out, ran
        assert shown(borrower) == "available"


def test_run_refuses_what_is_in_use_and_what_is_not_lent(lent):
    lender, borrower, _ = lent
    with run_with_disk(borrower, "sh", "-c", "echo ready; exec sleep 60") as process:
        assert process.stdout.readline() == "ready\n"
        lender.tool("run", "80000", "true").failed(4)
        process.terminate()
        assert process.wait(20) == 128 + signal.SIGTERM
    borrower.tool("run", "80077", "true").failed(3)
    lender.ok("unavailable", "80000")
    borrower.tool("run", "80000", "true").failed(4)


def test_a_command_whose_device_is_taken_back_goes_on(lent):
    lender, borrower, _ = lent
    with run_with_disk(borrower, "sh", "-c", "echo ready; sleep 1; echo still; exit 6") as process:
        assert process.stdout.readline() == "ready\n"
        lender.ok("unavailable", "80000")
        out = process.communicate(timeout=20)[0]
    assert (process.returncode, out) == (6, "still\n")
    assert process.text() == "smartio_tool: device 80000 is not borrowed by this node\n"

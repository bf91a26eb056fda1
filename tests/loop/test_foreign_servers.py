# Devices lent whose servers are not of this project, and use what the vfio-user specification leaves to them.
import errno
import os
import threading
import time

import pytest

from harness import context_switches, sanitizer, wait_for
from raw_client import CONFIG, GET_INFO, READ, REGION_READ, WRITE, RawClient, guest_memory
from raw_server import CAN_RESET, PCI, RawServer

PAGE = 4096


@pytest.fixture
def server(tmp_path):
    with RawServer(tmp_path / "device.sock") as made:
        yield made


@pytest.fixture
def nodes(world):
    lender, borrower = world.node(8), world.node(4)
    lender.ok("connect", 4, "--address", borrower.address)
    return lender, borrower


def lend(nodes, server):
    lender, borrower = nodes
    lender.ok("add", server.device)
    lender.ok("available", server.device)
    wait_for(lambda: borrower.devices().get("80000", {}).get("state") == "available", "the borrower sees the device")


def borrow(node):
    return node.ok("borrow", "80000").splitlines()[1]


def test_a_device_that_cannot_be_reset_is_not_lent_unless_its_owner_says_so(nodes, server):
    lender, borrower = nodes
    server.flags = PCI
    lender.ok("add", server.device)
    refused = lender.tool("available", server.device)
    assert refused.exit == 5 and "cannot reset it" in refused.err and "--without-reset" in refused.err
    lender.ok("available", "--without-reset", server.device)
    wait_for(lambda: borrower.devices().get("80000", {}).get("state") == "available", "the borrower sees the device")
    with RawClient(borrow(borrower)) as client:
        client.write(0, 0, b"kept")
    borrower.ok("return", "80000")
    lender.end()
    lender.start()  # it is remembered
    wait_for(lambda: lender.devices().get("80000", {}).get("state") == "available", "the device is available again")
    lender.ok("unavailable", "80000")
    assert lender.tool("available", "80000").exit == 5
    server.flags = PCI | CAN_RESET
    lender.ok("available", "80000")


def test_a_server_reads_and_writes_by_message_what_the_loan_has_mapped_and_nothing_else(nodes, server):
    lend(nodes, server)
    memory, registers = guest_memory(4 * PAGE), bytes(range(256)) * 16
    os.pwrite(memory, registers, PAGE)
    with RawClient(borrow(nodes[1])) as client:
        assert client.map(0x10000, 2 * PAGE, READ | WRITE, memory, PAGE) == 0
        assert client.map(0x20000, PAGE, READ, memory) == 0
        assert client.map(0x30000, PAGE, WRITE, memory) == 0
        assert server.dma_read(0x10000, PAGE) == registers
        assert server.dma_write(0x10000 + PAGE + 5, b"written") == b""
        assert os.pread(memory, 7, 2 * PAGE + 5) == b"written"
        assert server.dma_write(0x20000, b"no") == errno.EACCES and server.dma_read(0x30000, 4) == errno.EACCES
        assert server.dma_write(0x10000 + 2 * PAGE - 1, b"no") == errno.EFAULT
        assert server.dma_read(0x10000 - 1, 2) == errno.EFAULT and server.dma_read((1 << 64) - 2, 4) == errno.EFAULT
        assert os.pread(memory, PAGE, 0) == bytes(PAGE) and os.pread(memory, 1, 3 * PAGE - 1) == b"\0"
        assert client.unmap(0x10000, 2 * PAGE)
        assert server.dma_read(0x10000, 4) == errno.EFAULT and server.dma_write(0x10000, b"no") == errno.EFAULT
        assert server.dma_write(0x30000, b"yes") == b"" and os.pread(memory, 3, 0) == b"yes"
    wait_for(lambda: server.resets == 1, "the device is reset after its client")
    with RawClient(nodes[1].status()["loans"][0]["socket"]):
        assert server.dma_read(0x20000, 4) == errno.EFAULT  # the next client has mapped nothing
    os.close(memory)


def test_a_server_that_ends_after_each_client_and_is_started_again_is_lent_all_the_same(nodes, server):
    lender, borrower = nodes
    timers = []

    def start_again():
        server.close()
        timers.append(threading.Timer(0.4, server.start))
        timers[-1].start()

    server.on_leave = start_again
    lend(nodes, server)
    socket = borrow(borrower)
    for _ in range(3):
        with RawClient(socket) as client:
            assert client.read(CONFIG, 0, 2) == b"\x34\x12"
        wait_for(lambda: borrower.status()["loans"][0]["client"] is None, "the client has left")
    borrower.ok("return", "80000")
    assert lender.devices()["80000"]["state"] == "available"
    server.on_leave = lambda: None
    for timer in timers:
        timer.join()
    assert server.clients == 5  # to be looked at, to be available, and after each of its clients


@pytest.mark.parametrize("in_use", [False, True])
def test_a_device_whose_server_dies_is_available_again_when_that_is_back(nodes, server, in_use):
    lender, borrower = nodes
    lend(nodes, server)
    client = RawClient(borrow(borrower)) if in_use else None
    server.close()
    wait_for(lambda: lender.devices()["80000"]["state"] == "quarantined", "its loss is noticed")
    if client:
        client.socket.close()
    server.start()
    wait_for(lambda: lender.devices()["80000"]["state"] == "available", "the device is available again")
    with RawClient(borrow(borrower)) as again:
        assert again.read(CONFIG, 0, 2) == b"\x34\x12"
    server.close()
    lender.ok("unavailable", "80000")
    server.start()
    assert lender.devices()["80000"]["state"] == "unavailable"


@pytest.mark.parametrize("what, answers, spoil, says", [
    ("an answer of the wrong size", {REGION_READ: lambda _: b"short"}, None, "gave a malformed answer to REGION_READ"),
    ("another command's answer", {}, lambda message: message[:2] + b"\x0d\0" + message[4:], "nobody waits for to RESET"),
    ("no message", {}, lambda message: message[:4] + b"\xff\xff\xff\xff" + message[8:], "sent what is no message"),
    ("its end", {}, lambda message: b"", "closed the connection")])
def test_what_a_server_did_that_lost_its_device_is_told(nodes, server, what, answers, spoil, says):
    lender, borrower = nodes
    lend(nodes, server)
    with RawClient(borrow(borrower)) as client:
        client.read(CONFIG, 0, 2)
        server.answers = answers
        if spoil:
            server.spoil = lambda command, message: spoil(message) if command == REGION_READ else message
        if what == "its end":
            server.close()
        else:
            client.read(CONFIG, 0, 2)
        wait_for(lambda: lender.devices()["80000"]["state"] == "quarantined", "its loss is noticed")
        assert f"the device's server at {server.path} " in reason(lender) and says in reason(lender)


def test_a_device_whose_server_answers_nonsense_is_not_added_and_it_is_said_why(nodes, server):
    server.answers = {GET_INFO: lambda _: b"?"}
    refused = nodes[0].tool("add", server.device)
    assert refused.exit != 0 and f"the device's server at {server.path} gave a malformed answer to GET_INFO" in refused.err


def test_a_node_that_starts_before_its_devices_server_finds_it_later(nodes, server):
    lender, _ = nodes
    lend(nodes, server)
    lender.end()
    server.close()
    lender.start()
    wait_for(lambda: "80000" in lender.devices(), "the node has looked for it")
    assert lender.devices()["80000"]["state"] == "unavailable"
    server.start()
    wait_for(lambda: lender.devices()["80000"]["state"] == "available", "the device is available again")


def reason(node):
    return str(node.document("show", "show", "80000")["reason"])


@pytest.mark.parametrize("when", ["while it is lent", "at a start"])
def test_another_server_on_a_devices_socket_is_not_lent_and_the_right_one_is_when_it_is_back(nodes, server, when):
    lender, _ = nodes
    lend(nodes, server)
    if when == "at a start":
        lender.end()
    server.close()
    mine, server.config[2:4] = bytes(server.config[2:4]), b"\x10\x00"
    if when != "at a start":
        wait_for(lambda: lender.devices()["80000"]["state"] == "quarantined", "its loss is noticed")
    server.start()
    if when == "at a start":
        lender.start()
        wait_for(lambda: "80000" in lender.devices(), "the node has looked for it")
    wait_for(lambda: "another device is in its place (1234:0010" in reason(lender), "it was looked at")
    assert lender.devices()["80000"]["state"] != "available"
    server.close()
    server.config[2:4] = mine
    server.start()
    wait_for(lambda: lender.devices()["80000"]["state"] == "available", "the device is available again")


def test_a_server_that_binds_its_socket_long_before_it_serves_is_found_all_the_same(nodes, server):
    lender, _ = nodes
    lend(nodes, server)
    server.close()
    wait_for(lambda: lender.devices()["80000"]["state"] == "quarantined", "its loss is noticed")
    server.bind()
    wait_for(lambda: "No vfio-user server" in reason(lender), "it was tried, and did not serve yet")
    server.listen()
    wait_for(lambda: lender.devices()["80000"]["state"] == "available", "the device is available again", 20)


@pytest.mark.skipif(sanitizer() == "thread", reason="the sanitizer has a thread that wakes up by itself")
def test_a_device_that_somebody_else_uses_is_not_asked_for_again_and_again(world):
    lender, disk = world.node(8), world.disk()
    with RawClient(disk.socket):
        lender.ok("add", disk.device)
        time.sleep(1)  # what was going on has ended
        before = context_switches(lender)
        time.sleep(7)
        assert context_switches(lender) - before <= 3


def also_called(server, folder):
    """Names of the server: links to it, to its directory, to a link; a hard link; detours."""
    (folder / "link").symlink_to(server.path)
    (folder / "chain").symlink_to(folder / "link")
    (folder / "folder").symlink_to(server.path.parent)
    os.link(server.path, folder / "hard")
    name = server.path.name
    return [folder / "link", folder / "chain", folder / "folder" / name, folder / "hard",
            f"{server.path.parent}/./{name}", f"{server.path.parent}//{name}", f"{folder}/folder/../{server.path.parent.name}/{name}"]


@pytest.mark.parametrize("available", [False, True])
def test_a_server_that_is_added_under_another_name_is_the_device_that_it_is_already(nodes, server, tmp_path_factory, available):
    lender, _ = nodes
    lender.ok("add", server.device)
    if available:
        lender.ok("available", "80000")
    clients = server.clients
    for name in also_called(server, tmp_path_factory.mktemp("names")):
        again = lender.tool("add", f"vfio-user:{name}")
        assert again.exit == 0
        assert f"leads to the server of {server.device}, which is device 80000 already" in again.err
    assert server.clients == clients  # it was not asked
    assert [device["address"] for device in lender.devices().values()] == [server.device]
    lender.end()
    lender.start()
    wait_for(lambda: "80000" in lender.devices(), "the node has looked for it")
    assert [device["address"] for device in lender.devices().values()] == [server.device]


def test_two_names_that_come_to_lead_to_one_server_are_not_lent_twice(nodes, server, tmp_path):
    lender, borrower = nodes
    link = tmp_path / "link"
    with RawServer(tmp_path / "other.sock") as other:
        link.symlink_to(other.path)
        lend(nodes, server)
        lender.ok("add", f"vfio-user:{link}")
        link.unlink()
        link.symlink_to(server.path)
        refused = lender.tool("available", f"vfio-user:{link}")
        assert refused.exit == 4
        assert f"its server is that of device 80000, which was added as {server.device}: remove one of the two" in refused.err
        assert server.clients == 2  # to add it, and to lend it
        assert borrower.devices()["80001"]["state"] == "unavailable" and borrower.devices()["80000"]["state"] == "available"
        link.unlink()
        link.symlink_to(other.path)
        lender.ok("available", f"vfio-user:{link}")
        borrower.ok("borrow", "80001")
        link.unlink()
        link.symlink_to(server.path)  # while it is lent: it is opened anew for the next one
        borrower.ok("return", "80001")
        wait_for(lambda: lender.devices()["80001"]["state"] == "quarantined", "it does not meet the other one")
        assert "its server is that of device 80000" in lender.document("show", "show", "80001")["reason"]
        lender.ok("unavailable", "80000")
        wait_for(lambda: lender.devices()["80001"]["state"] == "available", "the server is free for its other name")
        assert lender.tool("available", "80000").exit == 4


def test_a_state_file_that_holds_one_server_twice_is_kept_and_the_server_lent_once(nodes, server, tmp_path):
    lender, _ = nodes
    link = tmp_path / "link"
    with RawServer(link):
        lend(nodes, server)
        lender.ok("add", f"vfio-user:{link}")
        lender.ok("available", "80001")
        lender.end()
    link.symlink_to(server.path)
    lender.start()

    def states():
        return sorted(device["state"] for device in lender.devices().values())
    wait_for(lambda: states() == ["available", "unavailable"], "the server is lent under one of its names")
    lent = next(id_ for id_, device in lender.devices().items() if device["state"] == "available")
    other = "80001" if lent == "80000" else "80000"
    wait_for(lambda: f"its server is that of device {lent}" in str(lender.document("show", "show", other)["reason"]),
             "it is said why the other one is not")
    lender.ok("unavailable", lent)
    lender.ok("remove", lent)
    wait_for(lambda: lender.devices()[other]["state"] == "available", "the other name has it now")

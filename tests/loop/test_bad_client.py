# Hostile clients on the socket of a loan: the right errno or the end of the connection, no descriptor left in either
# daemon, and another loan of the same nodes at work all the while.
import contextlib
import errno
import os
import socket
import struct

import pytest

from harness import PATIENCE, wait_for
from raw_client import (CONFIG, DMA_MAP, DMA_UNMAP, ERR, GET_INFO, READ, REGION_READ, REGION_WRITE, RESET, SET_IRQS,
                        VERSION, WRITE, RawClient, guest_memory)

MEMORY = 16 << 20
MSIX = 2
ASSIGN, DISABLE, MASK = 0x24, 0x21, 0x09
LARGEST = (1 << 64) - 1
NO_REPLY = 16


class Loans:
    """Two disks of node 8 that node 4 has borrowed: the first is attacked, the second has a client at work."""

    def __init__(self, world):
        self.lender, self.borrower = world.node(8), world.node(4)
        self.disks = [world.disk(name) for name in ("a", "b")]
        self.lender.ok("connect", 4, "--address", self.borrower.address)
        for disk in self.disks:
            self.lender.ok("add", disk.device)
            self.lender.ok("available", disk.device)
        wait_for(lambda: {"80000", "80001"} <= set(self.borrower.devices()), "the borrower sees the disks")
        self.attacked, other = (self.borrower.ok("borrow", id_).splitlines()[1] for id_ in ("80000", "80001"))
        self.memory = guest_memory(MEMORY)
        self.other = RawClient(other)
        assert self.other.map(0, MEMORY, fd=self.memory) == 0
        with RawClient(self.attacked) as client:  # what the daemons open once
            client.read(CONFIG, 0, 4)
        self.wait_idle()
        self.before = self.descriptors()

    def descriptors(self):
        return [len(os.listdir(f"/proc/{node.process.pid}/fd")) for node in (self.lender, self.borrower)]

    def loan(self, id_):
        return next(loan for loan in self.borrower.status()["loans"] if loan["device"] == id_)

    def wait_idle(self):
        wait_for(lambda: self.loan("80000")["client"] is None, "the client has left")
        wait_for(lambda: self.disks[0].counters()["windows"] == 0, "its memory is unmapped")

    def check(self):
        """All is as it was before the attack."""
        self.wait_idle()
        wait_for(lambda: self.descriptors() == self.before, f"descriptors are closed: {self.before}")
        assert self.other.read(CONFIG, 0, 4) not in (None, b"\xff\xff\xff\xff")
        assert self.disks[1].counters()["windows"] == 1
        with RawClient(self.attacked) as client:
            assert client.map(0, MEMORY, fd=self.memory) == 0 and len(client.read(CONFIG, 0, 4)) == 4
        self.wait_idle()


@pytest.fixture(scope="module")
def loans(shared_world):
    made = Loans(shared_world)
    yield made
    made.other.socket.close()
    os.close(made.memory)


@pytest.fixture
def client(loans):
    with RawClient(loans.attacked) as made:
        yield made
    loans.check()


def dma_map(flags=READ | WRITE, offset=0, iova=0, size=4096, argsz=32):
    return DMA_MAP, struct.pack("<IIQQQ", argsz, flags, offset, iova, size)


def unmap(iova=0, size=4096, flags=0, argsz=24):
    return DMA_UNMAP, struct.pack("<IIQQ", argsz, flags, iova, size)


def access(command, region, offset, count, data=b""):
    return command, struct.pack("<QII", offset, region, count) + data


def irqs(flags, index, start, count, data=b"", argsz=20):
    return SET_IRQS, struct.pack("<IIIII", argsz, flags, index, start, count) + data


# name: message, kinds of descriptors with it, errno. All leave the connection as it was.
REFUSED = {
    "unknown command": ((4711, b""), "", errno.EOPNOTSUPP),
    "second VERSION": ((VERSION, struct.pack("<HH", 0, 1) + b"{}\0"), "", errno.EINVAL),
    "info argsz 0": ((GET_INFO, struct.pack("<IIII", 0, 0, 0, 0)), "", errno.EINVAL),
    "info argsz 15": ((GET_INFO, struct.pack("<IIII", 15, 0, 0, 0)), "", errno.EINVAL),
    "region 9": (access(REGION_READ, 9, 0, 4), "", errno.EINVAL),
    "region 2^32-1": (access(REGION_READ, (1 << 32) - 1, 0, 4), "", errno.EINVAL),
    "read wraps": (access(REGION_READ, 0, LARGEST - 1, 4), "", errno.EINVAL),
    "read of nothing": (access(REGION_READ, 0, 0, 0), "", errno.EINVAL),
    "read of 4 GiB": (access(REGION_READ, 0, 0, (1 << 32) - 1), "", errno.EINVAL),
    "read behind the end": (access(REGION_READ, CONFIG, 4095, 2), "", errno.EINVAL),
    "write count above data": (access(REGION_WRITE, CONFIG, 4, 4, b"x"), "", errno.EINVAL),
    "write count below data": (access(REGION_WRITE, CONFIG, 4, 1, b"xx"), "", errno.EINVAL),
    "two actions": (irqs(0x31, MSIX, 0, 1), "", errno.EINVAL),
    "two kinds of data": (irqs(0x25, MSIX, 0, 1), "e", errno.EINVAL),
    "no data": (irqs(0x20, MSIX, 0, 1), "", errno.EINVAL),
    "start behind the last": (irqs(ASSIGN, MSIX, 5000, 1), "e", errno.EINVAL),
    "start and count wrap": (irqs(ASSIGN, MSIX, (1 << 32) - 1, 2), "ee", errno.EINVAL),
    "count 0 from 1 on": (irqs(DISABLE, MSIX, 1, 0), "", errno.EINVAL),
    "fewer events than count": (irqs(ASSIGN, MSIX, 0, 3), "ee", errno.EINVAL),
    "events with NONE": (irqs(DISABLE, MSIX, 0, 1), "e", errno.EINVAL),
    "BOOL too short": (irqs(0x22, MSIX, 0, 2, b"\1"), "", errno.EINVAL),
    "BOOL too long": (irqs(0x22, MSIX, 0, 1, b"\1\1"), "", errno.EINVAL),
    "mask of ERR": (irqs(MASK, ERR, 0, 1), "", errno.EINVAL),
    "two of ERR": (irqs(ASSIGN, ERR, 0, 2), "ee", errno.EINVAL),
    "interrupt that is a pipe": (irqs(ASSIGN, MSIX, 0, 1), "p", errno.EINVAL),
    "interrupt that is memory": (irqs(ASSIGN, MSIX, 0, 1), "m", errno.EINVAL),
    "map of nothing": (dma_map(size=0), "m", errno.EINVAL),
    "map of half a page": (dma_map(size=2048), "m", errno.EINVAL),
    "map at an odd address": (dma_map(iova=512), "m", errno.EINVAL),
    "map wraps": (dma_map(iova=LARGEST - 4095, size=8192), "m", errno.EINVAL),
    "map without rights": (dma_map(flags=0), "m", errno.EINVAL),
    "map with unknown flags": (dma_map(flags=0x83), "m", errno.EINVAL),
    "map of two descriptors": (dma_map(), "mm", errno.EINVAL),
    "map to write what is read-only": (dma_map(), "r", errno.EACCES),
    "map of a pipe": (dma_map(), "p", errno.EINVAL),
    "map of a directory": (dma_map(flags=READ), "d", errno.EINVAL),
    "map of a socket": (dma_map(), "s", errno.EINVAL),
    "map of an eventfd": (dma_map(), "e", errno.EINVAL),
    "map behind the file's end": (dma_map(offset=MEMORY), "m", errno.EINVAL),
    "map across the file's end": (dma_map(offset=MEMORY - 4096, size=8192), "m", errno.EINVAL),
    "map at an offset that wraps": (dma_map(offset=LARGEST - 4095, size=8192), "m", errno.EINVAL),
    "overlapping map": (dma_map(iova=(1 << 40) + 4096), "m", errno.EEXIST),
    "the same map again": (dma_map(iova=1 << 40, size=3 * 4096), "m", errno.EEXIST),
    "unmap of the first page of a window": (unmap(1 << 40), "", errno.EINVAL),
    "unmap of the middle of a window": (unmap((1 << 40) + 4096), "", errno.EINVAL),
    "unmap across the end of a window": (unmap((1 << 40) + 4096, 3 * 4096), "", errno.EINVAL),
    "unmap of nothing": (unmap(0, 0), "", errno.EINVAL),
    "unmap of all with an address": (unmap(4096, 0, flags=2), "", errno.EINVAL),
    "unmap wraps": (unmap(LARGEST - 4095, 8192), "", errno.EINVAL),
    "reset with a payload": ((RESET, b"x"), "", errno.EINVAL)}


@contextlib.contextmanager
def descriptors(kinds, memory):
    """Open descriptors: Event, Memory, Read-only memory, Pipe, Directory, Socket."""
    ends = os.pipe()
    pair = socket.socketpair()
    opened = {"e": os.eventfd(0), "m": os.dup(memory), "r": os.open(f"/proc/self/fd/{memory}", os.O_RDONLY),
              "p": ends[0], "d": os.open("/", os.O_RDONLY), "s": pair[0].detach()}
    yield [opened[kind] for kind in kinds]
    for fd in [*opened.values(), ends[1]]:
        os.close(fd)
    pair[1].close()


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_wrong_gets_its_errno_and_changes_nothing(loans, client, name):
    (command, payload), kinds, number = REFUSED[name]
    assert client.map(1 << 40, 3 * 4096, fd=loans.memory) == 0
    with descriptors(kinds, loans.memory) as fds:
        assert client.call(command, payload, fds) == number
    assert isinstance(client.unmap(1 << 40, 3 * 4096), bytes)
    assert client.read(CONFIG, 0, 4) not in (b"\xff\xff\xff\xff", None)


def test_every_command_with_descriptors_leaves_none_behind(loans, client):
    for command in range(2, 20):
        with descriptors("em", loans.memory) as fds:
            client.call(command, bytes(32), fds)


# Raw bytes that end the connection.
FATAL = {
    "short header": b"\1\0\4\0\x10\0\0", "size 0": struct.pack("<HHIII", 1, GET_INFO, 0, 0, 0),
    "size 15": struct.pack("<HHIII", 1, GET_INFO, 15, 0, 0),
    "size 4 GiB": struct.pack("<HHIII", 1, GET_INFO, (1 << 32) - 1, 0, 0),
    "more than a message may have": struct.pack("<HHIII", 1, REGION_WRITE, (2 << 20) + 33, 0, 0),
    "a reply": struct.pack("<HHIII", 1, GET_INFO, 16, 1, 0), "neither": struct.pack("<HHIII", 1, GET_INFO, 16, 2, 0),
    "a command that failed": struct.pack("<HHIII", 1, GET_INFO, 16, 32, 5), "ones": b"\xff" * 64}


@pytest.mark.parametrize("name", FATAL)
def test_bytes_that_are_no_message_end_the_connection(loans, client, name):
    assert client.map(0, MEMORY, fd=loans.memory) == 0
    client.socket.sendall(FATAL[name])
    client.socket.shutdown(socket.SHUT_WR)
    assert client.socket.recv(1) == b""


GREETINGS = {
    "a command before VERSION": (GET_INFO, bytes(16)), "major version 1": (VERSION, struct.pack("<HH", 1, 0) + b"{}\0"),
    "no NUL": (VERSION, struct.pack("<HH", 0, 1) + b"{}"), "cut off": (VERSION, struct.pack("<HH", 0, 1) + b"{\0"),
    "fds as text": (VERSION, struct.pack("<HH", 0, 1) + b'{"capabilities":{"max_msg_fds":"8"}}\0'),
    "fds below 0": (VERSION, struct.pack("<HH", 0, 1) + b'{"capabilities":{"max_msg_fds":-1}}\0'),
    "pages of 0": (VERSION, struct.pack("<HH", 0, 1) + b'{"capabilities":{"pgsizes":0}}\0'), "empty": (VERSION, b"")}


@pytest.mark.parametrize("name", GREETINGS)
def test_a_greeting_that_is_none_is_refused_and_the_connection_closed(loans, name):
    client = RawClient(loans.attacked, greet=False)
    assert client.call(*GREETINGS[name]) == errno.EINVAL
    assert client.socket.recv(1) == b""
    client.socket.close()
    loans.check()


def test_a_second_client_is_told_busy_and_the_first_works_on(loans, client):
    second = RawClient(loans.attacked, greet=False)
    assert second.call(VERSION, struct.pack("<HH", 0, 1) + b"{}\0") == errno.EBUSY
    second.socket.close()
    assert len(client.read(CONFIG, 0, 4)) == 4


def test_64_descriptors_on_one_message_end_the_connection(loans, client):
    with descriptors("e" * 64, loans.memory) as fds:
        client.send(*irqs(ASSIGN, MSIX, 0, 64), fds)
    with contextlib.suppress(ConnectionResetError):
        assert client.socket.recv(1) == b""


def test_a_full_event_does_not_hold_up_the_device(loans, client):
    event = os.eventfd((1 << 32) - 1)  # blocking, and nearly full
    for _ in range(2):
        os.eventfd_write(event, (1 << 63) - (1 << 33))
    assert client.call(*irqs(ASSIGN, MSIX, 0, 1), [event]) == b""
    assert client.call(*irqs(DISABLE, MSIX, 0, 1)) == b""  # fires it
    assert len(client.read(CONFIG, 0, 4)) == 4
    os.close(event)


def test_a_flood_of_resets_windows_and_posted_writes_is_carried_out_in_order(loans, client):
    assert client.map(0, MEMORY, fd=loans.memory) == 0
    for round_ in range(200):
        client.send(RESET)
        client.send(*dma_map(iova=1 << 40), [loans.memory])
        for _ in range(50):
            client.send(*access(REGION_WRITE, CONFIG, 4, 2, b"\6\0"), flags=NO_REPLY)
        client.send(RESET)
        client.send(*unmap(1 << 40))
        if round_ % 10 == 9:  # not more than fits the sockets both ways
            assert all(isinstance(client.receive(), bytes) for _ in range(40))
    assert client.read(CONFIG, 0, 4) != b"\xff\xff\xff\xff"


def test_a_client_that_goes_after_any_byte_leaves_nothing(loans):
    command, payload = dma_map(iova=1 << 40)
    whole = struct.pack("<HHIII", 1, command, 16 + len(payload), 0, 0) + payload
    for size in range(1, len(whole) + 1):
        with RawClient(loans.attacked) as client:
            socket.send_fds(client.socket, [whole[:size]], [loans.memory])
        wait_for(lambda: loans.loan("80000")["client"] is None, "the client has left", PATIENCE)
    loans.check()

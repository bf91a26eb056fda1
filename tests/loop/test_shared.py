# A disk that two nodes have borrowed as shared, with whole programs: each client has its own slice of the disk's addresses.
import errno
import os
import struct

import pytest

from harness import NVME, run, wait_for
from raw_client import CONFIG, DMA_UNMAP, GET_INFO, RawClient, guest_memory

MEMORY = 16 << 20
SLICE = 16 << 30
ONES = b"\xff\xff\xff\xff"


@pytest.fixture
def sharing(lent):
    """The disk, and the nodes that have borrowed it with their sockets: its lender, and node 4."""
    lender, borrower, disk = lent
    return disk, [(node, node.ok("borrow", "80000", "--shared").splitlines()[1]) for node in (lender, borrower)]


@pytest.fixture
def memory():
    fd = guest_memory(MEMORY)
    yield fd
    os.close(fd)


def slice_of(client):
    """None without one."""
    flags = struct.unpack("<IIII", client.call(GET_INFO, struct.pack("<IIII", 16, 0, 0, 0)))[1]
    return (flags >> 24) - 1 if flags >> 24 else None


def unmapped(reply):
    return struct.unpack("<IIQQ", reply)[3]


def test_each_client_has_a_slice_and_maps_there_and_nowhere_else(sharing, memory):
    disk, [(_, first), (borrower, second)] = sharing
    with RawClient(first) as one, RawClient(second) as other:
        assert {slice_of(one), slice_of(other)} == {0, 1}
        at, theirs = slice_of(one) * SLICE, slice_of(other) * SLICE
        assert one.map(at, MEMORY, fd=memory) == 0 and other.map(theirs, MEMORY, fd=memory) == 0
        assert one.map(at + SLICE - MEMORY, MEMORY, fd=memory) == 0
        assert disk.counters()["windows"] == 3
        assert unmapped(other.call(DMA_UNMAP, struct.pack("<IIQQ", 24, 2, 0, 0))) == MEMORY  # all
        assert disk.counters()["windows"] == 2
        assert other.map(at + (1 << 30), MEMORY, fd=memory) == errno.ERANGE
        wait_for(lambda: "borrow it exclusively" in (borrower.document("show", "show", "80000")["reason"] or ""),
                 "show has the reason")
        assert other.read(CONFIG, 0, 4) == ONES and one.read(CONFIG, 0, 4) != ONES
        assert disk.counters()["windows"] == 2
        assert unmapped(one.unmap(0, 64 * SLICE)) == 2 * MEMORY


def test_a_disk_works_for_one_program_while_another_has_memory_mapped_for_it(sharing, memory):
    disk, [(_, first), (borrower, _)] = sharing
    data = os.urandom(4 << 20)
    with RawClient(first) as one:
        assert slice_of(one) == 0 and one.map(0, MEMORY, fd=memory) == 0  # where allocations would begin
        for words, given in (("write", "0"), data), (("read", "0", str(len(data) // 512)), b""):
            ran = run(NVME, "--run-dir", borrower.run_dir, "80000", *words, input=given)
            assert ran.returncode == 0 and ran.stderr == b"", ran
        assert ran.stdout == data
        wait_for(lambda: disk.counters()["windows"] == 1, "the program's windows are gone")
        assert one.read(CONFIG, 0, 4) != ONES and unmapped(one.unmap(0, MEMORY)) == MEMORY


def test_whoever_has_the_disk_alone_has_no_slice(lent, memory):
    with RawClient(lent[1].ok("borrow", "80000").splitlines()[1]) as client:
        assert slice_of(client) is None and client.map(1 << 40, MEMORY, fd=memory) == 0

# What a virtual machine's monitor finds on a loan's socket, with whole programs: its memory, and the end of the device.
import errno
import fcntl
import mmap
import os
import struct

import pytest

from harness import NVME, PATIENCE, Process, wait_for
from raw_client import (CONFIG, DMA_UNMAP, GET_INFO, GET_IRQ_INFO, GET_REGION_INFO, READ, SET_IRQS, VERSION, RawClient,
                        guest_memory)

MEMORY = 64 << 20
MSIX = 2
ONES = b"\xff\xff\xff\xff"


@pytest.fixture
def client(lent):
    """A raw client of the loan that node 4 has of the disk, with its nodes."""
    lender, borrower, _ = lent
    with RawClient(borrower.ok("borrow", "80000").splitlines()[1]) as made:
        yield made, lender, borrower


def shown(node):
    return node.document("show", "show", "80000")


def signalled(event):
    try:
        return os.eventfd_read(event) > 0
    except BlockingIOError:
        return False


def test_memory_without_a_descriptor_is_counted_and_the_device_works_with_the_rest(client):
    raw, lender, borrower = client
    memory = guest_memory(MEMORY)
    assert raw.map(0, MEMORY, fd=memory) == 0
    assert raw.map(0xfffc0000, 0x40000, READ) == 0 and raw.map(1 << 40, 1 << 20) == 0
    wait_for(lambda: shown(borrower)["counters"] == {"unreachable_windows": 2}, "the windows are counted")
    assert shown(borrower)["loan"]["windows"] == 1 and shown(borrower)["loan"]["window_bytes"] == MEMORY
    assert raw.write(CONFIG, 4, b"\6\0") and raw.read(CONFIG, 4, 2) == b"\6\0"
    assert shown(borrower)["reason"] is None and shown(lender)["reason"] is None
    assert raw.unmap(1 << 40, 1 << 20) and raw.unmap(0, MEMORY)
    wait_for(lambda: shown(borrower)["counters"] == {"unreachable_windows": 1}, "one is gone")
    os.close(memory)


def test_a_guest_whose_memory_is_not_shared_loses_the_device_and_is_told_how_to_start(client):
    raw, lender, borrower = client
    error = raw.set_error_interrupt()
    assert raw.map(0, MEMORY) == 0
    assert raw.read(CONFIG, 0, 4) != ONES and not signalled(error)
    raw.write(CONFIG, 4, b"\6\0")
    assert signalled(error) and raw.read(CONFIG, 0, 4) == ONES and raw.read(0, 0, 4) == ONES
    wait_for(lambda: "start QEMU with share=on memory" in (shown(borrower)["reason"] or ""), "show has the reason")
    assert "start QEMU with share=on memory" in borrower.text()
    assert "start QEMU with share=on memory" in borrower.ok("show", "80000")
    raw.socket.close()
    wait_for(lambda: shown(borrower)["loan"]["client"] is None, "the client has left")
    assert "share=on" in shown(borrower)["reason"]  # until the next one comes
    memory = guest_memory(MEMORY)
    with RawClient(shown(borrower)["loan"]["socket"]) as next_:
        assert next_.map(0, MEMORY, fd=memory) == 0 and next_.write(CONFIG, 4, b"\6\0")
        assert next_.read(CONFIG, 4, 2) == b"\6\0" and shown(borrower)["reason"] is None
    os.close(memory)


def test_a_window_that_cannot_be_had_fails_the_device_for_this_client_only(client):
    raw, lender, borrower = client
    memory, error = guest_memory(MEMORY), raw.set_error_interrupt()
    assert raw.map(0, MEMORY, fd=memory) == 0
    sealed = guest_memory(4096, fcntl.F_SEAL_WRITE)  # looks writable, and cannot be mapped to be written
    assert raw.map(MEMORY, 4096, fd=sealed) == errno.EPERM
    assert signalled(error) and raw.read(0, 0, 4) == ONES
    reason = wait_for(lambda: shown(borrower)["reason"], "show has the reason")
    assert "4096 bytes of the client's memory at 0x4000000" in reason and reason in borrower.text()
    assert raw.unmap(0, MEMORY)
    raw.socket.close()
    borrower.ok("return", "80000")
    wait_for(lambda: lender.devices()["80000"]["state"] == "available", "the disk is back")
    with RawClient(borrower.ok("borrow", "80000").splitlines()[1]) as next_:
        assert next_.read(CONFIG, 0, 4) != ONES and shown(borrower)["reason"] is None
    os.close(memory)
    os.close(sealed)


def test_a_device_that_is_taken_back_is_pulled_out_and_one_that_is_lost_signals_an_error(lent):
    lender, borrower, disk = lent
    memory = guest_memory(MEMORY)
    for orderly in (True, False):
        with RawClient(borrower.ok("borrow", "80000").splitlines()[1]) as raw:
            error = raw.set_error_interrupt()
            assert raw.map(0, MEMORY, fd=memory) == 0
            if orderly:
                lender.ok("unavailable", "80000")
            else:
                lender.kill()
            wait_for(lambda: raw.read(CONFIG, 0, 4) == ONES, "the device is gone")
            assert signalled(error) != orderly
            unmapped = raw.unmap(0, MEMORY)  # an error where the memory may still be written
            assert isinstance(unmapped, bytes) if orderly else unmapped == errno.ENODEV
            os.close(error)
        lender.ok("available", "80000") if orderly else lender.start()
        wait_for(lambda: borrower.devices().get("80000", {}).get("state") == "available" and
                 borrower.peer(8, "lender") == "up", "the disk can be borrowed again")
    os.close(memory)


@pytest.mark.skipif(not NVME.exists(), reason="smartio_nvme is not built")
def test_a_program_straight_on_the_socket_learns_that_its_device_is_taken_back(lent):
    lender, borrower, disk = lent
    path = borrower.ok("borrow", "80000").splitlines()[1]
    with Process(NVME, f"vfio-user:{path}", "bench", "--seconds", 60) as program:
        try:
            wait_for(lambda: disk.counters()["io_commands"] > 100, "the program is in mid-I/O")
            assert shown(borrower)["loan"]["client"] == "vfio-user"
            lender.ok("unavailable", "80000")
            assert program.wait(PATIENCE) > 0
        finally:
            program.kill()


# What Cloud Hypervisor and SPDK say, in their order, as their sources have it: neither was run.

def region_info(raw, index, argsz, padding=0):
    """size, flags, mappable areas and descriptors of a region; what argsz would hold it all."""
    raw.send(GET_REGION_INFO, struct.pack("<IIIIQQ", argsz, 0, index, 0, 0, 0) + bytes(padding))
    payload, fds = raw.receive_with_descriptors()
    wanted, flags, _, cap, size, offset = struct.unpack_from("<IIIIQQ", payload)
    areas = []
    if cap and wanted <= argsz:
        kind, _, _, count, _ = struct.unpack_from("<HHIII", payload, cap)
        assert kind == 1  # VFIO_REGION_INFO_CAP_SPARSE_MMAP
        areas = [struct.unpack_from("<QQ", payload, cap + 16 + 16 * i) for i in range(count)]
    return size, flags, areas, fds, wanted


def check_doorbells(fd, area):
    """They are mapped where NVMe has them, from 0x1000 on."""
    assert area == (0x1000, 0x1000)
    with mmap.mmap(fd, area[1], offset=area[0]) as page:
        assert page[:8] == bytes(8)
    os.close(fd)


@pytest.fixture
def path(lent):
    return lent[1].ok("borrow", "80000").splitlines()[1]


def test_cloud_hypervisor_is_served(path):
    memory = guest_memory(MEMORY)
    with RawClient(path, greet=False) as raw:
        capabilities = b'{"capabilities":{"max_msg_fds":1,"max_data_xfer_size":1048576,"migration":{"pgsize":4096}}}\0'
        assert struct.unpack_from("<HH", raw.call(VERSION, struct.pack("<HH", 0, 1) + capabilities)) == (0, 1)
        flags, regions, interrupts = struct.unpack("<IIII", raw.call(GET_INFO, struct.pack("<IIII", 32, 0, 0, 0)))[1:]
        assert flags == 3 and regions == 9 and interrupts == 5
        for index in range(regions):
            size, flags, areas, fds, wanted = region_info(raw, index, 32)
            assert not fds and not areas
            if wanted > 32:
                size, flags, areas, fds, _ = region_info(raw, index, wanted)
                assert len(fds) == len(areas) == 1
                check_doorbells(fds[0], areas[0])
        counts = [struct.unpack("<IIII", raw.call(GET_IRQ_INFO, struct.pack("<IIII", 16, 0, index, 0)))[3]
                  for index in range(interrupts)]
        assert counts[MSIX] > 16
        assert raw.map(0, MEMORY, fd=memory) == 0
        events = [os.eventfd(0) for _ in range(16)]
        for start in (0, 16):  # in batches of 16, whatever was agreed on
            assert raw.call(SET_IRQS, struct.pack("<IIIII", 20, 0x24, MSIX, start, 16), events) == b""
        assert raw.call(SET_IRQS, struct.pack("<IIIII", 20, 0x21, MSIX, 0, 0)) == b""
        assert raw.write(0, 0x14, bytes(4)) == struct.pack("<QII", 0x14, 0, 4)
        assert raw.unmap(0, MEMORY) == struct.pack("<IIQQ", 24, 0, 0, MEMORY)
    for fd in [memory, *events]:
        os.close(fd)


def test_spdk_is_served(path):
    memory = guest_memory(MEMORY)
    with RawClient(path, greet=False) as raw:
        raw.id = 0
        assert struct.unpack_from("<HH", raw.call(VERSION, struct.pack("<HH", 0, 1))) == (0, 1)  # no JSON
        assert len(raw.call(GET_INFO, struct.pack("<IIII", 16, 0, 0, 0))) == 16
        for index in range(9):
            size, _, areas, fds, _ = region_info(raw, index, 4096 - 32, padding=4096 - 64)  # room for the answer
            assert len(fds) == len(areas) == (1 if index == 0 else 0)
            assert index != 0 or size >= 0x2000
            for fd, area in zip(fds, areas):
                check_doorbells(fd, area)
        address = 0x7f0000000000
        assert raw.map(address, MEMORY, fd=memory) == 0
        assert raw.read(0, 8, 4) != ONES  # the version
        assert raw.call(DMA_UNMAP, struct.pack("<IIQQ", 24, 0, address, MEMORY), [memory]) == \
            struct.pack("<IIQQ", 24, 0, address, MEMORY)
    os.close(memory)

# What a virtual machine's monitor finds on a loan's socket, with whole programs: its memory, and the end of the device.
import errno
import fcntl
import os

import pytest

from harness import wait_for
from raw_client import CONFIG, READ, RawClient, guest_memory

MEMORY = 64 << 20
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
        wait_for(lambda: "80000" in borrower.devices() and borrower.devices()["80000"]["state"] == "available",
                 "the disk can be borrowed again")
    os.close(memory)

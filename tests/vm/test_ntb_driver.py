"""Our own driver of bridges (fabric/ntb) at one end of the simulated one, unmodified Linux at the other.

ntb_probe drives ours: on this machine through the end's socket, and in a guest through kernel VFIO. Both agree about
the link, scratchpads, doorbells and what is in memory, whoever set it up.
"""

import hashlib
import os

import pytest

from guest import Guest
from lending import Function
from ntb_guests import ProbeError, probe_here, probe_in, single
from topology import vfio_user

WINDOW_BYTES = 2 << 20
SAMPLE_BYTES = 5 << 10  # more than a page
PAGE = 4096


@pytest.mark.parametrize("model", ["gen4", "gen4-spr", "gen3"])
def test_our_driver_and_linux_meet_over_a_bridge(bed, programs, tmp_path, model):
    with single(bed, programs, model, tmp_path, iommu=model == "gen4") as (bridge, linux), \
            probe_here(programs, bridge, "b") as ours:
        linux.load("ntb_tool")
        check_everything(linux, ours)
        check_lost_registers(bridge, linux, ours)
        check_counters(bridge)
        linux.stop()
        assert ours.say("await-link", "down") == "down"
        assert bytes.fromhex(ours.say("peek", 0, 0, PAGE)) == ones(PAGE)
    programs.end()


@pytest.mark.parametrize("model,interface", [("gen4", "iommufd"), ("gen3", "type1")])
def test_our_driver_on_kernel_vfio_and_linux_meet_over_a_bridge(bed, programs, tmp_path, model, interface):
    with single(bed, programs, model, tmp_path, iommu=True) as (bridge, linux), \
            Guest(bed, f"{model}-ours", [{**vfio_user(bridge.end("b")), "addr": "0x12"}], kernel="own", iommu="intel",
                  programs=["ours"]) as guest:
        function = Function(guest, "00:12.0")
        assert function.driver() == "ntb_hw_intel"
        function.bind("vfio-pci")
        linux.load("ntb_tool")
        with probe_in(guest, function.where, interface) as ours:
            assert ours.say("shape").endswith("mapped")  # its aperture is reached by loads and stores
            check_everything(linux, ours)
        check_counters(bridge)
    programs.end()


def check_everything(linux, ours):
    check_places(linux, ours)
    linux.debug("ntb_tool", "echo Y > link")
    ours.say("enable-link")
    await_link(linux, ours, "up")
    check_scratchpads(linux, ours)
    check_doorbells(linux, ours)
    check_windows(linux, ours)
    check_link(linux, ours)
    check_reset(linux, ours)


def check_counters(bridge):
    counters = bridge.counters()
    for side in "ab":
        assert counters[side]["malformed"] == 0 and counters[side]["interrupts"] > 0


def check_places(linux, ours):
    assert ours.say("shape").split()[1] == "DSD"
    assert "NTB_TOPO_B2B_USD" in linux.debug("ntb_hw_intel", "cat info")


def await_link(linux, ours, state):
    assert ours.say("await-link", state).startswith(state)
    linux.debug("ntb_tool", f"echo {'Y' if state == 'up' else 'N'} > peer0/link_event")  # returns when it is so


def check_scratchpads(linux, ours):
    theirs, mine = ([first + index for index in range(16)] for first in (0x10203040, 0xf0000000))
    linux.debug("ntb_tool", "; ".join(f"echo {value:#x} > peer0/spad{index}" for index, value in enumerate(theirs)))
    ours.say("write-scratchpads", mine[0])
    assert numbers(ours.say("scratchpads")) == theirs
    assert numbers(linux.debug("ntb_tool", "for i in $(seq 0 15); do cat spad$i; done")) == mine


def numbers(text):
    return [int(word, 0) for word in text.split()]


def check_doorbells(linux, ours):
    usable = int(ours.say("shape").split()[2], 0)
    valid = int(linux.debug("ntb_tool", "cat db_valid_mask"), 0)
    assert usable & ~valid == 0
    linux.debug("ntb_tool", f"echo 'c {valid:#x}' > db; echo 'c {valid:#x}' > db_mask")
    for bit in (0, usable.bit_length() - 1):
        check_doorbell_to_linux(linux, ours, bit)
        check_doorbell_to_us(linux, ours, bit)
    linux.debug("ntb_tool", f"echo 's {valid:#x}' > db_mask")


def check_doorbell_to_linux(linux, ours, bit):
    ours.say("ring", bit)
    linux.debug("ntb_tool", f"echo {1 << bit:#x} > db_event")  # returns when it has come
    assert linux.debug("ntb_tool", "cat db") == f"{1 << bit:#x}"
    linux.debug("ntb_tool", f"echo 'c {1 << bit:#x}' > db")


def check_doorbell_to_us(linux, ours, bit):
    ring = f"echo 's {1 << bit:#x}' > peer_db"
    ours.say("enable", 0)
    linux.debug("ntb_tool", ring)
    linux.debug("ntb_tool", "cat peer0/spad0")  # a read pushes the write ahead
    assert ours.say("doorbells") == f"{1 << bit:#x}" and ours.say("signalled", bit) == "0"
    ours.say("clear", 1 << bit)
    ours.say("enable", 1 << bit)
    for _ in range(2):
        linux.debug("ntb_tool", ring)
        assert ours.say("await-doorbell", bit) == "1"
        assert ours.say("doorbells") == f"{1 << bit:#x}"
        ours.say("clear", 1 << bit)
    assert ours.say("doorbells") == "0x0"


def check_windows(linux, ours):
    for window in (0, 1):
        linux.debug("ntb_tool", f"echo {WINDOW_BYTES} > peer0/mw_trans{window}")
        linux.debug("ntb_tool", f"echo 0:{WINDOW_BYTES} > peer0/peer_mw_trans{window}")
        check_theirs(linux, ours, window)
        assert read_by_linux(linux, window) == ones()
        ours.say("open", window, window * WINDOW_BYTES, WINDOW_BYTES)
        check_ours(linux, ours, window, window * WINDOW_BYTES)
    check_reprogramming(linux, ours)
    check_unmapping(linux, ours)


def check_reprogramming(linux, ours):
    for window in (0, 1):
        ours.say("open", window, (1 - window) * WINDOW_BYTES, WINDOW_BYTES)
        check_ours(linux, ours, window, (1 - window) * WINDOW_BYTES)
    ours.say("open", 0, 0, PAGE)
    content = bytes.fromhex(ours.say("load", 0, PAGE))
    assert read_by_linux(linux, 0) == content + ones(SAMPLE_BYTES - PAGE)
    ours.say("close", 1)
    assert read_by_linux(linux, 1) == ones()
    with pytest.raises(ProbeError, match="are no window"):
        ours.say("open", 1, 0, 2 * WINDOW_BYTES)


def check_unmapping(linux, ours):
    """What the peer reaches is decided by the DMA window, and the translation stays as it is."""
    ours.say("open", 0, 0, WINDOW_BYTES)
    ours.say("unmap")
    assert read_by_linux(linux, 0) == ones()
    ours.say("map")
    check_ours(linux, ours, 0, 0)


def check_theirs(linux, ours, window):
    """Linux's memory, through our aperture."""
    sample = os.urandom(SAMPLE_BYTES)
    ours.say("poke", window, 0, sample.hex())
    ours.say("peek", window, 0, 4)  # writes are posted; a read pushes them ahead
    assert linux.debug("ntb_tool", f"head -c {SAMPLE_BYTES} peer0/mw{window} | md5sum").split()[0] == digest(sample)
    there = linux.debug("ntb_tool", f"head -c {SAMPLE_BYTES} /dev/urandom > /tmp/sample && "
                                    f"cat /tmp/sample > peer0/mw{window} && md5sum < /tmp/sample").split()[0]
    assert digest(bytes.fromhex(ours.say("peek", window, 0, SAMPLE_BYTES))) == there


def check_ours(linux, ours, window, at):
    """Our memory, through Linux's aperture."""
    sample = os.urandom(SAMPLE_BYTES)
    ours.say("store", at, sample.hex())
    assert read_by_linux(linux, window) == sample
    there = linux.debug("ntb_tool", f"head -c {SAMPLE_BYTES} /dev/urandom > /tmp/sample && "
                                    f"cat /tmp/sample > peer0/peer_mw{window} && head -c 1 peer0/peer_mw{window} "
                                    "> /dev/null && md5sum < /tmp/sample").split()[0]
    assert digest(bytes.fromhex(ours.say("load", at, SAMPLE_BYTES))) == there


def read_by_linux(linux, window):
    dump = linux.debug("ntb_tool", f"head -c {SAMPLE_BYTES} peer0/peer_mw{window} | xxd -p")
    return bytes.fromhex("".join(dump.split()))


def check_link(linux, ours):
    ours.say("disable-link")
    await_link(linux, ours, "down")
    ours.say("enable-link")
    await_link(linux, ours, "up")
    linux.debug("ntb_tool", "echo N > link")
    await_link(linux, ours, "down")
    linux.debug("ntb_tool", "echo Y > link")
    await_link(linux, ours, "up")
    check_ours(linux, ours, 0, 0)


def check_reset(linux, ours):
    ours.say("enable", 0x8)
    ours.say("reset")
    await_link(linux, ours, "down")
    check_recovery(linux, ours)


def check_lost_registers(bridge, linux, ours):
    bridge.inject("link down-losing-registers")
    await_link(linux, ours, "down")
    bridge.inject("link up")
    await_link(linux, ours, "up")
    assert read_by_linux(linux, 0) == ones()
    check_recovery(linux, ours)


def check_recovery(linux, ours):
    """Window 0, doorbell 3 and the link were asked for before."""
    ours.say("recover")
    await_link(linux, ours, "up")
    check_ours(linux, ours, 0, 0)
    linux.debug("ntb_tool", "echo 's 0x8' > peer_db")
    assert ours.say("await-doorbell", 3) == "1"
    ours.say("clear", 0x8)


def ones(size=SAMPLE_BYTES):
    return b"\xff" * size


def digest(data):
    return hashlib.md5(data).hexdigest()

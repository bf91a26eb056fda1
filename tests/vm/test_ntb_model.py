"""Unmodified Linux drives the simulated bridge: ntb_hw_intel, and every client of it that the kernel has.

ntb_tool and ntb_transport stay loaded: the one cannot be unloaded with a window open, the other not while its link goes
down (both crash Linux 7.3, whatever the bridge).
"""

import re

import pytest

from ntb_guests import NtbGuest, pair

WINDOW_BYTES = 2 << 20
SAMPLE_BYTES = 32 << 10
MODELS = [("gen4", True), ("gen4-spr", False), ("gen3", False)]


@pytest.mark.parametrize("model,iommu", MODELS, ids=[model for model, _ in MODELS])
def test_every_register_and_window_does_what_linux_expects(bed, programs, tmp_path, model, iommu):
    with pair(bed, programs, model, tmp_path, iommu) as (bridge, a, b):
        for guest, position in ((a, "USD"), (b, "DSD")):
            assert f"NTB_TOPO_B2B_{position}" in guest.debug("ntb_hw_intel", "cat info")
            assert "Link Status -\t\tDown" in guest.debug("ntb_hw_intel", "cat info")
        check_pingpong(a, b)
        check_perf(a, b)
        load_tool(a, b)
        check_link(bridge, a, b)
        check_scratchpads(a, b)
        check_doorbells(a, b)
        before = bridge.counters()
        for window in (0, 1):
            check_window(a, b, window)
            check_window(b, a, window)
        after = bridge.counters()
        check_faults(bridge, a, b)
        for side in "ab":
            assert after[side]["malformed"] == 0
            assert after[side]["interrupts"] > 0
            for same in ("dma_messages", "dropped_writes", "unanswered_reads"):
                assert after[side][same] == before[side][same]  # all went through the guests' memory files
    programs.end()


@pytest.mark.parametrize("model,iommu", [("gen4", True), ("gen3", False)], ids=["gen4", "gen3"])
def test_linux_networks_reach_each_other_over_the_simulated_bridge(bed, programs, tmp_path, model, iommu):
    with pair(bed, programs, model, tmp_path, iommu) as (_, a, b):
        check_network(a, b)
    programs.end()


def test_memory_without_a_descriptor_is_reached_by_messages(bed, programs, tmp_path):
    with pair(bed, programs, "gen4", tmp_path, False, private_memory=True) as (bridge, a, b):
        load_tool(a, b)
        check_window(a, b, 0)
        check_window(b, a, 1)
        counters = bridge.counters()
        for side in "ab":
            assert counters[side]["dma_messages"] > SAMPLE_BYTES / 8
            assert counters[side]["crossed_reads"] == counters[side]["unanswered_reads"] == 0
    programs.end()


def test_a_guest_may_die_and_come_back(bed, programs, tmp_path):
    with pair(bed, programs, "gen4", tmp_path, True) as (bridge, a, b):
        load_tool(a, b)
        open_window(a, b, 0)
        b.debug("ntb_tool", "echo N > link; echo Y > link; echo Y > peer0/link_event")
        a.stop()
        b.debug("ntb_tool", "echo N > peer0/link_event")  # returns when the link is down
        with NtbGuest(bed, "gen4-again", a.boot, bridge.end("a"), True) as again:
            again.load("ntb_tool")
            link_up(again, b)
            open_window(again, b, 1)
            check_sample(again, b, 1)
        assert bridge.counters()["a"]["clients"] == 2
    programs.end()


def check_pingpong(a, b):
    for guest in (a, b):
        guest.load("ntb_pingpong", "delay_ms=0")
    for guest in (a, b):
        guest.wait_until("ntb_pingpong", "[ $(cat count) -ge 100 ]")
    for guest in (a, b):
        guest.unload("ntb_pingpong")


def check_perf(a, b):
    for guest in (a, b):
        guest.load("ntb_perf", "chunk_order=16", "total_order=18")
    for guest in (a, b):
        guest.wait_until("ntb_perf", "echo 0 2>/dev/null > run")
        assert re.search(r"copied 262144 bytes", guest.debug("ntb_perf", "cat run"))
    for guest in (a, b):
        guest.unload("ntb_perf")


def check_network(a, b):
    for number, guest in enumerate((a, b), 1):
        guest.load("ntb_transport")
        guest.load("ntb_netdev")
        guest.check(f"ifconfig eth0 10.1.0.{number} up")
    for guest in (a, b):
        guest.check("until [ $(cat /sys/class/net/eth0/carrier) = 1 ]; do usleep 20000; done")
    for number, guest in enumerate((b, a), 1):
        assert "3 packets received" in guest.check(f"ping -c 3 -i 0.2 10.1.0.{number}")
        assert "1 packets received" in guest.check(f"ping -c 1 -s 8000 10.1.0.{number}")


def load_tool(a, b):
    for guest in (a, b):
        guest.load("ntb_tool")
    link_up(a, b)


def link_up(a, b):
    for guest in (a, b):
        guest.debug("ntb_tool", "echo Y > link")
    for guest in (a, b):
        guest.debug("ntb_tool", "echo Y > peer0/link_event")  # returns when the link is up


def check_link(bridge, a, b):
    assert bridge.counters()["link_up"] is True
    a.debug("ntb_tool", "echo N > link")
    for guest in (a, b):
        guest.debug("ntb_tool", "echo N > peer0/link_event")
    link_up(a, b)


def check_scratchpads(a, b):
    for here, there in ((a, b), (b, a)):
        for index in range(16):
            here.debug("ntb_tool", f"echo {0x10203040 + index:#x} > peer0/spad{index}")
        values = "\n".join(f"{0x10203040 + index:#x}" for index in range(16))
        assert there.debug("ntb_tool", "for i in $(seq 0 15); do cat spad$i; done") == values
        assert here.debug("ntb_tool", "for i in $(seq 0 15); do cat peer0/spad$i; done") == values


def check_doorbells(a, b):
    for here, there in ((a, b), (b, a)):
        valid = int(there.debug("ntb_tool", "cat db_valid_mask"), 0)
        there.debug("ntb_tool", f"echo 'c {valid:#x}' > db; echo 'c {valid:#x}' > db_mask")
        for bit in (1, valid.bit_length() - 1):  # on generation 3 the driver keeps the last one for the link
            here.debug("ntb_tool", f"echo 's {1 << bit:#x}' > peer_db")
            there.debug("ntb_tool", f"echo {1 << bit:#x} > db_event")  # returns when it has come
            assert there.debug("ntb_tool", "cat db") == f"{1 << bit:#x}"
            there.debug("ntb_tool", f"echo 'c {1 << bit:#x}' > db")
        there.debug("ntb_tool", f"echo 's {valid:#x}' > db_mask")
        assert int(there.debug("ntb_tool", "cat db"), 0) == 0


def check_window(here, there, window):
    open_window(here, there, window)
    check_sample(here, there, window)


def open_window(here, there, window):
    there.debug("ntb_tool", f"echo {WINDOW_BYTES} > peer0/mw_trans{window}")
    here.debug("ntb_tool", f"echo 0:{WINDOW_BYTES} > peer0/peer_mw_trans{window}")


def check_sample(here, there, window):
    """What is stored through the window is in the other's memory, and the reverse."""
    near, far = f"peer0/peer_mw{window}", f"peer0/mw{window}"
    for writer, into, reader, source in ((here, near, there, far), (there, far, here, near)):
        sample = writer.debug("ntb_tool", f"head -c {SAMPLE_BYTES} /dev/urandom > /tmp/sample && "
                                          f"cat /tmp/sample > {into} && md5sum < /tmp/sample")
        writer.debug("ntb_tool", f"head -c 1 {into}")  # writes are posted; a read pushes them ahead
        assert reader.debug("ntb_tool", f"head -c {SAMPLE_BYTES} {source} | md5sum") == sample


def check_faults(bridge, a, b):
    bridge.inject("link down-losing-registers")
    for guest in (a, b):
        guest.debug("ntb_tool", "echo N > peer0/link_event")
    assert b.debug("ntb_tool", "cat spad3") == "0x0"
    bridge.inject("link up")
    for guest in (a, b):
        guest.debug("ntb_tool", "echo Y > peer0/link_event")
    assert a.debug("ntb_tool", "head -c 8 peer0/peer_mw0 | od -An -tx1").split() == ["ff"] * 8

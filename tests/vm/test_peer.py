"""A lent device reaches another lent device's registers and memory by itself, across the IOMMU."""

import pytest

from guest import Guest
from lending import Nodes
from topology import Topology, blank_disk

START_SECONDS = 20


@pytest.fixture(scope="module", params=[("full", "type1"), ("own", "iommufd")], ids=lambda way: way[1])
def machine(bed, tmp_path_factory, request):
    """The nodes, and the ids of a device that moves data and of one that has memory of its own."""
    kernel, interface = request.param
    topology = Topology()
    edu = topology.edu()
    disk = topology.nvme(blank_disk(tmp_path_factory.mktemp("peer") / "disk"), cmb_size_mb=1)
    with Guest(bed, f"peer-{interface}", topology.devices, kernel=kernel, iommu="intel", programs=["ours"]) as guest:
        nodes = Nodes(guest)
        nodes.start_pair()
        devices = nodes.lend(edu), nodes.lend(disk)
        assert nodes.json(8, f"show {devices[0]}")["interface"] == interface
        yield guest, nodes, *devices
        assert nodes.complaints(8) == nodes.complaints(4, "was taken back: node 8 made it unavailable") == []
        nodes.end()


def test_a_device_reaches_another_one_until_the_window_ends_and_after_resets(machine):
    guest, nodes, edu, disk = machine
    guest.check("dmesg -c >/dev/null")
    assert guest.check(f"peer /run/node4 {edu} {disk} reach") == "verified\n"
    faults = [line for line in guest.dmesg().splitlines() if "DMA Write" in line or "DMA Read" in line]
    assert faults and all("DMA Write" in line for line in faults)  # only what came after the window's end
    nodes.await_state(8, edu, "available")
    nodes.await_state(8, disk, "available")


def test_a_device_that_is_taken_back_is_reached_no_longer_by_the_one_that_stays(machine):
    guest, nodes, edu, disk = machine
    job = guest.start(f"peer /run/node4 {edu} {disk} hold")
    iova = int(guest.check(f"until grep . {job.path}.out; do usleep 20000; done", START_SECONDS), 16)
    guest.check("dmesg -c >/dev/null")
    nodes.check(8, f"unavailable {disk}")
    assert nodes.state(8, disk) == "unavailable" and nodes.state(8, edu) == "borrowed"
    assert nodes.json(8, f"show {disk}")["driver"] == "nvme"
    guest.check("kill $(pidof peer)")
    job.check()
    assert f"fault addr {iova:#x}" in guest.dmesg()
    nodes.await_state(8, edu, "available")
    nodes.check(8, f"available --yes {disk}")
    assert nodes.exercise(4, disk, "nvme")["device_reads_memory"]

"""Filters: rules for devices there are and devices to come, as the guide to Dolphin's tool writes them."""

import time

import pytest

from guest import Guest
from lending import Function, Nodes
from topology import Topology, blank_disk, igb_vf

PATIENCE = 30  # seconds for what follows from an event of the kernel


@pytest.fixture(scope="module")
def machine(bed, tmp_path_factory):
    """A guest with two disks, one mounted, an igb, and a free port with a drive to plug in; nodes 8 and 4 in it."""
    directory, topology = tmp_path_factory.mktemp("filters"), Topology()
    places = {name: topology.nvme(blank_disk(directory / name)) for name in ("mounted", "free")}
    places["igb"] = topology.igb()
    port, (drive, serial) = topology.root_port(), topology.drive(blank_disk(directory / "hot"))
    places["hot"] = f"{topology.bus:02x}:00.0"
    plug = {"driver": "nvme", "id": "hot", "bus": port, "drive": drive, "serial": serial}
    with Guest(bed, "filters", topology.devices, kernel="full", iommu="intel", programs=["ours"]) as guest:
        guest.check("modprobe igb")
        disk = guest.check(f"ls {Function(guest, places['mounted']).path}/nvme/*/ | grep '^nvme.*n1'").strip()
        guest.check(f"mkfs.ext4 -q /dev/{disk} && mount /dev/{disk} /mnt")
        nodes = Nodes(guest)
        nodes.start_pair()
        yield guest, nodes, places, plug
        nodes.end()


def states(nodes):
    """Of node 8's devices, by BDF without domain."""
    return {entry["bdf"].removeprefix("0000:"): entry["state"] for entry in nodes.json(8, "list")["devices"]}


def rules(nodes):
    return {(rule["ids"] or rule["slot"], rule["available"]) for rule in nodes.json(8, "status")["filters"]}


def wait_for_state(nodes, where, state):
    deadline = time.monotonic() + PATIENCE
    while states(nodes).get(where) != state:
        assert time.monotonic() < deadline, f"{where} did not become {state}: {states(nodes)}"
        time.sleep(0.1)


# The tests tell one story, in this order.
@pytest.mark.parametrize("words", ["add-filter", "add-filter -d zzzz", "add-filter -s ::0108",
                                   "available-filter -d 8086:xyzw", "remove-filter -s 1:2:3:4.5"])
def test_a_malformed_filter_changes_nothing(machine, words):
    _, nodes, _, _ = machine
    refused = nodes.tool(8, words)
    assert refused.status == 2 and refused.errors.count("\n") == 1, refused
    assert rules(nodes) == set() and states(nodes) == {}


def test_matches_are_made_available_but_for_what_is_in_use(machine):
    guest, nodes, places, _ = machine
    nodes.check(8, "add-filter -d ::0108")
    assert states(nodes) == {places["mounted"]: "unavailable", places["free"]: "unavailable"}
    assert Function(guest, places["free"]).driver() == "nvme"
    refused = nodes.tool(8, "available-filter -d ::0108")
    assert refused.status == 4 and f"{places['mounted']} is in use" in refused.errors, refused
    assert "is mounted on /mnt" in refused.errors and places["free"] not in refused.errors
    assert states(nodes) == {places["mounted"]: "unavailable", places["free"]: "available"}
    assert Function(guest, places["mounted"]).driver() == "nvme"
    assert rules(nodes) == {("::0108", False), ("::0108", True)}


def test_a_disk_plugged_in_later_is_added_and_made_available_by_itself(machine):
    guest, nodes, places, plug = machine
    guest.qmp("device_add", **plug)
    wait_for_state(nodes, places["hot"], "available")
    assert Function(guest, places["hot"]).driver() == "vfio-pci"


def test_a_virtual_function_made_later_is_added_by_itself(machine):
    guest, nodes, places, _ = machine
    nodes.check(8, "add-filter -d 8086::")
    assert states(nodes)[places["igb"]] == "unavailable"
    Function(guest, places["igb"]).make_vfs(1)
    wait_for_state(nodes, igb_vf(places["igb"]), "unavailable")  # of this vendor nothing is to be available


def test_what_was_removed_by_hand_stays_removed_until_it_is_added(machine):
    _, nodes, places, _ = machine
    vf = igb_vf(places["igb"])
    nodes.check(8, f"remove {vf}")
    nodes.check(8, "scan")
    assert vf not in states(nodes)
    before = states(nodes), rules(nodes)
    nodes.end(8)
    nodes.start(8, 7808)
    wait_for_state(nodes, places["hot"], "available")
    wait_for_state(nodes, places["free"], "available")
    assert (states(nodes), rules(nodes)) == before  # filters and devices survive a restart, and so does the removal
    nodes.check(8, f"add {vf}")
    assert states(nodes)[vf] == "unavailable"


def test_a_removed_filter_takes_its_unused_devices_along(machine):
    guest, nodes, places, _ = machine
    nodes.check(8, "add-filter -s 1:")
    assert ("1:", False) in rules(nodes)
    removed = nodes.tool(8, "remove-filter -s 1:")
    assert removed.status == 0 and "stays: another filter adds it, too" in removed.errors, removed
    assert states(nodes)[places["mounted"]] == "unavailable" and ("1:", False) not in rules(nodes)
    removed = nodes.tool(8, "remove-filter -d 8086::")
    assert removed.status == 0 and "stays: it was added by hand" in removed.errors, removed
    vf = igb_vf(places["igb"])
    assert states(nodes) == {places["mounted"]: "unavailable", places["free"]: "available",
                             places["hot"]: "available", vf: "unavailable"}
    nodes.check(8, f"remove {vf}")
    assert nodes.json(8, "filters")["removed"] == [f"0000:{vf}"]
    added = nodes.tool(8, "add-filter -d 8086::")
    assert added.status == 0 and f"removed by hand, and not added again but with 'add': 0000:{vf}" in added.errors, added
    nodes.check(8, "remove-filter -d 8086::")
    nodes.check(8, "unavailable-filter -d ::0108")
    assert states(nodes) == {places["mounted"]: "unavailable", places["free"]: "unavailable",
                             places["hot"]: "unavailable"}
    assert Function(guest, places["free"]).driver() == "nvme"
    assert rules(nodes) == {("::0108", False)}
    nodes.check(8, "remove-filter -d ::0108")
    assert states(nodes) == {} and rules(nodes) == set()

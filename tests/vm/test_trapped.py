"""Clients of a loan that are neither root nor in the trusted group: they drive a device without mapping any of it."""

import re

import pytest

from guest import Guest
from lending import Nodes
from topology import Topology, blank_disk

# "user" is in every guest; "friend" is a member of the group that the borrower's configuration trusts.
ACCOUNTS = """echo 'friend:x:1001:1001::/tmp:/bin/sh' >>/etc/passwd
printf 'friend:x:1001:\\ntrusted:x:2000:friend\\n' >>/etc/group
echo '{"trusted_group": "trusted"}' >/run/node4.json"""


@pytest.fixture(scope="module", params=[("full", "type1"), ("own", "iommufd")], ids=lambda way: way[1])
def machine(bed, tmp_path_factory, request):
    """A guest in whose kernel only a whole device can be mapped: the nodes, and the devices by kind."""
    kernel, interface = request.param
    topology = Topology()
    places = {"nvme": topology.nvme(blank_disk(tmp_path_factory.mktemp("trapped") / "disk")), "edu": topology.edu()}
    with Guest(bed, f"trapped-{interface}", topology.devices, kernel=kernel, iommu="intel", programs=["ours"]) as guest:
        guest.check(ACCOUNTS)
        nodes = Nodes(guest)
        nodes.start(8, 7808)
        nodes.start(4, 7804, "--config /run/node4.json")
        nodes.connect(8, 4)
        devices = {kind: nodes.lend(where) for kind, where in places.items()}
        assert nodes.json(8, f"show {devices['nvme']}")["interface"] == interface
        yield guest, nodes, devices
        assert nodes.complaints(8) == nodes.complaints(4, "was taken back: node 8 made it unavailable") == []
        nodes.end()


@pytest.mark.parametrize("kind", ["nvme", "edu"])
@pytest.mark.parametrize("owner, access", [("user", "trapped"), ("friend", "mapped")])
def test_a_device_is_driven_by_the_owner_of_its_socket(machine, kind, owner, access):
    guest, nodes, devices = machine
    device = devices[kind]
    socket = borrow(nodes, device, owner)
    verified = guest.json(as_user(owner, f"exercise - vfio-user:{socket} {kind}"))
    assert all(verified[what] for what in ("device_writes_memory", "device_reads_memory", "interrupts", "reset"))
    assert verified["table_is_trapped"] == (kind == "nvme")
    assert (verified["mapped_bytes"] == 0) == (access == "trapped")
    nodes.check(4, f"return {device}")


@pytest.mark.parametrize("owner, access", [("user", "trapped"), ("friend", "mapped"), ("user:trusted", "mapped")])
def test_only_the_trusted_hold_the_device(machine, owner, access):
    guest, nodes, devices = machine
    device = devices["nvme"]
    socket = borrow(nodes, device, owner)
    person = "friend" if "trusted" in owner else owner
    program = guest.start(as_user(person, f"trespass - vfio-user:{socket} keep"))
    said = guest.check(f"until grep . {program.path}.out; do usleep 20000; done", 20)
    mapped = int(re.fullmatch(r"keeps (\d+) bytes\n", said)[1])
    assert (mapped > 0) == (access == "mapped")
    process = "/proc/$(pidof trespass)"
    assert guest.check(f"grep Uid {process}/status").split()[1] == {"user": "1000", "friend": "1001"}[person]
    held = guest.check(f"ls -l {process}/fd; cat {process}/maps")
    assert ("vfio" in held) == (access == "mapped"), held
    assert nodes.json(4, f"show {device}")["loan"]["access"] == access
    guest.check("kill $(pidof trespass)")
    program.check()
    nodes.check(4, f"return {device}")
    nodes.await_state(8, device, "available")


def test_a_loan_is_closed_to_others_than_its_owner(machine):
    guest, nodes, devices = machine
    device = devices["nvme"]
    socket = borrow(nodes, device, "friend")
    refused = guest.run(as_user("user", f"exercise - vfio-user:{socket} nvme"))
    assert refused.status == 1 and "Not permitted" in refused.errors, refused
    for place in ("/run/node4/smartiod.sock", "/run/state4/state.json"):
        assert guest.run(as_user("user", f"[ -r {place} -o -w {place} ]")).status == 1
    nodes.check(4, f"return {device}")


def test_a_trapped_client_at_work_does_not_hold_up_a_take_back(machine):
    guest, nodes, devices = machine
    device = devices["nvme"]
    socket = borrow(nodes, device, "user")
    program = guest.start(as_user("user", f"smartio_nvme vfio-user:{socket} bench --bs 4096 --seconds 60 --interrupts"))
    guest.check(f"until smartio_tool --run-dir /run/node4 show {device} | grep -q trapped; do usleep 20000; done", 20)
    nodes.check(8, f"unavailable {device}", seconds=5)
    assert guest.check(f"cat {program.path}") != "0\n"
    nodes.check(8, f"available --yes {device}")


def borrow(nodes, device, owner):
    """The loan's socket, which OWNER may use."""
    return nodes.check(4, f"borrow {device} --owner {owner}").split()[1]


def as_user(name, command):
    return f"su {name} -c '{command}'"

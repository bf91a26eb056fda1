"""lspci of a lent device, from the borrower: what the lender's own lspci says, but for what no configuration space holds.

VFIO virtualises the command register's memory and I/O enable bits, BARs, the interrupt line and pin, and capabilities
with interrupts. Of these physical functions the default form shows them as they are in the device, whether it is driven
or not, so it is held to the same as --raw. --emulated is what the borrower's driver reads: there the two enable bits
are the borrower's own.
"""

import re

import pytest

from guest import Guest
from lending import Nodes
from topology import Topology, blank_disk

# From sysfs and the running kernel. Sizes of regions are not in a configuration space either, and "[disabled]" follows
# from the enable bits.
OF_THE_HOST = re.compile(r"\t(Physical Slot|NUMA node|IOMMU group|Kernel (driver|modules)|Interrupt: pin|Region \d)")
ENABLE_BITS = re.compile(r"(?<=\tControl: )I/O[+-] Mem[+-]")


@pytest.fixture(scope="module")
def machine(bed, tmp_path_factory):
    topology = Topology()
    places = {"nvme": topology.nvme(blank_disk(tmp_path_factory.mktemp("lspci") / "disk")), "igb": topology.igb()}
    with Guest(bed, "lspci", topology.devices, kernel="full", iommu="intel", programs=["ours"]) as guest:
        guest.check("modprobe igb")
        nodes = Nodes(guest)
        nodes.start_pair()
        yield guest, nodes, places
        nodes.end()


def facts(text):
    return [line for line in text.splitlines() if line and not OF_THE_HOST.match(line)]


def without_enable_bits(text):
    return facts(ENABLE_BITS.sub("", text))


@pytest.mark.parametrize("kind", ["nvme", "igb"])
def test_the_borrower_sees_what_lspci_says_at_the_lender(machine, kind):
    guest, nodes, places = machine
    device = nodes.lend(places[kind])
    own = f"lspci -vvv -s {places[kind]}"
    for loan in ("nobody's", "borrowed"):
        if loan == "borrowed":
            nodes.check(4, f"borrow {device}")
        expected = guest.check(own)
        assert "Express (v2) Endpoint" in expected and len(facts(expected)) > 30
        assert facts(nodes.check(4, f"lspci --raw {device} -vvv")) == facts(expected)
        assert facts(nodes.check(4, f"lspci {device} -vvv")) == facts(expected)
        emulated = nodes.check(4, f"lspci --emulated {device} -vvv")
        assert without_enable_bits(emulated) == without_enable_bits(expected)
    assert "Control: I/O- Mem- BusMaster-" in emulated  # a loan begins with everything off
    nodes.check(4, f"return {device}")


def test_the_forms_agree_while_a_program_drives_the_device(machine):
    guest, nodes, places = machine
    device = nodes.lend(places["nvme"])
    nodes.check(4, f"borrow {device}")
    load = guest.start(f"smartio_nvme --run-dir /run/node4 {device} bench --interrupts --seconds 4")
    guest.check(f"until lspci -vv -s {places['nvme']} | grep -q 'MSI-X: Enable+'; do usleep 20000; done")
    expected = guest.check(f"lspci -vvv -s {places['nvme']}")
    assert "BusMaster+" in expected
    for form in ("--raw", ""):
        assert facts(nodes.check(4, f"lspci {form} {device} -vvv")) == facts(expected)
    assert without_enable_bits(nodes.check(4, f"lspci --emulated {device} -vvv")) == without_enable_bits(expected)
    load.check()
    nodes.check(4, f"return {device}")


def test_whoever_reaches_the_control_socket_may_read(machine):
    guest, nodes, places = machine
    device = nodes.lend(places["igb"])
    expected = nodes.check(4, f"lspci {device} -vvv")
    guest.check("chmod 755 /run/node4 && chmod 666 /run/node4/smartiod.sock")
    assert guest.check(f"su user -c 'smartio_tool --run-dir /run/node4 lspci {device} -vvv'") == expected

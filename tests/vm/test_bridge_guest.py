"""A virtual machine on one host uses a device of another host across a bridge, with Linux's own driver.

The lender is a guest with devices of its kernel's; the borrower's node runs on this machine and drives the other end of
the bridge over vfio-user; the virtual machine C has the loan's socket. No register of the bridge can be mapped here, so
each access to the device's registers is a message, and what it reads of C's memory is 8 bytes a message.
"""

import contextlib
import json
import time

from guest import Guest
from lending import Nodes
from ntb_guests import simulate_bridge
from nvme_checks import DISK, no_complaints
from programs import free_port
from topology import Topology, blank_disk, vfio_user

LENDER, BORROWER = 8, 4
PATIENCE = 8000  # milliseconds: emulated hosts on two cores can be slow
GATEWAY = "10.0.2.2"  # of QEMU's user network: this machine


@contextlib.contextmanager
def borrowed_from(bed, programs, machine, name, address):
    """The lender, a guest with the devices of MACHINE, and the socket of a loan of the one at ADDRESS."""
    bridge = simulate_bridge(programs, "gen4", "1G")  # all memory of C, and some more
    port = free_port()
    run = programs.start_node(BORROWER, f"127.0.0.1:{port}")
    programs.tool(run, "config", "peer-timeout", PATIENCE)
    programs.tool(run, "config", "ntb", f"vfio-user:{bridge.end('b')}")
    machine.devices += [{**vfio_user(bridge.end("a")), "addr": "0x12"},
                        "-netdev user,id=net -device virtio-net-pci,netdev=net,addr=0x13"]
    with Guest(bed, f"bridge-{name}", machine.devices, kernel="full", iommu="intel", programs=["ours"]) as lender:
        lender.check("modprobe virtio_net; ip link set eth0 up && ip addr add 10.0.2.15/24 dev eth0")
        nodes = Nodes(lender, "127.0.0.1")
        nodes.start(LENDER, 7808)
        nodes.check(LENDER, f"config peer-timeout {PATIENCE}")
        nodes.check(LENDER, "config ntb 00:12.0")
        nodes.check(LENDER, f"connect {BORROWER} --address {GATEWAY}:{port}")
        device = nodes.lend(address)
        await_bridge(lambda: json.loads(programs.tool(run, "--json", "status")))
        await_bridge(lambda: nodes.json(LENDER, "status"))
        yield lender, programs.tool(run, "borrow", device).splitlines()[1]
        programs.tool(run, "return", device)
        assert nodes.state(LENDER, device) == "available"
        nodes.end()
    programs.end()


def test_a_virtual_machine_uses_the_disk_of_another_host(bed, programs, tmp_path):
    machine = Topology()
    disk = machine.nvme(blank_disk(tmp_path / "disk"))
    with borrowed_from(bed, programs, machine, "disk", disk) as (_, socket):
        with Guest(bed, "bridge-vm", [vfio_user(socket)], arguments="nvme_core.io_timeout=255") as guest:
            guest.check(f"until [ -b {DISK} ]; do usleep 50000; done", 120)
            guest.check(f"mkfs.ext4 -q -E lazy_itable_init=1,lazy_journal_init=1 {DISK}", 200)
            guest.check(f"mount {DISK} /mnt && head -c {4 << 20} /dev/urandom >/tmp/data", 100)
            guest.check("dd if=/tmp/data of=/mnt/file bs=128k oflag=direct 2>/dev/null && umount /mnt", 300)
            guest.check(f"mount {DISK} /mnt && cmp /mnt/file /tmp/data && umount /mnt", 100)
            no_complaints(guest, guest.dmesg())
            no_complaints(guest, guest.power_off(100))


def test_a_virtual_machine_uses_the_network_interface_of_another_host(bed, programs):
    machine = Topology()
    near = machine.e1000e()
    with borrowed_from(bed, programs, machine, "network", machine.igb(near)) as (lender, socket):
        with Guest(bed, "bridge-vm", [vfio_user(socket)], kernel="full") as guest:
            lender.check("modprobe e1000e; ip link set eth1 up && ip addr add 10.1.0.1/24 dev eth1")
            guest.check("modprobe igb; until [ -e /sys/class/net/eth0 ]; do usleep 50000; done", 120)
            guest.check("ip link set eth0 up && ip addr add 10.1.0.2/24 dev eth0")
            guest.check("until ping -c 1 -W 1 10.1.0.1; do :; done", 60)
            lender.check("ping -c 3 10.1.0.2", 60)
            no_complaints(guest, guest.dmesg())
            guest.power_off(100)


def await_bridge(status, seconds=20):
    end = time.monotonic() + seconds
    while not any(fabric["kind"] == "ntb" and fabric["state"] == "up" for fabric in status()["fabrics"]):
        assert time.monotonic() < end, "the bridge does not come up"
        time.sleep(0.05)

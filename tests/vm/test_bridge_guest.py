"""A virtual machine on one host uses a device of another host across a bridge, with Linux's own driver.

The lender is a guest with devices of its kernel's; the borrower's node runs on this machine and drives the other end of
the bridge over vfio-user; the virtual machine C, or a program, has the loan's socket. No register of the bridge can be mapped here, so
each access to the device's registers is a message, and what it reads of C's memory is 8 bytes a message.
"""

import contextlib
import hashlib
import json
import os
import time

from guest import Guest
from lending import Nodes
from ntb_guests import simulate_bridge
from nvme_checks import DISK, no_complaints
from programs import free_port, run as run_command
from topology import Topology, blank_disk, vfio_user

LENDER, BORROWER, OTHER = 8, 4, 5
PATIENCE = 12000  # milliseconds: emulated hosts on two cores can be slow
SMALL_MIB, SMALL_WINDOW = 128, "256M"  # a machine's memory, and a window that takes it but once: it is mapped in pieces
GATEWAY = "10.0.2.2"  # of QEMU's user network: this machine


@contextlib.contextmanager
def lender_of(bed, programs, machine, name, window, borrowers=(BORROWER,)):
    """The lender's nodes, in a guest with the devices of MACHINE, and the run directories of the borrowers here: each at
    the other end of a bridge."""
    runs, ports = [], []
    for slot, borrower in enumerate(borrowers, 0x13):
        bridge = simulate_bridge(programs, "gen4", window, f"bridge{borrower}")
        ports.append(free_port())
        runs.append(programs.start_node(borrower, f"127.0.0.1:{ports[-1]}"))
        programs.tool(runs[-1], "config", "peer-timeout", PATIENCE)
        programs.tool(runs[-1], "config", "ntb", f"vfio-user:{bridge.end('b')}")
        machine.devices.append({**vfio_user(bridge.end("a")), "addr": f"{slot:#x}"})
    machine.devices.append("-netdev user,id=net -device virtio-net-pci,netdev=net,addr=0x12")
    with Guest(bed, f"bridge-{name}", machine.devices, kernel="full", iommu="intel", programs=["ours"]) as lender:
        lender.check("modprobe virtio_net; ip link set eth0 up && ip addr add 10.0.2.15/24 dev eth0")
        nodes = Nodes(lender, "127.0.0.1")
        nodes.start(LENDER, 7808)
        nodes.check(LENDER, f"config peer-timeout {PATIENCE}")
        nodes.check(LENDER, "config ntb " + ",".join(f"00:{slot:x}.0" for slot in range(0x13, 0x13 + len(borrowers))))
        for borrower, port, run in zip(borrowers, ports, runs):
            nodes.check(LENDER, f"connect {borrower} --address {GATEWAY}:{port}")
            await_bridge(lambda: json.loads(programs.tool(run, "--json", "status")), LENDER)
            await_bridge(lambda: nodes.json(LENDER, "status"), borrower)
        yield nodes, runs
        nodes.end()
    programs.end()


@contextlib.contextmanager
def borrowed_from(bed, programs, machine, name, address, window):
    """The lender, a guest with the devices of MACHINE, and the socket of a loan of the one at ADDRESS."""
    with lender_of(bed, programs, machine, name, window) as (nodes, (run,)):
        device = nodes.lend(address)
        yield nodes.guest, programs.tool(run, "borrow", device).splitlines()[1]
        programs.tool(run, "return", device)
        assert nodes.state(LENDER, device) == "available"


def test_a_lender_with_two_bridges_lends_to_two_hosts_in_turn(bed, programs, tmp_path):
    machine = Topology()
    disk = machine.nvme(blank_disk(tmp_path / "disk"))
    data = os.urandom(64 << 10)
    with lender_of(bed, programs, machine, "two", "64M", (BORROWER, OTHER)) as (nodes, runs):
        device = nodes.lend(disk)
        for run in runs:
            programs.tool(run, "borrow", device)
            other = programs.nodes[runs[1 - runs.index(run)]]
            assert "is borrowed by node" in other.tool("borrow", device).failed(4)
            nvme(programs, run, device, "write", "64", input=data)
            assert nvme(programs, run, device, "read", "64", str(len(data) // 512)) == data
            programs.tool(run, "return", device)
            data = data[::-1]
        nvme(programs, runs[0], device, "read", "64", "1")  # without a loan of the node's: it takes one, and gives it back
        nodes.await_state(LENDER, device, "available")


def nvme(programs, run, *words, **more):
    """Output of smartio_nvme as a program of this machine."""
    return run_command(programs.build / "tools/smartio_nvme/smartio_nvme", "--run-dir", run, *words, check=True, **more).stdout


def test_a_virtual_machine_uses_the_disk_of_another_host(bed, programs, tmp_path):
    machine = Topology()
    disk = machine.nvme(blank_disk(tmp_path / "disk"))
    with borrowed_from(bed, programs, machine, "disk", disk, SMALL_WINDOW) as (_, socket):
        with Guest(bed, "bridge-vm", [vfio_user(socket)], SMALL_MIB, arguments="nvme_core.io_timeout=255") as guest:
            guest.check(f"until [ -b {DISK} ]; do usleep 50000; done", 120)
            guest.check(f"mkfs.ext4 -q -E lazy_itable_init=1,lazy_journal_init=1 {DISK}", 200)
            guest.check(f"mount {DISK} /mnt && head -c {4 << 20} /dev/urandom >/tmp/data", 100)
            guest.check("dd if=/tmp/data of=/mnt/file bs=128k oflag=direct 2>/dev/null && umount /mnt", 300)
            guest.check(f"mount {DISK} /mnt && cmp /mnt/file /tmp/data && umount /mnt", 100)
            no_complaints(guest, guest.dmesg())
            no_complaints(guest, guest.power_off(100))


def test_a_disk_is_taken_back_while_a_virtual_machine_of_another_host_reads_it(bed, programs, tmp_path, alone):
    machine = Topology()
    file = blank_disk(tmp_path / "disk")
    data = os.urandom(1 << 20)
    with open(file, "r+b") as disk:
        disk.write(data)
    where = machine.nvme(file)
    with lender_of(bed, programs, machine, "taken", SMALL_WINDOW) as (nodes, (run,)):
        device = nodes.lend(where)
        socket = programs.tool(run, "borrow", device).splitlines()[1]
        with Guest(bed, "bridge-vm", [vfio_user(socket)], SMALL_MIB) as guest:
            guest.check(f"until [ -b {DISK} ]; do usleep 50000; done", 120)
            load = guest.start(f"while dd if={DISK} of=/dev/null bs=4k count=64 iflag=direct; do echo >>/tmp/rounds; done")
            guest.check("until [ -s /tmp/rounds ]; do usleep 50000; done", 60)
            guest.check("echo 3000 >/sys/block/nvme0n1/queue/io_timeout")
            with alone():
                guest.check("rm /tmp/rounds; until [ -s /tmp/rounds ]; do usleep 50000; done", 60)  # at work until now
                start = time.monotonic()
                nodes.check(LENDER, f"unavailable {device}")
                nodes.guest.check(f"until [ -b {DISK} ]; do usleep 20000; done")
                seconds = time.monotonic() - start
            assert "Input/output error" in load.outcome(120).output
            guest.power_off(100)
        assert nodes.guest.check(f"head -c {len(data)} {DISK} | sha256sum").split()[0] == hashlib.sha256(data).hexdigest()
        print(f"The lender's kernel had its disk again after {seconds:.1f} s")
        assert seconds < 3


def test_a_virtual_machine_uses_the_network_interface_of_another_host(bed, programs):
    machine = Topology()
    near = machine.e1000e()
    with borrowed_from(bed, programs, machine, "network", machine.igb(near), "1G") as (lender, socket):
        with Guest(bed, "bridge-vm", [vfio_user(socket)], kernel="full") as guest:
            lender.check("modprobe e1000e; ip link set eth1 up && ip addr add 10.1.0.1/24 dev eth1")
            guest.check("modprobe igb; until [ -e /sys/class/net/eth0 ]; do usleep 50000; done", 120)
            guest.check("ip link set eth0 up && ip addr add 10.1.0.2/24 dev eth0")
            guest.check("until ping -c 1 -W 1 10.1.0.1; do :; done", 60)
            lender.check("ping -c 3 10.1.0.2", 60)
            no_complaints(guest, guest.dmesg())
            guest.power_off(100)


def await_bridge(status, peer, seconds=20):
    end = time.monotonic() + seconds
    while not any(fabric["kind"] == "ntb" and fabric["state"] == "up" and fabric["peer"] == peer
                  for fabric in status()["fabrics"]):
        assert time.monotonic() < end, "the bridge does not come up"
        time.sleep(0.05)

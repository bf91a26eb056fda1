"""Two hosts that share nothing but a bridge and a network: L lends its disk, B drives it. Their nodes drive the bridge's
ends themselves; both kernels are Debian's.
"""

import contextlib
import hashlib
import json
import os
import time

from guest import Guest
from lending import Nodes
from ntb_guests import simulate_bridge
from topology import Topology, blank_disk, vfio_user

LENDER, BORROWER, PORT = 8, 4, 7808
BRIDGE, OTHER_BRIDGE = "00:12.0", "00:14.0"
PATIENCE = 12000  # milliseconds
SECONDS = 3  # for which context switches are counted


class Host:
    """A guest with one end of a bridge, and its node."""

    def __init__(self, guest, number):
        self.guest, self.number, self.address = guest, number, f"10.0.0.{number}"
        guest.check(f"modprobe virtio_net; ip link set eth0 up && ip addr add {self.address}/24 dev eth0")
        self.nodes = Nodes(guest, self.address)

    def start(self, bridges):
        self.nodes.start(self.number, PORT, "--insecure")
        self.check(f"config peer-timeout {PATIENCE}")  # two emulated hosts on two cores can be slow
        self.check(f"config ntb {bridges}")

    def check(self, words, seconds=60):
        return self.nodes.check(self.number, words, seconds)

    def tool(self, words, seconds=60):
        return self.nodes.tool(self.number, words, seconds)

    def bridge(self, where=BRIDGE):
        return next(f for f in self.nodes.json(self.number, "status")["fabrics"] if f.get("address") == f"0000:{where}")

    def await_bridge(self, state, where=BRIDGE, seconds=20):
        end = time.monotonic() + seconds
        while self.bridge(where)["state"] != state:
            assert time.monotonic() < end, f"node {self.number}: {self.bridge(where)}"
            time.sleep(0.05)


@contextlib.contextmanager
def hosts(bed, programs, directory, disk=None, model="gen4", kernel="full", disks=("a",), window="64M", crossed=False):
    """A bridge, and the hosts L and B at its ends with their nodes up; the disk of a host that has one is at 01:00.0,
    and QEMU's teaching device at 02:00.0. CROSSED: there is one more bridge, which has at B the address that the first
    has at L."""
    bridge = simulate_bridge(programs, model, window)
    other = simulate_bridge(programs, model, window, "other-bridge") if crossed else None
    network = directory / "network.sock"
    guests = []
    with contextlib.ExitStack() as stack:
        for side, number, role in (("a", LENDER, "server=on"), ("b", BORROWER, "server=off")):
            machine = Topology()
            if side in disks:
                machine.nvme(disk if side == "a" and disk else blank_disk(directory / f"disk-{side}"))
                machine.edu()
            ends = [(bridge, "0x12"), (other, "0x14")] if side == "a" or not crossed else [(bridge, "0x14"), (other, "0x12")]
            machine.devices += [*({**vfio_user(which.end(side)), "addr": slot} for which, slot in ends if which),
                                f"-netdev stream,id=net,{role},addr.type=unix,addr.path={network} "
                                f"-device virtio-net-pci,netdev=net,addr=0x13,mac=52:54:00:00:00:0{number}"]
            guest = Guest(bed, f"bridge-{model}-{side}", machine.devices, kernel=kernel, iommu="intel", programs=["ours"])
            guests.append(Host(stack.enter_context(guest), number))
        addresses = [BRIDGE, OTHER_BRIDGE] if crossed else [BRIDGE]
        for host in guests:
            host.start(",".join(addresses))
        lender, borrower = guests
        for host in guests:
            for address in addresses:
                host.await_bridge("up", address)
        lender.check(f"connect {BORROWER} --address {borrower.address}:{PORT}")
        yield (bridge, other) if crossed else bridge, lender, borrower


def drive(host, device, words, seconds=120):
    """smartio_nvme's output as a program of HOST."""
    return host.guest.check(f"set -o pipefail; smartio_nvme --run-dir /run/node{host.number} {device} {words}", seconds)


def sample_disk(path, offset, size):
    """A disk with random bytes at OFFSET, and these."""
    content = os.urandom(size)
    with open(blank_disk(path), "r+b") as file:
        file.seek(offset)
        file.write(content)
    return content


def test_a_disk_is_driven_from_another_host(bed, programs, tmp_path):
    disk = tmp_path / "disk"
    content = sample_disk(disk, 16 << 20, 16 << 20)
    with hosts(bed, programs, tmp_path, disk) as (_, lender, borrower):
        device = lender.nodes.lend("01:00.0")
        borrower.check(f"borrow {device}")
        assert borrower.nodes.json(BORROWER, f"show {device}")["fabric"] == "ntb"
        borrower.guest.check(f"head -c {2 << 20} /dev/urandom >/run/data")
        drive(borrower, device, "write 8192 </run/data")
        drive(borrower, device, "read 8192 4096 | cmp - /run/data")
        assert borrower.guest.check("sha256sum </run/data").split()[0] == sha256(disk, 4 << 20, 2 << 20)
        read = drive(borrower, device, f"read {(16 << 20) // 512} {(16 << 20) // 512} | sha256sum").split()[0]
        assert read == hashlib.sha256(content).hexdigest()
        for mode in ("", "--interrupts"):
            bench = json.loads(drive(borrower, device, f"bench --commands 200 --bs 4096 --json {mode}"))
            print(mode or "polled", bench)
        borrower.check(f"return {device}")
        assert lender.nodes.state(LENDER, device) == "available"
        await_empty(lender, borrower)
        for host in (borrower, lender):
            host.nodes.end()
    programs.end()


def sha256(file, offset, size):
    with open(file, "rb") as opened:
        opened.seek(offset)
        return hashlib.sha256(opened.read(size)).hexdigest()


def test_two_hosts_lend_to_each_other(bed, programs, tmp_path):
    with hosts(bed, programs, tmp_path, disks=("a", "b")) as (bridge, lender, borrower):
        borrower.check(f"connect {LENDER} --address {lender.address}:{PORT}")
        theirs, ours = lender.nodes.lend("01:00.0"), borrower.nodes.lend("01:00.0", BORROWER)
        borrower.check(f"borrow {theirs}")
        lender.check(f"borrow {ours}")
        # Two emulated hosts that read each other's registers at once hold each other up: one after the other.
        assert "DISK1" in drive(borrower, theirs, "identify") and "DISK1" in drive(lender, ours, "identify")
        before = bridge.counters()
        for interrupts in ("", "--interrupts"):
            loads = []
            for host, device in ((borrower, theirs), (lender, ours)):
                loads.append(host.guest.start(f"smartio_nvme --run-dir /run/node{host.number} --json {device} "
                                              f"bench --seconds 5 --bs 512 {interrupts}"))
                await_client(host)  # its controller is up
            for load in loads:
                assert json.loads(load.check(60))["commands"] > 30
        after = bridge.counters()
        for side in "ab":
            assert after[side]["crossed_reads"] == before[side]["crossed_reads"] == 0
        for host, device in ((borrower, theirs), (lender, ours)):
            host.check(f"return {device}")
        await_empty(lender, borrower)
        reach_nothing_that_was_given_back(lender, borrower)
    programs.end()


def reach_nothing_that_was_given_back(lender, borrower):
    """A device is told by its next borrower to write where the one before had its memory, on another host."""
    device = lender.nodes.lend("02:00.0")
    before = borrower.guest.start(f"trespass /run/node{BORROWER} {device} hold")
    iova = borrower.guest.check(f"until grep . {before.path}.out; do usleep 20000; done", 30).strip()
    lender.nodes.await_state(LENDER, device, "available")
    lender.guest.check("dmesg -c >/dev/null")
    borrower.guest.check(f"trespass /run/node{BORROWER} {device} aim {iova}")
    faults = lender.guest.check("until dmesg | grep 'fault addr'; do usleep 20000; done", 20)
    assert f"fault addr {int(iova, 16):#x}" in faults
    borrower.guest.check("kill $(pidof trespass)")
    before.check()  # its memory is untouched


def test_what_goes_wrong_with_a_bridge_ends_loans_with_a_reason_and_the_next_loan_works(bed, programs, tmp_path):
    with hosts(bed, programs, tmp_path) as (bridge, lender, borrower):
        device = lender.nodes.lend("01:00.0")

        borrower.check(f"borrow {device}")
        load = borrower.guest.start(f"smartio_nvme --run-dir /run/node{BORROWER} {device} bench --seconds 60")
        await_client(borrower)
        bridge.inject("link down-losing-registers")
        ended_with_one_sentence(borrower, load)
        for host in (lender, borrower):
            host.await_bridge("down")
            assert host.bridge()["reason"] == "the bridge's link is down"
        lender.nodes.await_state(LENDER, device, "available")
        refused = borrower.tool(f"borrow {device}")
        assert refused.status == 6 and "no common fabric" in refused.errors, refused
        bridge.inject("link up")
        works_again(lender, borrower, device)

        borrower.check(f"borrow {device}")
        bridge.inject("reads time-out")
        failed = borrower.guest.run(f"smartio_nvme --run-dir /run/node{BORROWER} {device} identify")
        assert failed.status != 0 and len(failed.errors.strip().splitlines()) == 1, failed
        bridge.inject("reads pass")
        borrower.check(f"return {device}")
        works_again(lender, borrower, device)

        borrower.check(f"borrow {device}")
        bridge.inject("doorbells lose")
        slow = json.loads(drive(borrower, device, "bench --commands 3 --interrupts --json"))
        # The driver looks by itself each half second, and before it waits: a slow host may see a completion then.
        assert slow["commands"] == 3 and slow["seconds"] > 0.4
        bridge.inject("doorbells pass")
        drive(borrower, device, "bench --commands 10 --interrupts")
        bridge.inject("doorbells hold")
        load = borrower.guest.start(f"smartio_nvme --run-dir /run/node{BORROWER} {device} "
                                    "bench --commands 10 --interrupts")
        await_client(borrower)
        bridge.inject("doorbells pass")  # late
        load.check(60)
        borrower.check(f"return {device}")
        works_again(lender, borrower, device)

        borrower.check(f"borrow {device}")
        load = borrower.guest.start(f"smartio_nvme --run-dir /run/node{BORROWER} {device} bench --seconds 60")
        await_client(borrower)
        lender.guest.check(f"kill -STOP $(cat /run/node{LENDER}.pid)")  # the link stays up
        ended_with_one_sentence(borrower, load)
        borrower.await_bridge("down")
        assert borrower.bridge()["reason"] == "it is silent"
        lender.guest.check(f"kill -CONT $(cat /run/node{LENDER}.pid)")
        works_again(lender, borrower, device)

        borrower.check(f"borrow {device}")
        borrower.nodes.kill(BORROWER)
        lender.await_bridge("down")
        lender.nodes.await_state(LENDER, device, "available")
        borrower.nodes.start(BORROWER, PORT, "--insecure")  # what it was told of the bridge it has kept
        works_again(lender, borrower, device)

        borrower.check(f"borrow {device}")
        load = borrower.guest.start(f"smartio_nvme --run-dir /run/node{BORROWER} {device} bench --seconds 60")
        await_client(borrower)
        lender.nodes.kill(LENDER)
        ended_with_one_sentence(borrower, load)
        lender.nodes.start(LENDER, PORT, "--insecure")
        works_again(lender, borrower, device)

        borrower.check(f"borrow {device}")
        load = borrower.guest.start(f"smartio_nvme --run-dir /run/node{BORROWER} {device} bench --seconds 60")
        await_client(borrower)
        lender.guest.stop()
        ended_with_one_sentence(borrower, load)
        borrower.await_bridge("down")
        await_empty(borrower)
        borrower.nodes.end()
    programs.end()


def await_client(host, seconds=20):
    end = time.monotonic() + seconds
    while not any(loan["vectors"] or loan["windows"] > 2 for loan in host.nodes.json(host.number, "status")["loans"]):
        assert time.monotonic() < end, "no program drives the device"
        time.sleep(0.05)


def ended_with_one_sentence(host, load):
    """The program was told, and no more than once."""
    status = int(host.guest.check(f"cat {load.path}", 30))
    said = host.guest.check(f"cat {load.path}.out").strip().splitlines()
    assert status in (4, 6) and len(said) == 1 and said[0].startswith("smartio_nvme: "), (status, said)


def await_empty(*both, seconds=20):
    """Nothing of a loan is in any window."""
    end = time.monotonic() + seconds
    while any(host.bridge()["used_bytes"] for host in both):
        assert time.monotonic() < end, [host.bridge() for host in both]
        time.sleep(0.05)


def works_again(lender, borrower, device):
    for host in (lender, borrower):
        host.await_bridge("up")
    lender.nodes.await_state(LENDER, device, "available")
    borrower.nodes.await_state(BORROWER, device, "available")
    borrower.check(f"borrow {device}")
    assert "DISK1" in drive(borrower, device, "identify")
    borrower.check(f"return {device}")
    await_empty(lender, borrower)


def test_a_bridge_that_does_not_do_what_it_must_is_not_used(bed, programs, tmp_path):
    with hosts(bed, programs, tmp_path, model="gen3", window="128K") as (bridge, lender, borrower):
        device = lender.nodes.lend("01:00.0")
        borrower.check(f"borrow {device}")
        failed = borrower.guest.run(f"smartio_nvme --run-dir /run/node{BORROWER} {device} bench --bs 524288 --commands 10")
        assert failed.status != 0 and "the bridge's is full" in failed.errors, failed
        borrower.check(f"return {device}")

        bridge.inject("translation stuck")
        borrower.check("config ntb ''")
        borrower.check(f"config ntb {BRIDGE}")
        end = time.monotonic() + 20
        while "does not take" not in (borrower.bridge()["reason"] or ""):
            assert time.monotonic() < end, borrower.bridge()
            time.sleep(0.05)
        bridge.inject("translation takes")
        borrower.check("config ntb ''")
        borrower.check(f"config ntb {BRIDGE}")
        works_again(lender, borrower, device)
    programs.end()


def test_of_two_bridges_to_one_host_a_loan_takes_one_and_the_next_what_is_left(bed, programs, tmp_path):
    disk = blank_disk(tmp_path / "disk")
    with hosts(bed, programs, tmp_path, disk, crossed=True) as ((_, second), lender, borrower):
        device = lender.nodes.lend("01:00.0")
        borrower.check(f"borrow {device}")
        borrower.guest.check(f"head -c {1 << 20} /dev/urandom >/run/data")
        drive(borrower, device, "write 2048 </run/data")
        drive(borrower, device, "read 2048 2048 | cmp - /run/data")
        assert borrower.guest.check("sha256sum </run/data").split()[0] == sha256(disk, 1 << 20, 1 << 20)
        load = borrower.guest.start(f"smartio_nvme --run-dir /run/node{BORROWER} {device} bench --seconds 60")
        await_client(borrower)
        assert borrower.bridge(BRIDGE)["used_bytes"] > 0 == borrower.bridge(OTHER_BRIDGE)["used_bytes"]
        assert lender.bridge(OTHER_BRIDGE)["used_bytes"] > 0 == lender.bridge(BRIDGE)["used_bytes"]
        second.inject("link down")
        ended_with_one_sentence(borrower, load)
        lender.await_bridge("down", OTHER_BRIDGE)
        lender.nodes.await_state(LENDER, device, "available")
        borrower.nodes.await_state(BORROWER, device, "available")
        borrower.check(f"borrow {device}")
        drive(borrower, device, "read 2048 2048 | cmp - /run/data")
        borrower.check(f"return {device}")
        for host in (borrower, lender):
            host.nodes.end()
    programs.end()


def test_commands_across_a_bridge_wake_no_daemon(bed, programs, tmp_path):
    with hosts(bed, programs, tmp_path, model="gen4-spr") as (_, lender, borrower):
        device = lender.nodes.lend("01:00.0")
        borrower.check(f"borrow {device}")
        at_rest = switches_meanwhile(lender, borrower)
        commands, busy = switches_while_busy(lender, borrower, device)
        print(f"{commands:.0f} commands: {busy} context switches of both daemons, at rest {at_rest}")
        assert commands > 250 and busy - at_rest < commands / 100
        await_no_client(borrower)
        interrupts, relayed = switches_while_busy(lender, borrower, device, "--interrupts")
        print(f"{interrupts:.0f} interrupts: {(relayed - at_rest) / interrupts:.1f} context switches of both daemons each")
    programs.end()


def await_no_client(host, seconds=20):
    end = time.monotonic() + seconds
    while any(loan["client"] or loan["windows"] for loan in host.nodes.json(host.number, "status")["loans"]):
        assert time.monotonic() < end, "a program still has the device"
        time.sleep(0.05)


def switches_while_busy(lender, borrower, device, options=""):
    """What a program does in SECONDS of its work, in commands and in context switches of both daemons."""
    load = borrower.guest.start(f"smartio_nvme --run-dir /run/node{BORROWER} --json {device} bench --bs 512 --seconds 12 {options}")
    await_client(borrower)
    before = None  # it maps its memory before its first command
    while (now := borrower.nodes.json(BORROWER, "status")["loans"]) != before:
        before = now
        time.sleep(0.2)
    busy = switches_meanwhile(lender, borrower)
    borrower.guest.check("pidof smartio_nvme")  # it worked all the while
    return SECONDS * json.loads(load.check(120))["iops"], busy


def switches_meanwhile(*both):
    before = switches(*both)
    time.sleep(SECONDS)
    return sum(count - before.get(thread, 0) for thread, count in switches(*both).items())


def switches(*hosts_):
    """By thread: one that ends takes its count along."""
    counts = {}
    for host in hosts_:
        lines = host.guest.check(f"grep ctxt /proc/$(cat /run/node{host.number}.pid)/task/*/status").splitlines()
        for path, name, count in (line.split(":") for line in lines):
            if name.startswith("voluntary"):
                counts[host.number, path] = int(count)
    return counts

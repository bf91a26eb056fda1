"""What this host uses is not taken from it: refused with the use named, nothing changed; taken once the use has ended."""

import dataclasses
import re

import pytest

from guest import Guest
from lending import Function, Nodes
from topology import Topology, blank_disk

TARGET = "/sys/kernel/config/nvmet/subsystems/s/namespaces/1"
PARTITION_TABLE = bytes(446) + bytes.fromhex("00000000830000000008000000000100") + bytes(48) + b"\x55\xaa"  # 32 MiB


@dataclasses.dataclass
class Use:
    """Shell commands around {node}, a disk or an interface, and the sentence that names the use."""
    begin: str
    sentence: str
    holds: str  # succeeds while the use is as it was
    end: str


USES = {
    "a mounted partition": Use("mkfs.ext4 -q /dev/{node}p1 && mount /dev/{node}p1 /mnt && echo precious >/mnt/file",
                               "/dev/{node}p1 is mounted on /mnt", "grep -q precious /mnt/file", "umount /mnt"),
    "swap": Use("mkswap /dev/{node} && swapon /dev/{node}", "/dev/{node} is swap space",
                "grep -q /dev/{node} /proc/swaps", "swapoff /dev/{node}"),
    "a RAID array": Use("modprobe raid1 && mdadm --create /dev/md0 --run --level=1 --raid-devices=2 --metadata=1.2 "
                        "/dev/{node} missing", "/dev/{node} is part of the RAID array /dev/md0",
                        "grep -q 'md0 : active raid1 {node}' /proc/mdstat", "mdadm --stop /dev/md0"),
    "a device mapper volume": Use("modprobe dm_mod && dmsetup create volume --noudevsync "
                                  "--table '0 2048 linear /dev/{node} 0'",
                                  "/dev/{node} is part of the device mapper volume volume",
                                  "dmsetup table volume | grep -q linear", "dmsetup remove --noudevsync volume"),
    "a loop device": Use("modprobe loop && losetup /dev/loop0 /dev/{node} && mkfs.ext4 -q /dev/loop0 && "
                         "mount /dev/loop0 /mnt && echo precious >/mnt/file",
                         "/dev/{node} is behind /dev/loop0", "grep -q precious /mnt/file",
                         "umount /mnt && losetup -d /dev/loop0"),
    "the kernel's NVMe target": Use("modprobe nvmet && mount -t configfs configfs /sys/kernel/config && "
                                    f"mkdir {TARGET.partition('/namespaces')[0]} {TARGET} && cd {TARGET} && echo -n /dev/{{node}} >device_path && echo 1 >enable",
                                    "/dev/{node} is namespace 1 of the kernel's NVMe target s",
                                    f"grep -q 1 {TARGET}/enable", f"echo 0 >{TARGET}/enable && rmdir {TARGET}"),
    "a packet socket": Use("ip link set {node} up && (udhcpc -f -i {node} >/dev/null 2>&1 & echo $! >/tmp/udhcpc) && "
                           "until grep -q ' 0800 ' /proc/net/packet; do usleep 20000; done",
                           "{node} has a packet socket of process", "[ -e /proc/$(cat /tmp/udhcpc) ]",
                           "kill $(cat /tmp/udhcpc); while [ -e /proc/$(cat /tmp/udhcpc) ]; do usleep 20000; done; "
                           "ip link set {node} down"),
    "traffic control": Use("/bin/tc qdisc add dev {node} clsact", "{node} has traffic control",  # the shell's own is busybox's
                           "/bin/tc qdisc show dev {node} | grep clsact", "/bin/tc qdisc del dev {node} clsact"),
    "another network namespace": Use("(unshare -n sleep 1000 & echo $! >/tmp/other) && "
                                     "until ip link set {node} netns $(cat /tmp/other); do usleep 20000; done",
                                     "it is in another network namespace", "! ip link show {node} 2>/dev/null",
                                     "kill $(cat /tmp/other); until ip link show {node}; do usleep 20000; done"),
    "the default route": Use("ip address add 10.1.0.2/24 dev {node} && ip link set {node} up && "
                             "ip route add default via 10.1.0.1 dev {node}",
                             "{node} is up and has the default route", "ip route | grep -q 'default.*{node}'",
                             "ip link set {node} down"),
}


NETWORK = ["a packet socket", "traffic control", "another network namespace", "the default route"]


@pytest.fixture(scope="module")
def machine(bed, tmp_path_factory):
    """A guest with one device for each use and one more disk; its nodes; where the devices are."""
    directory, topology, places = tmp_path_factory.mktemp("in-use"), Topology(), {}
    for number, use in enumerate([*USES, "more"]):
        disk = blank_disk(directory / f"disk{number}")
        if use == "a mounted partition":
            with open(disk, "r+b") as file:
                file.write(PARTITION_TABLE)
        places[use] = topology.e1000e() if use in NETWORK else topology.nvme(disk)
    with Guest(bed, "in-use", topology.devices, kernel="full", iommu="intel", programs=["ours", "tc"]) as guest:
        guest.check("modprobe e1000e && modprobe sch_ingress")
        nodes = Nodes(guest)
        nodes.start_pair()
        yield guest, nodes, places
        nodes.end()


def node_of(guest, function):
    """nvme0n1 or eth0: what the driver made of the function."""
    found = guest.check(f"until ls {function.path}/net {function.path}/nvme/*/ 2>/dev/null | grep -E '^(eth|nvme)'; "
                        "do usleep 20000; done")
    return found.split()[0]


def refuse(nodes, where, sentence, options="--yes"):
    refused = nodes.tool(8, f"available {options} {where}")
    assert refused.status == 4 and refused.errors.count("\n") == 1 and sentence in refused.errors, refused
    assert nodes.state(8, where) == "unavailable"


@pytest.mark.parametrize("kind", USES)
def test_a_device_in_use_stays_with_its_driver_until_the_use_ends(machine, kind):
    guest, nodes, places = machine
    function, use = Function(guest, places[kind]), USES[kind]
    driver, node = function.driver(), node_of(guest, function)
    guest.check(use.begin.format(node=node))
    nodes.check(8, f"add {places[kind]}")
    refuse(nodes, places[kind], use.sentence.format(node=node))
    assert function.driver() == driver
    guest.check(use.holds.format(node=node))
    guest.check(use.end.format(node=node))
    nodes.check(8, f"available --yes {places[kind]}")
    assert function.driver() == "vfio-pci"
    nodes.check(8, f"unavailable {places[kind]}")
    assert function.driver() == driver and node_of(guest, function)


def test_who_has_a_node_open_is_named_and_force_takes_the_device_from_them(machine):
    guest, nodes, places = machine
    function = Function(guest, places["more"])
    controller = re.match(r"nvme\d+", node_of(guest, function)).group()
    process = guest.check(f"( sleep 1000 </dev/{controller} >/dev/null 2>&1 & echo $! )").strip()
    nodes.check(8, f"add {places['more']}")
    refuse(nodes, places["more"], f"/dev/{controller} is open in process {process} (sleep)")
    assert function.driver() == "nvme"
    guest.check(f"[ -e /proc/{process} ]")
    nodes.check(8, f"available --yes --force {places['more']}")
    assert function.driver() == "vfio-pci"
    nodes.check(8, f"unavailable {places['more']}")
    assert function.driver() == "nvme"
    guest.check(f"kill {process}")

"""What must hold of an NVMe disk in a guest, judged by Linux, nvme-cli, e2fsprogs and fio.

check_nvme_disk() runs it all, whoever serves the disk: in one place, since a disk must not behave differently for
having been lent. The disk's whole content is lost.
"""

import dataclasses
import hashlib
import json
import re
import subprocess

import initramfs

DISK = "/dev/nvme0n1"
CONTROLLER = "/dev/nvme0"
SYSFS = "/sys/class/nvme/nvme0"

# What Linux says about a healthy controller. Any other line about it is a complaint.
HEALTHY = re.compile(r"pci function|default/read/poll queues|resetting controller|Shutdown timeout set to|"
                     r"D3 entry latency set to|"
                     r"passthrough uses implicit buffer lengths|Ignoring bogus Namespace Identifiers")
COMPLAINT = re.compile(r"\bnvme [n0-9]|I/O error|EXT4-fs (error|warning)|JBD2: .*(error|fail)|blocked for more than|"
                       r"BUG|WARNING|Oops|Call Trace|DMAR.*fault")


@dataclasses.dataclass
class Claims:
    """What the model says of itself, and a guest must see."""
    serial: str  # as a regular expression
    model: str
    maximum_transfer: int  # bytes, as told by Identify
    queue_pairs: int
    block_size: int


def check_nvme_disk(guest, file, claims, directory, fio_seconds=10, more=()):
    """GUEST has one NVMe disk, whose bytes are in FILE. DIRECTORY takes scratch files. MORE are checks of the caller's
    own, functions of the guest. The guest is off afterwards, and files_are_as_they_were() holds for the disk."""
    identity_is_as_claimed(guest, file.stat().st_size, claims)
    features_agree(guest, claims)
    errors_are_logged(guest)
    random_io_verifies(guest, claims, fio_seconds)
    sums = files_survive_remount(guest)
    resets_under_load_lose_nothing(guest)
    guest.check(f"mount {DISK} /mnt && cp /tmp/sums /mnt && umount /mnt")
    files_are_as_they_were(guest)
    for check in more:
        check(guest)
    no_complaints(guest, guest.dmesg())
    no_complaints(guest, guest.power_off())
    files_are_in(guest.bed.tree, file, sums, directory)


def identity_is_as_claimed(guest, size, claims):
    controller = guest.json(f"nvme id-ctrl -o json {CONTROLLER}")
    assert guest.check(f"cat {SYSFS}/state").strip() == "live"
    assert guest.check(f"cat {SYSFS}/serial").strip() == controller["sn"].strip()
    assert re.fullmatch(claims.serial, controller["sn"].strip())
    assert guest.check(f"cat {SYSFS}/model").strip() == controller["mn"].strip() == claims.model
    assert 4096 << controller["mdts"] == claims.maximum_transfer
    assert 0 < int(guest.check("cat /sys/block/nvme0n1/queue/max_hw_sectors_kb")) * 1024 <= claims.maximum_transfer
    namespace = guest.json(f"nvme id-ns -o json {DISK}")
    block = 1 << namespace["lbafs"][namespace["flbas"] & 0xf]["ds"]
    assert block == claims.block_size == int(guest.check("cat /sys/block/nvme0n1/queue/logical_block_size"))
    assert namespace["nsze"] * block == size == int(guest.check("cat /sys/block/nvme0n1/size")) * 512
    assert namespace["nuse"] <= namespace["ncap"] <= namespace["nsze"]


def features_agree(guest, claims):
    assert feature(guest, 0x07) == (claims.queue_pairs - 1) * 0x10001
    processors = int(guest.check("nproc"))
    assert int(guest.check(f"cat {SYSFS}/queue_count")) == 1 + min(processors, claims.queue_pairs)
    controller = guest.json(f"nvme id-ctrl -o json {CONTROLLER}")
    assert feature(guest, 0x04) & 0xffff == controller["wctemp"]  # threshold: the one Identify names, until it is set
    write_cache = bool(controller["vwc"] & 1)
    assert not write_cache or feature(guest, 0x06) & 1
    assert guest.check("cat /sys/block/nvme0n1/queue/write_cache").strip() == \
        ("write back" if write_cache else "write through")
    for number in (0x01, 0x02, 0x08, 0x09, 0x0a, 0x0b):
        feature(guest, number)
    feature(guest, 0x05, "-n 1")  # error recovery belongs to a namespace


def feature(guest, number, options=""):
    answer = guest.json(f"nvme get-feature -o json -f {number} {options} {CONTROLLER}")
    return int(next(iter(answer.values()))[0]["Current"], 16)


def smart_log(guest):
    return guest.json(f"nvme smart-log -o json {CONTROLLER}")


def error_log(guest):
    return guest.json(f"nvme error-log -o json {CONTROLLER}")["errors"]


def errors_are_logged(guest):
    """A command the controller does not know is refused, counted, and the first entry of the error log."""
    entries = guest.json(f"nvme id-ctrl -o json {CONTROLLER}")["elpe"] + 1
    before = smart_log(guest)["num_err_log_entries"]
    refused = guest.run(f"nvme io-passthru {DISK} --opcode=0x7f --namespace-id=1")
    assert refused.status != 0 and re.search("invalid.*opcode", refused.output + refused.errors, re.IGNORECASE)
    assert smart_log(guest)["num_err_log_entries"] == before + 1
    newest = guest.json(f"nvme error-log -o json -e {entries} {CONTROLLER}")["errors"][0]
    assert newest["error_count"] == before + 1
    assert newest["sqid"] != 0 and newest["status_field"] & 0x7ff == 0x001  # Invalid Command Opcode


def random_io_verifies(guest, claims, seconds):
    before = smart_log(guest)
    guest.check(f"fio --name=verify --filename={DISK} --size=64M --rw=randrw --bsrange={claims.block_size}-256k "
                "--ioengine=libaio --direct=1 --iodepth=32 --verify=xxhash --verify_backlog=64 --verify_fatal=1 "
                f"--time_based --runtime={seconds} --output-format=json --output=/tmp/fio.json",
                seconds=60 + 3 * seconds)
    after = smart_log(guest)
    job = json.loads(guest.check("cat /tmp/fio.json"))["jobs"][0]
    assert job["error"] == 0
    for way in ("read", "write"):
        assert job[way]["total_ios"] > 0
        assert after[f"host_{way}_commands"] - before[f"host_{way}_commands"] >= job[way]["total_ios"]
        # A unit is 1,000 blocks of 512 bytes, rounded up.
        assert after[f"data_units_{'read' if way == 'read' else 'written'}"] - \
            before[f"data_units_{'read' if way == 'read' else 'written'}"] >= job[way]["io_bytes"] // 512000 - 1
    assert after["critical_warning"] == 0 and after["media_errors"] == 0


def files_survive_remount(guest):
    """Makes a file system of the guest's own programs and libraries. Returns their checksums, by path."""
    guest.check(f"mkfs.ext4 -q {DISK} && mount {DISK} /mnt && cp -r /lib /bin /mnt && sync")
    guest.check("cd / && find lib bin -type f | sort | xargs sha256sum >/tmp/sums")
    guest.check(f"umount /mnt && e2fsck -fn {DISK} && mount {DISK} /mnt && cd /mnt && sha256sum -cs /tmp/sums")
    guest.check("umount /mnt")
    return dict(reversed(line.split()) for line in guest.check("cat /tmp/sums").splitlines())


def files_are_as_they_were(guest):
    """The files that check_nvme_disk() left on the disk, judged by the checksums beside them."""
    guest.check(f"mount {DISK} /mnt && cd /mnt && sha256sum -cs sums && cd / && umount /mnt")


def start_load(guest, seconds):
    """Writes that are verified, to a file on the mounted disk: a job."""
    return guest.start("fio --name=load --filename=/mnt/load --size=32M --rw=randwrite --bsrange=4k-64k "
                       "--ioengine=libaio --direct=1 --iodepth=16 --verify=xxhash --verify_backlog=64 "
                       f"--verify_fatal=1 --time_based --runtime={seconds}")


def wait_for_load(guest):
    # In flight: reads and writes, two numbers.
    guest.check("until grep -qv '^ *0 *0$' /sys/block/nvme0n1/inflight; do usleep 1000; done")


def resets_under_load_lose_nothing(guest):
    guest.check(f"mount {DISK} /mnt")
    load = start_load(guest, 12)
    for _ in range(3):
        wait_for_load(guest)
        guest.check(f"echo 1 >{SYSFS}/reset_controller")
        assert guest.check(f"cat {SYSFS}/state").strip() == "live"
        written = "set -- $(cat /sys/block/nvme0n1/stat); echo $5"
        guest.check(f"old=$({written}); until [ $({written}) -gt $((old + 20)) ]; do usleep 10000; done")
    load.check()
    guest.check("rm /mnt/load && umount /mnt")


def no_complaints(guest, messages):
    bad = [line for line in messages.splitlines() if COMPLAINT.search(line) and not HEALTHY.search(line)]
    if bad:
        raise guest.error("the kernel complained:\n" + "\n".join(bad))


def files_are_in(tree, file, sums, directory):
    """The file system's files, taken out of FILE on this machine, have the checksums SUMS."""
    directory.mkdir()
    for part in ("lib", "bin"):
        subprocess.run([*initramfs.host_command(tree, "debugfs"), "-R", f"rdump /{part} {directory}", str(file)],
                       check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for path, expected in sums.items():
        assert hashlib.sha256((directory / path).read_bytes()).hexdigest() == expected, path

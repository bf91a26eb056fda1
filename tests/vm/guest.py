"""A Linux guest under QEMU's emulator, and the way tests say what runs in it.

    with Guest(bed, "name", devices=[...]) as guest:
        guest.check("mkfs.ext4 /dev/nvme0n1")           # its output; fails the test when the command fails
        load = guest.start("fio ...")                   # runs meanwhile
        guest.run("false").status                       # 1
        load.check(seconds=60)
        guest.qmp("device_del", id="nvme0")
        guest.event("DEVICE_DELETED", device="nvme0")
        guest.power_off()

Commands run one after another, in a busybox shell, each with a deadline. The console is written to LOGS/name.log, which
is kept when the test fails. A guest never outlives its test. Emulation only (never KVM), so results do not depend on
the machine.
"""

import base64
import contextlib
import dataclasses
import json
import os
import re
import shlex
import socket
import subprocess
import time

import initramfs
from programs import die_with_parent
from qmp import Qmp, QmpError

BOOT_SECONDS = 120  # ten times what a busy machine takes
COMMAND_SECONDS = 60
# The guest measures its processor's clock at boot; on a busy machine it may then be wrong many times over, and time with
# it. HPET needs no measuring.
KERNEL_ARGUMENTS = ("console=ttyS0,115200 quiet loglevel=4 panic=-1 clocksource=hpet tsc=reliable no_timer_check "
                    "mitigations=off random.trust_cpu=on nokaslr cryptomgr.notests rcupdate.rcu_expedited=1")

# The bug that is switched on, of tests/mutants, if any: process 1 gets it as its environment.
MUTANT = f" SMARTIO_MUTANT={os.environ['SMARTIO_MUTANT']}" if "SMARTIO_MUTANT" in os.environ else ""

# Without an interrupt remapping table VFIO refuses devices; caching mode makes the guest tell QEMU of every mapping.
IOMMUS = {None: ([], ""),
          "intel": (["-device", "intel-iommu,intremap=on,caching-mode=on"], " intel_iommu=on iommu=nopt"),
          "virtio": (["-device", "virtio-iommu-pci,addr=0x1e"], "")}


class GuestError(Exception):
    """A guest did not do what the test asked for; the text names its log."""


@dataclasses.dataclass
class Outcome:
    status: int
    output: str
    errors: str


class Guest:
    living = set()  # those that run, for the end of a test that failed

    def __init__(self, bed, name, devices=(), memory_mib=512, kernel="cloud", iommu=None, programs=(), arguments=""):
        """DEVICES are dictionaries in the form of QEMU's JSON -device, or strings for other options; topology.py makes
        both. KERNEL is a flavour of bed.py, IOMMU None, "intel" or "virtio"; ARGUMENTS go to the kernel. PROGRAMS:
        what not every guest has, "ours" or "fio", see Bed.boot."""
        self.bed, self.name, self.devices, self.memory_mib = bed, name, devices, memory_mib
        self.flavour, self.iommu, self.programs, self.arguments = kernel, iommu, tuple(programs), arguments
        self.log = bed.logs / f"{name}.log"
        self.endings = []  # functions, called before a guest that still runs is stopped at the end of a test that passed
        self.files_to_keep = []  # paths in the guest, added to the log when the test fails
        self.kept = False  # whether a test failed meanwhile
        self.jobs = 0

    def __enter__(self):
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self.log.unlink(missing_ok=True)
        boot = self.bed.boot(self.flavour, self.programs, small=self.memory_mib < 256)
        near, far = socket.socketpair()
        near_qmp, far_qmp = socket.socketpair()
        self.channel, self.pending, self.control = near, b"", Qmp(near_qmp)
        with far, far_qmp, open(self.log, "ab") as log:
            environment = {**os.environ, "QEMU_MODULE_DIR": str(self.bed.tree / initramfs.LIBRARIES / "qemu")}
            self.process = subprocess.Popen(
                self.command_line(boot, far.fileno(), far_qmp.fileno()), stdin=subprocess.DEVNULL, stdout=log,
                stderr=log, pass_fds=[far.fileno(), far_qmp.fileno()], env=environment, preexec_fn=die_with_parent)
        try:
            if self.read_line(time.monotonic() + BOOT_SECONDS) != "ready":
                raise self.error("did not start properly")
        except BaseException:
            self.stop()
            raise
        self.living.add(self)
        return self

    def command_line(self, boot, channel, control):
        iommu_options, iommu_arguments = IOMMUS[self.iommu]
        share = self.bed.tree / "usr/share"
        options = [
            *initramfs.host_command(self.bed.tree, "qemu-system-x86_64"),
            "-L", f"{share}/qemu", "-L", f"{share}/seabios", "-L", f"{self.bed.tree}/usr/lib/ipxe/qemu",
            "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-monitor", "none",
            "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", str(self.memory_mib),
            # Devices in other processes reach the guest's memory through this descriptor.
            "-object", f"memory-backend-memfd,id=ram,size={self.memory_mib}M,share=on",
            "-machine", "q35,memory-backend=ram",
            # Hot-unplug through the root ports themselves, as on real machines, not through ACPI.
            "-global", "ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off", *iommu_options,
            "-kernel", str(boot.kernel), "-initrd", str(boot.initrd),
            "-append", f"{KERNEL_ARGUMENTS}{iommu_arguments}{MUTANT} {self.arguments}",
            "-chardev", f"socket,id=control,fd={control}", "-object", "monitor-qmp,id=control,chardev=control",
            "-chardev", f"file,id=console,path={self.log},append=on", "-serial", "chardev:console",
            "-chardev", f"socket,id=channel,fd={channel}", "-device", "virtio-serial-pci",
            "-device", "virtserialport,chardev=channel,nr=1",
        ]
        for device in self.devices:
            options += shlex.split(device) if isinstance(device, str) else ["-device", json.dumps(device)]
        return options

    def __exit__(self, kind, value, traceback):
        try:
            if kind is None and not self.kept and self.process.poll() is None:
                for ending in self.endings:
                    ending()
        except BaseException:
            self.save_messages()
            raise
        finally:
            self.living.discard(self)
            if kind is not None:
                self.save_messages()
            self.stop()
        if kind is None and not self.kept:
            self.log.unlink(missing_ok=True)
        elif kind is not None and not issubclass(kind, GuestError):
            value.add_note(f"Log of guest {self.name}: {self.log}")

    def stop(self):
        self.process.kill()
        self.process.wait()
        self.channel.close()
        self.control.channel.close()

    def save_messages(self):
        """Adds the kernel's messages and files_to_keep to the log of a guest that still answers, and keeps the log."""
        self.kept = True
        with contextlib.suppress(GuestError):
            for command in ("dmesg", *(f"cat {shlex.quote(path)}" for path in self.files_to_keep)):
                messages = self.run(command, seconds=5).output
                with open(self.log, "a") as log:
                    log.write(f"\n--- {command} in {self.name}\n{messages}")

    def run(self, command, seconds=COMMAND_SECONDS):
        """Runs COMMAND to its end. Raises GuestError when it takes longer than SECONDS; the guest is then lost."""
        deadline = time.monotonic() + seconds
        self.send(base64.b64encode(command.encode()) + b"\n", command)
        status, output, errors = map(int, self.read_line(deadline, command).split())
        return Outcome(status, self.read(output, deadline, command).decode(errors="replace"),
                       self.read(errors, deadline, command).decode(errors="replace"))

    def check(self, command, seconds=COMMAND_SECONDS):
        """Output of a command that must succeed."""
        outcome = self.run(command, seconds)
        if outcome.status != 0:
            raise self.error(f"command failed ({outcome.status}): {command}\n{outcome.output}{outcome.errors}")
        return outcome.output

    def json(self, command, seconds=COMMAND_SECONDS):
        return json.loads(self.check(command, seconds))

    def start(self, command):
        """Starts COMMAND in the background: a Job to wait for."""
        self.jobs += 1
        job = Job(self, command, f"/run/job{self.jobs}")
        # A reader of the fifo sleeps until the command's end writes its status.
        self.check(f"mkfifo {job.path} && ( sh -c {shlex.quote(command)} >{job.path}.out 2>&1; echo $? >{job.path} ) "
                   ">/dev/null 2>&1 &")
        return job

    def qmp(self, command, **arguments):
        """What a command of QEMU's control channel returns."""
        with self.telling():
            return self.control.command(command, **arguments)

    def event(self, name, seconds=30, **data):
        """Waits for the next event of that name, with those data."""
        with self.telling():
            return self.control.event(name, seconds, **data)

    @contextlib.contextmanager
    def telling(self):
        try:
            yield
        except QmpError as error:
            raise self.error(str(error)) from None

    def dmesg(self):
        return self.check("dmesg")

    def power_off(self, seconds=COMMAND_SECONDS):
        """Orderly power-off. Returns all the kernel said from there on (to the console, hence without time stamps)."""
        self.check("dmesg -n 8; sync")
        before = self.log.stat().st_size
        self.send(base64.b64encode(b"poweroff -f") + b"\n", "poweroff")
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise self.error(f"not powered off after {seconds} s") from None
        return self.log.read_bytes()[before:].decode(errors="replace")

    def reset(self):
        """Presses the reset button, and waits until the guest takes commands again; its memory's content is gone."""
        self.qmp("set-action", reboot="reset")  # otherwise -no-reboot ends QEMU; a panic must
        self.qmp("system_reset")
        self.pending = b""
        if self.read_line(time.monotonic() + BOOT_SECONDS) != "ready":
            raise self.error("did not start properly after its reset")
        self.qmp("set-action", reboot="shutdown")

    def send(self, data, command):
        try:
            self.channel.sendall(data)
        except OSError as error:
            raise self.error(f"cannot be reached ({error}) for: {command}") from None

    def read_line(self, deadline, command="its start"):
        while b"\n" not in self.pending:
            self.receive(deadline, command)
        line, self.pending = self.pending.split(b"\n", 1)
        return line.decode()

    def read(self, size, deadline, command):
        while len(self.pending) < size:
            self.receive(deadline, command)
        data, self.pending = self.pending[:size], self.pending[size:]
        return data

    def receive(self, deadline, command):
        try:
            self.channel.settimeout(max(0.001, deadline - time.monotonic()))
            data = self.channel.recv(1 << 16)
        except TimeoutError:
            self.process.kill()
            raise self.error(f"no answer in time, waiting for: {command}") from None
        except OSError:
            data = b""
        if not data:
            raise self.error(f"ended while waiting for: {command}")
        self.pending += data

    def error(self, text):
        tail = re.sub(r"\s*\n\s*", "\n  ", self.log.read_text(errors="replace")[-1500:]) if self.log.exists() else ""
        return GuestError(f"Guest {self.name}: {text}\nLog: {self.log}\n  {tail}")


@dataclasses.dataclass
class Job:
    """A command running in a guest's background."""
    guest: Guest
    command: str
    path: str

    def outcome(self, seconds=COMMAND_SECONDS):
        """Waits for the end; errors are in the output. Once."""
        status = int(self.guest.check(f"cat {self.path}", seconds))
        return Outcome(status, self.guest.check(f"cat {self.path}.out"), "")

    def check(self, seconds=COMMAND_SECONDS):
        """Waits for the end: output of a command that must succeed."""
        outcome = self.outcome(seconds)
        if outcome.status != 0:
            raise self.guest.error(f"command failed ({outcome.status}): {self.command}\n{outcome.output}")
        return outcome.output

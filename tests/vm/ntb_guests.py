"""Guests with Linux's own NTB drivers, which Debian's kernels leave out, the simulated bridge, and our own driver at an
end of it.

The kernel (drivers built in, its clients as modules) is own_kernel.py's.
"""

import contextlib
import dataclasses
import json
import pathlib
import signal
import socket
import subprocess
from collections.abc import Callable

import fetch
import initramfs
import own_kernel
from bed import lacking
from guest import Guest
from programs import START_SECONDS, Process

HERE = pathlib.Path(__file__).parent
PROBE_SECONDS = 60  # longer than it waits for anything
CLIENTS = own_kernel.MODULES


def find_kernel():
    """A directory with bzImage and the modules of CLIENTS."""
    try:
        return own_kernel.find()
    except fetch.Unavailable as reason:
        lacking(reason)


def build_initramfs(tree, kernel, destination):
    """busybox, the init of all guests, and CLIENTS in /lib."""
    with open(destination, "wb") as output:
        archive = initramfs.Archive(output)
        for directory in ("proc", "sys", "dev", "tmp", "run", "etc"):
            archive.directory(directory)
        archive.file("init", (HERE / "guest_init").read_bytes(), 0o755)
        busybox = initramfs.find_program(tree, "busybox")
        archive.file("bin/busybox", busybox.read_bytes(), 0o755)
        for applet in subprocess.check_output([busybox, "--list"], text=True).split():
            if applet != "busybox":
                archive.link(f"bin/{applet}", "busybox")
        for client in CLIENTS:
            archive.file(f"lib/{client}.ko", (kernel / f"{client}.ko").read_bytes())
        archive.end()


class NtbGuest(Guest):
    """A guest with that kernel, at one end of a bridge."""

    def __init__(self, bed, name, boot, end, iommu, private_memory=False):
        """With PRIVATE_MEMORY nobody else gets a descriptor of the guest's memory."""
        units = ["-device intel-iommu,intremap=on,caching-mode=on"] if iommu else []
        function = {"driver": "vfio-user-pci", "addr": "0x12", "socket": {"type": "unix", "path": str(end)}}
        super().__init__(bed, name, [*units, function])
        self.boot, self.private_memory = boot, private_memory

    def command_line(self, *channels):
        options = super().command_line(*channels)
        for name, path in zip(("-kernel", "-initrd"), self.boot):
            options[options.index(name) + 1] = str(path)
        if self.private_memory:
            backend = next(at for at, word in enumerate(options) if word.startswith("memory-backend-"))
            options[backend] = f"memory-backend-ram,id=ram,size={self.memory_mib}M"
        return options

    def __enter__(self):
        super().__enter__()
        self.check("mount -t debugfs debugfs /sys/kernel/debug")
        return self

    def load(self, client, *parameters):
        self.check(f"insmod /lib/{client}.ko {' '.join(parameters)}")

    def unload(self, *clients):
        self.check(f"rmmod {' '.join(clients)}")

    def debug(self, client, command, seconds=60):
        """Output of COMMAND in the directory where CLIENT has its files for the bridge."""
        return self.check(f"cd /sys/kernel/debug/{client}/0000:00:12.0 && {command}", seconds).strip()

    def wait_until(self, client, condition):
        """CONDITION is a shell command; a kernel's client tells of its own progress only when asked."""
        self.debug(client, f"until {condition}; do usleep 20000; done")


@dataclasses.dataclass
class Bridge:
    process: subprocess.Popen
    directory: pathlib.Path

    def end(self, side):
        return self.directory / f"{side}.sock"

    def counters(self):
        self.process.send_signal(signal.SIGUSR1)
        return json.loads(self.line())

    def line(self):
        return self.process.line()

    def inject(self, fault):
        with socket.socket(socket.AF_UNIX) as control:
            control.settimeout(START_SECONDS)
            control.connect(str(self.directory / "faults.sock"))
            control.sendall(f"{fault}\n".encode())
            assert control.recv(16) == b"ok\n"


def simulate_bridge(programs, model, window="2M", name="bridge"):
    directory = programs.directory / name
    directory.mkdir()
    process = programs.start(name, "tools/smartio_sim/smartio_sim", "ntb", "--socket-a", directory / "a.sock",
                             "--socket-b", directory / "b.sock", "--faults", directory / "faults.sock",
                             "--model", model, "--window", window, stdout=subprocess.PIPE)
    bridge = Bridge(process, directory)
    line = bridge.line()
    assert line == f"ready {bridge.end('a')} {bridge.end('b')}\n", line
    return bridge


class ProbeError(Exception):
    """ntb_probe said that it could not do something."""


@dataclasses.dataclass
class Probe:
    """ntb_probe (tests/vm/exercise), which drives an end with fabric/ntb. ASK says a line and returns the answer."""
    ask: Callable

    def say(self, *words):
        """The value of one of its commands."""
        line = " ".join(map(str, words))
        answer = self.ask(line).rstrip("\n")
        if answer != "ok" and not answer.startswith("ok "):
            raise ProbeError(f"{line[:60]}: {answer!r}")
        return answer[3:]


@contextlib.contextmanager
def probe_here(programs, bridge, side):
    """The probe on this machine, through the end's socket."""
    command = [programs.build / "tests/vm/exercise/ntb_probe", bridge.end(side)]
    with Process(*command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        def answer():
            return process.line(PROBE_SECONDS)

        def ask(line):
            process.stdin.write(f"{line}\n")
            process.stdin.flush()
            return answer()
        try:
            assert (said := answer()) == "ready\n", said
            yield Probe(ask)
            process.stdin.close()
            assert process.wait(START_SECONDS) == 0
        finally:
            process.kill()


@contextlib.contextmanager
def probe_in(guest, where, interface):
    """The probe in a guest, through kernel VFIO: of the function at WHERE, which is bound to vfio-pci."""
    guest.check("rm -f /run/say /run/answer; mkfifo /run/say /run/answer; "
                f"( ntb_probe {where} {interface} 0<>/run/say 1<>/run/answer 2>/dev/null & echo $! >/run/probe ) "
                ">/dev/null")
    answer = "head -n 1 /run/answer"
    assert (said := guest.check(answer, PROBE_SECONDS)) == "ready\n", said
    yield Probe(lambda line: guest.check(f"echo {line} >/run/say; {answer}", PROBE_SECONDS))
    guest.check("kill $(cat /run/probe) && while [ -e /proc/$(cat /run/probe) ]; do usleep 20000; done")


@contextlib.contextmanager
def single(bed, programs, model, directory, iommu):
    """A bridge and a guest at its end a; nobody is at the other yet."""
    kernel = find_kernel()
    boot = (kernel / "bzImage", directory / "initrd")
    build_initramfs(bed.tree, kernel, boot[1])
    bridge = simulate_bridge(programs, model)
    with NtbGuest(bed, f"{model}-linux", boot, bridge.end("a"), iommu) as guest:
        yield bridge, guest


@contextlib.contextmanager
def pair(bed, programs, model, directory, iommu, private_memory=False):
    """A bridge and the guests at both its ends."""
    kernel = find_kernel()
    boot = (kernel / "bzImage", directory / "initrd")
    build_initramfs(bed.tree, kernel, boot[1])
    bridge = simulate_bridge(programs, model)
    with NtbGuest(bed, f"{model}-a", boot, bridge.end("a"), iommu, private_memory) as a, \
            NtbGuest(bed, f"{model}-b", boot, bridge.end("b"), iommu, private_memory) as b:
        yield bridge, a, b

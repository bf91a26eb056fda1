"""Simulated disks and nodes (smartiod), several on one machine, and the directory they live in: the same for tests on
this host and for those with guests. All of them are ended in an orderly way, and looked at."""

import contextlib
import json
import os
import pathlib
import random
import re
import shutil
import signal
import socket
import subprocess
import tempfile

from processes import PATIENCE, Process, close_all, wait_for
from tool import BUILD, TOOL, tool

SMARTIOD = BUILD / "src/daemon/smartiod"
SIM = BUILD / "tools/smartio_sim/smartio_sim"
MANY_DEVICES = BUILD / "tests/support/many_devices"


def answers(path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        return probe.connect_ex(str(path)) == 0


def free_port():
    """A TCP port nobody listens on, below those that the kernel gives to outgoing connections."""
    while True:
        port = random.randrange(10000, 30000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


class Program:
    """A program that runs until the end of the test, and must not end before, unless the test ends it."""

    def __init__(self, place, name):
        self.name, self.log = name, place / f"{name}.log"
        self.process, self.over = None, True

    def launch(self, *command, **options):
        self.process, self.over = Process(*command, log=self.log, **options), False

    def alive(self):
        return self.process is not None and self.process.poll() is None

    def end(self, how=signal.SIGTERM):
        """Sends `how` and waits. The program must still run; it must end well, unless it was killed. Gives its status."""
        assert self.alive(), self.told(f"had ended with status {self.process.poll() if self.process else None}")
        self.over = True
        self.process.send_signal(how)
        try:
            status = self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(self.told(f"did not end on signal {how}")) from None
        assert status == (-how if how == signal.SIGKILL else 0), self.told(f"ended with status {status}")
        assert how == signal.SIGKILL or not self.leftovers(), self.told(f"left {self.leftovers()}")
        return status

    def kill(self):
        return self.end(signal.SIGKILL)

    def told(self, what):
        self.over = True  # once is enough
        return f"{self.name} {what}: {self.text()[-5000:]}"

    def leftovers(self):
        """Files that an orderly end must not leave."""
        return []

    def cpu_seconds(self):
        user, system = pathlib.Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")

    def memory_files(self):
        """How many files in memory the program has open."""
        links = []
        for link in pathlib.Path(f"/proc/{self.process.pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                links.append(str(link.readlink()))
        return sum(link.startswith("/memfd:") for link in links)

    def finish(self):
        """Its end with its world: what was wrong."""
        try:
            if not self.over:
                self.end()
        except AssertionError as complaint:
            return [str(complaint)]
        return []

    def text(self):
        return self.log.read_text(errors="replace")


class Disk(Program):
    """smartio_sim nvme on a file of `size` bytes. Its clients must have left before it ends."""

    def __init__(self, place, name, size):
        super().__init__(place, name)
        self.socket, self.file = place / f"{name}.sock", place / f"{name}.img"
        self.device = f"vfio-user:{self.socket}"
        with open(self.file, "wb") as file:
            file.truncate(size)

    def start(self):
        self.launch(SIM, "nvme", "--socket", self.socket, "--file", self.file)
        wait_for(lambda: answers(self.socket) or not self.alive(), "the simulated disk answers")
        assert self.alive(), self.text()
        self.own_memory = self.memory_files()
        return self

    def counters(self):
        """What the simulator counted so far."""
        lines = lambda: [line for line in self.text().splitlines(True) if line.startswith("{") and line.endswith("\n")]
        before = len(lines())
        self.process.send_signal(signal.SIGUSR1)
        wait_for(lambda: len(lines()) > before or not self.alive(), "the simulator prints its counters")
        assert self.alive(), self.text()
        return json.loads(lines()[-1])

    def leftovers(self):
        return [self.socket] if self.socket.exists() else []

    def finish(self):
        complaints = []
        try:
            if self.alive() and not self.over:
                wait_for(lambda: self.memory_files() <= self.own_memory, f"{self.name} closes its clients' memory")
                wait_for(lambda: self.counters()["windows"] == 0, f"{self.name} forgets its clients' memory")
        except AssertionError as complaint:
            complaints.append(str(complaint))
        return complaints + super().finish()


class Node(Program):
    """A smartiod; keeps its port and directories over restarts."""

    def __init__(self, place, number, config=None):
        super().__init__(place, f"node{number}")
        self.number, self.port = number, free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.run_dir, self.state_dir = place / f"r{number}", place / f"s{number}"
        self.socket = self.run_dir / "smartiod.sock"
        self.options, self.wrapper = [], []  # the latter goes before the command
        if config is not None:
            (place / f"c{number}.json").write_text(json.dumps(config))
            self.options = ["--config", place / f"c{number}.json"]

    def command(self):
        return [*self.wrapper, SMARTIOD, "--node", self.number, "--listen", self.address, "--run-dir", self.run_dir, "--state-dir",
                self.state_dir, *self.options]

    def start(self):
        self.run_dir.mkdir(exist_ok=True)
        self.state_dir.mkdir(exist_ok=True)
        self.launch(*self.command())
        wait_for(lambda: self.ready() or not self.alive(), f"node {self.number} answers")
        assert self.alive(), self.text()
        return self

    def ready(self):
        return answers(self.socket)

    def leftovers(self):
        """Sockets, and directories of loans."""
        return [path for path in self.run_dir.rglob("*") if path.is_socket() or path.name == "loans"]

    def tool(self, *words, **more):
        return tool(*words, run_dir=self.run_dir, **more)

    def begin(self, *words):
        """A command under way; its standard error is its text()."""
        return Process(TOOL, "--run-dir", self.run_dir, *words)

    def ok(self, *words):
        """A command that must succeed; gives its standard output."""
        ran = self.tool(*words)
        assert ran.exit == 0, ran
        return ran.out

    def document(self, schema, *words):
        """The JSON document of a command that must succeed."""
        ran = self.tool("--json", *words)
        assert ran.exit == 0, ran
        return ran.json(schema)

    def status(self):
        return self.document("status", "status")

    def devices(self):
        return {device["id"]: device for device in self.document("list", "list")["devices"]}

    def peer(self, number, role):
        """The state of the connection with node `number`, or None."""
        found = [peer["state"] for peer in self.status()["peers"] if (peer["node"], peer["role"]) == (number, role)]
        return found[0] if found else None


class Bridge(Program):
    """smartio_sim ntb: two functions of a bridge, joined."""

    def __init__(self, place):
        super().__init__(place, "bridge")
        self.a, self.b = place / "a.sock", place / "b.sock"

    def start(self):
        self.launch(SIM, "ntb", "--socket-a", self.a, "--socket-b", self.b)
        wait_for(lambda: answers(self.a) and answers(self.b) or not self.alive(), "the simulated bridge answers")
        assert self.alive(), self.text()
        return self

    def leftovers(self):
        return [socket for socket in (self.a, self.b) if socket.exists()]


class ManyDevices(Program):
    """many_devices: `count` devices in one program, each with a server of its own."""

    def __init__(self, place, count):
        super().__init__(place, "many")
        self.folder = place / "many"
        self.folder.mkdir()
        self.devices = [f"vfio-user:{self.folder}/{i}.sock" for i in range(count)]

    def start(self):
        self.launch(MANY_DEVICES, self.folder, len(self.devices))
        wait_for(lambda: "ready" in self.process.text().splitlines() or not self.alive(), "the many devices answer")
        assert self.alive(), self.text()
        return self

    def leftovers(self):
        return [*self.folder.iterdir()]


class World:
    """A short directory, for the paths of sockets (107 bytes: unix(7)), and what runs in it."""

    open = []

    def __init__(self, name="by-hand"):
        """`name` is unique to what is tested."""
        self.place = pathlib.Path(tempfile.mkdtemp(prefix="smartio."))
        self.logs = BUILD / "program-logs" / re.sub(r"[^\w.-]+", "_", name)[:150]
        self.programs = []
        self.open.append(self)

    def keep(self, program):
        self.programs.append(program)
        return program

    def node(self, number, config=None, start=True, place=""):
        """Nodes with the same number need a `place` each."""
        (self.place / place).mkdir(exist_ok=True)
        node = self.keep(Node(self.place / place, number, config))
        return node.start() if start else node

    def bridge(self):
        return self.keep(Bridge(self.place)).start()

    def many_devices(self, count):
        return self.keep(ManyDevices(self.place, count)).start()

    def disk(self, name="disk", size=16 << 20):
        return self.keep(Disk(self.place, name, size)).start()

    def died(self):
        """What ended although no test ended it, each told once."""
        return [program.told(f"had ended with status {program.process.returncode}")
                for program in self.programs if not program.over and not program.alive()]

    def processes(self):
        return [program.process for program in self.programs if program.process and not program.over]

    def end(self):
        """Ends all: nodes before what serves them devices. Fails if any had died, does not end well, said what nobody
        may, or left something."""
        nodes = [program for program in self.programs if isinstance(program, Node)]
        servers = [program for program in self.programs if program not in nodes]
        complaints = self.died()
        for program in [*reversed(nodes), *reversed(servers)]:
            complaints += program.finish()
        complaints += close_all(kept=[process for world in self.open if world is not self for process in world.processes()])
        complaints += [line for line in pathlib.Path("/proc/self/mountinfo").read_text().splitlines()
                       if str(self.place) in line]
        assert not complaints, "\n".join(complaints)

    def text(self):
        return "".join(f"--- {log.name}\n{log.read_text(errors='replace')}" for log in self.place.glob("*.log"))

    def close(self, failed=False):
        """The end, and the end of its directory. What the programs logged is kept in `logs` if anything was wrong."""
        try:
            self.end()
        except BaseException:
            failed = True
            raise
        finally:
            if failed:
                self.logs.mkdir(parents=True, exist_ok=True)
                for log in self.place.glob("*.log"):
                    shutil.copy(log, self.logs)
            self.open.remove(self)
            shutil.rmtree(self.place, ignore_errors=True)

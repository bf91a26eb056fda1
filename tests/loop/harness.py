# Whole programs for tests: simulated disks, nodes (smartiod) and smartio_tool, several on one machine, all of them gone
# at the end. What is checked is left to the tests.
import contextlib
import functools
import json
import os
import pathlib
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time

import jsonschema

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("SMARTIO_BUILD", ROOT / "build"))
SMARTIOD = BUILD / "src/daemon/smartiod"
TOOL = BUILD / "tools/smartio_tool/smartio_tool"
SIM = BUILD / "tools/smartio_sim/smartio_sim"
NVME = BUILD / "tools/smartio_nvme/smartio_nvme"
SCHEMAS = ROOT / "tools/schema"
# The address sanitizer keeps what was freed, 256 MiB of it unless told otherwise: no test could see a program grow.
os.environ["ASAN_OPTIONS"] = ":".join(filter(None, [os.environ.get("ASAN_OPTIONS"), "quarantine_size_mb=8"]))
PATIENCE = 20.0  # seconds for what takes a moment: generous, for sanitizers on a busy machine


def wait_for(condition, what, seconds=PATIENCE):
    """The first true value of `condition`; fails with `what` after `seconds`."""
    end = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < end, f"not within {seconds} s: {what}"
        time.sleep(0.01)


def answers(path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        return probe.connect_ex(str(path)) == 0


def sanitizer():
    """What instruments this build: "none", "thread", "address,undefined"."""
    options = json.loads((BUILD / "meson-info/intro-buildoptions.json").read_text())
    return next(option["value"] for option in options if option["name"] == "b_sanitize")


def sanitized():
    """Whether this build is instrumented: then tests do the same with less, and nobody looks at the clock."""
    return sanitizer() != "none"


def context_switches(program):
    """How often the threads of a program went to sleep of their own accord."""
    count = 0
    for task in os.listdir(f"/proc/{program.process.pid}/task"):
        with open(f"/proc/{program.process.pid}/task/{task}/status") as file:
            count += next(int(line.split()[1]) for line in file if line.startswith("voluntary_ctxt_switches"))
    return count


def free_port():
    """A TCP port nobody listens on, below those that the kernel gives to outgoing connections."""
    while True:
        port = random.randrange(10000, 30000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


@functools.cache
def validator(name):
    uri = (SCHEMAS / f"{name}.json").as_uri()
    schema = json.loads((SCHEMAS / f"{name}.json").read_text())
    return jsonschema.Draft202012Validator(schema, resolver=jsonschema.RefResolver(uri, schema))


def check(document, schema):
    """Fails unless `document` is what tools/schema/SCHEMA.json says; gives the document."""
    errors = [f"{list(error.absolute_path)}: {error.message}" for error in validator(schema).iter_errors(document)]
    assert not errors, f"{schema}: {errors} in {document}"
    return document


class Ran:
    """How one run of smartio_tool ended."""

    def __init__(self, done):
        self.exit, self.out, self.err = done.returncode, done.stdout, done.stderr

    def __repr__(self):
        return f"exit {self.exit}\nstdout: {self.out}stderr: {self.err}"

    def json(self, schema):
        lines = self.out.splitlines()
        assert len(lines) == 1, self
        return check(json.loads(lines[0]), schema)

    def failed(self, code):
        """Fails unless the run ended with `code` and one sentence; gives the sentence."""
        assert self.exit == code, self
        assert self.err.startswith("smartio_tool: ") and self.err.count("\n") == 1 and self.err.endswith("\n"), self
        return self.err[len("smartio_tool: "):-1]


def tool(*words, run_dir=None, stdin=subprocess.DEVNULL, env=None):
    where = ["--run-dir", str(run_dir)] if run_dir else []
    return Ran(subprocess.run([TOOL, *where, *map(str, words)], stdin=stdin, capture_output=True, text=True,
                              timeout=60, env={**os.environ, **(env or {})}))


class Program:
    """A program that runs until the end of the test."""

    def __init__(self, place, name):
        self.log = place / f"{name}.log"
        self.process = None

    def launch(self, *command):
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(list(map(str, command)), stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def alive(self):
        return self.process is not None and self.process.poll() is None

    def end(self, how=signal.SIGTERM):
        """Sends `how` and waits; gives the exit code."""
        if self.process is None:
            return None
        if self.alive():
            self.process.send_signal(how)
        try:
            return self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"did not end on signal {how}: {self.text()}") from None

    def kill(self):
        return self.end(signal.SIGKILL)

    def text(self):
        return self.log.read_text(errors="replace")


class Disk(Program):
    """smartio_sim nvme on a file of `size` bytes."""

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
        return self

    def counters(self):
        """What the simulator counted so far."""
        lines = lambda: [line for line in self.text().splitlines(True) if line.startswith("{") and line.endswith("\n")]
        before = len(lines())
        self.process.send_signal(signal.SIGUSR1)
        wait_for(lambda: len(lines()) > before, "the simulator prints its counters")
        return json.loads(lines()[-1])


class Node(Program):
    """A smartiod; keeps its port and directories over restarts."""

    def __init__(self, place, number, config=None):
        super().__init__(place, f"node{number}")
        self.number, self.port = number, free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.run_dir, self.state_dir = place / f"r{number}", place / f"s{number}"
        self.socket = self.run_dir / "smartiod.sock"
        self.options = []
        if config is not None:
            (place / f"c{number}.json").write_text(json.dumps(config))
            self.options = ["--config", place / f"c{number}.json"]

    def command(self):
        return [SMARTIOD, "--node", self.number, "--listen", self.address, "--run-dir", self.run_dir, "--state-dir",
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

    def tool(self, *words, **more):
        return tool(*words, run_dir=self.run_dir, **more)

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


class World:
    """A short directory, for the paths of sockets, and what runs in it."""

    def __init__(self):
        self.place = pathlib.Path(tempfile.mkdtemp(prefix="smartio."))
        self.programs = []

    def keep(self, program):
        self.programs.append(program)
        return program

    def node(self, number, config=None, start=True):
        node = self.keep(Node(self.place, number, config))
        return node.start() if start else node

    def disk(self, name="disk", size=16 << 20):
        return self.keep(Disk(self.place, name, size)).start()

    def end(self):
        for program in self.programs:
            if program.alive():
                program.process.kill()
                program.process.wait()
        shutil.rmtree(self.place, ignore_errors=True)

    def logs(self):
        return "".join(f"--- {log.name}\n{log.read_text(errors='replace')}" for log in self.place.glob("*.log"))

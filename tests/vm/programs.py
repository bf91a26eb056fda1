"""Our own programs on this machine, as tests start them: they end with the test; what they said is kept if it fails."""

import ctypes
import dataclasses
import json
import pathlib
import select
import shutil
import signal
import socket
import subprocess
import tempfile
import time

START_SECONDS = 20
END_SECONDS = 10
PR_SET_PDEATHSIG = 1  # <sys/prctl.h>
libc = ctypes.CDLL(None)


def die_with_parent():
    """For preexec_fn: the kernel kills the child when this process ends, however it ends."""
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


@dataclasses.dataclass
class Simulator:
    socket: pathlib.Path
    file: pathlib.Path


class Programs:
    """Programs of the build directory. DIRECTORY, where their files and sockets are, has a short path: socket addresses
    are limited to 107 bytes (unix(7))."""

    def __init__(self, build, log_prefix):
        self.build, self.log_prefix = build, log_prefix
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="smartio-"))
        self.running, self.logs = {}, []

    def simulate_nvme(self, name, size):
        """A simulated disk of SIZE bytes, ready to be attached."""
        result = Simulator(self.directory / f"{name}.sock", self.directory / f"{name}.disk")
        process = self.start(name, "tools/smartio_sim/smartio_sim", "nvme", "--socket", result.socket,
                             "--file", result.file, "--size", size, stdout=subprocess.PIPE)
        line = self.line_of(process)
        assert line == f"ready {result.socket}\n", f"smartio_sim said {line!r}; see {self.log(name)}"
        return result

    @staticmethod
    def line_of(process):
        readable, _, _ = select.select([process.stdout], [], [], START_SECONDS)
        return process.stdout.readline() if readable else ""

    def counters(self, name):
        """What the simulator NAME has counted so far."""
        self.running[name].send_signal(signal.SIGUSR1)
        return json.loads(self.line_of(self.running[name]))

    def start_node(self, number, listen="127.0.0.1:0"):
        """A smartiod of its own run and state directory, ready for commands: the run directory."""
        run, state = (self.directory / f"{what}{number}" for what in ("run", "state"))
        self.start(f"node{number}", "src/daemon/smartiod", "--node", number, "--listen", listen,
                   "--run-dir", run, "--state-dir", state)
        deadline = time.monotonic() + START_SECONDS
        while not answers(run / "smartiod.sock"):
            assert self.running[f"node{number}"].poll() is None and time.monotonic() < deadline, \
                f"smartiod did not start; see {self.log(f'node{number}')}"
            time.sleep(0.02)
        return run

    def tool(self, run, *arguments):
        """Output of a smartio_tool command that must succeed."""
        command = [self.build / "tools/smartio_tool/smartio_tool", "--run-dir", run, *map(str, arguments)]
        result = subprocess.run(command, capture_output=True, text=True, timeout=START_SECONDS)
        assert result.returncode == 0, f"smartio_tool {arguments}: {result.stderr}"
        return result.stdout

    def start(self, name, program, *arguments, **options):
        self.logs.append(self.log(name))
        self.log(name).parent.mkdir(parents=True, exist_ok=True)
        with open(self.log(name), "w") as log:
            self.running[name] = subprocess.Popen(
                [self.build / program, *map(str, arguments)], stdin=subprocess.DEVNULL, stderr=log, text=True,
                preexec_fn=die_with_parent, **{"stdout": log, **options})
        return self.running[name]

    def log(self, name):
        return self.log_prefix.with_name(f"{self.log_prefix.name}-{name}.log")

    def end(self):
        """Ends all in the reverse of the order they were started in. Every one must still run, and end well."""
        complaints = []
        for name, process in reversed(self.running.items()):
            if process.poll() is not None:
                complaints.append(f"{name} had ended with status {process.returncode}")
                continue
            process.terminate()
            try:
                if process.wait(END_SECONDS) != 0:
                    complaints.append(f"{name} ended with status {process.returncode}")
            except subprocess.TimeoutExpired:
                complaints.append(f"{name} did not end in {END_SECONDS} s")
        assert not complaints, f"{'; '.join(complaints)}; see {self.log_prefix}-*.log"

    def clean_up(self, keep_logs):
        for process in self.running.values():
            process.kill()
            process.wait()
        shutil.rmtree(self.directory, ignore_errors=True)
        for log in self.logs:
            if not keep_logs:
                log.unlink(missing_ok=True)


def answers(path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        return client.connect_ex(str(path)) == 0


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]

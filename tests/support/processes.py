"""Programs as tests start them. None dies, hangs, or says something bad unseen: not while its test runs, nor at its end."""

import contextlib
import ctypes
import os
import pathlib
import select
import signal
import subprocess
import tempfile
import time

from findings import findings

PATIENCE = 20.0  # seconds for what takes a moment: generous, for sanitizers on a busy machine
PR_SET_PDEATHSIG = 1  # <sys/prctl.h>
MARK = f"SMARTIO_TEST={os.getpid()}"  # in the environment of whatever comes of a test's programs
libc = ctypes.CDLL(None)
# The address sanitizer keeps what was freed, 256 MiB of it unless told otherwise: no test could see a program grow.
os.environ["ASAN_OPTIONS"] = ":".join(filter(None, [os.environ.get("ASAN_OPTIONS"), "quarantine_size_mb=8"]))


def die_with_parent():
    """For preexec_fn: the kernel kills the child when this process ends, however it ends."""
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def default_signals():
    """As a person's shell leaves them: what starts the tests may ignore some, and its children's shells cannot trap those."""
    for each in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(each, signal.SIG_DFL)


def prepare():
    die_with_parent()
    default_signals()


def wait_for(condition, what, seconds=PATIENCE):
    """The first true value of `condition`; fails with `what` after `seconds`."""
    end = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < end, f"not within {seconds} s: {what}"
        time.sleep(0.01)


def marked(environment):
    return {**(os.environ if environment is None else environment), **dict([MARK.split("=")])}


def run(*command, env=None, **options):
    """subprocess.run. Fails when the command dies of a signal, or prints what nobody may."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "timeout": 120}
    done = subprocess.run(words(command), env=marked(env), **{**pipes, **options})
    complaints = complain(done.args, done.returncode, readable(done.stderr))
    assert not complaints, "\n".join(complaints)
    return done


def words(command):
    return [word if isinstance(word, bytes) else str(word) for word in command]


def readable(output):
    return output.decode(errors="replace") if isinstance(output, bytes) else output or ""


def complain(name, status, text, allowed=()):
    """What is wrong with a program that has ended and printed `text`, if it may die only of the signals `allowed`."""
    result = [f"{name} printed:\n{text[-20000:]}"] if findings(text) else []
    if status < 0 and -status not in allowed:
        result.append(f"{name} died of {signal.Signals(-status).name}: {text[-2000:]}")
    return result


class Process(subprocess.Popen):
    """A program under way. What it writes to standard error, and to standard output unless that is told otherwise, is
    in the file `log`; without one, `text()` has standard error."""

    living = []  # those that nobody has looked at since they ended

    def __init__(self, *command, log=None, env=None, **options):
        self.command, self.sent = words(command), set()
        self.log = pathlib.Path(log) if log else None
        with open(log, "ab") if log else tempfile.TemporaryFile() as file:
            self.descriptor = os.dup(file.fileno())
            self.begin = os.fstat(self.descriptor).st_size
            output = file if log else subprocess.DEVNULL
            super().__init__(self.command, env=marked(env), preexec_fn=prepare, **{
                "stdin": subprocess.DEVNULL, "stdout": output, "stderr": file, **options})
        self.living.append(self)

    def wait(self, timeout=120):
        return super().wait(timeout)

    def send_signal(self, sig):
        self.sent.add(sig)
        super().send_signal(sig)

    def text(self):
        with open(f"/proc/self/fd/{self.descriptor}", "rb") as file:  # wherever the file is by now
            file.seek(self.begin)
            return file.read().decode(errors="replace")

    def line(self, seconds=PATIENCE):
        """The next line of standard output, or nothing if none comes."""
        return self.stdout.readline() if select.select([self.stdout], [], [], seconds)[0] else ""

    def close(self):
        """The last look: what was wrong. Whoever still runs is killed, and that is wrong too."""
        self.living.remove(self)
        complaints = [] if self.poll() is not None else [f"{self.command} was left running"]
        super().send_signal(signal.SIGKILL)
        self.wait()
        complaints += complain(self.command, self.returncode, self.text(),
                               self.sent | ({signal.SIGKILL} if complaints else set()))
        os.close(self.descriptor)
        return complaints


def close_all(kept=()):
    """Looks at all processes but those `kept`, and at what they left running: what was wrong."""
    complaints = [complaint for process in [*Process.living] if process not in kept for complaint in process.close()]
    known = {process.pid for process in Process.living}
    strangers = lambda: {pid: command for pid, command in offspring() if pid not in known}
    with contextlib.suppress(AssertionError):
        wait_for(lambda: not strangers(), "those that are ending have ended", 2)
    for pid, command in strangers().items():
        complaints.append(f"left running: process {pid}, {command}")
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return complaints


def offspring():
    """Numbers and command lines of processes that a test's programs are or have started, whoever is their parent now."""
    for place in pathlib.Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if place.name.isdigit() and MARK.encode() in (place / "environ").read_bytes().split(b"\0"):
                yield int(place.name), (place / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")

# A build with all mutants in it, its tests, which mutants each test reaches, and whether it notices one.
import contextlib
import hashlib
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import tempfile
import time

from listing import ROOT, Bad, mutated

MESON, NINJA = "/usr/bin/meson", "/usr/bin/ninja"
SUITES = ("smartio:unit", "smartio:loop")


def files_of_tree():
    listed = subprocess.run(["git", "-c", "safe.directory=*", "ls-files", "-zco", "--exclude-standard"], cwd=ROOT,
                            check=True, capture_output=True, text=True).stdout
    return [name for name in listed.split("\0") if name and (ROOT / name).is_file()]


def put(path, data):
    """Only what changes is written, so that only that is compiled again."""
    if path.is_file() and path.read_bytes() == data:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def quickly(text):
    """A meson.build whose libraries, where the mutants are, are compiled quickly. Everything else is as in an ordinary
    build, so that a compiler cache has it."""
    how = "override_options: ['unity=on', 'unity_size=8', 'optimization=0', 'werror=false']"
    return re.sub(r"(static_library\('smartio\w*',.*?)(\w+:)", rf"\1{how}, \2", text, flags=re.DOTALL)


class Build:
    """A copy of the tree in `place`/tree, with every mutant as a switch, and built there."""

    def __init__(self, place, mutants):
        self.place, self.tree, self.out = place, place / "tree", place / "tree/build"
        self.mutants = mutants
        self.log = place / "build.log"

    def make(self, everything=False):
        texts = mutated(ROOT, self.mutants)
        names = files_of_tree()
        texts |= {name: quickly((ROOT / name).read_text()) for name in names if name.endswith("meson.build")}
        for name in names:
            put(self.tree / name, texts[name].encode() if name in texts else (ROOT / name).read_bytes())
            shutil.copymode(ROOT / name, self.tree / name)
        for path in self.tree.rglob("*"):
            if path.is_file() and self.out not in path.parents and str(path.relative_to(self.tree)) not in names:
                path.unlink()
        if not (self.out / "build.ninja").exists():
            compiler = "ccache g++" if shutil.which("ccache") else "g++"
            self.run({"CXX": compiler, **os.environ}, MESON, "setup", self.out, self.tree, "-Ddebug=false",
                     "-Dcpp_args=-g1", "-Dwerror=true")
        self.run(os.environ, NINJA, "-C", self.out, "build.ninja")
        self.run(os.environ, NINJA, "-C", self.out, *([] if everything else self.targets()))

    def run(self, environment, *command):
        with open(self.log, "ab") as log:
            done = subprocess.run(list(map(str, command)), env=environment, stdin=subprocess.DEVNULL, stdout=log,
                                  stderr=log)
        if done.returncode != 0:
            raise Bad(f"{' '.join(map(str, command[:3]))} failed: see {self.log}")

    def introspect(self, what):
        return json.loads(subprocess.run([MESON, "introspect", what, self.out], check=True, capture_output=True,
                                         stdin=subprocess.DEVNULL).stdout)

    def tests(self):
        """Those that may run beside others; the rest measure time."""
        return [test for test in self.introspect("--tests") if test["suite"][0] in SUITES and test["is_parallel"]]

    def targets(self):
        wanted = {target for test in self.tests() for target in test["depends"]}
        return {os.path.relpath(target["filename"][0], self.out) for target in self.introspect("--targets")
                if target["id"] in wanted}

    def programs(self):
        return [(Python if test["cmd"][0].endswith("python3") else Catch)(self, test) for test in self.tests()]


def digest(paths):
    sum = hashlib.sha256()
    for path in sorted(paths):
        sum.update(f"{path}\n".encode() + (ROOT / path).read_bytes())
    return sum.hexdigest()


class Program:
    """A program of tests, in cases that can be run by themselves."""

    def __init__(self, build, test):
        self.build, self.name, self.command = build, test["name"], test["cmd"]
        self.environment = {**os.environ, **test["env"], "PYTHONUNBUFFERED": "1"}
        # What is being tested, and this program's own sources.
        own = ("tests/support/", f"tests/unit/{self.name}.cpp", f"tests/loop/{self.name}.cpp", *self.own_files)
        self.digest = digest(name for name in files_of_tree()
                             if name.startswith((*own, "include/", "src/", "vfio/", "fabric/", "tools/")))

    def listed(self, *more):
        return subprocess.run([*self.command, *more], env=self.environment, cwd=self.build.tree,
                              stdin=subprocess.DEVNULL, capture_output=True, text=True).stdout.splitlines()

    def run(self, cases, patience, **environment):
        """Whether all `cases` pass; up to the first that fails, or `patience` seconds without a word."""
        with tempfile.TemporaryFile() as output:
            process = subprocess.Popen(self.command_for(cases), env={**self.environment, **environment},
                                       cwd=self.build.tree, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                                       start_new_session=True)
            try:
                return wait_while_it_talks(process, output, patience) == 0
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def wait_while_it_talks(process, output, patience):
    """The exit status, None for a program that says nothing more."""
    said, since = 0, time.monotonic()
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.wait(0.2)
        size = os.fstat(output.fileno()).st_size
        if size != said:
            said, since = size, time.monotonic()
        if time.monotonic() - since > patience:
            return None


class Catch(Program):
    own_files = ()

    def cases(self):
        # Catch2 3 has other words for it.
        lines = self.listed("--list-test-names-only") or self.listed("--list-tests", "--verbosity", "quiet")
        return [line.strip().removeprefix('"').removesuffix('"') for line in lines if line.strip()]

    def command_for(self, cases):
        names = [name.replace("\\", "\\\\").replace(",", "\\,").replace("[", "\\[") for name in cases]
        return [*self.command, "--abort", "--durations", "yes", ",".join(names)]

    def patience(self, seconds):
        return 20 + 8 * sum(seconds)


class Python(Program):
    own_files = ("tests/loop/",)

    def cases(self):
        lines = (line.partition("::") for line in self.listed("--collect-only") if "::" in line)
        return [f"{pathlib.PurePath(file).name}::{case}" for file, _, case in lines]

    def command_for(self, cases):
        folder = pathlib.Path(self.command[-1]).parent
        return [*self.command[:-1], "-x", "-v", *(str(folder / name) for name in cases)]

    def patience(self, seconds):
        return 20 + 8 * max(seconds)


def trace(program, case):
    """What one test case does without a mutant: how long it takes, the numbers it reaches; None: it fails."""
    for _ in range(2):
        with tempfile.NamedTemporaryFile(prefix="mutants.") as file:
            os.chmod(file.name, 0o666)
            start = time.monotonic()
            passed = program.run([case], 300, SMARTIO_MUTANT_TRACE=file.name)
            seconds = time.monotonic() - start
            if passed:
                return {"seconds": seconds, "reached": sorted(set(map(int, file.read().split())))}
    return None


def attempt(mutant, groups):
    """The program that notices the mutant, twice, and whether one noticed it once only; the quickest is asked first.
    `groups`: program, {case: seconds}."""
    once = []
    for program, cases in sorted(groups, key=lambda group: sum(group[1].values())):
        order = sorted(cases, key=cases.get)
        noticed = lambda: not program.run(order, program.patience(cases.values()), SMARTIO_MUTANT=str(mutant.number))
        if noticed():
            if noticed():
                return program.name, once
            once.append(program.name)
    return None, once

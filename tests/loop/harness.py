# What the whole-program tests of this folder share: programs as ../support has them, and what they ask of these.
import json
import os
import pathlib
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
from processes import PATIENCE, Process, default_signals, run, wait_for
from tool import BUILD, ROOT, TOOL, Ran, check, tool
from world import SIM, SMARTIOD, Disk, Node, Program, World, answers, free_port

NVME = BUILD / "tools/smartio_nvme/smartio_nvme"


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


def refused_start(*options):
    """A smartiod that must not start, and says why in a sentence."""
    done = run(SMARTIOD, *options, text=True, timeout=PATIENCE, stdin=subprocess.DEVNULL)
    assert done.returncode > 0, done
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("smartiod: "), done
    return done

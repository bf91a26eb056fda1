# What looks at tests must find what is planted for it: the harness of whole programs, and meson with summary.py. Faults
# that only a sanitizer sees are found in its build, and pass in others: that shows that it is the sanitizer that finds.
import json
import pathlib
import re
import subprocess
import sys

import pytest

HERE = pathlib.Path(__file__).resolve().parent
SUPPORT = HERE.parent / "support"
sys.path.insert(0, str(SUPPORT))
import processes
import summary
import world as world_module
from fixtures import nothing_unseen  # noqa: F401 (a fixture)
from processes import Process, close_all, run, wait_for
from tool import BUILD
from world import Program, World

PLANTED, CASES, FUZZER = (BUILD / "tests/selftest" / name for name in ("planted", "planted_cases", "fuzz_planted"))
OPTIONS = {option["name"]: option["value"]
           for option in json.loads((BUILD / "meson-info/intro-buildoptions.json").read_text())}
SANITIZED = {"address,undefined": {"overflow", "use-after-free", "leak", "child"}, "thread": {"race", "use-after-free"}}.get(
    OPTIONS["b_sanitize"], set())
ALWAYS = {"crash", "assertion"}
EVERYTHING = ["nothing", "overflow", "use-after-free", "leak", "race", "child", "crash", "assertion"]


def is_found(fault):
    return fault in SANITIZED | ALWAYS


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(world_module, "PATIENCE", 1)


def planted(world, fault, when):
    """The program in a world of its own, once it is ready."""
    program = world.keep(Program(world.place, "planted"))
    program.launch(PLANTED, fault, when)
    wait_for(lambda: "ready" in program.text() or not program.alive(), "the program is ready")
    return program


# Programs of the harness

@pytest.mark.parametrize("when", ["early", "late"])
@pytest.mark.parametrize("fault", EVERYTHING)
def test_a_program_of_the_harness_that_does_wrong_fails_its_test(fault, when):
    world = World(f"selftest-{fault}-{when}")
    planted(world, fault, when)
    if is_found(fault):
        with pytest.raises(AssertionError, match="planted"):
            world.close()
        assert (world.logs / "planted.log").exists()  # kept
    else:
        world.close()


@pytest.mark.parametrize("fault, when, said", [
    ("death", "early", "had ended with status 0"),
    ("hang", "late", "did not end on signal"), ("left-child", "early", "left running"),
    ("left-child", "late", "left running")])
def test_a_program_of_the_harness_that_ends_too_early_or_never_fails_its_test(impatient, fault, when, said):
    world = World(f"selftest-{fault}-{when}")
    program = world.keep(Program(world.place, "planted"))
    program.launch(PLANTED, fault, when)
    if fault == "death":
        program.process.wait(processes.PATIENCE)
    else:
        wait_for(lambda: "ready" in program.text(), "the program is ready")
    with pytest.raises(AssertionError, match=said):
        world.close()


@pytest.mark.parametrize("fault", EVERYTHING)
def test_a_command_that_does_wrong_fails_its_test(fault):
    if is_found(fault):
        with pytest.raises(AssertionError):
            run(PLANTED, fault, "now")
    else:
        run(PLANTED, fault, "now")


@pytest.mark.parametrize("fault", [*EVERYTHING, "left-child"])
def test_a_command_in_the_background_that_does_wrong_fails_its_test(fault):
    Process(PLANTED, fault, "now").wait()
    assert bool(close_all()) == (is_found(fault) or fault == "left-child")


def test_a_command_that_was_killed_may_die_of_that_and_of_nothing_else():
    with Process(PLANTED, "hang", "now") as program:
        program.kill()
    assert not close_all()
    with Process(PLANTED, "crash", "now") as program:
        program.wait()
        program.kill()
    assert close_all()


def test_a_command_that_is_left_running_fails_its_test():
    Process(PLANTED, "hang", "now")
    assert "left running" in close_all()[0]


# Fixtures of the tests of whole programs

TESTS = f"""
import sys
sys.path.insert(0, {str(SUPPORT)!r})
import pytest
from fixtures import *
from processes import Process, wait_for
from world import Program

def launched(world, name, when):
    program = world.keep(Program(world.place, name))
    program.launch({str(PLANTED)!r}, "death", when)
    if when == "late":
        wait_for(lambda: "ready" in program.text(), "it is ready")
    else:
        program.process.wait()
    return program

def test_one(world):
    launched(world, "one", "early")

def test_two(shared_world):
    launched(shared_world, "two", "early")

def test_three():
    Process({str(PLANTED)!r}, "hang", "now")

def test_good(world, shared_world):
    for each in (world, shared_world):
        launched(each, "good", "late").kill()
"""


def test_a_test_is_an_error_though_it_passed_when_its_program_died_or_lives_on(tmp_path):
    (tmp_path / "test_planted.py").write_text(TESTS)
    ran = subprocess.run([sys.executable, "-m", "pytest", "-q", "-rfEs", "-p", "no:cacheprovider", tmp_path],
                         capture_output=True, text=True, timeout=120)
    assert ran.returncode == 1
    blamed = [line.split()[1].rsplit(":", 1)[1] for line in ran.stdout.splitlines() if line.startswith("ERROR ")]
    assert blamed == ["test_one", "test_two", "test_three"], ran.stdout
    assert summary.count(ran.stdout) == (4, 3, 0)


# Test programs and fuzzers, as stages run and count them

def stage(place, cases):
    """What meson and summary.py make of test programs: entries of the log by name, and the last line. `cases` has a
    command for each name."""
    tests = "".join(f"test({name!r}, find_program({str(command[0])!r}), args: {list(command[1:])!r}, timeout: 10)\n"
                    for name, command in cases.items())
    (place / "meson.build").write_text(f"project('planted')\n{tests}")
    build = place / "build"
    subprocess.run(["meson", "setup", build, place], check=True, capture_output=True)
    status = subprocess.run(["meson", "test", "-C", build], capture_output=True).returncode
    log = build / "meson-logs/testlog.json"
    told = subprocess.run([sys.executable, SUPPORT / "summary.py", log, str(status)], capture_output=True, text=True)
    entries = {entry["name"]: entry for entry in map(json.loads, log.read_text().splitlines())}
    return entries, told


def test_a_test_program_that_does_wrong_fails_its_stage(tmp_path):
    faults = ["good", *EVERYTHING[1:], "check", "death", "skip"]
    entries, told = stage(tmp_path, {name: [CASES, f"[{name}]"] for name in faults})
    found = {name for name in faults if summary.count_test(entries[name])[1]}
    # A program that ends with status 0 in the middle of its test has printed no sum.
    assert found == SANITIZED | ALWAYS | {"check", "death"}, told.stdout
    assert told.returncode == 1
    # What a sanitizer finds at the end of a program, or in a child, is told besides the cases that passed.
    assert re.fullmatch(rf"\d+ passed, {len(found)} failed, 1 skipped", told.stdout.splitlines()[-1])
    assert "skip: SKIPPED: a test cannot run here: of its own accord" in told.stdout


def test_a_test_program_that_hangs_fails_its_stage(tmp_path):
    entries, told = stage(tmp_path, {"hang": [CASES, "[hang]"]})
    assert told.stdout.splitlines()[-1] == "0 passed, 1 failed, 0 skipped"
    assert "FAILED (TIMEOUT)" in told.stdout


@pytest.mark.skipif(not OPTIONS["fuzz"], reason="this build has no fuzzers")
def test_a_fuzzer_that_does_wrong_fails_its_stage(tmp_path):
    _, told = stage(tmp_path, {"fuzzer": [FUZZER, "-max_total_time=5", f"-artifact_prefix={tmp_path}/"]})
    assert told.stdout.splitlines()[-1] == "0 passed, 1 failed, 0 skipped"

# smartio_sim ntb as a program: its command line and its signals. What the bridge does is ntb_model.cpp's.
import json
import signal
import stat
import subprocess

import pytest

from harness import SIM, Process, run


def sim(*words):
    return run(SIM, "ntb", *words, text=True)


def test_help_lists_models_and_faults():
    text = sim("--help").stdout
    for word in ("--socket-a", "--socket-b", "--window", "gen4-spr", "gen5", "tear", "down-losing-registers"):
        assert word in text


@pytest.mark.parametrize("words", [
    [], ["--socket-a", "a"], ["--socket-b", "b"], ["--socket-a", "", "--socket-b", "b"],
    ["--socket-a", "a", "--socket-b", "b", "--model", "gen6"], ["--socket-a", "a", "--socket-b", "b", "more"],
    *(["--socket-a", "a", "--socket-b", "b", "--window", size] for size in ("0", "3M", "2K", "2T", "-1", "x"))])
def test_a_wrong_command_line_is_refused_with_one_sentence(words):
    ran = sim(*words)
    assert ran.returncode == 2 and ran.stdout == "", ran
    assert ran.stderr.startswith("smartio_sim: ") and ran.stderr.count("\n") == 1, ran


@pytest.mark.parametrize("model", ["gen5", "gen4", "gen4-spr", "gen3"])
def test_it_serves_until_it_is_told_to_end(model, tmp_path):
    a, b, faults = (tmp_path / name for name in ("a", "b", "f"))
    program = Process(SIM, "ntb", "--socket-a", a, "--socket-b", b, "--model", model, "--window", "64K", "--faults", faults,
                      stdout=subprocess.PIPE, text=True)
    try:
        assert program.stdout.readline() == f"ready {a} {b}\n"
        assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in (a, b, faults))
        program.send_signal(signal.SIGUSR1)
        counters = json.loads(program.stdout.readline())
        assert counters["model"] == model and counters["link_up"] is False
        assert counters["a"].keys() == counters["b"].keys() and set(counters["a"].values()) == {0}
        program.send_signal(signal.SIGTERM)
        assert program.wait(60) == 0
        assert not a.exists() and not b.exists() and not faults.exists()
    finally:
        program.kill()
        program.wait()


def test_a_socket_that_another_serves_is_busy(tmp_path):
    a, b = tmp_path / "a", tmp_path / "b"
    program = Process(SIM, "ntb", "--socket-a", a, "--socket-b", b, stdout=subprocess.PIPE, text=True)
    try:
        assert program.stdout.readline() == f"ready {a} {b}\n"
        assert sim("--socket-a", tmp_path / "c", "--socket-b", b).returncode == 4
        assert not (tmp_path / "c").exists()
        program.terminate()
        assert program.wait(60) == 0
    finally:
        program.kill()
        program.wait()

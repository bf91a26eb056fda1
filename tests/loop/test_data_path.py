# A borrowed disk in use: no software of ours between the program and the device, and nothing left of a program that died.
import contextlib
import os
import time

from harness import BUILD, NVME, Process, context_switches, run, sanitized, wait_for

SOON = 20 if sanitized() else 1  # seconds
COMMANDS = 10_000 if sanitized() else 100_000


def bench(node, *options):
    """A benchmark under way through the loan that the node has, or takes for it."""
    return Process(NVME, "--run-dir", node.run_dir, "--json", "80000", "bench", *options)


@contextlib.contextmanager
def borrowed_and_busy(borrower, disk):
    """A benchmark that has begun its commands; ended, if it has not, afterwards."""
    done = disk.counters()["io_commands"]
    with bench(borrower, "--seconds", 300) as program:
        try:
            wait_for(lambda: program.poll() is not None or disk.counters()["io_commands"] > done + 100,
                     "the program is in mid-I/O")
            assert program.poll() is None, program.text()
            yield program
        finally:
            program.kill()


def identify(borrower):
    """The next use of the disk, from its beginning to its end."""
    before = bool(borrower.status()["loans"])
    run(NVME, "--run-dir", borrower.run_dir, "80000", "identify", check=True)
    wait_for(lambda: bool(borrower.status()["loans"]) == before, "a loan of its own has ended")


def programs():
    """Processes of this build, by name."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            program = os.readlink(f"/proc/{pid}/exe")
            if program.startswith(f"{BUILD.resolve()}/"):
                found.append((program.rsplit("/", 1)[1], int(pid)))
    return found


def test_no_daemon_takes_part_in_a_hundred_thousand_commands(lent):
    lender, borrower, disk = lent
    nodes = (lender, borrower)
    others = {pid for _, pid in programs()} - {program.process.pid for program in (*nodes, disk)}
    borrower.ok("borrow", "80000")
    with borrowed_and_busy(borrower, disk) as program:
        first, before, start = disk.counters(), sum(map(context_switches, nodes)), time.monotonic()
        last = wait_for(lambda: (now := disk.counters())["io_commands"] >= first["io_commands"] + COMMANDS and now,
                        f"{COMMANDS} more commands", seconds=240)
        seconds, busy = time.monotonic() - start, sum(map(context_switches, nodes)) - before
        running = {pid for _, pid in programs()} - others
        assert program.poll() is None, "the benchmark ended too early to say anything"
        assert last["messages"] == first["messages"]
        # Under a sanitizer other tests run beside this one.
        assert sanitized() or running == {each.pid for each in (lender.process, borrower.process, disk.process, program)}
    before, start = sum(map(context_switches, nodes)), time.monotonic()
    time.sleep(3)
    at_rest = (sum(map(context_switches, nodes)) - before) * seconds / (time.monotonic() - start)
    assert sanitized() or busy - at_rest < 0.01 * COMMANDS, (busy, at_rest)


def test_a_program_killed_in_mid_io_leaves_the_disk_in_order_20_times(lent):
    lender, borrower, disk = lent
    state = lambda node: node.devices()["80000"]["state"]
    for round in range(20):
        kept = round % 2 == 1  # the node's own loan outlives its client
        if kept:
            borrower.ok("borrow", "80000")
        with borrowed_and_busy(borrower, disk) as program:
            assert state(lender) == "borrowed"
            program.kill()
            program.wait()
            wait_for(lambda: disk.counters()["windows"] == 0, "the device reaches nobody's memory", SOON)
            wait_for(lambda: state(lender) == ("borrowed" if kept else "available"), "the disk waits for its next user",
                     SOON)
        identify(borrower)
        if kept:
            borrower.ok("return", "80000")
            wait_for(lambda: state(lender) == "available", "the disk is back")


def test_each_daemons_death_is_cleaned_up_by_the_other(lent):
    lender, borrower, disk = lent
    for victim, other in ((borrower, lender), (lender, borrower)):
        with borrowed_and_busy(borrower, disk) as program:
            victim.kill()
            assert program.wait(20) != 0  # the borrowing program learns of it, one way or the other
        wait_for(lambda: not other.status()["loans"], "the loan is over at the other node")
        wait_for(lambda: disk.counters()["windows"] == 0, "the device reaches nobody's memory")
        victim.start()
        seen = lambda: borrower.devices().get("80000", {})
        restored = lambda: {"state": "available", "reachable": True}.items() <= seen().items()
        wait_for(restored, "what was intended is restored")
        identify(borrower)
        wait_for(restored, "the disk is back")

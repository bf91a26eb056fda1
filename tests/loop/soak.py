# What takes long: loans that end in every way, some hundred times. Nothing is left of any.
import pytest

from harness import sanitized, wait_for
from test_data_path import borrowed_and_busy, identify
from test_sim import holdings

ROUNDS = 300


def repeat(round_, programs, rounds=ROUNDS):
    """What the programs hold after a tenth of the rounds is what they hold at the end."""
    for number in range(rounds):
        round_(number)
        if number == rounds // 10:
            before = [holdings(program) for program in programs]
    for program, (descriptors, mappings, private) in zip(programs, before):
        wait_for(lambda: holdings(program)[0] <= descriptors, f"no more than {descriptors} descriptors: {program.log}")
        now = holdings(program)
        assert sanitized() or now[1] <= mappings + 2 and now[2] <= private + 512, (program.log, now, mappings, private)


def state(node):
    return node.devices()["80000"]["state"]


def test_a_disk_is_borrowed_and_returned(lent):
    lender, borrower, disk = lent

    def round_(number):
        borrower.ok("borrow", "80000")
        assert state(lender) == "borrowed"
        if number % 2:
            identify(borrower)
        borrower.ok("return", "80000")
        assert state(lender) == "available" and disk.counters()["windows"] == 0
    repeat(round_, lent)


@pytest.mark.parametrize("end", ["unavailable", "killed"])
def test_a_loan_ends_under_load(lent, end):
    lender, borrower, disk = lent

    def round_(number):
        with borrowed_and_busy(borrower, disk) as program:
            if end == "unavailable":
                lender.ok("unavailable", "80000")
                assert program.wait(20) == 4
                lender.ok("available", "80000")
            else:
                program.kill()
                program.wait()
        for node in (lender, borrower):
            wait_for(lambda: state(node) == "available", "the disk waits for its next user")
        assert disk.counters()["windows"] == 0
        identify(borrower)
    repeat(round_, lent)


def test_daemons_die_under_load(lent):
    lender, borrower, disk = lent

    def round_(number):
        victim, other = ((borrower, lender), (lender, borrower))[number % 2]
        with borrowed_and_busy(borrower, disk) as program:
            victim.kill()
            assert program.wait(20) != 0
        wait_for(lambda: not other.status()["loans"] and disk.counters()["windows"] == 0, "the loan is over")
        victim.start()
        seen = lambda: borrower.devices().get("80000", {})
        wait_for(lambda: {"state": "available", "reachable": True}.items() <= seen().items(), "the disk is back")
        identify(borrower)
    repeat(round_, [disk], 100)

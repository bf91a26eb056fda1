#!/usr/bin/python3
"""Messages a second over a vfio-user socket, one at a time: register reads, writes, writes without an answer, and pairs
of mapping and unmapping a page. Of a simulated disk attached straight and through a loan, alternated; medians, and their ratio."""
import argparse
import contextlib
import json
import pathlib
import statistics
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "loop"))
from harness import BUILD, World, wait_for

RATES = BUILD / "tests/bench/socket_rates"


def measure(path, seconds):
    return json.loads(subprocess.run([RATES, path, str(seconds)], check=True, stdout=subprocess.PIPE).stdout)


def straight_and_lent(world, seconds):
    """One round of both ways."""
    lender, borrower, disk = world.node(8), world.node(4), world.disk()
    lender.ok("connect", 4, "--address", borrower.address)
    lender.ok("add", disk.device)
    while True:
        straight = measure(disk.socket, seconds)
        lender.ok("available", "80000")
        wait_for(lambda: borrower.devices().get("80000", {}).get("state") == "available", "the disk is lent")
        lent = measure(borrower.ok("borrow", "80000").splitlines()[1], seconds)
        borrower.ok("return", "80000")
        lender.ok("unavailable", "80000")
        yield straight, lent


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.5, help="for each kind of message, way and round")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    world = World()
    with contextlib.closing(contextlib.ExitStack()) as at_end:
        at_end.callback(world.close)
        ways = straight_and_lent(world, arguments.seconds)
        rounds = [next(ways) for _ in range(arguments.rounds)]
    result = {}
    for kind in rounds[0][0]:
        straight, lent = (statistics.median(each[way][kind] for each in rounds) for way in (0, 1))
        result[kind] = {"straight": straight, "lent": lent, "ratio": lent / straight}
    if arguments.json:
        json.dump(result, sys.stdout, indent=2)
        return print()
    print(f"{'straight/s':>10} {'lent/s':>10} {'ratio':>6}  message")
    for kind, row in result.items():
        print(f"{row['straight']:10.0f} {row['lent']:10.0f} {row['ratio']:6.2f}  {kind}")


if __name__ == "__main__":
    main()

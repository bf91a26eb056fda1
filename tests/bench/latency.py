#!/usr/bin/python3
"""4 KiB random reads at queue depth 1 by smartio_nvme: the median latency of a simulated disk attached straight and
through a loan, alternated in one run, with the ratio of the two. Other DEVICES can be compared instead."""
import argparse
import contextlib
import json
import pathlib
import statistics
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "loop"))
from harness import NVME, World, wait_for


def bench(device, arguments, run_dir=None):
    where = ["--run-dir", run_dir] if run_dir else []
    command = [NVME, *where, "--json", device, "bench", "--commands", str(arguments.commands), *arguments.more]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL).stdout)


def straight_and_lent(world):
    """The two ways to one disk, as functions: it is lent only while it is measured so."""
    lender, borrower, disk = world.node(8), world.node(4), world.disk(size=64 << 20)
    lender.ok("connect", 4, "--address", borrower.address)
    lender.ok("add", disk.device)
    shows = lambda state: lambda: borrower.devices().get("80000", {}).get("state") == state

    def lent(arguments):
        lender.ok("available", "80000")
        wait_for(shows("available"), "the disk is lent")
        result = bench("80000", arguments, borrower.run_dir)
        wait_for(shows("available"), "the disk is returned")
        lender.ok("unavailable", "80000")
        return result
    return {"attached straight": lambda arguments: bench(disk.device, arguments), "through a loan": lent}


def compare(ways, arguments):
    rounds = {name: [] for name in ways}
    for _ in range(arguments.rounds):
        for name, measure in ways.items():
            rounds[name].append(measure(arguments))
    first = None
    result = []
    for name, runs in rounds.items():
        median = statistics.median(run["latency_us"]["median"] for run in runs)
        first = first or median
        result.append({"device": name, "median_us": median, "ratio": median / first,
                       "p99_us": statistics.median(run["latency_us"]["p99"] for run in runs),
                       "iops": statistics.median(run["iops"] for run in runs)})
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run-dir", help="of the smartiod that lends DEVICES")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--commands", type=int, default=50000, help="a round and device")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--more", nargs=argparse.REMAINDER, default=[], help="the rest goes to smartio_nvme bench")
    parser.add_argument("devices", nargs="*", metavar="DEVICE")
    arguments = parser.parse_args()
    world = World()
    with contextlib.closing(contextlib.ExitStack()) as at_end:
        at_end.callback(world.close)
        ways = {name: lambda arguments, name=name: bench(name, arguments, arguments.run_dir)
                for name in arguments.devices} or straight_and_lent(world)
        result = compare(ways, arguments)
    if arguments.json:
        json.dump(result, sys.stdout, indent=2)
        return print()
    print(f"{'median µs':>10} {'p99 µs':>8} {'per s':>9} {'ratio':>6}  device")
    for row in result:
        print(f"{row['median_us']:10.2f} {row['p99_us']:8.2f} {row['iops']:9.0f} {row['ratio']:6.2f}  {row['device']}")


if __name__ == "__main__":
    main()

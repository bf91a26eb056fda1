#!/usr/bin/python3
"""What one more device, one more peer, a command and an hour of rest cost a node that has many: 100 devices and 5 peers,
ten times and a hundred times as many. The devices are in one program (many_devices), and the peers only
listen (peers.py). Times are of processors, of smartiod and of the commands, the least of some batches."""
import argparse
import contextlib
import itertools
import json
import pathlib
import resource
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "loop"))
from control import Control, frame
from harness import World, context_switches, free_port, wait_for

DEVICES, PEERS, FIRST_PEER = 100, 5, 1000
ADDED, BATCHES = 20, 3  # one by one, to see what that costs
SHARERS = 32  # of a device
UNITS = {"add a device": "ms", "connect a peer": "ms", "available + unavailable": "ms", "list": "ms", "status --json": "ms",
         "memory": "MiB", "rest": "% of a core"}


def processor_seconds(node):
    """What the node has used so far, and all commands that have ended."""
    tasks = pathlib.Path(f"/proc/{node.process.pid}/task").glob("*/schedstat")
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return sum(int(task.read_text().split()[0]) for task in tasks) / 1e9 + ended.ru_utime + ended.ru_stime


class Growing:
    """A node with so many devices and peers, and what it takes to have one more."""

    def __init__(self, world, factor):
        self.world, self.lender, self.devices, self.most = world, world.node(8), factor * DEVICES, factor * PEERS
        self.control = Control(self.lender)
        self.new = iter(world.many_devices(self.devices + ADDED * BATCHES).devices)
        self.port, self.connected = free_port(), 0
        self.peers = subprocess.Popen([sys.executable, pathlib.Path(__file__).with_name("peers.py"), str(self.port)],
                                      stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.peers.stdout.readline() == "ready\n"
        self.add(self.devices)
        self.connect(PEERS)

    def close(self):
        self.control.__exit__()
        self.peers.stdin.close()
        self.peers.wait(20)

    def together(self, commands, most=64):
        """All at once, as far as the node reads: what takes time is not the way there and back."""
        commands = list(commands)
        for start in range(0, len(commands), most):
            part = commands[start:start + most]
            self.control.send(b"".join(frame({"id": i, "command": name, "arguments": arguments})
                                       for i, (name, arguments) in enumerate(part)))
            for _ in part:
                reply = self.control.reply()
                assert "result" in reply, reply

    def add(self, count):
        self.together(("add", {"device": device}) for device in itertools.islice(self.new, count))

    def connect(self, count):
        first = FIRST_PEER + self.connected
        self.connected += count
        peers = (("connect", {"node": node, "address": f"127.0.0.1:{self.port}"}) for node in range(first, first + count))
        self.together(peers, most=4)  # what is on its way to them is not what is measured

    def cost(self, step, times):
        """Milliseconds of each of `times`, in the cheapest of some batches."""
        def batch():
            before = processor_seconds(self.lender)
            for _ in range(times):
                step()
            return 1000 * (processor_seconds(self.lender) - before) / times
        return min(batch() for _ in range(BATCHES))

    def take_and_give(self):
        for command in ("available", "unavailable"):
            self.control.call(command, {"device": "80000"})

    def lend_to_all(self):
        """Each peer shares a disk with others."""
        for first in range(0, self.most, SHARERS):
            disk = self.world.disk(name=f"shared{first}", size=1 << 20)
            device = self.control.call("add", {"device": disk.device})["device"]
            self.control.call("available", {"device": device})
            for i in range(first, min(first + SHARERS, self.most)):
                self.peers.stdin.write(f"borrow {FIRST_PEER + i} {device}\n")
                self.peers.stdin.flush()
                said = self.peers.stdout.readline()
                assert said == "ok\n", said

    def rest(self, seconds=4):
        """Per cent of a core, with a loan of each of the first peers."""
        before, start = processor_seconds(self.lender), time.monotonic()
        time.sleep(seconds)
        return 100 * (processor_seconds(self.lender) - before) / (time.monotonic() - start)

    def memory(self):
        lines = pathlib.Path(f"/proc/{self.lender.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024

    def wake_ups(self, seconds=3):
        before = context_switches(self.lender)
        time.sleep(seconds)
        return (context_switches(self.lender) - before) / seconds


def measure(factor, rest=True):
    """{step: figure}, at `factor` times the least numbers."""
    with contextlib.closing(World()) as world, contextlib.closing(Growing(world, factor)) as growing:
        found = {"add a device": growing.cost(lambda: growing.add(1), ADDED)}  # of which the few peers are told
        growing.connect(growing.most - PEERS)
        wait_for(lambda: sum(peer["state"] == "up" for peer in growing.lender.status()["peers"]) > growing.most, "all peers")
        found |= {"connect a peer": growing.cost(lambda: growing.connect(1), 3),
                 "available + unavailable": growing.cost(growing.take_and_give, 3),
                 "list": growing.cost(lambda: growing.lender.ok("list"), 2),
                 "status --json": growing.cost(lambda: growing.lender.ok("status", "--json"), 2),
                 "memory": growing.memory()}
        if rest:
            found["wake-ups"] = growing.wake_ups()
            growing.lend_to_all()
            found["rest"] = growing.rest()
        return found


def shape(first, last, factor):
    ratio = last / first if first > 0 else 0
    return f"{ratio:.1f}, " + ("constant" if ratio < 1.5 else "less than linear" if ratio < 0.7 * factor else
                               "linear" if ratio < 1.5 * factor else "steeper than linear")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--factors", type=int, nargs="+", default=[1, 10, 100])
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    found = {factor: measure(factor) for factor in arguments.factors}
    if arguments.json:
        return print(json.dumps(found))
    print("| " + " | ".join(["", *(f"{f * DEVICES} devices, {f * PEERS} peers" for f in found), "grows by"]) + " |")
    print("|---" * (len(found) + 2) + "|")
    first, last = found[arguments.factors[0]], found[arguments.factors[-1]]
    for step, unit in UNITS.items():
        grows = shape(first[step], last[step], arguments.factors[-1] // arguments.factors[0])
        print(f"| {step}, {unit} | " + " | ".join(f"{figures[step]:.2f}" for figures in found.values()) + f" | {grows} |")
    wake_ups = ", ".join(f"{figures['wake-ups']:.1f}" for figures in found.values())
    print(f"Wake-ups a second at rest, without a loan: {wake_ups}.")


if __name__ == "__main__":
    main()

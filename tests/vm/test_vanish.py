"""A function that goes away at any moment of being taken, lent and given back: nothing stays stuck, and the loan of
another device goes on."""

import dataclasses
import json
import random
import time

import pytest

from guest import Guest
from lending import Function, Nodes
from topology import Topology, blank_disk, nvme_vf

RUNS = {"disk": 3, "virtual function": 3, "disk in a slot": 1}  # of each step, spread over it; soak.py makes many more
SETTLE_SECONDS = 30

AVAILABLE, UNAVAILABLE = (8, "available --yes"), (8, "unavailable")
BORROW, RETURN = (4, "borrow"), (4, "return")
# What is under way when the device goes, and what was done before.
STEPS = {"available": (AVAILABLE, []), "borrow": (BORROW, [AVAILABLE]), "return": (RETURN, [AVAILABLE, BORROW]),
         "unavailable": (UNAVAILABLE, [AVAILABLE]), "unavailable-borrowed": (UNAVAILABLE, [AVAILABLE, BORROW])}


@dataclasses.dataclass
class Fickle:
    """A function that the guest can take away and bring back, and the driver that it comes back with."""
    guest: Guest
    nodes: Nodes
    function: Function
    remove: str
    bring: str
    driver: str

    def __post_init__(self):
        self.nodes.check(8, f"add {self.function.where}")
        self.id = self.nodes.device(8, self.function.where)["id"]

    def tool(self, step):
        node, words = step
        return f"smartio_tool --run-dir /run/node{node} {words} {self.id}"

    def before(self, step):
        """The command that is to be disturbed; those that come before it are done."""
        during, before = STEPS[step]
        for command in before:
            self.guest.check(self.tool(command), SETTLE_SECONDS)
        return during

    def goes_during(self, step, moment):
        """That many seconds after the step has begun, which may then end in any way."""
        during = self.before(step)
        self.guest.check(f"( usleep {int(moment * 1e6)}; {self.remove} ) & {self.tool(during)}; wait; "
                         f"until [ ! -e {self.function.path} ]; do usleep 20000; done", 2 * SETTLE_SECONDS)

    def takes(self, step):
        """How long, in seconds, when nothing happens."""
        during = self.before(step)
        start = time.monotonic()
        self.guest.check(self.tool(during), SETTLE_SECONDS)
        return time.monotonic() - start

    def comes_back(self):
        self.guest.check(f"{self.bring}; until [ -e {self.function.path} ]; do usleep 20000; done", SETTLE_SECONDS)

    def goes_home(self):
        """By the usual commands; nothing of it is left."""
        deadline = time.monotonic() + SETTLE_SECONDS
        while True:
            self.guest.run(self.tool(RETURN))
            back = self.guest.run(self.tool(UNAVAILABLE))
            shown = self.nodes.json(8, f"show {self.id}")
            if back.status == 0 and shown["device"]["state"] == "unavailable":
                break
            assert shown["device"]["state"] != "quarantined" and time.monotonic() < deadline, (back, shown)
            time.sleep(0.1)
        journal = json.loads(self.guest.check("cat /run/state8/journal.json"))["functions"]
        assert [entry for entry in journal if self.function.where in json.dumps(entry)] == []
        assert self.guest.check(f"cat {self.function.path}/driver_override") == "(null)\n"
        driver = f"readlink {self.function.path}/driver"  # which has just been told of it
        self.guest.check(f'until [ "$({driver} | sed s,.*/,,)" = "{self.driver}" ]; do usleep 20000; done', SETTLE_SECONDS)


@dataclasses.dataclass
class Unplugged(Fickle):
    """Pulled out of its slot, by QEMU, which has it made of that."""
    hardware: dict

    def goes_during(self, step, moment):
        job = self.guest.start(self.tool(self.before(step)))
        time.sleep(moment)
        self.guest.qmp("device_del", id=self.hardware["id"])
        self.guest.event("DEVICE_DELETED", 2 * SETTLE_SECONDS, device=self.hardware["id"])
        job.outcome(2 * SETTLE_SECONDS)
        self.guest.check(f"until [ ! -e {self.function.path} ]; do usleep 20000; done", SETTLE_SECONDS)

    def comes_back(self):
        self.guest.qmp("device_add", **self.hardware)
        super().comes_back()


@pytest.fixture(scope="module")
def machine(bed, tmp_path_factory):
    """Node 8 lends to node 4: a disk that is borrowed all the time, one that goes away, and a virtual function."""
    place = tmp_path_factory.mktemp("vanish")
    topology = Topology()
    stays, goes = (topology.nvme(blank_disk(place / name)) for name in ("stays", "goes"))
    parent = topology.nvme_with_vfs(blank_disk(place / "parent"))
    topology.devices.append(f"-blockdev driver=raw,node-name=media,file.driver=file,file.filename={blank_disk(place / 'slot')}")
    slot = topology.behind_port("nvme", "slot", serial="SLOT", drive="media")
    hardware = topology.devices[-1]
    with Guest(bed, "vanish", topology.devices, kernel="full", iommu="intel", programs=["ours"]) as guest:
        nodes = Nodes(guest)
        nodes.start_pair()
        guest.start(f"smartio_nvme --run-dir /run/node4 {nodes.lend(stays)} bench --rw randread --seconds 30000")
        whole, disk = Function(guest, parent), Function(guest, goes)
        whole.make_vfs(1)
        number = f"{whole.path}/sriov_numvfs"
        yield {"disk": Fickle(guest, nodes, disk, f"echo 1 >{disk.path}/remove", "echo 1 >/sys/bus/pci/rescan", "nvme"),
               "virtual function": Fickle(guest, nodes, Function(guest, nvme_vf(parent)), f"echo 0 >{number}",
                                          f"echo 1 >{number}", ""),
               "disk in a slot": Unplugged(guest, nodes, Function(guest, slot), "", "true", "nvme", hardware)}
        guest.check("kill $(pidof smartio_nvme) && while pidof smartio_nvme; do usleep 20000; done")
        nodes.end()


def check_step(fickle, step, runs, seed):
    longest = fickle.takes(step)
    fickle.goes_home()
    moments = random.Random(seed)
    for number in range(runs):
        fickle.goes_during(step, longest * (number + moments.random()) / runs)
        fickle.comes_back()
        fickle.goes_home()
        fickle.guest.check("pidof smartio_nvme")  # the other device's loan goes on


@pytest.mark.parametrize("kind", RUNS)
@pytest.mark.parametrize("step", STEPS)
def test_a_function_that_goes_at_any_moment_is_gone_and_comes_back(machine, kind, step):
    check_step(machine[kind], step, RUNS[kind], seed=step)

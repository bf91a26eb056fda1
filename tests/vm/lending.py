"""Nodes in a guest: smartiod daemons, and smartio_tool's answers, as a test says them.

    with Guest(bed, "name", machine.devices, kernel="full", iommu="intel", programs=["ours"]) as guest:
        nodes = Nodes(guest)
        nodes.start_pair()                                       # 8 lends to 4
        device = nodes.lend("01:00.0")                           # its id
        nodes.check(4, f"borrow {device}")
        assert nodes.tool(8, "available 01:00.0").status == 4    # exit codes are smartio_tool's table
        nodes.end()

What the daemons print is added to the guest's log when the test fails.
"""

import contextlib
import json
import re
import shlex
import time

from programs import findings

LENDER, BORROWER = 8, 4
START_SECONDS = 20


class Nodes:
    def __init__(self, guest, address="127.0.0.1"):
        """ADDRESS is where the nodes listen."""
        self.guest, self.running, self.address = guest, {}, address
        guest.endings.append(self.finish)
        guest.check("ip link set lo up")

    def start_pair(self):
        self.start(LENDER, 7808)
        self.start(BORROWER, 7804)
        self.connect(LENDER, BORROWER)

    def start(self, node, port, options="", environment=""):
        """A node that answers commands. Its state survives end() and another start()."""
        self.launch(node, port, options, environment)
        self.guest.check(f"until [ -e /run/node{node}.log.status ] || smartio_tool --run-dir {run_dir(node)} status "
                         ">/dev/null 2>&1; do usleep 20000; done", START_SECONDS)
        assert self.alive(node), f"smartiod of node {node} ended: {self.guest.run(f'cat /run/node{node}.log').output}"

    def launch(self, node, port, options="", environment=""):
        """One that may end before it answers."""
        log = f"/run/node{node}.log"
        if log not in self.guest.files_to_keep:
            self.guest.files_to_keep.append(log)
        self.running[node] = port
        self.guest.check(
            f"rm -f {log}.status; mkdir -p /run/state{node}; ( {environment} smartiod --node {node} --listen {self.address}:{port} "
            f"--run-dir {run_dir(node)} --state-dir /run/state{node} {options} >>{log} 2>&1 & "
            f"echo $! >/run/node{node}.pid; wait $!; echo $? >{log}.status ) >/dev/null 2>&1 &")

    def connect(self, lender, borrower):
        self.check(lender, f"connect {borrower} --address {self.address}:{self.running[borrower]}")

    def tool(self, node, words, seconds=30):
        """smartio_tool's outcome: status, output, errors."""
        return self.guest.run(f"smartio_tool --run-dir {run_dir(node)} {words}", seconds)

    def check(self, node, words, seconds=30):
        """Output of a smartio_tool command that must succeed."""
        return self.guest.check(f"smartio_tool --run-dir {run_dir(node)} {words}", seconds)

    def json(self, node, words, seconds=30):
        return json.loads(self.check(node, f"--json {words}", seconds))

    def lend(self, address, node=LENDER, options=""):
        """Adds the device and makes it available: its id."""
        self.check(node, f"add {address}")
        self.check(node, f"available --yes {options} {address}")
        return self.device(node, address)["id"]

    def device(self, node, wanted):
        """The entry of `list` whose id, address or BDF (with or without domain) is WANTED."""
        names = (wanted, f"0000:{wanted}")
        return next(entry for entry in self.json(node, "list")["devices"]
                    if entry["id"] == wanted or entry["address"] in names or entry["bdf"] in names)

    def state(self, node, wanted):
        return self.device(node, wanted)["state"]

    def await_state(self, node, wanted, state, seconds=START_SECONDS):
        """Waits for a state that comes by itself. Just after a start a device is in no list: it is looked at."""
        deadline = time.monotonic() + seconds
        now = None
        while now != state:
            assert time.monotonic() < deadline, f"device {wanted} of node {node} is {now}, not {state}"
            time.sleep(0.02)
            with contextlib.suppress(StopIteration):
                now = self.state(node, wanted)

    def exercise(self, node, device, kind, seconds=60):
        """Drives a device as a program of NODE: what was verified, by name. Fails when anything did not hold."""
        return json.loads(self.guest.check(f"exercise {run_dir(node)} {device} {kind}", seconds))

    def alive(self, node):
        return self.guest.run(f"[ ! -e /run/node{node}.log.status ]").status == 0

    def end(self, *nodes):
        """Ends the nodes named, or all, in order. Each must still run, and end well."""
        for node in nodes or list(self.running):
            assert self.alive(node), f"smartiod of node {node} had ended"
            self.guest.check(f"kill $(cat /run/node{node}.pid)")
            status = self.await_end(node)
            assert status == 0, f"smartiod of node {node} ended with status {status}"

    def finish(self):
        """Before the guest ends: what runs ends well, and no program of this guest's nodes said what nobody may."""
        self.end()
        said = findings(self.guest.check("cat /run/node*.log"))
        assert not said, said

    def await_end(self, node):
        """The status a node ends with by itself."""
        del self.running[node]
        return int(self.guest.check(f"until [ -s /run/node{node}.log.status ]; do usleep 20000; done; "
                                    f"cat /run/node{node}.log.status"))

    def kill(self, node):
        """The end of a node without any warning."""
        self.guest.check(f"kill -9 $(cat /run/node{node}.pid)")
        self.await_end(node)

    def complaints(self, node, *expected):
        """What the node said, of warnings and errors, that none of the regular expressions matches."""
        said = self.guest.check(f"cat /run/node{node}.log").splitlines()
        return [line for line in said if not re.match("<[5-7]>", line)
                and not any(re.search(pattern, line) for pattern in expected)]


def run_dir(node):
    return f"/run/node{node}"


class Function:
    """A PCI function as the guest's kernel sees it."""

    def __init__(self, guest, where):
        self.guest, self.where = guest, f"0000:{where}"
        self.path = f"/sys/bus/pci/devices/{self.where}"

    def driver(self):
        """The name of its driver, or nothing."""
        return self.guest.check(f"readlink {self.path}/driver | sed 's,.*/,,'").strip()

    def bind(self, driver):
        """As an administrator does it by hand."""
        self.guest.check(f"modprobe {shlex.quote(driver)} 2>/dev/null; echo {driver} >{self.path}/driver_override; "
                         f"[ ! -e {self.path}/driver ] || echo {self.where} >{self.path}/driver/unbind; "
                         f"echo {self.where} >/sys/bus/pci/drivers_probe")

    def make_vfs(self, count):
        """Virtual functions, with no driver tried on them."""
        self.guest.check(f"echo 0 >{self.path}/sriov_drivers_autoprobe && echo {count} >{self.path}/sriov_numvfs")

    def group(self):
        """The functions of its IOMMU group, without domain."""
        names = self.guest.check(f"ls {self.path}/iommu_group/devices").split()
        return {name.removeprefix("0000:") for name in names}


def bring_vf_online(guest, number, controller="/dev/nvme0"):
    """Gives virtual function NUMBER of an NVMe disk what Topology.nvme_with_vfs has for it: 2 queues, 1 vector."""
    for action in ("-r 0 -n 2 -a 8", "-r 1 -n 1 -a 8", "-n 0 -a 9"):
        guest.check(f"nvme virt-mgmt {controller} -c {number} {action}")

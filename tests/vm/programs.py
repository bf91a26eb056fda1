"""Our own programs on this machine, as tests with guests start them: ../support/world.py, by name."""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
from findings import findings
from processes import PATIENCE as START_SECONDS
from processes import Process, die_with_parent, run
from world import Program, World, free_port


class Programs(World):
    """Programs of the build directory; files and sockets are in `directory`."""

    def __init__(self, build, name):
        super().__init__(name)
        self.build, self.directory, self.nodes = build, self.place, {}

    def simulate_nvme(self, name, size):
        """A simulated disk of SIZE bytes, ready to be attached."""
        return self.disk(name, size)

    def counters(self, name):
        """What the simulator NAME has counted so far."""
        return next(program for program in self.programs if program.name == name).counters()

    def start_node(self, number, listen=None):
        """A smartiod of its own run and state directory, ready for commands: the run directory."""
        node = self.node(number, start=False)
        node.address = listen or node.address
        self.nodes[node.run_dir] = node
        return node.start().run_dir

    def tool(self, run, *arguments):
        """Output of a smartio_tool command that must succeed."""
        return self.nodes[run].ok(*arguments)

    def start(self, name, program, *arguments, **options):
        started = self.keep(Program(self.place, name))
        started.launch(self.build / program, *arguments, text=True, **options)
        return started.process

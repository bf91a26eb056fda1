"""QEMU's own control channel (QMP: docs/interop/qmp-spec): commands, and waiting for events."""

import json
import time


class QmpError(Exception):
    """QEMU refused a command, ended, or did not answer in time."""


class Qmp:
    """CHANNEL is a connected socket. Commands run one after another; events that come in between are kept."""

    def __init__(self, channel):
        self.channel, self.pending, self.events, self.ready = channel, b"", [], False

    def command(self, name, seconds=30, **arguments):
        """What the command returns."""
        if not self.ready:
            self.ready = True
            self.command("qmp_capabilities", seconds)
        self.channel.sendall(json.dumps({"execute": name, "arguments": arguments}).encode())
        deadline = time.monotonic() + seconds
        while True:
            message = self.message(deadline, name)
            if "error" in message:
                raise QmpError(f"{name}: {message['error']['desc']}")
            if "return" in message:
                return message["return"]
            self.keep(message)

    def event(self, name, seconds=30, **data):
        """The first event NAME not asked for yet whose data agree with DATA; what comes before it is dropped."""
        deadline = time.monotonic() + seconds
        while True:
            while self.events:
                event = self.events.pop(0)
                if event["event"] == name and data.items() <= event.get("data", {}).items():
                    return event
            self.keep(self.message(deadline, name))

    def keep(self, message):
        if "event" in message:
            self.events.append(message)

    def message(self, deadline, what):
        while b"\n" not in self.pending:
            try:
                self.channel.settimeout(max(0.001, deadline - time.monotonic()))
                data = self.channel.recv(1 << 16)
            except TimeoutError:
                raise QmpError(f"no {what} from QEMU in time") from None
            if not data:
                raise QmpError(f"QEMU ended while waiting for {what}")
            self.pending += data
        line, self.pending = self.pending.split(b"\n", 1)
        return json.loads(line)

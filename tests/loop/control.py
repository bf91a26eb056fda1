# The control protocol from the other side: frames, and a connection that may send anything.
import contextlib
import json
import socket
import struct

from harness import PATIENCE


def frame(message, kind=0):
    payload = message if isinstance(message, bytes) else json.dumps(message).encode()
    return struct.pack("<IB", len(payload) + 1, kind) + payload


class Control:
    """A connection to a node's control socket."""

    def __init__(self, node):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(PATIENCE)
        self.socket.connect(str(node.socket))
        self.stream = self.socket.makefile("rb")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stream.close()
        self.socket.close()

    def send(self, data):
        self.socket.sendall(data)

    def reply(self):
        """The next message of the node; None if it hung up."""
        with contextlib.suppress(ConnectionResetError):
            header = self.stream.read(5)
            if len(header) == 5:
                return json.loads(self.stream.read(struct.unpack("<IB", header)[0] - 1))
        return None

    def call(self, command, arguments):
        """The result of a command that must succeed."""
        self.send(frame({"id": 1, "command": command, "arguments": arguments}))
        reply = self.reply()
        assert reply and "result" in reply, reply
        return reply["result"]

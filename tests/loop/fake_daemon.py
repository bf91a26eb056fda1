# A control socket that answers as a test says, honest or not: what smartio_tool makes of a daemon is tested against it.
import json
import socket
import struct
import threading

from control import frame


class FakeDaemon:
    """`answer(command, arguments)` gives the reply without its id, raw bytes to send, or None to hang up."""

    def __init__(self, run_dir, answer):
        self.answer, self.requests = answer, []
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.listener.bind(str(run_dir / "smartiod.sock"))
        self.listener.listen()
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()

    def serve(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            with client:
                while self.serve_one(client):
                    pass

    def serve_one(self, client):
        with client.makefile("rb") as stream:
            header = stream.read(5)
            if len(header) < 5:
                return False
            length, _ = struct.unpack("<IB", header)
            request = json.loads(stream.read(length - 1))
        self.requests.append((request["command"], request["arguments"]))
        reply = self.answer(request["command"], request["arguments"])
        if reply is None:
            return False
        try:
            client.sendall(reply if isinstance(reply, bytes) else frame({"id": request["id"], **reply}))
        except OSError:
            return False
        return not isinstance(reply, bytes)

    def end(self):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.thread.join(10)

# A device's server that nobody here wrote would behave like this one, or worse: what it says is up to the test.
import array
import contextlib
import errno
import os
import queue
import socket
import struct
import threading

from harness import PATIENCE
from raw_client import (CONFIG, DMA_MAP, DMA_UNMAP, GET_INFO, GET_IRQ_INFO, GET_REGION_INFO, REGION_READ, REGION_WRITE,
                        RESET, SET_IRQS, VERSION)

DMA_READ, DMA_WRITE = 11, 12
PCI, CAN_RESET = 2, 1
MSIX = 2
MAPPABLE = 7
REPLY, ERROR = 1, 0x20


class RawServer:
    """Serves a device of one trapped BAR on a thread, to one client after the other. `clients` counts those that
    greeted; `state`, the registers, is kept from one to the next, but for a reset."""

    def __init__(self, path, flags=PCI | CAN_RESET):
        self.path, self.flags = path, flags
        self.device = f"vfio-user:{path}"
        self.vectors, self.clients, self.resets = 4, 0, 0
        self.state = bytearray(4096)
        self.config = bytearray(256)
        self.config[0:4] = struct.pack("<HH", 0x1234, 0x11e8)
        self.answers = {}  # command -> function(payload) -> payload or (payload, descriptors); before what is usual
        self.spoil = lambda command, message: message  # the bytes that really go out
        self.on_leave = lambda: None  # on the server's thread
        self.replies, self.session, self.sending = queue.Queue(), None, threading.Lock()
        self.start()

    def bind(self):
        """Its socket is there, but does not listen yet."""
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.listener.bind(str(self.path))

    def start(self):
        self.bind()
        return self.listen()

    def listen(self):
        self.closing = False
        self.listener.listen(8)
        self.thread = threading.Thread(target=self.serve, args=(self.listener,))
        self.thread.start()
        return self

    def close(self):
        """As if its process ended."""
        self.closing = True
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        if session := self.session:
            with contextlib.suppress(OSError):
                session.shutdown(socket.SHUT_RDWR)
        if self.thread is not threading.current_thread():
            self.thread.join(PATIENCE)
        self.listener.close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def serve(self, listener):
        while True:
            try:
                session, _ = listener.accept()
            except OSError:
                return
            with session:
                self.session = session
                if self.closing:  # before that was seen
                    return
                greeted = self.serve_client(session)
                self.session = None
            if greeted:
                self.on_leave()

    def serve_client(self, session):
        greeted = False
        with contextlib.suppress(OSError):
            while header := self.take(session, 16):
                id_, command, size, flags, error = struct.unpack("<HHIII", header)
                payload = self.take(session, size - 16)
                if flags & REPLY:
                    self.replies.put(error if flags & ERROR else payload)
                    continue
                if command == VERSION:
                    greeted = True
                    self.clients += 1
                answer = self.answers.get(command, self.usual(command))(payload)
                payload, fds = answer if isinstance(answer, tuple) else (answer, [])
                failed = isinstance(payload, int)
                body = b"" if failed else bytes(payload)
                head = struct.pack("<HHIII", id_, command, 16 + len(body), REPLY | (ERROR if failed else 0), payload if failed else 0)
                self.send(session, self.spoil(command, head + body), fds)
        return greeted

    def take(self, session, size):
        data = b""
        while len(data) < size:
            more, fds, _, _ = socket.recv_fds(session, size - len(data), 16)
            for fd in fds:
                os.close(fd)
            if not more:
                return b""
            data += more
        return data

    def send(self, session, data, fds=()):
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        with self.sending:
            session.sendmsg([data], ancillary)

    def usual(self, command):
        return {VERSION: lambda _: struct.pack("<HH", 0, 1) + b'{"capabilities":{}}\0', GET_INFO: self.info,
                GET_REGION_INFO: self.region_info, GET_IRQ_INFO: self.irq_info, REGION_READ: self.read,
                REGION_WRITE: self.write, DMA_UNMAP: lambda payload: payload, RESET: self.reset,
                DMA_MAP: lambda _: b"", SET_IRQS: lambda _: b""}.get(command, lambda _: errno.EOPNOTSUPP)

    def info(self, _):
        return struct.pack("<IIII", 16, self.flags, 9, 5)

    def region_info(self, payload):
        index = struct.unpack_from("<II", payload)[0] and struct.unpack_from("<IIII", payload)[2]
        size = {0: len(self.state), CONFIG: len(self.config)}.get(index, 0)
        return struct.pack("<IIIIQQ", 32, 3 if size else 0, index, 0, size, 0)

    def irq_info(self, payload):
        index = struct.unpack_from("<IIII", payload)[2]
        return struct.pack("<IIII", 16, 1, index, self.vectors if index == MSIX else 0)

    def region(self, index):
        return self.config if index == CONFIG else self.state

    def read(self, payload):
        offset, index, count = struct.unpack("<QII", payload)
        return payload + self.region(index)[offset:offset + count]

    def write(self, payload):
        offset, index, count = struct.unpack_from("<QII", payload)
        self.region(index)[offset:offset + count] = payload[16:]
        return payload[:16]

    def reset(self, _):
        self.resets += 1
        self.state[:] = bytes(len(self.state))
        return b""

    def dma(self, command, iova, count, data=b""):
        """What the client answers: the data after the fixed part, or an errno."""
        self.send(self.session, struct.pack("<HHIIIQQ", 1, command, 32 + len(data), 0, 0, iova, count) + data)
        reply = self.replies.get(timeout=PATIENCE)
        return reply if isinstance(reply, int) else reply[16:]

    def dma_read(self, iova, count):
        return self.dma(DMA_READ, iova, count)

    def dma_write(self, iova, data):
        return self.dma(DMA_WRITE, iova, len(data), data)

# A vfio-user client that sends what a test wants, as virtual machines do: messages are the specification's.
import array
import fcntl
import os
import socket
import struct

from harness import PATIENCE

VERSION, DMA_MAP, DMA_UNMAP, GET_INFO, GET_REGION_INFO, GET_IRQ_INFO = 1, 2, 3, 4, 5, 7
SET_IRQS, REGION_READ, REGION_WRITE, RESET = 8, 9, 10, 13
READ, WRITE = 1, 2
CONFIG, ERR = 7, 3


class RawClient:
    """Connected, and greeted where nothing else is said. `call` gives the payload of the reply, or its errno."""

    def __init__(self, path, greet=True):
        self.id = 1
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(PATIENCE)
        self.socket.connect(str(path))
        if greet:
            assert isinstance(self.call(VERSION, struct.pack("<HH", 0, 1) + b'{"capabilities":{}}\0'), bytes)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def send(self, command, payload=b"", fds=(), flags=0):
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        self.socket.sendmsg([struct.pack("<HHIII", self.id, command, 16 + len(payload), flags, 0) + payload], ancillary)

    def receive(self):
        return self.parse(self.take(16))

    def parse(self, header):
        id_, _, size, flags, error = struct.unpack("<HHIII", header)
        assert id_ == self.id
        payload = self.take(size - 16)
        return error if flags & 0x20 else payload

    def receive_with_descriptors(self):
        header, fds, _, _ = socket.recv_fds(self.socket, 16, 16)
        return self.parse(header), fds

    def take(self, size):
        data = b""
        while len(data) < size:
            more = self.socket.recv(size - len(data))
            assert more, "the server closed the connection"
            data += more
        return data

    def call(self, command, payload=b"", fds=()):
        self.send(command, payload, fds)
        return self.receive()

    def map(self, iova, size, access=READ | WRITE, fd=None, offset=0):
        """The errno, or 0."""
        return self.call(DMA_MAP, struct.pack("<IIQQQ", 32, access, offset, iova, size), [fd] if fd is not None else []) or 0

    def unmap(self, iova, size):
        """The reply's bytes, or an errno."""
        return self.call(DMA_UNMAP, struct.pack("<IIQQ", 24, 0, iova, size))

    def read(self, region, offset, count):
        reply = self.call(REGION_READ, struct.pack("<QII", offset, region, count))
        return reply if isinstance(reply, int) else reply[16:]

    def write(self, region, offset, data):
        return self.call(REGION_WRITE, struct.pack("<QII", offset, region, len(data)) + data)

    def set_error_interrupt(self):
        """The eventfd that ERR signals from now on."""
        event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        assert self.call(SET_IRQS, struct.pack("<IIIII", 20, 0x24, ERR, 0, 1), [event]) == b""
        return event


def guest_memory(size, seals=0):
    fd = os.memfd_create("guest memory", os.MFD_ALLOW_SEALING | os.MFD_CLOEXEC)
    os.ftruncate(fd, size)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    return fd

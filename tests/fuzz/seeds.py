"""seeds.py NAME FOLDER: writes the seeds of the fuzzer NAME that are made here (not text: others stand in corpus).

The structures are those of vfio/user/wire.hpp; how an input is laid out says each fuzzer, and ../support/any_client.hpp.
"""

import gzip
import pathlib
import struct
import sys

VERSION, DMA_MAP, DMA_UNMAP, GET_INFO, GET_REGION_INFO, _, GET_IRQ_INFO, SET_IRQS, READ, WRITE = range(1, 11)
RESET = 13


def info():
    return struct.pack("<4I", 16, 0, 0, 0)


def region_info(index, argsz=4096):
    return struct.pack("<4I2Q", argsz, 0, index, 0, 0, 0)


def irq_info(index):
    return struct.pack("<4I", 16, 0, index, 0)


def irqs(flags, index, start, count):
    return struct.pack("<5I", 20, flags, index, start, count)


def access(region, offset, count, data=b""):
    return struct.pack("<Q2I", offset, region, count) + data


def dma_map(iova, size, offset=0, flags=3):
    return struct.pack("<2I3Q", 32, flags, offset, iova, size)


def dma_unmap(iova, size, flags=0):
    return struct.pack("<2I2Q", 24, flags, iova, size)


SESSIONS = {  # messages: command, payload, descriptors (128 and more: of memory)
    "identify": [(GET_INFO, info(), 0)] + [(GET_REGION_INFO, region_info(i), 0) for i in range(9)]
    + [(GET_IRQ_INFO, irq_info(i), 0) for i in range(5)],
    "registers": [(READ, access(0, 4096, 8), 0), (WRITE, access(0, 4096, 4, b"abcd"), 0), (READ, access(7, 0, 64), 0),
                  (WRITE, access(7, 4, 2, b"\x06\x04"), 0), (READ, access(1, 0, 4), 0), (WRITE, access(0, 8190, 4, b"abcd"), 0)],
    "memory": [(DMA_MAP, dma_map(0x1000, 0x1000), 141), (DMA_MAP, dma_map(0x10000, 0x2000, 0x1000), 141),
               (DMA_MAP, dma_map(1 << 34, 0x1000), 141), (DMA_MAP, dma_map(0x100000, 0x1000), 0),
               (DMA_UNMAP, dma_unmap(0x1000, 0x1000), 0), (DMA_UNMAP, dma_unmap(0, 0, 2), 0)],
    "interrupts": [(SET_IRQS, irqs(36, 2, 0, 3), 3), (SET_IRQS, irqs(36, 0, 0, 1), 1), (SET_IRQS, irqs(33, 2, 0, 0), 0),
                   (SET_IRQS, irqs(34, 2, 0, 2) + b"\1\0", 0), (SET_IRQS, irqs(33, 0, 0, 1), 0), (RESET, b"", 0)],
}


def session(messages):
    """As AnyClient reads it, without its first byte."""
    return b"".join(bytes((command, 0, fds, len(payload))) + payload for command, payload, fds in messages)


def seeds():
    for name, messages in SESSIONS.items():
        spoken = session(messages)
        for first in (0, 1, 2):  # at once, later, never
            yield f"vfio_user_server/{name}_{first}", bytes((first,)) + spoken
        for first in (0, 2, 7, 10, 25, 43, 63):  # shared, filtered, later; ended halfway, in each way
            yield f"vfio_user_loan/{name}_{first}", bytes((first, 0)) + spoken
        for number, (command, payload, fds) in enumerate(messages):
            yield f"vfio_user_codec/{name}_{number}", bytes((command, fds % 20)) + payload
    echo = region_info(0)
    sparse = struct.pack("<HH3I2Q", 1, 1, 0, 1, 0, 4096, 4096)
    reply = struct.pack("<4I2Q", 64, 15, 0, 32, 8192, 0) + sparse
    yield "vfio_user_codec/areas", bytes((GET_REGION_INFO, 1)) + echo + reply
    yield "vfio_user_codec/read", bytes((READ, 0)) + access(0, 0, 8).ljust(32, b"\0") + access(0, 0, 8, b"12345678")
    names = b"1b36  Red Hat, Inc.\n\t0010  A disk\nC 01  Mass storage controller\n\t08  Disks\n"
    for name, packed in ("whole", gzip.compress(names, mtime=0)), ("page", gzip.compress(b"<html>", mtime=0)):
        yield f"pci_ids/{name}.gz", packed
        yield f"pci_ids/{name}_cut.gz", packed[:-12]
        yield f"pci_ids/{name}_damaged.gz", packed[:12] + b"\xff" + packed[13:]
    yield "pci_ids/many", names + b"".join(b"\t%04x  Disk %d\n" % (i, i) for i in range(0x100, 0x400))
    version = b'\0\0\1\0{"capabilities":{"max_msg_fds":8,"max_data_xfer_size":65536,"migration":{"pgsize":4096}}}\0'
    yield "vfio_user_codec/version", bytes((VERSION, 0)) + version
    yield "vfio_user_server/raw", b"\xc0" + struct.pack("<2H3I", 0, VERSION, 16 + len(version), 0, 0) + version


def main(fuzzer, folder):
    folder.mkdir(parents=True, exist_ok=True)
    for name, seed in seeds():
        if name.startswith(fuzzer + "/"):
            (folder / name.removeprefix(fuzzer + "/")).write_bytes(seed)


if __name__ == "__main__":
    main(sys.argv[1], pathlib.Path(sys.argv[2]))

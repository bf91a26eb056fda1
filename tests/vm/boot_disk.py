"""A disk that firmware can boot from: its program reads the next sector with the firmware's services (INT 13h, functions
42h and 43h), writes it to the sector behind, prints it on the serial port, and ends QEMU."""

import json
import os
import struct
import subprocess
import tempfile

import initramfs
from programs import die_with_parent

SAYS = "booted from the disk\n"
DONE = 2 * 0x15 + 1  # isa-debug-exit makes the exit code of a byte: hw/misc/debugexit.c
SECTOR = 512
LOADED, BUFFER, ADDRESS_PACKETS = 0x7c00, 0x7e00, 0x7c80
BOOT_SECONDS = 60


def program():
    packet = lambda sector: struct.pack("<BBHHHQ", 16, 0, 1, BUFFER, 0, sector)
    transfer = lambda function, place: b"\xbe" + struct.pack("<H", place) + b"\xb8\0" + bytes([function]) + \
        b"\xcd\x13\x72"  # mov si, place; mov ax, function << 8; int 13h; jc
    code = b"\xfa\x31\xc0\x8e\xd8\xfb"  # cli; xor ax, ax; mov ds, ax; sti
    read, write = transfer(0x42, ADDRESS_PACKETS), transfer(0x43, ADDRESS_PACKETS + 16)
    # mov si, BUFFER; mov dx, 3f8h; next: lodsb; test al, al; jz end; out dx, al; jmp next
    out = b"\xbe" + struct.pack("<H", BUFFER) + b"\xba\xf8\x03\xac\x84\xc0\x74\x03\xee\xeb\xf8"
    exit_ = b"\xba\xf4\0\xb0\x15\xee"  # end: mov dx, 0f4h; mov al, 15h; out dx, al
    fail = b"\xf4\xeb\xfd"  # hlt; jmp fail
    rest = write + bytes([len(out) + len(exit_)]) + out + exit_ + fail
    code += read + bytes([len(rest) - len(fail)]) + rest
    packets = code.ljust(ADDRESS_PACKETS - LOADED, b"\0") + packet(1) + packet(2)
    return packets.ljust(SECTOR - 2, b"\0") + b"\x55\xaa"


def write(file):
    with open(file, "r+b") as disk:
        disk.write(program() + SAYS.encode().ljust(SECTOR, b"\0"))


def was_written(file):
    """Whether the program wrote its sector; it is cleared then."""
    with open(file, "r+b") as disk:
        disk.seek(2 * SECTOR)
        found = disk.read(SECTOR)
        disk.seek(2 * SECTOR)
        disk.write(bytes(SECTOR))
    return found.rstrip(b"\0").decode() == SAYS


def start(bed, device, under=()):
    """What the disk's program printed, and QEMU's exit code. UNDER is a command that runs QEMU."""
    with tempfile.NamedTemporaryFile() as serial, launch(bed, device, serial.name, under=under) as qemu:
        try:
            status = qemu.wait(BOOT_SECONDS)
        finally:
            qemu.kill()
        return serial.read().decode(errors="replace"), status


def launch(bed, device, serial, shared=True, under=()):
    """QEMU, just started, with memory that other processes can share or not."""
    share = bed.tree / "usr/share"
    memory = "memory-backend-memfd,id=ram,size=128M,share=on" if shared else "memory-backend-ram,id=ram,size=128M"
    command = [*map(str, under), *initramfs.host_command(bed.tree, "qemu-system-x86_64"), "-L", f"{share}/qemu", "-L",
               f"{share}/seabios", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-accel", "tcg",
               "-m", "128", "-object", memory, "-machine", "q35,memory-backend=ram", "-serial", f"file:{serial}",
               "-device", "isa-debug-exit,iobase=0xf4", "-device", json.dumps(device)]
    environment = {**os.environ, "QEMU_MODULE_DIR": str(bed.tree / initramfs.LIBRARIES / "qemu")}
    return subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                            preexec_fn=die_with_parent)

"""Makes what a guest boots from the unpacked packages: an uncompressed kernel and an initramfs (see fetch.py).

The initramfs holds busybox, the PROGRAMS with the libraries they need, the MODULES with those they depend on, and
guest_init as /init. Our own programs are host_programs.py's business. What runs in it is up to the tests.
"""

import lzma
import os
import pathlib
import re
import stat
import struct
import subprocess
import zlib

PROGRAMS = ["mkfs.ext4", "e2fsck", "nvme", "lspci", "ip", "mdadm", "dmsetup", "lvm"]
LVM_COMMANDS = ["pvcreate", "vgcreate", "vgchange", "lvcreate"]
MODULES = ["virtio_pci", "virtio_console", "virtio_iommu", "nvme", "ext4", "vfio_pci", "vfio_iommu_type1", "pci_stub",
           "virtio_net", "igb", "igbvf", "e1000e", "snd_hda_intel", "xhci_pci", "loop", "raid1", "dm_mod", "nvmet",
           "sch_ingress", "ntb_tool", "ntb_perf", "ntb_pingpong", "ntb_netdev"]
LIBRARIES = "usr/lib/x86_64-linux-gnu"
LOADER = f"{LIBRARIES}/ld-linux-x86-64.so.2"


def host_command(tree, program):
    """Argument list that runs PROGRAM of TREE on this machine, with its own C library."""
    libraries = tree / LIBRARIES
    paths = [libraries, libraries / "ceph", libraries / "pulseaudio"]
    return [str(tree / LOADER), "--library-path", ":".join(map(str, paths)), str(find_program(tree, program))]


def find_program(tree, name):
    for directory in ("usr/bin", "usr/sbin"):
        path = tree / directory / name
        if path.exists():
            return path.resolve()
    raise FileNotFoundError(f"{name} is not in {tree}")


def build_kernel(tree, image, destination):
    """Writes an ELF kernel that QEMU starts directly (PVH), which saves a second or two of decompression in the guest.

    The header of a compressed kernel says where the payload is: Linux, Documentation/arch/x86/boot.rst, payload_offset.
    """
    data = image.read_bytes()
    setup_sectors = data[0x1f1] or 4
    offset, length = struct.unpack_from("<II", data, 0x248)
    start = (setup_sectors + 1) * 512 + offset
    destination.write_bytes(decompress(tree, data[start:start + length]))


def decompress(tree, payload):
    if payload.startswith(b"\x28\xb5\x2f\xfd"):  # the last 4 bytes are the size, not part of the stream
        return subprocess.run([*host_command(tree, "zstd"), "-dc"], input=payload[:-4], stdout=subprocess.PIPE,
                              check=True).stdout
    if payload.startswith(b"\xfd7zXZ"):
        return lzma.decompress(payload[:-4])
    return zlib.decompress(payload, wbits=31)


def build_initramfs(tree, version, modules, destination, programs=(), more=lambda archive: None):
    """MODULES are files of the kernel VERSION, PROGRAMS more programs of the packages. MORE may add to the archive."""
    with open(destination, "wb") as output:
        archive = Archive(output)
        for directory in ("proc", "sys", "dev", "tmp", "run", "mnt", "etc"):
            archive.directory(directory)
        archive.file("init", pathlib.Path(__file__).with_name("guest_init").read_bytes(), 0o755)
        busybox = find_program(tree, "busybox")
        archive.file("bin/busybox", busybox.read_bytes(), 0o755)
        for applet in subprocess.check_output([busybox, "--list"], text=True).split():
            if applet not in ("busybox", *PROGRAMS, *programs):
                archive.link(f"bin/{applet}", "busybox")
        add_programs(archive, tree, [*PROGRAMS, *programs])
        add_usual_files(archive, tree)
        add_modules(archive, version, modules)
        more(archive)
        archive.end()


def compress(tree, path):
    packed = path.with_name(f"{path.name}.zst")
    subprocess.run([*host_command(tree, "zstd"), "-q", "-f", str(path), "-o", str(packed)], check=True)
    return packed


def add_programs(archive, tree, programs):
    libraries = set()
    for program in programs:
        listing = subprocess.check_output(
            [*host_command(tree, program)[:-1], "--list", str(find_program(tree, program))], text=True)
        libraries.update(re.findall(rf"{re.escape(str(tree))}/\S+", listing))
        archive.file(f"bin/{program}", find_program(tree, program).read_bytes(), 0o755)
    for library in sorted(libraries):
        archive.file(f"lib/{os.path.basename(library)}", pathlib.Path(library).read_bytes(), 0o755)
    archive.file("lib64/ld-linux-x86-64.so.2", (tree / LOADER).read_bytes(), 0o755)
    archive.link("lib/x86_64-linux-gnu", ".")


def add_usual_files(archive, tree):
    """What programs look for at the places where Debian has it."""
    for command in LVM_COMMANDS:
        archive.link(f"bin/{command}", "lvm")
    for directory, target in (("sbin", "bin"), ("usr/bin", "../bin"), ("usr/sbin", "../bin")):
        archive.link(directory, target)
    archive.file("usr/share/misc/pci.ids", (tree / "usr/share/misc/pci.ids").read_bytes())
    archive.file("etc/passwd", b"root:x:0:0::/tmp:/bin/sh\nuser:x:1000:1000::/tmp:/bin/sh\n")
    archive.file("etc/group", b"root:x:0:\nuser:x:1000:\n")


def kernel_directory(tree, cloud):
    """Of Debian's cloud kernel, or its full one."""
    return next(path for path in (tree / "usr/lib/modules").glob("*")
                if (path / "kernel").is_dir() and ("cloud" in path.name) == cloud)


def add_modules(archive, version, files):
    """MODULES that are not built in, uncompressed, with a modules.dep (depmod's format) for busybox's modprobe."""
    found = {module_name(path): path for path in files}
    wanted, contents, needs = [name for name in MODULES if name in found], {}, {}
    while wanted:
        name = wanted.pop()
        if name not in contents:
            data = found[name].read_bytes()
            contents[name] = lzma.decompress(data) if found[name].suffix == ".xz" else data
            needs[name] = [need for need in module_needs(contents[name]) if need in found]
            wanted += [*needs[name], *(more for more in module_needs(contents[name], "post") if more in found)]
    # What is to be loaded after a module (VFIO's IOMMU driver) is loaded before whatever else depends on that module.
    followers = {name: module_needs(content, "post") for name, content in contents.items()}
    needs = {name: direct + [more for need in direct for more in followers[need] if more in contents and more != name]
             for name, direct in needs.items()}
    for name, content in contents.items():
        archive.file(f"lib/modules/{version}/{name}.ko", content)
    lines = [f"{name}.ko: {' '.join(f'{need}.ko' for need in all_needs(name, needs))}\n" for name in contents]
    archive.file(f"lib/modules/{version}/modules.dep", "".join(lines).encode())


def module_name(path):
    return path.name.split(".ko")[0].replace("-", "_")


def module_needs(content, when="pre"):
    """Names from a module's .modinfo section: of modules to be loaded before it, or "post": after it."""
    words = re.findall(rb"\0softdep=%s: ([^\0]*)\0" % when.encode(), content)
    if when == "pre":
        words += re.findall(rb"\0depends=([^\0]*)\0", content)
    return [name.replace("-", "_") for name in re.split(r"[,\s]+", b" ".join(words).decode()) if name]


def all_needs(name, needs):
    """What NAME depends on, directly or not; each before what it depends on itself, as modprobe reads modules.dep."""
    result = []
    for need in needs[name]:
        result = [other for other in result if other not in all_needs(need, needs)]
        result += [other for other in [need, *all_needs(need, needs)] if other not in result]
    return result


class Archive:
    """A cpio archive as the kernel unpacks it: newc, Documentation/driver-api/early-userspace/buffer-format.rst."""

    def __init__(self, output):
        self.output, self.directories, self.inode = output, set(), 0

    def directory(self, name):
        if name and name not in self.directories:
            self.directory(os.path.dirname(name))
            self.directories.add(name)
            self.entry(name, stat.S_IFDIR | 0o755, b"")

    def file(self, name, content, mode=0o644):
        self.directory(os.path.dirname(name))
        self.entry(name, stat.S_IFREG | mode, content)

    def link(self, name, target):
        self.directory(os.path.dirname(name))
        self.entry(name, stat.S_IFLNK | 0o777, target.encode())

    def end(self):
        self.entry("TRAILER!!!", 0, b"")

    def entry(self, name, mode, content):
        self.inode += 1
        fields = [self.inode, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name) + 1, 0]
        header = ("070701" + "".join(f"{field:08x}" for field in fields) + name).encode() + b"\0"
        self.output.write(padded(header) + padded(content))


def padded(data):
    return data + bytes(-len(data) % 4)

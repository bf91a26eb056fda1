"""What guests are started from: the unpacked packages, and kernels with an initramfs made of them when first asked for.

Kernels: "cloud", Debian's small one, starts fastest; "full", Debian's with the drivers of real machines; "own", see
own_kernel.py, has what Debian's lack. Where something cannot be had the test is skipped with the reason, and fails
under CI=true.
"""

import dataclasses
import functools
import os
import pathlib

import pytest

import fetch
import host_programs
import initramfs
import own_kernel


@dataclasses.dataclass
class Boot:
    kernel: pathlib.Path
    initrd: pathlib.Path


@dataclasses.dataclass
class Bed:
    """DIRECTORY takes what is made, BUILD is where our programs are, LOGS is kept."""
    tree: pathlib.Path
    directory: pathlib.Path
    build: pathlib.Path
    logs: pathlib.Path

    def __post_init__(self):
        self.boot = functools.cache(self.boot)

    def boot(self, flavour, programs=(), small=False):
        """The kernel and initramfs of that flavour. PROGRAMS (a tuple) names programs of the packages that are not in
        every guest, or "ours": those of host_programs.py. A SMALL guest does not hold an initramfs twice while it
        starts, so its own is compressed."""
        try:
            image, version, modules = self.kernel(flavour)
            kernel = self.directory / f"vmlinux-{flavour}"
            initrd = self.directory / "-".join(["initrd", flavour, *programs])
            if not kernel.exists():
                initramfs.build_kernel(self.tree, image, kernel)
            add_ours = functools.partial(host_programs.add, tree=self.tree, build=self.build)
            more, add = [name for name in programs if name != "ours"], [add_ours] if "ours" in programs else []
            initramfs.build_initramfs(self.tree, version, modules, initrd, more, *add)
            if small:
                initrd = initramfs.compress(self.tree, initrd)
        except fetch.Unavailable as reason:
            lacking(reason)
        return Boot(kernel, initrd)

    def kernel(self, flavour):
        """Image, version and module files."""
        if flavour == "own":
            directory = own_kernel.find()
            modules = sorted(directory.glob("*.ko"))
            return directory / "bzImage", own_kernel.module_version(modules[0].read_bytes()), modules
        directory = initramfs.kernel_directory(self.tree, cloud=flavour == "cloud")
        images = [*directory.glob("vmlinuz*"), *(self.tree / "boot").glob(f"vmlinuz-{directory.name}")]
        return images[0], directory.name, sorted(directory.glob("kernel/**/*.ko*"))


def lacking(reason):
    """Ends the test that needs what cannot be had."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"No guests, and CI must have them: {reason}", pytrace=False)
    pytest.skip(f"No guests: {reason}")

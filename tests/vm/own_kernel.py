"""A small kernel with what Debian's kernels leave out: iommufd, VFIO character devices and dma-buf, NTB drivers.

find() takes one that is ready: the directory SMARTIO_VM_KERNEL names, one build() made in the cache directory, or
shared/vm/linux-* beside the source tree. It holds bzImage and the modules, without folders. Run as a program this file
builds one (some ten minutes on two processors) from Debian's package linux-source and kernel.config.
"""

import hashlib
import os
import pathlib
import shutil
import subprocess
import tempfile

import fetch

HERE = pathlib.Path(__file__).parent
CONFIG = HERE / "kernel.config"
TOOLS = ["gcc", "make", "flex", "bison", "bc", "xz", "strip"]
HEADERS = ["libelf.h", "openssl/opensslv.h"]
BUILD_SECONDS = 3600


def find():
    """The directory of a kernel; raises fetch.Unavailable."""
    beside = [path for parent in HERE.parents for path in sorted(parent.glob("shared/vm/linux-*"))]
    named = [pathlib.Path(os.environ["SMARTIO_VM_KERNEL"])] if "SMARTIO_VM_KERNEL" in os.environ else []
    for directory in named or [built(), *beside]:
        if (directory / "bzImage").exists():
            return directory
    raise fetch.Unavailable("There is no kernel with iommufd: tests/vm/own_kernel.py builds one.")


def built():
    """Where build() leaves its result: made of this very configuration, or not there."""
    return fetch.cache_directory() / f"linux-{hashlib.sha256(CONFIG.read_bytes()).hexdigest()[:12]}"


def build():
    """Builds into built(). Blocks for minutes; raises fetch.Unavailable when something is missing here."""
    missing = [tool for tool in TOOLS if not shutil.which(tool)]
    missing += [header for header in HEADERS if not any(pathlib.Path("/usr/include").glob(f"**/{header}"))]
    if missing:
        raise fetch.Unavailable(f"A kernel cannot be built here without {', '.join(missing)}.")
    fetch.cache_directory().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="linux.partial.", dir=fetch.cache_directory()) as directory:
        source = unpack_source(pathlib.Path(directory))
        configure(source)
        make(source, f"-j{os.cpu_count()}", "bzImage", "modules")
        result = pathlib.Path(directory) / "result"
        result.mkdir()
        shutil.copy(source / "arch/x86/boot/bzImage", result)
        for module in source.glob("drivers/**/*.ko"):
            subprocess.run(["strip", "-g", module, "-o", result / module.name], check=True)
        shutil.rmtree(built(), ignore_errors=True)
        result.rename(built())
    return built()


def unpack_source(directory):
    """The newest linux-source-X.Y of the release and its backports."""
    options = fetch.configure(directory / "apt", fetch.mirrors()[0])
    fetch.call(["apt-get", *options, "-qq", "--error-on=any", "update"])
    names = fetch.call(["apt-cache", *options, "search", "--names-only", r"^linux-source-[0-9]+\.[0-9]+$"]).split("\n")
    newest = max((line.split()[0] for line in names if line.startswith("linux-source-")),
                 key=lambda name: [int(number) for number in name.rsplit("-", 1)[1].split(".")])
    fetch.call(["apt-get", *options, "-qq", "-y", "--download-only", "-t", fetch.BACKPORTS, "install", newest])
    package = next((directory / "apt/archives").glob(f"{newest}_*.deb"))
    fetch.call(["dpkg-deb", "-x", package, directory])
    fetch.call(["tar", "-C", directory, "-xf", directory / f"usr/src/{newest}.tar.xz"])
    return directory / newest


def configure(source):
    """The fragment over nothing at all. An option that did not hold would show only in a test's failure, hence here."""
    make(source, "allnoconfig")
    fragment = [line for line in CONFIG.read_text().splitlines() if line.startswith("CONFIG_")]
    with open(source / ".config", "a") as config:
        config.write("\n".join(fragment) + "\n")
    make(source, "olddefconfig")
    lines = set((source / ".config").read_text().splitlines())
    lost = [line for line in fragment if line not in lines and not line.endswith("=n")]
    if lost:
        raise fetch.Unavailable(f"This kernel source does not take {', '.join(lost)}.")


def make(source, *targets):
    subprocess.run(["make", "-s", "-C", source, *targets], check=True, stdin=subprocess.DEVNULL,
                   timeout=BUILD_SECONDS)


def module_version(module):
    """The release of the kernel that MODULE, its content, belongs to."""
    return module.split(b"\0vermagic=", 1)[1].split(b" ", 1)[0].decode()


if __name__ == "__main__":
    print(build())

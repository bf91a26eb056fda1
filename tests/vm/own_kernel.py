"""A small kernel with what Debian's kernels leave out: iommufd, VFIO character devices and dma-buf, NTB drivers, users of
disks and interfaces, device-dax.

find() takes one that is ready: the directory SMARTIO_VM_KERNEL names, one that was built here before, in the cache
directory, or shared/vm/linux-* beside the source tree. Else it waits for who builds one, or builds it (some fifteen minutes on
two processors, once) from Debian's package linux-source and kernel.config. Result: bzImage and MODULES, without folders.
As a program this file does the same and prints the directory; "own_kernel.py ready" only says whether it had nothing to do.
"""

import contextlib
import fcntl
import functools
import hashlib
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

import fetch

HERE = pathlib.Path(__file__).parent
CONFIG = HERE / "kernel.config"
MODULES = ["ntb_pingpong", "ntb_perf", "ntb_transport", "ntb_netdev", "ntb_tool"]
TOOLS = ["gcc", "make", "flex", "bison", "bc", "xz", "strip"]
HEADERS = ["libelf.h", "openssl/opensslv.h"]
BUILD_SECONDS = 3600


def find():
    """The directory of a kernel. Blocks for minutes where none is ready; raises fetch.Unavailable."""
    if not (directory := ready()):
        directory, problem = build_once()
        if problem:
            raise fetch.Unavailable(problem)
    return directory


def ready():
    """The directory of a kernel, or None."""
    if "SMARTIO_VM_KERNEL" in os.environ:
        places = [pathlib.Path(os.environ["SMARTIO_VM_KERNEL"])]
    else:
        places = [built(), *(path for parent in HERE.parents for path in sorted(parent.glob("shared/vm/linux-*")))]
    return next((place for place in places if is_whole(place)), None)


def is_whole(directory):
    return all((directory / name).exists() for name in ["bzImage", *(f"{module}.ko" for module in MODULES)])


def built():
    """Where build() leaves its result: made of this very configuration, or not there."""
    return fetch.cache_directory() / f"linux-{hashlib.sha256(CONFIG.read_bytes()).hexdigest()[:12]}"


@functools.cache
def build_once():
    """The directory, and why there is none: not tried again for each test."""
    try:
        if "SMARTIO_VM_KERNEL" in os.environ:
            raise fetch.Unavailable(f"SMARTIO_VM_KERNEL names no kernel with modules: {os.environ['SMARTIO_VM_KERNEL']}.")
        check_tools()
        with building():
            return ready() or build(), None
    except fetch.Unavailable as reason:
        return None, str(reason)
    except (subprocess.SubprocessError, OSError) as error:
        said = (getattr(error, "output", None) or "").strip().splitlines()
        return None, f"The kernel for guests could not be built: {said[-1] if said else error}."


def check_tools():
    missing = [tool for tool in TOOLS if not shutil.which(tool)]
    missing += [header for header in HEADERS if not any(pathlib.Path("/usr/include").glob(f"**/{header}"))]
    if missing:
        raise fetch.Unavailable(f"There is no kernel for guests, and none can be built without {', '.join(missing)}.")


@contextlib.contextmanager
def building():
    """One at a time, whoever it is: the others wait, and find it built."""
    fetch.cache_directory().mkdir(parents=True, exist_ok=True)
    with open(fetch.cache_directory() / "linux.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def build():
    for path in fetch.cache_directory().glob("linux.partial.*"):  # of a build that was interrupted
        shutil.rmtree(path)
    with tempfile.TemporaryDirectory(prefix="linux.partial.", dir=fetch.cache_directory()) as directory:
        source = unpack_source(pathlib.Path(directory))
        configure(source)
        make(source, f"-j{os.cpu_count()}", "bzImage", "modules")
        result = pathlib.Path(directory) / "result"
        result.mkdir()
        shutil.copy(source / "arch/x86/boot/bzImage", result)
        for module in source.glob("drivers/**/*.ko"):
            fetch.call(["strip", "-g", module, "-o", result / module.name])
        shutil.rmtree(built(), ignore_errors=True)
        result.rename(built())
    return built()


def unpack_source(directory):
    """The newest linux-source-X.Y of the release and its backports."""
    for number, mirror in enumerate(mirrors := fetch.mirrors(), 1):
        try:
            newest, package = download_source(directory / f"apt{number}", mirror)
            break
        except subprocess.SubprocessError:
            if number == len(mirrors):
                raise
    fetch.call(["dpkg-deb", "-x", package, directory])
    fetch.call(["tar", "-C", directory, "-xf", directory / f"usr/src/{newest}.tar.xz"])
    return directory / newest


def download_source(apt, mirror):
    """The package's name and file."""
    options = fetch.configure(apt, mirror)
    fetch.call(["apt-get", *options, "-qq", "--error-on=any", "update"])
    names = fetch.call(["apt-cache", *options, "search", "--names-only", r"^linux-source-[0-9]+\.[0-9]+$"]).split("\n")
    newest = max((line.split()[0] for line in names if line.startswith("linux-source-")),
                 key=lambda name: [int(number) for number in name.rsplit("-", 1)[1].split(".")])
    fetch.call(["apt-get", *options, "-qq", "-y", "--download-only", "-t", fetch.BACKPORTS, "install", newest])
    return newest, next((apt / "archives").glob(f"{newest}_*.deb"))


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
    """At the lowest priority: whoever is in a hurry goes first."""
    subprocess.run(["nice", "-n", "19", "make", "-s", "-C", source, *targets], check=True, stdin=subprocess.DEVNULL,
                   stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=BUILD_SECONDS)


def module_version(module):
    """The release of the kernel that MODULE, its content, belongs to."""
    return module.split(b"\0vermagic=", 1)[1].split(b" ", 1)[0].decode()


def main(words):
    if words == ["ready"]:
        return 0 if ready() else 1
    try:
        print(find())
    except fetch.Unavailable as reason:
        print(reason, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

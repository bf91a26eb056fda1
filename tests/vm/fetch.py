"""QEMU, a Linux kernel and guest programs from Debian packages, unpacked into a cache directory.

Nothing is installed and apt's own state is not touched, so any user may do this. All come from one release, with its
own C library, so it does not matter which Debian runs here. Packages are chosen by name, never by version: a
finished directory is used as it is, without network, until PACKAGES changes or somebody deletes it.
What the guests are made of is initramfs.py's and guest.py's business.
"""

import contextlib
import fcntl
import hashlib
import os
import pathlib
import platform
import re
import shutil
import subprocess
import tempfile

RELEASE = "trixie"
BACKPORTS = f"{RELEASE}-backports"
# vfio-user-pci needs QEMU >= 11.1, which backports have.
# The cloud kernel is small and starts fast; the full one has the drivers of real machines.
PACKAGES = ["qemu-system-x86", "linux-image-cloud-amd64", "linux-image-amd64", "zstd", "patchelf",
            # guest programs
            "busybox-static", "e2fsprogs", "nvme-cli", "fio", "pciutils", "iproute2", "mdadm", "dmsetup", "lvm2"]
FALLBACK_MIRROR = "http://deb.debian.org/debian"
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
DEADLINE_SECONDS = 900
in_use = []  # descriptors whose locks tell other checkouts that this process uses a directory of the cache


class Unavailable(Exception):
    """The packages cannot be had here; the text says why in one sentence."""


def cache_directory():
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return pathlib.Path(base) / "smartio"


def fetch():
    """The directory with the unpacked packages. Blocks for as long as the download takes; raises Unavailable."""
    if platform.machine() != "x86_64":
        raise Unavailable(f"The guests' packages are for amd64, this machine is {platform.machine()}.")
    key = hashlib.sha256(" ".join([RELEASE, *PACKAGES]).encode()).hexdigest()[:12]
    cache = cache_directory()
    done = cache / f"vm-{key}"
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with open(cache / "vm.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not done.is_dir():
                remove_others(cache)
                fetch_into(done)
            in_use.append(os.open(done, os.O_RDONLY))
            fcntl.flock(in_use[-1], fcntl.LOCK_SH)
    except OSError as error:
        raise Unavailable(f"Cannot use the cache directory {cache}: {error}.") from error
    return done


def remove_others(cache):
    """Directories of an interrupted fetch, or of another package list; but none that somebody's tests use."""
    for path in cache.glob("vm-*"):
        directory = os.open(path, os.O_RDONLY)
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path)
        os.close(directory)


def fetch_into(done):
    """Unpacks beside DONE and renames, so that DONE is either whole or not there."""
    problem = "there is no apt-get"
    for mirror in mirrors():
        partial = pathlib.Path(tempfile.mkdtemp(prefix=f"{done.name}.partial.", dir=done.parent))
        try:
            download(partial / "apt", mirror)
            for package in sorted((partial / "apt").glob("archives/*.deb")):
                call(["dpkg-deb", "-x", package, partial])
            shutil.rmtree(partial / "apt")
            partial.chmod(0o755)
            partial.rename(done)
            return
        except (subprocess.SubprocessError, FileNotFoundError) as error:
            lines = (getattr(error, "output", None) or str(error)).strip().splitlines() or ["no message"]
            problem = next((line for line in lines if line.startswith("E: ")), lines[-1])
        finally:
            if partial.exists():
                shutil.rmtree(partial)
    raise Unavailable(f"QEMU and the kernel could not be fetched from Debian: {problem}")


def download(apt, mirror):
    """Leaves PACKAGES and all they depend on in APT/archives."""
    options = configure(apt, mirror)
    call(["apt-get", *options, "-qq", "--error-on=any", "update"])
    call(["apt-get", *options, "-qq", "-y", "--download-only", "-t", BACKPORTS, "install", *PACKAGES])


def configure(apt, mirror):
    """Options for apt's programs: lists, archives and configuration of their own in the directory APT."""
    for directory in ("lists/partial", "archives/partial"):
        (apt / directory).mkdir(parents=True)
    (apt / "status").touch()
    (apt / "sources.list").write_text(
        "".join(f"deb [signed-by={KEYRING} arch=amd64] {mirror} {suite} main\n" for suite in (RELEASE, BACKPORTS)))
    settings = {
        "Dir::Etc::sourcelist": apt / "sources.list", "Dir::Etc::sourceparts": "/dev/null",
        "Dir::Etc::preferences": "/dev/null", "Dir::Etc::preferencesparts": "/dev/null",
        "Dir::State::lists": apt / "lists", "Dir::State::status": apt / "status",
        "Dir::Cache": apt, "Dir::Cache::archives": apt / "archives",
        "APT::Architecture": "amd64", "APT::Architectures": "amd64", "APT::Install-Recommends": "0",
        "APT::Sandbox::User": "", "Acquire::Languages": "none", "Acquire::Retries": "2", "Debug::NoLocking": "1",
    }
    return [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]


def call(command):
    """The command's output; raises subprocess.SubprocessError with it."""
    return subprocess.run(command, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, timeout=DEADLINE_SECONDS,
                          env={**os.environ, "LC_ALL": "C.UTF-8"}).stdout


def mirrors():
    """Where to download from, best first."""
    return list(dict.fromkeys([*system_mirrors(), FALLBACK_MIRROR]))


def system_mirrors():
    """Debian mirrors this machine already uses, from both forms of apt's sources."""
    files = [pathlib.Path("/etc/apt/sources.list"), *sorted(pathlib.Path("/etc/apt/sources.list.d").glob("*"))]
    mirrors = []
    for file in files:
        with contextlib.suppress(OSError, UnicodeDecodeError):
            if file.suffix in (".list", ".sources"):
                lines = [line for line in file.read_text().splitlines() if not line.lstrip().startswith("#")]
                mirrors += re.findall(r"\bhttps?://\S+/debian/?(?=\s|$)", "\n".join(lines))
    return [mirror.rstrip("/") for mirror in mirrors]


if __name__ == "__main__":
    print(fetch())

"""Our own programs in a guest, built on this machine: in /opt/smartio, with this machine's C library.

The programs of the packages have another one, so ours name their loader and libraries in themselves (patchelf).
"""

import pathlib
import re
import subprocess
import tempfile

import fetch
import initramfs

PROGRAMS = ["src/daemon/smartiod", "tools/smartio_tool/smartio_tool", "tools/smartio_nvme/smartio_nvme",
            "tools/smartio_sim/smartio_sim", "tests/vm/exercise/exercise", "tests/vm/exercise/peer",
            "tests/vm/exercise/primary", "tests/vm/exercise/trespass", "tests/vm/exercise/vfio_probe",
            "tests/vm/exercise/ntb_probe"]
HOME = "opt/smartio"
SANITIZER = re.compile(r"lib[altu]+san\.")


def add(archive, tree, build):
    """Those of PROGRAMS that BUILD has. Raises fetch.Unavailable where they cannot run in a guest."""
    libraries, loaders = set(), set()
    with tempfile.TemporaryDirectory() as scratch:
        for program in (build / name for name in PROGRAMS if (build / name).exists()):
            listing = subprocess.check_output(["ldd", program], text=True)
            if SANITIZER.search(listing):
                raise fetch.Unavailable("Programs with a sanitizer do not run in guests.")
            libraries.update(re.findall(r"=> (/\S+)", listing))
            loaders.update(re.findall(r"^\s*(/\S+)", listing, re.MULTILINE))
            archive.file(f"{HOME}/bin/{program.name}", portable(program, tree, pathlib.Path(scratch)), 0o755)
    for library in sorted(libraries):
        archive.file(f"{HOME}/lib/{pathlib.Path(library).name}", pathlib.Path(library).read_bytes(), 0o755)
    for loader in loaders:
        archive.file(f"{HOME}/lib/loader", pathlib.Path(loader).read_bytes(), 0o755)


def portable(program, tree, scratch):
    """The program without debug information, with the loader and the libraries of HOME."""
    stripped, result = scratch / "stripped", scratch / "result"
    subprocess.run(["strip", "-g", "-o", stripped, program], check=True)
    subprocess.run([*initramfs.host_command(tree, "patchelf"), "--set-interpreter", f"/{HOME}/lib/loader",
                    "--force-rpath", "--set-rpath", f"/{HOME}/lib", "--output", result, stripped], check=True)
    return result.read_bytes()

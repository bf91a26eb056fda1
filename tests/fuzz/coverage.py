"""coverage.py BUILD: what each fuzzer's runs since the build reached, as a table

BUILD was configured with -fprofile-instr-generate -fcoverage-mapping; run_fuzzer left BUILD/tests/fuzz/NAME.profraw.
Lines are those of the files that a fuzzer is for.
"""

import argparse
import json
import pathlib
import subprocess

ROOT = pathlib.Path(__file__).resolve().parents[2]
FILES = {  # fuzzer → what it is for: files, or folders without those that another fuzzer is for
    "capabilities": ["vfio/capabilities.cpp", "vfio/config_rules.cpp", "vfio/vpd.cpp"],
    "core_intent": ["src/core/intent.cpp"],
    "core_node": ["src/core/node*.cpp", "src/core/documents.cpp", "src/core/message.cpp"],
    "daemon_options": ["src/daemon/options.cpp"],
    "host_journal": ["vfio/host/journal.cpp"],
    "host_text": ["vfio/host/filter.cpp", "vfio/host/uevents.cpp"],
    "host_tree": ["vfio/host/binding.cpp", "vfio/host/children.cpp", "vfio/host/drivers.cpp", "vfio/host/holders.cpp",
                  "vfio/host/in_use*.cpp", "vfio/host/lendable.cpp", "vfio/host/mounts.cpp", "vfio/host/pci.cpp",
                  "vfio/host/sysfs.cpp"],
    "ntb_bridge": ["tools/smartio_sim/ntb/*.cpp", "tools/smartio_sim/pci/*.cpp"],
    "ntb_peer": ["fabric/ntb/*.cpp"],
    "nvme_controller": ["tools/smartio_sim/nvme/*.cpp"],
    "pci_ids": ["vfio/host/names.cpp"],
    "remote_client": ["src/lending/remote_client.cpp", "src/core/device_message.cpp"],
    "remote_device": ["src/borrowing/remote_device.cpp", "fabric/exposures.cpp"],
    "vfio_user_client": ["vfio/user/client.cpp", "vfio/user/requests.cpp", "vfio/user/decode_answer.cpp"],
    "vfio_user_codec": ["vfio/user/decode_*.cpp", "vfio/user/encode_*.cpp", "vfio/user/version.cpp"],
    "vfio_user_loan": ["src/lending/client_device.cpp", "src/borrowing/vm_device.cpp", "src/borrowing/borrowed_device.cpp"],
    "vfio_user_server": ["vfio/user/connection.cpp", "vfio/user/calls.cpp", "vfio/user/stream*.cpp", "vfio/user/view.cpp"],
}


def measure(build, name):
    """Lines, and lines reached, of each file of the build that NAME is for."""
    raw = build / f"{name}.profraw"
    profile = raw.with_suffix(".profdata")
    subprocess.run(["llvm-profdata-19", "merge", "-sparse", raw, "-o", profile], check=True)
    command = ["llvm-cov-19", "export", "-summary-only", f"-instr-profile={profile}", build / f"fuzz_{name}"]
    found = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)["data"][0]["files"]
    lines = {pathlib.Path(f["filename"]).resolve(): f["summary"]["lines"] for f in found}
    wanted = sorted(path for pattern in FILES[name] for path in ROOT.glob(pattern))
    return {path.relative_to(ROOT): (lines[path]["count"], lines[path]["covered"]) for path in wanted if path in lines}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("build", type=pathlib.Path)
    build = parser.parse_args().build / "tests/fuzz"
    print("| fuzzer | for | lines | reached |\n|---|---|---|---|")
    for name, patterns in FILES.items():
        if not (build / f"{name}.profraw").exists():
            continue
        lines = measure(build, name).values()
        total, reached = (sum(column) for column in zip(*lines))
        print(f"| {name} | {', '.join(f'`{p}`' for p in patterns)} | {total} | {100 * reached // total} % |")


if __name__ == "__main__":
    main()

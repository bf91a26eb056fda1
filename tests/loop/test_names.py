# The database of device names (pci.ids), in whatever state a host has it: devices are lent with numbers for names.
import pathlib
import subprocess

import pytest

DATABASE = pathlib.Path("/usr/share/misc/pci.ids")


def with_database(file):
    """What goes before a command so that it finds this one."""
    return ["unshare", "--mount", "sh", "-c", f'mount --bind {file} {DATABASE} && exec "$@"', "sh"]


@pytest.fixture
def node_reading(world):
    """A node that finds this text in the place of the database."""
    def start(text):
        file = world.place / "pci.ids"
        file.write_bytes(text)
        can = DATABASE.exists() and subprocess.run([*with_database(file), "true"], capture_output=True).returncode == 0
        if not can:
            pytest.skip("nothing can be mounted here, or libpci's database is elsewhere")
        node = world.node(8, start=False)
        node.wrapper = with_database(file)
        return node.start()
    return start


@pytest.mark.parametrize("text", [
    b"<html>\n<body>404 Not Found</body>\n", b"8086  Intel Corporation\n\tf1a", b"x" * 100000, b"\xff\n", bytes(4096)],
    ids=["html", "cut off", "long line", "no text", "zeros"])
def test_a_database_that_cannot_be_read_costs_the_names_only(world, node_reading, text):
    disk, node = world.disk(), node_reading(text)
    node.ok("add", disk.device)
    node.ok("available", disk.device)
    shown = node.devices()["80000"]
    assert shown["name"].startswith("Class 0108: Device ") and shown["state"] == "available", shown
    assert shown["name"] in node.ok("list")
    told = [line for line in node.text().splitlines() if "devices have numbers in place of names: " in line]
    assert len(told) == 1 and str(DATABASE) in told[0] and ("line 1" in told[0] or "line 2" in told[0]), node.text()


def test_a_database_that_can_be_read_gives_the_names(world, node_reading):
    disk = world.disk()
    node = node_reading(b"1b36  Red Hat, Inc.\nC 01  Storage\n\t08  Disks\n")
    node.ok("add", disk.device)
    assert node.devices()["80000"]["name"].startswith("Disks: ")
    assert str(DATABASE) not in node.text()

"""The files of smartiod: its configuration, what is kept across restarts, and where they are."""
import json
import os
import shutil
import stat

import pytest

from control import Control
from harness import SMARTIOD, TOOL, free_port, refused_start, run, wait_for


NO_OBJECT = "a JSON object was expected; "


def refuses(world, said):
    """smartiod does not start with this configuration, and names the file and what is wrong."""
    config = world.place / "config"
    refused = refused_start("--node", 9, "--run-dir", world.place / "r", "--listen", "127.0.0.1:0", "--config", config)
    assert refused.returncode == 2 and f"{config}: {said}" in refused.stderr, refused


@pytest.mark.parametrize("text", [
    "", "{", "[]", "5", "\xff", '{"nonsense": 1}', '{"node": "eight"}', '{"node": 0}', '{"node": 70000}',
    '{"listen": 5}', '{"nodes": []}', '{"nodes": {"0": "h:1"}}', '{"nodes": {"4": 5}}', '{"nodes": {"x": "h:1"}}',
    '{"peer_timeout": "x"}', '{"peer_timeout": -1}', '{"node": 9, "node": 9}', '{"peer_timeout": 1e999}', '{"nodes": {"4": "h:1", "04": "h:2"}}', "[" * 100000])
def test_smartiod_does_not_start_on_a_wrong_configuration(world, text):
    (world.place / "config").write_bytes(text.encode("latin-1"))
    refuses(world, "")


@pytest.mark.parametrize("text, said", [
    ('{"node": 9,\n "listen": "h:1",}', f"{NO_OBJECT}line 2, column 18: "), ('{"node": 9 // nine\n}', f"{NO_OBJECT}line 1, column 12: "),
    ('{"node": 9'.encode("utf-16"), f"{NO_OBJECT}line 1, column 1: "), ('{"no-such": 1}', "'no-such': "), ('{"run_dir": 5}', "'run_dir': "),
    ('{"peer-timeout": 10}', "'peer-timeout': '10' is not a peer-timeout"), ('{"nodes": {"4": "h"}}', "'nodes': 'h'"),
    ('{"trusted-group": "no-such"}', "'trusted-group': there is no group 'no-such'"), ('{"ntb": "x"}', "'ntb': 'x'"),
    ('{"run-dir": "/a", "run_dir": "/b"}', "'run-dir' stands there twice"), ('{"nodes": {"0": "h:1"}}', "'nodes': '0'"),
    ('{"listen": "nonsense"}', "'listen': 'nonsense' is not an address to listen on"), ('{"listen": "h:1"}', "'listen': 'h:1'"),
    ('{"listen": "127.0.0.1:65536"}', "'listen': '127.0.0.1:65536'")])
def test_what_is_wrong_in_a_configuration_is_said_with_its_file_and_place(world, text, said):
    (world.place / "config").write_bytes(text if isinstance(text, bytes) else text.encode())
    refuses(world, said)


def test_options_may_be_written_either_way(world):
    config = {"node": 9, "peer_timeout": 5000, "trusted-group": "root", "listen": f"127.0.0.1:{free_port()}"}
    (world.place / "config").write_text(json.dumps(config))
    node = world.node(9, start=False)
    node.launch(SMARTIOD, "--config", world.place / "config", "--run_dir", node.run_dir, f"--state_dir={node.state_dir}")
    wait_for(node.ready, "it answers")
    assert node.document("result", "config")["options"]["peer-timeout"] == "5000"
    ran = run(TOOL, f"--run_dir={node.run_dir}", "config", "peer_timeout", 4000)
    assert ran.returncode == 0, ran
    assert node.document("result", "config")["options"]["peer-timeout"] == "4000"


def test_a_state_file_that_is_damaged_is_not_overwritten(world):
    node = world.node(8)
    node.end()
    for name, said in (("state.json", "it is damaged: "), ("journal.json", "is damaged")):
        path = node.state_dir / name
        path.write_bytes(b"{damaged")
        refused = refused_start(*node.command()[1:])
        assert str(path) in refused.stderr and said in refused.stderr and path.read_bytes() == b"{damaged"
        path.unlink()


def ended(world):
    """Node 8, which has saved something and has ended; its state file."""
    node = world.node(8)
    node.ok("config", "peer-timeout", 3000)
    node.end()
    return node, node.state_dir / "state.json"


def refused_with(world, **changes):
    """What node 8 says when it does not start, as its state file holds this; the file, which stays as it is."""
    node, path = ended(world)
    text = json.dumps(json.loads(path.read_text().splitlines()[0]) | changes)
    path.write_text(text)
    refused = refused_start(*node.command()[1:])
    assert refused.returncode == 2 and path.read_text() == text, refused
    return refused.stderr, path


@pytest.mark.parametrize("part, value", [
    ("devices", [{"index": 0, "address": address, "available": available}])
    for address in ("", "x", "vfio-user", "0000:06:00") for available in (False, True)]
    + [("options", {"ntb": "x"}), ("options", {"ntb": "vfio-user:/b,x"}), ("options", {"peer-timeout": "0"})])
def test_a_state_file_with_an_odd_address_or_option_is_named_as_damaged(world, part, value):
    told, path = refused_with(world, **{part: value})
    assert f"{path}: it is damaged: '{part}': " in told


@pytest.mark.parametrize("bridge", ["x", "vfio-user", "vfio-user:", "vfio-user:relative"])
def test_smartiod_does_not_start_with_a_bridge_that_is_no_address(world, bridge):
    (world.place / "config").write_text(json.dumps({"ntb": bridge}))
    refuses(world, "'ntb': ")


def disk(index, address):
    return {"index": index, "address": address, "available": False}


@pytest.mark.parametrize("part, value, said", [
    ("devices", [disk(0, "0000:06:00.0"), disk(0, "0000:07:00.0")], "entry 2: index 0 is given twice"),
    ("devices", [disk(0, "0000:0a:00.0"), disk(1, "0000:0A:00.0")], "0000:0a:00.0 is given twice"),
    ("connections", [{"node": 4, "address": "h"}], "entry 1: 'h' is not an address"),
    ("filters", [{"ids": "zz", "slot": "", "available": False}], "Filter -d zz"), ("removed", ["06:00.0"], "entry 1: "),
    ("options", {"iommu": "nonsense"}, "'nonsense' is not an iommu interface")])
def test_a_state_file_holds_what_commands_would_accept(world, part, value, said):
    told, path = refused_with(world, **{part: value})
    assert f"{path}: it is damaged: '{part}': " in told and said in told


@pytest.mark.parametrize("member, value, said", [
    ("node", 4, "it belongs to node 4: give node 8 a state directory of its own"),
    ("schema_version", 2, "it is of version 2, which is not known")])
def test_a_state_file_that_is_not_this_nodes_is_not_called_damaged(world, member, value, said):
    told, path = refused_with(world, **{member: value})
    assert f"{path}: {said}" in told and "damaged" not in told


def test_a_state_file_that_is_a_symbolic_link_stays_one(world):
    (node, path), elsewhere = ended(world), world.place / "elsewhere.json"
    path.rename(elsewhere)
    path.symlink_to(os.path.relpath(elsewhere, node.state_dir))
    for _ in range(2):  # the whole at the first change after a start, then behind it
        node.start()
        for timeout in (5000, 6000):
            node.ok("config", "peer-timeout", timeout)
        node.end()
        assert path.is_symlink() and stat.S_ISREG(elsewhere.lstat().st_mode)
        assert json.loads(elsewhere.read_text().splitlines()[-1])["options"]["peer-timeout"] == "6000"


def test_what_cannot_be_saved_is_said_and_saved_as_soon_as_it_can_be(world):
    node = world.node(8)
    assert node.status()["unsaved"] is None
    elsewhere = world.place / "elsewhere"
    node.state_dir.rename(elsewhere)  # nothing can be written there any more
    for words in (["config", "peer-timeout", 5000], ["connect", 9, "--wait", "--address", "127.0.0.1:1"],
                  ["add-filter", "-d", "ffff:"]):
        changed = node.tool(*words)
        assert changed.exit == 0 and "not all changes could be saved" in changed.err, changed
        assert "No such file or directory" in node.status()["unsaved"]
    assert "could be saved" not in node.tool("list").err + node.tool("config").err
    assert "unsaved" in node.tool("status").out
    assert node.text().count("could not be saved") == 1
    elsewhere.rename(node.state_dir)
    wait_for(lambda: node.status()["unsaved"] is None, "it is saved")
    node.kill()
    node.start()
    status = node.status()
    assert status["filters"][0]["ids"] == "ffff:" and 9 in [peer["node"] for peer in status["peers"]]
    assert "could be saved" not in node.tool("config", "peer-timeout", 3000).err


def test_a_control_socket_that_somebody_removes_comes_back(world):
    node = world.node(8)
    is_back = f"{node.socket} was removed by somebody, and is there again"

    def came_back(times):
        wait_for(lambda: node.text().count(is_back) == times, "it is back")
        assert node.ready() and node.socket.stat().st_mode & 0o777 == 0o600

    with Control(node) as before:
        node.socket.unlink()
        came_back(1)
        node.socket.rename(world.place / "elsewhere")
        came_back(2)
        assert before.call("list", {})["devices"] == []  # connections stay
    moved = world.place / "moved"
    node.run_dir.rename(moved)
    wait_for(lambda: f"{node.socket} was removed: " in node.text(), "it says so")
    moved.rename(node.run_dir)
    came_back(3)
    shutil.rmtree(node.run_dir.rename(moved))
    wait_for(lambda: node.text().count(f"{node.socket} was removed: ") == 2, "it says so again")
    node.run_dir.mkdir()
    came_back(4)
    node.socket.unlink()  # that directory is watched now
    came_back(5)


def test_a_second_smartiod_is_refused_although_the_socket_of_the_first_was_removed(world):
    node = world.node(8)
    node.socket.unlink()
    assert "in use by another smartiod" in refused_start("--node", 9, "--run-dir", node.run_dir).stderr


def test_directories_may_be_relative_to_where_smartiod_starts(world):
    node = world.node(8, start=False)
    where = {"cwd": world.place}
    node.run_dir.mkdir()
    node.launch(SMARTIOD, "--node", 8, "--listen", node.address, "--run-dir", node.run_dir.name, "--state-dir",
                f"./{node.state_dir.name}", **where)
    wait_for(node.ready, "it answers")
    node.ok("add", world.disk().device)
    node.ok("available", "80000")
    node.ok("connect", 8, "--address", node.address)
    socket = node.ok("borrow", "80000").splitlines()[1]
    assert socket == str(node.run_dir / "loans/80000/cntrl")
    node.end()
    assert list(node.run_dir.iterdir()) == []
    assert [path.name for path in node.state_dir.iterdir()] == ["state.json"]

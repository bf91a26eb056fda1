"""What takes long: devices of a guest, and a bridge's link, that go and come back again and again."""

from test_bridge import BORROWER, await_client, ended_with_one_sentence, hosts, works_again as works_again_across
from test_vanish import STEPS, check_step, machine as fickle  # noqa: F401
from test_unplug import end_trespassers, machine, nobody_holds_what_was_pulled_out, start, works_again  # noqa: F401

UNPLUGS, TAKE_BACKS, CUTS = 100, 200, 50
VANISHES = 20  # of each of the three kinds of functions, in each of the five steps


def descriptors(guest, *nodes):
    return [int(guest.check(f"ls /proc/$(cat /run/node{node}.pid)/fd | wc -l")) for node in nodes]


def test_a_borrowed_disk_is_pulled_out_and_put_back_again_and_again(machine):
    guest, nodes, _, device, hardware = machine
    for number in range(UNPLUGS):
        start(guest, f"trespass /run/node4 {device} keep")
        guest.qmp("device_del", id="disk")
        nobody_holds_what_was_pulled_out(machine)
        guest.qmp("device_add", **hardware)
        works_again(machine)
        end_trespassers(guest)
        if number == UNPLUGS // 10:
            before = descriptors(guest, 8, 4)
    assert descriptors(guest, 8, 4) <= before


def test_a_disk_is_taken_back_under_load_again_and_again(machine):
    guest, nodes, function, device, _ = machine
    for number in range(TAKE_BACKS):
        load = guest.start(f"smartio_nvme --run-dir /run/node4 {device} bench --bs 4096 --seconds 60")
        guest.check(f"until smartio_tool --run-dir /run/node4 --json show {device} | grep -q '\"access\":\"mapped\"'; "
                    "do usleep 20000; done", 20)
        nodes.check(8, f"unavailable {device}")
        assert function.driver() == "nvme" and guest.check(f"cat {load.path}") == "4\n"
        nodes.check(8, f"available --yes {device}")
        if number == TAKE_BACKS // 10:
            before = descriptors(guest, 8, 4)
    assert nodes.exercise(4, device, "nvme")["device_writes_memory"]
    assert descriptors(guest, 8, 4) <= before


def test_the_link_of_a_bridge_is_cut_under_load_again_and_again(bed, programs, tmp_path):
    with hosts(bed, programs, tmp_path) as (bridge, lender, borrower):
        device = lender.nodes.lend("01:00.0")
        for _ in range(CUTS):
            borrower.check(f"borrow {device}")
            load = borrower.guest.start(f"smartio_nvme --run-dir /run/node{BORROWER} {device} bench --seconds 60")
            await_client(borrower)
            bridge.inject("link down-losing-registers")
            ended_with_one_sentence(borrower, load)
            for host in (lender, borrower):
                host.await_bridge("down")
            bridge.inject("link up")
            works_again_across(lender, borrower, device)
    programs.end()


def test_functions_go_at_any_moment_again_and_again(fickle):
    for kind, function in fickle.items():
        for step in STEPS:
            check_step(function, step, VANISHES, seed=f"{kind} {step}")

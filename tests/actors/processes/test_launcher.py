"""The launcher in real processes, with real signals: it starts what it should, and nothing outlives it."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.actors.processes.launched import Launched, until
from tests.ports import free_port
from verani.link.epoch import Death
from verani_actors.processes.running_hook import RunningHook

Launch = Callable[..., Launched]


@pytest.fixture
def launch() -> Iterator[Launch]:
    started: list[Launched] = []

    def start(**options: object) -> Launched:
        started.append(Launched(**options))  # type: ignore[arg-type]  # as it takes them
        return started[-1]

    yield start
    for each in started:
        each.end()


def test_a_launcher_starts_its_hosts_and_publishes_them(launch: Launch) -> None:
    launched = launch(hosts=2)
    epoch = launched.epoch(2)
    assert [member.id for member in epoch.members] == ["m1-0", "m1-1"]
    assert {member.pid for member in epoch.members} < set(launched.pids())


@pytest.mark.threat(61)
def test_sigterm_of_the_launcher_ends_everything_with_exit_code_0(launch: Launch) -> None:
    launched = launch(hosts=2)
    launched.epoch(2)
    launched.process.terminate()
    assert launched.process.wait() == 0
    assert launched.pids() == []
    assert "ERROR" not in launched.log


def test_the_end_of_its_standard_input_ends_the_launcher(launch: Launch) -> None:
    launched = launch()
    launched.epoch(1)
    assert launched.process.stdin is not None
    launched.process.stdin.close()
    assert launched.process.wait() == 0
    assert launched.pids() == []


@pytest.mark.threat(61)
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_dead_admin_ends_the_launcher_with_an_error_and_no_orphan(launch: Launch, how: int) -> None:
    launched = launch()
    os.kill(launched.parts()["admin"], how)
    assert launched.process.wait() == 1
    until(lambda: not launched.pids(), 10)
    assert "has lost its Admin" in launched.log


@pytest.mark.threat(61)
def test_a_killed_launcher_leaves_no_orphan_and_its_successor_starts_on_the_same_port(launch: Launch) -> None:
    port = free_port()
    launched = launch(admin_port=port)
    launched.epoch(1)
    launched.process.kill()
    successor = launch(admin_port=port, runtime=launched.runtime)
    launched.process.wait()
    assert successor.epoch(1, after=1).members[0].pid in successor.pids()


@pytest.mark.threat(61)
def test_a_killed_launcher_leaves_no_orphan(launch: Launch) -> None:
    launched = launch()
    launched.epoch(1)
    launched.process.kill()
    launched.process.wait()
    until(lambda: not launched.pids(), 10)


@pytest.mark.threat(61)
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("part", ["host", "registrar", "logger"])
def test_a_part_that_dies_is_replaced(launch: Launch, part: str, how: int) -> None:
    launched = launch()
    parts = launched.parts()
    before = launched.runtime.read_epoch()
    os.kill(parts[part], how)
    until(lambda: parts[part] not in launched.pids())
    until(lambda: len(launched.pids()) == 5)
    if part == "host":
        assert launched.epoch(1, after=before.number + 1).members != before.members
    # A host that dies now shows that all parts work together.
    host = launched.epoch(1).members[0]
    os.kill(host.pid, signal.SIGKILL)
    until(lambda: any(member.pid != host.pid for member in launched.runtime.read_epoch().members))
    launched.process.terminate()
    assert launched.process.wait() == 0
    assert launched.pids() == []


@pytest.mark.threat(61)
@pytest.mark.parametrize("part", ["host", "registrar"])
def test_a_part_that_hangs_is_killed_and_replaced(launch: Launch, part: str) -> None:
    launched = launch(hosts=1, lease=1.0)
    parts = launched.parts()
    before = launched.runtime.read_epoch()
    os.kill(parts[part], signal.SIGSTOP)
    until(lambda: parts[part] not in launched.pids())
    # It is whole again, and a new registrar or host works with all others.
    epoch = launched.epoch(1, after=before.number)
    assert (epoch.members == before.members) == (part == "registrar")
    assert f"{'the registrar' if part == 'registrar' else 'host m1-0'}, process {parts[part]}, hangs" in launched.log
    assert launched.process.poll() is None


@pytest.mark.threat(61)
def test_an_admin_that_hangs_ends_the_launcher_and_leaves_nothing(launch: Launch) -> None:
    launched = launch(lease=1.0)
    os.kill(launched.parts()["admin"], signal.SIGSTOP)
    assert launched.process.wait() == 1
    until(lambda: not launched.pids())
    assert "the Admin of the actor system" in launched.log


def test_a_host_that_was_drained_has_its_time_to_stop_although_it_says_nothing(launch: Launch) -> None:
    launched = launch(hosts=2, lease=1.0, drain_seconds=6, environment={"STAND_IN_STOPS_IN": "60"})
    drained = next(member for member in launched.epoch(2).members if member.id == "m1-1")
    (launched.folder / "m1-1.drain").touch()
    until((launched.folder / "m1-1.stopping").exists)
    os.kill(drained.pid, signal.SIGSTOP)
    until(lambda: drained.pid not in launched.pids())
    assert "hangs" not in launched.log


def test_a_launcher_that_stood_still_blames_nobody(launch: Launch) -> None:
    launched = launch(lease=1.0)
    parts, before = launched.parts(), launched.runtime.read_epoch()

    def beats() -> int:
        return len((launched.folder / "m1-0.beats").read_text().splitlines())

    # Nobody is asked meanwhile, and what they answered is not read.
    for number, leases in ((signal.SIGSTOP, 4), (signal.SIGCONT, 3)):
        os.kill(launched.process.pid, number)
        enough = beats() + 6 * leases
        until(lambda enough=enough: beats() > enough)  # type: ignore[misc]
    assert set(parts.values()) <= set(launched.pids())
    assert launched.runtime.read_epoch() == before
    assert "hangs" not in launched.log


@pytest.mark.threat(62)
def test_a_foreign_process_on_the_admin_port_is_named_at_once(launch: Launch) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        port = server.getsockname()[1]
        launched = launch(admin_port=port)
        assert launched.process.wait() == 1
    (line,) = launched.log.splitlines()
    assert f"port {port} of the actor system (admin_port) is in use by process {os.getpid()} (" in line
    assert launched.pids() == []


def test_a_launcher_without_a_secret_says_so(launch: Launch) -> None:
    launched = launch(secret=None)
    assert launched.process.wait() == 1
    assert "expected a cluster secret in VERANI_CLUSTER_SECRET" in launched.log


def test_an_address_that_is_not_of_this_machine_is_refused(launch: Launch) -> None:
    launched = launch(address="192.0.2.1")
    assert launched.process.wait() == 1
    assert "cannot listen on 192.0.2.1" in launched.log


def test_the_secret_is_in_the_environment_of_no_code_of_the_user(launch: Launch) -> None:
    launched = launch()
    host = launched.epoch(1).members[0]
    assert (launched.folder / f"{host.id}.environment").read_text().count("VERANI_CLUSTER_SECRET") == 0


def test_a_host_that_its_hook_has_killed_is_published_with_its_death(launch: Launch) -> None:
    launched = launch()
    host = launched.epoch(1).members[0]
    running_hook = RunningHook(launched.runtime.running_hook(host.incarnation), host.incarnation)
    running_hook.enter("chat/lobby", "gateway", 7)
    os.kill(host.pid, signal.SIGSEGV)
    assert until(lambda: launched.runtime.read_epoch().deaths) == (Death(host.incarnation, "chat/lobby", "gateway", 7),)
    assert "in a hook of chat/lobby" in launched.log


def test_a_host_that_was_killed_from_outside_has_no_death(launch: Launch) -> None:
    launched = launch()
    host = launched.epoch(1).members[0]
    RunningHook(launched.runtime.running_hook(host.incarnation), host.incarnation).enter("chat/lobby", "gateway", 7)
    os.kill(host.pid, signal.SIGKILL)
    assert launched.epoch(1, after=2).deaths == ()


@pytest.mark.threat(72)
def test_where_and_how_thespian_would_log_does_not_matter(launch: Launch, tmp_path: Path) -> None:
    environment = {
        "THESPLOG_FILE": "/nowhere/at/all",
        "THESPLOG_THRESHOLD": "debug",
        "THESPLOG_FILE_MAXSIZE": "x",
        "TMPDIR": str(tmp_path),
    }
    launched = launch(environment=environment)
    os.kill(launched.parts()["host"], signal.SIGKILL)
    launched.epoch(1, after=2)
    launched.process.terminate()
    assert launched.process.wait() == 0
    assert list(tmp_path.iterdir()) == []
    assert "Actor System" not in launched.log
    assert all(line.startswith(("20", "    ")) for line in launched.log.splitlines())


class Notes:
    """What the stand-in of a host has written down."""

    def __init__(self, launched: Launched, id: str) -> None:
        self._launched = launched
        self._id = id

    def lines(self, kind: str) -> list[str]:
        return (self._launched.folder / f"{self._id}.{kind}").read_text().split()

    def wait_for_beats(self, count: int) -> None:
        before = len(self.lines("beats"))
        until(lambda: len(self.lines("beats")) >= before + count)


@pytest.mark.threat(72)
def test_no_host_hears_of_an_epoch_while_it_cannot_be_written_down(launch: Launch) -> None:
    launched = launch(hosts=2)
    before = launched.epoch(2)
    pids = launched.pids()
    (launched.folder / "full").touch()
    os.kill(before.members[0].pid, signal.SIGKILL)
    until(lambda: "cannot be written" in launched.log)
    until(lambda: len(launched.pids()) == len(pids))
    other = Notes(launched, "m1-1")
    other.wait_for_beats(2)  # what was on its way has come
    heard = other.lines("epoch"), other.lines("beaten")
    other.wait_for_beats(4)
    assert (other.lines("epoch"), other.lines("beaten")) == heard
    assert launched.runtime.read_epoch() == before
    assert launched.log.count("cannot be written") == 1
    (launched.folder / "full").unlink()
    after = launched.epoch(2, after=before.number)
    assert after.members[0].pid != before.members[0].pid
    until(lambda: other.lines("epoch")[-1] == str(launched.runtime.read_epoch().number))
    assert set(pids) - set(launched.pids()) == {before.members[0].pid}
    assert [path for path in launched.folder.iterdir() if path.name.startswith("tmp")] == []


@pytest.mark.threat(72)
def test_a_machine_that_cannot_write_the_epoch_down_goes_on_and_does_so_later(launch: Launch) -> None:
    port = free_port()
    leader = launch(machine="one", address="127.0.0.1", admin_port=port)
    member = launch(machine="two", hosts=0, address="127.0.0.2", leader=f"127.0.0.1:{port}")
    (member.folder / "full").touch()
    until(lambda: "cannot be written" in member.log)
    (member.folder / "full").unlink()
    assert member.epoch(1) == leader.epoch(1)


@pytest.mark.threat(73)
def test_a_control_message_of_a_newer_version_is_refused_and_ends_nobody(launch: Launch) -> None:
    launched = launch()
    before = launched.epoch(1)
    pids = launched.pids()
    (launched.folder / "newer").touch()
    until(lambda: launched.log.count("control message refused") == 3)  # by the launcher, the registrar and the host
    (launched.folder / "newer").unlink()
    os.kill(before.members[0].pid, signal.SIGKILL)
    launched.epoch(1, after=before.number + 1)
    assert set(pids) - set(launched.pids()) == {before.members[0].pid}
    assert "Traceback" not in launched.log


def test_a_second_machine_joins_and_its_hosts_are_members(launch: Launch) -> None:
    port = free_port()
    leader = launch(machine="one", address="127.0.0.1", admin_port=port)
    leader.epoch(1)
    member = launch(machine="two", address="127.0.0.2", leader=f"127.0.0.1:{port}")
    assert {each.machine for each in member.epoch(2).members} == {"one", "two"}
    leader.epoch(2)


@pytest.mark.threat(68)
def test_a_machine_that_leaves_is_drained_first_and_quickly(launch: Launch) -> None:
    port = free_port()
    leader = launch(machine="one", address="127.0.0.1", admin_port=port)
    leader.epoch(1)
    member = launch(machine="two", address="127.0.0.2", leader=f"127.0.0.1:{port}", drain_seconds=60)
    old = member.epoch(2)
    member.process.terminate()
    assert member.process.wait(20) == 0
    assert leader.epoch(1).number == old.number + 1
    assert "has died" not in member.log


@pytest.mark.threat(68)
def test_a_machine_that_leaves_asks_a_registrar_again_that_has_just_been_replaced(launch: Launch) -> None:
    port = free_port()
    leader = launch(machine="one", address="127.0.0.1", admin_port=port)
    registrar = leader.parts()["registrar"]
    member = launch(machine="two", address="127.0.0.2", leader=f"127.0.0.1:{port}", drain_seconds=60)
    member.epoch(2)
    leader.epoch(2)
    os.kill(registrar, signal.SIGKILL)
    member.process.terminate()
    assert member.process.wait(30) == 0
    assert {each.machine for each in leader.epoch(1).members} == {"one"}


@pytest.mark.threat(68)
def test_a_machine_whose_leader_is_gone_stops_without_it_and_its_hosts_have_their_time(launch: Launch) -> None:
    port = free_port()
    leader = launch(machine="one", address="127.0.0.1", admin_port=port)
    leader.epoch(1)
    member = launch(
        machine="two",
        address="127.0.0.2",
        leader=f"127.0.0.1:{port}",
        drain_seconds=60,
        environment={"STAND_IN_STOPS_IN": "4"},
    )
    member.epoch(2)
    leader.process.kill()
    leader.process.wait()
    member.process.terminate()
    assert member.process.wait(30) == 0
    assert (member.folder / "two-0.stopped").exists()


@pytest.mark.threat(68)
def test_hosts_have_their_time_although_the_drain_has_used_all_of_its(launch: Launch) -> None:
    port = free_port()
    leader = launch(machine="one", address="127.0.0.1", admin_port=port)
    leader.epoch(1)
    member = launch(
        machine="two",
        address="127.0.0.2",
        leader=f"127.0.0.1:{port}",
        drain_seconds=1,
        environment={"STAND_IN_STOPS_IN": "4"},
    )
    member.epoch(2)
    leader.process.kill()
    leader.process.wait()
    member.process.terminate()
    assert member.process.wait(30) == 0
    assert (member.folder / "two-0.stopped").exists()


@pytest.mark.parametrize("joins", [False, True])
def test_a_machine_whose_hosts_do_not_start_ends_with_an_error_and_no_traceback(launch: Launch, joins: bool) -> None:
    port = free_port()
    if joins:
        launch(machine="one", address="127.0.0.1", admin_port=port).epoch(1)
    options = {"address": "127.0.0.2", "leader": f"127.0.0.1:{port}"} if joins else {}
    launched = launch(machine="two", hosts=1, environment={"STAND_IN_RAISES": "1"}, **options)
    assert launched.process.wait() == 1
    assert launched.log.count("host two-0 cannot run: something is in use") == 3
    assert launched.log.count("the room hosts of this machine do not start: see above") == 1
    assert "Traceback" not in launched.log


def test_hosts_that_have_served_may_die_as_often_as_they_like(launch: Launch) -> None:
    launched = launch()
    number = 0
    for _ in range(5):
        epoch = launched.epoch(1, after=number)
        number = epoch.number + 1  # without it
        os.kill(epoch.members[0].pid, signal.SIGKILL)
    launched.epoch(1, after=number)


def test_a_second_machine_of_the_same_name_is_refused(launch: Launch) -> None:
    port = free_port()
    leader = launch(machine="one", address="127.0.0.1", admin_port=port)
    epoch = leader.epoch(1)
    second = launch(machine="one", address="127.0.0.2", leader=f"127.0.0.1:{port}")
    until(lambda: "is refused" in leader.log)
    assert leader.runtime.read_epoch() == epoch
    assert second.runtime.read_epoch().number == 0


def test_a_machine_with_another_secret_cannot_join_and_both_sides_say_so_once(launch: Launch) -> None:
    port = free_port()
    leader = launch(machine="one", address="127.0.0.1", admin_port=port)
    leader.epoch(1)
    member = launch(machine="two", address="127.0.0.2", leader=f"127.0.0.1:{port}", secret="another secret")
    until(lambda: f"the registrar at 127.0.0.1:{port} does not answer: is it there, and is the" in member.log, 10)
    time.sleep(3)  # what else would be said by now
    assert leader.log.count("refused: wrong cluster secret (last from 127.0.0.") == 1
    assert member.log.count("does not answer") == 1
    for log in (leader.log, member.log):
        assert "thespian" not in log
        assert "Traceback" not in log
    assert len(leader.epoch(1).members) == 1
    assert member.runtime.read_epoch().number == 0
    assert member.process.poll() is None


@pytest.mark.threat(68)
def test_a_machine_of_gateways_follows_a_leader_that_was_started_anew(launch: Launch) -> None:
    port = free_port()
    leader = launch(machine="one", address="127.0.0.1", admin_port=port)
    member = launch(machine="two", hosts=0, address="127.0.0.2", leader=f"127.0.0.1:{port}")
    os.kill(member.epoch(1).members[0].pid, signal.SIGKILL)
    assert member.epoch(1, after=2).number == 3
    leader.process.kill()
    leader.process.wait()
    anew = launch(machine="one", address="127.0.0.1", admin_port=port)
    until(lambda: member.epoch(1).members[0].pid in anew.pids())
    until(lambda: member.runtime.read_epoch() == anew.runtime.read_epoch())


def test_a_machine_finds_a_leader_that_was_killed_and_came_back(launch: Launch) -> None:
    port = free_port()
    leader = launch(machine="one", address="127.0.0.1", admin_port=port)
    leader.epoch(1)
    member = launch(machine="two", address="127.0.0.2", leader=f"127.0.0.1:{port}")
    old = member.epoch(2)
    leader.process.kill()
    leader.process.wait()
    successor = launch(machine="one", address="127.0.0.1", admin_port=port, runtime=leader.runtime)
    until(lambda: member.epoch(2, after=old.number).members[0].pid in successor.pids())
    assert {each.machine for each in member.epoch(2).members} == {"one", "two"}


@pytest.mark.threat(68)
def test_a_machine_finds_a_leader_that_came_back_with_another_address(launch: Launch, tmp_path: Path) -> None:
    port = free_port()
    names = tmp_path / "leader"
    names.write_text("127.0.0.1")
    leader = launch(machine="one", address="127.0.0.1", admin_port=port)
    leader.epoch(1)
    environment = {"STAND_IN_LEADER": str(names)}
    member = launch(machine="two", address="127.0.0.2", leader=f"leader.test:{port}", environment=environment)
    member.epoch(2)
    leader.process.kill()
    leader.process.wait()
    names.write_text("127.0.0.3")
    anew = launch(machine="one", address="127.0.0.3", admin_port=port)
    until(lambda: set(anew.pids()) & {each.pid for each in member.runtime.read_epoch().members})
    until(lambda: member.epoch(2) == anew.epoch(2))

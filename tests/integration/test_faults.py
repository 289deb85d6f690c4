"""Whatever dies, hangs or stands still, others are served, nothing is lost, and nothing is left behind.

Real processes and real signals; `fault_app` has the hooks that do what hooks should not. Which host dies while many
frames are under way is the business of `test_failover.py`.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import resource
import shutil
import signal
import socket
import sys
import uuid
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import AsyncExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from benchmarks.cluster import Cluster
from tests.integration.fault_app import CLOCK, MEMORY, RUNS, STARTUP
from tests.ports import free_port
from tests.shapes.guest import Guest
from verani import CallFailed, Interrupted
from verani.client.reconnection import Reconnection
from verani_actors.upkeep.runtime import Runtime

TARGET = "tests.integration.fault_app:fault"
MARK = "FAULT_MARK"

# A host that stops waits no longer for gateways that have stopped before it.
GRACE = ("--link-grace", "0.5")

# A hook that blocks is given up soon, or only when its host would count as unreachable if it did not beat meanwhile.
SPIN = ("--hook-blocked", "0.3")
SPIN_FOR_LONG = ("--hook-blocked", "2", "--lease", "0.6")

# A gateway that stands still is not killed for it.
PATIENT = ("--hook-blocked", "60")

FREE = ("--port", "0", "--internal-port", "0", "--admin-port", "0")

# What a client sees of a connection that ends without a close frame.
BROKEN = (aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.ERROR)

PATIENCE = 60.0

# Clients that come back at once, as far as there are descriptors for both of their ends and some more.
CROWD = min(2500, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 1000)


class Faults:
    """A service, those who are connected to it, and everything that can be known of its processes."""

    def __init__(self, runs: Path, mark: str, stack: AsyncExitStack) -> None:
        self._runs = runs
        self._mark = f"{MARK}={mark}".encode()
        self._stack = stack
        # A connection that nobody holds is closed by the garbage collector.
        self._guests: list[Guest] = []
        self.cluster: Cluster

    async def serve(self, *options: str, hosts: int = 2, gateways: int = 1) -> Cluster:
        """Start the service."""
        serving = Cluster.serve(TARGET, *GRACE, *options, hosts=hosts, gateways=gateways)
        self.cluster = await self._stack.enter_async_context(serving)
        self._session = await self._stack.enter_async_context(aiohttp.ClientSession())
        if hosts:
            await self.cluster.members(hosts)
        return self.cluster

    async def join(self, room: str = "", user: str = "") -> Guest:
        """Connect to a room, a new one unless one is named."""
        url = f"{self.cluster.ws}?room={room or uuid.uuid4().hex}&userId={user or uuid.uuid4().hex}"
        guest = Guest(await self._session.ws_connect(url, max_msg_size=16 << 20))
        self._guests.append(guest)
        await guest.ask("echo")
        return guest

    async def join_by(self, gateway: int, room: str, user: str) -> Guest:
        """Connect through this gateway process."""
        async with asyncio.timeout(PATIENCE):
            while True:
                guest = await self.join(room, user)
                if (await guest.ask("where"))[1] == gateway:
                    return guest
                await guest.close()

    async def crowd(self, count: int) -> list[Guest]:
        """Connect to so many rooms, which are on all hosts."""
        return [await self.join() for _ in range(count)]

    async def gateways(self) -> list[int]:
        """List the pids of the gateways."""
        return [gateway.pid for gateway in (await self.cluster.status()).gateways]

    async def ask(self, path: str) -> Any:
        """Ask the internal listener."""
        async with self._session.get(f"{self.cluster.internal}{path}") as response:
            return await response.json()

    async def is_ready(self) -> bool:
        """Ask, on a new connection, whether the service is ready; who says nothing is not."""
        return await self._ready_status() == 200

    async def is_not_ready(self) -> bool:
        """Tell whether somebody says that it is not."""
        return await self._ready_status() == 503

    async def _ready_status(self) -> int:
        timeout = aiohttp.ClientTimeout(total=1)
        with suppress(TimeoutError, aiohttp.ClientError):
            async with (
                aiohttp.ClientSession(timeout=timeout) as session,
                session.get(f"{self.cluster.internal}/ready") as response,
            ):
                return response.status
        return 0

    def runtime(self) -> Runtime:
        """Find the runtime folder."""
        _, _, folder = read(self.launcher(), "cmdline").rstrip(b"\0").rpartition(b"\0")
        return Runtime(folder.decode())

    async def sleeps(self, room: str) -> bool:
        """Tell whether a room sleeps."""
        return bool((await self.ask(f"/admin/rooms/fault/{room}"))["state"] == "asleep")

    @property
    def lines(self) -> list[str]:
        """What the service has written."""
        return self.cluster.lines if hasattr(self, "cluster") else []

    def runs(self, *, wakes: bool = False) -> list[tuple[str, str, int]]:
        """List the handlers that began, or how rooms woke: event, data and process."""
        if not self._runs.exists():
            return []
        lines = (line.split() for line in self._runs.read_text(encoding="utf-8").splitlines())
        return [(event, data, int(pid)) for event, data, pid in lines if (event == "restored") == wakes]

    async def began(self, count: int) -> list[tuple[str, str, int]]:
        """Wait until so many hooks have begun."""
        await until(lambda: len(self.runs()) >= count)
        return self.runs()

    def pids(self) -> list[int]:
        """List the processes of the service, by what they inherit; of a zombie nothing is known."""
        return sorted(pid for pid in all_pids() if self._mark in read(pid, "environ").split(b"\0"))

    def launcher(self) -> int:
        """Find the launcher; its pid is 0 while there is none."""
        return next(iter(self._children(self.cluster.process.pid, b"verani_actors.processes.launcher")), 0)

    def admin(self) -> int:
        """Find Thespian's Admin."""
        return next(iter(self._children(self.launcher(), b"")), 0)

    async def part(self, name: str) -> int:
        """Find a part of the actor system; the logger is older than the registrar."""
        match name:
            case "admin":
                return self.admin()
            case "launcher":
                return self.launcher()
        hosts = {member.pid for member in await self.cluster.members(2)}
        await until(lambda: len(set(self._children(self.admin(), b"")) - hosts) == 2)
        thespian_logger, registrar = (pid for pid in self._children(self.admin(), b"") if pid not in hosts)
        return {"host": min(hosts), "registrar": registrar, "logger": thespian_logger}[name]

    def _children(self, parent: int, word: bytes) -> list[int]:
        line = f"PPid:\t{parent}\n".encode()
        return [pid for pid in self.pids() if line in read(pid, "status") and word in read(pid, "cmdline")]


def all_pids() -> Iterable[int]:
    return (int(entry.name) for entry in Path("/proc").glob("[0-9]*"))


def read(pid: int, name: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:
        return b""


async def until(condition: Any) -> None:
    """Wait until something is so in another process."""
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110  # in another process
            await asyncio.sleep(0.05)


async def verani(*arguments: str, cwd: Path | None = None) -> tuple[int, str, list[str]]:
    """Run a command of the command line; returns its exit code, its output and the lines of its errors."""
    command = (sys.executable, "-m", "verani_gateway", *arguments)
    process = await asyncio.create_subprocess_exec(*command, cwd=cwd, stdout=PIPE, stderr=PIPE)
    try:
        output, errors = await process.communicate()
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()
    return process.returncode or 0, output.decode(), errors.decode().splitlines()


async def all_are_served(guests: Iterable[Guest]) -> None:
    """Have every room answer."""
    for number, guest in enumerate(guests):
        assert await guest.ask("echo", number) == number


@pytest.fixture
async def faults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Faults]:
    mark = uuid.uuid4().hex
    monkeypatch.setenv(MARK, mark)
    monkeypatch.setenv(RUNS, str(tmp_path / "runs"))
    async with AsyncExitStack() as stack:
        faults = Faults(tmp_path / "runs", mark, stack)
        yield faults
        print(*faults.lines, sep="\n")  # noqa: T201  # shown where the test fails
    await until(lambda: not faults.pids())


# --- hooks that fail -------------------------------------------------------------------------------------------


@pytest.mark.threat(54)
async def test_a_handler_that_raises_runs_once_and_on_error_is_told(faults: Faults) -> None:
    await faults.serve()
    guest, other, elsewhere = await faults.join("a"), await faults.join("a"), await faults.crowd(4)
    host, _ = await guest.ask("where")
    for number in range(3):
        with pytest.raises(CallFailed):
            await guest.ask("raise", number)
    assert await other.heard() == [{"erred": "RuntimeError"}] * 3
    await all_are_served(elsewhere)
    assert faults.runs() == [("raise", str(number), host) for number in range(3)]


@pytest.mark.threat(55)
@pytest.mark.parametrize("options", [SPIN, SPIN_FOR_LONG])
async def test_a_hook_that_never_ends_is_run_twice_and_then_set_aside(faults: Faults, options: tuple[str, ...]) -> None:
    cluster = await faults.serve(*options)
    guest, others = await faults.join("a"), await faults.crowd(8)
    request = await guest.request("spin", 0)
    later = [await guest.request("record", number) for number in range(3)]
    await all_are_served(others)
    with pytest.raises(Interrupted):
        await guest.answer(request)
    assert [await guest.answer(number) for number in later] == [0, 1, 2]
    runs = faults.runs()
    # What came after it waited until it was out of the way.
    assert [(event, data) for event, data, _ in runs] == [
        ("spin", "0"),
        ("spin", "0"),
        ("record", "0"),
        ("record", "1"),
        ("record", "2"),
    ]
    assert len({pid for event, _, pid in runs if event == "spin"}) == 2
    (kept,) = await faults.ask("/admin/quarantine")
    assert (kept["room"], kept["event"]) == ("fault/a", "spin")
    code, output, _ = await verani("rooms", "--quarantine", "--url", cluster.internal)
    assert code == 0
    assert "fault/a" in output
    assert "spin" in output
    await all_are_served([guest, *others])
    assert not {pid for _, _, pid in runs if _runs_no_more(pid)} ^ {pid for event, _, pid in runs if event == "spin"}


def _runs_no_more(pid: int) -> bool:
    """Tell whether a process is gone, and not even a zombie is left of it."""
    return not Path(f"/proc/{pid}").exists()


@pytest.mark.threat(56)
async def test_a_hook_that_ends_its_process_leaves_no_process_behind_and_is_set_aside(faults: Faults) -> None:
    await faults.serve()
    others = await faults.crowd(8)
    for event, data in (("segfault", 0), ("exit", 0), ("exit", 3)):
        before = len(faults.runs())
        guest = await faults.join(room := f"{event}-{data}")
        with pytest.raises(Interrupted):
            await guest.ask(event, data)
        others.append(guest)
        await all_are_served(others)
        runs = faults.runs()[before:]
        assert [(name, number) for name, number, _ in runs] == [(event, str(data))] * 2
        for _, _, pid in runs:
            await until(lambda pid=pid: _runs_no_more(pid))
        assert (f"fault/{room}", event) in {
            (each["room"], each["event"]) for each in await faults.ask("/admin/quarantine")
        }


@pytest.mark.threat(55)
@pytest.mark.threat(56)
async def test_a_room_that_brings_down_five_hosts_has_failed_and_the_others_live(faults: Faults) -> None:
    await faults.serve()
    guest, neighbour, others = await faults.join("a"), await faults.join("a"), await faults.crowd(8)
    first, second, _ = [await guest.request("abort", number) for number in range(3)]
    with pytest.raises(Interrupted):
        await guest.answer(first)
    with pytest.raises(Interrupted):
        await guest.answer(second)
    assert (await guest.closed())[0] == (await neighbour.closed())[0] == 1011
    assert [data for _, data, _ in faults.runs()] == ["0", "0", "1", "1", "2"]
    await all_are_served(others)
    # Its clients may come again, and find a room that begins anew.
    assert await (await faults.join("a")).ask("echo", "again") == "again"


@pytest.mark.threat(56)
async def test_a_host_that_is_killed_from_outside_makes_nothing_suspect(faults: Faults, tmp_path: Path) -> None:
    await faults.serve("--hook-blocked", "60")
    guest = await faults.join("a")
    gate = tmp_path / "gate"
    request = await guest.request("spin_until", str(gate))
    for number in range(1, 4):
        *_, (_, _, pid) = await faults.began(number)
        os.kill(pid, signal.SIGKILL)
    await faults.began(4)
    gate.touch()
    assert await guest.answer(request) == str(gate)
    assert len(faults.runs()) == 4
    assert await faults.ask("/admin/quarantine") == []


@pytest.mark.threat(57)
async def test_a_room_that_allocates_without_end_harms_no_other_room(
    faults: Faults, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(MEMORY, str(512 << 20))
    await faults.serve()
    guest, others = await faults.join("a"), await faults.crowd(8)
    with pytest.raises((CallFailed, Interrupted)):
        await guest.ask("hoard", 0)
    await all_are_served([guest, *others])
    assert len(faults.runs()) <= 2


# --- gateways --------------------------------------------------------------------------------------------------


@pytest.mark.threat(58)
async def test_a_gateway_that_stood_still_catches_up_and_the_others_never_waited(faults: Faults) -> None:
    await faults.serve(*PATIENT, gateways=2)
    still, going = await faults.gateways()
    frozen, guest = await faults.join_by(still, "a", "frozen"), await faults.join_by(going, "a", "guest")
    os.kill(still, signal.SIGSTOP)
    for number in range(200):
        await guest.send("say", number)
        assert await guest.ask("echo", number) == number
    early = await frozen.request("record", "while it stood still")
    os.kill(still, signal.SIGCONT)
    expected = [{"said": number} for number in range(200)]
    assert await frozen.answer(early) == "while it stood still"
    assert [event for event in await frozen.heard() if "said" in event] == expected
    assert [event for event in await guest.heard() if "said" in event] == expected


@pytest.mark.threat(58)
async def test_a_gateway_that_stood_still_for_too_much_is_fenced(faults: Faults) -> None:
    await faults.serve(*PATIENT, gateways=2)
    still, going = await faults.gateways()
    frozen, guest = await faults.join_by(still, "a", "frozen"), await faults.join_by(going, "a", "guest")
    os.kill(still, signal.SIGSTOP)
    # More than a link keeps for a gateway that confirms nothing.
    for _ in range(6):
        await guest.ask("flood", 15)
    while await guest.next() != {"left": "frozen", "code": 1006}:
        pass
    assert await guest.ask("users") == ["guest"]
    os.kill(still, signal.SIGCONT)
    assert (await frozen.closed())[0] == 1012
    again = await faults.join_by(still, "a", "frozen")
    assert await again.ask("users") == ["guest", "frozen"]


@pytest.mark.threat(59)
async def test_clients_of_a_killed_gateway_see_its_end_and_leave_their_rooms_once(faults: Faults) -> None:
    await faults.serve("--hibernate-after", "never", gateways=2)
    doomed, living = await faults.gateways()
    rooms = [f"r{number}" for number in range(4)]
    watchers = [await faults.join_by(living, room, "watcher") for room in rooms]
    lost = [await faults.join_by(doomed, room, f"lost{number}") for room in rooms for number in range(3)]
    os.kill(doomed, signal.SIGKILL)
    async with asyncio.timeout(PATIENCE):
        for guest in lost:
            while (message := await guest.ws.receive()).type is aiohttp.WSMsgType.TEXT:
                pass
            assert message.type in BROKEN
    for watcher in watchers:
        left: list[str] = []
        while len(left) < 3:
            event = await watcher.next()
            if event["code"] == 1006:  # and not one who has just left for the other gateway
                left.append(event["left"])
        assert sorted(left) == ["lost0", "lost1", "lost2"]
        assert await watcher.ask("users") == ["watcher"]
    # A new one has taken its place, on the same port.
    await until_async(lambda: _has_successor(faults, doomed, living))
    (successor,) = {*await faults.gateways()} - {living}
    assert await (await faults.join_by(successor, "r0", "lost0")).ask("users") == ["watcher", "lost0"]
    for watcher in watchers:
        assert [event for event in await watcher.heard() if event["code"] == 1006] == []


async def _has_successor(faults: Faults, doomed: int, living: int) -> bool:
    with suppress(aiohttp.ClientError):  # the listener it asked may be that of the one that is gone
        gateways = await faults.gateways()
        return len(gateways) == 2 and living in gateways and doomed not in gateways
    return False


async def until_async(condition: Any) -> None:
    """Wait until something is so that has to be asked for."""
    async with asyncio.timeout(PATIENCE):
        while not await condition():  # noqa: ASYNC110  # in another process
            await asyncio.sleep(0.05)


@pytest.mark.threat(60)
async def test_a_service_that_stops_under_load_tells_every_client_to_come_back(faults: Faults) -> None:
    cluster = await faults.serve("--drain-seconds", "2", gateways=2)
    guests = await faults.crowd(40)

    async def talk(guest: Guest) -> int:
        with suppress(ConnectionError):
            for number in range(1000):
                await guest.send("echo", number)
                await asyncio.sleep(0)
        return (await guest.closed())[0]

    talking = [asyncio.create_task(talk(guest)) for guest in guests]
    cluster.process.terminate()
    assert await asyncio.gather(*talking) == [1012] * len(guests)
    async with asyncio.timeout(PATIENCE):
        assert await cluster.process.wait() == 0


# --- the actor system ------------------------------------------------------------------------------------------


@pytest.mark.threat(61)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
async def test_whatever_part_of_the_actor_system_dies_clients_stay_and_are_answered(
    faults: Faults, number: signal.Signals
) -> None:
    await faults.serve("--drain-seconds", "2")
    guests = await faults.crowd(16)
    count = len(faults.pids())
    for part in ("host", "registrar", "logger", "admin", "launcher"):
        pid = await faults.part(part)
        os.kill(pid, number)
        requests = [await guest.request("echo", part) for guest in guests]
        assert {await guest.answer(request) for guest, request in zip(guests, requests, strict=True)} == {part}
        await until(lambda pid=pid: _runs_no_more(pid) and len(faults.pids()) == count)
        await faults.cluster.members(2)
    await all_are_served(guests)


# --- what hangs ------------------------------------------------------------------------------------------------


@pytest.mark.threat(61)
@pytest.mark.parametrize("part", ["host", "registrar", "admin", "launcher"])
async def test_whatever_part_of_the_actor_system_hangs_is_replaced_and_clients_stay(faults: Faults, part: str) -> None:
    await faults.serve("--lease", "1", "--drain-seconds", "2")
    guests = await faults.crowd(8)
    count = len(faults.pids())
    pid = await faults.part(part)
    os.kill(pid, signal.SIGSTOP)
    requests = [await guest.request("echo", part) for guest in guests]
    assert {await guest.answer(request) for guest, request in zip(guests, requests, strict=True)} == {part}
    await until(lambda: _runs_no_more(pid) and len(faults.pids()) == count)
    await faults.cluster.members(2)
    await until_async(faults.is_ready)
    await all_are_served(guests)


@pytest.mark.threat(58)
async def test_nobody_is_ready_while_one_gateway_hangs_which_is_replaced(faults: Faults) -> None:
    await faults.serve("--lease", "1", gateways=2)
    still, going = await faults.gateways()
    frozen, guest = await faults.join_by(still, "a", "frozen"), await faults.join_by(going, "a", "guest")
    assert await faults.is_ready()
    os.kill(still, signal.SIGSTOP)
    # The other one says so: this one says nothing.
    await until_async(faults.is_not_ready)
    assert await guest.ask("echo", 1) == 1
    await until(lambda: _runs_no_more(still))
    while (message := await frozen.ws.receive()).type is aiohttp.WSMsgType.TEXT:
        pass  # that others came and went
    assert message.type in BROKEN
    await until_async(lambda: _has_successor(faults, still, going))
    await until_async(faults.is_ready)
    assert await guest.ask("echo", 2) == 2


async def test_nobody_is_ready_while_the_supervisor_hangs(faults: Faults) -> None:
    cluster = await faults.serve("--lease", "1", gateways=2)
    guest, before = await faults.join("a"), faults.pids()
    assert await faults.is_ready()
    os.kill(cluster.process.pid, signal.SIGSTOP)
    await until_async(faults.is_not_ready)
    assert await guest.ask("echo", 1) == 1
    os.kill(cluster.process.pid, signal.SIGCONT)
    await until_async(faults.is_ready)
    # Nobody is blamed for its pause.
    assert faults.pids() == before


@pytest.mark.threat(17)
async def test_idle_connections_leave_a_gateway_the_descriptors_to_find_its_next_hosts(faults: Faults) -> None:
    with few_descriptors(128):
        await faults.serve("--header-timeout", "60", hosts=1)
    guest, idle = await faults.join("a"), list[socket.socket]()
    address = faults.cluster.url.removeprefix("http://").rpartition(":")
    try:
        for _ in range(200):
            idle.append(socket.create_connection((address[0], int(address[2]))))
        (host,) = await faults.cluster.members(1)
        os.kill(host.pid, signal.SIGKILL)
        answered, _ = await guest.ask("where")
        assert answered != host.pid
        await until_async(faults.is_ready)
    finally:
        for each in idle:
            each.close()
    assert await (await faults.join("b")).ask("echo", 1) == 1


@contextmanager
def few_descriptors(number: int) -> Iterator[None]:
    """Let processes that are started meanwhile have so many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (number, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


# --- the runtime folder ----------------------------------------------------------------------------------------


async def test_nobody_is_ready_while_no_epoch_can_be_written(faults: Faults) -> None:
    await faults.serve("--lease", "1")
    guest, runtime = await faults.join("a"), faults.runtime()
    assert await faults.is_ready()
    # A file cannot take the place of a folder: a full disk, or one that became read-only, would say so too.
    runtime.epoch_file.rename(runtime.folder / "aside")
    runtime.epoch_file.mkdir()
    os.kill(await faults.part("host"), signal.SIGKILL)
    await until_async(faults.is_not_ready)
    request = await guest.request("echo", 1)
    await until(lambda: any("cannot be written down" in line for line in faults.lines))
    runtime.epoch_file.rmdir()
    assert await guest.answer(request) == 1
    await until_async(faults.is_ready)


async def test_a_host_whose_socket_is_deleted_is_replaced_and_new_gateways_reach_all(faults: Faults) -> None:
    """Whatever cleans up a temporary folder may take files one by one."""
    cluster = await faults.serve("--drain-seconds", "2")
    guests = await faults.crowd(8)
    before = {member.incarnation for member in await cluster.members(2)}
    for path in faults.runtime().folder.glob("*.sock"):
        path.unlink()

    async def are_replaced() -> bool:
        return not before & {member.incarnation for member in await cluster.members(2)}

    await until_async(are_replaced)
    await all_are_served(guests)
    (gateway,) = await faults.gateways()
    os.kill(gateway, signal.SIGKILL)
    await until(lambda: _runs_no_more(gateway))
    await until_async(faults.is_ready)
    await all_are_served([await faults.join() for _ in range(4)])


@pytest.mark.parametrize("what", ["folder", "plan"])
async def test_a_service_whose_runtime_folder_is_deleted_says_so_and_ends(faults: Faults, what: str) -> None:
    cluster = await faults.serve("--drain-seconds", "2")
    guest, runtime = await faults.join("a"), faults.runtime()
    if what == "folder":
        shutil.rmtree(runtime.folder)
    else:
        (runtime.folder / "plan").unlink()
    assert (await guest.closed())[0] == 1012
    async with asyncio.timeout(PATIENCE):
        assert await cluster.process.wait() == 1
    assert any(f"somebody has deleted {runtime.folder}" in line for line in faults.lines)


# --- rooms that sleep ------------------------------------------------------------------------------------------


@pytest.mark.threat(64)
async def test_a_thousand_frames_at_once_wake_a_room_that_sleeps_once(faults: Faults) -> None:
    await faults.serve("--hibernate-after", "never", gateways=2)
    guests = [await faults.join("a") for _ in range(50)]
    await guests[0].send("doze")
    await until_async(lambda: faults.sleeps("a"))
    requests = [[await guest.request("echo", number) for number in range(20)] for guest in guests]
    for guest, numbers in zip(guests, requests, strict=True):
        assert [await guest.answer(number) for number in numbers] == list(range(20))
    assert [(event, reason) for event, reason, _ in faults.runs(wakes=True)] == [("restored", "frame")]


# --- the wall clock --------------------------------------------------------------------------------------------


@pytest.mark.threat(71)
async def test_a_wall_clock_that_jumps_by_hours_changes_nothing(
    faults: Faults, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CLOCK, "wrong")
    cluster = await faults.serve("--hibernate-after", "0.3")
    guests = [await faults.join("a", f"user{number}") for number in range(6)]
    everybody = [f"user{number}" for number in range(6)]
    for guest in guests:
        await until_async(lambda: faults.sleeps("a"))
        assert await guest.ask("users") == everybody
    host, _ = await guests[0].ask("where")
    os.kill(host, signal.SIGKILL)
    for guest in guests:
        assert await guest.ask("users") == everybody
    await cluster.members(2)
    assert await (await faults.join("a", "late")).ask("users") == [*everybody, "late"]


# --- everybody at once -----------------------------------------------------------------------------------------


@pytest.mark.threat(74)
async def test_thousands_of_clients_that_come_back_at_once_are_all_back(faults: Faults) -> None:
    await faults.serve("--hibernate-after", "never", hosts=1)
    (gateway,) = await faults.gateways()
    url = faults.cluster.ws
    plan = Reconnection(initial_delay=0.5, max_delay=2.0)
    once = asyncio.Barrier(CROWD + 1)

    async def enter(session: aiohttp.ClientSession, room: int) -> aiohttp.ClientWebSocketResponse:
        failures = 0
        while True:
            try:
                return await session.ws_connect(f"{url}?room=r{room}")
            except aiohttp.ClientError:
                await asyncio.sleep(plan.delay(failures, random.random()))
                failures += 1

    async def come_back(session: aiohttp.ClientSession, number: int) -> bool:
        ws = await enter(session, number % 1000)
        await once.wait()
        assert (await ws.receive()).type in BROKEN
        ws = await enter(session, number % 1000)
        await ws.send_str(json.dumps({"type": "echo", "data": number, "id": 1}))
        while (frame := await ws.receive_json())["type"] != "ack":
            pass  # others that have left
        await ws.close()
        return bool(frame == {"type": "ack", "id": 1, "data": number})

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session, asyncio.TaskGroup() as group:
        coming = [group.create_task(come_back(session, number)) for number in range(CROWD)]
        await once.wait()
        os.kill(gateway, signal.SIGKILL)
    assert all(task.result() for task in coming)


# --- what cannot start -----------------------------------------------------------------------------------------


@pytest.mark.threat(62)
@pytest.mark.usefixtures("faults")
async def test_an_app_whose_import_raises_ends_it_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("raise RuntimeError('it is broken')", encoding="utf-8")
    code, _, lines = await verani("serve", "broken:app", "--hosts", "1", *FREE, cwd=tmp_path)
    assert code == 2
    assert "RuntimeError: it is broken" in lines[-1]


@pytest.mark.threat(61)
async def test_after_a_kill_a_service_starts_on_the_very_same_ports(faults: Faults) -> None:
    ports = [option for name in ("port", "internal-port", "admin-port") for option in (f"--{name}", str(free_port()))]
    cluster = await faults.serve(*ports)
    guest = await faults.join("a")
    cluster.process.kill()
    await until(lambda: not faults.pids())
    # Its gateway may have had the time to say goodbye.
    assert (await guest.ws.receive()).type in (*BROKEN, aiohttp.WSMsgType.CLOSE)
    again = await faults.serve(*ports)
    assert (again.url, again.internal) == (cluster.url, cluster.internal)
    await all_are_served([await faults.join("a")])


@pytest.mark.usefixtures("faults")
async def test_an_app_whose_on_startup_raises_ends_the_service_with_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(STARTUP, "raises")
    command = (sys.executable, "-m", "verani_gateway", "serve", TARGET, "--hosts", "2", *FREE)
    process = await asyncio.create_subprocess_exec(*command, stderr=PIPE)
    assert process.stderr is not None
    failures = 0
    async for line in process.stderr:
        failures += b"RuntimeError: this app does not start" in line
        if failures > 8:
            process.terminate()
            await process.wait()
            pytest.fail("its hosts are started again and again")
    assert failures
    assert await process.wait() == 1

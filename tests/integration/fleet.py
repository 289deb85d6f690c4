"""Run a service on machines that are network namespaces, with clients on each that write down all they hear.

Invariants: clients of a machine stay on it, so they reach its gateway while it is cut off; what is written down is
judged at the end (`Crowd.judge`), so nothing depends on when this process looks.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import aiohttp
import msgspec
from msgspec import Struct

from tests.integration.cluster_room import now
from tests.netns import Machine, Network
from tests.shapes.service import Node
from verani.link.epoch import Epoch, Member
from verani_actors.operating.answers import GatewayStatus, HostStatus
from verani_gateway.operating.service_answers import ServiceStatus

__all__ = ["PATIENCE", "Crowd", "Fleet", "Heard", "Talker"]

# Nothing waits this long when all is well; a loaded machine may take seconds for what takes tenths.
PATIENCE: Final = 45.0

ROOT: Final = Path(__file__).parents[2]
TOKEN: Final = "fleet"
_SECRETS: Final = {
    "VERANI_RPC_TOKEN": TOKEN,
    "VERANI_ADMIN_TOKEN": TOKEN,
    "VERANI_CLUSTER_SECRET": "the-secret-of-the-tests-of-machines",
}
_OPTIONS: Final = (
    *("--hosts", "1", "--gateways", "1", "--port", "0", "--internal-port", "0", "--rate-limit", "0"),
    *("--rate-limit-bytes", "0"),
    *("--lease", "2.0", "--link-grace", "0.5", "--drain-seconds", "3"),
    # Rooms that wait for a machine to be started again wait for longer where machines are loaded.
    *("--max-unread", "120"),
)

# Between two frames of one client.
_PAUSE: Final = 0.08

# What a gateway says now and then while it does not read on.
_PONG: Final = {"type": "pong"}

_decode_status: Final = msgspec.json.Decoder(ServiceStatus).decode


class Fleet:
    """A service whose machines have the names they were started with; the first is the leader."""

    def __init__(self, network: Network, targets: Sequence[str], options: Sequence[str], folder: str) -> None:
        self._targets = targets
        self._options = options
        self._folder = folder
        self._spare = list(network.machines)
        self._machines: dict[str, Machine] = {}
        self.nodes: dict[str, Node] = {}
        self._sessions: dict[str, aiohttp.ClientSession] = {}

    @classmethod
    @contextmanager
    def run(
        cls, targets: Sequence[str], names: Sequence[str], *, spare: int = 0, options: Sequence[str] = ()
    ) -> Iterator[Fleet]:
        """Start a service; at its end it stops, and nothing of it is left. `options` win over those of all fleets."""
        folder = tempfile.mkdtemp(prefix="vf")
        try:
            with Network(len(names) + spare) as network:
                fleet = cls(network, targets, options, folder)
                try:
                    for name in names:
                        fleet.begin(name)
                        if name == names[0]:
                            fleet.nodes[name].wait()
                    for node in fleet.nodes.values():
                        node.wait()
                    yield fleet
                    fleet._stop()
                finally:
                    for node in fleet.nodes.values():
                        node.kill()
                assert [machine.pids() for machine in network.machines] == [[]] * len(network.machines)
            assert os.listdir(folder) == []  # noqa: PTH208  # runtime folders
        finally:
            shutil.rmtree(folder)

    # --- machines ----------------------------------------------------------------------------------------

    def begin(self, name: str, *, gateways: int = 1, targets: Sequence[str] = ()) -> Node:
        """Start a machine, or start it again; the first one leads."""
        machine = self._machines.get(name) or self._machines.setdefault(name, self._spare.pop(0))
        leader = next(iter(self._machines))
        command = ["serve"] if name == leader else ["join", self._machines[leader].address]
        at = ("--host", machine.address, "--internal-host", machine.address, "--advertise", machine.address)
        ours = {key: value for key, value in os.environ.items() if not key.startswith("VERANI_")}
        process = machine.popen(
            [
                *(sys.executable, "-m", "verani_gateway", *command, *(targets or self._targets), *_OPTIONS, *at),
                *self._options,
                *("--machine", name, "--gateways", str(gateways)),
            ],
            cwd=ROOT,
            env={**ours, **_SECRETS, "XDG_RUNTIME_DIR": self._folder},
            stderr=subprocess.PIPE,
        )
        node = self.nodes[name] = Node(process, gateways=gateways)
        return node

    async def start(self, name: str) -> None:
        """Start a machine and wait until it is ready, without holding up clients."""
        await asyncio.to_thread(self.begin(name).wait)

    async def stop(self, name: str) -> None:
        """Ask a machine to stop."""
        assert await asyncio.to_thread(self.nodes[name].stop) == 0
        del self.nodes[name]

    def machine(self, name: str) -> Machine:
        """Return the machine itself."""
        return self._machines[name]

    def kill(self, name: str) -> None:
        """Kill every process of a machine at once."""
        pids = self._machines[name].pids()
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, number)
        self.nodes.pop(name).kill()

    def heal(self) -> None:
        """Plug in every cable."""
        for machine in self._machines.values():
            machine.heal()

    def _stop(self) -> None:
        # The leader goes last.
        codes = [node.stop() for node in reversed(self.nodes.values())]
        errors = [error for node in self.nodes.values() for error in node.errors()]
        assert not errors, "\n".join(errors)
        assert set(codes) == {0}

    def log(self) -> str:
        """Return what all machines have logged."""
        return "\n".join(f"{name}: {line}" for name, node in self.nodes.items() for line in node.lines)

    # --- asking, on a machine ----------------------------------------------------------------------------

    @asynccontextmanager
    async def visited(self) -> AsyncIterator[Self]:
        """Be reachable from clients of one event loop."""
        try:
            yield self
        finally:
            sessions, self._sessions = self._sessions, {}
            for session in sessions.values():
                await session.close()

    def session(self, name: str) -> aiohttp.ClientSession:
        """Return a session whose connections begin on a machine."""
        if name not in self._sessions:
            machine = self._machines[name]
            connector = aiohttp.TCPConnector(limit=0, socket_factory=lambda info: machine.open_socket())
            self._sessions[name] = aiohttp.ClientSession(
                connector=connector, headers={"Authorization": f"Bearer {TOKEN}"}
            )
        return self._sessions[name]

    async def status(self, name: str) -> ServiceStatus:
        """Ask the gateway of a machine who is there."""
        async with self.session(name).get(f"{self.nodes[name].internal}/admin/cluster") as response:
            return _decode_status(await response.read())

    async def epochs(self, *names: str) -> list[int]:
        """Ask the gateways of machines, all at once, which epoch is in force there."""
        return [status.epoch for status in await asyncio.gather(*map(self.status, names))]

    async def whole(self, *names: str) -> dict[str, HostStatus]:
        """Wait until these machines and no others have a member each, and everybody knows and reaches all of them."""
        return {each.machine: each for each in (await self.until(lambda status: _is_whole(status, names), names[0]))}

    async def until(self, condition: Callable[[ServiceStatus], bool], name: str) -> list[HostStatus]:
        """Wait until what a machine says of the service meets a condition."""
        try:
            async with asyncio.timeout(PATIENCE):
                while not condition(status := await self.status(name)):  # noqa: ASYNC110  # in other processes
                    await asyncio.sleep(0.1)
        except TimeoutError:
            raise AssertionError(f"{await self.status(name)}\n{self.log()}") from None
        return status.members

    async def call(self, name: str, room: str, method: str, *, timeout: float = 5.0) -> tuple[int, Any]:
        """Call a room through the gateway of a machine; return the status and the answer."""
        async with self.session(name).post(
            f"{self.nodes[name].internal}/rpc/hall/{room}/{method}", json={}, headers={"Verani-Timeout": f"{timeout}"}
        ) as response:
            return response.status, await response.json()

    async def count(self, name: str, room: str, sessions: int) -> None:
        """Wait until a room has so many sessions."""
        async with asyncio.timeout(PATIENCE):
            while await self.call(name, room, "get_session_count") != (200, sessions):  # noqa: ASYNC110  # in its host
                await asyncio.sleep(0.05)

    async def drain(self, target: str, name: str) -> None:
        """Drain with the command that operators have."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "verani_gateway", "drain", target, "--url", self.nodes[name].internal),
            env={**os.environ, **_SECRETS},
            stderr=asyncio.subprocess.PIPE,
        )
        _, errors = await process.communicate()
        assert process.returncode == 0, errors.decode()


def _is_whole(status: ServiceStatus, names: Sequence[str]) -> bool:
    machines = sorted(names)
    everybody: list[HostStatus | GatewayStatus] = [*status.members, *status.gateways]
    return (
        not status.missing
        and {each.epoch for each in everybody} == {status.epoch}
        and sorted(each.machine for each in status.members) == machines
        and sorted(each.machine for each in status.gateways) == machines
        and all(len(each.links) == len(machines) and set(each.links.values()) == {"linked"} for each in everybody)
    )


def rooms_of(machine: str, among: Iterable[str], number: int) -> list[str]:
    """Choose rooms that the host of a machine owns where these machines have one host each."""
    members = tuple(Member(f"{name}-0", name, name, 0, "") for name in among)
    epoch = Epoch(1, "", members)
    names = (f"r{n}" for n in count())
    return [next(room for room in names if epoch.owns(machine, f"hall/{room}")) for _ in range(number)]


class Heard(Struct, frozen=True):
    """One answer: whose frame it is, which process handled it when, and when it arrived."""

    by: str
    number: int
    host: int
    at: float
    arrived: float


class _Connection:
    """One WebSocket and what went over it; `first` is the number of its first frame."""

    def __init__(self, ws: aiohttp.ClientWebSocketResponse, name: str, first: int) -> None:
        self.ws = ws
        self.name = name
        self.first = self.next = first
        self.heard: list[Heard] = []
        self.answered = 0
        self.closed: int | None = None
        self.task = asyncio.create_task(self._read())

    async def _read(self) -> None:
        async for message in self.ws:
            frame = msgspec.json.decode(message.data)
            if frame == _PONG:
                continue
            data = frame["data"]
            heard = Heard(data["by"], data["number"], data["host"], data["at"], now())
            self.heard.append(heard)
            self.answered += heard.by == self.name
        self.closed = self.ws.close_code

    @property
    def own(self) -> list[Heard]:
        return [heard for heard in self.heard if heard.by == self.name]

    @property
    def settled(self) -> bool:
        """Whether nothing more is to come."""
        return self.closed is not None or self.answered >= self.next - self.first


class Talker:
    """A client of one room on one machine, which sends frames, and comes back where it was disconnected."""

    def __init__(self, fleet: Fleet, machine: str, room: str) -> None:
        self.machine = machine
        self.room = room
        self.name = f"{machine}/{room}"
        self.connections: list[_Connection] = []
        self._fleet = fleet

    @property
    def codes(self) -> list[int]:
        """With what its connections were closed."""
        return [each.closed for each in self.connections if each.closed is not None]

    @property
    def answered(self) -> int:
        """How many of its frames were answered."""
        return sum(each.answered for each in self.connections)

    @property
    def last_handled(self) -> float:
        """When the last frame that was answered on its open connection was handled."""
        own = self.connections[-1].own if self.connections else []
        return own[-1].at if own else 0.0

    @property
    def heard(self) -> list[Heard]:
        """Everything it has heard."""
        return [heard for each in self.connections for heard in each.heard]

    @property
    def settled(self) -> bool:
        """Whether nothing more is to come."""
        return all(each.settled for each in self.connections)

    async def talk(self) -> None:
        """Send a frame, on a new connection where the last one was closed."""
        if not self.connections or self.connections[-1].closed is not None:
            await self._connect()
        connection = self.connections[-1]
        number, connection.next = connection.next, connection.next + 1
        with suppress(ConnectionError):  # it has just been closed: the reader knows with what
            await connection.ws.send_json({"type": "mark", "data": {"by": self.name, "number": number}})

    async def _connect(self) -> None:
        url = self._fleet.nodes[self.machine].public
        ws = await self._fleet.session(self.machine).ws_connect(f"{url}/hall?room={self.room}")
        first = self.connections[-1].next if self.connections else 0
        self.connections.append(_Connection(ws, self.name, first))

    async def leave(self) -> None:
        """Close what is open."""
        for connection in self.connections:
            await connection.ws.close()
            await connection.task


class Crowd:
    """Talkers in every room of `rooms` on every machine of `machines`, who talk all the time while it is entered."""

    def __init__(self, fleet: Fleet, machines: Iterable[str], rooms: Mapping[str, Sequence[str]]) -> None:
        """Take the rooms by the machine that owns them at first."""
        self.rooms = rooms
        self.talkers = [
            Talker(fleet, machine, room) for machine in machines for each in rooms.values() for room in each
        ]
        self._fleet = fleet
        self._paused: set[str] = set()
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(self._talk(talker)) for talker in self.talkers]
        await self.answered()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for talker in self.talkers:
            await talker.leave()

    async def _talk(self, talker: Talker) -> None:
        while True:
            if talker.machine not in self._paused:
                await talker.talk()
            await asyncio.sleep(_PAUSE)

    def of(self, machine: str, owner: str = "") -> list[Talker]:
        """List the talkers on a machine, or those of them in rooms that another one owned at first."""
        rooms = self.rooms[owner] if owner else [room for each in self.rooms.values() for room in each]
        return [each for each in self.talkers if each.machine == machine and each.room in rooms]

    async def answered(self, talkers: Iterable[Talker] | None = None) -> None:
        """Wait until each of these, or of all, was answered a frame that was handled from now on."""
        await self.answered_after(now(), self.talkers if talkers is None else talkers)

    async def answered_after(self, moment: float, talkers: Iterable[Talker]) -> None:
        """Wait until each was answered a frame that was handled after a moment."""
        chosen = list(talkers)
        await self.until(lambda: all(each.last_handled > moment for each in chosen), chosen)

    async def until(self, condition: Callable[[], bool], talkers: Iterable[Talker] = ()) -> None:
        """Wait until something is so."""
        try:
            async with asyncio.timeout(PATIENCE):
                while not condition():  # what is waited for is written down by many readers
                    self._look()
                    await asyncio.sleep(0.01)
        except TimeoutError:
            waiting = [f"{each.name}: {each.answered} answers, closed {each.codes}" for each in talkers]
            raise AssertionError("\n".join([*waiting, self._fleet.log()])) from None

    def _look(self) -> None:
        for task in self._tasks:
            if task.done() and not task.cancelled() and (error := task.exception()) is not None:
                raise error

    async def settled(self) -> None:
        """Stop talking, and wait until every frame was answered or its connection closed."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()
        unsettled = [each for each in self.talkers if not each.settled]
        await self.until(lambda: all(each.settled for each in self.talkers), unsettled)

    def hosts(self, owner: str) -> list[list[int]]:
        """List, for each room that a machine owned at first, the processes that served it, in this order."""
        return [list(_runs(self._of_room(room))) for room in self.rooms[owner]]

    def _of_room(self, room: str) -> list[Heard]:
        return sorted(
            (heard for each in self.talkers if each.room == room for heard in each.heard), key=lambda heard: heard.at
        )

    def judge(self) -> list[str]:
        """Return everything that no cut, death or move may ever cause."""
        wrong = []
        for talker in self.talkers:
            for each in talker.connections:
                numbers = [own.number for own in each.own]
                if numbers != list(range(each.first, each.first + len(numbers))):
                    wrong.append(f"{talker.name}: answers {numbers} are not in order, each once")
                if each.closed is None and not each.settled:
                    wrong.append(f"{talker.name}: {each.next - each.first - len(numbers)} frames without an answer")
                # As it was on the wire: what an earlier owner said does not come after the words of a later one.
                wrong += _mixed(talker.name, each.heard)
        for rooms in self.rooms.values():
            for room in rooms:
                wrong += _mixed(room, self._of_room(room))
        return wrong


def _runs(heard: Iterable[Heard]) -> Iterator[int]:
    last = 0
    for each in heard:
        if each.host != last:
            last = each.host
            yield last


def _mixed(where: str, heard: Iterable[Heard]) -> list[str]:
    runs = list(_runs(heard))
    return [] if len(runs) == len(set(runs)) else [f"{where}: served by {runs}"]

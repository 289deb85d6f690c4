"""Strangers at every socket of every process of a whole service: nothing of theirs is executed, and nothing dies.

They send pickles that are valid, as Thespian frames them and raw, from the machine itself and from another one.
`tests/actors/processes/test_hardened.py` has what else they may send to the ports of the actor system.
"""

from __future__ import annotations

import asyncio
import os
import pickle
import re
import socket
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

import aiohttp
import pytest
from thespian.system.transport.streamBuffer import toSendBuffer

from tests.actors.processes.test_hardened import Canary, stranger
from tests.integration.fleet import Fleet, rooms_of
from tests.netns import Machine, why_not
from tests.shapes.service import ROOT, Node
from verani_actors.processes.seal import Seal

TARGET: Final = "tests.integration.cluster_room:hall"
SECRET: Final = "the-secret-of-the-tests-of-machines"
LOOPBACK: Final = "127.0.0.1"
MACHINES: Final = ("one", "two")

# Launcher, Admin, Thespian's logger and registrar; each host has one more.
_ACTOR_PORTS: Final = 4

Opens = Callable[[], socket.socket]


class Door(NamedTuple):
    """A listening socket: the address it is bound to and its port, or the path of a Unix socket and 0."""

    address: str
    port: int

    def opens_at(self, address: str) -> bool:
        """Whether somebody who goes to an address comes here."""
        return self.address in (address, "0.0.0.0", "*")


class Place:
    """Where processes of a service run: their sockets, and how to get to them from there."""

    def __init__(self, pids: Iterable[int], machine: Machine | None = None) -> None:
        self.pids = sorted(pids)
        self._machine = machine

    def open(self) -> socket.socket:
        """Make a TCP socket of somebody who is on the same machine."""
        return self._machine.open_socket() if self._machine is not None else socket.socket()

    def doors(self) -> list[Door]:
        """Find every TCP socket that a process listens on."""
        found = (local.rpartition(":") for local in self._listening("-t", 3))
        return sorted({Door(address.strip("[]"), int(port)) for address, _, port in found})

    def unix_sockets(self) -> list[str]:
        """Find every Unix socket that a process listens on."""
        return sorted(set(self._listening("-x", 4)))

    def _listening(self, kind: str, column: int) -> Iterator[str]:
        command = ["ss", "-Hlnp", kind]
        if self._machine is None:
            output = subprocess.run(command, capture_output=True, check=True).stdout
        else:
            output, _ = self._machine.popen(command, stdout=subprocess.PIPE).communicate()
        for row in output.decode().splitlines():
            if {int(pid) for pid in re.findall(r"pid=(\d+)", row)} & set(self.pids):
                yield row.split()[column]


def forged(canary: Path) -> list[bytes]:
    message = (stranger(), Canary(canary))
    return [
        pickle.dumps(Canary(canary)),
        pickle.dumps(message),
        toSendBuffer(message),
        toSendBuffer(Canary(canary)),
        toSendBuffer(message, Seal(b"another secret").dumps),
        toSendBuffer(message, lambda message: bytes(32) + pickle.dumps(message)),
    ]


def say(connection: socket.socket, content: bytes) -> None:
    """Send all there is to say and listen until the other side has had enough."""
    with suppress(ConnectionError, ssl.SSLError):
        connection.sendall(content)
        if not isinstance(connection, ssl.SSLSocket):
            with suppress(OSError):  # the other side has had enough already
                connection.shutdown(socket.SHUT_WR)
        while connection.recv(1 << 16):
            pass


def reach(made: socket.socket, address: Any) -> bool:
    """Connect; False where nobody listens."""
    made.settimeout(20)
    try:
        made.connect(address)
    except ConnectionRefusedError:
        return False
    return True


def visit(opens: Opens, address: str, doors: Iterable[Door], contents: Sequence[bytes]) -> list[Door]:
    """Say everything, in clear and through TLS, at each port of an address; return the doors that were open there."""
    found = []
    for door in doors:
        for content in contents:
            with closing(opens()) as connection:
                if not reach(connection, (address, door.port)):
                    break
                say(connection, content)
            with closing(opens()) as connection:
                if reach(connection, (address, door.port)):
                    with suppress(ConnectionError, ssl.SSLError), anyone().wrap_socket(connection) as secured:
                        say(secured, content)
        else:
            found.append(door)
    return found


def visit_unix(paths: Iterable[str], contents: Sequence[bytes]) -> None:
    for path in paths:
        for content in contents:
            with closing(socket.socket(socket.AF_UNIX)) as connection:
                assert reach(connection, path)
                say(connection, content)


def harass(place: Place, ways: dict[str, Opens], folder: Path) -> None:
    """Send forged pickles to every socket at each address, by the way that leads there."""
    canary, doors = folder / "canary", place.doors()
    for address, opens in ways.items():
        expected = [door for door in doors if door.opens_at(address)]
        assert visit(opens, address, doors, forged(canary)) == expected
    visit_unix(place.unix_sockets(), forged(canary))
    assert not canary.exists()


def executed(place: Place, address: str, folder: Path) -> int:
    """Count the ports where the same is executed for somebody who knows the secret."""
    doors = [door for door in place.doors() if door.opens_at(address)]
    for door in doors:
        sealed = toSendBuffer((stranger(), Canary(folder / f"{address}-{door.port}")), Seal(SECRET.encode()).dumps)
        visit(place.open, address, [door], [sealed])
    return len(list(folder.glob(f"{address}-*")))


def family_of(pid: int) -> list[int]:
    """List a process and all that descend from it."""
    output = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, check=True).stdout
    parents = {int(child): int(parent) for child, parent in (line.split() for line in output.decode().splitlines())}
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    # `ps` itself is a child of the tests, not of the service.
    return sorted(found)


def speaks_tls(place: Place, door: Door) -> bool:
    """Whether TLS is what is spoken at a port."""
    with closing(place.open()) as connection:
        assert reach(connection, tuple(door))
        try:
            anyone().wrap_socket(connection).close()
        except (ConnectionError, ssl.SSLError):
            return False
        return True


def anyone() -> ssl.SSLContext:
    """Make a context of somebody without a certificate, who takes any."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def own_address() -> str | None:
    """Find the address of an interface that is not the loopback, if there is one."""
    with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing: TEST-NET-1 (RFC 5737), to which workers have a route
        except OSError:
            return None
        return str(probe.getsockname()[0])


@contextmanager
def serving() -> Iterator[Node]:
    """Serve with two hosts and two gateways, as one does on one machine."""
    with tempfile.TemporaryDirectory(prefix="vs") as runtime:
        ours = {key: value for key, value in os.environ.items() if not key.startswith("VERANI_")}
        shape = ("--hosts", "2", "--gateways", "2", "--admin-port", "0", "--port", "0", "--internal-port", "0")
        process = subprocess.Popen(
            [sys.executable, "-m", "verani_gateway", "serve", TARGET, *shape],
            cwd=ROOT,
            env={**ours, "VERANI_CLUSTER_SECRET": SECRET, "XDG_RUNTIME_DIR": runtime},
            stderr=subprocess.PIPE,
        )
        node = Node(process)
        try:
            node.wait()
            yield node
            assert node.stop() == 0
            assert node.errors() == []
        finally:
            node.kill()


async def answers(node: Node) -> set[int]:
    """Call rooms and return the processes that answered."""
    async with aiohttp.ClientSession() as session:
        found = set()
        for number in range(16):
            async with session.post(f"{node.internal}/rpc/hall/r{number}/where", json={}) as response:
                assert response.status == 200
                found.add(await response.json())
        return found


@pytest.mark.threat(70)
async def test_no_pickle_of_a_stranger_is_executed_by_any_process_of_a_machine(tmp_path: Path) -> None:
    with serving() as node:
        hosts = await answers(node)
        assert len(hosts) == 2
        place = Place(family_of(node.process.pid))
        # The supervisor, the actor system with two hosts, and two gateways.
        assert len(place.pids) == 1 + _ACTOR_PORTS + 2 + 2
        assert len(place.unix_sockets()) == 2
        assert {door.address for door in place.doors()} == {LOOPBACK}
        elsewhere = own_address()
        ways = {address: place.open for address in (LOOPBACK, elsewhere) if address is not None}
        await asyncio.to_thread(harass, place, ways, tmp_path)
        assert family_of(node.process.pid) == place.pids
        assert await answers(node) == hosts
        # Or nothing is executed for any other reason.
        assert await asyncio.to_thread(executed, place, LOOPBACK, tmp_path) == _ACTOR_PORTS + 2


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    if reason := why_not():
        pytest.skip(reason)
    with Fleet.run([TARGET], MACHINES) as fleet:
        yield fleet


@pytest.mark.threat(70)
async def test_no_pickle_of_a_stranger_is_executed_on_any_machine_wherever_it_comes_from(
    fleet: Fleet, tmp_path: Path
) -> None:
    async with fleet.visited():
        members = await fleet.whole(*MACHINES)
        rooms = {name: rooms_of(name, MACHINES, 2) for name in MACHINES}
        for name, other in (MACHINES, MACHINES[::-1]):
            machine = fleet.machine(name)
            place = Place(machine.pids(), machine)
            doors = place.doors()
            assert {door.address for door in doors} == {machine.address}, "and nothing on the loopback"
            assert len([door for door in doors if speaks_tls(place, door)]) == 1, "links of other machines"
            for opens in (place.open, fleet.machine(other).open_socket, socket.socket):
                await asyncio.to_thread(harass, place, {machine.address: opens}, tmp_path)
            await asyncio.to_thread(harass, place, {LOOPBACK: place.open}, tmp_path)
            assert sorted(machine.pids()) == place.pids
        assert {name: each.pid for name, each in (await fleet.whole(*MACHINES)).items()} == {
            name: each.pid for name, each in members.items()
        }
        for asked in MACHINES:
            for name in MACHINES:
                assert [await fleet.call(asked, room, "where") for room in rooms[name]] == [
                    (200, members[name].pid)
                ] * 2
        # Or nothing is executed for any other reason. Only the machine of the leader has a registrar.
        for name, ports in (("one", _ACTOR_PORTS + 1), ("two", _ACTOR_PORTS)):
            machine = fleet.machine(name)
            place = Place(machine.pids(), machine)
            assert await asyncio.to_thread(executed, place, machine.address, tmp_path) == ports

"""Run every test of this folder once for each shape, all tests of a shape against one service.

`VERANI_TEST_SHAPES` says which shapes, separated by commas.
"""

from __future__ import annotations

import asyncio
import os
import socket
import uuid
from collections.abc import AsyncIterator, Awaitable, Generator, Iterator
from typing import Protocol

import aiohttp
import pytest

from tests import netns
from tests.raw import PATIENCE
from tests.shapes.guest import Guest
from tests.shapes.service import SHAPES, Service
from verani import RoomStub, connect
from verani import Service as Caller
from verani.client import VeraniClient

_DEFAULT = "embedded,processes,machines"
_CHOSEN = [name.strip() for name in os.environ.get("VERANI_TEST_SHAPES", _DEFAULT).split(",") if name.strip()]

if _UNKNOWN := sorted({*_CHOSEN} - {*SHAPES}):
    raise pytest.UsageError(f"VERANI_TEST_SHAPES: expected some of {', '.join(SHAPES)}, got {', '.join(_UNKNOWN)}")


# What clients do is theirs: it is enough to see it in one process and in several, and once for every other runtime.
_OF_CLIENTS = "test_client_behaviour.py"
_ONCE = ("test_in_node_with_the_websocket_of_a_package", "test_in_other_runtimes")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Take out what needs not be run in every shape."""
    spared = {item for item in items if item.path.name == _OF_CLIENTS and _is_spared(item.name)}
    items[:] = [item for item in items if item not in spared]
    config.hook.pytest_deselected(items=list(spared))


def _is_spared(name: str) -> bool:
    return "[machines" in name or (name.startswith(_ONCE) and "[processes" in name)


@pytest.fixture(scope="session", params=_CHOSEN)
def service(request: pytest.FixtureRequest) -> Iterator[Service]:
    """Start the service of a shape when its first test needs it."""
    if request.param == "machines" and (reason := netns.why_not()):
        pytest.skip(reason)
    with SHAPES[request.param]() as service:
        yield service


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Function, nextitem: pytest.Item | None) -> Generator[None, None, None]:
    """End a service with the last test of its shape: all its processes beat, as long as the suite runs."""
    yield
    if nextitem is None or nextitem.path.parent != item.path.parent:
        (definition,) = item._fixtureinfo.name2fixturedefs["service"]
        definition.finish(item._request)  # type: ignore[arg-type]  # it asks for the name of the test, if anything


@pytest.fixture(autouse=True)
def log(service: Service) -> Iterator[None]:
    """Print what the service has logged in the course of a test; pytest shows it where the test fails."""
    before = [len(node.lines) for node in service.nodes]
    yield
    for node, start in zip(service.nodes, before, strict=True):
        print(*node.lines[start:], sep="\n")  # noqa: T201


@pytest.fixture
def room() -> str:
    """Name a room id that no other test uses."""
    return uuid.uuid4().hex


@pytest.fixture
async def caller(service: Service) -> AsyncIterator[Caller]:
    """Call rooms over HTTP."""
    async with connect(service.internal, token=service.token, timeout=10.0) as caller:
        yield caller


@pytest.fixture
def stub(caller: Caller, room: str) -> RoomStub:
    """Address the test's room of the chat."""
    return caller.room("chat", room)


class Gate:
    """A gate of the test's own, at which hooks wait."""

    def __init__(self, caller: Caller, name: str) -> None:
        self.name = name
        self._stub = caller.room("gate", name)

    async def open(self) -> None:
        """Let everybody through."""
        await self._stub.open_up()

    async def waiting(self) -> list[str]:
        """List who has asked to pass."""
        return list(await self._stub.waiting())

    async def reached(self, who: str = "") -> None:
        """Wait until somebody waits here."""
        async with asyncio.timeout(PATIENCE):
            while who not in await self.waiting():  # noqa: ASYNC110  # in another process
                await asyncio.sleep(0.02)


class Gates(Protocol):
    """The fixture `gates`."""

    def __call__(self, name: str = ...) -> Gate: ...


@pytest.fixture
def gates(caller: Caller) -> Gates:
    """Address a gate by name; without one it is new."""

    def gates(name: str = "") -> Gate:
        return Gate(caller, name or uuid.uuid4().hex)

    return gates


class Visit(Protocol):
    """The fixture `visit`: connect to a path, the test's room of the chat unless one is given, with this query."""

    def __call__(self, path: str = ..., *, greet: bool = ..., **query: str) -> Awaitable[Guest]: ...


def _small_socket(address: aiohttp.AddrInfoType) -> socket.socket:
    """Make a socket that is full before long: left to itself, the system keeps tens of megabytes that nobody reads."""
    family, kind, protocol, _, _ = address
    client = socket.socket(family, kind, protocol)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 18)
    return client


@pytest.fixture
async def visit(service: Service, room: str) -> AsyncIterator[Visit]:
    """Return how to connect; who is connected has been seen by the room, whatever gateway it came through."""
    # A connection that nobody holds is closed by the garbage collector.
    guests: list[Guest] = []
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(socket_factory=_small_socket)) as session:

        async def visit(path: str = "", *, greet: bool = True, **query: str) -> Guest:
            url = f"{service.url}{path or f'/chat/{room}'}"
            # What a room sends in one frame may be larger than what aiohttp takes by default.
            guest = Guest(await session.ws_connect(url, params=query, max_msg_size=16 << 20))
            guests.append(guest)
            if greet:
                await guest.ask("echo")
            return guest

        yield visit
        await asyncio.gather(*(guest.close() for guest in guests))


class MakeClient(Protocol):
    """The fixture `make_client`: a `VeraniClient` of the test's room that comes back at once."""

    def __call__(self, path: str = ..., **query: str) -> VeraniClient: ...


@pytest.fixture
async def make_client(service: Service, room: str) -> AsyncIterator[MakeClient]:
    """Return how to make a client; it is closed when the test ends."""
    clients: list[VeraniClient] = []

    def make_client(path: str = "", **query: str) -> VeraniClient:
        url = f"{service.url}{path or f'/chat/{room}'}"
        question = "&".join(f"{name}={value}" for name, value in query.items())
        clients.append(VeraniClient(f"{url}?{question}", random=lambda: 0.01))
        return clients[-1]

    yield make_client
    for client in clients:
        await client.close()

"""Hold a test, or a service, to this: what has ended is gone, by reference counting alone.

With the garbage collector off, whatever a cycle holds stays. Two questions are asked:

- When something ends (a room's incarnation, a connection, a call, a link's session, a client), in whichever of the
  ways it can, weak references are taken to all that belongs to it. A little later they must be dead, although who owned
  it lives on (`Lifetimes.left`).
- When a test is over, with all its fixtures, no object that has an end (`MORTAL`) may be left of those that it has
  made, and no coroutine, frame or exception that has run through this project's code (`survivors`). What lives as long
  as its process (hosts, gateways, definitions) may wait for the collector.

`tests.judged` asks both of every test of a folder. A service asks the first one of itself, all the time, if its
application calls `watch_service`, and logs an ERROR.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import logging
import ssl
import types
import weakref
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import aiohttp
from aiohttp import web
from aiohttp.web_protocol import RequestHandler

import verani
import verani_actors
import verani_gateway
from verani.client import VeraniClient
from verani.client.exchange import Exchange
from verani.client.handshakes import Handshakes
from verani.client.inbox import Inbox
from verani.client.lifecycle import ClientLife
from verani.client.live_connection import LiveConnection
from verani.client.reconnector import Reconnector
from verani.client.requests import Request, Requests
from verani.client.send_queue import SendQueue
from verani.client.streams import EventStream
from verani.connect import Service, SyncService
from verani.engine.audience import Membership
from verani.engine.engine import Engine
from verani.engine.hook_run import HookRun
from verani.engine.incarnation import Incarnation
from verani.link.stream import Stream
from verani.room.context import Actor, Context, Emitter
from verani.room.definition import RoomDefinition
from verani.room.session import Session
from verani.room.stub import RoomStub
from verani_actors.links.gateway_session import GatewaySession
from verani_actors.links.link_sessions import LinkSessions
from verani_actors.links.wire import Wire
from verani_actors.rooms.hosted_room import HostedRoom
from verani_actors.rooms.room_actor import RoomActor
from verani_gateway.calls import Calls
from verani_gateway.connections.close_handshake import CloseHandshake
from verani_gateway.connections.connection import Connection
from verani_gateway.connections.in_flight import InFlight
from verani_gateway.connections.intake import Intake
from verani_gateway.connections.liveness import Liveness
from verani_gateway.connections.outbox import Outbox
from verani_gateway.connections.rate import Meter
from verani_gateway.connections.read_gate import ReadGate
from verani_gateway.connections.renewal import Renewal
from verani_gateway.connections.throttle import Throttle
from verani_gateway.gateway import Gateway
from verani_gateway.placement.host_session import HostSession
from verani_gateway.placement.remote_link import RemoteLink

__all__ = ["Lifetimes", "clear_frames", "survivors", "watch_service"]

logger = logging.getLogger(__name__)

_PACKAGES: Final = tuple(f"{Path(package.__path__[0])}/" for package in (verani, verani_actors, verani_gateway))

_TESTS: Final = f"{Path(__file__).parent}/"

# What ends before its process does.
MORTAL: Final = (
    *(Connection, Outbox, Intake, Meter, Renewal, CloseHandshake, ReadGate, InFlight, Liveness, Throttle),
    *(Engine, Actor, Context, Emitter, Session, Membership, HookRun, Incarnation, HostedRoom, RoomActor),
    *(GatewaySession, HostSession, RemoteLink, Stream, Wire),
    *(VeraniClient, Reconnector, LiveConnection, Handshakes, ClientLife, Exchange),
    *(Inbox, EventStream, SendQueue, Requests, Request, Service, SyncService, RoomStub),
    # aiohttp's, which hold ours. A transport of asyncio's is a cycle by itself, but it drops what it knows at its end.
    *(web.BaseRequest, web.StreamResponse, RequestHandler, aiohttp.ClientSession, aiohttp.ClientResponse),
    aiohttp.ClientWebSocketResponse,
)

# Passes of the loop after which what has ended must be gone; sockets take a few that wait for nothing.
_PASSES: Final = 400

# How many objects are looked at to find what holds one.
_CLIMB: Final = 12
_LOOKED_AT: Final = 3000

# A service looks this often, and complains of what it has seen so often after its end: sockets of clients that do not
# read take 5 s.
_PERIOD: Final = 1.0
_LOOKS: Final = 8


# --- what belongs to what ends -----------------------------------------------------------------------------------


def _of_engine(engine: Engine[Any, Any]) -> Iterable[object]:
    room = engine.room
    state = room._state[0] if room._state is not None and type(room._state[0]).__weakrefoffset__ else None
    actor = getattr(room, "actor", None)  # it is let go of after the end, which may be told twice
    sink = room.sink if isinstance(room.sink, HostedRoom) else None  # the test kit's is that of all incarnations
    return (engine, room, engine._hooks, actor, state, sink, *room.roster, *room.tasks._tasks)


def _of_connection(gateway: Gateway, connection: Connection, *_: object) -> Iterable[object]:
    ws = getattr(connection, "_ws", None)
    if ws is None:  # a connection of a test's own
        return ()
    renewal = connection.renewal
    refresh = renewal.task if renewal is not None else None
    parts = (connection.outbox, connection._intake, connection._meter, renewal, refresh)
    return (connection, ws, ws._req, *parts)


def _of_call(calls: Calls, number: int) -> Iterable[object]:
    return calls._waiting.get(number, ())[:1]


def _of_session(links: LinkSessions, session: Any, **_: object) -> Iterable[object]:
    return (session, session.stream, session.wire, *(future for _, future in session.waiters))


def _of_link(link: RemoteLink) -> Iterable[object]:
    return (link, link._session, link._session.stream, link._session.wire, link._task)


def _of_client(client: VeraniClient, *_: object) -> Iterable[object]:
    # The rest belongs to the client itself, whose attributes may be read after its end.
    connection = client._reconnector.connection
    used = () if connection is None else (connection, connection.ws, connection._renewal)
    return (*used, *client._exchange.requests._open.values())


def _of_service(service: Service) -> Iterable[object]:
    return (service._session,)


# Where something ends, whatever has led there.
_ENDS: Final[tuple[tuple[type, str, Callable[..., Iterable[object]]], ...]] = (
    (Engine, "end", _of_engine),
    (Gateway, "disconnected", _of_connection),
    (Calls, "_forget", _of_call),
    (LinkSessions, "give_up", _of_session),
    (RemoteLink, "_end", _of_link),
    (VeraniClient, "close", _of_client),
    (Service, "close", _of_service),
)


class _Ended:
    """A weak reference to something that has ended, and how often a service has found it since."""

    def __init__(self, name: str, ref: weakref.ref[Any]) -> None:
        self.name = name
        self.ref = ref
        self.looks = 0


class Lifetimes:
    """Weak references to all that has ended while this watches."""

    def __init__(self) -> None:
        # By the id of each, for as long as it lives.
        self._ended: dict[int, _Ended] = {}
        self._undo: list[tuple[type, str, Any]] = []

    def __enter__(self) -> Lifetimes:
        gc.disable()
        for owner, end, parts in _ENDS:
            original = getattr(owner, end)
            self._undo.append((owner, end, original))
            setattr(owner, end, self._noting(original, parts))
        return self

    def __exit__(self, *_: object) -> None:
        for owner, end, original in self._undo:
            setattr(owner, end, original)
        gc.enable()

    def _noting(self, end: Callable[..., Any], parts: Callable[..., Iterable[object]]) -> Callable[..., Any]:
        @functools.wraps(end)
        def noting(*arguments: Any, **named: Any) -> Any:
            for part in parts(*arguments, **named):
                self.note(part)
            return end(*arguments, **named)

        return noting

    def note(self, thing: object) -> None:
        """Expect that this is gone soon."""
        key = id(thing)
        if key not in self._ended:
            with suppress(TypeError):  # None, and types without weak references: the other question finds those
                ref = weakref.ref(thing, lambda _: self._ended.pop(key, None))
                self._ended[key] = _Ended(describe(thing), ref)

    def left(self) -> list[str]:
        """Describe what has ended and is not gone."""
        return [ended.name for ended in self._ended.values()]

    async def gone(self) -> None:
        """Let the loop finish what it is at, then fail for whatever has ended and is left."""
        for turn in range(_PASSES):
            if not self.left():
                return
            await asyncio.sleep(0 if turn % 4 else 0.002)
        alive = [thing for ended in self._ended.values() if (thing := ended.ref()) is not None]
        assert not alive, f"ended, but not gone: {counted(map(describe, alive))}; held: {held(alive)}"


def describe(thing: object) -> str:
    return f"{type(thing).__module__}.{type(thing).__qualname__}"


def counted(names: Iterable[str]) -> str:
    return ", ".join(f"{count} x {name}" for name, count in sorted(Counter(names).items()))


def held(things: Sequence[object]) -> str:
    """Say what holds the first of these, for whoever has to find out: a cycle that leads to it, or who refers to it."""
    climbed: list[object] = list(things)
    for thing in climbed:
        if cycle := _cycle(thing):
            return f"a cycle: {_named(cycle)}"
        if len(climbed) < _CLIMB:
            known = {id(climbed), id(things), *map(id, climbed)}
            climbed += [each for each in gc.get_referrers(thing) if id(each) not in known and not _is_ground(each)]
    return _named(climbed[len(things) :])


def _is_ground(thing: object) -> bool:
    """Tell what everything hangs on: modules, the frames that run, and what was there before."""
    return isinstance(thing, types.ModuleType) or (isinstance(thing, dict) and "__name__" in thing)


def _cycle(thing: object) -> list[object]:
    """Find the shortest way from an object back to itself."""
    ways: deque[tuple[object, list[object]]] = deque([(thing, [thing])])
    seen = {id(thing)}
    while ways and len(seen) < _LOOKED_AT:
        last, way = ways.popleft()
        for next in gc.get_referents(last):
            if next is thing:
                return way
            if id(next) not in seen and not isinstance(next, type | types.ModuleType):
                seen.add(id(next))
                ways.append((next, [*way, next]))
    return []


def _named(things: Iterable[object]) -> str:
    return "".join(f"\n  {describe(thing)} {repr(thing)[:160]}" for thing in things)


# --- what a test has left ----------------------------------------------------------------------------------------


def _runs_ours(code: types.CodeType) -> bool:
    return code.co_filename.startswith(_PACKAGES)


def _frames(error: BaseException) -> Iterator[types.FrameType]:
    trace = error.__traceback__
    while trace is not None:
        yield trace.tb_frame
        trace = trace.tb_next


def _is_left(thing: object) -> bool:
    match thing:
        case types.CoroutineType():
            return thing.cr_frame is not None and _runs_ours(thing.cr_code)
        case types.GeneratorType():
            return thing.gi_frame is not None and _runs_ours(thing.gi_code)
        case types.AsyncGeneratorType():
            return thing.ag_frame is not None and _runs_ours(thing.ag_code)
        case types.FrameType():
            return _runs_ours(thing.f_code)
        case BaseException():
            return any(_runs_ours(frame.f_code) for frame in _frames(thing))
        case _:
            return issubclass(type(thing), MORTAL)


def _is_of_tests(kind: type) -> bool:
    return (
        kind.__module__.startswith("tests.")
        and not issubclass(kind, (Lifetimes, BaseException, *MORTAL))
        and not hasattr(kind, "__del__")
    )


def clear_frames() -> None:
    """Have tests that are over forget their variables: an exception that one caught has it in its traceback."""
    for thing in gc.get_objects():
        if isinstance(thing, types.FrameType) and thing.f_code.co_filename.startswith(_TESTS):
            with suppress(RuntimeError):  # it runs
                thing.clear()


def _clear_tests() -> None:
    """Have everything that belongs to a test forget what it knows: cycles of the test's own are none of ours."""
    for thing in gc.get_objects():
        if isinstance(thing, types.FunctionType) and thing.__code__.co_filename.startswith(_TESTS):
            for cell in thing.__closure__ or ():
                cell.cell_contents = None
        elif isinstance(thing, RoomDefinition):
            thing.hooks.clear()
            thing.handlers._registered.clear()
            thing.handlers.found.clear()
        elif isinstance(thing, RequestHandler):
            # aiohttp's own: what it could not parse is an exception, whose traceback holds all (not in `verani serve`).
            thing._messages.clear()
            thing._parser = None  # dropped with a connection, and so not where a TLS handshake fails
        elif isinstance(thing, aiohttp.ClientWebSocketResponse) and (error := thing.exception()) is not None:
            error.__traceback__ = error.__context__ = None  # aiohttp's own: it keeps what ended the connection
        elif isinstance(thing, web.HTTPException | ssl.SSLError):
            thing.__traceback__ = None  # aiohttp's and asyncio's own, too: local variables
        elif _is_of_tests(type(thing)):
            getattr(thing, "__dict__", {}).clear()


def survivors() -> list[object]:
    """List what has been made since `gc.freeze` and should be gone."""
    clear_frames()
    _clear_tests()
    return [thing for thing in gc.get_objects() if _is_left(thing)]


# --- services ----------------------------------------------------------------------------------------------------


class _ServiceLifetimes(Lifetimes):
    """The same in a service, which is asked again and again."""

    def __init__(self) -> None:
        super().__init__()
        self._timer: asyncio.TimerHandle | None = None

    def note(self, thing: object) -> None:
        super().note(thing)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_PERIOD, self._look)

    def _look(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(_PERIOD, self._look)
        for ended in self._ended.values():
            ended.looks += 1
        late = [ended.name for ended in self._ended.values() if ended.looks == _LOOKS]
        if late:
            logger.error("ended, but not gone: %s", counted(late))


def watch_service() -> None:
    """Log an ERROR whenever something of what has ended in this process stays; call it once, before it serves."""
    _ServiceLifetimes().__enter__()

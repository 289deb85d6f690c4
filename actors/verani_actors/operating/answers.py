"""Answer what operators ask of a room host, and pass it on to the gateways that the asker has no link to.

An answer is JSON; what the processes say is put together by the gateway that was asked
(`verani_gateway.operating.inquiry`). Nothing here waits: answers leave over the links like everything else.

Invariants:
- An answer is far smaller than a link can bear (`verani.link.stream`): it holds up to `MAX_ROOMS` rooms and `MAX_NAMES`
  names, and what else there is to say grows with processes, states and settings only.
- Rooms are looked at in slices; the event loop has its turns between them.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from heapq import nlargest, nsmallest
from itertools import count, islice
from operator import attrgetter
from types import MappingProxyType
from typing import Final, Literal, Protocol, TypeAlias

import msgspec
from msgspec import Struct

from verani.link.messages import Ask, HostMessage, Told

from ..rooms.host import RoomHost
from ..rooms.room_status import RoomStatus
from ..upkeep.code_check import CodeCheck
from .activity import host_activity
from .measures import host_metrics, process_metrics, render

__all__ = [
    "ALL",
    "GatewayStatus",
    "HostOverview",
    "HostStatus",
    "MAX_NAMES",
    "MAX_ROOMS",
    "SLICE",
    "RoomHeld",
    "RoomsHeld",
    "RoomsOrder",
    "RoomsQuestion",
    "RoomsTold",
    "OperatedHost",
    "Topic",
    "answer",
    "gateway_target",
    "host_target",
    "list_rooms",
]

# What may be asked. The argument of `rooms` is a `RoomsQuestion`, of `room`, `sessions`, `hibernate` and `wake` a name,
# of `drain` a target, of `close` a `verani_gateway.operating.sessions.CloseOrder`.
Topic: TypeAlias = Literal[
    "rooms",
    "room",
    "sessions",
    "activity",
    "errors",
    "metrics",
    "cluster",
    "quarantine",
    "hibernate",
    "wake",
    "close",
    "drain",
]

# The target of a drain that ends the whole service.
ALL: Final = "all"

# Rooms that one process tells of in one answer: about 1 MiB, and 3 MiB with names as long as they may be.
MAX_ROOMS: Final = 5000

# Rooms that it names without telling of them: as much again.
MAX_NAMES: Final = 20_000

# Rooms that are looked at before the event loop has its next turn.
SLICE: Final = 200

# Questions of gateways that may wait for other gateways' answers.
_MAX_RELAYED: Final = 1000


RoomsOrder: TypeAlias = Literal["", "name", "connections", "inputs", "deliveries", "wake"]

_MEASURES: Final[Mapping[RoomsOrder, Callable[[RoomStatus], float]]] = MappingProxyType(
    {
        "connections": attrgetter("connections"),
        "inputs": attrgetter("inputs"),
        "deliveries": attrgetter("deliveries"),
        "wake": lambda status: status.wake_seconds or 0.0,
    }
)


class RoomsQuestion(Struct, frozen=True):
    """Which rooms to list: at most so many, all in one state, None for all; their names begin so.

    With an `order`, those of all that come first in it, be it by name or by what they have most of.
    """

    limit: int | None = None
    state: str | None = None
    prefix: str = ""
    order: RoomsOrder = ""

    def first(self, rooms: list[RoomStatus], limit: int | None) -> list[RoomStatus]:
        """Choose as many as may be."""
        if limit is None or not self.order:
            return rooms[:limit]
        if self.order == "name":
            return nsmallest(limit, rooms, attrgetter("name"))
        return nlargest(limit, rooms, _MEASURES[self.order])

    def named(self, names: list[str]) -> list[str]:
        """Choose those whose names begin so."""
        prefix = self.prefix
        return [name for name in names if name.startswith(prefix)] if prefix else names


class RoomsTold(Struct, frozen=True):
    """The rooms of a host that were asked for, those that are awake first; with `more`, it has others besides.

    `others` names rooms that are not asleep, where only sleeping ones were asked for.
    """

    rooms: list[RoomStatus]
    others: list[str] = []
    more: bool = False


class RoomHeld(Struct, frozen=True, array_like=True):
    """A room as a gateway knows it: how many of its connections are here, and whether its owner has it awake."""

    name: str
    connections: int
    awake: bool = False


class RoomsHeld(Struct, frozen=True):
    """The rooms of a gateway, those that are awake first; with `more`, it has others besides."""

    rooms: list[RoomHeld]
    more: bool = False


class HostStatus(Struct, frozen=True, kw_only=True):
    """One room host. `rooms` counts by state; `links` says of each linked gateway how the link is.

    With `restarting` it hands over its rooms, ends, and is started anew.
    """

    id: str
    machine: str
    incarnation: str
    pid: int
    epoch: int
    rooms: dict[str, int]
    links: dict[str, str]
    draining: bool = False
    restarting: bool = False


class GatewayStatus(Struct, frozen=True, kw_only=True):
    """One gateway. `links` says of each room host how the link to it is.

    With `restarting` another one is about to take its place; `problem` says why that has failed last.
    """

    id: str
    machine: str
    pid: int
    epoch: int
    connections: int
    links: dict[str, str]
    draining: bool = False
    restarting: bool = False
    problem: str = ""


def host_target(id: str) -> str:
    """Name a host as the target of a drain."""
    return f"host:{id}"


def gateway_target(id: str) -> str:
    """Name a gateway as the target of a drain."""
    return f"gateway:{id}"


class OperatedHost(Protocol):
    """The process around a room host, as operators see it (`verani_actors.processes.host_process`)."""

    @property
    def check(self) -> CodeCheck:
        """Says whether it could be started with the code that is there now."""

    def status(self) -> HostStatus:
        """Describe it."""

    def restart(self) -> None:
        """Have this host give up its rooms, end, and be started anew."""

    def drain(self, id: str) -> None:
        """Tell the registrar that a host, or with an empty id every host, is to give up its rooms and end."""


class HostOverview:
    """The host's end: give it every `Ask` and `Told` that comes over a link, and tell it of gateways that are gone."""

    def __init__(self, id: str, host: RoomHost, process: OperatedHost) -> None:
        self._id = id
        self._host = host
        self._process = process
        self._tokens = count(1)
        # Of each question that was passed on: who asked, its token there, and the gateways that still owe an answer.
        self._relayed: OrderedDict[int, tuple[str, int, set[str]]] = OrderedDict()
        self._ends = False

    def asked(self, gateway: str, ask: Ask) -> None:
        """Answer a gateway, and have all others answer it too where it asks for that."""
        others = [name for name in self._host.gateways if name != gateway] if ask.relay else []
        self._go_on(gateway, ask.token, tuple(others), self._answer(ask.topic, ask.argument))
        if not others:
            return
        token = next(self._tokens)
        self._relayed[token] = gateway, ask.token, set(others)
        if len(self._relayed) > _MAX_RELAYED:
            self._relayed.popitem(last=False)
        for name in others:
            self._send(name, Ask(token, ask.topic, ask.argument))

    def told(self, told: Told) -> None:
        """Pass the answer of a gateway on to the one that asked; one that comes too late is dropped."""
        if (asker := self._relayed.get(told.token)) is not None:
            gateway, token, owing = asker
            owing.discard(told.sender)
            self._send(gateway, Told(token, told.sender, told.body))

    def unlinked(self) -> None:
        """Take note that a gateway was given up: nobody is to wait for its answers.

        A service that ends needs its hosts until the last one is.
        """
        for gateway, token, owing in self._relayed.values():
            for name in owing - self._host.gateways.keys():
                owing.discard(name)
                self._send(gateway, Told(token, name, b""))
        if self._ends and not self._host.gateways:
            self._process.drain("")

    def _go_on(self, gateway: str, token: int, others: tuple[str, ...], answering: Iterator[bytes | None]) -> None:
        if (body := next(answering)) is not None:
            self._send(gateway, Told(token, self._id, body, others))
        else:
            asyncio.get_running_loop().call_soon(self._go_on, gateway, token, others, answering)

    def _answer(self, topic: str, argument: str) -> Iterator[bytes | None]:
        match topic:
            case "rooms":
                yield from list_rooms(self._host, msgspec.json.decode(argument, type=RoomsQuestion))
            case "drain":
                yield self._drain(argument)
            case "restart" | "check" | "checked" if argument == host_target(self._id):
                yield self._restart(topic)
            case _:
                yield answer(topic, argument, self._host, self._process.status)

    def _drain(self, target: str) -> bytes:
        kind, _, id = target.partition(":")
        if kind == "host":
            self._process.drain(id)
        elif kind == ALL:
            self._ends = True
            self.unlinked()
        return b"true"

    def _restart(self, topic: str) -> bytes:
        match topic:
            case "check":
                self._process.check.begin()
            case "checked":
                return msgspec.json.encode(self._process.check.verdict)
            case _:
                self._process.restart()
        return b"true"

    def _send(self, gateway: str, message: HostMessage) -> None:
        if (send := self._host.gateways.get(gateway)) is not None:
            send(message)


def answer(topic: str, argument: str, host: RoomHost, status: Callable[[], HostStatus]) -> bytes:
    """Say as JSON what a room host knows at once; `null` for a topic that it has nothing to say to."""
    match topic:
        case "room":
            return msgspec.json.encode(host.status(argument))
        case "activity":
            return msgspec.json.encode(host_activity(host))
        case "errors":
            return msgspec.json.encode(host.failures.listed())
        case "hibernate":
            return msgspec.json.encode(host.hibernate(argument))
        case "wake":
            return msgspec.json.encode(host.wake(argument))
        case "metrics":
            return msgspec.json.encode(render((*host_metrics(host), *process_metrics())))
        case "cluster":
            return msgspec.json.encode(status())
        case _:
            return b"null"


def list_rooms(host: RoomHost, question: RoomsQuestion) -> Iterator[bytes | None]:
    """Explain rooms as JSON (`RoomsTold`), after a None for each turn that the event loop is to have meanwhile."""
    names = question.named(_names(host, question.state))
    bound = MAX_ROOMS if question.limit is None else min(MAX_ROOMS, question.limit)
    rooms: list[RoomStatus] = []
    for number, name in enumerate(names if question.order else names[:bound], 1):
        status = host.status(name)
        if status is not None and question.state in (None, status.state):
            rooms.append(status)
        if number % SLICE == 0:
            rooms = question.first(rooms, bound)
            yield None
    rooms = question.first(rooms, bound)
    # Last, so that it counts what has woken meanwhile.
    others = list(islice(host.rooms(), MAX_NAMES + 1)) if question.state == "asleep" else []
    more = len(names) > bound or len(others) > MAX_NAMES
    yield msgspec.json.encode(RoomsTold(rooms, others[:MAX_NAMES], more))


def _names(host: RoomHost, state: str | None) -> list[str]:
    match state:
        case None:
            return host.known_rooms()
        case "asleep":
            return host.known_rooms()[len(host.rooms()) :]
        case _:
            return [name for name, its in host.rooms().items() if its == state]

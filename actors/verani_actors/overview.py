"""Answer what operators ask of a room host, and pass it on to the gateways that the asker has no link to.

An answer is JSON; what the processes say is put together by the gateway that was asked (`verani_gateway.overview`).
Nothing here waits: answers leave over the links like everything else.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from itertools import count
from typing import Final, Literal, Protocol, TypeAlias

import msgspec
from msgspec import Struct

from verani.messages import Ask, HostMessage, Told

from .families import host_families, room_states, rooms_family, written
from .host import RoomHost
from .life import RoomStatus

__all__ = [
    "ALL",
    "GatewayStatus",
    "Hosting",
    "HostOverview",
    "HostStatus",
    "RoomHeld",
    "RoomsQuestion",
    "Topic",
    "answer",
    "gateway_target",
    "host_target",
]

# What may be asked. The argument of `rooms` is a `RoomsQuestion`, of `room` a name, of `drain` a target.
Topic: TypeAlias = Literal["rooms", "room", "metrics", "cluster", "quarantine", "drain"]

# The target of a drain that ends the whole service.
ALL: Final = "all"

# Questions of gateways that may wait for other gateways' answers.
_MAX_RELAYED: Final = 1000


class RoomsQuestion(Struct, frozen=True):
    """Which rooms to list: at most so many, all in one state; None for no limit and every state."""

    limit: int | None = None
    state: str | None = None


class RoomHeld(Struct, frozen=True, array_like=True):
    """A room as a gateway knows it: how many of its connections are here, and whether its owner has it awake."""

    name: str
    connections: int
    awake: bool = False


class HostStatus(Struct, frozen=True, kw_only=True):
    """One room host. `rooms` counts by state; `links` says of each linked gateway how the link is."""

    id: str
    machine: str
    incarnation: str
    pid: int
    epoch: int
    rooms: dict[str, int]
    links: dict[str, str]
    draining: bool = False


class GatewayStatus(Struct, frozen=True, kw_only=True):
    """One gateway. `links` says of each room host how the link to it is."""

    id: str
    machine: str
    pid: int
    epoch: int
    connections: int
    links: dict[str, str]
    draining: bool = False


def host_target(id: str) -> str:
    """Name a host as the target of a drain."""
    return f"host:{id}"


def gateway_target(id: str) -> str:
    """Name a gateway as the target of a drain."""
    return f"gateway:{id}"


class Hosting(Protocol):
    """The process around a room host, as operators see it (`verani_actors.hosting`)."""

    def status(self) -> HostStatus:
        """Describe it."""

    def drain(self, id: str) -> None:
        """Tell the registrar that a host, or with an empty id every host, is to give up its rooms and end."""


class HostOverview:
    """The host's end: give it every `Ask` and `Told` that comes over a link, and tell it of gateways that are gone."""

    def __init__(self, id: str, host: RoomHost, hosting: Hosting) -> None:
        self._id = id
        self._host = host
        self._hosting = hosting
        self._tokens = count(1)
        # Of each question that was passed on: who asked, and its token there.
        self._relayed: OrderedDict[int, tuple[str, int]] = OrderedDict()
        self._ends = False

    def asked(self, gateway: str, ask: Ask) -> None:
        """Answer a gateway, and have all others answer it too where it asks for that."""
        others = [name for name in self._host.gateways if name != gateway] if ask.relay else []
        body = self._answer(ask.topic, ask.argument)
        self._send(gateway, Told(ask.token, self._id, body, tuple(others)))
        if not others:
            return
        token = next(self._tokens)
        self._relayed[token] = gateway, ask.token
        if len(self._relayed) > _MAX_RELAYED:
            self._relayed.popitem(last=False)
        for name in others:
            self._send(name, Ask(token, ask.topic, ask.argument))

    def told(self, told: Told) -> None:
        """Pass the answer of a gateway on to the one that asked; one that comes too late is dropped."""
        if (asker := self._relayed.get(told.token)) is not None:
            gateway, token = asker
            self._send(gateway, Told(token, told.sender, told.body))

    def unlinked(self) -> None:
        """Take note that a gateway was given up; a service that ends needs its hosts until the last one is."""
        if self._ends and not self._host.gateways:
            self._hosting.drain("")

    def _answer(self, topic: str, argument: str) -> bytes:
        if topic == "drain":
            return self._drain(argument)
        return answer(topic, argument, self._host, self._hosting.status)

    def _drain(self, target: str) -> bytes:
        kind, _, id = target.partition(":")
        if kind == "host":
            self._hosting.drain(id)
        elif kind == ALL:
            self._ends = True
            self.unlinked()
        return b"true"

    def _send(self, gateway: str, message: HostMessage) -> None:
        if (send := self._host.gateways.get(gateway)) is not None:
            send(message)


def answer(topic: str, argument: str, host: RoomHost, status: Callable[[], HostStatus]) -> bytes:
    """Say as JSON what a room host knows; `null` for a topic that it has nothing to say to."""
    match topic:
        case "rooms":
            return msgspec.json.encode(list(_rooms(host, msgspec.json.decode(argument, type=RoomsQuestion))))
        case "room":
            return msgspec.json.encode(host.status(argument))
        case "metrics":
            return msgspec.json.encode(written((rooms_family(room_states(host)), *host_families(host))))
        case "cluster":
            return msgspec.json.encode(status())
        case _:
            return b"null"


def _rooms(host: RoomHost, question: RoomsQuestion) -> Iterator[RoomStatus]:
    """Explain rooms; which are in what state is chosen by the asker, who must know what the others are."""
    limit = question.limit if question.state is None else None
    statuses = (host.status(name) for name in host.known_rooms()[:limit])
    return (status for status in statuses if status is not None)

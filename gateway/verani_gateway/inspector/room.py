"""Be the room that inspectors meet in: look at the service while anybody watches, and tell each what it looks at.

What is told is read-only; orders go over HTTP, like those of everybody else (`verani_gateway.operating.orders`).

Invariants:
- Nothing is asked while nobody watches: the task that looks ends with the last connection, and the room sleeps.
- A look is followed by a pause of `SHARE` times as long as it took: however large the service is, watching it takes a
  small part of its time only. Who wants to see something else waits for the next look `LEAST_PAUSE` at most.
- What is told has a limit whatever the size of the service: `MAX_LISTED` rooms, the last errors, some connections.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Annotated, Any, Final, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct

from verani import Actor, ConnectionMeta, Context, RoomDefinition, define_room
from verani_actors.operating.answers import RoomsOrder, RoomsQuestion
from verani_actors.rooms.hook_failures import MAX_FAILURES
from verani_actors.rooms.room_status import RoomStatus

from ..operating.service_answers import Answers
from ..operating.sessions import MAX_SESSIONS, SessionsTold
from .samples import LEAST_TIME, Samples, rate

__all__ = ["MAX_LISTED", "inspector_room"]

# Seconds between two looks, and between two where a watcher has asked for the second.
_PERIOD: Final = 2.0
LEAST_PAUSE: Final = 0.3
SHARE: Final = 30

# Seconds of a pause at most: a look may take long because a process does not answer.
_LONGEST_PAUSE: Final = 10.0

# Looks from one at the quarantine to the next, which hardly ever changes.
_RARELY: Final = 5

# Rooms in one list.
MAX_LISTED: Final = 200

# What a room's name may be long: that of its definition, a slash, and its id.
_RoomName = Annotated[str, Meta(max_length=200)]


class View(Struct, frozen=True):
    """What one watcher looks at: rooms whose names begin so, in a state or any, those that come first in an order.

    And one of them closely.
    """

    prefix: _RoomName = ""
    state: Literal["", "awake", "asleep"] = ""
    room: _RoomName = ""
    order: RoomsOrder = ""


class Watcher(ConnectionMeta, kw_only=True):
    """One page that is open."""

    view: View = msgspec.field(default_factory=View)


class RoomRow(Struct, frozen=True):
    """A room in a list; rates are per second since the look before, None where there was none."""

    status: RoomStatus
    inputs_rate: float | None
    deliveries_rate: float | None


# When, and what a room had been given and had said by then.
_Counted = tuple[float, int, int]


class Looking:
    """What the room knows until it sleeps."""

    def __init__(self) -> None:
        self.samples = Samples()
        self.task: asyncio.Task[Any] | None = None
        # Set when somebody wants to see something else.
        self.wanted = asyncio.Event()
        self.looks = 0
        # How many errors of hooks there were when they were told last.
        self.errors = -1
        # Of the rooms that were listed at the last look: what they had been given and had said, and when that was.
        self.counts: dict[str, _Counted] = {}


_Room = Actor[Watcher, Looking]
_Ctx = Context[Watcher, Looking]
_Key = TypeVar("_Key")


def inspector_room(service: Answers) -> RoomDefinition[Watcher, Looking]:
    """Define the room that watches a service."""
    room = define_room(
        "inspector",
        meta=Watcher,
        state=Looking,
        websocket_path="/inspector/ws",
        hibernate_after=30.0,
        extract_meta=lambda request: Watcher(user_id="operator"),
        name_from_request=lambda request: "service",
    )

    @room.on_connect
    def came(ctx: _Ctx) -> None:
        state = ctx.actor.state
        ctx.emit("history", {"samples": state.samples.listed()})
        state.errors, state.looks = -1, 0  # whoever comes is told everything
        _look_soon(ctx.actor, service)

    @room.on("watch")
    def watch(ctx: _Ctx, view: View) -> None:
        ctx.meta.view = view
        _look_soon(ctx.actor, service)

    @room.on_error
    def failed(error: BaseException, ctx: _Ctx) -> None:
        for session in tuple(ctx.actor):  # they come back, and the looking begins anew
            ctx.actor.close(session, 1011, "the inspector has failed")

    return room


def _look_soon(actor: _Room, service: Answers) -> None:
    state = actor.state
    state.wanted.set()
    if state.task is None or state.task.done():
        state.task = actor.spawn(_look_on(actor, service))


async def _look_on(actor: _Room, service: Answers) -> None:
    """Look again and again, as long as somebody watches."""
    state, now = actor.state, asyncio.get_running_loop().time
    while actor.get_session_count():
        state.wanted.clear()
        began = now()
        await _look(actor, service)
        pause = min(_LONGEST_PAUSE, max(_PERIOD, SHARE * (now() - began)))
        await asyncio.sleep(LEAST_PAUSE)
        with suppress(TimeoutError):
            async with asyncio.timeout(pause - LEAST_PAUSE):
                await state.wanted.wait()


async def _look(actor: _Room, service: Answers) -> None:
    """Tell everybody what the service does, and each what it looks at."""
    state = actor.state
    activity = await service.activity()
    sample = state.samples.take(activity, now=asyncio.get_running_loop().time(), at=time.time())
    actor.emit_to_channel("default", "sample", {"sample": sample, "rooms": activity.rooms})
    actor.emit_to_channel("default", "cluster", await service.cluster())
    if activity.errors != state.errors:
        last = (await service.errors())[:MAX_FAILURES]
        actor.emit_to_channel("default", "errors", {"errors": last, "count": activity.errors})
        state.errors = activity.errors
    if state.looks % _RARELY == 0:
        actor.emit_to_channel("default", "quarantine", {"inputs": await service.quarantine()})
    state.looks += 1
    await _tell_lists(actor, service)
    await _tell_rooms(actor, service)


async def _tell_lists(actor: _Room, service: Answers) -> None:
    state, counts = actor.state, {}
    for (prefix, kind, order), watchers in _by(actor, lambda view: (view.prefix, view.state, view.order)):
        listing = await service.rooms(RoomsQuestion(MAX_LISTED, kind or None, prefix, order))
        now = asyncio.get_running_loop().time()
        rows = []
        async for status in listing.rooms:
            row, counts[status.name] = _row(status, state.counts.get(status.name), now)
            rows.append(row)
        is_cut = listing.cut or len(rows) >= MAX_LISTED
        told = {"prefix": prefix, "state": kind, "order": order, "rows": rows, "cut": is_cut}
        actor.broadcast("default", {"type": "rooms", **told}, client_ids=watchers)
    state.counts = counts


async def _tell_rooms(actor: _Room, service: Answers) -> None:
    for name, watchers in _by(actor, lambda view: view.room):
        if not name:
            continue
        told = {"name": name, "status": await service.room(name), "told": _first(await service.sessions(name))}
        actor.broadcast("default", {"type": "room", **told}, client_ids=watchers)


def _first(told: SessionsTold) -> SessionsTold:
    """Keep as many as one gateway tells of: there may be many gateways."""
    return SessionsTold(told.sessions[:MAX_SESSIONS], told.more or len(told.sessions) > MAX_SESSIONS)


def _by(actor: _Room, choose: Callable[[View], _Key]) -> list[tuple[_Key, list[str]]]:
    """Group the client ids of the watchers by what they look at."""
    found: dict[_Key, list[str]] = {}
    for session in actor:
        found.setdefault(choose(session.meta.view), []).append(session.client_id)
    return list(found.items())


def _row(status: RoomStatus, before: _Counted | None, now: float) -> tuple[RoomRow, _Counted]:
    """Compare a room with what was counted before; returns what to compare it with the next time, too."""
    counted = now, status.inputs, status.deliveries
    if before is None:
        return RoomRow(status, None, None), counted
    then, inputs, deliveries = before
    row = RoomRow(status, rate(status.inputs, inputs, now - then), rate(status.deliveries, deliveries, now - then))
    return row, counted if now - then >= LEAST_TIME else before

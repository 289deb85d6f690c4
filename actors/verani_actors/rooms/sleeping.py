"""Choose which rooms are to sleep, for the hibernation manager: the idle ones, those that want to, those above the cap.

The idle clocks, the cap and the wishes are kept here; how a room is put to sleep is the manager's business.

Invariants:
- A room is retired only when nothing keeps it awake, and at most once before it has gone or stayed.
- The cap is soft: a wake never waits for it, and rooms younger than `min_awake` stay.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import islice
from typing import Any, Final

import msgspec
from thespian.actors import ActorAddress

from verani.engine.engine import Engine
from verani.room.definition import RoomDefinition
from verani.settings import Settings

from .hibernation import LookAround, RetireAll
from .hosted_room import AWAKE, HostedRoom, RoomChange, RoomState
from .idle_clocks import IdleRooms

__all__ = ["Sleeping"]

# Idle rooms are looked for so often, in seconds: at most, and at least, however soon they are to sleep.
_LONGEST: Final = 0.25
_SHORTEST: Final = 0.001


class Sleeping:
    """Idle clocks, wishes and the cap of one host."""

    def __init__(
        self,
        definitions: Iterable[RoomDefinition[Any, Any]],
        settings: Settings,
        rooms: Mapping[str, HostedRoom],
        *,
        limited: Counter[str],
        tell_manager: Callable[[object], None],
        clock: Callable[[], float],
    ) -> None:
        self._settings = settings
        self._rooms = rooms
        self._limited = limited
        self._tell_manager = tell_manager
        self._clock = clock
        # Seconds without anything to do after which rooms of each definition are to sleep; None for never.
        self._timeouts = {
            each.name: settings.hibernate_after if each.hibernate_after is msgspec.UNSET else each.hibernate_after
            for each in definitions
        }
        self._idle = IdleRooms()
        # Engines of rooms that want to sleep and were not retired yet, and the rooms of them to retire at once.
        self.drowsy: set[Engine[Any, Any]] = set()
        self._able: list[HostedRoom] = []
        # Since when rooms retire.
        self._retiring: dict[str, float] = {}
        # How many rooms more than `max_awake_rooms` were awake at the last look.
        self.excess = 0
        # A room has gone, or has to go no more.
        self.changed = asyncio.Event()

    @property
    def period(self) -> float:
        """Seconds from one look for idle rooms to the next."""
        timeouts = [timeout / 4 for timeout in self._timeouts.values() if timeout is not None]
        return max(_SHORTEST, min([_LONGEST, *timeouts]))

    # --- activity --------------------------------------------------------------------------------------

    def mark_active(self, room: HostedRoom) -> None:
        """Start the room's idle clock anew; have it retired if it waits to sleep, and nothing keeps it awake."""
        timeout = self._timeouts[room.definition.name]
        if timeout is not None and room.state is AWAKE:
            self._idle.mark(room.name, timeout, self._clock())
        if self.drowsy and room.engine in self.drowsy and room.kept_awake_by is None:
            self._able.append(room)
            self._tell_manager(LookAround())

    def forget(self, room: HostedRoom) -> None:
        """Stop the clock of a room that is not to sleep here."""
        self._idle.forget(room.name)

    # --- retiring --------------------------------------------------------------------------------------

    def retire_idle(self) -> Iterator[ActorAddress]:
        """Retire the rooms that are to sleep and yield their actors, each before the next is looked at."""
        now = self._clock()
        for name in self._idle.due(now):
            room = self._rooms[name]
            if room.kept_awake_by is None:
                yield self._retire(room)
            else:
                self.mark_active(room)
        for engine in tuple(self.drowsy):
            wanting = self._rooms.get(engine.name)
            if wanting is not None and self._may_retire(wanting):
                yield self._retire(wanting)
        self.excess = max(0, len(self._rooms) - len(self._retiring) - self._settings.max_awake_rooms)
        if self.excess:
            yield from self._retire_oldest(self.excess, now)

    def retire_wanting(self) -> list[ActorAddress]:
        """Retire the rooms that want to sleep and have just become able to."""
        able, self._able = self._able, []
        return [self._retire(room) for room in able if room.engine in self.drowsy and self._may_retire(room)]

    def retire_all(self, *, stops: bool) -> list[ActorAddress]:
        """Retire the rooms that move, or all if the host stops, that have nothing in flight."""
        states = {RoomState.MOVING, RoomState.AWAKE} if stops else {RoomState.MOVING}
        return [self._retire(room) for room in self._rooms.values() if room.state in states and not room.in_flight]

    async def put_to_sleep(self, remain: Callable[[], bool], grace: float, *, stops: bool = False) -> None:
        """Have rooms go until none remain; raises TimeoutError if some do after `grace` seconds."""
        async with asyncio.timeout(grace):
            while remain():
                self._tell_manager(RetireAll(stops))
                self.changed.clear()
                with suppress(TimeoutError):  # some rooms have something to do: ask again
                    await asyncio.wait_for(self.changed.wait(), _LONGEST)

    def _retire_oldest(self, excess: int, now: float) -> list[ActorAddress]:
        candidates = (self._rooms[name] for name in self._idle.oldest())
        fit = (r for r in candidates if now - r.life.since >= self._min_awake(r) and r.kept_awake_by is None)
        retiring = [self._retire(room) for room in list(islice(fit, excess))]
        self._limited["max_awake_rooms"] += len(retiring)
        return retiring

    def _min_awake(self, room: HostedRoom) -> float:
        least = room.definition.min_awake
        return self._settings.min_awake if least is msgspec.UNSET else least

    def _may_retire(self, room: HostedRoom) -> bool:
        return room.state is RoomState.AWAKE and room.kept_awake_by is None

    def _retire(self, room: HostedRoom) -> ActorAddress:
        assert room.address is not None
        room.enter(RoomChange.RETIRED)
        self._retiring[room.name] = self._clock()
        self._idle.forget(room.name)
        return room.address

    # --- what comes of it ------------------------------------------------------------------------------

    def stayed(self, name: str) -> None:
        """A room that was retired has something to do after all: deliver what came meanwhile."""
        room = self._rooms[name]
        room.enter(RoomChange.STAYED)
        del self._retiring[name]
        room.deliver_waiting()
        self.mark_active(room)

    def exited(self, room: HostedRoom) -> bool:
        """A room's actor is gone; True if it was retired."""
        self._idle.forget(room.name)
        self.changed.set()
        return self._retiring.pop(room.name, None) is not None

    # --- what is asked ---------------------------------------------------------------------------------

    def retired_at(self, room: HostedRoom) -> float | None:
        """Say when a room was retired, None if it was not."""
        return self._retiring.get(room.name)

    def explain(self, room: HostedRoom) -> str:
        """Name what keeps a room awake."""
        never = self._timeouts[room.definition.name] is None
        return room.kept_awake_by or ("hibernate_after never" if never else "recent activity")

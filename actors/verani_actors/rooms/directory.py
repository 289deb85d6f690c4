"""Know the rooms of a host by name: those that have an actor, and how each has lived, as long as it is awake or sleeps
with connections.

Invariant: every room that has an actor, or gets one, has a life; the others that have one sleep with connections.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, Final, get_args

from verani.engine.hook_measures import HookMeasures
from verani.histogram import Histogram
from verani.room.context import WakeReason
from verani.room.definition import RoomDefinition

from .hosted_room import HostedRoom
from .room_status import RoomLife, RoomStatus
from .sleeping import Sleeping

__all__ = ["RoomDirectory"]

# Of what a room does, in its status.
_LONGEST_NAME: Final = 100


class RoomDirectory:
    """All rooms that a host knows of."""

    def __init__(self, clock: Callable[[], float], definitions: Iterable[RoomDefinition[Any, Any]]) -> None:
        self._clock = clock
        self.rooms: dict[str, HostedRoom] = {}
        # How many of them are in each state.
        self.counts: Counter[str] = Counter()
        self.lives: dict[str, RoomLife] = {}
        # How often rooms woke and slept, and what woke them.
        self.wakes = 0
        self.sleeps = 0
        self.woken_by: Counter[str] = Counter(dict.fromkeys(get_args(WakeReason), 0))
        # How long wakes took, and how hooks do, by name of the definition.
        self.wake_times: dict[str, Histogram] = {}
        self.hooks = {definition.name: HookMeasures(definition) for definition in definitions}

    def states(self) -> dict[str, str]:
        """Name the rooms that are not asleep, and their states."""
        return {name: room.state.shown for name, room in self.rooms.items()}

    def names(self) -> list[str]:
        """Name the rooms that are not asleep, then those that sleep with connections."""
        return [*self.rooms, *(name for name in self.lives if name not in self.rooms)]

    @property
    def sleeping_count(self) -> int:
        """How many rooms sleep with connections."""
        return len(self.lives) - len(self.rooms)

    def begin_life(self, name: str, reason: WakeReason) -> RoomLife:
        """Note that a room wakes."""
        now = self._clock()
        life = self.lives.get(name)
        if life is None:
            life = self.lives[name] = RoomLife(now)
        life.wakes(now, reason)
        self.wakes += 1
        self.woken_by[reason] += 1
        return life

    def woke(self, room: HostedRoom) -> None:
        """Note that a wake is over, hooks included."""
        took = room.life.woke(self._clock())
        self.wake_times.setdefault(room.definition.name, Histogram()).observe(took)

    def end_life(self, room: HostedRoom, holders: dict[str, int], *, slept: bool) -> None:
        """Note that a room has no actor any more; `holders` are the gateways of its connections, with their numbers."""
        del self.rooms[room.name]
        self.counts[room.state.shown] -= 1
        self.sleeps += slept
        room.life.ended(self._clock(), slept=slept, gateways=holders)

    def forget_sleeping(self, is_gone: Callable[[str, RoomLife], bool]) -> None:
        """Forget the rooms that sleep without anybody at a gateway of this host, or for another host to wake."""
        sleeping = [(name, life) for name, life in self.lives.items() if name not in self.rooms]
        for name, life in sleeping:
            if is_gone(name, life):
                del self.lives[name]

    def lose(self, gateway: str) -> None:
        """Forget the rooms that sleep with connections at this gateway alone."""
        self.forget_sleeping(lambda name, life: life.gateways.pop(gateway, None) is not None and not life.gateways)

    def longest_wait(self, gateway: str) -> float:
        """Say for how many seconds a wake has waited for the records of a gateway; 0 if none does."""
        now = self._clock()
        waking = (r for r in self.rooms.values() if not r.has_opened and gateway in r.pulled.expected)
        return now - min((room.life.since for room in waking), default=now)

    def status(self, name: str, connections: int | None, sleeping: Sleeping) -> RoomStatus | None:
        """Explain one room; None for one that this host knows nothing of. `connections` where somebody knows better."""
        life, room, now = self.lives.get(name), self.rooms.get(name), self._clock()
        if life is None:
            return None
        engine = room.engine if room is not None else None
        if connections is None:
            connections = engine.connections if engine is not None else life.connections
        retired_at = sleeping.retired_at(room) if room is not None else None
        doing = engine.doing if engine is not None else None
        return RoomStatus(
            name=name,
            definition=name.partition("/")[0],
            state=room.state.shown if room is not None else "asleep",
            connections=connections,
            state_seconds=now - (life.since if retired_at is None else retired_at),
            kept_awake_by=sleeping.explain(room) if room is not None else None,
            woken_by=life.woken_by,
            wake_seconds=life.wake_seconds,
            cycles=life.cycles,
            awake_seconds=life.awake_seconds + (now - life.since if room is not None else 0.0),
            inputs=life.inputs,
            deliveries=life.deliveries,
            doing=doing[0][:_LONGEST_NAME] if doing is not None else None,
            doing_seconds=now - doing[1] if doing is not None else None,
        )

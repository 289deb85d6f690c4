"""Count what a service does, in one small answer of each process: what charts are made of, far cheaper than metrics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from msgspec import Struct

from ..rooms.host import RoomHost
from .measures import room_states

__all__ = ["Activity", "host_activity", "sum_up"]


class Activity(Struct, frozen=True, kw_only=True):
    """What one process, or a whole service, has and has done since it began; each process says what it knows.

    `rooms` are counted by state. `frames` came from clients, `deliveries` went to them. `errors` were raised by hooks.
    """

    connections: int = 0
    frames: int = 0
    deliveries: int = 0
    rooms: dict[str, int] = {}
    wakes: int = 0
    errors: int = 0


def host_activity(host: RoomHost) -> Activity:
    """Count what a room host does."""
    return Activity(rooms=dict(room_states(host)), wakes=host.wakes, errors=host.failures.count)


def sum_up(parts: Iterable[Activity]) -> Activity:
    """Add up what the processes of a service do."""
    parts = tuple(parts)
    rooms: Counter[str] = Counter()
    for part in parts:
        rooms.update(part.rooms)
    return Activity(
        connections=sum(part.connections for part in parts),
        frames=sum(part.frames for part in parts),
        deliveries=sum(part.deliveries for part in parts),
        rooms=dict(rooms),
        wakes=sum(part.wakes for part in parts),
        errors=sum(part.errors for part in parts),
    )

"""Limit the inputs in flight of a room and of a gateway, and resume connections that wait for them.

Invariants:
- A waiter is resumed when its room has processed an input, or when any room has after the whole gateway was full.
- A waiter that waits no more is not kept.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from .attachments import Attachments

__all__ = ["MAX_GATEWAY_IN_FLIGHT", "MAX_ROOM_IN_FLIGHT", "Congestion", "Resumable"]

# Bytes of unprocessed inputs above which the sockets of a room, or of the gateway, are not read.
MAX_ROOM_IN_FLIGHT = 4 << 20
MAX_GATEWAY_IN_FLIGHT = 64 << 20


class Resumable(Protocol):
    """What waits, and looks again when it is resumed."""

    def resume(self) -> None:
        """Look again."""


class Congestion:
    """The rooms of one gateway that take no more for now."""

    def __init__(self, attachments: Attachments) -> None:
        self.attachments = attachments
        # Below so many bytes of all rooms together, none is over its limit.
        self.least = min(MAX_ROOM_IN_FLIGHT, MAX_GATEWAY_IN_FLIGHT)
        # By room; a dict, so that they are resumed in the order in which they came.
        self.waiting: dict[str, dict[Resumable, None]] = {}

    @property
    def is_full(self) -> bool:
        """Whether the inputs of all rooms together are over their limit."""
        return self.attachments.in_flight >= MAX_GATEWAY_IN_FLIGHT

    def holds_up(self, room: str) -> bool:
        """Tell whether the inputs of this room, or of all rooms, are over their limits."""
        held = self.attachments.rooms.get(room)
        return self.attachments.in_flight >= MAX_GATEWAY_IN_FLIGHT or (
            held is not None and held.in_flight >= MAX_ROOM_IN_FLIGHT
        )

    def wait_for(self, room: str, waiter: Resumable) -> None:
        """Resume this one when the room has made progress."""
        self.waiting.setdefault(room, {})[waiter] = None

    def wait_no_more(self, room: str, waiter: Resumable) -> None:
        """Forget what `wait_for` noted."""
        waiting = self.waiting.get(room)
        if waiting is not None:
            waiting.pop(waiter, None)
            if not waiting:
                del self.waiting[room]

    def ease(self, rooms: Iterable[str], *, was_full: bool = False) -> None:
        """Resume the waiters of rooms that have made progress; of all rooms, if the gateway `was_full` before."""
        if self.waiting and not self.is_full:
            for room in tuple(self.waiting) if was_full else rooms:
                for waiter in tuple(self.waiting.get(room, ())):
                    waiter.resume()

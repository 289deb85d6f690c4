"""Limit connections: whether any are accepted, how many in all, from one address and in one room.

Invariants:
- A handshake counts from the moment it is allowed, so that those that are being identified cannot exceed a cap.
- Once the entrance is closed it stays so, and no handshake waits for the application any longer.
"""

from __future__ import annotations

import asyncio

from verani.errors import RateLimited, RoomBusy
from verani.settings import Settings

from ..http.addresses import owner_of
from ..inputs.attachments import Attachments
from ..inputs.metrics import Metrics
from .descriptors import Descriptors
from .tally import Tally

__all__ = ["Entrance"]


class Entrance:
    """The limits of one gateway; `progress` is set when a place is free again."""

    def __init__(self, attachments: Attachments, metrics: Metrics, progress: asyncio.Event) -> None:
        self.is_open = False
        self.descriptors = Descriptors()
        # The time limits of the handshakes that wait for `extract_meta` and the like.
        self.identifying: set[asyncio.Timeout] = set()
        # Places taken: connections, and handshakes that may become some.
        self.taken = 0
        self._is_closed = False
        self._most: int | None = None
        self._most_per_address = 0
        self._most_per_room = 0
        self._addresses: Tally[str] = Tally()
        self._attachments = attachments
        self._metrics = metrics
        self._progress = progress

    def limit(self, settings: Settings) -> None:
        """Take no more connections than the settings say, or where they say nothing, than there are descriptors for."""
        most = settings.max_connections
        self._most = self.descriptors.websockets if most is None else most or None
        self.descriptors.make_room(self._most)
        self._most_per_address = settings.max_connections_per_address
        self._most_per_room = settings.max_connections_per_room

    def open(self) -> None:
        """Take connections from now on, unless it is too late."""
        self.is_open = not self._is_closed

    def close(self) -> None:
        """Refuse new connections with 503 from now on, also those that the application is still identifying."""
        self._is_closed = True
        self.is_open = False
        for scope in self.identifying:
            if not scope.expired():  # a hook may take its time to be cancelled
                scope.reschedule(asyncio.get_running_loop().time())

    def check_open(self) -> None:
        """Raise `RoomBusy` unless connections are taken."""
        if not self.is_open:
            raise RoomBusy("the service is going down", retry_after=1)

    def check_room(self, room: str) -> None:
        """Raise `RoomBusy` if this room takes no further connection."""
        held = self._attachments.rooms.get(room)
        if self._most_per_room and held is not None and len(held.records) >= self._most_per_room:
            self._metrics.limited["max_connections_per_room"] += 1
            raise RoomBusy("the room is full", retry_after=5)

    def reserve(self, address: str | None) -> None:
        """Take a place for a handshake from this address; raises `RoomBusy` or `RateLimited` where there is none."""
        self.check_open()
        if self._most is not None and self.taken >= self._most:
            self._metrics.limited["max_connections"] += 1
            raise RoomBusy("the service has no room for another connection", retry_after=5)
        owner = owner_of(address)
        if self._most_per_address and self._addresses[owner] >= self._most_per_address:
            self._metrics.limited["max_connections_per_address"] += 1
            raise RateLimited("too many connections from this address", retry_after=5)
        self._addresses[owner] += 1
        self.taken += 1

    def release(self, address: str | None) -> None:
        """Give back what `reserve` took."""
        self.taken -= 1
        self._addresses.lower(owner_of(address))
        self._progress.set()

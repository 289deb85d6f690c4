"""Know how far each room is ahead of its gateways, and hold it until they have caught up.

Counted is what links between processes carry and gateways have not confirmed; a gateway in the same process takes what
it is given at once.

Invariants:
- A room that is more than `ROOM_AHEAD` ahead of any gateway handles no further input; neither does one that is ahead at
  all of a gateway which `LINK_AHEAD` waits for.
- Other rooms go on: what a room has to wait for is its own output.
- What is held goes on when its gateways have confirmed enough, or are gone. So what waits for a gateway is bounded, by
  that and the output of one hook for each room; a gateway that confirms, however slowly, is waited for.
- What no input paces, tasks that rooms spawn, is refused above `MAX_AHEAD`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from typing import Final

from verani.link.messages import Attach, Deliver, Entry, EntryBatch, HostMessage, Output, Reply, Seat

__all__ = ["LINK_AHEAD", "MAX_AHEAD", "ROOM_AHEAD", "Flow", "weight_of"]

# In bytes of the link, as `weight_of` counts them.
ROOM_AHEAD: Final = 1 << 20
LINK_AHEAD: Final = 16 << 20
MAX_AHEAD: Final = 64 << 20

# What an output or an attachment costs besides its payload: names, numbers, and the work.
OVERHEAD: Final = 32

# What a member of an audience costs, as a part of what it would cost alone: its gateway writes to each, joined.
_SHARE: Final = 16


def weight_of(part: Entry | Output | Attach | Seat) -> int:
    """Weigh an entry, or a part of one: its bytes on the link, and the work that it is at the gateway."""
    # Asked for everything that is said: `match` and `isinstance` are slow for structs.
    if type(part) is Deliver:
        size = OVERHEAD + len(part.payload)
        return size + size * len(part.connections) // _SHARE
    if type(part) is Entry:
        return OVERHEAD + sum(map(weight_of, part.outputs)) + sum(map(weight_of, part.attachments))
    if type(part) is Attach:
        return OVERHEAD + len(part.attachment)
    if type(part) is Reply:
        return OVERHEAD + len(part.outcome.result or b"")
    return OVERHEAD


class _Ahead:
    """What one gateway has not confirmed."""

    __slots__ = ("packets", "processed", "rooms", "total")

    def __init__(self) -> None:
        # Number of the last packet, and what it has of rooms: names and weights.
        self.packets: deque[tuple[int, list[tuple[str, int]]]] = deque()
        self.rooms: dict[str, int] = {}
        # The last input that is processed of each room which has said anything but that it sleeps; 0 if none is.
        self.processed: dict[str, int] = {}
        self.total = 0


class Flow:
    """All rooms of a host, and all gateways that are linked to it."""

    def __init__(self) -> None:
        self._links: dict[str, _Ahead] = {}
        # Those that may hold a room: others are not behind by as much as one room may be ahead.
        self.far: dict[str, _Ahead] = {}
        self._held: dict[str, asyncio.Future[None]] = {}

    # --- what links tell -------------------------------------------------------------------------------

    def sent(self, gateway: str, number: int, messages: Iterable[HostMessage]) -> None:
        """Count what was put on the link to a gateway, up to this packet."""
        entries = [entry for message in messages if type(message) is EntryBatch for entry in message.entries]
        if not entries:
            return
        ahead = self._links.get(gateway)
        if ahead is None:
            ahead = self._links[gateway] = _Ahead()
        weights: list[tuple[str, int]] = []
        processed = ahead.processed
        for entry in entries:
            weights.append((entry.room, weight_of(entry)))
            if not entry.seq:
                continue  # turned away, not processed: it may come again
            if entry.processed is not None:
                processed[entry.room] = entry.processed
            elif entry.room not in processed and (entry.outputs or entry.attachments):
                processed[entry.room] = 0
        ahead.packets.append((number, weights))
        for room, weight in weights:
            ahead.rooms[room] = ahead.rooms.get(room, 0) + weight
            ahead.total += weight
        if ahead.total > ROOM_AHEAD:
            self.far[gateway] = ahead

    def confirmed(self, gateway: str, number: int) -> None:
        """Note that a gateway has everything up to this packet."""
        ahead = self._links.get(gateway)
        if ahead is None:
            return
        packets, was_far = ahead.packets, ahead.total > LINK_AHEAD
        rooms: dict[str, None] = {}
        while packets and packets[0][0] <= number:
            for room, weight in packets.popleft()[1]:
                rooms[room] = None
                left = ahead.rooms[room] - weight
                if left:
                    ahead.rooms[room] = left
                else:
                    del ahead.rooms[room]
                    ahead.processed.pop(room, None)
                ahead.total -= weight
        if ahead.total <= ROOM_AHEAD:
            self.far.pop(gateway, None)
        # Confirmations are frequent, and those that are held may be many.
        if self._held:
            self._release(tuple(self._held) if was_far and ahead.total <= LINK_AHEAD else rooms)

    def lost(self, gateway: str) -> None:
        """Forget a gateway that is not waited for any more."""
        self._links.pop(gateway, None)
        self.far.pop(gateway, None)
        self._release(tuple(self._held))

    def _release(self, rooms: Iterable[str]) -> None:
        """Have those of these rooms go on that are held no more."""
        for room in rooms:
            future = self._held.get(room)
            if future is not None and not future.done() and not self.is_held(room):
                future.set_result(None)

    # --- what is asked ---------------------------------------------------------------------------------

    def unheard(self, gateway: str) -> dict[str, int]:
        """Name the rooms of which a gateway may not have heard the last, with its last input that was processed."""
        ahead = self._links.get(gateway)
        return dict(ahead.processed) if ahead is not None else {}

    def ahead(self, room: str) -> int:
        """Say how far a room is ahead of the gateway that is most behind it."""
        return max((ahead.rooms.get(room, 0) for ahead in self._links.values()), default=0)

    def is_held(self, room: str) -> bool:
        """True if the room is to handle no further input for the time being."""
        for ahead in self.far.values():
            weight = ahead.rooms.get(room, 0)
            if weight > ROOM_AHEAD or (weight and ahead.total > LINK_AHEAD):
                return True
        return False

    def holds(self, gateway: str) -> bool:
        """True if a room is held for this gateway."""
        ahead = self._links.get(gateway)
        return ahead is not None and (
            ahead.total > LINK_AHEAD or any(weight > ROOM_AHEAD for weight in ahead.rooms.values())
        )

    async def wait(self, room: str) -> None:
        """Return when the room is not held any more; one task waits for a room."""
        while self.is_held(room):
            future = self._held[room] = asyncio.get_running_loop().create_future()
            try:
                await future
            finally:
                if self._held.get(room) is future:
                    del self._held[room]

"""Gather what the rooms of a host say, one entry for each gateway and room, and send it at the end of the tick.

Invariants:
- All effects of one tick leave in one batch per gateway, but for what a room says while it is visited. Entries are
  applied whole, so the outputs of an input and its acknowledgement become visible together; an input in hand that has
  had an effect is marked as begun.
- What is gathered weighs `MAX_PENDING` at most, and the output of one hook.
- That an incarnation is over is said after all that it said.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Final, Protocol

from verani.link.messages import (
    Arrival,
    Attach,
    Deliver,
    Ended,
    Entry,
    EntryBatch,
    HostMessage,
    Output,
    Seat,
)

from ..links.flow import OVERHEAD, weight_of
from .hearsay import Reach

__all__ = ["MAX_PENDING", "TickEntries", "Speaker"]

# How much output may wait for the end of the tick, as `weight_of` counts it; as many bytes as a gateway joins.
MAX_PENDING: Final = 256 << 10

_NOTHING: Final[Mapping[str, Entry]] = {}


class Speaker(Protocol):
    """A room, as what it says is gathered."""

    name: str
    reach: Reach
    # Its inputs that are not processed; the first is the one in hand, which may have had an effect.
    in_flight: deque[tuple[str, Arrival]]
    has_begun: bool


class TickEntries:
    """What is to leave at the end of this tick."""

    def __init__(self, gateways: Mapping[str, Callable[[HostMessage], None]]) -> None:
        """Gather for `gateways`, which are linked, by what carries messages to them."""
        self.gateways = gateways
        # Whether there is, or was, more than one gateway to tell of others.
        self.speaks_of_others = False
        # By gateway, then by the name of the room.
        self.pending: dict[str, dict[str, Entry]] = {}
        self._speakers: dict[str, Speaker] = {}
        # Of what is pending, as far as it was counted.
        self.weight = 0
        # Rooms of which an input has had its first effect since the last flush, and may be in hand still.
        self.begun: set[Speaker] = set()
        # How many rooms have inputs in flight.
        self.working = 0
        self._seq = 0
        # The broadcast that was put last.
        self._before: Deliver | None = None
        # Rooms whose incarnation is over, for the links that carried entries of it.
        self._over: dict[str, list[str]] = {}
        self._flushing: asyncio.Handle | None = None

    # --- gathering -------------------------------------------------------------------------------------

    def entry(self, gateway: str, room: Speaker) -> Entry:
        """Return the entry of this tick for a room and a gateway."""
        entries = self.pending.get(gateway)
        if entries is None:
            entries = self.pending[gateway] = {}
            if self._flushing is None:
                self._flushing = asyncio.get_running_loop().call_soon(self._send)
        entry = entries.get(room.name)
        if entry is None:
            self._seq += 1
            room.reach.told[gateway] = self._seq
            room.reach.owed.setdefault(gateway, 0)
            entry = entries[room.name] = Entry(room.name, seq=self._seq, others=())
            self._speakers[room.name] = room
        return entry

    def add(self, gateway: str, room: Speaker, output: Output) -> Entry:
        """Add an output, without a look at the limit: what belongs to it is noted first."""
        entry = self.pending.get(gateway, _NOTHING).get(room.name) or self.entry(gateway, room)
        entry.outputs.append(output)
        if type(output) is Deliver and (len(output.connections) == 1 or self._joins(output)):
            self.weight += OVERHEAD + len(output.payload)
        else:
            self.weight += weight_of(output)
        return entry

    def add_attachment(self, gateway: str, room: Speaker, attach: Attach | Seat) -> Entry:
        """Add an attachment, or the place of a session."""
        entry = self.entry(gateway, room)
        entry.attachments.append(attach)
        self.weight += weight_of(attach)
        return entry

    def acknowledge(self, gateway: str, room: Speaker, number: int, *, is_last: bool) -> None:
        """Say that a room has processed an input; when no room has any left, entries do not wait for the next tick.

        A gateway that was given up is told nothing.
        """
        if gateway in self.gateways:
            entry = self.pending.get(gateway, _NOTHING).get(room.name) or self.entry(gateway, room)
            entry.processed = number
        if number:  # else it is the end of a session, by the host
            room.reach.processed[gateway] = number
        if is_last:
            self.working -= 1
        if self._flushing is not None and (not self.working or self.weight > MAX_PENDING):
            self._flushing.cancel()
            self._send()

    def refuse(self, gateway: str, room: str, number: int, output: Output) -> None:
        """Say that an input is processed which is for no room of this host."""
        entry = self.pending.setdefault(gateway, {}).setdefault(room, Entry(room))
        entry.processed = number
        entry.outputs.append(output)
        self._schedule()

    def over(self, room: Speaker) -> None:
        """Have the links learn that this incarnation is over."""
        self.begun.discard(room)
        for gateway in room.reach.told.keys() & self.gateways.keys():
            self._over.setdefault(gateway, []).append(room.name)
            self._schedule()

    def drop(self, room: Speaker) -> None:
        """Drop what a room has said in this tick."""
        self.begun.discard(room)
        for entries in self.pending.values():
            entries.pop(room.name, None)

    def lose(self, gateway: str) -> None:
        """Drop what is for this gateway."""
        self.pending.pop(gateway, None)

    def _joins(self, output: Deliver) -> bool:
        """Tell whether a gateway writes this together with the output before: then it costs little more than that."""
        before, self._before = self._before, output
        return (
            before is not None
            and before.connections is output.connections
            and before.exclude == output.exclude
            and self.weight > 0
        )

    # --- sending ---------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Send what was gathered before the tick ends: more than memory should hold, or nobody has more to say."""
        if self._flushing is not None:
            self._flushing.cancel()
            self._send()

    def _schedule(self) -> None:
        if self._flushing is None:
            self._flushing = asyncio.get_running_loop().call_soon(self._send)

    def _send(self) -> None:
        for room in self.begun:
            if room.has_begun:
                self._mark_begun(room)
        self.begun.clear()
        self._flushing = None
        pending, self.pending = self.pending, {}
        speakers, self._speakers = self._speakers, {}
        self.weight, self._before = 0, None
        self.speaks_of_others |= len(self.gateways) > 1
        if self.speaks_of_others:
            _add_reach(pending, speakers.values())
        for gateway, entries in pending.items():
            send = self.gateways.get(gateway)
            if send is not None:
                send(EntryBatch(list(entries.values())))
        if self._over:
            self._send_ended()

    def _send_ended(self) -> None:
        ended, self._over = self._over, {}
        for gateway, rooms in ended.items():
            if (send := self.gateways.get(gateway)) is not None:
                send(Ended(rooms))

    def _mark_begun(self, room: Speaker) -> None:
        """Tell the gateway whose input is in hand what has been seen of it, by whomever."""
        gateway, arrival = room.in_flight[0]
        if gateway in self.gateways:
            self.entry(gateway, room).begun = arrival.number


def _add_reach(pending: Mapping[str, Mapping[str, Entry]], rooms: Iterable[Speaker]) -> None:
    """Write into the entries of a tick what their rooms have said to other gateways, now that all of it is there."""
    for room in rooms:
        others = room.reach.said()
        for entries in pending.values():
            if (entry := entries.get(room.name)) is not None:
                entry.others = others

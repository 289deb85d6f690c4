"""Give rooms to the hosts that own them, with their inputs, in order, each to one host at a time.

An input that the room had visibly begun is not run again, and one that hosts die of is sent alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Final

import msgspec

from verani.errors import CallFailed
from verani.link.epoch import Death
from verani.link.messages import Arrival, CallInput, Input, InputBatch, InterruptedInput, Rebuild

from .link import Link
from .peers import Peers
from .placed_rooms import PlacedRoom, PlacedRooms
from .placement import GatewaySide
from .suspects import Suspects

__all__ = ["Owners"]

# Bytes of the inputs that are sent again in one message, unless one input alone has more.
_BATCH: Final = 1 << 20

_FAILED: Final = 1011, "the room has failed"


class Owners:
    """Which host has which room of this gateway, by the epoch in force, and what that host was given."""

    def __init__(
        self, gateway: GatewaySide, rooms: PlacedRooms, peers: Peers, suspects: Suspects, counts: Counter[str]
    ) -> None:
        self._gateway = gateway
        self._rooms = rooms
        self._peers = peers
        self._suspects = suspects
        self._counts = counts

    def place(self, rooms: Iterable[PlacedRoom], *, before: int | None = None, again: bool = False) -> None:
        """Give rooms to their owners, as far as these can be reached, with all their unprocessed inputs.

        In the epoch `before`, those that move were not theirs; None for owners that have only now been reached. Those
        that stay with their owner are given to it only with `again`.
        """
        placed: list[PlacedRoom] = []
        for room in rooms:
            owner = self._peers.owner(room.name)
            if owner is room.owner and not again:
                continue
            if owner is not room.owner:
                # An owner may have had the room once before, and left words of that time on their way.
                room.pull_after = before
            room.owner = owner
            if owner is not None:
                self._hand_over(room, owner)
                placed.append(room)
        self.send_again((room, 0) for room in placed)

    def _hand_over(self, room: PlacedRoom, owner: Link) -> None:
        """Have a room that was awake at its last owner wake at this one."""
        last, room.last_owner = room.last_owner, owner.member.incarnation
        if last not in ("", room.last_owner):
            self._counts["moved"] += 1
        if last and room.awake:
            owner.send(Rebuild(room.name, "moved" if last in self._peers else "crash", self._peers.epoch.number))

    def put(self, input: Input) -> None:
        """Send an input to the owner of its room, in its turn."""
        room = self._rooms[input.room]
        owner = room.owner
        if owner is None:
            owner = self._peers.owner(room.name)
            if owner is None:
                return
            # It is new: what had to wait for its owner was given to it as soon as that was there.
            room.owner, room.last_owner = owner, owner.member.incarnation
        if room.waits_after is None:
            owner.put(input)

    def send_again(self, rooms: Iterable[tuple[PlacedRoom, int]]) -> None:
        """Send what is unprocessed of each room after a number, though its owner may have some of it."""
        batches: dict[Link, list[Arrival]] = {}
        sizes: Counter[Link] = Counter()
        for room, number in rooms:
            link = room.owner
            if link is None:
                continue
            for arrival, size in self._due(room, number):
                sizes[link] += size
                if sizes[link] > _BATCH and link in batches:
                    self._send_batch(link, batches.pop(link))
                    sizes[link] = size
                batches.setdefault(link, []).append(arrival)
        for link, batch in batches.items():
            self._send_batch(link, batch)

    def _send_batch(self, link: Link, batch: list[Arrival]) -> None:
        self._counts["replayed"] += len(batch)
        link.send(InputBatch(batch, self._peers.epoch.number, again=True))

    def _due(self, room: PlacedRoom, number: int) -> Iterator[tuple[Arrival, int]]:
        """Yield, with their sizes, what is unprocessed after a number, but nothing after an input that goes alone."""
        alone = self._suspects.of(room.name)
        room.waits_after = None
        for input, size in room.inputs.unprocessed:
            if input.number <= number:
                continue
            if type(input) is CallInput:
                input = msgspec.structs.replace(input, timeout=self._gateway.calls.left(input.number))
            if input.number == room.begun:
                self._counts["interrupted"] += 1
                yield InterruptedInput(input), size
            else:
                yield input, size
            if input.number in alone:
                room.waits_after = input.number
                return

    def judge(self, death: Death) -> None:
        """Do what a death demands, before the room goes to its next owner."""
        verdict = self._suspects.judge(death)
        room = self._rooms.find(death.room)
        if room is None or all(input.number != death.number for input, _ in room.inputs.unprocessed):
            self._suspects.settle(death.room, death.number)  # it was processed and is past
        match verdict:
            case "failed" if room is not None:
                self._gateway.delivery.forget(room.inputs, *_FAILED, CallFailed.code)
            case "quarantine" if room is not None:
                if (kept := self._gateway.delivery.set_aside(room.inputs, death.number)) is not None:
                    self._suspects.keep(*kept)

    def settle(self, room: PlacedRoom, processed: int) -> None:
        """Let the inputs go that waited for one that is processed."""
        for number in tuple(self._suspects.of(room.name)):
            if number <= processed:
                self._suspects.settle(room.name, number)
        if room.waits_after is not None and room.waits_after <= processed and room.owner is not None:
            self.send_again([(room, room.waits_after)])

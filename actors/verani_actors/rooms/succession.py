"""Have one incarnation of a room after the other: each from its wake to the exit of its actor.

Invariants:
- A room has at most one actor: the next incarnation begins when the actor of the last one is gone.
- What the last incarnation left, and what came meanwhile, is for the next one, in order.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from functools import cached_property
from typing import Any

from thespian.actors import ActorAddress

from verani.engine.room_events import reason_of
from verani.room.context import WakeReason
from verani.room.definition import RoomDefinition

from ..upkeep.memory import Trimmer
from .carried_calls import CarriedCalls
from .hibernation import Wake
from .hosted_room import HostedRoom, RoomServices, RoomState
from .opening import RoomOpening
from .shared import SharedParts

__all__ = ["Succession"]

logger = logging.getLogger(__name__)


class Succession:
    """Begins and ends the incarnations of one host's rooms."""

    def __init__(
        self,
        parts: SharedParts,
        definitions: Iterable[RoomDefinition[Any, Any]],
        *,
        opening: RoomOpening,
        calls: CarriedCalls,
        kind: type[HostedRoom],
    ) -> None:
        """Have rooms of this kind."""
        self._parts = parts
        self._definitions = {definition.name: definition for definition in definitions}
        self._opening = opening
        self._calls = calls
        self._kind = kind
        self._by_address: dict[str, HostedRoom] = {}
        self._trimmer = Trimmer()

    def wake(self, name: str, reason: WakeReason) -> HostedRoom | None:
        """Begin an incarnation of a room that has none; None if its definition is not of this host."""
        definition = self._definitions.get(name.partition("/")[0])
        if definition is None or not self._parts.actors.has_started:
            return None
        room = self._parts.directory.rooms[name] = self._kind(
            name,
            definition,
            self._parts.directory.begin_life(name, reason),
            self._opening.new_pull(),
            self._services,
        )
        self._parts.actors.tell_manager(Wake(name))
        return room

    def wakes_silently(self, name: str) -> bool:
        """Tell whether no code of the application's runs when a room wakes in which nobody is."""
        definition = self._definitions.get(name.partition("/")[0])
        return definition is not None and definition.wakes_silently

    @cached_property
    def _services(self) -> RoomServices:
        parts = self._parts
        return RoomServices(
            parts.entries, self._calls, parts.sleeping.mark_active, parts.actors.base.tell, parts.directory.counts
        )

    def created(self, name: str, address: ActorAddress) -> None:
        """The manager made the room's actor: ask the gateways for its records."""
        room = self._parts.directory.rooms[name]
        # What the last incarnation left must be applied before its gateway answers with the state it led to.
        self._parts.entries.flush()
        room.address = address
        self._by_address[address.actorAddressString] = room
        if room.state is RoomState.GONE:
            self._parts.actors.base.kill(address)
        else:
            self._opening.pull(room)

    def exited(self, address: ActorAddress) -> None:
        """A room's actor is gone: after its sleep, or because something killed it."""
        room = self._by_address.pop(address.actorAddressString, None)
        if room is None:
            return
        logger.debug("room is asleep", extra={"room": room.name})
        slept = self._parts.sleeping.exited(room)
        left = room.left(self._parts.gateways)
        found = room.engine.gateways if room.engine is not None else {}
        holders = {gateway: count for gateway, count in found.items() if gateway in self._parts.gateways}
        room.let_go()
        self._calls.forget(room.name)
        self._parts.directory.end_life(room, holders, slept=slept)
        moves = room.state.moves and not room.is_back(self._parts.ownership)
        if moves or (not left and not holders and room.wanted is None):
            del self._parts.directory.lives[room.name]
        if (left or room.wanted is not None) and not moves:
            self._succeed(room, left, room.wanted or (reason_of(left[0][1]) if slept else "crash"))
        elif slept and not moves:
            for gateway in holders:
                self._parts.entries.entry(gateway, room).asleep = True
        self._parts.entries.over(room)

    def _succeed(self, room: HostedRoom, left: list[tuple[str, Any]], reason: WakeReason) -> None:
        successor = self.wake(room.name, reason)
        assert successor is not None
        for gateway, arrival in left:
            successor.wait(gateway, arrival)

    def trim(self) -> None:
        """Give the memory of incarnations that are over back to the system; call it every now and then."""
        self._trimmer.look(self._parts.directory.wakes - len(self._parts.directory.rooms))

    def end(self) -> list[HostedRoom]:
        """End all at once, as the host does; return the rooms, which are to be let go of."""
        rooms = list(self._parts.directory.rooms.values())
        for room in rooms:
            room.end()
            self._parts.entries.begun.discard(room)
        self._parts.directory.rooms.clear()
        self._parts.directory.counts.clear()
        self._by_address.clear()
        return rooms

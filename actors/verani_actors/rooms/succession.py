"""Have one incarnation of a room after the other: each from its wake to the exit of its actor.

Invariants:
- A room has at most one actor: the next incarnation begins when the actor of the last one is gone.
- What the last incarnation left, and what came meanwhile, is for the next one, in order.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from thespian.actors import ActorAddress

from verani.engine.room_events import reason_of
from verani.link.messages import HostMessage
from verani.room.context import WakeReason
from verani.room.definition import RoomDefinition

from ..upkeep.allocator import Trimmer
from .actor_system import RoomActors
from .carried_calls import CarriedCalls
from .directory import RoomDirectory
from .hibernation import Wake
from .hosted_room import HostedRoom, RoomState
from .opening import RoomOpening
from .sleeping import Sleeping
from .tick_entries import TickEntries

__all__ = ["Succession"]

logger = logging.getLogger(__name__)


class Succession:
    """Begins and ends the incarnations of one host's rooms."""

    def __init__(
        self,
        definitions: Iterable[RoomDefinition[Any, Any]],
        directory: RoomDirectory,
        gateways: Mapping[str, Callable[[HostMessage], None]],
        *,
        opening: RoomOpening,
        sleeping: Sleeping,
        entries: TickEntries,
        calls: CarriedCalls,
        actors: RoomActors,
    ) -> None:
        self._definitions = {definition.name: definition for definition in definitions}
        self._directory = directory
        self._gateways = gateways
        self._opening = opening
        self._sleeping = sleeping
        self._entries = entries
        self._calls = calls
        self._actors = actors
        self._by_address: dict[str, HostedRoom] = {}
        self._trimmer = Trimmer()

    def wake(self, name: str, reason: WakeReason) -> HostedRoom | None:
        """Begin an incarnation of a room that has none; None if its definition is not of this host."""
        definition = self._definitions.get(name.partition("/")[0])
        if definition is None or not self._actors.has_started:
            return None
        room = self._directory.rooms[name] = HostedRoom(
            name,
            definition,
            self._directory.begin_life(name, reason),
            self._opening.new_pull(),
            entries=self._entries,
            calls=self._calls,
            caught_up=self._sleeping.mark_active,
            tell=self._actors.base.tell,
        )
        self._actors.tell_manager(Wake(name))
        return room

    def created(self, name: str, address: ActorAddress) -> None:
        """The manager made the room's actor: ask the gateways for its records."""
        room = self._directory.rooms[name]
        # What the last incarnation left must be applied before its gateway answers with the state it led to.
        self._entries.flush()
        room.address = address
        self._by_address[address.actorAddressString] = room
        if room.state is RoomState.GONE:
            self._actors.base.kill(address)
        else:
            self._opening.pull(room)

    def exited(self, address: ActorAddress) -> None:
        """A room's actor is gone: after its sleep, or because something killed it."""
        room = self._by_address.pop(address.actorAddressString, None)
        if room is None:
            return
        logger.debug("room is asleep", extra={"room": room.name})
        slept = self._sleeping.exited(room)
        left = room.left(self._gateways)
        found = room.engine.gateways if room.engine is not None else {}
        holders = {gateway: count for gateway, count in found.items() if gateway in self._gateways}
        room.let_go()
        self._calls.forget(room.name)
        self._directory.end_life(room, holders, slept=slept)
        if room.state.moves or (not left and not holders and room.wanted is None):
            del self._directory.lives[room.name]
        if (left or room.wanted is not None) and not room.state.moves:
            self._succeed(room, left, room.wanted or (reason_of(left[0][1]) if slept else "crash"))
        elif slept and not room.state.moves:
            for gateway in holders:
                self._entries.entry(gateway, room).asleep = True
        self._entries.over(room)

    def _succeed(self, room: HostedRoom, left: list[tuple[str, Any]], reason: WakeReason) -> None:
        successor = self.wake(room.name, reason)
        assert successor is not None
        for gateway, arrival in left:
            successor.wait(gateway, arrival)

    def trim(self) -> None:
        """Give the memory of incarnations that are over back to the system; call it every now and then."""
        self._trimmer.look(self._directory.wakes - len(self._directory.rooms))

    def end(self) -> list[HostedRoom]:
        """End all at once, as the host does; return the rooms, which are to be let go of."""
        rooms = list(self._directory.rooms.values())
        for room in rooms:
            room.end()
            self._entries.begun.discard(room)
        self._directory.rooms.clear()
        self._by_address.clear()
        return rooms

"""Part with the rooms that another host is to have, and keep those that are this host's again.

Invariants:
- A room that moves takes nothing more, and what waits for it is not acknowledged: its gateways send it to the owner.
- Of a room that is abandoned nothing leaves from then on, and it knows nothing of what it was given: should the room be
  this host's again before its actor is gone, its gateways have sent that again, to the next incarnation.
"""

from __future__ import annotations

import logging

from .hosted_room import HostedRoom, RoomChange, RoomState
from .shared import SharedParts

__all__ = ["Moving"]

logger = logging.getLogger(__name__)


class Moving:
    """Compares the rooms of a host with what it owns."""

    def __init__(self, parts: SharedParts) -> None:
        self._parts = parts
        self._rooms = parts.directory.rooms

    async def release(self, grace: float) -> None:
        """Put the rooms to sleep that this host does not own any more, and return when they are gone.

        What their actors have in hand is finished, the tasks they spawned are cancelled. After `grace` seconds those
        that are left are torn down, and what they had not finished is left to their next owner.
        """
        for room in self._rooms.values():
            if not room.state.moves and not self._parts.ownership.owns(room.name):
                self._move(room, RoomChange.RELEASED)
        try:
            await self._parts.sleeping.put_to_sleep(
                lambda: any(room.state.moves for room in self._rooms.values()), grace
            )
        except TimeoutError:
            self.abandon()
        self._parts.entries.flush()

    def keep(self) -> None:
        """Take back what was to move and is this host's again, now that an epoch says so."""
        for room in self._rooms.values():
            if room.state.moves and self._parts.ownership.owns(room.name):
                room.enter(RoomChange.KEPT)
                self._parts.sleeping.mark_active(room)
        self._parts.sleeping.changed.set()

    def abandon(self) -> None:
        """Tear down at once the rooms that this host does not own any more; nothing of them leaves from now on."""
        for room in tuple(self._rooms.values()):
            if not self._parts.ownership.owns(room.name) and room.state is not RoomState.GONE:
                logger.debug("room is given up", extra={"room": room.name})
                self._move(room, RoomChange.ABANDONED)
                self._parts.entries.drop(room)
                room.cut_off()
                if room.address is not None:  # else it is killed when it is there
                    self._parts.actors.base.kill(room.address)
        self._parts.directory.forget_sleeping(lambda name, life: not self._parts.ownership.owns(name))

    def _move(self, room: HostedRoom, change: RoomChange) -> None:
        room.drop_waiting()
        self._parts.sleeping.forget(room)
        room.enter(change)

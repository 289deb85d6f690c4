"""Handle inputs in the very call that brings them, in rooms that have nothing else to do.

What is over before anything else can happen needs nothing of what inputs have that wait: nobody keeps it, queues it or
acknowledges it, and the actor of the room does not hear of it.

Invariants:
- A room is entered at the bottom of the stack only, and only while it is awake, no hook of it runs, it has no input in
  flight, and no actor has a message. So its inputs are handled in order, one after the other.
- A connection is let in by a visit of its own only where no hook hears of it: that is safe wherever it comes from.
- What a room said before a visit has left before; what it says meanwhile is applied as a whole when it is left.
- An input that has to wait after all is in flight from then on, and the actor goes on with it.
- A visit takes `_TURN` at most, and a room is not visited again while it has had as much of the last `_WINDOW`, nor, if
  it is large, in the same window: there it pays to join what is said.
"""

from __future__ import annotations

import logging
from time import monotonic
from typing import Final

from verani.engine.hook_runner import Rest
from verani.link.messages import Attach, Connect, FrameInput, Output, Seat

from .host import RoomHost
from .hosted_room import AWAKE, HostedRoom
from .room_actor import GoOn
from .tick_entries import MAX_PENDING

__all__ = ["Visits"]

logger = logging.getLogger(__name__)

# Seconds.
_TURN: Final = 0.005
_WINDOW: Final = 0.01
# Without a pause of so many seconds between them, visits follow each other; more of them than so many are those of a
# busy host.
_PAUSE: Final = 0.0001
_LONE: Final = 8
# A room with more connections is large.
_FEW: Final = 8


class Visits:
    """The visits to the rooms of one host, one after the other, with inputs of the gateway in the same process."""

    def __init__(self, host: RoomHost, gateway: str) -> None:
        """Begin when the host has started."""
        self._rooms = host.directory.rooms
        self._entries = host.entries
        self._actors = host.actors
        self._messages = host.actors.base.messages
        self._caught_up = host.sleeping.mark_active
        self._gateway = gateway
        # The room that is visited.
        self._room: HostedRoom | None = None
        # When this visit began, and when the one before was over.
        self._since = self._left = 0.0
        # How many visits have followed each other without a pause, and whether they are so few that there is not much
        # to be joined in this tick.
        self._streak = 0
        self.is_lone = True
        # When the window began, and how long each room was visited in it.
        self._window = 0.0
        self._spent: dict[str, float] = {}
        # Whether anything was said for the input whose rest is to be put off.
        self._has_begun = False

    def let_in(self, connect: Connect) -> tuple[list[Output], list[Attach | Seat]] | None:
        """Have a room let a connection in of which no hook hears; None where that, or anybody else's turn, is to wait.

        Returns what the room has said. No code of the application runs, so it takes no time that counts.
        """
        room = self._idle(connect.room, None)
        if room is None:
            return None
        if self._entries.pending:
            self._entries.flush()
        assert room.engine is not None
        self._entries.visited = room
        room.life.inputs += 1
        try:
            rest = room.engine.start(connect, self._gateway)
        finally:
            said = self._entries.leave()
        assert rest is None, "no hook hears of it"
        self._caught_up(room)
        return said

    def enter(self, name: str, event: str) -> bool:
        """Begin to visit a room with a frame; False if it cannot handle that at once, or others are to have a turn."""
        room = self._idle(name, event)
        if room is None:
            return False
        now = monotonic()
        if now - self._window > _WINDOW:
            self._window = now
            self._spent.clear()
        elif (spent := self._spent.get(name)) is not None and (
            spent > _TURN or len(room.engine.room.members.sessions) > _FEW  # type: ignore[union-attr]  # it is awake
        ):
            return False
        self._streak = 1 if now - self._left > _PAUSE else self._streak + 1
        self.is_lone = self._streak <= _LONE
        self._since = now
        if self._entries.pending:
            self._entries.flush()
        self._room = self._entries.visited = room
        return True

    def _idle(self, name: str, event: str | None) -> HostedRoom | None:
        """Return a room if it would handle a frame at once, or let a connection in."""
        room = self._rooms.get(name)
        if (
            room is None
            or room.state is not AWAKE
            or room.in_flight
            or self._messages
            or room.engine is None
            or not room.engine.takes_at_once(event)
        ):
            return None
        return room

    @property
    def is_long(self) -> bool:
        """Whether the room has taken, or said, as much as it may in one visit."""
        return monotonic() - self._since > _TURN or self._entries.said_weight > MAX_PENDING

    def handle(self, input: FrameInput) -> Rest[bool] | None:
        """Have the room handle an input; returns the rest of it, if it has to wait, for `put_off`."""
        room, entries = self._room, self._entries
        assert room is not None
        assert room.engine is not None
        room.life.inputs += 1
        before = len(entries.said)
        try:
            rest = room.engine.start_frame(self._gateway, input)
        except BaseException:  # a bug of ours, as for `RoomActor`
            logger.exception("an input of room %s could not be handled", room.name)
            return None
        if rest is not None:
            self._has_begun = len(entries.said) > before
        return rest

    def leave(self) -> tuple[list[Output], list[Attach | Seat]]:
        """End the visit; returns what the room has said."""
        room, self._room = self._room, None
        assert room is not None
        said, attached = self._entries.leave()
        self._left = now = monotonic()
        self._spent[room.name] = self._spent.get(room.name, 0.0) + now - self._since
        self._caught_up(room)
        return said, attached

    def put_off(self, input: FrameInput, rest: Rest[bool]) -> None:
        """Have the actor of the room that was left do the rest of its last input."""
        room = self._rooms[input.room]
        assert room.address is not None
        room.in_flight.append((self._gateway, input))
        room.taken[self._gateway] = input.number
        room.has_begun = self._has_begun
        self._entries.working += 1
        self._actors.tell(room.address, GoOn(rest))

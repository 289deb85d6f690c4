"""Handle inputs in the very call that brings them, in rooms that have nothing else to do.

What is over before anything else can happen needs nothing of what inputs have that wait: nobody keeps it, queues it or
acknowledges it, and the actor of the room does not hear of it.

Invariants:
- A room is visited with frames at the bottom of the stack only, and only while it is awake, no hook of it runs, nothing
  is in flight or waits to leave, no actor has a message, and its own handles none. So its inputs are handled in order,
  one after the other, and what it said before has left before.
- A connection is let in by a visit of its own only where no hook hears of it: that is safe wherever it comes from. A
  room that sleeps wakes for it at once where none hears of that either, and no actor has a message.
- What a room says while it is visited is applied as a whole when it is left.
- An input that has to wait after all is in flight from then on, before all that its hook has brought about, and the
  actor goes on with it.
- Hooks run in a context of their own, or they would see the context variables of who read, or was let in.
- A visit takes `_TURN` and a hook at most. A room is visited for half of the time, and `_TURN`, at most; one that is
  large, not twice within `_PACE`: there it pays to join what is said.
"""

from __future__ import annotations

import logging
from contextvars import copy_context
from time import monotonic
from typing import Final

from verani.engine.hook_runner import Rest
from verani.link.messages import Connect, FrameInput

from ..links.flow import weight_of
from .host import RoomHost
from .hosted_room import AWAKE, HostedRoom, Visit
from .room_actor import GoOn
from .tick_entries import MAX_PENDING

__all__ = ["Visits"]

logger = logging.getLogger(__name__)

# Seconds.
_TURN: Final = 0.005
_PACE: Final = 0.01
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
        self._host = host
        self._rooms = host.directory.rooms
        self._entries = host.entries
        self._actors = host.actors
        self._is_quiet = host.actors.base.is_quiet
        self._context = copy_context()
        self._caught_up = host.sleeping.mark_active
        self._gateway = gateway
        # The room that is visited.
        self._room: HostedRoom | None = None
        self._visit = Visit()
        # When this visit began, and when the one before was over.
        self._since = self._left = 0.0
        # How many visits have followed each other without a pause, and whether they are so few that there is not much
        # to be joined in this tick.
        self._streak = 0
        self.is_lone = True

    def let_in(self, connect: Connect) -> Visit | None:
        """Have a room let a connection in of which no hook hears; None where that, or anybody else's turn, is to wait.

        Returns what the room has said.
        """
        room = self._idle(connect.room, None)
        if room is None and self._host.wake_at_once(connect.room):
            room = self._idle(connect.room, None)
        if room is None:
            return None
        assert room.engine is not None
        visit = room.visit = Visit()
        room.life.inputs += 1
        try:
            self._context.copy().run(room.engine.start, connect, self._gateway)
        except BaseException:  # a bug of ours, as for `RoomActor`
            logger.exception("an input of room %s could not be handled", room.name)
        room.visit = None
        self._caught_up(room)
        return visit

    def enter(self, name: str, event: str) -> bool:
        """Begin to visit a room with a frame; False if it cannot handle that at once, or others are to have a turn."""
        room = self._idle(name, event)
        if room is None:
            return False
        now = monotonic()
        if now < room.rests_until:
            return False
        self._streak = 1 if now - self._left > _PAUSE else self._streak + 1
        self.is_lone = self._streak <= _LONE
        self._since = now
        self._room = room
        self._visit = room.visit = Visit()
        return True

    def _idle(self, name: str, event: str | None) -> HostedRoom | None:
        """Return a room if it would handle a frame at once, or let a connection in."""
        room, is_quiet = self._rooms.get(name), self._is_quiet
        if (
            room is None
            or room.state is not AWAKE
            or room.in_flight
            or self._entries.pending
            or room.address is None
            or not is_quiet(room.address)
            or room.engine is None
            or not room.engine.takes_at_once(event)
        ):
            return None
        return room

    def goes_on(self) -> bool:
        """Take one more frame, unless the room has taken, or said, as much as it may in one visit."""
        visit = self._visit
        visit.weight += sum(map(weight_of, visit.said[visit.weighed :]))
        visit.weighed = len(visit.said)
        visit.before = visit.weighed + len(visit.attached)
        return monotonic() - self._since <= _TURN and visit.weight <= MAX_PENDING

    def handle(self, frame: FrameInput) -> Rest[object] | None:
        """Have the room handle a frame; returns the rest of it, if it has to wait, for `put_off`."""
        room = self._room
        assert room is not None
        assert room.engine is not None
        room.life.inputs += 1
        variables = self._context.copy()
        try:
            return variables.run(room.engine.start_frame, self._gateway, frame, variables)
        except BaseException:  # a bug of ours, as for `RoomActor`
            logger.exception("an input of room %s could not be handled", room.name)
            return None

    def leave(self) -> Visit:
        """End the visit; returns what the room has said."""
        room, caught_up, self._room = self._room, self._caught_up, None
        assert room is not None
        room.visit = None
        if room.waiting:
            room.deliver_waiting()
        self._left = now = monotonic()
        since, rests_until = self._since, room.rests_until
        if rests_until < since - _TURN:
            rests_until = since - _TURN
        rests_until += 2 * (now - since)
        if len(room.engine.room.members.sessions) > _FEW and rests_until < since + _PACE:  # type: ignore[union-attr]
            rests_until = since + _PACE
        room.rests_until = rests_until
        caught_up(room)
        return self._visit

    def put_off(self, frame: FrameInput, rest: Rest[object]) -> None:
        """Have the actor of the room that is visited do the rest of its last input, once the visit is over."""
        room, visit = self._room, self._visit
        assert room is not None
        assert room.address is not None
        assert room.engine is not None
        room.in_flight.append((self._gateway, frame))
        room.taken[self._gateway] = max(frame.number, room.taken.get(self._gateway, 0))
        room.has_begun = len(visit.said) + len(visit.attached) > visit.before
        self._entries.working += 1
        self._actors.tell(room.address, GoOn(room.engine.rest_of(frame, self._gateway, rest)))

"""Handle inputs in the very call that brings them, in rooms that have nothing else to do.

What is over before anything else can happen needs nothing of what inputs have that wait: nobody keeps it, queues it or
acknowledges it, and the actor of the room does not hear of it.

Invariants:
- A room is visited with frames at the bottom of the stack only, and only while it is awake, no hook of it runs, nothing
  is in flight or waits to leave, no actor has a message, and its own handles none. So its inputs are handled in order,
  one after the other, and what it said before has left before.
- A connection is let in by a visit of its own only where no hook hears of it: that is safe wherever it comes from. A
  room in which nobody is wakes for it at once where none hears of that either, and no actor has a message.
- What a room says while it is visited is applied as a whole when it is left.
- An input that has to wait after all is in flight from then on, before all that its hook has brought about, and the
  actor goes on with it.
- Hooks run in a context of their own, or they would see the context variables of who read, or was let in.
- A visit takes `_TURN` and a hook at most. A room that has had more of a `_WINDOW` is not visited again for as long;
  one that is large, not in the same window: there it pays to join what is said.
"""

from __future__ import annotations

import logging
from contextvars import copy_context
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
        # When this visit began, and when the one before was over.
        self._since = self._left = 0.0
        # How many visits have followed each other without a pause, and whether they are so few that there is not much
        # to be joined in this tick.
        self._streak = 0
        self.is_lone = True
        # When the window began, and how long each room was visited in it.
        self._window = 0.0
        self._spent: dict[str, float] = {}
        # Until when rooms that have had more than their turn are not visited.
        self._resting: dict[str, float] = {}
        # Whether anything was said, or committed, for the input whose rest is to be put off.
        self._has_begun = False

    def let_in(self, connect: Connect) -> tuple[list[Output], list[Attach | Seat]] | None:
        """Have a room let a connection in of which no hook hears; None where that, or anybody else's turn, is to wait.

        Returns what the room has said.
        """
        room = self._idle(connect.room, None)
        if room is None and self._host.wake_at_once(connect.room):
            room = self._idle(connect.room, None)
        if room is None:
            return None
        self._room = self._entries.visited = room
        self.handle(connect)
        self._room = None
        said = self._entries.leave()
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
            if self._resting:
                self._resting = {name: until for name, until in self._resting.items() if until > now}
        elif name in self._spent and len(room.engine.room.members.sessions) > _FEW:  # type: ignore[union-attr]  # awake
            return False
        if self._resting and self._resting.get(name, now) > now:
            return False
        self._streak = 1 if now - self._left > _PAUSE else self._streak + 1
        self.is_lone = self._streak <= _LONE
        self._since = now
        self._room = self._entries.visited = room
        return True

    def _idle(self, name: str, event: str | None) -> HostedRoom | None:
        """Return a room if it would handle a frame at once, or let a connection in."""
        room = self._rooms.get(name)
        if (
            room is None
            or room.state is not AWAKE
            or room.in_flight
            or self._entries.pending
            or room.address is None
            or not self._is_quiet(room.address)
            or room.engine is None
            or not room.engine.takes_at_once(event)
        ):
            return None
        return room

    @property
    def is_long(self) -> bool:
        """Whether the room has taken, or said, as much as it may in one visit."""
        return monotonic() - self._since > _TURN or self._entries.said_weight > MAX_PENDING

    def handle(self, input: Connect | FrameInput) -> Rest[bool] | None:
        """Have the room handle an input; returns the rest of it, if it has to wait, for `put_off`."""
        room, entries = self._room, self._entries
        assert room is not None
        assert room.engine is not None
        room.life.inputs += 1
        before = len(entries.said) + len(entries.attached)
        try:
            if type(input) is FrameInput:
                rest = self._context.run(room.engine.start_frame, input, self._gateway)
            else:
                rest = self._context.run(room.engine.start, input, self._gateway)
        except BaseException:  # a bug of ours, as for `RoomActor`
            logger.exception("an input of room %s could not be handled", room.name)
            return None
        if rest is not None:
            self._has_begun = len(entries.said) + len(entries.attached) > before
        return rest

    def leave(self) -> tuple[list[Output], list[Attach | Seat]]:
        """End the visit; returns what the room has said."""
        room, self._room = self._room, None
        assert room is not None
        said, attached = self._entries.leave()
        if room.waiting:
            room.deliver_waiting()
        self._left = now = monotonic()
        spent = self._spent[room.name] = self._spent.get(room.name, 0.0) + now - self._since
        if spent > _TURN:
            self._resting[room.name] = now + spent
        self._caught_up(room)
        return said, attached

    def put_off(self, input: FrameInput, rest: Rest[bool]) -> None:
        """Have the actor of the room that is visited do the rest of its last input, once the visit is over."""
        room = self._room
        assert room is not None
        assert room.address is not None
        room.in_flight.append((self._gateway, input))
        room.taken[self._gateway] = max(input.number, room.taken.get(self._gateway, 0))
        room.has_begun = self._has_begun
        self._entries.working += 1
        self._actors.tell(room.address, GoOn(rest))

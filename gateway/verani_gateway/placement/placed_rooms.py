"""Know of each room which host has it, and what that host has been given and has said of it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Final

from verani.link.messages import Heard

from ..inputs.attachments import Attachments, RoomInputs
from .link import Link

__all__ = ["PlacedRoom", "PlacedRooms"]

# Of so many rooms that nobody is in any more it is kept what was heard of them.
_LEFT: Final = 1024


class PlacedRoom:
    """One room, and where it is."""

    __slots__ = ("awake", "begun", "heard", "inputs", "last_owner", "owner", "pull_after", "waits_after")

    def __init__(self, inputs: RoomInputs) -> None:
        self.inputs = inputs
        # The link to the room's owner, None while none can be reached; and the incarnation of the owner that was last
        # given its inputs.
        self.owner: Link | None = None
        self.last_owner = ""
        # What the owner says counts once it has pulled in an epoch later than this one; None if it has.
        self.pull_after: int | None = None
        # Whether the room is awake at its owner, and was at the last one if that has just gone.
        self.awake = False
        # Number of the input that the room had visibly begun at last; 0 for none.
        self.begun = 0
        # What was heard of the room's owners at last.
        self.heard: Heard | None = None
        # Inputs after this one are not sent yet; None if all are.
        self.waits_after: int | None = None

    @property
    def name(self) -> str:
        """The room's name."""
        return self.inputs.name


class PlacedRooms(dict[str, PlacedRoom]):
    """The rooms of a gateway: one that has inputs or records is here once it is asked for, and gone with these."""

    def __init__(self, attachments: Attachments) -> None:
        self._attachments = attachments
        # What was heard of rooms that were forgotten: others may have missed it.
        self._left: OrderedDict[str, Heard] = OrderedDict()
        attachments.when_forgotten(self.forget)

    def __missing__(self, name: str) -> PlacedRoom:
        room = self[name] = PlacedRoom(self._attachments.rooms[name])
        room.heard = self._left.pop(name, None)
        return room

    def forget(self, name: str) -> None:
        """Forget a room but for what was heard of it."""
        room = self.pop(name, None)
        if room is not None and room.heard is not None and room.heard.others:
            self._left[name] = room.heard
            if len(self._left) > _LEFT:
                self._left.popitem(last=False)

    def heard_of(self, name: str) -> Heard | None:
        """Give what was heard last of a room, also of one that was forgotten lately."""
        room = self.find(name)
        return room.heard if room is not None else self._left.get(name)

    def find(self, name: str) -> PlacedRoom | None:
        """Give a room; None for one that the gateway has forgotten."""
        return self[name] if name in self._attachments.rooms else None

    def every(self) -> Iterator[PlacedRoom]:
        """Yield all rooms that there are now."""
        return (self[name] for name in tuple(self._attachments.rooms) if name in self._attachments.rooms)

"""Take inputs in: number each, keep it until an entry acknowledges it, and send it to the owner of its room.

`congestion` limits how many may be in flight; senders ask it first.

Invariant: every input is kept in the attachments before it goes to a host, but for what takes the short way.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from msgspec import UNSET

from verani.frames import ScannedFrame
from verani.link.messages import CallInput, Close, Connect, FrameInput, Input

from .attachments import Attachments
from .congestion import Congestion
from .metrics import Metrics

__all__ = ["InputWay", "Ingress"]


class InputWay(Protocol):
    """Where connections and their frames go."""

    def connect(self, room: str, connection: str, attachment: bytes, /) -> None:
        """Announce a connection to its room."""

    def frame(self, room: str, connection: str, frame: ScannedFrame, /) -> int:
        """Bring a client's frame to its room; return its size if it is in flight, 0 if it was processed."""

    def leave(self) -> None:
        """Take note that no frame follows for now."""


class Ingress:
    """The way of all inputs of one gateway; `send` leads to the owners of rooms and is there once they are placed."""

    send: Callable[[Input], None]

    def __init__(self, attachments: Attachments, metrics: Metrics) -> None:
        self.congestion = Congestion(attachments)
        # The way of what one callback of the loop reads, all of one connection; `leave` ends it.
        self.shortest: InputWay = self
        self._attachments = attachments
        self._metrics = metrics

    def connect(self, room: str, connection: str, attachment: bytes) -> None:
        """Announce a connection to its room."""
        self._put(Connect(room, self._attachments.next_number(), connection, attachment))

    def close(self, room: str, connection: str, code: int, reason: str) -> None:
        """Announce the end of a connection, unless its room was told in another way and has no record of it left."""
        held = self._attachments.rooms.get(room)
        if held is not None and connection in held.records:
            self._put(Close(room, self._attachments.next_number(), connection, code, reason))

    def frame(self, room: str, connection: str, frame: ScannedFrame) -> int:
        """Send a client's frame to its room; return its size, which is in flight until the room has processed it."""
        input = self.number(room, connection, frame)
        size = self._attachments.add(input)
        self.send(input)
        return size

    def number(self, room: str, connection: str, frame: ScannedFrame) -> FrameInput:
        """Make a client's frame an input, and count it."""
        self._metrics.frames += 1
        data, next_number = bytes(frame.data) if frame.data is not UNSET else None, self._attachments.next_number
        return FrameInput(room, next_number(), connection, frame.type, data, frame.channel, frame.id)

    def leave(self) -> None:
        """Do nothing more: what was sent is under way."""

    def call(
        self,
        room: str,
        method: str,
        arguments: bytes,
        timeout: float,
        key: str | None,
        chain: tuple[str, ...],
        trace: str | None,
    ) -> int:
        """Send a call to its room and return its number, which its `Reply` has."""
        number = self._attachments.next_number()
        self._put(CallInput(room, number, method, arguments, timeout, key, chain, trace))
        return number

    def _put(self, input: Input) -> None:
        self._attachments.add(input)
        self.send(input)

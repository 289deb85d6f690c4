"""Bring connections and frames to a room in the same process, and what it says to connections, within one call.

Invariants:
- A frame takes the short way only while no input of its room, of whomever, is unprocessed; so once one does not, those
  behind it do not either.
- What takes the short way is over, with all that it caused, when its read is; or it is in flight before all that came
  since.
"""

from __future__ import annotations

from verani.engine.hook_runner import Rest
from verani.frames import ScannedFrame
from verani.link.messages import Connect, FrameInput
from verani_actors.rooms.visits import Visits

from ..inputs.attachments import RoomInputs
from ..inputs.ingress import Ingress
from .placement import GatewaySide

__all__ = ["ShortWay"]


class ShortWay:
    """See `verani_gateway.inputs.ingress.InputWay`."""

    def __init__(self, gateway: GatewaySide, ingress: Ingress, visits: Visits) -> None:
        self._delivery = gateway.delivery
        self._attachments = gateway.attachments
        self._ingress = ingress
        self._visits = visits
        # The room that is visited.
        self._visited: RoomInputs | None = None

    def connect(self, room: str, connection: str, attachment: bytes) -> None:
        """Have a room let a connection in, or announce it there."""
        held, visit = self._attachments.rooms.get(room), None
        if held is None or not held.unprocessed:
            visit = self._visits.let_in(Connect(room, self._attachments.next_number(), connection, attachment))
        if visit is None:
            self._ingress.connect(room, connection, attachment)
        else:
            held = self._attachments.admit(room, connection, attachment)
            self._delivery.say(held, visit.said, visit.attached, at_once=False)

    def frame(self, room: str, connection: str, frame: ScannedFrame) -> int:
        """Have a room handle a frame, or send it there; returns its size if it is in flight, or else 0."""
        visited = self._visited
        if visited is None:
            held = self._attachments.rooms.get(room)
            if held is None or held.unprocessed or not self._visits.enter(room, frame.type):
                return self._ingress.frame(room, connection, frame)
            self._visited = held
        elif visited.unprocessed or not self._visits.goes_on():
            self.leave()
            return self._ingress.frame(room, connection, frame)
        input = self._ingress.number(room, connection, frame)
        rest = self._visits.handle(input)
        return 0 if rest is None else self._put_off(input, rest)

    def _put_off(self, input: FrameInput, rest: Rest[object]) -> int:
        size = self._attachments.add(input, first=True)
        self._visits.put_off(input, rest)
        self.leave()
        return size

    def leave(self) -> None:
        """Say what the room has said."""
        visited = self._visited
        if visited is None:
            return
        self._visited = None
        visit = self._visits.leave()
        if visit.said or visit.attached:
            self._delivery.say(visited, visit.said, visit.attached, at_once=self._visits.is_lone)

"""Be the hibernation manager of a room host: the Thespian actor that creates rooms and puts idle ones to sleep.

Tearing down is a handshake: `Sleep` goes to the room, which finishes its mailbox and answers; only then it is
told to exit, and only when it is gone (`ChildActorExited`) the next incarnation may take its name. What arrives
meanwhile waits at the host.

Whatever goes wrong with one message is logged, and the next one is handled: no room waits for another's.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any, Protocol

from msgspec import Struct
from thespian.actors import Actor, ActorAddress, ActorExitRequest, ChildActorExited, WakeupMessage

from .room_actor import RoomActor, Sleep, Slept, Stayed

__all__ = ["Begin", "HibernationManager", "LookAround", "RetireAll", "RoomRegister", "Wake"]


logger = logging.getLogger(__name__)


class RoomRegister(Protocol):
    """What the manager needs of its room host."""

    def created(self, room: str, address: ActorAddress) -> None:
        """The room's actor exists."""

    def exited(self, address: ActorAddress) -> None:
        """A room's actor is gone."""

    def stayed(self, room: str) -> None:
        """The room did not go to sleep."""

    def retire_idle(self) -> Iterable[ActorAddress]:
        """Mark the rooms that are idle long enough as retiring and yield their actors, one after the other."""

    def retire_wanting(self) -> Iterable[ActorAddress]:
        """The same for those that want to sleep and can."""

    def retire_all(self) -> Iterable[ActorAddress]:
        """The same for every awake room, idle long enough or not."""


class Begin(Struct, frozen=True):
    """Start to look for idle rooms every `period` seconds."""

    rooms: Any
    period: float


class Wake(Struct, frozen=True):
    """Create the actor of a room."""

    room: str


class LookAround(Struct, frozen=True):
    """Put the rooms that want to sleep to sleep now, not at the next turn of the clock."""


class RetireAll(Struct, frozen=True):
    """Put every room to sleep, cancelling the tasks they spawned: the host stops."""


class HibernationManager(Actor):
    """Parent of all room actors of one host."""

    def __init__(self) -> None:
        self._rooms: RoomRegister | None = None
        self._period = 0.0

    def receiveMessage(self, message: Any, sender: ActorAddress) -> None:
        try:
            self._handle(message, sender)
        except Exception:
            # A bug of ours, and the mailbox's last line: Thespian would do again what is half done.
            logger.exception("the hibernation manager could not handle %s", type(message).__name__)

    def _handle(self, message: Any, sender: ActorAddress) -> None:
        if isinstance(message, Begin):
            self._rooms, self._period = message.rooms, message.period
            self.wakeupAfter(self._period)
        if self._rooms is None:
            return
        match message:
            case Wake():
                self._rooms.created(message.room, self.createActor(RoomActor, globalName=message.room))
            case WakeupMessage():
                self.wakeupAfter(self._period)  # first, so that whatever goes wrong below does not end it
                self._put_to_sleep(self._rooms.retire_idle())
            case LookAround():
                self._put_to_sleep(self._rooms.retire_wanting())
            case RetireAll():
                self._put_to_sleep(self._rooms.retire_all(), force=True)
            case Slept():
                self.send(sender, ActorExitRequest())
            case Stayed():
                self._rooms.stayed(message.room)
            case ChildActorExited():
                self._rooms.exited(message.childAddress)

    def _put_to_sleep(self, addresses: Iterable[ActorAddress], *, force: bool = False) -> None:
        for address in addresses:
            self.send(address, Sleep(force))

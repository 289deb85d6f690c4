"""Be the hibernation manager of a room host: the Thespian actor that creates rooms and puts them to sleep.

Which rooms are to sleep is chosen by a `SleepChooser`, at every turn of the manager's clock.

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

__all__ = ["Begin", "HibernationManager", "LookAround", "RetireAll", "RoomRegister", "SleepChooser", "Wake"]


logger = logging.getLogger(__name__)


class RoomRegister(Protocol):
    """What has the manager create rooms."""

    def created(self, room: str, address: ActorAddress) -> None:
        """The room's actor exists."""

    def exited(self, address: ActorAddress) -> None:
        """A room's actor is gone."""

    def trim(self) -> None:
        """Free memory; called at every turn of the clock."""


class SleepChooser(Protocol):
    """What chooses the rooms that the manager puts to sleep."""

    def stayed(self, room: str) -> None:
        """The room did not go to sleep."""

    def retire_idle(self) -> Iterable[ActorAddress]:
        """Retire the rooms that are idle long enough and yield their actors, one after the other."""

    def retire_wanting(self) -> Iterable[ActorAddress]:
        """The same for those that want to sleep and can."""

    def retire_all(self, *, stops: bool) -> Iterable[ActorAddress]:
        """The same for every room that moves, or if the host `stops` for every room, idle long enough or not."""


class Begin(Struct, frozen=True):
    """Start to look for idle rooms every `period` seconds."""

    rooms: Any
    sleeping: Any
    period: float


class Wake(Struct, frozen=True):
    """Create the actor of a room."""

    room: str


class LookAround(Struct, frozen=True):
    """Put the rooms that want to sleep to sleep now, not at the next turn of the clock."""


class RetireAll(Struct, frozen=True):
    """Put the rooms that move to sleep, or if the host stops all rooms, cancelling the tasks they spawned."""

    stops: bool = False


class HibernationManager(Actor):
    """Parent of all room actors of one host."""

    def __init__(self) -> None:
        self._rooms: RoomRegister | None = None
        self._sleeping: SleepChooser | None = None
        self._period = 0.0

    def receiveMessage(self, message: Any, sender: ActorAddress) -> None:
        try:
            self._handle(message, sender)
        except Exception:
            # A bug of ours, and the mailbox's last line: Thespian would do again what is half done.
            logger.exception("the hibernation manager could not handle %s", type(message).__name__)

    def _handle(self, message: Any, sender: ActorAddress) -> None:
        if isinstance(message, Begin):
            self._rooms, self._sleeping, self._period = message.rooms, message.sleeping, message.period
            self.wakeupAfter(self._period)
        if self._rooms is None or self._sleeping is None:
            return
        match message:
            case Wake():
                self._rooms.created(message.room, self.createActor(RoomActor, globalName=message.room))
            case WakeupMessage():
                self.wakeupAfter(self._period)  # first, so that whatever goes wrong below does not end it
                self._put_to_sleep(self._sleeping.retire_idle())
                self._rooms.trim()
            case LookAround():
                self._put_to_sleep(self._sleeping.retire_wanting())
            case RetireAll():
                self._put_to_sleep(self._sleeping.retire_all(stops=message.stops), force=True)
            case Slept():
                self.send(sender, ActorExitRequest())
            case Stayed():
                self._sleeping.stayed(message.room)
            case ChildActorExited():
                self._rooms.exited(message.childAddress)

    def _put_to_sleep(self, addresses: Iterable[ActorAddress], *, force: bool = False) -> None:
        for address in addresses:
            self.send(address, Sleep(force))

"""Run the Thespian actors of one room host on its event loop: the hibernation manager, its rooms, and what takes calls.

What they are told, and when, is the business of those that tell them.
"""

from __future__ import annotations

from typing import Final

from thespian.actors import ActorAddress, ActorSystem

from ..messages import CALLS
from ..system.asyncio_base import AsyncioSystemBase
from .actor_calls import RoomCalls, ServeCalls
from .carried_calls import CarriedCalls
from .hibernation import Begin, HibernationManager

__all__ = ["RoomActors"]

# Seconds that hooks which are cancelled at the end of a stop get to end.
_LAST_WAIT: Final = 1.0


class RoomActors:
    """The actor system of a host, from `start` to `stop`."""

    base: AsyncioSystemBase
    _system: ActorSystem
    _manager: ActorAddress

    def __init__(self) -> None:
        # Until then there are no actors.
        self.has_started = False

    def start(self, begin: Begin, carrier: CarriedCalls) -> None:
        """Create the manager, which begins, and the actor that has `carrier` carry calls."""
        self.base = AsyncioSystemBase()
        self._system = ActorSystem(systemBase=self.base, transientUnique=True)
        self._manager = self._system.createActor(HibernationManager, globalName="verani-hibernation-manager")
        self.has_started = True
        self.tell(self._system.createActor(RoomCalls, globalName=CALLS), ServeCalls(carrier))
        self.tell_manager(begin)

    async def stop(self) -> int:
        """End all actors at once; return how many hooks ignore their cancellation and are left behind."""
        self._system.shutdown()
        return await self.base.closed(_LAST_WAIT)

    def tell(self, address: ActorAddress, message: object) -> None:
        """Send a message to an actor."""
        self.base.tell(address, message)

    def tell_manager(self, message: object) -> None:
        """Send a message to the hibernation manager."""
        self.base.tell(self._manager, message)

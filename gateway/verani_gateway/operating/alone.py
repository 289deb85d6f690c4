"""Answer for a service that is one process."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator

import msgspec

from verani.errors import NotFound
from verani_actors.operating.activity import Activity, host_activity, sum_up
from verani_actors.operating.answers import SLICE, GatewayStatus, RoomsQuestion
from verani_actors.rooms.hook_failures import HookFailure, put_together
from verani_actors.rooms.room_status import RoomStatus

from ..gateway import Gateway
from .exposition import exposition
from .own_answers import gateway_activity
from .service_answers import Listing, ServiceStatus, check_target
from .sessions import CloseOrder, SessionsTold, close, sessions_of

__all__ = ["Alone"]


class Alone:
    """The one gateway of a service, with the rooms in its own process."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    @property
    def ready(self) -> bool:
        """Ask the gateway."""
        return self._gateway.serves

    async def rooms(self, question: RoomsQuestion) -> Listing:
        """List all rooms: there is no link that they would have to pass."""
        return Listing(self._rooms(question), cut=False)

    async def _rooms(self, question: RoomsQuestion) -> AsyncIterator[RoomStatus]:
        left, found = question.limit, list[RoomStatus]()
        for number, name in enumerate(question.named(self._gateway.room_names())):
            if left == 0:
                break
            if number % SLICE == 0:
                found = question.first(found, question.limit)
                await asyncio.sleep(0)
            status = self._gateway.room(name)
            if status is None or question.state not in (None, status.state):
                continue
            if question.order:
                found.append(status)
            else:
                yield status
                left = None if left is None else left - 1
        for status in question.first(found, question.limit):
            yield status

    async def room(self, name: str) -> RoomStatus | None:
        """Explain one room."""
        return self._gateway.room(name)

    async def metrics(self) -> str:
        """Write down the counters of gateway and host together, without labels."""
        return exposition(self._gateway)

    async def cluster(self) -> ServiceStatus:
        """Describe the one process."""
        gateway = self._gateway
        status = GatewayStatus(
            id=gateway.id,
            machine="",
            pid=os.getpid(),
            epoch=0,
            connections=len(gateway.connections),
            links={},
            draining=not gateway.accepting,
        )
        return ServiceStatus(0, "", [], [status], [])

    async def activity(self) -> Activity:
        """Count what the gateway and its host do."""
        return sum_up((gateway_activity(self._gateway), host_activity(self._gateway.host)))

    async def errors(self) -> list[HookFailure]:
        """Ask the gateway and its host."""
        return put_together([*self._gateway.failures.listed(), *self._gateway.host.failures.listed()])

    async def sessions(self, room: str) -> SessionsTold:
        """Ask the gateway."""
        return sessions_of(self._gateway, room)

    async def hibernate(self, room: str) -> bool:
        """Tell the host."""
        return self._gateway.host.hibernate(room)

    async def wake(self, room: str) -> bool:
        """Tell the host."""
        return self._gateway.host.wake(room)

    async def close(self, order: CloseOrder) -> bool:
        """Close it here."""
        return close(self._gateway, order)

    async def quarantine(self) -> list[msgspec.Raw]:
        """Say that there is nothing: what kills the room host kills its gateway too."""
        return []

    async def drain(self, target: str) -> None:
        """Refuse: the one process is drained by stopping it."""
        check_target(target)
        raise NotFound("the service is one process; SIGTERM drains it")

    async def check(self, target: str) -> None:
        """Refuse, as `restart` does."""
        await self.restart(target)

    async def restart(self, target: str) -> None:
        """Refuse: nobody would be there meanwhile."""
        check_target(target)
        raise NotFound("the service is one process, which whoever started it starts anew; --hosts makes it several")

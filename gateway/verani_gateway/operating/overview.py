"""Answer for a whole service, whichever of its gateways an operator has reached."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final, TypeVar

import msgspec

from verani.errors import Conflict, InvalidArguments, NotFound, RoomBusy
from verani_actors.operating.activity import Activity, sum_up
from verani_actors.operating.answers import (
    ALL,
    GatewayStatus,
    HostStatus,
    RoomHeld,
    RoomsHeld,
    RoomsQuestion,
    RoomsTold,
    gateway_target,
    host_target,
)
from verani_actors.rooms.hook_failures import HookFailure, put_together
from verani_actors.rooms.room_status import RoomStatus

from .inquiry import Asking, Inquiry
from .merging import each, merge_metrics, merge_rooms
from .service_answers import Listing, ServiceStatus, check_target
from .sessions import CloseOrder, SessionsTold

__all__ = ["Overview"]

logger = logging.getLogger(__name__)

_Rooms = TypeVar("_Rooms", RoomsTold, RoomsHeld)

# How long a process gets to find out whether its code can be imported, which has a limit of its own; and how often it
# is asked, in seconds.
_CHECK_PATIENCE: Final = 40.0
_CHECK_LOOK: Final = 0.2


class Overview:
    """The answers of a gateway whose rooms live in other processes; `ready`: whether all that share its port are."""

    def __init__(self, own: str, asking: Asking, inquiry: Inquiry, *, ready: Callable[[], bool]) -> None:
        self._own = own
        self._asking = asking
        self._inquiry = inquiry
        self._ready = ready

    @property
    def ready(self) -> bool:
        """Say what holds for every gateway of this machine."""
        return self._ready()

    async def rooms(self, question: RoomsQuestion) -> Listing:
        """List the rooms of all hosts, then those that only gateways know of."""
        collected = await self._inquiry.collect("rooms", msgspec.json.encode(question).decode())
        hosts = {id: await _decoded_rooms(body, RoomsTold) for id, body in collected.hosts.items()}
        held = [await _decoded_rooms(body, RoomsHeld) for body in collected.gateways.values()]
        found = await merge_rooms(self._asking.epoch, hosts, held, question.state)
        shown = question.first(found, question.limit)
        answers: list[RoomsTold | RoomsHeld] = [*hosts.values(), *held]
        sizes = [len(told.rooms) for told in answers if told.more]
        # Whoever told as many as were asked for has hidden none, unless they are too few in the end.
        cut = bool(sizes) and (question.limit is None or min(*sizes, len(shown)) < question.limit)
        return Listing(each(shown), cut)

    async def room(self, name: str) -> RoomStatus | None:
        """Explain one room."""
        collected = await self._inquiry.collect("room", name)
        hosts = {
            id: RoomsTold([status])
            for id, body in collected.hosts.items()
            if (status := msgspec.json.decode(body, type=RoomStatus | None)) is not None
        }
        held = [RoomsHeld([room]) for room in collected.decoded(RoomHeld)]
        found = await merge_rooms(self._asking.epoch, hosts, held)
        return found[0] if found else None

    async def sessions(self, room: str) -> SessionsTold:
        """Ask all gateways."""
        told = (await self._inquiry.collect("sessions", room)).decoded(SessionsTold)
        return SessionsTold([seen for each in told for seen in each.sessions], more=any(each.more for each in told))

    async def activity(self) -> Activity:
        """Add up what all processes count."""
        return sum_up((await self._inquiry.collect("activity")).told(Activity))

    async def errors(self) -> list[HookFailure]:
        """Ask all processes."""
        collected = await self._inquiry.collect("errors")
        found = [failure for told in collected.decoded(list[HookFailure]) for failure in told]
        found += [
            msgspec.structs.replace(failure, host=id)
            for id, body in collected.hosts.items()
            for failure in msgspec.json.decode(body, type=list[HookFailure] | None) or ()
        ]
        return put_together(found)

    async def hibernate(self, room: str) -> bool:
        """Tell all hosts: the one that has it awake obeys."""
        return await self._tell("hibernate", room)

    async def wake(self, room: str) -> bool:
        """Tell all hosts: its owner obeys."""
        return await self._tell("wake", room)

    async def close(self, order: CloseOrder) -> bool:
        """Tell all gateways: the one that has it obeys."""
        return await self._tell("close", msgspec.json.encode(order).decode())

    async def _tell(self, topic: str, argument: str) -> bool:
        return True in (await self._inquiry.collect(topic, argument)).told(bool | None)

    async def metrics(self) -> str:
        """Write down what all processes count, labelled with who says it."""
        collected = await self._inquiry.collect("metrics")
        texts = {("gateway", id): msgspec.json.decode(body, type=str) for id, body in collected.gateways.items()}
        texts |= {("host", id): msgspec.json.decode(body, type=str) for id, body in collected.hosts.items()}
        return await merge_metrics(texts, missing=collected.missing)

    async def cluster(self) -> ServiceStatus:
        """Describe all processes."""
        collected = await self._inquiry.collect("cluster")
        epoch = self._asking.epoch
        return ServiceStatus(
            epoch.number,
            epoch.registrar,
            sorted(collected.decoded_hosts(HostStatus), key=lambda status: str(status.id)),
            sorted(collected.decoded(GatewayStatus), key=lambda status: str(status.id)),
            collected.missing,
        )

    async def quarantine(self) -> list[msgspec.Raw]:
        """List what all gateways keep from rooms."""
        collected = await self._inquiry.collect("quarantine")
        return [each for kept in collected.decoded(list[msgspec.Raw]) for each in kept]

    async def drain(self, target: str) -> None:
        """Have a process, or all, stop: it is known first, so that a wrong name is told at once."""
        check_target(target)
        status = await self.cluster()
        hosts = [host_target(each.id) for each in status.members]
        gateways = [gateway_target(each.id) for each in status.gateways]
        if target != ALL and target not in (*hosts, *gateways):
            raise NotFound(f"{target} is not part of the service: expected {ALL}, {', '.join((*hosts, *gateways))}")
        if [target] in (hosts, gateways) and not status.missing:
            raise Conflict(
                f"{target} is the last of its kind, without which nobody is served: verani drain --all ends the service"
            )
        if target not in (ALL, gateway_target(self._own)) and not hosts:
            raise RoomBusy("there is no room host that could pass it on")
        await self._inquiry.collect("drain", target)

    async def check(self, target: str) -> None:
        """Have one process of each machine that is concerned import the code that is there now."""
        check_target(target)
        status = await self.cluster()
        if target == ALL:
            machines = {each.machine: gateway_target(each.id) for each in status.gateways}
            targets = {each.machine: host_target(each.id) for each in status.members} | machines
            await asyncio.gather(*map(self._check, targets.values()))
        else:
            _check_known(target, status)
            await self._check(target)

    async def restart(self, target: str) -> None:
        """Have a process started anew: a host ends first, a gateway when another has taken its place."""
        if target == ALL:
            raise InvalidArguments("target: expected host:ID or gateway:ID, one after the other", path="$.target")
        await self.check(target)
        logger.info("%s is restarted", target)
        await self._inquiry.collect("restart", target)

    async def _check(self, target: str) -> None:
        await self._inquiry.collect("check", target)
        try:
            async with asyncio.timeout(_CHECK_PATIENCE):
                while not (verdicts := (await self._inquiry.collect("checked", target)).told(str)):  # noqa: ASYNC110  # elsewhere
                    await asyncio.sleep(_CHECK_LOOK)
        except TimeoutError:
            raise RoomBusy(f"{target} does not say whether its code can be imported") from None
        if verdicts[0]:
            raise Conflict(f"nothing is restarted: {verdicts[0]}")


async def _decoded_rooms(body: bytes, kind: type[_Rooms]) -> _Rooms:
    await asyncio.sleep(0)
    return msgspec.json.decode(body, type=kind)


def _check_known(target: str, status: ServiceStatus) -> None:
    hosts = [host_target(each.id) for each in status.members]
    known = [*hosts, *(gateway_target(each.id) for each in status.gateways)]
    if target not in known:
        raise NotFound(f"{target} is not part of the service: expected {', '.join(known)}")
    if not hosts:
        raise RoomBusy("there is no room host that could pass it on")

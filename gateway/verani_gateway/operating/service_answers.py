"""Say what the internal listener is asked about the service, and what is answered."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final, NamedTuple, Protocol

import msgspec
from msgspec import Struct

from verani.errors import InvalidArguments
from verani_actors.operating.activity import Activity
from verani_actors.operating.answers import ALL, GatewayStatus, HostStatus, RoomsQuestion
from verani_actors.rooms.hook_failures import HookFailure
from verani_actors.rooms.room_status import RoomStatus

from .sessions import CloseOrder, SessionsTold

__all__ = ["CUT", "Answers", "Listing", "ServiceStatus", "check_target"]

# Header of a list of rooms, `true` where there are more rooms of those that were asked for than it tells.
CUT: Final = "X-Verani-Truncated"


class Listing(NamedTuple):
    """Rooms, those that are awake first; `cut` if fewer than were asked for, because there are too many to tell."""

    rooms: AsyncIterator[RoomStatus]
    cut: bool


class ServiceStatus(Struct, frozen=True):
    """All processes of a service that take part in serving; `missing` did not answer."""

    epoch: int
    registrar: str
    members: list[HostStatus]
    gateways: list[GatewayStatus]
    missing: list[str]


class Answers(Protocol):
    """What the internal listener is asked about the service."""

    @property
    def ready(self) -> bool:
        """Whether whoever connects to the public listener now is taken and served."""

    async def rooms(self, question: RoomsQuestion) -> Listing:
        """List rooms."""

    async def room(self, name: str) -> RoomStatus | None:
        """Explain one room; None for one that nobody is in and that is not awake."""

    async def activity(self) -> Activity:
        """Count what the whole service has done."""

    async def sessions(self, room: str) -> SessionsTold:
        """Tell who is in a room, as its gateways know it: it is not woken."""

    async def errors(self) -> list[HookFailure]:
        """List what hooks raised last, the latest first."""

    async def metrics(self) -> str:
        """Write down all counters and gauges."""

    async def cluster(self) -> ServiceStatus:
        """Describe the processes."""

    async def quarantine(self) -> list[msgspec.Raw]:
        """List the inputs that are kept from rooms."""

    async def hibernate(self, room: str) -> bool:
        """Have a room sleep as soon as nothing is going on in it; False if it is not awake."""

    async def wake(self, room: str) -> bool:
        """Have a room awake; False if no room host takes it."""

    async def close(self, order: CloseOrder) -> bool:
        """Close a connection; False if it is not open."""

    async def drain(self, target: str) -> None:
        """Begin to take a process, or all, out of service; raises `NotFound`, `Conflict` or `InvalidArguments`."""

    async def check(self, target: str) -> None:
        """Import, in a process of its own, what a process would be started with now, or with `all` every machine's.

        Raises `Conflict` with what is wrong where that is not possible.
        """

    async def restart(self, target: str) -> None:
        """Check that, and begin to start a process anew; raises what `drain` does, and `Conflict` as `check` does."""


def check_target(target: str) -> None:
    """Refuse what cannot be the name of a process; raises `InvalidArguments`."""
    kind, _, id = target.partition(":")
    if target != ALL and (kind not in ("host", "gateway") or not id):
        raise InvalidArguments(f"target: expected host:ID, gateway:ID or {ALL}, got {target[:80]!r}", path="$.target")

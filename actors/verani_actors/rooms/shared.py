"""Hold what the parts of a room host share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from verani.link.messages import HostMessage

from ..links.flow import Flow
from ..membership.share import Ownership
from .actor_system import RoomActors
from .directory import RoomDirectory
from .sleeping import Sleeping
from .tick_entries import TickEntries

__all__ = ["SharedParts"]


@dataclass(frozen=True, slots=True)
class SharedParts:
    """What those use that open, end and move the rooms of one host; `gateways` are the links' ends."""

    directory: RoomDirectory
    gateways: dict[str, Callable[[HostMessage], None]]
    ownership: Ownership
    entries: TickEntries
    sleeping: Sleeping
    actors: RoomActors
    flow: Flow
    clock: Callable[[], float]

"""Put together what the processes of a service have answered.

Invariants:
- A room that its owner has awake is never listed as asleep, however much of the answers was cut.
- Rooms are looked at in slices, and expositions one by one; the event loop has its turns between them.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from itertools import chain
from typing import Final, TypeVar

import msgspec

from verani.link.epoch import Epoch
from verani_actors.operating.answers import SLICE, RoomHeld, RoomsHeld, RoomsTold
from verani_actors.operating.measures import gauge, render
from verani_actors.rooms.room_status import RoomStatus

__all__ = ["each", "merge_metrics", "merge_rooms"]

_Item = TypeVar("_Item")

# How a family begins, and the names of its samples: to parse and write all of it anew takes many times as long.
_DESCRIBED: Final = "# HELP "
_WITH_LABELS: Final = re.compile(r"^\w+\{", re.MULTILINE)
_WITHOUT_LABELS: Final = re.compile(r"^\w+(?= )", re.MULTILINE)


async def merge_rooms(
    epoch: Epoch, hosts: Mapping[str, RoomsTold], gateways: Sequence[RoomsHeld], state: str | None = None
) -> list[RoomStatus]:
    """Give one status for each room: its owner's, else that of a host that has it awake, else what gateways know.

    With a `state`, hosts were asked for rooms in that state only.
    """
    found: dict[str, RoomStatus] = {}
    for id, told in hosts.items():
        async for status in each(told.rooms):
            owner = epoch.owner(status.name)
            if owner is not None and owner.id == id:
                found[status.name] = msgspec.structs.replace(status, host=id)
            elif status.state != "asleep":  # it is on its way; of a room that slept there nothing is left
                found.setdefault(status.name, msgspec.structs.replace(status, host=id))
    known = {*found}.union(*(told.others for told in hosts.values()))
    held: dict[str, RoomHeld] = {}
    for seen in gateways:
        async for room in each(seen.rooms):
            if room.name not in known:
                other = held.get(room.name, room)
                number = room.connections + (other.connections if other is not room else 0)
                held[room.name] = RoomHeld(room.name, number, room.awake or other.awake)
    # Whether a gateway has not told of all rooms that are awake.
    is_blind = any(seen.more and seen.rooms[-1].awake for seen in gateways)
    async for room in each(list(held.values())):
        owner = epoch.owner(room.name)
        if owner is None or owner.id not in hosts:
            is_certain = room.awake or not is_blind
        else:
            # The owner does not tell what is in another state, and may have left it out of an answer that was cut.
            is_certain = not hosts[owner.id].more and state in (None, "asleep")
        if is_certain:
            its = "awake" if room.awake else "asleep"
            host = owner.id if owner is not None else None
            found[room.name] = RoomStatus(room.name, room.name.partition("/")[0], its, room.connections, host=host)
    rooms = [status for status in found.values() if state in (None, status.state)]
    return sorted(rooms, key=lambda status: status.state == "asleep")


async def each(items: Iterable[_Item]) -> AsyncIterator[_Item]:
    """Yield the items, and let the event loop have its turns."""
    for number, item in enumerate(items):
        if number % SLICE == 0:
            await asyncio.sleep(0)
        yield item


async def merge_metrics(texts: Mapping[tuple[str, str], str], *, missing: Iterable[str] = ()) -> str:
    """Join expositions, each labelled with its process; a family is described once, by whoever came first."""
    families: dict[str, list[str]] = {}
    for (kind, id), text in texts.items():
        await asyncio.sleep(0)
        label = f'{kind}="{id}"'
        labelled = _WITHOUT_LABELS.sub(rf"\g<0>{{{label}}}", _WITH_LABELS.sub(rf"\g<0>{label},", text))
        for family in labelled.split(_DESCRIBED)[1:]:
            help, type, samples = family.split("\n", 2)
            families.setdefault(type, [f"{_DESCRIBED}{help}\n{type}\n"]).append(samples)
    lost = render([gauge("missing", "Processes that did not answer.", len(list(missing)))])
    return "".join((*chain.from_iterable(families.values()), lost))

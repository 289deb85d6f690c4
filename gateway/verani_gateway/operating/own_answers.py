"""Say what one gateway itself knows, to whoever asks for the whole service."""

from __future__ import annotations

from collections.abc import Callable, Collection
from itertools import chain, islice

import msgspec

from verani_actors.operating.activity import Activity
from verani_actors.operating.answers import MAX_ROOMS, GatewayStatus, RoomHeld, RoomsHeld, RoomsQuestion

from ..gateway import Gateway
from ..inputs.attachments import RoomInputs
from ..placement.placement import Placement
from .exposition import exposition
from .sessions import CloseOrder, close, sessions_of

__all__ = ["answer", "gateway_activity"]


def answer(topic: str, argument: str, gateway: Gateway, status: Callable[[], GatewayStatus]) -> bytes:
    """Say as JSON what a gateway itself knows; `null` for a topic that it has nothing to say to."""
    rooms = gateway.attachments.rooms
    match topic:
        case "rooms":
            question = msgspec.json.decode(argument, type=RoomsQuestion)
            asked = [rooms[name] for name in question.named([*rooms])] if question.prefix else rooms.values()
            return msgspec.json.encode(_held(asked, frozenset(gateway.placement.known_rooms()), question.state))
        case "room":
            held = rooms.get(argument)
            return msgspec.json.encode(_known(gateway.placement, held) if held is not None else None)
        case "activity":
            return msgspec.json.encode(gateway_activity(gateway))
        case "errors":
            return msgspec.json.encode(gateway.failures.listed())
        case "sessions":
            return msgspec.json.encode(sessions_of(gateway, argument))
        case "close":
            return msgspec.json.encode(close(gateway, msgspec.json.decode(argument, type=CloseOrder)))
        case "metrics":
            return msgspec.json.encode(exposition(gateway))
        case "cluster":
            return msgspec.json.encode(status())
        case _:
            return b"null"


def gateway_activity(gateway: Gateway) -> Activity:
    """Count what a gateway does."""
    counts = gateway.metrics
    return Activity(
        connections=len(gateway.connections),
        frames=counts.frames,
        deliveries=counts.deliveries,
        errors=gateway.failures.count,
    )


def _known(placement: Placement, room: RoomInputs) -> RoomHeld:
    status = placement.status(room.name, len(room.records))
    return RoomHeld(room.name, len(room.records), status is not None and status.state == "awake")


def _held(rooms: Collection[RoomInputs], awake: Collection[str], state: str | None) -> RoomsHeld:
    """Tell what is held of rooms that may be in a state; a gateway knows no states but awake and asleep."""
    busy = (RoomHeld(room.name, len(room.records), True) for room in rooms if room.name in awake)
    quiet = (RoomHeld(room.name, len(room.records)) for room in rooms if room.name not in awake)
    # Who looks for sleeping rooms must know of those that another gateway has seen awake.
    asked = {None: (busy, quiet), "awake": (busy,), "asleep": (busy, quiet)}.get(state, ())
    told = list(islice(chain(*asked), MAX_ROOMS + 1))
    return RoomsHeld(told[:MAX_ROOMS], more=len(told) > MAX_ROOMS)

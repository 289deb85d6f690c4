"""Take the orders of operators: ``POST /admin/...`` with a JSON object, answered with that object.

Who may give orders is decided by the internal listener; what becomes of them, by `Answers` and the rooms.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Final, TypeVar

import msgspec
from aiohttp import web
from msgspec import UNSET, Meta, Struct, UnsetType

from verani import frames
from verani.errors import InvalidArguments, NotFound, RoomBusy
from verani.names import CLOSE_CODES, MAX_REASON_BYTES, EventName, Name, room_id_of

from ..http.bodies import read_body
from .service_answers import Answers
from .sessions import CloseOrder

if TYPE_CHECKING:
    from ..gateway import Gateway

__all__ = ["JSON", "Orders", "json_response"]

JSON: Final = "application/json"

_Asked = TypeVar("_Asked", bound=Struct)


class _TargetOrder(Struct, frozen=True):
    target: str


class _RoomOrder(Struct, frozen=True):
    room: str


class _SendOrder(Struct, frozen=True):
    """An event for a channel of a room, or where a user is named, for all connections of the user."""

    room: str
    event: EventName
    channel: Name = "default"
    user: Annotated[str, Meta(min_length=1)] | None = None
    data: msgspec.Raw | UnsetType = UNSET


class _Sent(Struct, frozen=True):
    connections: int


def json_response(content: object, status: int = 200) -> web.Response:
    """Answer with what msgspec encodes."""
    return web.Response(body=msgspec.json.encode(content), content_type=JSON, status=status)


class Orders:
    """The orders that one gateway takes for the whole service; `admit` raises what keeps somebody from giving any."""

    def __init__(self, gateway: Gateway, service: Answers, admit: Callable[[web.Request], None]) -> None:
        self._gateway = gateway
        self._service = service
        self._admit = admit

    def add_to(self, router: web.UrlDispatcher) -> None:
        """Mount them."""
        for name in ("drain", "check", "restart", "send", "hibernate", "wake", "close"):
            router.add_post(f"/admin/{name}", getattr(self, name))

    async def _read(self, request: web.Request, kind: type[_Asked]) -> _Asked:
        self._admit(request)
        if request.content_type != JSON:  # which a page of another origin cannot send unasked
            raise InvalidArguments(f"expected Content-Type: {JSON}, got {request.content_type}")
        wanted = f"expected a JSON object with {', '.join(kind.__struct_fields__)}"
        try:
            body = await read_body(request, self._gateway, self._gateway.settings.rpc_timeout)
            return frames.decode_json(body, msgspec.json.Decoder(kind).decode)
        except msgspec.ValidationError as error:
            raise InvalidArguments(f"{wanted}: {error}", path=frames.path_of(error)) from error
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise InvalidArguments(f"{wanted}: {error}") from error

    # --- processes -------------------------------------------------------------------------------------

    async def drain(self, request: web.Request) -> web.Response:
        """Begin to take a process, or all, out of service."""
        order = await self._read(request, _TargetOrder)
        await self._service.drain(order.target)
        return json_response(order, status=202)

    async def check(self, request: web.Request) -> web.Response:
        """Import what a process would be started with now."""
        order = await self._read(request, _TargetOrder)
        await self._service.check(order.target)
        return json_response(order)

    async def restart(self, request: web.Request) -> web.Response:
        """Begin to start a process anew."""
        order = await self._read(request, _TargetOrder)
        await self._service.restart(order.target)
        return json_response(order, status=202)

    # --- rooms -----------------------------------------------------------------------------------------

    async def send(self, request: web.Request) -> web.Response:
        """Emit an event to a channel or a user of a room, and say to how many connections."""
        order = await self._read(request, _SendOrder)
        audience = {"channel": order.channel} if order.user is None else {"user_id": order.user}
        result = await self._gateway.calls.call(
            self._known(order.room),
            "emit_to_channel" if order.user is None else "emit_to_user",
            msgspec.json.encode(
                {**audience, "event": order.event, **({} if order.data is UNSET else {"data": order.data})}
            ),
            timeout=None,
            idempotency_key=None,
        )
        return json_response(_Sent(msgspec.json.decode(result, type=int)))

    async def hibernate(self, request: web.Request) -> web.Response:
        """Have a room sleep as soon as nothing is going on in it."""
        order = await self._read(request, _RoomOrder)
        if not await self._service.hibernate(self._known(order.room)):
            raise NotFound("no such room is awake")
        return json_response(order, status=202)

    async def wake(self, request: web.Request) -> web.Response:
        """Wake a room, whether anybody is in it or not."""
        order = await self._read(request, _RoomOrder)
        if not await self._service.wake(self._known(order.room)):
            raise RoomBusy("no room host has taken the room")
        return json_response(order, status=202)

    def _known(self, room: str) -> str:
        """Return the name of a room in its one spelling; raises `NotFound` for what no room can be named."""
        definition, _, asked = room.partition("/")
        room_id = room_id_of(asked)
        known = sorted(each.name for each in self._gateway.definitions)
        if room_id is None or definition not in known:
            raise NotFound(f"room: expected DEFINITION/ID, where the definition is one of {', '.join(known)}")
        return f"{definition}/{room_id}"

    async def close(self, request: web.Request) -> web.Response:
        """Close one connection."""
        order = await self._read(request, CloseOrder)
        if order.code not in CLOSE_CODES:
            raise InvalidArguments("code: expected 1000, 1008, 1011 to 1013 or 3000 to 4999", path="$.code")
        if len(order.reason.encode()) > MAX_REASON_BYTES:
            raise InvalidArguments(f"reason: expected at most {MAX_REASON_BYTES} bytes", path="$.reason")
        if not await self._service.close(order):
            raise NotFound("no such connection is open")
        return json_response(order, status=202)

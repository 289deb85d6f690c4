"""Decide who may connect, before the 101: the WebSocket end point of one room definition.

Every refusal is an HTTP status with a short JSON body; nobody is accepted only to be closed (protocol 5).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Coroutine
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from aiohttp import hdrs, web
from msgspec.structs import force_setattr, replace

from verani import frames
from verani.errors import (
    Conflict,
    Forbidden,
    InvalidArguments,
    NotFound,
    RateLimited,
    RoomBusy,
    TooLarge,
    Unauthorized,
    VeraniError,
)
from verani.names import room_id_of
from verani.room.definition import RoomDefinition
from verani.room.meta import ConnectionMeta
from verani.room.request import ConnectRequest
from verani.tracebacks import forget_traceback

from .connections.connection import Connection
from .connections.expiry import check_expiry
from .http.addresses import client, local_address
from .http.extensions import DEFLATE, offers_deflate
from .http.handshake import Upgraded, UpgradeRequired, accept, check_upgrade, cookies, subprotocols
from .http.headers import only
from .http.origins import origin_allowed
from .http.paths import is_misread
from .http.proxies import Client, is_forwarded

if TYPE_CHECKING:
    from .gateway import Gateway

__all__ = ["Endpoint"]

logger = logging.getLogger(__name__)


class Endpoint:
    """The aiohttp handler of one definition's WebSocket path."""

    def __init__(self, gateway: Gateway, definition: RoomDefinition[Any, Any]) -> None:
        self._gateway = gateway
        self._definition = definition

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        """Refuse, or accept and serve the connection to its end."""
        gateway = self._gateway
        handshake = _Handshake(request, client(request, gateway.settings.trusted_proxies))
        address = handshake.client.address
        try:
            check_upgrade(request)
            self._check_origin(handshake)
            gateway.entrance.reserve(address)
        except VeraniError as error:
            return self._refuse(error, handshake)
        del request  # what a connection does not need, it does not keep
        try:
            try:
                await gateway.facilities.turns.take()
                connection = await self._accept(handshake, *await self._identify(handshake))
            except VeraniError as error:
                return self._refuse(error, handshake)
            del handshake
            if connection is None:  # the client left meanwhile; there is nobody to tell
                return Upgraded()
            code, reason = 1006, ""
            try:
                code, reason = await connection.run()
            finally:
                gateway.disconnected(connection, code, reason)
            return Upgraded()
        finally:
            gateway.entrance.release(address)

    async def _accept(
        self, handshake: _Handshake, room: str, meta: ConnectionMeta, attachment: bytes, expires_at: float | None
    ) -> Connection | None:
        """Accept a client and announce it to its room; None if it is gone."""
        gateway, request = self._gateway, handshake.request
        known = self._definition.subprotocols
        subprotocol = next((name for name in subprotocols(request) if name in known), None) if known else None
        compressed = gateway.settings.compression and offers_deflate(request.headers)
        meter = gateway.facilities.meters.meter(self._definition, meta.user_id, handshake.client.address)
        try:
            await accept(request, subprotocol, DEFLATE if compressed else None)
            connection = Connection(
                gateway.facilities,
                gateway.open_connections.next_id(),
                room,
                meta,
                meter,
                request.protocol,
                compressed=compressed,
            )
            if expires_at is not None:
                connection.expire(expires_at, partial(self._renew, handshake, meta.user_id))
            gateway.connected(connection, attachment)
        except BaseException as error:  # what has begun to run gives its meter back itself
            meter.release()
            if isinstance(error, ConnectionResetError):
                return None
            raise
        return connection

    def _refuse(self, error: VeraniError, handshake: _Handshake) -> web.Response:
        gateway = self._gateway
        gateway.metrics.refused(error.code)
        forget_traceback(error)  # a hook may keep what it raises, but not this request by it
        gateway.refusals.log(
            f"a handshake for {self._definition.name}",
            error,
            path=handshake.request.path,
            room=handshake.room,
            remote=handshake.client.address,
        )
        headers = {}
        if isinstance(error, RateLimited | RoomBusy):
            headers["Retry-After"] = str(max(1, round(error.retry_after)))
        elif isinstance(error, UpgradeRequired):
            headers = {"Upgrade": "websocket", **error.headers}
        return _response(error.status, error.code, headers, None if error.is_of_call else error.public)

    def _check_origin(self, handshake: _Handshake) -> None:
        gateway, request, client = self._gateway, handshake.request, handshake.client
        if not client.is_told and is_forwarded(request.headers):
            gateway.refusals.warn_of_forwarding(client.address)
        origin = only(request.headers, hdrs.ORIGIN)
        if origin is None:
            return  # no browser
        is_own_name = gateway.answers_to(client, local_address(request))
        if not origin_allowed(
            origin,
            client.host if is_own_name else None,
            secure=client.scheme == "https",
            allowed=gateway.settings.allowed_origins,
        ):
            gateway.metrics.limited["allowed_origins"] += 1
            if not is_own_name:
                raise Forbidden(
                    f"Origin {origin!r} is not in allowed_origins, and Host {client.host!r} is no name of this listener"
                    " (public_hosts)"
                )
            own = f"{client.scheme}://{client.host}"
            raise Forbidden(f"Origin {origin!r} is neither that of the request ({own}) nor in allowed_origins")

    async def _identify(self, handshake: _Handshake) -> tuple[str, ConnectionMeta, bytes, float | None]:
        """Run the application's own decisions; return the room's name, the meta, its attachment and when it expires."""
        gateway, definition = self._gateway, self._definition
        meta, expires_at = await self._hooks(
            "authorize_channel, authorize_room, extract_meta or name_from_request", self._asking(handshake)
        )
        if expires_at is not None:
            check_expiry(expires_at, time.time())
        name = f"{definition.name}/{handshake.room}"
        if (held := gateway.attachments.rooms.get(name)) is not None:
            name = held.name  # one text for all who know the room: equal ones would be compared with each frame
        attachment = self._check_meta(meta)
        gateway.entrance.check_room(name)
        if gateway.ingress.congestion.holds_up(name):
            # Connects are inputs, too: those of clients that come and go must not pile up before a slow room.
            raise RoomBusy("the room is too slow", retry_after=5)
        if definition.same_client == "reject" and gateway.open_connections.holds_client(name, meta.client_id):
            raise Conflict("another connection has this client id")
        gateway.entrance.check_open()
        return name, meta, attachment, expires_at

    async def _asking(self, handshake: _Handshake) -> tuple[ConnectionMeta, float | None]:
        asked = _asked(handshake)
        room_id = room_id_of(await self._definition.name_for(asked))
        if room_id is None or is_misread(room_id, handshake.request):
            raise NotFound("no such room")
        handshake.room = room_id
        force_setattr(asked, "room", room_id)  # frozen to those who are asked
        return await self._definition.identify(asked)

    async def _renew(self, handshake: _Handshake, user_id: str, token: str) -> float | None:
        """Verify a token that is to refresh this user's connection; return when it expires."""
        asked = replace(_asked(handshake), room=handshake.room)
        meta, expires_at = await self._hooks(
            "authorize_room or verify_token", self._definition.identify_token(token, asked)
        )
        if meta.user_id != user_id:
            raise Unauthorized("expected a token of the same user")
        check_expiry(expires_at, time.time())
        return expires_at

    async def _hooks(
        self, which: str, asking: Coroutine[Any, Any, tuple[ConnectionMeta, float | None]]
    ) -> tuple[ConnectionMeta, float | None]:
        """Run hooks within their time; whatever they raise, its text stays here, and nothing ends the process."""
        gateway = self._gateway
        measure, began = gateway.metrics.identifying[self._definition.name], time.monotonic()
        try:
            return await (self._in_time(asking) if self._definition.deliberates else asking)
        except VeraniError:
            raise
        except BaseException as error:
            task = asyncio.current_task()
            if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
                raise  # from outside
            logger.exception("%s of %s failed", which, self._definition.name)
            gateway.failures.note(self._definition.name, error, which)
            measure.failed(error)
            raise VeraniError("the request could not be handled") from error
        finally:
            measure.observe(time.monotonic() - began)

    async def _in_time(
        self, asking: Coroutine[Any, Any, tuple[ConnectionMeta, float | None]]
    ) -> tuple[ConnectionMeta, float | None]:
        gateway = self._gateway
        # Who waited for a turn when the entrance was closed comes too late to be told.
        scope = asyncio.timeout(gateway.settings.hook_timeout if gateway.accepting else 0)
        try:
            async with scope:
                gateway.entrance.identifying.add(scope)
                return await asking
        except TimeoutError:
            if not gateway.accepting:
                raise RoomBusy("the service is going down", retry_after=1) from None
            raise
        finally:
            gateway.entrance.identifying.discard(scope)
            if scope.expired() and gateway.accepting:
                gateway.metrics.limited["hook_timeout"] += 1

    def _check_meta(self, meta: ConnectionMeta) -> bytes:
        """Refuse names that may not pass with 400; return the attachment."""
        definition = self._definition
        try:
            return definition.codec(self._gateway.settings.max_meta_bytes).admit(meta)
        except InvalidArguments as error:
            if isinstance(error.__cause__, TooLarge):
                self._gateway.metrics.limited["max_meta_bytes"] += 1
            raise
        except TypeError as error:
            logger.error("extract_meta of %s returned a meta that cannot be kept: %s", definition.name, error)
            raise VeraniError("the request could not be handled") from error


@dataclass(slots=True)
class _Handshake:
    """A request for a WebSocket: its client, and its room once the application has named it."""

    request: web.Request
    client: Client
    room: str = ""


def _asked(handshake: _Handshake) -> ConnectRequest:
    """Show the application the request, in which the room is what the path holds."""
    request = handshake.request
    return ConnectRequest(
        path=request.path,
        room=request.match_info.get("room"),
        query=request.query,
        headers=request.headers,
        cookies=cookies(request),
        subprotocols=subprotocols(request),
        remote=handshake.client.address,
        app=request.app,
    )


def _response(status: int, code: str, headers: dict[str, str], message: str | None = None) -> web.Response:
    told = {"code": code} if message is None else {"code": code, "message": message}
    response = web.Response(
        status=status,
        body=frames.encode({"error": told}),
        content_type="application/json",
        headers=headers,
    )
    # A client whose upgrade failed may believe otherwise: nothing it sends now is another request (threats 22).
    response.force_close()
    return response

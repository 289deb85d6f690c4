"""Decide who may connect, before the 101: the WebSocket end point of one room definition.

Every refusal is an HTTP status with a short JSON body; nobody is accepted only to be closed (protocol 5).
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import dataclasses
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec
from aiohttp import HttpVersion11, web

from verani.errors import (
    Conflict,
    Forbidden,
    NotFound,
    RateLimited,
    RoomBusy,
    Unauthorized,
    VeraniError,
)
from verani.meta import ConnectionMeta
from verani.names import is_room_id
from verani.request import ConnectRequest
from verani.room import RoomDefinition

from .access import client_address, forwarded_host, forwarded_scheme, origin_allowed
from .connection import Connection, Socket
from .expiry import check_expiry
from .rate import Meter

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
        refusal = _check_upgrade(request)
        if refusal is not None:
            return refusal
        gateway = self._gateway
        address = client_address(request.remote, request.headers, gateway.settings.trusted_proxies)
        try:
            self._check_origin(request)
            if not gateway.accepting:
                raise RoomBusy("the service is going down", retry_after=1)
            if gateway.is_full:
                gateway.metrics.limited["max_connections"] += 1
                raise RoomBusy("the service has no room for another connection", retry_after=5)
            if not gateway.reserve(address):
                gateway.metrics.limited["max_connections_per_address"] += 1
                raise RateLimited("too many connections from this address", retry_after=5)
        except VeraniError as error:
            return self._refuse(error)
        try:
            return await self._admit(request, address)
        finally:
            gateway.release(address)

    async def _admit(self, request: web.Request, address: str | None) -> web.StreamResponse:
        gateway = self._gateway
        await gateway.turns.take()
        try:
            room, meta, attachment, expires_at = await self._identify(request, address)
        except VeraniError as error:
            return self._refuse(error)
        with gateway.meter(meta.user_id, address) as meter:
            return await self._serve(request, room, meta, attachment, expires_at, meter)

    async def _serve(
        self,
        request: web.Request,
        room: str,
        meta: ConnectionMeta,
        attachment: bytes,
        expires_at: float | None,
        meter: Meter,
    ) -> web.StreamResponse:
        """Accept, and serve the connection to its end."""
        gateway = self._gateway
        ws = Socket(
            autoping=False,
            autoclose=False,
            compress=False,
            decode_text=False,
            # aiohttp refuses a message that is as long as its limit.
            max_msg_size=gateway.settings.max_frame_bytes + 1,
        )
        try:
            await ws.prepare(request)
            connection = Connection(gateway, gateway.next_id(), room, meta.client_id, meter, ws, request)
        except ConnectionResetError:
            return ws  # the client left during the handshake; there is nobody to tell
        if expires_at is not None:
            connection.expire(expires_at, partial(self._renew, meta.user_id))
        gateway.connected(connection, attachment)
        code, reason = 1006, ""
        try:
            code, reason = await connection.run()
        finally:
            gateway.disconnected(connection, code, reason)
        return ws

    def _refuse(self, error: VeraniError) -> web.Response:
        self._gateway.metrics.refusals[error.code] += 1
        headers = {}
        if isinstance(error, RateLimited | RoomBusy):
            headers["Retry-After"] = str(max(1, round(error.retry_after)))
        return _response(error.status, error.code, headers)

    def _check_origin(self, request: web.Request) -> None:
        settings = self._gateway.settings
        peer, headers = request.remote, request.headers
        scheme = forwarded_scheme(peer, headers, settings.trusted_proxies, default=request.scheme)
        host = forwarded_host(peer, headers, settings.trusted_proxies)
        if not origin_allowed(headers.get("Origin"), host, secure=scheme == "https", allowed=settings.allowed_origins):
            self._gateway.metrics.limited["allowed_origins"] += 1
            raise Forbidden("this Origin may not connect")

    async def _identify(
        self, request: web.Request, address: str | None
    ) -> tuple[str, ConnectionMeta, bytes, float | None]:
        """Run the application's own decisions; return the room's name, the meta, its attachment and when it expires."""
        gateway, definition = self._gateway, self._definition
        asked = ConnectRequest(
            path=request.path,
            room=request.match_info.get("room"),
            query=request.query,
            headers=request.headers,
            cookies=request.cookies,
            remote=address,
            app=request.app,
        )
        async with self._hooks("authorize_channel, extract_meta or name_from_request"):
            room_id = await definition.name_for(asked)
            if not isinstance(room_id, str) or not is_room_id(room_id):
                raise NotFound("no such room")
            meta, expires_at = await definition.identify(dataclasses.replace(asked, room=room_id))
        check_expiry(expires_at, time.time())
        name = f"{definition.name}/{room_id}"
        attachment = self._check_meta(meta)
        if gateway.is_room_full(name):
            gateway.metrics.limited["max_connections_per_room"] += 1
            raise RoomBusy("the room is full", retry_after=5)
        if gateway.is_congested(name):
            # Connects are inputs, too: those of clients that come and go must not pile up before a slow room.
            raise RoomBusy("the room is too slow", retry_after=5)
        if definition.same_client == "reject" and gateway.holds_client(name, meta.client_id):
            raise Conflict("another connection has this client id")
        if not gateway.accepting:
            raise RoomBusy("the service is going down", retry_after=1)
        return name, meta, attachment, expires_at

    async def _renew(self, user_id: str, token: str) -> float | None:
        """Verify a token that is to refresh this user's connection; return when it expires."""
        async with self._hooks("verify_token"):
            meta, expires_at = await self._definition.identify_token(token)
        if meta.user_id != user_id:
            raise Unauthorized("expected a token of the same user")
        check_expiry(expires_at, time.time())
        return expires_at

    @asynccontextmanager
    async def _hooks(self, which: str) -> AsyncIterator[None]:
        """Run hooks within their time; whatever they raise, its text stays here, and nothing ends the process."""
        gateway = self._gateway
        try:
            async with asyncio.timeout(gateway.settings.hook_timeout) as scope:
                gateway.identifying.add(scope)
                try:
                    yield
                finally:
                    gateway.identifying.discard(scope)
        except VeraniError:
            raise
        except BaseException as error:
            task = asyncio.current_task()
            if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
                raise  # from outside
            if isinstance(error, TimeoutError) and not gateway.accepting:
                raise RoomBusy("the service is going down", retry_after=1) from None
            logger.exception("%s of %s failed", which, self._definition.name)
            raise VeraniError("the request could not be handled") from error

    def _check_meta(self, meta: ConnectionMeta) -> bytes:
        """Refuse names that may not pass with 400; return the attachment."""
        definition = self._definition
        try:
            return definition.codec(self._gateway.settings.max_meta_bytes).admit(meta)
        except TypeError as error:
            logger.error("extract_meta of %s returned a meta that cannot be kept: %s", definition.name, error)
            raise VeraniError("the request could not be handled") from error


def _check_upgrade(request: web.Request) -> web.Response | None:
    """Answer what is no WebSocket handshake of version 13 (RFC 6455 4.2, protocol 2)."""
    headers = request.headers
    upgrade = headers.get("Upgrade", "").strip().lower() == "websocket" and request.version >= HttpVersion11
    if not upgrade or "upgrade" not in headers.get("Connection", "").lower():
        return _response(426, "upgrade_required", {"Upgrade": "websocket", "Connection": "Upgrade, close"})
    if headers.get("Sec-WebSocket-Version") != "13":
        return _response(426, "upgrade_required", {"Upgrade": "websocket", "Sec-WebSocket-Version": "13"})
    try:
        key = base64.b64decode(headers.get("Sec-WebSocket-Key", ""), validate=True)
    except binascii.Error:
        key = b""
    return None if len(key) == 16 else _response(400, "invalid", {})


def _response(status: int, code: str, headers: dict[str, str]) -> web.Response:
    response = web.Response(
        status=status,
        body=msgspec.json.encode({"error": {"code": code}}),
        content_type="application/json",
        headers=headers,
    )
    # A client whose upgrade failed may believe otherwise: nothing it sends now is another request (threats 22).
    response.force_close()
    return response

"""Take calls over HTTP, JSON in and JSON out: ``POST /rpc/{definition}/{room}/{method}``.

Who may call is decided by the internal listener; how a call reaches its room, by `calls`.
"""

from __future__ import annotations

import asyncio
import math
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, Final

from aiohttp import hdrs, web

from verani import frames
from verani.connect import KEY_HEADER, TIMEOUT_HEADER
from verani.errors import (
    DeadlineExceeded,
    InvalidArguments,
    NotFound,
    RateLimited,
    RoomBusy,
    Unauthorized,
    VeraniError,
)
from verani.names import is_name
from verani.room.methods import MAX_TIMEOUT, MIN_TIMEOUT

from ..http.bodies import read_body
from ..http.paths import ROOM_IN_PATH, is_misread

if TYPE_CHECKING:
    from ..gateway import Gateway

__all__ = ["RPC_PATH", "RpcEndpoint", "error_response"]

RPC_PATH: Final = f"/rpc/{{definition}}/{ROOM_IN_PATH}/{{method}}"


class RpcEndpoint:
    """The aiohttp handler of all calls of one gateway."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        # Requests whose body is still being read or whose call still runs.
        self._active = 0
        self._belonging = _belonging_to if gateway.settings.tracing else _alone

    async def __call__(self, request: web.Request) -> web.Response:
        """Answer with the result; raises the `VeraniError` that `error_response` is for."""
        self._active += 1
        try:
            with self._belonging(request):
                result = await self._call(request)
        finally:
            self._active -= 1
        return web.Response(body=result, content_type="application/json")

    async def _call(self, request: web.Request) -> bytes:
        gateway, match = self._gateway, request.match_info
        if is_misread(match["room"], request):
            raise NotFound("expected the name of the room as percent-encoded UTF-8")
        if not gateway.accepting:
            raise RoomBusy("the service is going down")
        if self._active > gateway.settings.max_rpc_calls:
            gateway.metrics.limited["max_rpc_calls"] += 1
            raise RoomBusy("as many calls wait as may")
        timeout = _timeout(request, gateway.settings.rpc_timeout)
        key = request.headers.get(KEY_HEADER)
        if key is not None and not (key and is_name(key)):
            raise InvalidArguments(f"{KEY_HEADER}: expected 1 to 255 characters without control characters")
        if request.body_exists and request.content_type != "application/json":
            raise InvalidArguments(f"expected Content-Type: application/json, got {request.content_type}")
        loop = asyncio.get_running_loop()
        until = loop.time() + timeout
        arguments = await read_body(request, gateway, timeout)
        left = min(timeout, until - loop.time())  # the sum and its difference are floats
        if left <= 0:
            raise DeadlineExceeded("no time was left when the arguments had arrived")
        return await gateway.calls.call(
            f"{match['definition']}/{match['room']}",
            match["method"],
            arguments if request.body_exists else b"{}",
            timeout=left,
            idempotency_key=key,
        )


def _alone(_: web.Request) -> AbstractContextManager[object]:
    return nullcontext()


def _belonging_to(request: web.Request) -> AbstractContextManager[object]:
    """Have a call belong to the span of whoever makes it (https://www.w3.org/TR/trace-context/)."""
    from verani.tracing import HEADER, belonging_to

    return belonging_to(request.headers.get(HEADER, ""))


def _timeout(request: web.Request, default: float) -> float:
    text = request.headers.get(TIMEOUT_HEADER)
    if text is None:
        return default
    try:
        timeout = float(text)
    except ValueError:
        timeout = math.nan
    if not MIN_TIMEOUT <= timeout <= MAX_TIMEOUT:
        raise InvalidArguments(f"{TIMEOUT_HEADER}: expected {MIN_TIMEOUT:g} to {MAX_TIMEOUT:g} seconds")
    return timeout


def error_response(error: VeraniError) -> web.Response:
    """Answer with an error of the table. Its text is ours, or what a hook made `public`, which is marked as such."""
    told: dict[str, Any] = {"code": error.code, "message": str(error)}
    if error.public is not None:
        told |= {"message": error.public, "public": True}
    headers = {}
    match error:
        case InvalidArguments(path=str(path)):
            told["path"] = path
        case Unauthorized():
            headers[hdrs.WWW_AUTHENTICATE] = "Bearer"
        case RateLimited() | RoomBusy():
            headers[hdrs.RETRY_AFTER] = str(max(1, round(error.retry_after)))
    return web.Response(
        status=error.status,
        body=frames.encode({"error": told}),
        content_type="application/json",
        headers=headers,
    )

"""Read WebSocket handshakes (RFC 6455 4.2), strictly, and answer them; aiohttp reads and answers none."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from hashlib import sha1
from typing import TYPE_CHECKING, Any, Final

from aiohttp import HttpVersion11, hdrs, web
from aiohttp.helpers import rfc822_formatted_time
from aiohttp.http import SERVER_SOFTWARE, WS_KEY
from multidict import CIMultiDict

from verani.errors import InvalidArguments, VeraniError

from .aiohttp_parts import has_failed
from .headers import listed, only

if TYPE_CHECKING:
    from multidict import MultiMapping

__all__ = ["UpgradeRequired", "Upgraded", "accept", "asks_for_websocket", "check_upgrade", "cookies", "subprotocols"]

_STATUS: Final = "HTTP/1.1 101 Switching Protocols"


class UpgradeRequired(VeraniError):
    """A request that is no WebSocket handshake of version 13, and what the answer says about that."""

    code = "upgrade_required"
    status = 426

    def __init__(self, message: str, **headers: str) -> None:
        super().__init__(message)
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


def check_upgrade(request: web.Request) -> None:
    """Refuse what is no WebSocket handshake of version 13 (RFC 6455 4.2, protocol 2)."""
    headers = request.headers
    is_upgrade = asks_for_websocket(request) and _names(headers, hdrs.CONNECTION, "upgrade")
    if not is_upgrade or request.version < HttpVersion11:
        raise UpgradeRequired(
            "expected a WebSocket handshake; does a proxy keep back Upgrade and Connection?",
            Connection="Upgrade, close",
        )
    version = only(headers, hdrs.SEC_WEBSOCKET_VERSION)
    if version != "13":
        raise UpgradeRequired(f"expected Sec-WebSocket-Version 13, got {version!r}", Sec_WebSocket_Version="13")
    if hdrs.CONTENT_LENGTH in headers or hdrs.TRANSFER_ENCODING in headers:
        raise InvalidArguments("expected no body")  # it would be frames to one reader and none to another
    try:
        key = base64.b64decode(only(headers, hdrs.SEC_WEBSOCKET_KEY) or "", validate=True)
    except ValueError:  # also for what is no ASCII
        key = b""
    if len(key) != 16:
        raise InvalidArguments("expected Sec-WebSocket-Key to be 16 bytes in base64")
    only(headers, hdrs.AUTHORIZATION)  # of two, each reader takes the one that it likes


def asks_for_websocket(request: web.Request) -> bool:
    """Tell whether a request is to become a WebSocket; it may be no good handshake."""
    return _names(request.headers, hdrs.UPGRADE, "websocket")


def _names(headers: MultiMapping[str], name: str, element: str) -> bool:
    return headers.get(name, "").lower() == element or any(each.lower() == element for each in listed(headers, name))


def subprotocols(request: web.Request) -> tuple[str, ...]:
    return tuple(listed(request.headers, hdrs.SEC_WEBSOCKET_PROTOCOL))


def cookies(request: web.Request) -> Mapping[str, str]:
    """Read the cookies of all lines: what spoke HTTP/2 before may have split them (RFC 9113 8.2.3)."""
    lines = request.headers.getall(hdrs.COOKIE, ())
    if not lines:
        return {}
    if len(lines) > 1:
        # aiohttp reads bytes that were no UTF-8, and does not write them.
        line = "; ".join(lines).encode("utf-8", "surrogateescape").decode("utf-8", "replace")
        request = request.clone(headers={hdrs.COOKIE: line})
    return request.cookies


class Upgraded(web.WebSocketResponse[Any]):
    """What aiohttp and its middlewares get once a connection is over whose handshake `accept` has answered."""

    @property
    def prepared(self) -> bool:
        """Say that no header can be set any more."""
        return True

    async def prepare(self, request: web.BaseRequest) -> Any:
        """Do nothing: it is answered."""

    async def write_eof(self, data: bytes = b"") -> None:
        """Do nothing: the connection has said its own goodbye."""


async def accept(request: web.Request, subprotocol: str | None, extension: str | None) -> None:
    """Answer a handshake that `check_upgrade` let pass with 101; raises ConnectionResetError if its client is gone.

    What is done at once when this returns comes before anything else that the client sends.
    """
    accepted = sha1(request.headers[hdrs.SEC_WEBSOCKET_KEY].encode() + WS_KEY).digest()
    headers = CIMultiDict(
        {
            hdrs.UPGRADE: "websocket",
            hdrs.CONNECTION: "upgrade",
            hdrs.SEC_WEBSOCKET_ACCEPT: base64.b64encode(accepted).decode(),
            hdrs.DATE: rfc822_formatted_time(),
            hdrs.SERVER: SERVER_SOFTWARE,
        }
    )
    if subprotocol is not None:
        headers[hdrs.SEC_WEBSOCKET_PROTOCOL] = subprotocol
    if extension is not None:
        headers[hdrs.SEC_WEBSOCKET_EXTENSIONS] = extension
    if any(app.on_response_prepare for app in request.match_info.apps):
        answer: web.WebSocketResponse[Any] = web.WebSocketResponse()
        answer.headers.update(headers)
        headers = answer.headers
        for app in request.match_info.apps:
            await app.on_response_prepare.send(request, answer)
    if request.transport is not None and has_failed(request.protocol):
        request.transport.abort()  # frames before the answer, where aiohttp did not see an upgrade
    await request.writer.write_headers(_STATUS, headers)
    request.writer.send_headers()

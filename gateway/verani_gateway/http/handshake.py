"""Read WebSocket handshakes (RFC 6455 4.2), strictly, and make them such that aiohttp reads the same."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import TYPE_CHECKING

from aiohttp import HttpVersion11, hdrs, web
from multidict import CIMultiDict

from verani.errors import InvalidArguments, VeraniError

from .headers import listed, only

if TYPE_CHECKING:
    from multidict import MultiMapping

__all__ = ["UpgradeRequired", "asks_for_websocket", "check_upgrade", "cookies", "normal", "subprotocols"]


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
    return any(each.lower() == element for each in listed(headers, name))


def subprotocols(request: web.Request) -> tuple[str, ...]:
    return tuple(listed(request.headers, hdrs.SEC_WEBSOCKET_PROTOCOL))


def cookies(request: web.Request) -> Mapping[str, str]:
    """Read the cookies of all lines: what spoke HTTP/2 before may have split them (RFC 9113 8.2.3)."""
    lines = request.headers.getall(hdrs.COOKIE, [])
    if len(lines) > 1:
        request = request.clone(headers={hdrs.COOKIE: _text("; ".join(lines))})
    return request.cookies


def normal(request: web.Request, subprotocol: str | None) -> web.Request:
    """Give a handshake as aiohttp reads it: one line, one value, and no subprotocol but the one to be answered."""
    headers = request.headers
    if hdrs.SEC_WEBSOCKET_PROTOCOL not in headers and headers[hdrs.UPGRADE].strip().lower() == "websocket":
        return request
    normal = CIMultiDict((name, _text(value)) for name, value in headers.items())
    normal[hdrs.UPGRADE] = "websocket"
    normal.popall(hdrs.SEC_WEBSOCKET_PROTOCOL, None)
    if subprotocol is not None:
        normal[hdrs.SEC_WEBSOCKET_PROTOCOL] = subprotocol
    return request.clone(headers=normal)


def _text(value: str) -> str:
    """Replace bytes that were no UTF-8, which aiohttp reads and does not write."""
    return value.encode("utf-8", "surrogateescape").decode("utf-8", "replace")

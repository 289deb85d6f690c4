"""Read WebSocket handshakes (RFC 6455 4.2), strictly, and answer them; aiohttp reads and answers none."""

from __future__ import annotations

from binascii import a2b_base64, b2a_base64
from collections.abc import Callable, Mapping
from hashlib import sha1
from typing import TYPE_CHECKING, Any, Final, TypeVar

from aiohttp import HttpVersion11, hdrs, web
from aiohttp.helpers import rfc822_formatted_time
from aiohttp.http import SERVER_SOFTWARE, WS_KEY

from verani.errors import InvalidArguments, VeraniError

from .aiohttp_parts import has_failed
from .headers import listed, only

if TYPE_CHECKING:
    from multidict import MultiMapping

__all__ = [
    "UpgradeRequired",
    "Upgraded",
    "accept",
    "asks_for_websocket",
    "check_upgrade",
    "cookies",
    "not_of_handshakes",
    "subprotocols",
]

Signal = TypeVar("Signal", bound=Callable[..., Any])

# What would end a line of the answer, or be taken for its end.
_BREAKS: Final = frozenset("\r\n\0")


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
        key = a2b_base64(only(headers, hdrs.SEC_WEBSOCKET_KEY) or "", strict_mode=True)
    except ValueError:  # also for what is no ASCII
        key = b""
    if len(key) != 16:
        raise InvalidArguments("expected Sec-WebSocket-Key to be 16 bytes in base64")
    only(headers, hdrs.AUTHORIZATION)  # of two, each reader takes the one that it likes


def asks_for_websocket(request: web.Request) -> bool:
    """Tell whether a request is to become a WebSocket; it may be no good handshake."""
    return _names(request.headers, hdrs.UPGRADE, "websocket")


def _names(headers: MultiMapping[str], name: str, element: str) -> bool:
    text = headers.get(name, "")
    if text.lower() == element and text.isascii():  # as mostly
        return True
    # Lower-casing turns some letters outside ASCII (the Kelvin sign) into letters inside it.
    return any(each.lower() == element and each.isascii() for each in listed(headers, name))


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


def not_of_handshakes(signal: Signal) -> Signal:
    """Mark one of `on_response_prepare` that leaves handshakes as they are: where all do, they are spared it."""
    signal.leaves_handshakes = True  # type: ignore[attr-defined]
    return signal


async def accept(request: web.Request, subprotocol: str | None, extension: str | None) -> None:
    """Answer a handshake that `check_upgrade` let pass with 101; raises ConnectionResetError if its client is gone.

    What is done at once when this returns comes before anything else that the client sends.
    """
    accepted = sha1(request.headers[hdrs.SEC_WEBSOCKET_KEY].encode() + WS_KEY).digest()
    head = (
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n"
        f"Sec-WebSocket-Accept: {b2a_base64(accepted, newline=False).decode()}\r\n"
        f"Date: {rfc822_formatted_time()}\r\nServer: {SERVER_SOFTWARE}\r\n"
    )
    if subprotocol is not None:
        head += f"Sec-WebSocket-Protocol: {subprotocol}\r\n"
    if extension is not None:
        head += f"Sec-WebSocket-Extensions: {extension}\r\n"
    for app in request.match_info.apps:
        signals = app.on_response_prepare
        if signals and not all(getattr(signal, "leaves_handshakes", False) for signal in signals):
            head = await _signalled(request, head)
            break
    transport = request.transport
    if transport is not None and has_failed(request.protocol):
        transport.abort()  # frames before the answer, where aiohttp did not see an upgrade
    if transport is None or transport.is_closing():
        raise ConnectionResetError("the client left during the handshake")
    transport.write(f"{head}\r\n".encode())


async def _signalled(request: web.Request, head: str) -> str:
    """Let the signals of applications, the outermost first, change the headers of an answer."""
    status, *lines = head.splitlines()
    answer: web.WebSocketResponse[Any] = web.WebSocketResponse()
    answer.headers.extend((name, value) for name, _, value in (line.partition(": ") for line in lines))
    for app in request.match_info.apps:
        await app.on_response_prepare.send(request, answer)
    lines = [f"{name}: {value}" for name, value in answer.headers.items()]
    if not _BREAKS.isdisjoint("".join(lines)):
        raise ValueError("expected headers of one line each")
    return "\r\n".join([status, *lines, ""])

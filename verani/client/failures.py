"""Say why a client has no connection or no answer, in words that name the server and never a query, token or password.

It does not open connections, and what aiohttp raises is `causes.py`'s.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import msgspec
from yarl import URL

from ..errors import Interrupted, TooLarge, VeraniError, refusal_for
from ..names import is_name
from .reconnection import is_final

__all__ = [
    "Closing",
    "ConnectFailed",
    "ConnectionClosed",
    "HandshakeRefused",
    "NoWebSocketServer",
    "RequestInterrupted",
    "address_of",
    "told_in",
    "without_secrets",
]

_MAX_CODE = 64  # the longest of ours has 16 characters

_NORMAL, _TOO_LARGE = 1000, 1009

# What a server means by a code (protocol 15), and RFC 6455 7.4.1 by those that are no server's.
_MEANINGS = MappingProxyType(
    {
        1005: "a close frame without a code",
        1006: "it was lost",
        1007: "a frame was no UTF-8",
        1008: "too many frames, or too many that were invalid",
        1009: "a frame was larger than the server takes",
        1011: "the room could not take the connection; the log of the service says why",
        1012: "the service restarts",
        1013: "this client did not read, or the room cannot take it now",
        4001: "the token has expired",
        4009: "another connection has the same client id",
    }
)


@dataclass(frozen=True, slots=True)
class Closing:
    """How a connection ended: code and reason of the close frame, 1006 without one.

    `by_client` says why it was this client that ended it, and is empty where it was not.
    """

    code: int
    reason: str = ""
    by_client: str = ""

    def __str__(self) -> str:
        why = self.by_client or _MEANINGS.get(self.code)
        return f"the connection ended with code {self.code} {self.reason!r}" + (f": {why}" if why else "")

    @property
    def refusal(self) -> VeraniError | None:
        """What `on_connect` refused this client with; None where it did not."""
        if self.code != _NORMAL or self.by_client:
            return None
        return refusal_for(self.reason, f"the room refused this client with {self.reason!r}")

    def error_for(self, event: str, size: int, largest: int) -> VeraniError:
        """Say what this means to a request that has left and has no answer.

        `size` is that of its frame in bytes, `largest` that of the largest frame sent over the connection: which one
        was too large is not on the wire.
        """
        if self.code == _TOO_LARGE and not self.by_client and size == largest:
            return TooLarge(f"{event!r} was not taken: its frame of {size} bytes is larger than the server takes")
        return self.refusal or RequestInterrupted(event, self)


class RequestInterrupted(Interrupted):
    """The connection ended before the answer to a request came; `closing` says how. It may have run."""

    def __init__(self, event: str, closing: Closing) -> None:
        super().__init__(f"{event!r} was sent and not answered, it may have run: {closing}")
        self.closing = closing


class ConnectFailed(VeraniError):
    """There is no connection; a network error is in `__cause__`."""

    code = "unreachable"
    status = 503
    retry_after = 0.0
    # True where another attempt would end the same way.
    is_final = False


class ConnectionClosed(ConnectFailed):
    """There is no connection any more, and this client does not come back; `closing` says how it ended.

    `failures` counts the connections and attempts in a row that came to nothing, where that is why it gave up.
    """

    def __init__(self, closing: Closing, failures: int = 0) -> None:
        tried = f"gave up after {failures} failed {'attempt' if failures == 1 else 'attempts in a row'}: "
        super().__init__(f"{tried if failures else ''}{closing}")
        self.closing = closing
        self.failures = failures


class NoWebSocketServer(ConnectFailed):
    """What answered the handshake does not speak WebSocket."""

    is_final = True


class HandshakeRefused(ConnectFailed):
    """The server answered the handshake with the HTTP status `status`; it asked to wait `retry_after` seconds.

    `server_code` is the error code in the body of its answer and `public` its text for people, None where there is none
    that could be read (a `session` of your own keeps it from the client).
    """

    code = "refused"

    def __init__(
        self,
        status: int,
        *,
        url: str = "the server",
        server_code: str | None = None,
        public: str | None = None,
        retry_after: float = 0.0,
    ) -> None:
        given = f"{status} ({server_code})" if server_code else str(status)
        remark = _remark_on(status) if public is None else f": {public}"
        super().__init__(f"{url} refused the handshake with {given}{remark}", public=public)
        self.status = status  # type: ignore[misc]  # the other errors know theirs before they happen
        self.is_final = is_final(status)
        self.server_code = server_code
        self.retry_after = retry_after


def _remark_on(status: int) -> str:
    if status == 404:  # the usual mistakes: the port of the internal listener, and a path that no room has
        return ": is that the public listener and a path of a room?"
    if 300 <= status < 400:
        return ": it redirected, which no room does"
    return ": that is no WebSocket server" if status < 300 else ""


def without_secrets(url: URL) -> str:
    """Return a URL that may be shown."""
    return str(url.with_user(None).with_query(None).with_fragment(None))


def address_of(url: URL) -> str:
    """Return host and port, the port also where the URL leaves it out."""
    host = url.host or ""
    return f"[{host}]:{url.port}" if ":" in host else f"{host}:{url.port}"


def told_in(body: bytes) -> tuple[str | None, str | None]:
    """Return the error code of a refusal and its text for people; None where the body is not one of ours."""
    try:
        answer: Any = msgspec.json.decode(body)
    except ValueError:
        return None, None
    match answer:
        case {"error": {"code": str(code), **more}} if 0 < len(code) <= _MAX_CODE and is_name(code):
            public = more.get("message")
            return code, public if isinstance(public, str) else None
        case _:
            return None, None

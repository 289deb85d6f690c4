"""Say why a client has no connection, in words that name the server and never a query, a token or a password.

It does not open connections or know whose exceptions those are that say why one failed.
"""

from __future__ import annotations

import os
from typing import Any

import msgspec
from yarl import URL

from ..errors import VeraniError
from ..names import is_name

__all__ = ["ConnectFailed", "HandshakeRefused", "address_of", "bare", "code_in", "reason_of", "without_secrets"]

_MAX_CODE = 64  # the longest of ours has 16 characters


class ConnectFailed(VeraniError):
    """There is no connection; a network error is in `__cause__`."""

    code = "unreachable"
    status = 503
    retry_after = 0.0


class HandshakeRefused(ConnectFailed):
    """The server answered the handshake with the HTTP status `status`; it asked to wait `retry_after` seconds.

    `server_code` is the error code in the body of its answer, None where there is none that could be read (a
    `session` of your own keeps it from the client).
    """

    code = "refused"

    def __init__(
        self, status: int, *, url: str = "the server", server_code: str | None = None, retry_after: float = 0.0
    ) -> None:
        given = f"{status} ({server_code})" if server_code else str(status)
        # The usual mistakes behind a 404: the port of the internal listener, and a path that no room has.
        question = ": is that the public listener and a path of a room?" if status == 404 else ""
        super().__init__(f"{url} refused the handshake with {given}{question}")
        self.status = status  # type: ignore[misc]  # the other errors know theirs before they happen
        self.server_code = server_code
        self.retry_after = retry_after


def without_secrets(url: URL) -> str:
    """Return a URL that may be shown."""
    return str(url.with_user(None).with_query(None).with_fragment(None))


def address_of(url: URL) -> str:
    """Return host and port, the port also where the URL leaves it out."""
    host = url.host or ""
    return f"[{host}]:{url.port}" if ":" in host else f"{host}:{url.port}"


def code_in(body: bytes) -> str | None:
    """Return the error code of a refusal, None where the body is not one of ours."""
    try:
        answer: Any = msgspec.json.decode(body)
    except ValueError:
        return None
    match answer:
        case {"error": {"code": str(code)}} if 0 < len(code) <= _MAX_CODE and is_name(code):
            return code
        case _:
            return None


def bare(error: BaseException) -> BaseException:
    """Return `error` without its traceback and what is chained to it: the frames of the library below tell nothing."""
    error.__cause__ = None
    return error.with_traceback(None)


def reason_of(error: OSError) -> str:
    """Return why the system could not connect, without what event loops add to it."""
    if error.errno is not None and error.errno > 0:  # those of name resolution are negative, and have texts
        return os.strerror(error.errno)
    return error.strerror or str(error) or type(error).__name__

"""Identify clients by a session cookie, whose meaning only the application knows.

The cookie is handed on as it came: it is neither verified nor decoded here, and never logged.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from ..errors import DefinitionError, Unauthorized
from ..room.request import ConnectRequest, Identified

__all__ = ["MAX_COOKIE", "Lookup", "cookie_auth"]

# What browsers keep of one cookie (RFC 6265 6.1).
MAX_COOKIE = 4096

Lookup = Callable[[str], Awaitable[Identified | None]]


def cookie_auth(name: str, lookup: Lookup) -> Callable[[ConnectRequest], Awaitable[Identified]]:
    """Make an `extract_meta` that asks ``await lookup(value)`` whose session the cookie `name` is.

    `lookup` returns what `extract_meta` may return, or None for a session it does not know. Without a cookie, with one
    of more than 4096 characters or of other than ASCII (RFC 6265 4.1.1), and on None the client is refused with 401;
    `lookup` runs in the gateway, and what it raises is treated as `extract_meta` says.
    """
    if not isinstance(name, str) or not name:
        raise DefinitionError(f"cookie_auth: expected the name of a cookie, got {name!r}")
    if not callable(lookup):
        raise DefinitionError(f"cookie_auth: expected lookup to be an async function, got {lookup!r}")

    async def extract_meta(request: ConnectRequest) -> Identified:
        value = request.cookies.get(name, "")
        found = await lookup(value) if 0 < len(value) <= MAX_COOKIE and value.isascii() else None
        if found is None:
            raise Unauthorized("expected the cookie of a session")
        return found

    return extract_meta

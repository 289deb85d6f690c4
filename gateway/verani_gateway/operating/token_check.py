"""Hold callers and operators to their tokens."""

from __future__ import annotations

import base64
import binascii
import hmac

from aiohttp import hdrs, web

from verani.errors import Unauthorized
from verani.room.request import BEARER

from ..http.handshake import subprotocols
from ..http.headers import only

__all__ = ["require_token", "require_token_of_page"]


def require_token(token: str | None, request: web.Request) -> None:
    """Raise `Unauthorized` unless the request shows the token; without one, only loopback reaches this listener."""
    if token is not None and not _matches(_in_header(request), token):
        raise Unauthorized("expected a bearer token")


def require_token_of_page(token: str | None, request: web.Request) -> None:
    """Do the same for a WebSocket, of which pages can choose nothing but subprotocols.

    What follows `bearer.` there is the token as base64url without padding: not every token has only the characters that
    a subprotocol may have.
    """
    if token is None or _matches(_in_header(request), token):
        return
    offered = (name.removeprefix(BEARER) for name in subprotocols(request) if name.startswith(BEARER))
    if not any(_matches(_decoded(shown), token) for shown in offered):
        raise Unauthorized("expected a bearer token")


def _in_header(request: web.Request) -> bytes | None:
    scheme, _, shown = (only(request.headers, hdrs.AUTHORIZATION) or "").partition(" ")
    # aiohttp decodes headers with surrogateescape; the same way back keeps every byte.
    return shown.strip().encode("utf-8", "surrogateescape") if scheme.lower() == "bearer" else None


def _decoded(text: str) -> bytes | None:
    try:
        return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except (binascii.Error, ValueError):
        return None


def _matches(shown: bytes | None, token: str) -> bool:
    return shown is not None and hmac.compare_digest(shown, token.encode())

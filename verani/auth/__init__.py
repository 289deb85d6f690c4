"""Say who connects: ready `extract_meta` for bearer tokens, for session cookies and for rooms that trust nobody.

`jwt_auth` needs the extra ``auth``; the others need nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..room.authority import public_meta
from ..room.request import ConnectRequest, Identity, TokenVerifier
from .cookie import cookie_auth

if TYPE_CHECKING:
    from .bearer import JwtVerifier, jwt_auth

__all__ = [
    "cookie_auth",
    "jwt_auth",
    "public_meta",
    "ConnectRequest",
    "Identity",
    "JwtVerifier",
    "TokenVerifier",
]


def __getattr__(name: str) -> Any:
    # Only what tokens need is loaded late, so that cookies work without the extra.
    if name not in ("JwtVerifier", "jwt_auth"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import bearer

    return getattr(bearer, name)

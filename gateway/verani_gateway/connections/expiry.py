"""Say what is due for a connection whose identity expires, by the wall clock (protocol 19).

The endpoint decides who may renew an identity, the connection sends what is due.
"""

from __future__ import annotations

import math

import msgspec

from verani.errors import Unauthorized

__all__ = ["GRACE", "REFRESH", "REFRESHED", "WARNING", "Expiry", "check_expiry", "expiring_frame", "read_token"]

# Seconds before the expiry at which the client is told, and after it at which its connection is closed.
WARNING = 30.0
GRACE = 25.0

REFRESH = "verani.refresh"
REFRESHED = b'{"type":"verani.refreshed"}'


def expiring_frame(seconds: int) -> bytes:
    """Build what tells a client that its token expires."""
    return b'{"type":"verani.expiring","data":{"seconds":%d}}' % seconds


class _Refresh(msgspec.Struct):
    token: str


_decode_refresh = msgspec.json.Decoder(_Refresh).decode


def read_token(data: bytes) -> str:
    """Read the token in the data of a refresh; raises `msgspec.DecodeError` if there is none."""
    return _decode_refresh(data).token


def check_expiry(expires_at: float | None, now: float) -> None:
    """Raise `Unauthorized` for an identity whose connection would be closed at once."""
    if expires_at is not None and now >= expires_at + GRACE:
        raise Unauthorized("this identity has expired")


class Expiry:
    """When one connection's identity ends; times are seconds of the wall clock."""

    __slots__ = ("_at", "_told")

    def __init__(self, at: float) -> None:
        self._at = at
        self._told = False

    def left(self, now: float) -> float:
        """Return the seconds that are left, fewer than 0 once it has expired."""
        return self._at - now

    def notice(self, now: float) -> int | None:
        """Return the seconds left once the client must be told, and None before and after that."""
        left = self.left(now)
        if self._told or left > WARNING:
            return None
        self._told = True
        return max(0, math.ceil(left))

    def is_over(self, now: float) -> bool:
        """True once the connection is to be closed."""
        return now >= self._at + GRACE

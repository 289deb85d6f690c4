"""Decide whether a page of some origin may reach this service.

What cannot be parsed is refused.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

from .host_port import ANY, is_name, matches, parse_host_port

__all__ = ["is_origin", "origin_allowed"]

_DEFAULT_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}

_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*")


class WebOrigin(NamedTuple):
    scheme: str
    host: str
    port: int | None


# What a page without an origin of its own sends: a sandboxed frame, a file in some browsers.
_OPAQUE = WebOrigin("null", "", None)


# The same for all clients of one page; bounded, because they may name whatever they like.
@lru_cache(maxsize=256)
def origin_allowed(origin: str | None, host: str | None, *, secure: bool, allowed: tuple[str, ...]) -> bool:
    """Say whether a request with this `Origin` may go on.

    No `Origin` is not a browser and is allowed. Otherwise scheme, host and port must equal those of the
    request itself (`host` is its `Host`, `secure` whether it came over TLS) or of an entry of `allowed`, in which
    ``*.`` stands for one or more names. Opaque origins, which pages of all sites share, are allowed by name only.
    """
    if origin is None or ANY in allowed:
        return True
    asked = _parse_origin(origin)
    if asked is None:
        return False
    own = _parse_origin(f"{'https' if secure else 'http'}://{host}") if host else None
    return asked == own or any(_is_covered(asked, entry) for entry in _entries(allowed))


def is_origin(text: str) -> bool:
    """Say whether `text` may stand in `allowed_origins`."""
    return text == ANY or _parse_entry(text) is not None


def _parse_origin(text: str) -> WebOrigin | None:
    if text == "null":
        return _OPAQUE
    scheme, separator, rest = text.partition("://")
    scheme = scheme.lower()
    if not separator or not scheme.isascii() or not _SCHEME.fullmatch(scheme):
        return None
    if rest in ("", ".") and scheme not in _DEFAULT_PORTS:  # file:// has no host
        return WebOrigin(scheme, "", None)
    host_port = parse_host_port(rest)
    if host_port is None:
        return None
    return WebOrigin(scheme, host_port.host, host_port.port or _DEFAULT_PORTS.get(scheme))


def _parse_entry(text: str) -> WebOrigin | None:
    """Read an entry of `allowed_origins`; the host of a pattern begins with a dot."""
    if text.endswith("/") and not text.endswith("://"):
        text = text[:-1]
    scheme, separator, rest = text.partition("://")
    if not rest.startswith("*."):
        return _parse_origin(text)
    origin = _parse_origin(f"{scheme}{separator}{rest[2:]}")
    if origin is None or not is_name(origin.host):
        return None
    return origin._replace(host=f".{origin.host}")


@lru_cache(maxsize=16)
def _entries(allowed: tuple[str, ...]) -> tuple[WebOrigin, ...]:
    # An entry that does not parse allows nobody; the configuration refuses it beforehand.
    return tuple(origin for entry in allowed if (origin := _parse_entry(entry)) is not None)


def _is_covered(asked: WebOrigin, entry: WebOrigin) -> bool:
    return asked == entry._replace(host=asked.host) and matches(asked.host, entry.host)

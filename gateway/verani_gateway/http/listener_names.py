"""Decide whether a `Host` header names a listener, which is what stops DNS rebinding.

What cannot be parsed is refused.
"""

from __future__ import annotations

from functools import lru_cache

from .host_port import (
    ANY,
    is_loopback,
    is_name,
    is_unspecified,
    matches,
    normal_host,
    parse_address,
    parse_host_port,
)

__all__ = ["host_allowed", "is_host_name", "is_host_pattern", "public_host_allowed"]


def host_allowed(host: str | None, *, bound: tuple[str, ...] = (), extra: tuple[str, ...] = ()) -> bool:
    """Say whether a `Host` header names this listener: loopback, an address it is bound to, or an extra name.

    That is what stops DNS rebinding, where a site's own name is made to resolve to this machine.
    The port is not compared: port forwarding changes it.
    """
    host_port = parse_host_port(host) if host else None
    if host_port is None:
        return False
    # Browsers send names below localhost nowhere else (RFC 6761 6.3).
    if ANY in extra or is_loopback(host_port.host) or host_port.host.endswith(".localhost"):
        return True
    names = {normal_host(name) for name in (*extra, *bound)}
    return any(matches(host_port.host, name) for name in names) and not is_unspecified(host_port.host)


# The same for all clients of one service; bounded, because they may name whatever they like.
@lru_cache(maxsize=256)
def public_host_allowed(host: str | None, local: str, *, bound: tuple[str, ...], extra: tuple[str, ...]) -> bool:
    """Say whether a `Host` header may name the public listener, to which a request came at the address `local`.

    With `extra` it must be one of these, loopback or an own address. Without, any name will do, except at loopback:
    who listens there, and not also everywhere, relies on being reached by this machine only. `bound` are the hosts
    that are listened on, empty where somebody else knows.
    """
    if not extra and not (is_loopback(local) and not any(map(is_unspecified, bound))):
        return True
    return host_allowed(host, bound=(*bound, local), extra=extra)


def is_host_name(text: str) -> bool:
    """Say whether `text` may stand in `internal_hosts`: a name or address without scheme and port."""
    return parse_address(text) is not None or (
        (host_port := parse_host_port(text)) is not None and host_port.port is None
    )


def is_host_pattern(text: str) -> bool:
    """Say whether `text` may stand in `public_hosts`: as `is_host_name`, after ``*.`` if it is a name, or ``*``."""
    if text.startswith("*."):
        return is_host_name(text[2:]) and is_name(normal_host(text[2:]))
    return text == ANY or is_host_name(text)

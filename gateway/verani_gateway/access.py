"""Decide who may reach a listener: origins, host names, loopback, and whose forwarding headers count.

Pure functions of text: nothing here opens a socket, resolves a name or reads a setting by itself.
What cannot be parsed is refused, or ignored where ignoring it is the safe side.
"""

from __future__ import annotations

import ipaddress
import re
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from multidict import MultiMapping

__all__ = [
    "ANY_ORIGIN",
    "origin_allowed",
    "host_allowed",
    "is_loopback",
    "client_address",
    "forwarded_scheme",
    "forwarded_host",
    "is_origin",
    "is_host_name",
    "is_network",
]

# The entry of `allowed_origins` that switches the check off.
ANY_ORIGIN = "*"

_DEFAULT_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}

# `fullmatch` only: `$` would let a trailing newline pass. User info, paths and empty ports never match.
_AUTHORITY = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::([0-9]{1,5}))?")
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*")
_FORWARDED_FOR = re.compile(r"\[([0-9a-fA-F:.]+)\](?::[0-9]{1,5})?|([0-9.]+):[0-9]{1,5}")

# Some proxies name the scheme of a WebSocket request by its own name.
_HTTP_SCHEMES = {"http": "http", "https": "https", "ws": "http", "wss": "https"}

_Address = IPv4Address | IPv6Address
_Network = IPv4Network | IPv6Network


class _Authority(NamedTuple):
    host: str
    port: int | None


class _Origin(NamedTuple):
    scheme: str
    host: str
    port: int | None


def origin_allowed(origin: str | None, host: str | None, *, secure: bool, allowed: tuple[str, ...]) -> bool:
    """Say whether a request with this `Origin` may go on.

    No `Origin` is not a browser and is allowed. Otherwise scheme, host and port must equal those of the
    request itself (`host` is its `Host`, `secure` whether it came over TLS) or of an entry of `allowed`.
    """
    if origin is None or ANY_ORIGIN in allowed:
        return True
    asked = _parse_origin(origin)
    if asked is None:  # "null" too: every sandboxed frame of every site sends it
        return False
    own = _parse_origin(f"{'https' if secure else 'http'}://{host}") if host else None
    return asked == own or any(asked == _parse_origin(entry) for entry in allowed)


def host_allowed(host: str | None, *, bound: tuple[str, ...] = (), extra: tuple[str, ...] = ()) -> bool:
    """Say whether a `Host` header names this listener: loopback, an address it is bound to, or an extra name.

    That is what stops DNS rebinding, where a site's own name is made to resolve to this machine.
    The port is not compared: port forwarding changes it.
    """
    authority = _parse_authority(host) if host else None
    if authority is None:
        return False
    if is_loopback(authority.host):
        return True
    names = {_normal_host(name) for name in extra} | {_normal_host(name) for name in bound}
    return authority.host in names and not _is_unspecified(authority.host)


def is_loopback(host: str) -> bool:
    """Say whether only this machine can reach a listener on `host`; an empty host, "all", is not."""
    if host.lower() == "localhost":
        return True
    address = _parse_address(host.removeprefix("[").removesuffix("]"))
    return address is not None and address.is_loopback


def client_address(peer: str | None, headers: MultiMapping[str], trusted: tuple[str, ...]) -> str | None:
    """Find the address of the client behind proxies; `peer` is the address the connection came from.

    `X-Forwarded-For` is read from right to left, because each proxy appends what it saw and everything
    left of the first untrusted address is that client's own claim. A malformed entry ends the reading.
    """
    if peer is None:
        return None
    current = _parse_address(peer)
    if current is None:
        return peer
    networks = _networks(trusted)
    claims = [claim.strip() for line in headers.getall("X-Forwarded-For", []) for claim in line.split(",")]
    while claims and _in_any(current, networks):
        claimed = _parse_forwarded_for(claims.pop())
        if claimed is None:
            break
        current = claimed
    return str(current)


def forwarded_scheme(peer: str | None, headers: MultiMapping[str], trusted: tuple[str, ...], *, default: str) -> str:
    """Give the scheme the client used, "http" or "https", by `X-Forwarded-Proto` of a trusted peer."""
    claim = _last_claim("X-Forwarded-Proto", peer, headers, trusted)
    return _HTTP_SCHEMES.get(claim.lower(), default) if claim else default


def forwarded_host(peer: str | None, headers: MultiMapping[str], trusted: tuple[str, ...]) -> str | None:
    """Give the host and port the client asked for: `X-Forwarded-Host` of a trusted peer, else `Host`."""
    claim = _last_claim("X-Forwarded-Host", peer, headers, trusted)
    if claim and _parse_authority(claim) is not None:
        return claim
    return headers.get("Host")


def is_origin(text: str) -> bool:
    """Say whether `text` may stand in `allowed_origins`."""
    return text == ANY_ORIGIN or _parse_origin(text) is not None


def is_host_name(text: str) -> bool:
    """Say whether `text` may stand in `internal_hosts`: a name or address without scheme and port."""
    return _parse_address(text) is not None or (
        (authority := _parse_authority(text)) is not None and authority.port is None
    )


def is_network(text: str) -> bool:
    """Say whether `text` may stand in `trusted_proxies`: an IP address or network."""
    return _parse_network(text) is not None


def _parse_origin(text: str) -> _Origin | None:
    scheme, _, rest = text.partition("://")
    authority, scheme = _parse_authority(rest), scheme.lower()
    if authority is None or not _SCHEME.fullmatch(scheme):
        return None
    return _Origin(scheme, authority.host, authority.port or _DEFAULT_PORTS.get(scheme))


def _parse_authority(text: str) -> _Authority | None:
    # Lower-casing turns some letters outside ASCII (the Kelvin sign) into letters inside it.
    match = _AUTHORITY.fullmatch(text.lower()) if text.isascii() else None
    if match is None:
        return None
    host, port = match[1], int(match[2]) if match[2] else None
    if port is not None and not 0 < port <= 65535:
        return None
    if not host.startswith("["):
        return _Authority(host, port)
    address = _parse_address(host[1:-1])
    return None if address is None else _Authority(_normal_host(host), port)


def _normal_host(host: str) -> str:
    """Spell a host as `_parse_authority` does: lower case, an IPv6 address in brackets and shortest form."""
    address = _parse_address(host.removeprefix("[").removesuffix("]"))
    if address is None:
        return host.lower()
    return f"[{address}]" if address.version == 6 else str(address)


def _is_unspecified(host: str) -> bool:
    address = _parse_address(host.removeprefix("[").removesuffix("]"))
    return address is not None and address.is_unspecified


def _parse_address(text: str) -> _Address | None:
    """Parse an IP address; one that is mapped into IPv6 is its IPv4 self, a zone index is dropped."""
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def _parse_forwarded_for(text: str) -> _Address | None:
    match = _FORWARDED_FOR.fullmatch(text)
    return _parse_address((match[1] or match[2]) if match else text)


def _parse_network(text: str) -> _Network | None:
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        return None


@lru_cache(maxsize=16)
def _networks(trusted: tuple[str, ...]) -> tuple[_Network, ...]:
    # An entry that does not parse trusts nobody; the configuration refuses it beforehand.
    return tuple(network for entry in trusted if (network := _parse_network(entry)) is not None)


def _in_any(address: _Address, networks: tuple[_Network, ...]) -> bool:
    return any(address in network for network in networks)


def _last_claim(name: str, peer: str | None, headers: MultiMapping[str], trusted: tuple[str, ...]) -> str | None:
    """Give the last value of a header, the one the nearest proxy wrote, when that proxy is trusted."""
    address = _parse_address(peer) if peer is not None else None
    if address is None or not _in_any(address, _networks(trusted)):
        return None
    lines = headers.getall(name, [])
    return lines[-1].rpartition(",")[2].strip() if lines else None

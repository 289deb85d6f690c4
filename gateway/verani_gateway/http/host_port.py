"""Read the hosts, ports and addresses that requests and settings name, and compare them.

Pure functions of text: nothing here resolves a name. What cannot be parsed is None, or equal to nothing.
"""

from __future__ import annotations

import ipaddress
import re
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple

__all__ = [
    "ANY",
    "Address",
    "HostPort",
    "is_loopback",
    "is_name",
    "is_unspecified",
    "matches",
    "normal_host",
    "parse_address",
    "parse_host_port",
]

# The entry of `allowed_origins` and `public_hosts` that switches the check off.
ANY = "*"

# `fullmatch` only: `$` would let a trailing newline pass. User info, paths and empty ports never match.
_HOST_PORT = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::([0-9]{1,5}))?")

Address = IPv4Address | IPv6Address


class HostPort(NamedTuple):
    """A host and the port that was named with it."""

    host: str
    port: int | None


def parse_host_port(text: str) -> HostPort | None:
    # Lower-casing turns some letters outside ASCII (the Kelvin sign) into letters inside it.
    match = _HOST_PORT.fullmatch(text.lower()) if text.isascii() else None
    if match is None:
        return None
    host, port = match[1], int(match[2]) if match[2] else None
    if port is not None and not 0 < port <= 65535:
        return None
    if not host.startswith("["):
        host = host.removesuffix(".")  # the root, which a name may be spelled with
        return HostPort(host, port) if all(host.split(".")) else None
    address = parse_address(host[1:-1])
    return None if address is None else HostPort(normal_host(host), port)


def is_name(host: str) -> bool:
    """Tell a name from an address and the end of one, as browsers do: by its last part."""
    return bool(host) and ":" not in host and not host.rpartition(".")[2].isdigit()


def normal_host(host: str) -> str:
    """Spell a host as `parse_host_port` does, a pattern as `matches` takes it.

    Lower case, without the last dot, an IPv6 address in brackets and shortest form.
    """
    address = parse_address(host.removeprefix("[").removesuffix("]"))
    if address is None:
        return host.lower().removesuffix(".").removeprefix("*")
    return f"[{address}]" if address.version == 6 else str(address)


# Asked three times for each handshake; bounded, because clients may name whatever they like.
@lru_cache(maxsize=256)
def parse_address(text: str) -> Address | None:
    """Parse an IP address; one that is mapped into IPv6 is its IPv4 self, a zone index is dropped."""
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def matches(host: str, pattern: str) -> bool:
    """Say whether a host is the one named, or below it where the pattern begins with a dot."""
    return host == pattern or (pattern.startswith(".") and host.endswith(pattern))


def is_loopback(host: str) -> bool:
    """Say whether only this machine can reach a listener on `host`; an empty host, "all", is not."""
    if host.lower() in ("localhost", "localhost."):
        return True
    address = parse_address(host.removeprefix("[").removesuffix("]"))
    return address is not None and address.is_loopback


def is_unspecified(host: str) -> bool:
    """Say whether a listener on `host` is one on every address of its family."""
    address = parse_address(host.removeprefix("[").removesuffix("]"))
    return address is not None and address.is_unspecified

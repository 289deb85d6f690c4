"""Find out where a request came from, as far as trusted proxies tell.

A header that cannot be parsed, or that nobody trusted has sent, is ignored.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network
from itertools import islice, starmap, zip_longest
from typing import TYPE_CHECKING, NamedTuple

from multidict import istr

from .headers import listed
from .host_port import Address, parse_address, parse_host_port

if TYPE_CHECKING:
    from multidict import MultiMapping

__all__ = ["FORWARDING", "UNIX", "Client", "client_of", "is_forwarded", "is_proxy"]

# What a peer over a Unix socket is called, and how `trusted_proxies` names all of them.
UNIX = "unix"

_X_FORWARDED = (istr("X-Forwarded-For"), istr("X-Forwarded-Proto"), istr("X-Forwarded-Host"))
_FORWARDED = istr("Forwarded")
_HOST = istr("Host")

# The headers in which proxies tell what they saw.
FORWARDING = (*_X_FORWARDED, _FORWARDED)

# A longer chain is read no further: it is made up to keep this process busy.
_MOST_PROXIES = 32

# An address, an IPv6 one in brackets where a port follows; a port may be obfuscated (RFC 7239 6).
_NODE = re.compile(
    r"\[([0-9a-fA-F:.]+)\](?::(?:[0-9]{1,5}|_[A-Za-z0-9._-]+))?|([0-9.]+):(?:[0-9]{1,5}|_[A-Za-z0-9._-]+)"
)
# One parameter of an element of `Forwarded` (RFC 7239 4), or none. Its value is quoted or a token; not every proxy
# quotes what has a colon.
_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]"
_PARAMETER = re.compile(rf'[ \t]*(?:({_TOKEN}+)=(?:((?:{_TOKEN}|[:\[\]])+)|"((?:[^"\\]|\\.)*)")[ \t]*)?(?:;|\Z)')

# Some proxies name the scheme of a WebSocket request by its own name.
_HTTP_SCHEMES = {"http": "http", "https": "https", "ws": "http", "wss": "https"}

_Network = IPv4Network | IPv6Network


class Client(NamedTuple):
    """Where a request came from, as far as trusted proxies tell.

    `address` is what the outermost trusted proxy saw, or the peer itself; None for a peer that is gone. `scheme` is
    "http" or "https", `host` the host and port that were asked for. `is_told` is whether a trusted proxy said anything:
    no page can have a browser say it when it opens a WebSocket.
    """

    address: str | None
    scheme: str
    host: str | None
    is_told: bool = False


def is_forwarded(headers: MultiMapping[str]) -> bool:
    """Tell whether somebody says that they speak for others; it need not be a proxy."""
    return not headers.keys().isdisjoint(FORWARDING)


def client_of(peer: str | None, headers: MultiMapping[str], trusted: tuple[str, ...], *, scheme: str) -> Client:
    """Find out where a request came from; `peer` is the address of the connection, or `UNIX`, `scheme` its own.

    What proxies have added is read from right to left, as long as who added it is trusted: everything left of the
    first untrusted address is that client's own claim. Of scheme and host the last one read counts, so that the
    outermost trusted proxy has the last word. A malformed address ends the reading.
    """
    told = _untold(peer, scheme, headers.get(_HOST))
    if not is_forwarded(headers):
        return told
    address, networks = parse_address(peer) if peer is not None else None, _networks(trusted)
    if not (_is_in(address, networks) or (peer == UNIX and UNIX in trusted)):
        return told
    told = told._replace(is_told=True)
    for claim in islice(_claims(headers), _MOST_PROXIES):
        address = _parse_node(claim.node)
        told = Client(
            address=str(address) if address is not None else told.address,
            scheme=_HTTP_SCHEMES.get(claim.scheme.lower(), told.scheme),
            host=claim.host if parse_host_port(claim.host) is not None else told.host,
            is_told=True,
        )
        if not _is_in(address, networks):
            break
    return told


def is_proxy(text: str) -> bool:
    """Say whether `text` may stand in `trusted_proxies`: an IP address or network, or `UNIX`."""
    return text == UNIX or _parse_network(text) is not None


class _Claim(NamedTuple):
    """What one proxy wrote; empty where it did not say."""

    node: str = ""
    scheme: str = ""
    host: str = ""


def _claims(headers: MultiMapping[str]) -> Iterator[_Claim]:
    """Give what proxies wrote, the nearest first; `Forwarded` only where none of the older headers is."""
    if any(name in headers for name in _X_FORWARDED):
        columns = (reversed(listed(headers, name)) for name in _X_FORWARDED)
        yield from starmap(_Claim, zip_longest(*columns, fillvalue=""))
        return
    for element in reversed(listed(headers, _FORWARDED)):
        parameters = _parameters(element)
        if parameters is None:
            return
        yield _Claim(parameters.get("for", ""), parameters.get("proto", ""), parameters.get("host", ""))


def _parameters(element: str) -> dict[str, str] | None:
    """Read one element of `Forwarded`, None where it is malformed."""
    found: dict[str, str] = {}
    at = 0
    while at < len(element):
        match = _PARAMETER.match(element, at)
        if match is None:
            return None
        at = match.end()
        if match[1] is None:
            continue
        name, value = match[1].lower(), match[2] if match[3] is None else re.sub(r"\\(.)", r"\1", match[3])
        if name in found:
            return None
        found[name] = value
    return found


# The same for all connections from one address; bounded, because they may ask for whatever host they like.
@lru_cache(maxsize=256)
def _untold(peer: str | None, scheme: str, host: str | None) -> Client:
    address = parse_address(peer) if peer is not None else None
    return Client(str(address) if address is not None else peer, scheme, host)


def _parse_node(text: str) -> Address | None:
    match = _NODE.fullmatch(text)
    return parse_address((match[1] or match[2]) if match else text)


def _parse_network(text: str) -> _Network | None:
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        return None


@lru_cache(maxsize=16)
def _networks(trusted: tuple[str, ...]) -> tuple[_Network, ...]:
    # An entry that does not parse trusts nobody; the configuration refuses it beforehand.
    return tuple(network for entry in trusted if (network := _parse_network(entry)) is not None)


def _is_in(address: Address | None, networks: tuple[_Network, ...]) -> bool:
    return address is not None and any(address in network for network in networks)

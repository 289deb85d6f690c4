"""Say which addresses a request has: where it came in, from whom, and for whom a trusted proxy speaks.

What an address or a header means is decided in `proxies` and `origins`.
"""

from __future__ import annotations

import ipaddress
import socket
from functools import lru_cache

from aiohttp import web

from .proxies import UNIX, Client, client_of

__all__ = ["client", "local_address", "owner_of", "peer_address"]


def client(request: web.Request, trusted: tuple[str, ...]) -> Client:
    """Give where a request came from, as far as `trusted` proxies tell."""
    return client_of(peer_address(request), request.headers, trusted, scheme=request.scheme)


def peer_address(request: web.Request) -> str | None:
    """Give the address of the other end of the connection, `UNIX` over a Unix socket, None once it is gone."""
    if isinstance(request.protocol.peername, tuple):
        return request.remote
    # The name of a Unix socket is no address, and its owner may choose one that looks like an address.
    opened = request.get_extra_info("socket")
    return UNIX if opened is not None and opened.family == socket.AF_UNIX else request.remote


def local_address(request: web.Request) -> str:
    """Give the address this connection came in on, empty where it has none, as over a Unix socket."""
    address = request.protocol.sockname
    return address[0] if isinstance(address, tuple) else ""


# Asked twice for each connection; bounded, because there are many addresses.
@lru_cache(maxsize=256)
def owner_of(address: str | None) -> str:
    """Name whom an address belongs to: a single host of IPv6 commands a whole /64."""
    if address is None or ":" not in address:
        return address or ""
    return str(ipaddress.ip_network((address.partition("%")[0], 64), strict=False))

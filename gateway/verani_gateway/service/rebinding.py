"""Refuse what a page may ask the public listener for under another name than its own: DNS rebinding.

A page of any site may have its own name lead to this machine, and then talks to what listens there as to its own
origin, from the browser of somebody whom nobody keeps out. What the listener is called is decided in
`listener_names`, and who may have a WebSocket in `endpoint`: browsers say there whose page it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec
from aiohttp import hdrs, web

from verani.errors import Forbidden

from ..endpoint import Endpoint
from ..http.addresses import client, local_address
from ..http.proxies import is_forwarded

if TYPE_CHECKING:
    from aiohttp.typedefs import Handler, Middleware

    from ..gateway import Gateway

__all__ = ["answering_to_its_name"]

# Probes come with whatever address they were given, and what they read is no secret.
_OPEN: Final = "/health"

# With these, browsers do not say whose page it is that asks for what they believe is its own.
_SILENT: Final = frozenset({hdrs.METH_GET, hdrs.METH_HEAD})

_BODY: Final = msgspec.json.encode({"error": {"code": Forbidden.code}})


def _may_be_of_a_page(request: web.Request) -> bool:
    """Tell whether a browser may send this for a page, and nobody else looks whose page it is."""
    if request.path == _OPEN or isinstance(getattr(request.match_info.handler, "__self__", None), Endpoint):
        return False
    return request.method in _SILENT or hdrs.ORIGIN in request.headers


def answering_to_its_name(gateway: Gateway) -> Middleware:
    """Make the middleware that refuses a `Host` that is no name of the listener, unless a trusted proxy brings it."""

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        if not _may_be_of_a_page(request):
            return await handler(request)
        asked = client(request, gateway.settings.trusted_proxies)
        if gateway.answers_to(asked, local_address(request)):
            return await handler(request)
        gateway.metrics.limited["public_hosts"] += 1
        if is_forwarded(request.headers):
            gateway.refusals.warn_of_forwarding(asked.address)
        error = Forbidden(f"Host {asked.host!r} is no name of the public listener (public_hosts)")
        gateway.refusals.log("a request", error, path=request.path, remote=asked.address)
        return web.Response(status=error.status, body=_BODY, content_type="application/json")

    return guard

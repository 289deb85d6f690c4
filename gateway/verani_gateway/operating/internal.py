"""Serve the internal listener: readiness, calls of rooms, and what only operators may see.

It is kept from web pages twice over: `Host` must name this listener and `Origin`, where there is one, must
be this listener's own. Callers and operators show a token. The application's own routes are never mounted here.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

import msgspec
from aiohttp import hdrs, web

from verani.errors import Forbidden, InvalidArguments, NotFound, VeraniError
from verani.names import room_id_of
from verani.settings import Settings
from verani_actors.operating.answers import RoomsQuestion

from ..config import Secrets
from ..http.addresses import local_address
from ..http.bodies import leaving_bodies
from ..http.browser_client import add_browser_client
from ..http.headers import only
from ..http.listener_names import host_allowed
from ..http.origins import origin_allowed
from ..http.paths import ROOM_IN_PATH
from .alone import Alone
from .asyncapi import asyncapi_document
from .exposition import CONTENT_TYPE
from .openapi import openapi_document
from .orders import JSON, Orders, json_response
from .rpc import RPC_PATH, RpcEndpoint, error_response
from .service_answers import CUT, Answers
from .sessions import SessionsTold
from .token_check import require_token

if TYPE_CHECKING:
    from aiohttp.typedefs import Handler, Middleware

    from ..gateway import Gateway

__all__ = ["internal_application"]

_READY_PATH: Final = "/ready"

_HEADERS: Final = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
}


def internal_application(
    gateway: Gateway, settings: Settings, secrets: Secrets, answers: Answers | None = None
) -> web.Application:
    """Build the application of the internal listener of one gateway, which answers for the whole service.

    Without `answers` the gateway is the whole service.
    """
    service: Answers = answers if answers is not None else Alone(gateway)

    async def ready(_: web.Request) -> web.Response:
        if service.ready:
            return web.json_response({"status": "ready"})
        return web.json_response({"status": "not ready"}, status=503)

    async def rooms(request: web.Request) -> web.StreamResponse:
        require_token(secrets.admin_token, request)
        query = request.query
        question = RoomsQuestion(_limit(request), query.get("state"), query.get("prefix", ""))
        listing = await service.rooms(question)
        response = web.StreamResponse(headers={hdrs.CONTENT_TYPE: JSON, **({CUT: "true"} if listing.cut else {})})
        await response.prepare(request)
        separator = b"["
        async for status in listing.rooms:
            await response.write(separator + msgspec.json.encode(status))
            separator = b","
        await response.write(b"]" if separator == b"," else b"[]")
        return response

    async def room(request: web.Request) -> web.Response:
        require_token(secrets.admin_token, request)
        name = _room_name(request)
        found = await service.room(name) if name is not None else None
        if found is None:
            raise NotFound("no such room is awake or has connections")
        return json_response(found)

    async def sessions(request: web.Request) -> web.Response:
        require_token(secrets.admin_token, request)
        name = _room_name(request)
        return json_response(await service.sessions(name) if name is not None else SessionsTold([]))

    async def metrics(request: web.Request) -> web.Response:
        require_token(secrets.admin_token, request)
        return web.Response(text=await service.metrics(), headers={hdrs.CONTENT_TYPE: CONTENT_TYPE})

    async def cluster(request: web.Request) -> web.Response:
        require_token(secrets.admin_token, request)
        return json_response(await service.cluster())

    async def quarantine(request: web.Request) -> web.Response:
        require_token(secrets.admin_token, request)
        return json_response(await service.quarantine())

    async def errors(request: web.Request) -> web.Response:
        require_token(secrets.admin_token, request)
        return json_response(await service.errors())

    call_room = RpcEndpoint(gateway)

    async def rpc(request: web.Request) -> web.Response:
        require_token(secrets.rpc_token, request)
        return await call_room(request)

    async def openapi(request: web.Request) -> web.Response:
        require_token(secrets.rpc_token, request)
        document = openapi_document(gateway.definitions, with_token=secrets.rpc_token is not None)
        return json_response(document)

    async def asyncapi(request: web.Request) -> web.Response:
        require_token(secrets.rpc_token, request)
        paths = {name: resource.canonical for name, resource in gateway.resources.items()}
        return json_response(asyncapi_document(gateway.definitions, paths, settings))

    middlewares = [leaving_bodies(gateway), _guard(settings)]
    application = web.Application(middlewares=middlewares, client_max_size=settings.max_rpc_bytes)
    application.on_response_prepare.append(_add_headers)
    application.router.add_get(_READY_PATH, ready)
    application.router.add_get("/openapi.json", openapi)
    application.router.add_get("/asyncapi.json", asyncapi)
    application.router.add_post(RPC_PATH, rpc)
    application.router.add_get("/metrics", metrics)
    application.router.add_get("/admin/rooms", rooms)
    application.router.add_get(f"/admin/rooms/{{definition}}/{ROOM_IN_PATH}", room)
    application.router.add_get("/admin/cluster", cluster)
    application.router.add_get("/admin/quarantine", quarantine)
    application.router.add_get("/admin/errors", errors)
    application.router.add_get(f"/admin/sessions/{{definition}}/{ROOM_IN_PATH}", sessions)
    Orders(gateway, service, partial(require_token, secrets.admin_token)).add_to(application.router)
    add_browser_client(application)
    return application


def _room_name(request: web.Request) -> str | None:
    """Return the name of the room in the path, None for what no room can be named."""
    room_id = room_id_of(request.match_info["room"])
    return f"{request.match_info['definition']}/{room_id}" if room_id is not None else None


def _limit(request: web.Request) -> int | None:
    text = request.query.get("limit")
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise InvalidArguments(f"limit: expected a number from 0 up, got {text[:20]!r}")
    return int(text)


def _guard(settings: Settings) -> Middleware:
    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        host = request.headers.get(hdrs.HOST)
        # Probes come with whatever address they were given, and what they read is no secret.
        if request.path != _READY_PATH and not host_allowed(
            host, bound=(*settings.internal_addresses, local_address(request)), extra=settings.internal_hosts
        ):
            return error_response(Forbidden("Host is not a name of the internal listener (internal_hosts)"))
        try:
            if not origin_allowed(only(request.headers, hdrs.ORIGIN), host, secure=request.secure, allowed=()):
                raise Forbidden("Origin is not the internal listener itself")
            return await handler(request)
        except VeraniError as error:
            return error_response(error)

    return guard


async def _add_headers(_: web.Request, response: web.StreamResponse) -> None:
    for name, value in _HEADERS.items():
        response.headers.setdefault(name, value)

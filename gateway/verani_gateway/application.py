"""Mount rooms in an aiohttp application."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial
from typing import Any

from aiohttp import hdrs, web

from verani.errors import DefinitionError, NotFound
from verani.room.definition import RoomDefinition
from verani.settings import Settings

from .config import check
from .endpoint import Endpoint
from .gateway import Gateway
from .http.addresses import client
from .http.aiohttp_parts import check as check_aiohttp
from .http.bodies import leaving_bodies
from .http.browser_client import add_browser_client
from .http.handshake import asks_for_websocket
from .http.paths import ROOM_IN_PATH

__all__ = ["GATEWAY", "adopt", "mounted", "setup"]

_HEALTH = "/health"

GATEWAY: web.AppKey[Gateway] = web.AppKey("verani_gateway", Gateway)


def setup(app: web.Application, *rooms: RoomDefinition[Any, Any], settings: Settings | None = None) -> Gateway:
    """Mount room definitions in `app`, each at its `websocket_path`, and serve them while the app runs.

    Also answers ``GET`` of ``/health`` and of the client for browsers, ``/verani.js`` and ``/verani.d.ts``, unless the
    application has added routes of its own for them before. Without `settings`, `verani serve` passes its own and any
    other server gets the defaults; the time limit for request headers is that server's. Raises `DefinitionError` for
    two definitions on one path or of one name, `SettingsError` for settings that cannot work, and `AiohttpError` for
    an aiohttp whose insides are not known.
    """
    check_aiohttp()
    if not isinstance(app, web.Application):
        raise TypeError(f"setup: expected an aiohttp application first, got {type(app).__name__}")
    if not rooms:
        raise DefinitionError("setup: expected at least one room definition")
    if GATEWAY in app:
        raise DefinitionError("setup: expected one call per application; pass all room definitions to it")
    by_path: dict[str, RoomDefinition[Any, Any]] = {}
    names: set[str] = set()
    for room in rooms:
        if not isinstance(room, RoomDefinition):
            raise DefinitionError(f"setup: expected room definitions, got {type(room).__name__}")
        room.check()
        other = by_path.setdefault(room.websocket_path, room)
        if other is not room:
            raise DefinitionError(
                f"room definitions {other.name!r} and {room.name!r} are both at {room.websocket_path!r}; "
                "give one of them another websocket_path="
            )
        if room.name in names:
            raise DefinitionError(f"two room definitions are named {room.name!r}, or one is given twice")
        names.add(room.name)
    if settings is not None:
        check(settings)
    gateway = app[GATEWAY] = Gateway(rooms, settings)
    app.middlewares.insert(0, leaving_bodies(gateway, partial(_log_stray, app, gateway)))
    for room in rooms:
        path = room.websocket_path.replace("{room}", ROOM_IN_PATH)
        route = app.router.add_route(hdrs.METH_GET, path, Endpoint(gateway, room).__call__)
        assert route.resource is not None, "it was added with a path"
        gateway.resources[room.name] = route.resource
    _add_health(app)
    add_browser_client(app)
    app.cleanup_ctx.append(_run)
    # Before aiohttp waits for its handlers to end, or open WebSockets would hold up the stop.
    app.on_shutdown.append(_drain)
    return gateway


def _log_stray(app: web.Application, gateway: Gateway, request: web.Request) -> None:
    """Log a handshake at a path where nothing is mounted: browsers do not say that a path is mistyped."""
    is_stray = isinstance(request.match_info.http_exception, web.HTTPNotFound) and request.match_info.apps[-1] is app
    if is_stray and asks_for_websocket(request):
        paths = ", ".join(sorted(resource.canonical for resource in gateway.resources.values()))
        error = NotFound(f"nothing is at this path, rooms are at {paths}")
        peer = client(request, gateway.settings.trusted_proxies)
        gateway.refusals.log("a handshake", error, path=request.path, remote=peer.address)


def mounted(app: web.Application) -> list[Gateway]:
    """List the gateways of an application and of all its sub-applications."""
    gateways = [app[GATEWAY]] if GATEWAY in app else []
    for resource in app.router.resources():
        if (inner := resource.get_info().get("app")) is not None:
            gateways += mounted(inner)
    return list(dict.fromkeys(gateways))


def adopt(app: web.Application) -> Gateway:
    """Prepare an application for being served with its only gateway, which a sub-application may have."""
    (gateway,) = mounted(app)
    if GATEWAY not in app:
        app[GATEWAY] = gateway
        app.middlewares.insert(0, leaving_bodies(gateway, partial(_log_stray, app, gateway)))
        _add_health(app)
        add_browser_client(app)
    return gateway


def _add_health(app: web.Application) -> None:
    if not any(resource.canonical == _HEALTH for resource in app.router.resources()):
        app.router.add_get(_HEALTH, _health)


async def _health(_: web.Request) -> web.Response:
    return web.json_response({"status": "ok"}, headers={"Cache-Control": "no-store"})


async def _run(app: web.Application) -> AsyncIterator[None]:
    gateway = app[GATEWAY]
    await gateway.start()
    yield
    await gateway.stop()


async def _drain(app: web.Application) -> None:
    # By now aiohttp drops what clients send; `verani serve` has drained before.
    await app[GATEWAY].drain(answers=False)

"""Serve rooms inside a test: the service that `verani serve` runs, on free ports of this machine.

Applications use it as `verani.testing.serve`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from aiohttp import web

from verani.errors import DefinitionError
from verani.room.definition import RoomDefinition
from verani.settings import Settings

from .application import GATEWAY, adopt, mounted, setup
from .config import Secrets
from .service.listeners import Listeners

__all__ = ["serving"]


@asynccontextmanager
async def serving(
    *targets: RoomDefinition[Any, Any] | web.Application, settings: Settings
) -> AsyncIterator[tuple[str, str]]:
    """Serve while the block runs; give the URLs of the public and of the internal listener."""
    loopback = {"host": "127.0.0.1", "port": 0, "internal_host": "127.0.0.1", "internal_port": 0, "unix_socket": None}
    settings = msgspec.structs.replace(settings, **loopback)
    application = _application(targets, settings)
    for definition in application[GATEWAY].definitions:
        definition.events.are_checked = True
    listeners = Listeners(application, settings, Secrets())
    await listeners.start()
    try:
        yield listeners.public_urls[0], listeners.internal_urls[0]
    finally:
        await listeners.stop()


def _application(
    targets: tuple[RoomDefinition[Any, Any] | web.Application, ...], settings: Settings
) -> web.Application:
    if len(targets) == 1 and isinstance(targets[0], web.Application):
        application = targets[0]
        if len(mounted(application)) != 1:
            raise DefinitionError("serve: expected an application on which setup was called, once")
        adopt(application).configure(settings)
        return application
    application = web.Application()
    setup(application, *targets, settings=settings)  # type: ignore[arg-type]  # setup says what it expected
    return application

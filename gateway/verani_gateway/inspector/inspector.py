"""Serve the inspector on the internal listener: its page, and the gateway of its room, which is none of the service's.

Invariants:
- The room has a gateway and a host of its own in this process, whatever the shape of the service: it is in no list, no
  metric and no limit of the rooms that it watches.
- These exist from the first page that connects until the last has been gone for `LINGER` seconds; before and after that
  the inspector costs nothing.
- Nobody without the admin token has them started, or gets a WebSocket.
"""

from __future__ import annotations

import asyncio
from typing import Final

from aiohttp import web

from verani.errors import RoomBusy
from verani.settings import Settings

from ..endpoint import Endpoint
from ..gateway import Gateway
from ..operating.service_answers import Answers
from ..operating.token_check import require_token_of_page
from .page import add_page
from .room import inspector_room

__all__ = ["LINGER", "Inspector"]

_PATH: Final = "/inspector/"

# Seconds for which the last minutes are kept when nobody watches any more: pages are loaded anew.
LINGER: Final = 60.0

# Pages that may be open at once, of one process.
_MAX_WATCHERS: Final = 20

# It has no hook that blocks, and what blocks it is found by the watchdog of the rooms.
_NEVER: Final = 1e9


class Inspector:
    """The inspector of one process, which watches the whole service."""

    def __init__(self, service: Answers, settings: Settings, admin_token: str | None) -> None:
        self._definition = inspector_room(service)
        self._token = admin_token
        self._bound = settings.internal_addresses
        self._settings = Settings(
            public_hosts=settings.internal_hosts,
            drain_seconds=1.0,
            hook_blocked=_NEVER,
            max_connections=_MAX_WATCHERS,
            max_frame_bytes=4096,
            rate_limit=20.0,
        )
        self._gateway: Gateway | None = None
        # Of starting and ending the gateway.
        self._lock = asyncio.Lock()
        # Handshakes and connections.
        self._open = 0
        # The end that comes if nobody does, and that which has begun.
        self._leaving: asyncio.TimerHandle | None = None
        self._ending: asyncio.Task[None] | None = None
        self._is_closed = False

    def add_to(self, application: web.Application) -> None:
        """Mount the page and its WebSocket."""
        application.router.add_get(f"{_PATH}ws", self._serve)
        add_page(application.router, _PATH)
        application.on_shutdown.append(self._shut_down)

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        require_token_of_page(self._token, request)
        self._open += 1
        self._stay()
        try:
            endpoint = Endpoint(await self._running(), self._definition)
            return await endpoint(request)
        finally:
            self._open -= 1
            if not self._open and not self._is_closed:
                self._leaving = asyncio.get_running_loop().call_later(LINGER, self._leave)

    async def _running(self) -> Gateway:
        """Return the gateway, which is started where there is none."""
        async with self._lock:
            if self._is_closed:
                raise RoomBusy("the service is going down", retry_after=1)
            if self._gateway is None:
                gateway = Gateway((self._definition,), self._settings)
                gateway.bound = self._bound
                await gateway.start()
                self._gateway = gateway
            return self._gateway

    def _stay(self) -> None:
        if self._leaving is not None:
            self._leaving.cancel()
            self._leaving = None

    def _leave(self) -> None:
        self._leaving = None
        self._ending = asyncio.create_task(self._end())

    async def _end(self) -> None:
        """Stop the gateway, unless somebody has come back."""
        async with self._lock:
            if self._gateway is not None and (self._is_closed or not self._open):
                gateway, self._gateway = self._gateway, None
                await gateway.stop()

    async def close(self) -> None:
        """Close every page's connection, which comes back to another process where there is one, and take none more."""
        self._is_closed = True
        self._stay()
        if self._ending is not None:
            await self._ending
        if self._gateway is not None:
            await self._gateway.drain(answers=False)
        await self._end()

    async def _shut_down(self, _: web.Application) -> None:
        await self.close()

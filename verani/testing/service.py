"""Serve rooms for real inside a test: `serve`.

The service is not part of the core, so it is imported when it is asked for: who tests with the harness only never
loads it.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import TYPE_CHECKING, Any

from ..room.definition import RoomDefinition
from ..settings import Settings

if TYPE_CHECKING:
    from aiohttp import web

__all__ = ["TestService", "serve"]


class TestService:
    """What `serve` returns: ``async with`` it, and the block gets the URL of the public listener.

    `internal_url` is that of the other listener, for `verani.connect`; it is known inside of the block.
    """

    __test__ = False  # for pytest, which takes the name for that of a test

    def __init__(self, rooms: tuple[RoomDefinition[Any, Any] | web.Application, ...], settings: Settings) -> None:
        self._rooms = rooms
        self._settings = settings
        self._running: AbstractAsyncContextManager[tuple[str, str]] | None = None
        self.internal_url = ""

    async def __aenter__(self) -> str:
        from verani_gateway.testing import serving

        running = serving(*self._rooms, settings=self._settings)
        public_url, self.internal_url = await running.__aenter__()
        self._running = running
        return public_url

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        running, self._running = self._running, None
        if running is not None:
            await running.__aexit__(kind, error, trace)


def serve(*rooms: RoomDefinition[Any, Any] | web.Application, settings: Settings | None = None) -> TestService:
    """Serve rooms, or one application with rooms, on free ports of this machine while a block runs::

        async with serve(chat) as url:
            async with VeraniClient(f"{url}/ws?room=lobby&userId=ann") as client: ...

    `url` is ``http://127.0.0.1:PORT``. Everything is real: listeners, WebSockets, limits, sleep. It runs in the event
    loop of the test and stops as a service does: connections that are still there are closed with 1012. `settings`
    are those of the service; hosts and ports are chosen here. What hooks raise is in the log, also `NotDeclared`, for
    what a room sends and its definition does not declare. Entering the block
    raises `DefinitionError` and `SettingsError` as `verani serve` does.
    """
    return TestService(rooms, settings or Settings())

"""Open both listeners of a process, and close them without losing anything."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Final

from aiohttp import web

from verani.settings import Settings

from ..application import GATEWAY
from ..config import Secrets, check, check_tokens
from ..inspector.inspector import Inspector
from ..operating.alone import Alone
from ..operating.internal import internal_application
from ..operating.service_answers import Answers
from .listener import Listener
from .rebinding import answering_to_its_name
from .sockets import Sockets, port_of, take, unix_url, urls

__all__ = ["Listeners"]

# How often a process that leaves looks whether somebody may still ask it, in seconds, and by how much that may be late.
_LOOK: Final = 0.05
_MARGIN: Final = 1.0
# What was accepted last may not be known as a connection yet.
_QUIET: Final = 0.3


class Listeners:
    """Both listeners of one process, from `start` to `stop`; each is called once.

    `public_urls` and `internal_urls` are known after `start`. With `sockets`, other processes take connections from the
    same ones, and `answers` answers for all of them: what `start` does is done step by step then.
    """

    def __init__(
        self,
        application: web.Application,
        settings: Settings,
        secrets: Secrets,
        *,
        answers: Answers | None = None,
        sockets: Sockets | None = None,
    ) -> None:
        self._answers = answers if answers is not None else Alone(application[GATEWAY])
        self._inherited = sockets
        self._application = application
        self._gateway = application[GATEWAY]
        self._settings = settings
        self._secrets = secrets
        self._opened = AsyncExitStack()
        self._public: Listener
        self._internal: Listener
        self._inspector: Inspector
        self.public_urls: Sequence[str] = ()
        self.internal_urls: Sequence[str] = ()

    async def start(self) -> None:
        """Open the listeners.

        Raises `SettingsError` and `ListenError` before anything of the application has run, and whatever
        a start-up hook raises, with everything closed again.
        """
        await self.set_up()
        await self.open_public()
        # Last, so that whoever gets an answer from `/ready` finds the public listener open.
        await self.open_internal()

    async def set_up(self) -> None:
        """Start the application, as `start` does; clients wait until the listeners are opened."""
        settings, gateway = self._settings, self._gateway
        check(settings)
        check_tokens(settings, self._secrets)
        async with AsyncExitStack() as opened:
            sockets = self._inherited or (await take(settings, opened))[1]
            opened.callback(sockets.close)
            self._find_urls(sockets)
            self._application.middlewares.insert(0, answering_to_its_name(gateway))
            # What the application's own handlers read may be compressed.
            self._public = Listener(self._application, sockets.public, gateway, internal=False)
            await self._public.start(opened)
            guarded = internal_application(gateway, settings, self._secrets, self._answers)
            self._inspector = Inspector(self._answers, settings, self._secrets.admin_token)
            self._inspector.add_to(guarded)
            self._internal = Listener(guarded, sockets.internal, gateway, internal=True)
            await self._internal.start(opened)
            self._opened = opened.pop_all()

    def _find_urls(self, sockets: Sockets) -> None:
        settings = self._settings
        if settings.unix_socket is None:
            self._gateway.bound = settings.public_addresses
            self.public_urls = urls(settings.public_addresses, port_of(sockets.public))
        else:
            self.public_urls = (unix_url(settings.unix_socket),)
        self.internal_urls = urls(settings.internal_addresses, port_of(sockets.internal))

    async def open_public(self) -> None:
        """Take connections of clients."""
        await self._public.open()

    async def open_internal(self) -> None:
        """Take connections of operators and callers."""
        await self._internal.open()

    async def leave(self, *, internal: bool) -> None:
        """Let other processes have clients that are still to come, and with `internal` operators and callers, too.

        Who has connected already may still ask, and a proxy use its connections once more, until it closes them or we
        do: a handshake gets its WebSocket before that is closed with 1012.
        """
        left = [self._public, self._internal] if internal else [self._public]
        for each in left:
            each.close()
        if internal:
            await self._inspector.close()
        now = asyncio.get_running_loop().time
        until, asked = now() + self._settings.header_timeout + _MARGIN, now()
        while now() < until and now() - asked < _QUIET:
            await asyncio.sleep(_LOOK)
            if sum(each.connections for each in left) > len(self._gateway.connections):
                asked = now()

    async def stop(self) -> None:
        """Stop gracefully, within `drain_seconds` and a grace for requests that still run."""
        self._gateway.stop_accepting()  # `/ready` asks the gateway, so it says 503 from here on
        try:
            await self._gateway.drain()
        finally:
            await self._opened.aclose()

"""Run a service in this process: open both listeners, wait for a signal, stop without losing anything.

The order of a stop: not ready, new upgrades refused, connections drained, listeners closed, exit 0.
Configuration, loading and logging are done before; whatever goes wrong here ends with exit code 1.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from typing import Final

from aiohttp import web

from verani.settings import Settings
from verani_actors.upkeep.collector import quieten_collector
from verani_actors.upkeep.start import Stopped, unless_stopped

from ..application import GATEWAY
from ..config import Secrets, check
from ..http.host_port import is_loopback
from ..operating.internal import check_tokens, internal_application
from ..operating.service_answers import Answers
from .listener import Listener
from .loading import Served, served_by
from .loop import fastest_loop, run_loop
from .rebinding import answering_to_its_name
from .signals import stopping
from .sockets import Sockets, port_of, take, unix_url, urls

__all__ = ["Service", "announce", "at_end_of_input", "run", "serve", "warn_of_public"]

logger = logging.getLogger(__name__)

# How often a process that leaves looks whether somebody may still ask it, in seconds, and by how much that may be late.
_LOOK: Final = 0.05
_MARGIN: Final = 1.0
# What was accepted last may not be known as a connection yet.
_QUIET: Final = 0.3


class Service:
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
        self._answers = answers
        self._inherited = sockets
        self._application = application
        self._gateway = application[GATEWAY]
        self._settings = settings
        self._secrets = secrets
        self._opened = AsyncExitStack()
        self._public: Listener
        self._internal: Listener
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


async def serve(
    application: web.Application,
    settings: Settings,
    secrets: Secrets,
    *,
    ready: asyncio.Event | None = None,
    until_eof: bool = False,
) -> None:
    """Serve an application until SIGTERM, SIGINT or SIGHUP, then stop gracefully; must run in the main thread.

    A start-up hook that still runs by then is cancelled. `ready` is set once both listeners answer. `until_eof` also
    stops when standard input ends, which is how a parent process that holds its other end takes this one with it. A
    second signal ends the process at once.
    """
    stop = asyncio.Event()
    service = Service(application, settings, secrets)
    with stopping(stop.set) as signals:
        if until_eof:
            at_end_of_input(stop.set)
        try:
            await unless_stopped(stop, service.start())
        except Stopped:
            logger.info("stopped before the start was over")
            return
        signals.started()
        quieten_collector()
        announce(service.public_urls, service.internal_urls, served_by(application[GATEWAY]), settings)
        if ready is not None:
            ready.set()
        await stop.wait()
        logger.info("stopping: draining connections for up to %g s", settings.drain_seconds)
        await service.stop()
        logger.info("stopped")


def run(application: web.Application, settings: Settings, secrets: Secrets, *, until_eof: bool = False) -> int:
    """Run `serve` in an event loop of its own and return the exit code."""

    async def main() -> int:
        await serve(application, settings, secrets, until_eof=until_eof)
        return 0

    return run_loop(main(), fastest_loop)


def at_end_of_input(stop: Callable[[], object], heard: Callable[[bytes], object] = bytes) -> None:
    """Call `stop` when standard input ends, and `heard` with what comes before that."""
    loop, descriptor = asyncio.get_running_loop(), sys.stdin.fileno()

    def readable() -> None:
        if words := os.read(descriptor, 4096):
            heard(words)
        else:
            loop.remove_reader(descriptor)
            stop()

    loop.add_reader(descriptor, readable)


def announce(public: Sequence[str], internal: Sequence[str], served: Sequence[Served], settings: Settings) -> None:
    """Say once, for the whole service, that it is ready, and where: all addresses of both listeners."""
    for url in public:
        logger.info("public listener: %s", url)
    rooms_at = public[0].replace("http", "ws", 1) if settings.unix_socket is None else ""
    for each in served:
        logger.info("room definition %s: %s", each.name, rooms_at + each.path)
    for url in internal:
        logger.info("internal listener: %s", url)
    warn_of_public(served, settings)


def warn_of_public(served: Sequence[Served], settings: Settings) -> None:
    """Warn of rooms that believe whatever clients say, where others than this machine's can reach them."""
    public = [each.name for each in served if each.is_public]
    reached = [host for host in settings.public_addresses if not is_loopback(host)]
    if public and reached and settings.unix_socket is None:
        logger.warning(
            "host %s is reachable from other machines, and without extract_meta clients may claim any user id in: %s",
            ", ".join(reached),
            ", ".join(public),
        )

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

from aiohttp import web

from verani.settings import Settings
from verani_actors.upkeep.ending import Stopped, unless_stopped
from verani_actors.upkeep.memory import quieten_collector

from ..application import GATEWAY
from ..config import Secrets
from ..http.host_port import is_loopback
from .listeners import Listeners
from .loading import Served, served_by
from .loop import fastest_loop, run_loop
from .signals import stopping

__all__ = ["announce", "at_end_of_input", "run", "serve", "warn_of_public"]

logger = logging.getLogger(__name__)


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
    listeners = Listeners(application, settings, secrets)
    with stopping(stop.set) as signals:
        if until_eof:
            at_end_of_input(stop.set)
        try:
            await unless_stopped(stop, listeners.start())
        except Stopped:
            logger.info("stopped before the start was over")
            return
        signals.started()
        quieten_collector()
        announce(listeners.public_urls, listeners.internal_urls, served_by(application[GATEWAY]), settings)
        if ready is not None:
            ready.set()
        await stop.wait()
        logger.info("stopping: draining connections for up to %g s", settings.drain_seconds)
        await listeners.stop()
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

"""Run a service in this process: open both listeners, wait for a signal, stop without losing anything.

The order of a stop: not ready, new upgrades refused, connections drained, listeners closed, exit 0.
Configuration, loading and logging are done before; whatever goes wrong here ends with exit code 1.
"""

from __future__ import annotations

import asyncio
import logging

from aiohttp import web

from verani.settings import Settings
from verani_actors.upkeep.ending import Stopped, unless_stopped
from verani_actors.upkeep.memory import quieten_collector

from ..application import GATEWAY
from ..config import Secrets
from .banner import announce
from .listeners import Listeners
from .loading import served_by
from .loop import at_end_of_input, fastest_loop, run_loop
from .signals import stopping

__all__ = ["run", "serve"]

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

"""Run a service in this process: open both listeners, wait for a signal, stop without losing anything.

The order of a stop: not ready, new upgrades refused, connections drained, listeners closed, exit 0.
Configuration, loading and logging are done before; whatever goes wrong here ends with exit code 1.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, ExitStack
from typing import Any, Final

import msgspec
from aiohttp import web

from verani.errors import VeraniError
from verani.settings import Settings
from verani_actors.collector import quieten_collector
from verani_actors.start import Stopped, unless_stopped

from .access import is_loopback
from .application import GATEWAY
from .config import Secrets, check
from .internal import check_tokens, internal_application
from .listener import BACKLOG, Listener, started
from .loading import Served, served_by
from .loop import fastest_loop, run_loop
from .overview import Answers
from .signals import stopping

__all__ = [
    "ListenError",
    "Service",
    "announce",
    "at_end_of_input",
    "internal_port",
    "reserve",
    "run",
    "serve",
    "url",
    "warn_of_public",
]

logger = logging.getLogger(__name__)

# What a client whose connection was taken last gets to send its request, where other processes go on.
_LAST_REQUESTS: Final = 0.2

# The settings that errors of the two listeners name.
_PUBLIC: Final = "host, port"
_INTERNAL: Final = "internal_host, internal_port"


class ListenError(VeraniError):
    """An address that cannot be listened on: in use, not of this machine, not permitted."""


class Service:
    """Both listeners of one process, from `start` to `stop`; each is called once.

    `public_url` and `internal_url` are known after `start`. With `shared`, other processes listen on the same ports,
    and `answers` answers for all of them; the public port is listened on from `listen` to `leave`, at most.
    """

    def __init__(
        self,
        application: web.Application,
        settings: Settings,
        secrets: Secrets,
        *,
        answers: Answers | None = None,
        shared: bool = False,
    ) -> None:
        self._answers = answers
        self._shared = shared
        self._application = application
        self._gateway = application[GATEWAY]
        self._settings = settings
        self._secrets = secrets
        self._runners = AsyncExitStack()
        self._public: Listener
        self.public_url = ""
        self.internal_url = ""

    async def start(self) -> None:
        """Open the listeners.

        Raises `SettingsError` and `ListenError` before anything of the application has run, and whatever
        a start-up hook raises, with everything closed again.
        """
        settings = self._settings
        check(settings)
        check_tokens(settings, self._secrets)
        with ExitStack() as sockets:
            public = await _listen(settings.host, settings.port, _PUBLIC, shared=self._shared, listen=not self._shared)
            sockets.callback(_close, public)
            internal = await _listen(settings.internal_host, internal_port(settings), _INTERNAL, shared=self._shared)
            sockets.callback(_close, internal)
            async with AsyncExitStack() as runners:
                runners.callback(_close, public)
                # What the application's own handlers read may be compressed.
                self._public = await started(runners, self._application, public, self._gateway, inflates=True)
                if not self._shared:
                    await self.listen()
                # Last, so that whoever gets an answer from `/ready` finds the public listener open.
                guarded = internal_application(self._gateway, settings, self._secrets, self._answers)
                await (await started(runners, guarded, internal, self._gateway, inflates=False)).open()
                self._runners = runners.pop_all()
            sockets.pop_all()
        self.public_url = _url(settings.host, public)
        self.internal_url = _url(settings.internal_host, internal)

    async def listen(self) -> None:
        """Take connections of clients."""
        await self._public.open()

    async def leave(self) -> None:
        """Leave the public port to the other processes that listen there; who has come already may still ask."""
        await self._public.leave()
        await asyncio.sleep(_LAST_REQUESTS)

    async def stop(self) -> None:
        """Stop gracefully, within `drain_seconds` and a grace for requests that still run."""
        self._gateway.stop_accepting()  # `/ready` asks the gateway, so it says 503 from here on
        try:
            await self._gateway.drain()
        finally:
            await self._runners.aclose()


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
        announce(service.public_url, service.internal_url, served_by(application[GATEWAY]), settings)
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


async def reserve(settings: Settings) -> tuple[Settings, list[socket.socket]]:
    """Take both ports for the gateways of this process; return them in the settings, and what keeps them.

    Sockets that are bound and do not listen: they get no connection, and nobody else gets the ports. Raises
    `ListenError`.
    """
    kept: list[socket.socket] = []
    try:
        public = await _reserve(settings.host, settings.port, _PUBLIC, kept)
        internal = await _reserve(settings.internal_host, internal_port(settings), _INTERNAL, kept)
    except BaseException:
        _close(kept)
        raise
    return msgspec.structs.replace(settings, port=public, internal_port=internal), kept


async def _reserve(host: str, port: int, names: str, kept: list[socket.socket]) -> int:
    # Sharing a port with another service of the same user would succeed in silence, so it is tried unshared first.
    tried = await _listen(host, port, names)
    addresses = [each.getsockname() for each in tried]
    families = [each.family for each in tried]
    _close(tried)
    for family, address in zip(families, addresses, strict=True):
        try:
            keeping = _bind(family, address)
        except OSError as error:
            raise ListenError(f"cannot listen on {_authority(host, port)} ({names}): {_reason(error)}") from error
        kept.append(keeping)
        # It was only to get past connections of an earlier service that linger; from here on it would let others in.
        keeping.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
    return int(addresses[0][1])


def _bind(family: int, address: Any) -> socket.socket:
    """Bind a socket that gets no connections before it listens, and shares them then."""
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        bound.bind(address)
    except BaseException:
        bound.close()
        raise
    return bound


async def _listen(
    host: str, port: int, names: str, *, shared: bool = False, listen: bool = True
) -> list[socket.socket]:
    """Listen on every address of `host`, before anything else starts, so that a port in use is told at once.

    Until the application has started, clients wait in the backlog instead of being refused. Without `listen`, those
    who share the port get them.
    """
    sockets: list[socket.socket] = []
    try:
        found = await asyncio.get_running_loop().getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        for family, _, _, _, address in dict.fromkeys(found):
            # With port 0 the first address takes a free port and the others take the same one.
            taken = sockets[0].getsockname()[1] if sockets else address[1]
            at = (str(address[0]), taken, *address[2:])
            if listen:
                sockets.append(socket.create_server(at, family=family, backlog=BACKLOG, reuse_port=shared))
            else:
                sockets.append(_bind(family, at))
    except OSError as error:
        _close(sockets)
        raise ListenError(f"cannot listen on {_authority(host, port)} ({names}): {_reason(error)}") from error
    return sockets


def _reason(error: OSError) -> str:
    # `create_server` adds the address to the text, which the sentence already names.
    return (os.strerror(error.errno) if not isinstance(error, socket.gaierror) and error.errno else str(error)).lower()


def _close(sockets: list[socket.socket]) -> None:
    for each in sockets:
        each.close()


def internal_port(settings: Settings) -> int:
    """Give the port the internal listener asks for; 0 takes a free one."""
    if settings.internal_port is not None:
        return settings.internal_port
    # A free public port says nothing about its neighbour, and the last port has none.
    return settings.port + 1 if 0 < settings.port < 65535 else 0


def _authority(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _url(host: str, sockets: list[socket.socket]) -> str:
    return url(host, sockets[0].getsockname()[1])


def url(host: str, port: int) -> str:
    """Give the address of a listener."""
    return f"http://{_authority(host, port)}"


def announce(public_url: str, internal_url: str, served: Sequence[Served], settings: Settings) -> None:
    """Say once, for the whole service, that it is ready, and where."""
    logger.info("public listener: %s", public_url)
    for each in served:
        logger.info("room definition %s: %s", each.name, public_url.replace("http", "ws", 1) + each.path)
    logger.info("internal listener: %s", internal_url)
    warn_of_public(served, settings)


def warn_of_public(served: Sequence[Served], settings: Settings) -> None:
    """Warn of rooms that believe whatever clients say, where others than this machine's can reach them."""
    public = [each.name for each in served if each.is_public]
    if public and not is_loopback(settings.host):
        logger.warning(
            "host %s is reachable from other machines, and without extract_meta clients may claim any user id in: %s",
            settings.host,
            ", ".join(public),
        )

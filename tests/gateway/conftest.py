"""Start real servers for the tests of the gateway, and hold them to a clean log."""

from __future__ import annotations

import gc
import logging
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from aiohttp import web

from tests.gateway.started import start
from tests.listeners import Listen, Running, start_service
from tests.server import Serve, Server
from verani.room.definition import RoomDefinition
from verani.settings import Settings
from verani_gateway.connections import close_handshake
from verani_gateway.service.listeners import Listeners

__all__ = ["clean_log", "listen", "serve", "start"]


@pytest.fixture
async def serve(clean_log: list[str], monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Serve]:
    """Return ``await serve(room, ..., setting=...)``; who is closed has less time to close than elsewhere."""
    monkeypatch.setattr(close_handshake, "CLOSE_TIMEOUT", 0.5)
    servers: list[Server] = []

    async def serve(*rooms: RoomDefinition[Any, Any], header_timeout: float = 10.0, **settings: Any) -> Server:
        # Clients of bytes answer no pings, and on a loaded machine many a test lasts longer than they are waited for.
        given = Settings(**{"drain_seconds": 2.0, "ping_interval": 600.0, **settings})
        servers.append(await Server.start(*rooms, header_timeout=header_timeout, settings=given))
        return servers[-1]

    yield serve
    for server in servers:
        await server.end()


@pytest.fixture
async def listen(clean_log: list[str]) -> AsyncIterator[Listen]:
    services: list[tuple[Listeners, Running]] = []

    async def listen(application: web.Application | None = None, **options: Any) -> Running:
        services.append(await start_service(application, **options))
        return services[-1][1]

    yield listen
    for service, running in services:
        for client in running.clients:
            await client.end()
        await service.stop()


class _Collector(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@pytest.fixture
def clean_log() -> Iterator[list[str]]:
    """Fail a test in whose course an error was logged that it did not add to this list of expected texts.

    From aiohttp and asyncio even a warning is one: an unread exception, a handler that raised, a slow callback.
    """
    expected: list[str] = []
    collector = _Collector()
    logging.getLogger().addHandler(collector)
    yield expected
    gc.collect()  # a task whose exception nobody read says so when it is collected
    gc.freeze()  # what pytest keeps of every test is not looked at again after each of them
    logging.getLogger().removeHandler(collector)
    texts = [
        f"{record.name}: {record.getMessage()}"
        for record in collector.records
        if record.levelno >= logging.ERROR or record.name.partition(".")[0] in ("aiohttp", "asyncio")
    ]
    unexpected = [line for line in texts if not any(each in line for each in expected)]
    assert not unexpected, "\n".join(unexpected)

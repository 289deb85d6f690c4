"""Run a gateway with its embedded host on a free port, as an application of aiohttp's does."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any, Protocol

from aiohttp import web

from verani.room.definition import RoomDefinition
from verani.settings import Settings
from verani_gateway.application import setup
from verani_gateway.gateway import Gateway

from .raw import RawClient, Response

__all__ = ["Serve", "Server"]


class Server:
    """A gateway with its embedded host, listening on a free port."""

    def __init__(self, application: web.Application, gateway: Gateway, runner: web.AppRunner) -> None:
        self.application = application
        self.gateway = gateway
        self.runner = runner
        self.clients: list[RawClient] = []
        self.port = 0

    @classmethod
    async def start(cls, *rooms: RoomDefinition[Any, Any], header_timeout: float, settings: Settings) -> Server:
        """Start with these rooms; `header_timeout` is what aiohttp calls the keep-alive time-out."""
        application = web.Application()
        gateway = setup(application, *rooms, settings=settings)
        # A stop must not wait for what a test has left hanging.
        runner = web.AppRunner(application, access_log=None, keepalive_timeout=header_timeout, shutdown_timeout=2.0)
        await runner.setup()
        server = cls(application, gateway, runner)
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        server.port = runner.addresses[0][1]
        return server

    async def tcp(self, *, receive_buffer: int | None = None) -> RawClient:
        """Open a TCP connection."""
        client = await RawClient.open(self.port, receive_buffer=receive_buffer)
        self.clients.append(client)
        return client

    async def connect(
        self, path: str = "/ws", *, together: bytes = b"", receive_buffer: int | None = None, **headers: str
    ) -> RawClient:
        """Open a WebSocket."""
        client = await self.tcp(receive_buffer=receive_buffer)
        await client.upgrade(path, together=together, **headers)
        return client

    async def request(self, data: bytes) -> Response:
        """Send one request on a connection of its own."""
        return await (await self.tcp()).request(data)

    def state(self, room: str) -> str | None:
        """Name the state of a room, None for one that nobody knows."""
        return next((status.state for status in self.gateway.rooms() if status.name == room), None)

    async def stop(self) -> None:
        """Stop gracefully."""
        await self.runner.cleanup()

    async def end(self) -> None:
        """Stop, whatever the test left behind."""
        for client in self.clients:
            await client.end()
        await self.stop()


class Serve(Protocol):
    """The fixture `serve`: start a server with these rooms and settings; it is stopped when the test ends."""

    def __call__(
        self, *rooms: RoomDefinition[Any, Any], header_timeout: float = ..., **settings: Any
    ) -> Awaitable[Server]: ...

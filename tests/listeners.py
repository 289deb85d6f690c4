"""Run both listeners as `verani serve` does, in the process of the test."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final

from aiohttp import web

from tests.raw import RawClient, Response
from verani import RoomDefinition, Settings, define_room
from verani_gateway.application import setup
from verani_gateway.config import Secrets
from verani_gateway.gateway import Gateway
from verani_gateway.service.listeners import Listeners

__all__ = ["ADMIN", "RPC", "Listen", "Running", "start_service"]

RPC: Final = "the-rpc-token"
ADMIN: Final = "the-admin-token"


@dataclass
class Running:
    """A service with both listeners, and the ports to attack."""

    gateway: Gateway
    public: int
    internal: int
    clients: list[RawClient] = field(default_factory=list)

    async def tcp(self, port: int) -> RawClient:
        self.clients.append(await RawClient.open(port))
        return self.clients[-1]

    async def send(self, port: int, data: bytes) -> Response:
        return await (await self.tcp(port)).request(data)

    async def ask(
        self, path: str, *, method: str = "GET", token: str = "", body: bytes = b"", **headers: str
    ) -> Response:
        """Send a request to the internal listener, with the Host that it has."""
        lines = {"Host": f"127.0.0.1:{self.internal}", **{name.replace("_", "-"): v for name, v in headers.items()}}
        if token:
            lines["Authorization"] = f"Bearer {token}"
        if method == "POST":
            lines = {"Content-Type": "application/json", "Content-Length": str(len(body)), **lines}
        head = "".join(f"{name}: {value}\r\n" for name, value in lines.items() if value)
        return await self.send(self.internal, f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode() + body)


Listen = Callable[..., Awaitable[Running]]


async def start_service(
    application: web.Application | None = None, room: RoomDefinition[Any, Any] | None = None, **settings: Any
) -> tuple[Listeners, Running]:
    """Serve a room, of an application with routes of its own or of none, with both tokens."""
    application = application if application is not None else web.Application()
    gateway = setup(application, room if room is not None else define_room("chat", websocket_path="/ws/{room}"))
    given = Settings(**{"port": 0, "internal_port": 0, "drain_seconds": 1.0, **settings})
    gateway.configure(given)
    service = Listeners(application, given, Secrets(rpc_token=RPC, admin_token=ADMIN))
    await service.start()
    public, internal = (int(url.rpartition(":")[2]) for url in (service.public_urls[0], service.internal_urls[0]))
    return service, Running(gateway, public, internal)

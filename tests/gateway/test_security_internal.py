"""Attacks on the internal listener, and on what must only be there: threats 48 to 52, over real sockets."""

from __future__ import annotations

import asyncio
import gzip
import json
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from aiohttp import web

from tests.raw import RawClient, Response, until
from verani import Settings, define_room
from verani_gateway.application import setup
from verani_gateway.config import Secrets
from verani_gateway.gateway import Gateway
from verani_gateway.serve import Service

STATUS = Path("/proc/self/status")

RPC, ADMIN = "the-rpc-token", "the-admin-token"

COUNT = "/rpc/chat/lobby/get_session_count"


def peak(*, reset: bool = False) -> int:
    """Return the most bytes of this process that were in memory since the last reset."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    lines = STATUS.read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM:"))


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


Start = Callable[..., Awaitable[Running]]


@pytest.fixture
async def start(clean_log: list[str]) -> AsyncIterator[Start]:
    services: list[tuple[Service, Running]] = []

    async def start(**settings: Any) -> Running:
        application = web.Application()
        room = define_room("chat", websocket_path="/ws/{room}")
        gateway = setup(application, room)
        given = Settings(port=0, internal_port=0, drain_seconds=1.0, **settings)
        gateway.configure(given)
        service = Service(application, given, Secrets(rpc_token=RPC, admin_token=ADMIN))
        await service.start()
        public, internal = (int(url.rpartition(":")[2]) for url in (service.public_url, service.internal_url))
        services.append((service, Running(gateway, public, internal)))
        return services[-1][1]

    yield start
    for service, running in services:
        for client in running.clients:
            await client.end()
        await service.stop()


def code_of(response: Response) -> Any:
    return json.loads(response.body)["error"]["code"]


# --- 48: who may call, and with what -------------------------------------------------------------------------


@pytest.mark.threat(48)
@pytest.mark.parametrize(
    "authorization",
    [
        "",
        "Bearer",
        "Bearer ",
        f"Bearer {RPC[:-1]}",
        f"Bearer {RPC}x",
        f"Bearer {RPC.upper()}",
        f"Bearer {ADMIN}",
        f"Basic {RPC}",
        f"Bearer {RPC} {RPC}",
        f"Bearer {RPC}, Bearer {RPC}",
        f"Bearer\t{RPC}",
        RPC,
        "Bearer \xff\xfe",
    ],
)
async def test_a_call_without_the_key_is_401_and_wakes_nothing(start: Start, authorization: str) -> None:
    running = await start()
    head = f"POST {COUNT} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: {authorization}\r\nContent-Length: 0\r\n\r\n"
    response = await running.send(running.internal, head.encode("latin-1"))
    assert (response.status, code_of(response)) == (401, "unauthorized")
    assert response.headers["www-authenticate"] == "Bearer"
    assert RPC.encode() not in response.body
    assert running.gateway.rooms() == []


@pytest.mark.threat(48)
async def test_of_two_authorizations_a_wrong_first_one_is_not_saved_by_the_second(start: Start) -> None:
    running = await start()
    head = f"POST {COUNT} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer wrong\r\nAuthorization: Bearer {RPC}\r\n"
    assert (await running.send(running.internal, f"{head}Content-Length: 0\r\n\r\n".encode())).status in (400, 401)


def _chunked(body: bytes) -> bytes:
    return b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)


@pytest.mark.threat(48)
async def test_a_body_of_two_mebibytes_is_413_however_it_comes(start: Start) -> None:
    running = await start()
    body = b'{"x":"' + b"x" * (2 << 20) + b'"}'
    response = await running.ask(COUNT, method="POST", token=RPC, body=body)
    assert (response.status, code_of(response)) == (413, "too_large")
    head = f"POST {COUNT} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {RPC}\r\n"
    head += "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    response = await running.send(running.internal, head.encode() + _chunked(body))
    assert (response.status, code_of(response)) == (413, "too_large")
    assert running.gateway.rooms() == []
    assert (await running.ask(COUNT, method="POST", token=RPC)).body == b"0"


@pytest.mark.threat(48)
@pytest.mark.skipif(not STATUS.exists(), reason="needs /proc to read memory")
@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
async def test_a_bomb_as_the_body_of_a_call_is_413_and_not_inflated(start: Start, encoding: str) -> None:
    running = await start()
    plain = bytes(200 << 20)
    bomb = gzip.compress(plain) if encoding == "gzip" else zlib.compress(plain)
    del plain
    before = peak(reset=True)
    response = await running.ask(COUNT, method="POST", token=RPC, body=bomb, Content_Encoding=encoding)
    assert (response.status, code_of(response)) == (413, "too_large")
    assert peak() - before < 16 << 20
    assert running.gateway.rooms() == []


@pytest.mark.threat(48)
async def test_a_bomb_without_the_key_is_401_and_not_inflated(start: Start) -> None:
    running = await start()
    bomb = gzip.compress(bytes(50 << 20))
    before = peak(reset=True)
    response = await running.ask(COUNT, method="POST", token="wrong", body=bomb, Content_Encoding="gzip")
    assert response.status == 401
    assert peak() - before < 16 << 20


@pytest.mark.threat(48)
async def test_a_body_that_does_not_come_ends_at_the_deadline_of_its_call(start: Start) -> None:
    running = await start()
    client = await running.tcp(running.internal)
    head = f"POST {COUNT} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {RPC}\r\nVerani-Timeout: 0.2\r\n"
    response = await client.request(f"{head}Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{{".encode())
    assert (response.status, code_of(response)) == (504, "deadline")
    assert running.gateway.rooms() == []


class Smuggled(NamedTuple):
    """Bytes after the request line and Host of a call, and the statuses it may have; none is a result."""

    data: bytes
    statuses: set[int]


SMUGGLED = {
    "two lengths": Smuggled(b"Content-Length: 2\r\nContent-Length: 20\r\n\r\n{}", {400}),
    "a length and chunks": Smuggled(b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n{}", {400}),
    "a length that is none": Smuggled(b"Content-Length: -1\r\n\r\n", {400}),
    "a length with a sign": Smuggled(b"Content-Length: +2\r\n\r\n{}", {400}),
    "a chunk size that is none": Smuggled(b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", {400}),
    "chunked twice": Smuggled(b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n", {400}),
    "a header that goes on": Smuggled(b"X: y\r\n z\r\nContent-Length: 0\r\n\r\n", {400, 401}),
    "a bare line feed": Smuggled(b"X: y\nAuthorization: Bearer wrong\r\n\r\n", {400, 401}),
    "a space before the colon": Smuggled(b"Content-Length : 2\r\n\r\n{}", {400}),
}


@pytest.mark.threat(48)
@pytest.mark.parametrize("smuggled", SMUGGLED.values(), ids=SMUGGLED.keys())
async def test_a_body_of_two_meanings_is_refused(start: Start, clean_log: list[str], smuggled: Smuggled) -> None:
    clean_log.append("aiohttp.server: Error handling request from 127.0.0.1")
    running = await start()
    client = await running.tcp(running.internal)
    client.writer.write(f"POST {COUNT} HTTP/1.1\r\nHost: 127.0.0.1\r\n".encode() + smuggled.data)
    async with asyncio.timeout(10):
        assert int((await client.reader.readline()).split(b" ")[1]) in smuggled.statuses
    assert running.gateway.rooms() == []


@pytest.mark.threat(48)
@pytest.mark.parametrize(
    "method", ["__class__", "__init__", "_loop", "spawn", "state", "stub", "close", "sessions", "name", "mro"]
)
async def test_only_methods_that_are_meant_to_be_called_are_there(start: Start, method: str) -> None:
    running = await start()
    response = await running.ask(f"/rpc/chat/lobby/{method}", method="POST", token=RPC, body=b"{}")
    assert (response.status, code_of(response)) == (404, "not_found")


# --- 49: what is not on the public listener ------------------------------------------------------------------

INTERNAL_PATHS = [
    *("/metrics", "/admin", "/admin/", "/admin/rooms", "/admin/rooms/chat/lobby", "/debug", "/debug/pprof"),
    *("/inspector/", "/openapi.json", "/ready", COUNT, "/rpc", "/server-status", "/.env", "/.git/config"),
    *("//admin/rooms", "/./admin/rooms", "/ws/../admin/rooms", "/%61dmin/rooms", "/admin%2frooms", "/ADMIN/rooms"),
    "http://127.0.0.1/admin/rooms",
]


@pytest.mark.threat(49)
@pytest.mark.parametrize("path", INTERNAL_PATHS)
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_nothing_internal_is_on_the_public_listener_even_with_the_tokens(
    start: Start, path: str, method: str
) -> None:
    running = await start()
    for token in (RPC, ADMIN):
        for host in ("127.0.0.1", f"127.0.0.1:{running.internal}"):
            head = f"{method} {path} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\n"
            response = await running.send(running.public, f"{head}Content-Length: 0\r\n\r\n".encode())
            assert response.status == 404
            assert b"chat" not in response.body


# --- 51: web pages -------------------------------------------------------------------------------------------


@pytest.mark.threat(51)
@pytest.mark.parametrize("path", [COUNT, "/admin/rooms", "/metrics", "/openapi.json", "/ready"])
@pytest.mark.parametrize(
    ("name", "value"),
    [("Origin", "https://evil.test"), ("Origin", "null"), ("Origin", "http://127.0.0.1:1"), ("Host", "evil.test")],
)
async def test_another_page_reaches_nothing_even_with_the_token(start: Start, path: str, name: str, value: str) -> None:
    running = await start()
    if (path, name) == ("/ready", "Host"):
        return  # a probe comes with any Host, and what it reads is no secret
    method = "POST" if path == COUNT else "GET"
    for token in (RPC, ADMIN):
        response = await running.ask(path, method=method, token=token, body=b"", **{name: value})
        assert (response.status, code_of(response)) == (403, "forbidden")
        assert "access-control-allow-origin" not in response.headers
    assert running.gateway.rooms() == []


@pytest.mark.threat(51)
@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"])
async def test_a_form_of_a_page_is_no_call(start: Start, content_type: str) -> None:
    running = await start()
    response = await running.ask(COUNT, method="POST", token=RPC, body=b"{}", Content_Type=content_type)
    assert (response.status, code_of(response)) == (400, "invalid")
    assert running.gateway.rooms() == []


@pytest.mark.threat(51)
async def test_a_page_gets_no_leave_to_ask(start: Start) -> None:
    running = await start()
    response = await running.ask(
        COUNT, method="OPTIONS", Origin="https://evil.test", Access_Control_Request_Method="POST"
    )
    assert response.status == 403
    assert not [name for name in response.headers if name.startswith("access-control")]


@pytest.mark.threat(51)
@pytest.mark.threat(52)
@pytest.mark.parametrize("path", ["/ready", "/metrics", "/admin/rooms", "/openapi.json", COUNT, "/nowhere", "/admin"])
@pytest.mark.parametrize("token", ["", RPC, ADMIN])
async def test_every_answer_forbids_frames_scripts_and_guessing(start: Start, path: str, token: str) -> None:
    running = await start()
    response = await running.ask(path, method="POST" if path == COUNT else "GET", token=token)
    policy = response.headers["content-security-policy"]
    assert "frame-ancestors 'none'" in policy
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert response.headers["x-content-type-options"] == "nosniff"
    assert not response.headers["content-type"].startswith("text/html")


# --- 52: text of users ---------------------------------------------------------------------------------------


@pytest.mark.threat(52)
async def test_no_text_of_a_user_is_in_what_operators_read(start: Start) -> None:
    running = await start()
    client = await running.tcp(running.public)
    await client.upgrade("/ws/lobby?userId=%3Cscript%3Ealert(1)%3C/script%3E&channels=%3Cimg%20onerror%3E")
    client.send({"type": "<b>type</b>", "channel": "<i>", "data": "<script>"})
    await client.pinged()
    await until(lambda: running.gateway.rooms())
    for path, token in (("/admin/rooms", ADMIN), ("/admin/rooms/chat/lobby", ADMIN), ("/metrics", ADMIN)):
        response = await running.ask(path, token=token)
        assert response.status == 200
        assert b"<" not in response.body, response.body
    refused = await running.ask("/rpc/chat/lobby/%3Cscript%3E", method="POST", token=RPC, body=b"{}")
    assert (refused.status, refused.headers["content-type"]) == (404, "application/json")

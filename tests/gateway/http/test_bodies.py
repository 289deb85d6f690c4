"""What nobody asked for is neither parsed nor inflated, on any path of either listener; what is read has limits."""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
import os
import zlib
from functools import cache
from typing import Final, NamedTuple

import pytest
from aiohttp import StreamReader, web

from tests.listeners import ADMIN, RPC, Listen
from tests.raw import RawClient, handshake, until
from tests.server import Serve, Server
from verani import ConnectRequest, define_room
from verani_gateway.http import bodies
from verani_gateway.service import listener

# What arrives of a bomb: compressed, it is a thousand times larger.
SENT: Final = 16 << 20
# What may be inflated of one: aiohttp reads some of it ahead, before anybody has seen the request.
MAX_INFLATED: Final = 1 << 20


@cache
def bomb_of(encoding: str) -> bytes:
    """Compress zeros to a little more than `SENT` bytes."""
    compressor = zlib.compressobj(1, wbits=31 if encoding == "gzip" else 15)
    block = bytes(64 << 20)
    first = compressor.compress(block) + compressor.flush(zlib.Z_FULL_FLUSH)
    second = compressor.compress(block) + compressor.flush(zlib.Z_FULL_FLUSH)
    return first + second * (SENT // len(second) + 1)  # after a full flush, blocks depend on nothing before them


class Counted:
    """How many bytes of bodies aiohttp has parsed, and inflated where they were compressed."""

    bytes = 0


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> Counted:
    counted, feed = Counted(), StreamReader.feed_data

    def feed_data(self: StreamReader, data: bytes, size: int = 0) -> bool:
        counted.bytes += len(data)
        return feed(self, data, size)

    monkeypatch.setattr(StreamReader, "feed_data", feed_data)
    return counted


@pytest.fixture(autouse=True)
def short_farewell(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give clients less time to read an answer; those here read it at once."""
    monkeypatch.setattr(bodies, "LINGER", 0.2)
    monkeypatch.setattr(listener, "LINGER", 0.2)


class Target(NamedTuple):
    """Where a body is sent, and the status that comes back."""

    listener: str
    method: str
    path: str
    status: int
    token: str = ""


TARGETS: Final = [
    Target("public", "POST", "/health", 405),
    Target("public", "GET", "/health", 200),
    Target("public", "POST", "/nowhere", 404),
    Target("public", "POST", "/ws/lobby", 405),
    Target("public", "GET", "/ws/lobby", 426),
    Target("public", "POST", "/own", 200),
    Target("public", "POST", "/own/refuses", 403),
    Target("public", "POST", "/own/streams", 200),
    Target("public", "POST", "/own/reads", 413),
    Target("public", "DELETE", "/own", 405),
    Target("internal", "POST", "/ready", 405),
    Target("internal", "GET", "/ready", 200),
    Target("internal", "POST", "/nowhere", 404),
    Target("internal", "POST", "/metrics", 405),
    Target("internal", "GET", "/metrics", 401),
    Target("internal", "GET", "/metrics", 200, ADMIN),
    Target("internal", "POST", "/admin/drain", 401),
    Target("internal", "POST", "/admin/drain", 415, ADMIN),
    Target("internal", "POST", "/admin/check", 401),
    Target("internal", "POST", "/admin/check", 415, ADMIN),
    Target("internal", "POST", "/admin/restart", 401),
    Target("internal", "POST", "/admin/restart", 415, ADMIN),
    *(Target("internal", "POST", f"/admin/{order}", 401) for order in ("send", "hibernate", "wake", "close")),
    *(Target("internal", "POST", f"/admin/{order}", 415, ADMIN) for order in ("send", "hibernate", "wake", "close")),
    Target("internal", "GET", "/admin/rooms", 200, ADMIN),
    Target("internal", "POST", "/rpc/chat/lobby/get_session_count", 401),
    Target("internal", "POST", "/rpc/chat/lobby/get_session_count", 415, RPC),
    Target("internal", "GET", "/openapi.json", 200, RPC),
    Target("internal", "GET", "/asyncapi.json", 200, RPC),
    Target("internal", "GET", "/asyncapi.json", 401),
]


def application() -> web.Application:
    """Make an application with routes of its own, as others mount rooms in."""

    async def own(_: web.Request) -> web.Response:
        return web.Response(text="did not look")

    async def refuses(_: web.Request) -> web.Response:
        raise web.HTTPForbidden

    async def streams(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "5"})
        await response.prepare(request)
        await response.write(b"hello")
        return response

    async def reads(request: web.Request) -> web.Response:
        return web.Response(text=str(len(await request.read())))

    app = web.Application()
    app.router.add_post("/own", own)
    app.router.add_post("/own/refuses", refuses)
    app.router.add_post("/own/streams", streams)
    app.router.add_post("/own/reads", reads)
    return app


def head(target: Target, port: int, encoding: str, length: int | None) -> bytes:
    lines = [f"{target.method} {target.path} HTTP/1.1", f"Host: 127.0.0.1:{port}", "Content-Type: application/json"]
    lines += [f"Authorization: Bearer {target.token}"] if target.token else []
    lines += [f"Content-Encoding: {encoding}"] if encoding else []
    lines.append("Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


async def send(client: RawClient, data: bytes) -> None:
    """Send as much as is taken: in chunks of 64 KiB."""
    try:
        for start in range(0, len(data), 1 << 16):
            client.writer.write(data[start : start + (1 << 16)])
            await client.writer.drain()
    except ConnectionError:
        pass


def chunked(data: bytes, size: int) -> bytes:
    """Encode as chunks of this size."""
    pieces = (data[start : start + size] for start in range(0, len(data), size))
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


@pytest.mark.threat(18)
@pytest.mark.parametrize("how", ["gzip", "gzip in chunks", "deflate"])
@pytest.mark.parametrize("target", TARGETS, ids=[" ".join(map(str, each[:4])) for each in TARGETS])
async def test_a_bomb_is_not_inflated_on_any_path_and_the_answer_arrives(
    listen: Listen, parsed: Counted, target: Target, how: str
) -> None:
    running = await listen(application())
    port = running.public if target.listener == "public" else running.internal
    bomb = bomb_of(how.split()[0])
    client = await running.tcp(port)
    if how.endswith("chunks"):
        request, body = head(target, port, "gzip", None), chunked(bomb, 1 << 14)
    else:
        request, body = head(target, port, how, len(bomb)), bomb
    sending = asyncio.create_task(send(client, request + body))
    response = await client.request(b"")
    assert response.status == target.status
    await client.rest()
    await sending
    # Who reads a body has it inflated, until aiohttp notices that `client_max_size` was exceeded.
    assert parsed.bytes <= (8 << 20 if target.path == "/own/reads" else MAX_INFLATED)
    assert running.gateway.metrics.limited["max_discard_bytes"] == 1
    probe = "/health" if target.listener == "public" else "/ready"
    assert (await running.send(port, f"GET {probe} HTTP/1.1\r\nHost: a\r\n\r\n".encode())).status == 200


@pytest.mark.threat(18)
@pytest.mark.parametrize("path", ["/health", "/nowhere", "/flooded"])
async def test_a_server_of_an_application_of_ones_own_leaves_them_too(serve: Serve, parsed: Counted, path: str) -> None:
    server: Server = await serve(define_room("flooded", websocket_path="/flooded"))
    client = await server.tcp()
    bomb = bomb_of("gzip")
    target = Target("public", "POST", path, 404 if path == "/nowhere" else 405)
    sending = asyncio.create_task(send(client, head(target, server.port, "gzip", len(bomb)) + bomb))
    assert (await client.request(b"")).status == target.status
    await client.rest()
    await sending
    assert parsed.bytes <= MAX_INFLATED
    assert server.gateway.metrics.limited["max_discard_bytes"] == 1


@pytest.mark.threat(18)
async def test_a_body_in_chunks_of_one_byte_is_not_parsed(listen: Listen, parsed: Counted) -> None:
    running = await listen()
    client = await running.tcp(running.public)
    target = Target("public", "POST", "/health", 405)
    sending = asyncio.create_task(send(client, head(target, running.public, "", None) + b"1\r\nx\r\n" * (SENT // 6)))
    assert (await client.request(b"")).status == 405
    await client.rest()
    await sending
    assert parsed.bytes <= MAX_INFLATED


async def test_what_is_no_http_is_looked_at_once_however_much_follows(
    listen: Listen, clean_log: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clean_log.append("Error handling request")
    looks: list[int] = []
    look = web.RequestHandler.data_received

    def data_received(self: web.RequestHandler, data: bytes) -> None:
        looks.append(len(data))
        look(self, data)

    monkeypatch.setattr(web.RequestHandler, "data_received", data_received)
    running = await listen()
    client = await running.tcp(running.public)
    await send(client, b"POST /health HTTP/1.1\r\nno header\r\n\r\n" + os.urandom(SENT))
    await client.rest()
    assert len(looks) == 1


async def test_frames_before_the_answer_to_an_odd_handshake_end_it_and_leave_no_deaf_connection(
    listen: Listen, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, go = asyncio.Event(), asyncio.Event()
    looks: list[int] = []
    look = web.RequestHandler.data_received

    def data_received(self: web.RequestHandler, data: bytes) -> None:
        look(self, data)
        looks.append(len(data))

    monkeypatch.setattr(web.RequestHandler, "data_received", data_received)

    async def identify(request: ConnectRequest) -> dict[str, str]:
        asked.set()
        await go.wait()
        return {"user_id": "ann"}

    running = await listen(room=define_room("chat", websocket_path="/ws", extract_meta=identify))
    client = await running.tcp(running.public)
    client.writer.write(handshake(Upgrade="websocket, other"))
    await asked.wait()
    client.send({"type": "ping"})
    await client.flush()
    await until(lambda: len(looks) == 2)
    go.set()
    assert await client.rest() == b""
    await until(lambda: not running.gateway.connections)


async def test_after_a_body_that_was_whole_the_connection_serves_the_next_request(listen: Listen) -> None:
    running = await listen()
    client = await running.tcp(running.public)
    target = Target("public", "GET", "/health", 200)
    for _ in range(3):
        assert (await client.request(head(target, running.public, "", 5) + b"hello")).status == 200


async def test_a_body_that_does_not_come_does_not_keep_the_connection(listen: Listen) -> None:
    running = await listen()
    client = await running.tcp(running.public)
    target = Target("public", "POST", "/health", 405)
    assert (await client.request(head(target, running.public, "", 5))).status == 405
    assert await client.rest() == b""


async def test_a_client_that_leaves_amid_a_body_that_nobody_reads_leaves_no_task(listen: Listen) -> None:
    running = await listen()
    before = asyncio.all_tasks()
    client = await running.tcp(running.public)
    target = Target("public", "POST", "/health", 405)
    assert (await client.request(head(target, running.public, "", 500) + b"x")).status == 405
    client.reset()
    await until(lambda: asyncio.all_tasks() <= before)
    assert running.gateway.metrics.limited["max_discard_bytes"] == 0


async def test_a_body_that_is_not_what_its_headers_say_ends_its_connection_only(listen: Listen) -> None:
    running = await listen()
    client = await running.tcp(running.public)
    target = Target("public", "POST", "/health", 405)
    assert (await client.request(head(target, running.public, "gzip", 50) + b"0123456789")).status == 405
    await client.rest()


# --- those that are read -------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd", "gzip, gzip", "GZIP", "x-unknown"])
@pytest.mark.parametrize(("path", "token"), [("/rpc/chat/lobby/get_session_count", RPC), ("/admin/drain", ADMIN)])
async def test_no_body_is_taken_compressed(listen: Listen, path: str, token: str, encoding: str) -> None:
    running = await listen()
    response = await running.ask(path, method="POST", token=token, body=gzip.compress(b"{}"), Content_Encoding=encoding)
    assert (response.status, json.loads(response.body)["error"]["code"]) == (415, "invalid")
    assert running.gateway.metrics.refusals["compressed"] == 1
    assert running.gateway.rooms() == []


async def test_a_body_that_says_that_it_is_not_compressed_is_taken(listen: Listen) -> None:
    running = await listen()
    path = "/rpc/chat/lobby/get_session_count"
    response = await running.ask(path, method="POST", token=RPC, body=b"{}", Content_Encoding="Identity")
    assert response.body == b"0"


@pytest.mark.parametrize(("path", "token"), [("/rpc/chat/lobby/get_session_count", RPC), ("/admin/drain", ADMIN)])
async def test_a_body_that_drips_has_a_deadline_at_every_end_point(listen: Listen, path: str, token: str) -> None:
    running = await listen(rpc_timeout=0.2)
    client = await running.tcp(running.internal)
    target = Target("internal", "POST", path, 504, token)

    async def drip() -> None:
        for _ in range(1000):
            client.writer.write(b" ")
            await asyncio.sleep(0.02)

    client.writer.write(head(target, running.internal, "", 1000))
    dripping = asyncio.create_task(drip())
    response = await client.request(b"")
    dripping.cancel()
    assert (response.status, json.loads(response.body)["error"]["code"]) == (504, "deadline")
    assert running.gateway.metrics.limited["rpc_timeout"] == 1


async def test_an_order_of_operators_has_the_limit_of_calls(listen: Listen) -> None:
    running = await listen(max_rpc_bytes=1000)
    response = await running.ask("/admin/drain", method="POST", token=ADMIN, body=b" " * 1001)
    assert (response.status, json.loads(response.body)["error"]["code"]) == (413, "too_large")
    assert running.gateway.metrics.limited["max_rpc_bytes"] == 1


# --- headers -------------------------------------------------------------------------------------------------


def long_header(size: int, *, fields: int = 1, path: str = "/health") -> bytes:
    """Make a request whose line and headers have exactly so many bytes, in so many long fields."""
    start = f"GET {path} HTTP/1.1\r\nHost: a\r\n".encode()
    left = size - len(start) - 2
    each, more = divmod(left, fields)
    lines = [b"X: " + b"x" * (each + (more if n == 0 else 0) - 5) + b"\r\n" for n in range(fields)]
    return start + b"".join(lines) + b"\r\n"


@pytest.mark.threat(18)
@pytest.mark.parametrize("listener", ["public", "internal"])
@pytest.mark.parametrize("fields", [1, 2, 20, 100])
async def test_a_header_may_have_so_many_bytes_and_no_more(listen: Listen, listener: str, fields: int) -> None:
    running = await listen()
    port = running.public if listener == "public" else running.internal
    path = "/health" if listener == "public" else "/ready"
    assert (await running.send(port, long_header(16384, fields=fields, path=path))).status == 200
    client = await running.tcp(port)
    response = await client.request(long_header(16385, fields=fields, path=path))
    assert (response.status, json.loads(response.body)["error"]["code"]) == (431, "too_large")
    client.writer.write(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n")
    assert await client.rest() == b""
    assert running.gateway.metrics.limited["max_header_bytes"] == 1


@pytest.mark.threat(18)
async def test_a_long_url_and_a_long_cookie_connect(listen: Listen) -> None:
    running = await listen()
    await (await running.tcp(running.public)).upgrade("/ws/lobby?userId=a&x=" + "x" * 8300)
    await (await running.tcp(running.public)).upgrade("/ws/lobby", Cookie="x" * 8300)
    for too_long in (handshake("/ws/lobby?x=" + "x" * 20_000), handshake("/ws/lobby", Cookie="x" * 20_000)):
        assert (await running.send(running.public, too_long)).status == 431
    assert running.gateway.metrics.limited["max_header_bytes"] == 2


async def test_the_log_says_that_a_header_was_too_long_because_browsers_tell_nobody(
    listen: Listen, caplog: pytest.LogCaptureFixture
) -> None:
    running = await listen()
    caplog.set_level(logging.INFO)
    too_long = handshake("/ws/lobby", Cookie="x" * 20_000)
    assert (await running.send(running.public, too_long)).status == 431
    assert (await running.send(running.public, long_header(100) + too_long)).status == 431
    refused = [line for line in caplog.messages if "max_header_bytes" in line]
    assert len(refused) == 2
    assert all("from 127.0.0.1 with 431: expected at most 16384 bytes" in line for line in refused)


@pytest.mark.threat(18)
@pytest.mark.parametrize("data", [b"GET /" + b"x" * (1 << 20), b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * (1 << 18)])
async def test_a_header_without_end_is_answered_and_its_connection_closed(listen: Listen, data: bytes) -> None:
    running = await listen(max_discard_bytes=0)
    client = await running.tcp(running.public)
    sending = asyncio.create_task(send(client, data))
    await client.rest()
    await sending
    assert running.gateway.metrics.limited["max_header_bytes"] == 1


@pytest.mark.parametrize("size", [16384, 16385])
async def test_a_header_in_pieces_has_the_same_limit_whatever_follows_it(listen: Listen, size: int) -> None:
    running = await listen()
    header = long_header(size)
    for cut in (1, 2, 3, 4, 5, 8000):  # also within the empty line at its end
        client = await running.tcp(running.public)
        client.writer.write(header[:-cut])
        await client.flush()
        await until(lambda: True)
        response = await client.request(header[-cut:] + header)
        assert response.status == (200 if size == 16384 else 431)


async def test_the_header_of_a_later_request_counts_from_its_own_start(listen: Listen) -> None:
    running = await listen()
    client = await running.tcp(running.public)
    for _ in range(3):
        assert (await client.request(long_header(10_000))).status == 200
    assert (await client.request(long_header(20_000))).status == 431


async def test_a_header_that_is_sent_together_with_another_request_has_a_limit_too(listen: Listen) -> None:
    running = await listen()
    client = await running.tcp(running.public)
    assert (await client.request(long_header(100) + long_header(20_000))).status == 431
    assert running.gateway.metrics.limited["max_header_bytes"] == 1


async def test_only_a_header_that_is_late_counts_and_no_idle_connection(listen: Listen) -> None:
    running = await listen(header_timeout=1.0)
    idle, late = await running.tcp(running.public), await running.tcp(running.public)
    assert (await idle.request(long_header(100))).status == 200
    late.writer.write(b"GET /health HTTP/1.1\r\n")
    assert await idle.rest() == await late.rest() == b""
    assert running.gateway.metrics.limited["header_timeout"] == 1

"""Bad input and attacks: each has its outcome, the others in the room notice nothing, and the log stays clean."""

from __future__ import annotations

import asyncio
import gzip
import logging
import os
import re
import signal
import socket
import struct
import sys
import time
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import StreamReader

from tests.raw import KEY, PATIENCE, Opcode, RawClient, close, frame, handshake, text, until
from tests.server import Serve, Server
from verani.room.definition import RoomDefinition, define_room
from verani.room.meta import ConnectionMeta
from verani.room.request import Identity
from verani_gateway.connections import close_handshake as closing_module

ROOT = Path(__file__).parents[2]

PING = text('{"type":"ping"}')
LIMIT = 65536


def echo_room(**options: Any) -> RoomDefinition[Any, Any]:
    """Make a room that answers `say` with what it got, and tells everybody."""
    room = define_room("chat", **options)

    @room.on("say")
    def say(ctx: Any, data: Any) -> None:
        ctx.emit("said", {"data": data})

    return room


def rows(table: Mapping[str, Any]) -> list[Any]:
    """Mark each row of a table with the threat whose number its name begins with."""
    return [
        pytest.param(
            *(row if isinstance(row, tuple) else (row,)), id=name, marks=pytest.mark.threat(int(name.split()[0]))
        )
        for name, row in table.items()
    ]


@asynccontextmanager
async def bystander(server: Server, path: str = "/ws") -> AsyncIterator[RawClient]:
    """Keep another connection in the same room, which must still be served at the end."""
    client = await server.connect(path)
    await client.pinged()
    yield client
    client.send({"type": "say", "data": "still here"})
    while (await client.data()).get("data") != "still here":
        pass


# --- 1 to 9: frames that are wrong as such -------------------------------------------------------------------

_BIG = b'{"type":"say","data":"' + b"x" * (LIMIT - 24) + b'"}'

VIOLATIONS: dict[str, tuple[bytes, int]] = {
    "1 one byte over the limit": (text(_BIG + b" "), 1009),
    "2 fragments over the limit": (
        frame(Opcode.TEXT, b"x" * 40000, fin=False) + frame(Opcode.CONTINUATION, b"x" * 40000),
        1009,
    ),
    "3 a header that declares 2^62 bytes": (frame(Opcode.TEXT, length=2**62), 1009),
    "3 a header that declares 2^63 bytes": (frame(Opcode.TEXT, length=2**63), 1009),
    "4 a compressed frame, which was never negotiated": (frame(Opcode.TEXT, b"\x01" * 100, rsv=4), 1002),
    "5 invalid UTF-8": (text(b'{"type":"\xff"}'), 1007),
    "5 a truncated UTF-8 sequence": (text(b'{"type":"\xe2\x82'), 1007),
    "5 a surrogate in UTF-8": (text(b'{"type":"\xed\xa0\x80"}'), 1007),
    "5 invalid UTF-8 in a close reason": (close(1000, b"\xff"), 1007),
    "6 reserved bit 2": (frame(Opcode.TEXT, b"{}", rsv=2), 1002),
    "6 reserved bit 3": (frame(Opcode.TEXT, b"{}", rsv=1), 1002),
    "6 opcode 3": (frame(3, b"{}"), 1002),
    "6 opcode 11": (frame(11, b"{}"), 1002),
    "6 a control frame of 126 bytes": (frame(Opcode.PING, b"x" * 126), 1002),
    "6 a fragmented control frame": (frame(Opcode.PING, b"x", fin=False), 1002),
    "6 a continuation of nothing": (frame(Opcode.CONTINUATION, b"x"), 1002),
    "6 a new message within a fragmented one": (frame(Opcode.TEXT, b"a", fin=False) + text(b"{}"), 1002),
    "6 a close frame of one byte": (frame(Opcode.CLOSE, b"\x03"), 1002),
    "6 close code 1005": (close(1005), 1002),
    "7 close code 1006": (close(1006), 1002),
}


@pytest.mark.parametrize(("data", "code"), rows(VIOLATIONS))
async def test_a_violation_of_the_websocket_protocol_closes_that_connection_only(
    serve: Serve, data: bytes, code: int
) -> None:
    closes: list[int | None] = []
    server = await serve(echo_room(on_disconnect=lambda ctx: closes.append(ctx.close_code)))
    async with bystander(server):
        client = await server.connect()
        # What was asked before is answered before, and what comes after is not looked at.
        client.send(PING, data, {"type": "say", "data": "after"})
        assert await client.text() == b'{"type":"pong"}'
        received = await client.receive()
        assert (received.opcode, received.code) == (Opcode.CLOSE, code)
        client.send(close(code))
        assert await client.rest() == b""
        await client.end()
        await until(lambda: closes)
        assert closes == [code]


@pytest.mark.threat(1)
@pytest.mark.threat(2)
async def test_a_frame_of_exactly_the_limit_passes_whole_and_in_fragments(serve: Serve) -> None:
    server = await serve(echo_room())
    client = await server.connect()
    assert len(_BIG) == LIMIT
    client.send(text(_BIG))
    assert len((await client.data())["data"]) == LIMIT - 24
    client.send(
        frame(Opcode.TEXT, _BIG[:10], fin=False),
        frame(Opcode.PING, b"between"),
        frame(Opcode.CONTINUATION, b"", fin=False),
        frame(Opcode.CONTINUATION, _BIG[10:]),
    )
    assert (await client.receive()).payload == b"between"
    assert len((await client.data())["data"]) == LIMIT - 24


_UNMASKED = frame(Opcode.TEXT, b'{"type":"ping"}', mask=False)
_MASKED = text({"type": "say", "data": "x" * 200}) + text({"type": "say", "data": "x" * 2000})

MASKLESS: dict[str, bytes] = {
    "8 a text": _UNMASKED,
    "8 an empty text": frame(Opcode.TEXT, mask=False),
    "8 a long text": frame(Opcode.TEXT, b"x" * 200, mask=False)[:10],
    "8 a very long text": frame(Opcode.TEXT, b"x" * 65536, mask=False)[:10],
    "8 a ping": frame(Opcode.PING, b"x", mask=False),
    "8 a close": frame(Opcode.CLOSE, b"\x03\xe8", mask=False),
    "8 the second fragment": frame(Opcode.TEXT, b'{"type":', fin=False)
    + frame(Opcode.CONTINUATION, b'"ping"}', mask=False),
    "8 a ping amid fragments": frame(Opcode.TEXT, b"{", fin=False) + frame(Opcode.PING, mask=False),
    "8 a frame of a length that is no length": bytes([0x81, 126]),
    "8 a frame after masked ones": _MASKED + _UNMASKED,
}


@pytest.mark.parametrize("cut", [0, 1, 3], ids=["in one piece", "byte by byte", "in threes"])
@pytest.mark.parametrize("together", [False, True], ids=["after the handshake", "together with it"])
@pytest.mark.parametrize("data", rows(MASKLESS))
async def test_a_frame_without_a_mask_closes_with_1002_after_what_came_before(
    serve: Serve, data: bytes, together: bool, cut: int
) -> None:
    server = await serve(echo_room(), rate_limit=0)
    async with bystander(server):
        data = PING + data
        client = await server.tcp()
        await client.upgrade(together=data if together else b"")
        if not together:
            for start in range(0, len(data), cut or len(data)):
                client.send(data[start : start + (cut or len(data))])
                await asyncio.sleep(0)
        assert await client.text() == b'{"type":"pong"}'
        assert (await client.closed()).code == 1002
        assert await client.rest() == b""


@pytest.mark.threat(8)
@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 1000, 4096])
async def test_masked_frames_of_all_lengths_pass_however_they_are_cut(serve: Serve, size: int) -> None:
    server = await serve(echo_room(), rate_limit=0)
    lengths = [0, 1, 90, 91, 92, 125, 126, 127, 1000, 2047, 2048, 2049]
    if size >= 1000:  # each piece is a write
        lengths = [*lengths, 60000] * 5
    payloads = ["x" * length for length in lengths]
    data = b"".join(text({"type": "say", "data": each}) + frame(Opcode.PONG, b"y" * 125) for each in payloads)
    client = await server.connect()

    async def send() -> None:
        for start in range(0, len(data), size):
            client.send(data[start : start + size])
            await client.flush()

    sending = asyncio.create_task(send())
    assert [(await client.data())["data"] for _ in payloads] == payloads
    await sending


# --- 10 to 17, 21, 22: how bytes come ------------------------------------------------------------------------


@pytest.mark.threat(10)
@pytest.mark.parametrize("rate_limit", [0, 200])
async def test_a_hundred_thousand_pings_and_a_reset_leave_no_trace(serve: Serve, rate_limit: float) -> None:
    server = await serve(echo_room(), rate_limit=rate_limit)
    async with bystander(server):
        client = await server.connect()
        client.send(frame(Opcode.PING, b"x") * 100_000)
        await client.receive()
        client.reset()
        await until(lambda: len(server.gateway.connections) == 1)


@pytest.mark.threat(11)
async def test_empty_continuation_frames_for_ever_end_with_the_keepalive(serve: Serve) -> None:
    server = await serve(echo_room(), ping_interval=0.1, pong_timeout=0.1)
    other = await server.connect()
    client = await server.connect()
    client.send(frame(Opcode.TEXT, fin=False) + frame(Opcode.CONTINUATION, fin=False) * 100_000)
    while len(server.gateway.connections) > 1:
        assert (await other.receive()).opcode == Opcode.PING
        other.send(frame(Opcode.PONG))
    await client.rest()


@pytest.mark.threat(15)
async def test_handshakes_that_never_end_are_closed_at_the_header_timeout(serve: Serve) -> None:
    server = await serve(echo_room(), header_timeout=0.2)
    async with bystander(server):
        partial, silent, dribble = [await server.tcp() for _ in range(3)]
        partial.writer.write(handshake()[:40])
        dribble.writer.write(b"GET /ws HTTP/1.1\r\n")

        async def dribbling() -> None:
            while not dribble.writer.is_closing():
                dribble.writer.write(b"X: y\r\n")
                await asyncio.sleep(0.02)

        slow = asyncio.create_task(dribbling())
        for client in (partial, silent, dribble):
            assert await client.rest() == b""
        slow.cancel()


@pytest.mark.threat(15)
async def test_a_handshake_in_single_bytes_succeeds(serve: Serve) -> None:
    server = await serve(echo_room())
    client = await server.tcp()
    data = handshake() + PING
    for each in data[:-1]:
        client.writer.write(bytes([each]))
        await asyncio.sleep(0)
    response = await client.request(data[-1:])
    assert response.status == 101
    assert await client.text() == b'{"type":"pong"}'


@pytest.mark.threat(16)
async def test_one_address_may_have_only_so_many_connections_and_others_are_served(serve: Serve) -> None:
    server = await serve(echo_room(), max_connections_per_address=3, trusted_proxies=("127.0.0.1",))
    async with bystander(server):  # comes from the proxy itself
        kept = [await server.connect(X_Forwarded_For="192.0.2.1") for _ in range(3)]
        for _ in range(5):
            response = await server.request(handshake(X_Forwarded_For="192.0.2.1"))
            assert (response.status, response.headers["retry-after"]) == (429, "5")
        await server.connect(X_Forwarded_For="192.0.2.2")
        await kept[0].end()
        await until(lambda: len(server.gateway.connections) == 4)
        await server.connect(X_Forwarded_For="192.0.2.1")


@pytest.mark.threat(18)
@pytest.mark.parametrize(
    ("request_bytes", "statuses"),
    [
        (b"GET /ws?" + b"x" * 9000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", {400, 414}),
        (b"GET /ws HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 9000 + b"\r\n\r\n", {400, 431}),
        (b"GET /ws HTTP/1.1\r\nHost: a\r\n" + b"".join(b"X%d: 1\r\n" % n for n in range(200)) + b"\r\n", {400, 431}),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", {400}),
        (b"GET /ws HTTP/1.1\r\nHost: a\r\nBad Header\r\n\r\n", {400}),
    ],
)
async def test_requests_that_are_too_large_or_garbage_are_refused(
    serve: Serve, clean_log: list[str], request_bytes: bytes, statuses: set[int]
) -> None:
    clean_log.append("aiohttp.server: Error handling request from 127.0.0.1")
    server = await serve(echo_room())
    async with bystander(server):
        client = await server.tcp()
        client.writer.write(request_bytes)
        status = int((await client.rest()).split(b" ")[1])
        assert status in statuses


@pytest.mark.threat(19)
@pytest.mark.threat(22)
@pytest.mark.parametrize(
    ("data", "status", "header"),
    [
        (b"GET /ws HTTP/1.1\r\nHost: a\r\n\r\n", 426, ("upgrade", "websocket")),
        (handshake(drop=("Upgrade",)), 426, ("upgrade", "websocket")),
        (handshake(drop=("Connection",)), 426, ("upgrade", "websocket")),
        (handshake(Upgrade="h2c"), 426, ("upgrade", "websocket")),
        (handshake(Upgrade="<websocket>"), 426, ("upgrade", "websocket")),
        (handshake().replace(b"HTTP/1.1", b"HTTP/1.0", 1), 426, ("upgrade", "websocket")),
        (handshake().replace(b"GET", b"POST", 1), 405, ("allow", "GET")),
        (handshake().replace(b"GET", b"PUT", 1), 405, ("allow", "GET")),
        (handshake(Sec_WebSocket_Version="12"), 426, ("sec-websocket-version", "13")),
        (handshake(drop=("Sec-WebSocket-Version",)), 426, ("sec-websocket-version", "13")),
        (handshake(drop=("Sec-WebSocket-Key",)), 400, None),
        (handshake(Sec_WebSocket_Key="c2hvcnQ="), 400, None),
        (handshake(Sec_WebSocket_Key="not base64!"), 400, None),
        (handshake(Sec_WebSocket_Key=KEY[:-2]), 400, None),
    ],
)
async def test_a_request_that_is_no_handshake_is_refused_and_its_connection_closed(
    serve: Serve, data: bytes, status: int, header: tuple[str, str] | None
) -> None:
    server = await serve(echo_room())
    async with bystander(server):
        client = await server.tcp()
        response = await client.request(data)
        assert response.status == status
        if header is not None:
            assert response.headers[header[0]] == header[1]
        if status != 405:
            client.writer.write(handshake())
            assert await client.rest() == b"", "nothing that follows a failed upgrade is another request"


@pytest.mark.threat(22)
async def test_frames_after_a_refused_handshake_are_no_request(serve: Serve) -> None:
    server = await serve(echo_room())
    client = await server.tcp()
    response = await client.request(handshake(Origin="https://evil.test") + handshake() + PING)
    assert response.status == 403
    assert await client.rest() == b""


@pytest.mark.threat(19)
@pytest.mark.parametrize(
    "header",
    [
        "Content-Length: 5\r\n\r\nhello",
        "Content-Length: 500000\r\n\r\nhello",
        "Content-Length: 0\r\n\r\n",
        "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        "transfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    ],
)
async def test_a_handshake_with_a_body_is_refused(serve: Serve, header: str) -> None:
    server = await serve(echo_room())
    async with bystander(server):
        client = await server.tcp()
        assert (await client.request(handshake()[:-2] + header.encode() + PING)).status == 400
        assert await client.rest() == b""


@pytest.mark.threat(18)
async def test_the_compressed_body_of_a_handshake_is_not_inflated(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed: list[int] = []
    feed = StreamReader.feed_data

    def feed_data(self: StreamReader, data: bytes, size: int = 0) -> bool:
        parsed.append(len(data))
        return feed(self, data, size)

    monkeypatch.setattr(StreamReader, "feed_data", feed_data)
    server = await serve(echo_room(), max_discard_bytes=0)
    client = await server.tcp()
    body = gzip.compress(bytes(64 << 20)) * 16
    head = f"Content-Encoding: gzip\r\nContent-Length: {len(body)}\r\n\r\n"
    assert (await client.request(handshake()[:-2] + head.encode() + body)).status == 400
    await client.rest()
    assert sum(parsed) < 2 << 20


async def test_a_handshake_that_waits_for_leave_to_send_a_body_still_is_one(serve: Serve) -> None:
    server = await serve(echo_room())
    async with bystander(server):
        client = await server.tcp()
        client.writer.write(handshake()[:-2] + b"Expect: 100-continue\r\n\r\n" + PING)
        async with asyncio.timeout(PATIENCE):
            await client.reader.readuntil(b" 101 ")
            await client.reader.readuntil(b"\r\n\r\n")
        assert await client.text() == b'{"type":"pong"}'


@pytest.mark.threat(22)
async def test_an_upgrade_may_follow_another_request_on_one_connection(serve: Serve) -> None:
    server = await serve(echo_room())
    client = await server.tcp()
    assert (await client.request(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n")).body == b'{"status": "ok"}'
    await client.upgrade(together=PING)
    assert await client.text() == b'{"type":"pong"}'


@pytest.mark.threat(20)
@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("null", 403),
        ("https://app.com.evil.com", 403),
        ("https://evil.com?app.com", 403),
        ("http://app.com", 403),
        ("https://app.com:444", 403),
        ("https://user@app.com", 403),
        ("http://localhost:81", 403),
        ("HTTPS://APP.COM", 101),
        ("https://app.com:443", 101),
        ("https://app.com", 101),
        ("http://localhost", 101),
        ("http://LOCALHOST:80", 101),
    ],
)
async def test_an_origin_must_be_the_host_itself_or_one_that_is_listed(serve: Serve, origin: str, status: int) -> None:
    server = await serve(echo_room(), allowed_origins=("https://app.com",))
    response = await server.request(handshake(Origin=origin))
    assert response.status == status
    if status == 403:
        assert response.body == b'{"error":{"code":"forbidden"}}'


# --- 14: rates -----------------------------------------------------------------------------------------------


@pytest.mark.threat(14)
async def test_under_throttle_a_flood_is_served_at_the_limit_and_nothing_is_lost(serve: Serve) -> None:
    server = await serve(echo_room(), rate_limit=500, rate_burst=50)
    async with bystander(server):
        client = await server.connect()
        start = time.monotonic()
        client.send(*({"type": "say", "data": n} for n in range(200)))
        assert [(await client.data())["data"] for _ in range(200)] == list(range(200))
        # 150 frames over the burst at 500 a second: a lower bound, which no slow machine can break.
        assert time.monotonic() - start >= 0.29


@pytest.mark.threat(14)
async def test_under_drop_what_is_over_the_limit_is_dropped_and_counted(serve: Serve) -> None:
    server = await serve(echo_room(), rate_limit=0.001, rate_burst=5, rate_policy="drop")
    client = await server.connect()
    client.send(*({"type": "say", "data": n} for n in range(20)))
    assert [(await client.data())["data"] for _ in range(5)] == [0, 1, 2, 3, 4]
    await until(lambda: server.gateway.metrics.dropped_frames == 15)
    client.send(close(1000))
    assert (await client.receive()).code == 1000


@pytest.mark.threat(14)
async def test_under_close_the_first_frame_over_the_limit_closes_with_1008(serve: Serve) -> None:
    server = await serve(echo_room(), rate_limit=0.001, rate_burst=5, rate_policy="close")
    client = await server.connect()
    client.send(*({"type": "say", "data": n} for n in range(20)))
    received = await client.closed()
    assert (received.code, received.payload[2:]) == (1008, b"too many frames")
    async with bystander(server):
        assert server.gateway.metrics.invalid_frames == 0


@pytest.mark.threat(14)
@pytest.mark.threat(36)
async def test_pings_count_towards_the_rate(serve: Serve) -> None:
    server = await serve(echo_room(), rate_limit=0.001, rate_burst=5, rate_policy="close")
    client = await server.connect()
    client.send(PING * 3, frame(Opcode.PING) * 3)
    assert (await client.closed()).code == 1008


async def test_a_client_that_was_throttled_once_and_fell_silent_is_kept(serve: Serve) -> None:
    server = await serve(echo_room(), rate_limit=100, rate_burst=1, max_unread=0.2, ping_interval=60)
    client = await server.connect()
    client.send(*({"type": "say", "data": n} for n in range(3)))
    assert [(await client.data())["data"] for _ in range(3)] == [0, 1, 2]
    (kept,) = server.gateway.connections.values()
    for later in range(1, 100):
        kept.tick(server.gateway.facilities.now() + later)
    assert not kept.closing.is_sent


# --- 17: file descriptors ------------------------------------------------------------------------------------

_APP = """
from verani.room.definition import define_room
chat = define_room("chat")
chat.on("say")(lambda ctx, data: ctx.emit("said", {"data": data}))
"""


@pytest.mark.threat(17)
async def test_a_service_out_of_file_descriptors_recovers(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(_APP)
    process = await asyncio.create_subprocess_exec(
        "/bin/sh",
        "-c",
        'ulimit -n 64; exec "$@"',
        "sh",
        *(sys.executable, "-m", "verani_gateway", "serve", "app:chat", "--port", "0", "--internal-port", "0"),
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])},
        stderr=PIPE,
    )
    assert process.stderr is not None
    lines: list[str] = []

    async def listen(stream: asyncio.StreamReader) -> None:
        while line := await stream.readline():
            lines.append(line.decode())

    listening = asyncio.create_task(listen(process.stderr))
    clients: list[RawClient] = []
    try:
        await until(lambda: any("public listener" in line for line in lines), "".join(lines))
        match = re.search(r"public listener: http://127\.0\.0\.1:(\d+)", "".join(lines))
        assert match is not None
        port = int(match[1])
        keeper = await RawClient.open(port)
        clients.append(keeper)
        await keeper.upgrade()
        clients += [await RawClient.open(port) for _ in range(100)]
        # Served while there is no descriptor left; the others wait or are dropped.
        for n in range(20):
            keeper.send({"type": "say", "data": n})
            assert (await keeper.data())["data"] == n
        for client in clients[1:]:
            client.reset()
        async with asyncio.timeout(10):
            while True:
                late = await RawClient.open(port)
                clients.append(late)
                try:
                    await late.upgrade()
                    break
                except (ConnectionResetError, asyncio.IncompleteReadError):
                    await asyncio.sleep(0.01)
        late.send({"type": "say", "data": "late"})
        assert (await late.data())["data"] == "late"
        assert len(lines) < 200, "".join(lines[:50])
    finally:
        for client in clients:
            await client.end()
        process.send_signal(signal.SIGTERM)
        await process.wait()
        await listening
    assert process.returncode == 0, "".join(lines)


# --- 23 to 36: JSON ------------------------------------------------------------------------------------------

INVALID: dict[str, bytes] = {
    "23 NaN": b'{"type":"say","data":NaN}',
    "23 -Infinity": b'{"type":"say","data":-Infinity}',
    "23 1e999": b'{"type":"say","data":1e999}',
    "24 nesting of 30,000": b'{"type":"say","data":' + b"[" * 30_000 + b"]" * 30_000 + b"}",
    "24 nesting that never closes": b'{"type":"say","data":' + b"[" * 60_000,
    "25 depth 900": b'{"type":"say","data":' + b"[" * 900 + b"]" * 900 + b"}",
    "25 depth 65": b'{"type":"say","data":' + b"[" * 64 + b"]" * 64 + b"}",
    "26 an integer of 60,000 digits": b'{"type":"say","data":' + b"9" * 60_000 + b"}",
    "28 half of an escape in the data": b'{"type":"say","data":"\\ud80"}',
    "29 NUL in the type": b'{"type":"a\\u0000b"}',
    "29 an escape in the type": b'{"type":"a\\u001b[31m"}',
    "29 a newline in the type": b'{"type":"a\\nINFO fake"}',
    "29 a direction override in the type": b'{"type":"\\u202ename"}',
    "29 a direction override in the channel": b'{"type":"say","channel":"\\u202e"}',
    "29 a type of 256 characters": b'{"type":"' + b"x" * 256 + b'"}',
    "29 a channel of 256 characters": b'{"type":"say","channel":"' + b"x" * 256 + b'"}',
    "30 a byte order mark": b'\xef\xbb\xbf{"type":"say"}',
    "30 trailing text": b'{"type":"say"} and more',
    "30 two frames in one": b'{"type":"say"}{"type":"say"}',
    "30 nothing": b"",
    "30 a list": b"[]",
    "30 null": b"null",
    "30 a number as type": b'{"type":1}',
    "30 a number as channel": b'{"type":"say","channel":5}',
}


@pytest.mark.parametrize("payload", rows(INVALID))
async def test_an_invalid_frame_is_dropped_and_the_connection_lives(serve: Serve, payload: bytes) -> None:
    server = await serve(echo_room())
    async with bystander(server):
        client = await server.connect()
        client.send(text(payload), {"type": "say", "data": "next"})
        assert await client.data() == {"type": "said", "data": "next"}
        assert server.gateway.metrics.invalid_frames == 1


DATA: dict[str, tuple[str, str]] = {
    "25 depth 63": ("[" * 63 + "]" * 63, "[" * 63 + "]" * 63),
    "26 2^64": ("18446744073709551616", "18446744073709551616"),
    "26 2^53 + 1": ("9007199254740993", "9007199254740993"),
    "27 duplicate keys, the last one counts": ('{"a":1,"a":2}', '{"a":2}'),
    "28 lone surrogates": (r'["\ud800",{"\uDFFF":"\udc00\ud83d\ud83d\ude00\\ud800"}]', '["�",{"�":"��😀\\\\ud800"}]'),
    "29 control characters": (r'"\u0000\u001b\u202e"', '"\\u0000\\u001b\u202e"'),
    "32 dunder keys": (
        '{"__class__":1,"__proto__":{"x":1},"constructor":2}',
        '{"__class__":1,"__proto__":{"x":1},"constructor":2}',
    ),
    "32 format strings": (
        '["{0.__class__}","%(x)s","${jndi:ldap://x}","%s%n"]',
        '["{0.__class__}","%(x)s","${jndi:ldap://x}","%s%n"]',
    ),
    "34 zero": ("0", "0"),
    "34 empty string": ('""', '""'),
    "34 false": ("false", "false"),
    "34 null": ("null", "null"),
}


@pytest.mark.parametrize(("sent", "received"), rows(DATA))
async def test_data_is_only_data_and_arrives_as_it_is(serve: Serve, sent: str, received: str) -> None:
    server = await serve(echo_room())
    async with bystander(server):
        client = await server.connect()
        client.send(text(f'{{"type":"say","data":{sent}}}'))
        expected = f'{{"type":"event","channel":"default","data":{{"type":"said","data":{received}}}}}'
        assert (await client.text()).decode() == expected


@pytest.mark.threat(34)
async def test_absent_data_is_an_empty_object(serve: Serve) -> None:
    client = await (await serve(echo_room())).connect()
    client.send({"type": "say"})
    assert await client.data() == {"type": "said", "data": {}}


@pytest.mark.threat(27)
async def test_of_duplicate_envelope_keys_the_last_one_counts_everywhere(serve: Serve) -> None:
    client = await (await serve(echo_room())).connect()
    client.send(text('{"type":"ping","data":1,"type":"say","data":2}'), text('{"type":"say","type":"ping"}'))
    assert await client.text() == b'{"type":"pong"}', "a ping for the gateway, not a `say` for the room"
    assert await client.data() == {"type": "said", "data": 2}


@pytest.mark.threat(31)
async def test_a_frame_full_of_keys_costs_milliseconds(serve: Serve) -> None:
    payload = b'{"type":"say",' + b",".join(b'"%x":0' % n for n in range(7000)) + b"}"
    assert len(payload) <= LIMIT
    server = await serve(echo_room())
    client = await server.connect()
    client.send(text(payload))
    assert await client.data() == {"type": "said", "data": {}}


@pytest.mark.threat(33)
@pytest.mark.parametrize(
    "name", ["connect", "__init__", "__class__", "onConnect", "on_connect", "error", "pong", "event", "ack", "verani.x"]
)
async def test_only_registered_names_dispatch(serve: Serve, name: str) -> None:
    server = await serve(echo_room())
    async with bystander(server):
        client = await server.connect()
        client.send({"type": name, "id": 1, "data": {"type": "pong"}})
        assert await client.text() == b'{"type":"ack","id":1,"error":{"code":"not_found"}}'


@pytest.mark.threat(36)
async def test_pings_flow_at_a_thousand_a_second_past_a_sleeping_room(serve: Serve) -> None:
    server = await serve(echo_room(), hibernate_after=0.02, rate_limit=2000)
    client = await server.connect()
    await until(lambda: server.state("chat/default") == "asleep")
    client.send(PING * 1000)
    for _ in range(1000):
        assert await client.text() == b'{"type":"pong"}'
    assert server.state("chat/default") == "asleep"


# --- 37 to 43: names, rooms, channels, attachments -----------------------------------------------------------


@pytest.mark.threat(37)
@pytest.mark.parametrize(
    "room_id",
    [
        "a%0aINFO+fake",
        "a%0a",
        "%00",
        "..%2f..%2fetc",
        "%ff",
        "%e2%80%ae",
        "a" * 129,
        "a" * 5000,
        "%ed%a0%bd",
        "a%ff%25",
        "a%e2%80%8bb",
        "a%c2%adb",
        "a%e2%80%a8b",
        "%C3%A9" * 129,
        "a/b",
        "%2e%2e%2f",
    ],
)
async def test_a_room_id_that_may_not_pass_is_404_before_the_upgrade(serve: Serve, room_id: str) -> None:
    server = await serve(echo_room(websocket_path="/ws/{room}"))
    async with bystander(server, "/ws/lobby"):
        assert (await server.request(handshake(f"/ws/{room_id}"))).status == 404
        assert [status.name for status in server.gateway.rooms()] == ["chat/lobby"]


@pytest.mark.threat(37)
@pytest.mark.parametrize(
    "room_id", ["a", "A-z_0.9:@~", "a" * 128, "%61", "caf%c3%a9", "a%20b", "a+b", "%F0%9F%98%80", "%25ff", "%7Ba%7D"]
)
async def test_a_good_room_id_passes(serve: Serve, room_id: str) -> None:
    server = await serve(echo_room(websocket_path="/ws/{room}"))
    await server.connect(f"/ws/{room_id}")


@pytest.mark.threat(38)
async def test_many_rooms_of_one_user_sleep_and_are_forgotten(serve: Serve) -> None:
    server = await serve(echo_room(websocket_path="/ws/{room}"), hibernate_after=0.02)
    clients = [await server.connect(f"/ws/{n}?userId=ann") for n in range(200)]
    await until(lambda: len(server.gateway.rooms()) == 200)
    await until(lambda: all(status.state == "asleep" for status in server.gateway.rooms()))
    for client in clients:
        client.reset()
    await until(lambda: server.gateway.rooms() == [])


@pytest.mark.threat(29)
@pytest.mark.threat(39)
@pytest.mark.parametrize(
    "query",
    [
        "channels=" + ",".join(str(n) for n in range(129)),
        "channels=" + "x" * 256,
        "channels=a%0ab",
        "userId=" + "x" * 256,
        "userId=a%0aINFO",
        "userId=%e2%80%ae",
    ],
)
async def test_names_in_the_query_that_may_not_pass_are_400(serve: Serve, query: str) -> None:
    server = await serve(echo_room())
    async with bystander(server):
        response = await server.request(handshake(f"/ws?{query}"))
        assert (response.status, response.body) == (400, b'{"error":{"code":"invalid"}}')


@pytest.mark.threat(39)
async def test_a_room_that_authenticates_does_not_read_the_query(serve: Serve) -> None:
    room = echo_room(extract_meta=lambda request: ConnectionMeta(user_id="ann", client_id="1"))

    @room.on("who")
    def who(ctx: Any, data: Any) -> list[Any]:
        return [ctx.meta.user_id, ctx.meta.channels]

    client = await (await serve(room)).connect("/ws?userId=root&channels=admin")
    client.send({"type": "who", "id": 1})
    assert await client.text() == b'{"type":"ack","id":1,"data":["ann",["default"]]}'


class Profile(ConnectionMeta):
    """A meta with something to overflow."""

    note: str = ""
    tags: list[str] = []  # msgspec copies the default


@pytest.mark.threat(40)
async def test_a_meta_too_large_or_not_serialisable_fails_the_hook_and_the_old_one_stays(
    serve: Serve, clean_log: list[str]
) -> None:
    clean_log.append("a hook of chat/default failed")
    room: RoomDefinition[Profile, Any] = define_room("chat", meta=Profile)

    @room.on("set")
    def set_note(ctx: Any, data: Any) -> None:
        ctx.meta.note = "x" * 20_000 if data == "large" else object() if data == "object" else data

    @room.on("get")
    def get(ctx: Any, data: Any) -> str:
        return ctx.meta.note  # type: ignore[no-any-return]  # ctx is Any

    server = await serve(room, hibernate_after=0.02)
    client = await server.connect()
    client.send({"type": "set", "data": "first", "id": 1}, {"type": "set", "data": "large", "id": 2})
    client.send({"type": "set", "data": "object", "id": 3}, {"type": "get", "id": 4})
    assert await client.json() == {"type": "ack", "id": 1, "data": None}
    assert await client.json() == {"type": "ack", "id": 2, "error": {"code": "too_large"}}
    assert await client.json() == {"type": "ack", "id": 3, "error": {"code": "failed"}}
    assert await client.json() == {"type": "ack", "id": 4, "data": "first"}
    await until(lambda: server.state("chat/default") == "asleep")
    client.send({"type": "get", "id": 5})
    assert await client.json() == {"type": "ack", "id": 5, "data": "first"}


@pytest.mark.threat(40)
async def test_what_is_changed_in_a_meta_after_the_hook_is_not_stored(serve: Serve) -> None:
    kept: list[list[str]] = []
    room: RoomDefinition[Profile, Any] = define_room("chat", meta=Profile)

    @room.on("set")
    def set_tags(ctx: Any, data: Any) -> None:
        kept.append(["a"])
        ctx.meta.tags = kept[0]

    @room.on("get")
    def get(ctx: Any, data: Any) -> list[str]:
        return ctx.meta.tags  # type: ignore[no-any-return]  # ctx is Any

    server = await serve(room, hibernate_after=0.05)
    client = await server.connect()
    client.send({"type": "set", "id": 1})
    await client.json()
    kept[0].append("later")
    await until(lambda: server.state("chat/default") == "asleep")
    client.send({"type": "get", "id": 2})
    assert (await client.json())["data"] == ["a"]


_NONSENSE: list[Any] = [
    None,
    "ann",
    5,
    {"user_id": 1},
    {"user": "ann"},
    {"client_id": "1"},
    lambda kind: kind(user_id="ann"),
    Identity(None),  # type: ignore[arg-type]  # the nonsense that is tested
    ConnectionMeta(user_id=5, client_id="1"),  # type: ignore[arg-type]  # the nonsense that is tested
    ConnectionMeta(user_id="ann", client_id="1", channels=None),  # type: ignore[arg-type]  # as above
    ConnectionMeta(user_id="ann", client_id="1", channels="abc"),  # type: ignore[arg-type]  # as above
    ConnectionMeta(user_id="ann", client_id="1", channels=(5,)),  # type: ignore[arg-type]  # as above
]


@pytest.mark.parametrize("result", _NONSENSE)
async def test_an_extract_meta_that_returns_nonsense_is_500(serve: Serve, clean_log: list[str], result: object) -> None:
    clean_log.append("extract_meta")
    server = await serve(echo_room(extract_meta=lambda request: result))
    response = await server.request(handshake())
    assert (response.status, response.body) == (500, b'{"error":{"code":"failed"}}')


@pytest.mark.threat(41)
async def test_one_corrupt_attachment_costs_one_connection_and_not_the_room(serve: Serve, clean_log: list[str]) -> None:
    clean_log.append("connection closed: expected an attachment of 'chat'")
    server = await serve(echo_room(), hibernate_after=0.05)
    clients = [await server.connect() for _ in range(20)]
    for client in clients:
        await client.pinged()
    await until(lambda: server.state("chat/default") == "asleep")
    held = server.gateway.attachments.rooms["chat/default"].records
    next(iter(held.values())).attachment = b"\x02 from the future"
    clients[1].send({"type": "say", "data": "wake"})
    assert (await clients[0].closed()).code == 1011
    clients[0].send(close(1011))
    for client in clients[1:]:
        client.send({"type": "say", "data": "here"})
        while (await client.data())["data"] != "here":
            pass
    await until(lambda: len(held) == 19)


@pytest.mark.threat(43)
async def test_a_send_that_fails_during_a_broadcast_ends_in_one_on_disconnect(serve: Serve) -> None:
    gone: list[str] = []
    room = echo_room(on_disconnect=lambda ctx: gone.append(ctx.meta.user_id))
    room.on("shout")(lambda ctx, data: ctx.actor.broadcast("default", {"type": "shout"}))
    server = await serve(room)
    async with bystander(server) as other:
        client = await server.connect("/ws?userId=ann")
        await client.pinged()
        client.reset()
        other.send(*[{"type": "shout"}] * 10)
        for _ in range(10):
            assert (await other.data()) == {"type": "shout"}
        await until(lambda: gone)
        assert gone == ["ann"]


# --- hooks that misbehave ------------------------------------------------------------------------------------


async def _hang() -> None:
    await asyncio.Event().wait()


BAD_HOOKS: dict[str, Any] = {
    "raises": lambda: (_ for _ in ()).throw(RuntimeError("secret")),
    "exits": lambda: sys.exit(3),
    "interrupts": lambda: (_ for _ in ()).throw(KeyboardInterrupt()),
    "cancels": lambda: (_ for _ in ()).throw(asyncio.CancelledError()),
    "exhausts the stack": lambda: BAD_HOOKS["exhausts the stack"](),
    "hangs": _hang,
}


@pytest.mark.parametrize("bad", BAD_HOOKS.values(), ids=BAD_HOOKS.keys())
@pytest.mark.parametrize("where", ["handler", "on_connect", "on_disconnect", "on_hibernate", "on_error"])
async def test_a_hook_that_misbehaves_hurts_nobody_else(
    serve: Serve, clean_log: list[str], bad: Any, where: str
) -> None:
    clean_log.append("a hook of chat/default failed")
    errors: list[BaseException] = []

    def hook(ctx: Any) -> Any:
        return bad() if ctx.meta.user_id == "bad" else None

    room = echo_room()
    if where == "on_error":

        @room.on_error
        def on_error(error: BaseException, ctx: Any) -> Any:
            errors.append(error)
            return bad()
    else:
        room.on_error(lambda error, ctx: errors.append(error))
    if where == "on_connect":
        room.on_connect(hook)
    elif where == "on_disconnect":
        room.on_disconnect(hook)
    elif where == "on_hibernate":
        room.on_hibernate(lambda actor: bad() if not errors else None)

    @room.on("bad")
    def misbehave(ctx: Any, data: Any) -> Any:
        if where == "on_error":
            raise RuntimeError("for on_error")
        return bad() if where == "handler" else None

    server = await serve(room, hook_timeout=0.1, hibernate_after=0.1 if where == "on_hibernate" else 10.0)
    async with bystander(server):
        client = await server.connect("/ws?userId=bad")
        client.send({"type": "bad"}, close(1000))
        await client.rest()
        await until(lambda: errors)


@pytest.mark.parametrize("error", [RuntimeError("secret"), SystemExit(3), KeyboardInterrupt()])
async def test_a_spawned_task_that_fails_reaches_on_error_and_hurts_nobody_else(
    serve: Serve, clean_log: list[str], error: BaseException
) -> None:
    clean_log.append("a hook of chat/default failed")
    errors: list[BaseException] = []
    room = echo_room(on_error=lambda error, ctx: errors.append(error))

    async def fail() -> None:
        raise error

    room.on("spawn")(lambda ctx, data: ctx.actor.spawn(fail()) and None)
    server = await serve(room)
    async with bystander(server):
        client = await server.connect()
        client.send({"type": "spawn"})
        await until(lambda: errors)


async def test_a_hook_that_swallows_its_cancellation_is_abandoned_and_the_room_goes_on(
    serve: Serve, clean_log: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("verani.engine.hook_runner.CANCEL_GRACE", 0.05)
    clean_log.append("a hook of chat/default failed: HookTimeout")
    clean_log.append("awaitable abandoned")
    goes_on = asyncio.Event()
    room = echo_room()

    @room.on("stubborn")
    async def stubborn(ctx: Any, data: Any) -> None:
        while not goes_on.is_set():
            try:
                await goes_on.wait()
            except asyncio.CancelledError:
                continue
        ctx.emit("never seen")

    server = await serve(room, hook_timeout=0.05)
    async with bystander(server):
        client = await server.connect()
        client.send({"type": "stubborn", "id": 1}, {"type": "say", "data": "after"})
        assert await client.text() == b'{"type":"ack","id":1,"error":{"code":"deadline"}}'
        assert await client.data() == {"type": "said", "data": "after"}
        goes_on.set()
        client.send({"type": "say", "data": "last"})
        assert await client.data() == {"type": "said", "data": "last"}


async def test_a_hook_that_blocks_the_loop_is_logged_with_its_stack(
    serve: Serve, clean_log: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    clean_log.append("the event loop has been blocked")
    room = echo_room()

    @room.on("block")
    def block(ctx: Any, data: Any) -> None:
        reported = time.monotonic() + 10
        while (
            not any("event loop has been blocked" in line for line in caplog.messages) and time.monotonic() < reported
        ):
            time.sleep(0.01)

    server = await serve(room, hook_blocked=0.05)
    async with bystander(server):
        client = await server.connect()
        with caplog.at_level(logging.ERROR):
            client.send({"type": "block"}, {"type": "say", "data": 1})
            assert await client.data() == {"type": "said", "data": 1}
    blocked = [line for line in caplog.messages if "event loop has been blocked" in line]
    assert "(block)" in blocked[0]


@pytest.mark.parametrize("result", [object(), {"a": object()}, lambda: None, {1: {2, 3}}, b"\xff", float("nan")])
async def test_a_handler_may_return_nonsense(serve: Serve, clean_log: list[str], result: object) -> None:
    clean_log.append("a hook of chat/default failed")
    room = echo_room()
    room.on("nonsense")(lambda ctx, data: result)
    server = await serve(room)
    async with bystander(server):
        client = await server.connect()
        client.send({"type": "nonsense", "id": 1}, {"type": "nonsense"}, {"type": "say", "data": 1})
        assert (await client.json())["type"] == "ack"
        assert await client.data() == {"type": "said", "data": 1}


@pytest.mark.threat(29)
async def test_text_of_clients_never_breaks_a_log_line(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    server = await serve(echo_room())
    with caplog.at_level(logging.DEBUG):
        client = await server.connect()
        client.send(text(b'{"type":"a\\nfake"}'), text(b'{"type":5,"x":"%s%n{0}"}'), close(1000, b"a\nfake"))
        await client.rest()
        await until(lambda: not server.gateway.connections)
    assert not [line for line in caplog.messages if "\n" in line]


async def test_a_reset_in_every_phase_leaves_no_trace(serve: Serve) -> None:
    server = await serve(echo_room())
    async with bystander(server):
        for data in (b"", handshake()[:50], handshake(), handshake() + PING, handshake() + text(b"{")[:3]):
            client = await server.tcp()
            client.writer.write(data)
            await client.flush()
            client.reset()
        closing = await server.connect()
        closing.send(close(1000))
        closing.reset()
        await until(lambda: len(server.gateway.connections) == 1)
        await until(lambda: server.gateway.entrance.taken == 1)


async def test_a_client_that_leaves_while_it_is_identified_never_connects(serve: Serve) -> None:
    goes_on, asked = asyncio.Event(), asyncio.Event()
    connects: list[Any] = []

    async def identify(request: Any) -> ConnectionMeta:
        asked.set()
        await goes_on.wait()
        return ConnectionMeta(user_id="ann", client_id="1")

    server = await serve(define_room("chat", extract_meta=identify, on_connect=connects.append))
    client = await server.tcp()
    client.writer.write(handshake())
    await asked.wait()
    assert server.gateway.entrance.taken == 1, "an open handshake counts towards the caps"
    client.reset()
    http = server.runner.server
    assert http is not None
    await until(lambda: all(each.transport is None for each in http.connections))
    goes_on.set()
    await until(lambda: server.gateway.entrance.taken == 0)
    assert (connects, server.gateway.rooms()) == ([], [])


async def test_a_peer_that_closes_but_never_reads_is_dropped_after_a_while(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(closing_module, "CLOSE_TIMEOUT", 0.05)
    room = echo_room()
    room.on("fill")(lambda ctx, data: [ctx.emit("x", {"x": "x" * 60_000}) for _ in range(100)] and None)
    server = await serve(room, max_send_buffer=32 << 20)
    client = await server.connect(receive_buffer=4096)
    client.send({"type": "fill"})
    await until(lambda: server.gateway.connections)
    (connection,) = server.gateway.connections.values()
    await until(lambda: connection.outbox.unsent > 1 << 20)
    client.send(close(1000))
    await until(lambda: not server.gateway.connections)
    await until(lambda: connection.outbox._transport.get_write_buffer_size() == 0)
    assert connection.outbox._transport.is_closing()


def test_the_raw_client_resets() -> None:
    """What these tests call a reset is one: the peer reads ECONNRESET, not an end."""
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as client:
        client.connect(listener.getsockname())
        peer, _ = listener.accept()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
        with peer, pytest.raises(ConnectionResetError):
            peer.recv(1)

"""Speak HTTP and WebSocket byte by byte, as no client library would: what a test sends and sees is what travels.

Nothing here checks a server; it only frames, masks and reads. Every wait has a bound, so a server that stays
silent fails a test and never hangs it.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

__all__ = ["KEY", "PATIENCE", "Opcode", "RawClient", "Response", "WireFrame", "frame", "handshake", "until"]

# Seconds after which something that should happen counts as not happening.
PATIENCE = 30.0

# The key and its answer are the example of RFC 6455 1.3.
KEY = "dGhlIHNhbXBsZSBub25jZQ=="
ACCEPT = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="

_MASK = bytes.fromhex("37fa213d")


class Opcode:
    """RFC 6455 5.2."""

    CONTINUATION = 0
    TEXT = 1
    BINARY = 2
    CLOSE = 8
    PING = 9
    PONG = 10


def frame(
    opcode: int,
    payload: bytes = b"",
    *,
    fin: bool = True,
    rsv: int = 0,
    mask: bool = True,
    length: int | None = None,
) -> bytes:
    """Build one client frame; `length` declares another length than that of the payload."""
    size = len(payload) if length is None else length
    head = bytes([(0x80 if fin else 0) | rsv << 4 | opcode])
    flag = 0x80 if mask else 0
    if size < 126:
        head += bytes([flag | size])
    elif size < 65536:
        head += struct.pack("!BH", flag | 126, size)
    else:
        head += struct.pack("!BQ", flag | 127, size)
    if not mask:
        return head + payload
    repeated = (_MASK * (len(payload) // 4 + 1))[: len(payload)]
    masked = (int.from_bytes(payload, "big") ^ int.from_bytes(repeated, "big")).to_bytes(len(payload), "big")
    return head + _MASK + masked


def text(payload: object) -> bytes:
    """Build a text frame of bytes, of a string, or of anything as JSON."""
    if isinstance(payload, str):
        payload = payload.encode()
    return frame(Opcode.TEXT, payload if isinstance(payload, bytes) else json.dumps(payload).encode())


def close(code: int | None = None, reason: bytes = b"") -> bytes:
    """Build a close frame, empty without a code."""
    return frame(Opcode.CLOSE, b"" if code is None else struct.pack("!H", code) + reason)


def handshake(path: str = "/ws", *, drop: tuple[str, ...] = (), **headers: str) -> bytes:
    """Build an upgrade request; keyword `Sec_WebSocket_Key` means that header, `drop` leaves some out."""
    lines = {
        "Host": "localhost",
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": KEY,
        **{name.replace("_", "-"): value for name, value in headers.items()},
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items() if name not in drop)
    return f"GET {path} HTTP/1.1\r\n{head}\r\n".encode("latin-1")


async def until(condition: Callable[[], object], what: str = "") -> None:
    """Let the loop run until a condition holds."""
    async with asyncio.timeout(PATIENCE):
        pause = 0.001
        while not condition():  # what is waited for has no event of its own
            await asyncio.sleep(pause)
            pause = min(2 * pause, 0.01)  # who waits for long must not keep a core busy
    assert condition(), what


@dataclass(frozen=True, slots=True)
class WireFrame:
    """One frame of the server, and the very bytes of it."""

    opcode: int
    payload: bytes
    raw: bytes

    @property
    def code(self) -> int | None:
        """The code of a close frame, None for an empty one."""
        return struct.unpack("!H", self.payload[:2])[0] if self.payload else None


@dataclass(frozen=True, slots=True)
class Response:
    """What came back to a request: status, headers by lower-case name, body."""

    status: int
    headers: dict[str, str]
    body: bytes


class RawClient:
    """One TCP connection, with or without a WebSocket on it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def open(cls, port: int, *, receive_buffer: int | None = None) -> RawClient:
        """Connect to a port of this machine; a small receive buffer makes a client that is soon full."""
        # With its protocol named, asyncio has it send at once, and not when what was sent before is acknowledged.
        raw = socket.socket(proto=socket.IPPROTO_TCP)
        if receive_buffer is not None:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        raw.setblocking(False)
        await asyncio.get_running_loop().sock_connect(raw, ("127.0.0.1", port))
        limit = 1 << 16 if receive_buffer is None else 1 << 10
        return cls(*await asyncio.open_connection(sock=raw, limit=limit))

    # --- HTTP ------------------------------------------------------------------------------------------

    async def request(self, data: bytes) -> Response:
        """Send a request, or an upgrade, and read the response."""
        self.writer.write(data)
        async with asyncio.timeout(PATIENCE):
            status, *lines = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").rstrip().split("\r\n")
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
            body = await self.reader.readexactly(int(headers.get("content-length", 0)))
        return Response(int(status.split(" ")[1]), headers, body)

    async def upgrade(self, path: str = "/ws", *, together: bytes = b"", **headers: str) -> Response:
        """Become a WebSocket; `together` is sent in the same packet as the handshake."""
        response = await self.request(handshake(path, drop=(), **headers) + together)
        assert response.status == 101, response
        return response

    # --- WebSocket -------------------------------------------------------------------------------------

    def send(self, *frames: object) -> None:
        """Send frames in one write: bytes as they are, anything else as a text frame of JSON."""
        self.writer.write(b"".join(each if isinstance(each, bytes) else text(each) for each in frames))

    async def flush(self) -> None:
        """Wait until the kernel has taken what was sent."""
        async with asyncio.timeout(PATIENCE):
            await self.writer.drain()

    async def receive(self) -> WireFrame:
        """Read one frame."""
        async with asyncio.timeout(PATIENCE):
            raw = await self.reader.readexactly(2)
            assert raw[0] & 0x80, "the server never fragments"
            assert not raw[0] & 0x70, "the server negotiated no extension"
            assert not raw[1] & 0x80, "the server never masks"
            size = raw[1]
            if size > 125:
                extended = await self.reader.readexactly(2 if size == 126 else 8)
                raw, size = raw + extended, int.from_bytes(extended, "big")
            payload = await self.reader.readexactly(size)
        return WireFrame(raw[0] & 0x0F, payload, raw + payload)

    async def text(self) -> bytes:
        """Read a text frame."""
        received = await self.receive()
        assert received.opcode == Opcode.TEXT, received
        return received.payload

    async def json(self) -> Any:
        """Read a text frame as JSON."""
        return json.loads(await self.text())

    async def data(self) -> Any:
        """Read an event frame and return its data."""
        return (await self.json())["data"]

    async def closed(self) -> WireFrame:
        """Read on to the close frame and return it."""
        while (received := await self.receive()).opcode != Opcode.CLOSE:
            pass
        return received

    async def pinged(self) -> None:
        """Ping, and read on to the pong: everything sent before has been read by the gateway."""
        self.send(b"" + text('{"type":"ping"}'))
        while await self.text() != b'{"type":"pong"}':
            pass

    async def rest(self) -> bytes:
        """Read to the end of the connection; a reset ends it too."""
        async with asyncio.timeout(PATIENCE):
            try:
                return await self.reader.read()
            except ConnectionResetError:
                return b""

    def reset(self) -> None:
        """Drop the connection with a RST, as a peer does that crashed."""
        raw = self.writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def end(self) -> None:
        """Close the TCP connection."""
        self.writer.close()
        with suppress(ConnectionResetError, BrokenPipeError):
            await self.writer.wait_closed()

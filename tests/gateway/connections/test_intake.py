"""What is read of a WebSocket: a text that comes alone passes no parser, and everything else aiohttp's."""

from __future__ import annotations

import asyncio
import random
import struct
from typing import Any

import pytest
from aiohttp import WSMsgType, web

from tests.raw import Opcode, frame, text
from verani_gateway.connections.intake import Intake
from verani_gateway.connections.rate import Turns
from verani_gateway.inputs.metrics import Metrics

MOST = 300


class Reader:
    """Reads what an intake has read, and notes which texts came alone; or takes none of those."""

    def __init__(self, *, alone: bool) -> None:
        handler = web.Server(_refuse)()
        handler.connection_made(_Transport())
        turns = Turns(asyncio.get_running_loop(), 1)
        self.read: list[tuple[Any, Any]] = []
        self.alone = 0
        self._takes = alone
        self.intake = Intake.install(handler, turns, MOST, lambda: None, Metrics())
        handler.connection_lost(None)  # which ends its task
        self.intake.reader = self

    def arrived(self, text: bytearray | None) -> bool:
        if text is not None:
            if self._takes:
                self.alone += 1
                self.read.append((WSMsgType.TEXT, bytes(text)))
            return self._takes
        messages = self.intake.messages
        for message, size in messages.arrived:
            error = message.type is WSMsgType.ERROR
            self.read.append((message.type, message.data.code if error else message.data))
            messages.size -= size
        messages.arrived.clear()
        return True

    def feed(self, data: bytes) -> None:
        """Have the intake read this, as an event loop does."""
        buffer = self.intake.get_buffer(-1)
        buffer[: len(data)] = data
        self.intake.buffer_updated(len(data))


class _Transport(asyncio.Transport):
    def get_protocol(self) -> asyncio.BaseProtocol:
        return asyncio.Protocol()

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None: ...

    def is_reading(self) -> bool:
        return True

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def close(self) -> None: ...


async def _refuse(_: web.BaseRequest) -> web.StreamResponse:
    raise AssertionError("nobody asks")


def _broken(chance: random.Random) -> bytes:
    """Make a frame that is refused."""
    return chance.choice(
        [
            b"\x81\x03abc",  # without a mask
            frame(3, b"{}"),
            b"\xf1" + text(b"{}")[1:],
            text(b"x" * (MOST + 1)),
            frame(Opcode.CONTINUATION, b""),
        ]
    )


def _stream(chance: random.Random) -> list[bytes]:
    """Make frames as clients send them, mostly alone, and sometimes such as nobody may send."""
    frames: list[bytes] = []
    for _ in range(60):
        payload = chance.randbytes(chance.choice([0, 1, 5, 124, 125, 126, 127, 200, MOST]))
        kind = chance.random()
        if kind < 0.6:
            frames.append(text(payload))
        elif kind < 0.7:
            frames.append(frame(Opcode.BINARY, payload))
        elif kind < 0.8:
            frames.append(frame(Opcode.PING, payload[:125]))
        elif kind < 0.97:
            frames.append(frame(Opcode.TEXT, payload[:50], fin=False))
            if chance.random() < 0.5:
                frames.append(frame(Opcode.PING, b"between"))
            if chance.random() < 0.95:
                frames.append(frame(Opcode.CONTINUATION, payload[50:100]))
        else:
            frames.append(_broken(chance))
    return frames


def _reads(chance: random.Random, frames: list[bytes]) -> list[bytes]:
    """Cut a stream as the network may: mostly a frame at a time, sometimes several, or parts of one."""
    reads: list[bytes] = []
    for each in frames:
        if reads and chance.random() < 0.2:
            reads[-1] += each
        elif len(each) > 1 and chance.random() < 0.2:
            cut = chance.randrange(1, len(each))
            reads += [each[:cut], each[cut:]]
        else:
            reads.append(each)
    return reads


@pytest.mark.parametrize("seed", range(40))
async def test_texts_that_come_alone_are_read_as_a_parser_reads_them(seed: int) -> None:
    chance = random.Random(seed)
    short, reference = Reader(alone=True), Reader(alone=False)
    for each in [text(b"first"), *_reads(chance, _stream(chance))]:
        short.feed(each)
        reference.feed(each)
    assert short.read == reference.read
    assert short.alone
    assert not reference.alone


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, MOST])
async def test_a_text_that_comes_alone_passes_no_parser(size: int) -> None:
    reader = Reader(alone=True)
    reader.feed(text(b"x" * size))
    assert (reader.read, reader.alone) == ([(WSMsgType.TEXT, b"x" * size)], 1)


@pytest.mark.parametrize(
    "before",
    [
        frame(Opcode.TEXT, b"{", fin=False),  # in a message of fragments
        text(b"{}")[:1],  # in a header
        text(b"{}")[:7],  # in a payload
        b"\xf1" + text(b"{}")[1:],  # after what ends the connection
        b"\x81\x02{}",
    ],
)
async def test_a_text_is_not_alone_where_something_is_open_or_has_failed(before: bytes) -> None:
    reader, reference = Reader(alone=True), Reader(alone=False)
    for each in (before, text(b"{}"), text(b"{}")):
        reader.feed(each)
        reference.feed(each)
    assert (reader.read, reader.alone) == (reference.read, 0)


async def test_what_an_earlier_read_has_left_in_the_buffer_is_not_read_again() -> None:
    reader = Reader(alone=True)
    reader.feed(text(b"x" * 100))
    reader.feed(b"\x81")
    assert reader.alone == 1
    # A header without a mask, and less than it says: as long as a masked one that is complete.
    other = Reader(alone=True)
    other.feed(struct.pack("!BB", 0x81, 4 + 122) + b"\0\0")
    assert (other.alone, [kind for kind, _ in other.read]) == (0, [WSMsgType.ERROR])


async def test_two_frames_are_not_taken_for_a_longer_one_whose_length_their_mask_happens_to_be() -> None:
    short, reference = Reader(alone=True), Reader(alone=False)
    size = 6 + 120 + 6 + 10
    mask = struct.pack("!HH", size - 8, 0)
    first = b"\x81" + bytes([0x80 | 120]) + mask + b"x" * 120
    for each in (short, reference):
        each.feed(first + b"\x81" + bytes([0x80 | 10]) + bytes(4) + b"y" * 10)
    assert short.read == reference.read
    assert len(short.read) == 2


async def test_where_messages_may_be_compressed_each_header_is_looked_at() -> None:
    reader = Reader(alone=True)
    reader.intake.expect_compressed()
    reader.feed(text(b"{}"))
    reader.feed(text(b"{}"))
    assert (reader.alone, reader.intake.headers.compressed) == (0, [False, False])

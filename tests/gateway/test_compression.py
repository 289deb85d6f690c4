"""Messages compressed by permessage-deflate, as bytes on a socket and as aiohttp's client speaks it."""

from __future__ import annotations

import json
import zlib
from typing import Any, Final

import aiohttp
import pytest

from tests.raw import Opcode, RawClient, close, frame, text
from tests.server import Serve, Server
from verani import Context, define_room
from verani_gateway.connections.deflate import deflated
from verani_gateway.connections.outbox import deflated_frame, text_frame

OFFER: Final = "permessage-deflate; client_max_window_bits"
RSV1: Final = 4
TAIL: Final = b"\0\0\xff\xff"


def echo_room() -> Any:
    room = define_room("chat")

    @room.on("say")
    def say(ctx: Context[Any, Any], data: Any) -> None:
        ctx.emit("said", {"text": data})

    @room.on("all")
    def everybody(ctx: Context[Any, Any], data: Any) -> None:
        ctx.actor.broadcast("default", {"type": "said", "text": data})

    @room.on("size")
    def size(ctx: Context[Any, Any], data: Any) -> int:
        return len(data)

    return room


def squeezed(payload: bytes) -> bytes:
    compressor = zlib.compressobj(9, zlib.DEFLATED, -15)
    return (compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH)).removesuffix(TAIL)


def said(event: str, data: Any, **more: Any) -> bytes:
    return json.dumps({"type": event, "data": data, **more}).encode()


async def join(server: Server, *, deflates: bool = True) -> RawClient:
    client = await server.tcp()
    response = await client.upgrade("/ws", Sec_WebSocket_Extensions=OFFER if deflates else "x-other")
    expected = "permessage-deflate; server_no_context_takeover; client_no_context_takeover" if deflates else None
    assert response.headers.get("sec-websocket-extensions") == expected
    return client


async def received(client: RawClient) -> tuple[bool, int, bytes]:
    """Read a frame: whether it is compressed, its size on the wire, and what it says."""
    head = await client.reader.readexactly(2)
    size = head[1]
    if size > 125:
        size = int.from_bytes(await client.reader.readexactly(2 if size == 126 else 8), "big")
    payload = await client.reader.readexactly(size)
    is_compressed = head[0] == 0xC1
    assert is_compressed or head[0] == 0x81
    return is_compressed, size, zlib.decompressobj(-15).decompress(payload + TAIL) if is_compressed else payload


async def test_what_is_long_is_compressed_and_what_is_short_is_not(serve: Serve) -> None:
    client = await join(await serve(echo_room(), compression=True, compression_min_bytes=200))
    long = "long " * 1000
    client.send(text(said("say", long)), text(said("say", "short")))
    is_compressed, size, payload = await received(client)
    assert json.loads(payload)["data"]["text"] == long
    assert is_compressed
    assert size < 200
    is_compressed, _, payload = await received(client)
    assert json.loads(payload)["data"]["text"] == "short"
    assert not is_compressed


def test_what_gets_no_smaller_is_sent_as_it_is() -> None:
    assert deflated_frame(bytes(range(256)), 1) == text_frame(bytes(range(256)))
    assert deflated_frame(bytes(256), 1)[0] == 0xC1
    assert deflated_frame(bytes(256), 257) == text_frame(bytes(256))


async def test_compressed_messages_are_read_whole_or_in_fragments_among_plain_ones_and_pings(serve: Serve) -> None:
    client = await join(await serve(echo_room(), compression=True))
    one, two = squeezed(said("say", "one" * 50)), squeezed(said("say", "two"))
    client.send(
        frame(Opcode.TEXT, one, rsv=RSV1),
        text(said("say", "plain")),
        frame(Opcode.TEXT, two[:3], rsv=RSV1, fin=False),
        frame(Opcode.PING, b"in between"),
        frame(Opcode.CONTINUATION, two[3:]),
        text(said("say", "last")),
    )
    frames = [await client.receive() for _ in range(5)]
    assert [each.payload for each in frames if each.opcode == Opcode.PONG] == [b"in between"]
    heard = [json.loads(each.payload)["data"]["text"] for each in frames if each.opcode == Opcode.TEXT]
    assert heard == ["one" * 50, "plain", "two", "last"]


async def test_bytes_that_come_one_by_one_are_the_same_messages(serve: Serve) -> None:
    client = await join(await serve(echo_room(), compression=True))
    for byte in frame(Opcode.TEXT, squeezed(said("say", "slow" * 100)), rsv=RSV1) + text(said("say", "plain")):
        client.send(bytes([byte]))
        await client.flush()
    assert json.loads((await received(client))[2])["data"]["text"] == "slow" * 100
    assert json.loads((await received(client))[2])["data"]["text"] == "plain"


async def test_a_broadcast_is_compressed_once_for_all_and_plain_for_whom_did_not_offer(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    compressed = list[bytes]()

    def counted(payload: bytes) -> bytes:
        compressed.append(payload)
        return deflated(payload)

    monkeypatch.setattr("verani_gateway.connections.outbox.deflated", counted)
    server = await serve(echo_room(), compression=True, compression_min_bytes=100)
    members = [await join(server, deflates=number % 2 == 0) for number in range(6)]
    for member in members:
        member.send(text(said("say", "here")))
        await received(member)
    members[0].send(text(said("all", "everybody " * 100)))
    heard = [await received(member) for member in members]
    assert len({payload for _, _, payload in heard}) == 1
    assert [is_compressed for is_compressed, _, _ in heard] == [True, False] * 3
    assert len(compressed) == 1


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        (squeezed(b'{"type":"say","data":"' + bytes([65]) * (1 << 20) + b'"}'), 1009),
        (b"\xff" * 20, 1007),
        (squeezed(b"\xff\xfe"), 1007),
    ],
    ids=["a bomb", "what is not compressed", "what is no UTF-8"],
)
async def test_what_cannot_be_decompressed_within_the_limit_ends_that_connection_alone(
    serve: Serve, payload: bytes, code: int
) -> None:
    server = await serve(echo_room(), compression=True)
    client, other = await join(server), await join(server)
    client.send(text(said("say", "before")))
    assert json.loads((await received(client))[2])["data"]["text"] == "before"
    client.send(frame(Opcode.TEXT, payload, rsv=RSV1), text(said("say", "after")))
    head = await client.reader.readexactly(4)
    assert (head[0], int.from_bytes(head[2:], "big")) == (0x88, code)
    other.send(text(said("say", "still here")))
    assert json.loads((await received(other))[2])["data"]["text"] == "still here"


@pytest.mark.parametrize(
    "wrong",
    [
        frame(Opcode.PING, b"", rsv=RSV1),
        frame(Opcode.TEXT, b"x", rsv=RSV1, fin=False) + frame(Opcode.CONTINUATION, b"x", rsv=RSV1),
        frame(Opcode.TEXT, b"x", rsv=2),
        frame(Opcode.TEXT, squeezed(b"{}"), rsv=RSV1, mask=False),
    ],
    ids=["a compressed ping", "a compressed rest", "another bit", "no mask"],
)
async def test_bits_where_they_have_no_meaning_are_a_violation(serve: Serve, wrong: bytes) -> None:
    client = await join(await serve(echo_room(), compression=True))
    client.send(wrong)
    assert int.from_bytes((await client.closed()).payload[:2], "big") == 1002


async def test_without_the_setting_nothing_is_offered_and_nothing_compressed_is_taken(serve: Serve) -> None:
    server = await serve(echo_room())
    client = await server.tcp()
    assert "sec-websocket-extensions" not in (await client.upgrade("/ws", Sec_WebSocket_Extensions=OFFER)).headers
    client.send(frame(Opcode.TEXT, squeezed(said("say", "x")), rsv=RSV1))
    assert int.from_bytes((await client.closed()).payload[:2], "big") == 1002


async def test_a_client_library_understands_it_in_both_directions(serve: Serve) -> None:
    server = await serve(echo_room(), compression=True, rate_limit=0)
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(f"http://127.0.0.1:{server.port}/ws", compress=15) as ws,
    ):
        assert ws.compress == 15
        for number in range(50):
            await ws.send_str(said("say", f"{number} " * 2000).decode())
        for number in range(50):
            assert (await ws.receive_json())["data"]["text"] == f"{number} " * 2000


async def test_frames_of_a_megabyte_in_a_few_bytes_are_refused_without_being_made(serve: Serve) -> None:
    """What a message inflates to is limited, not only what it is."""
    server = await serve(echo_room(), compression=True, max_frame_bytes=1 << 16)
    client = await join(server)
    fits = said("size", "x" * 60_000, id=1)
    client.send(frame(Opcode.TEXT, squeezed(fits), rsv=RSV1))
    assert json.loads((await received(client))[2])["data"] == 60_000
    client.send(close(1000))
    assert (await client.closed()).payload[:2] == (1000).to_bytes(2, "big")

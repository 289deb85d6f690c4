"""The wire protocol, byte for byte, over real sockets: what the original client sees, and what it would trip over."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.raw import ACCEPT, Opcode, close, frame, handshake, text, until
from tests.server import Serve, Server
from verani.errors import Forbidden, RateLimited, Unauthorized
from verani.room.definition import RoomDefinition, define_room
from verani.room.meta import ConnectionMeta
from verani.room.request import ConnectRequest

Room = RoomDefinition[Any, Any]

PING = text('{"type":"ping"}')
PONG_FRAME = b'\x81\x0f{"type":"pong"}'


def echo_room(**options: Any) -> Room:
    """Make a room that answers `say` with what it got."""
    room = define_room("chat", **options)

    @room.on("say")
    def say(ctx: Any, data: Any) -> None:
        ctx.emit("said", data)

    return room


# --- connecting (1 to 5) -------------------------------------------------------------------------------------


@pytest.mark.threat(4)
async def test_the_handshake_answers_neither_a_foreign_subprotocol_nor_compression(serve: Serve) -> None:
    server = await serve(echo_room())
    client = await server.tcp()
    response = await client.request(
        handshake(
            Sec_WebSocket_Protocol="chat, superchat",
            Sec_WebSocket_Extensions="permessage-deflate; client_max_window_bits",
        )
    )
    assert response.status == 101
    assert response.headers["sec-websocket-accept"] == ACCEPT
    assert "sec-websocket-protocol" not in response.headers
    assert "sec-websocket-extensions" not in response.headers
    client.send({"type": "say", "data": {"text": "hi"}})
    assert await client.text() == b'{"type":"event","channel":"default","data":{"type":"said","text":"hi"}}'


async def test_the_server_says_nothing_on_open(serve: Serve) -> None:
    server = await serve(echo_room())
    client = await server.connect()
    client.send(PING)
    assert (await client.receive()).raw == PONG_FRAME


async def test_only_the_configured_path_is_a_websocket(serve: Serve) -> None:
    server = await serve(echo_room(websocket_path="/chat"))
    for path in ("/ws", "/chat/", "/chat/x", "/", "/Chat"):
        assert (await server.request(handshake(path))).status == 404, path
    await server.connect("/chat")


async def test_plain_http_on_the_websocket_path_is_told_to_upgrade(serve: Serve) -> None:
    server = await serve(echo_room())
    client = await server.tcp()
    response = await client.request(b"GET /ws HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert (response.status, response.body) == (426, b'{"error":{"code":"upgrade_required"}}')
    assert response.headers["upgrade"] == "websocket"
    assert response.headers["content-type"].startswith("application/json")
    assert await client.rest() == b"", "a connection whose upgrade failed is over"


@pytest.mark.parametrize(
    ("query", "channels"),
    [
        ("", ["default"]),
        ("?channels=", ["default"]),
        ("?channels=%20,,%20", ["default"]),
        ("?channels=a,%20b%20,,a", ["a", "b"]),
    ],
)
async def test_channels_of_the_query_are_trimmed_and_never_empty(serve: Serve, query: str, channels: list[str]) -> None:
    room = define_room("chat")

    @room.on("which")
    def which(ctx: Any, data: Any) -> None:
        ctx.emit("these", {"channels": ctx.meta.channels, "user": ctx.meta.user_id})

    client = await (await serve(room)).connect("/ws" + (f"{query}&userId=ann" if query else "?userId=ann"))
    client.send({"type": "which"})
    assert await client.data() == {"type": "these", "channels": channels, "user": "ann"}


@pytest.mark.parametrize(
    ("path", "template", "room_id"),
    [
        ("/ws", "/ws", "default"),
        ("/ws?roomId=b", "/ws", "b"),
        ("/ws?roomId=b&room=a", "/ws", "a"),
        ("/ws/lobby?room=a", "/ws/{room}", "lobby"),
        ("/ws/K%C3%B6ln%20%7B1%7D%2B50%25", "/ws/{room}", "Köln {1}+50%"),
        ("/ws?room=K%C3%B6ln+%7B1%7D%2B50%25", "/ws", "Köln {1}+50%"),
    ],
)
async def test_the_room_comes_from_the_path_then_from_the_query(
    serve: Serve, path: str, template: str, room_id: str
) -> None:
    server = await serve(echo_room(websocket_path=template))
    await server.connect(path)
    assert [status.name for status in server.gateway.rooms()] == [f"chat/{room_id}"]


@pytest.mark.threat(21)
async def test_frames_in_the_packet_of_the_handshake_wait_for_on_connect_and_none_is_dropped(serve: Serve) -> None:
    seen: list[Any] = []
    goes_on = asyncio.Event()
    room = define_room("chat")

    @room.on_connect
    async def on_connect(ctx: Any) -> None:
        seen.append("connecting")
        await goes_on.wait()
        seen.append("connected")

    @room.on("n")
    def n(ctx: Any, data: Any) -> None:
        seen.append(data)
        ctx.emit("got", {"n": data})

    server = await serve(room)
    client = await server.connect(together=b"".join(text({"type": "n", "data": n}) for n in range(5)) + PING)
    assert (await client.receive()).raw == PONG_FRAME, "a ping overtakes the frames that wait"
    await until(lambda: seen)
    client.send(PING)
    assert (await client.receive()).raw == PONG_FRAME
    assert seen == ["connecting"]
    goes_on.set()
    assert [(await client.data())["n"] for _ in range(5)] == [0, 1, 2, 3, 4]
    assert seen == ["connecting", "connected", 0, 1, 2, 3, 4]


def _refusing(error: BaseException) -> Room:
    def refuse(request: ConnectRequest) -> ConnectionMeta:
        raise error

    return define_room("chat", extract_meta=refuse)


@pytest.mark.parametrize(
    ("error", "status", "body"),
    [
        (Unauthorized("the token is old"), 401, b'{"error":{"code":"unauthorized"}}'),
        (Forbidden("not you"), 403, b'{"error":{"code":"forbidden"}}'),
        (Forbidden("a secret", public="Not you"), 403, b'{"error":{"code":"forbidden","message":"Not you"}}'),
        (RuntimeError("secret"), 500, b'{"error":{"code":"failed"}}'),
        (SystemExit("secret"), 500, b'{"error":{"code":"failed"}}'),
        (asyncio.CancelledError("stray"), 500, b'{"error":{"code":"failed"}}'),
    ],
)
async def test_a_refusal_is_an_http_status_before_the_upgrade_and_keeps_its_reason(
    serve: Serve, clean_log: list[str], error: BaseException, status: int, body: bytes
) -> None:
    clean_log.append("extract_meta or name_from_request of chat failed")
    server = await serve(_refusing(error))
    response = await server.request(handshake())
    assert (response.status, response.body) == (status, body)
    assert response.headers["content-type"].startswith("application/json")
    assert server.gateway.rooms() == []
    assert (await server.request(handshake("/health"))).status == 200


async def test_a_refusal_says_when_to_try_again(serve: Serve) -> None:
    server = await serve(_refusing(RateLimited(retry_after=7)))
    response = await server.request(handshake())
    assert (response.status, response.headers["retry-after"]) == (429, "7")
    assert response.body == b'{"error":{"code":"rate_limited"}}'


async def test_an_extract_meta_that_hangs_ends_at_the_time_budget(serve: Serve, clean_log: list[str]) -> None:
    clean_log.append("extract_meta or name_from_request of chat")

    async def hang(request: ConnectRequest) -> ConnectionMeta:
        await asyncio.Event().wait()
        raise AssertionError

    server = await serve(define_room("chat", extract_meta=hang), hook_timeout=0.05)
    response = await server.request(handshake())
    assert (response.status, response.body) == (500, b'{"error":{"code":"failed"}}')


@pytest.mark.threat(42)
async def test_a_second_connection_of_a_client_id_is_refused_with_409_where_the_room_rejects_it(serve: Serve) -> None:
    room = define_room(
        "chat", same_client="reject", extract_meta=lambda request: ConnectionMeta(user_id="ann", client_id="tab")
    )
    server = await serve(room)
    first = await server.connect()
    response = await server.request(handshake())
    assert (response.status, response.body) == (409, b'{"error":{"code":"conflict"}}')
    await first.end()
    await until(lambda: not server.gateway.connections)
    await server.connect()


@pytest.mark.threat(42)
async def test_a_second_connection_of_a_client_id_replaces_the_first_with_4009(serve: Serve) -> None:
    room = define_room("chat", extract_meta=lambda request: ConnectionMeta(user_id="ann", client_id="tab"))
    counts: list[int] = []

    @room.on("count")
    def count(ctx: Any, data: Any) -> int:
        counts.append(ctx.actor.get_session_count())
        return counts[-1]

    server = await serve(room)
    first = await server.connect()
    second = await server.connect()
    assert (await first.closed()).code == 4009
    second.send({"type": "count", "id": 1})
    assert await second.text() == b'{"type":"ack","id":1,"data":1}'


@pytest.mark.threat(16)
async def test_the_caps_answer_503_and_429_with_retry_after(serve: Serve) -> None:
    for settings, status, code in (
        ({"max_connections": 1}, 503, "busy"),
        ({"max_connections_per_room": 1}, 503, "busy"),
        ({"max_connections_per_address": 1}, 429, "rate_limited"),
    ):
        server = await serve(echo_room(), **settings)
        first = await server.connect()
        response = await server.request(handshake())
        assert (response.status, response.body) == (status, b'{"error":{"code":"%b"}}' % code.encode())
        assert int(response.headers["retry-after"]) >= 1
        first.send(PING)
        assert (await first.receive()).raw == PONG_FRAME
        await first.end()
        await until(lambda server=server: not server.gateway.connections)  # type: ignore[misc]  # mypy has no types for defaults
        await server.connect()


# --- frames (6 to 12) ----------------------------------------------------------------------------------------


async def test_every_way_to_send_has_its_exact_bytes(serve: Serve) -> None:
    room = define_room("chat", extract_meta=lambda r: ConnectionMeta(user_id="ann", client_id="1", channels=("c", "d")))

    @room.on("all")
    def all_forms(ctx: Any, data: Any) -> None:
        actor = ctx.actor
        ctx.emit("e", {"b": 1, "a": 2})
        ctx.emit("e")
        ctx.emit("e", [1, 2])
        ctx.emit("e", "text")
        ctx.emit("e", None)
        ctx.emit("e", {"n": float("nan"), "i": float("-inf")})
        assert actor.broadcast("d", {"type": "t", "x": 1}) == 1
        assert actor.broadcast("d", [1]) == 1
        assert actor.broadcast("nowhere", {}) == 0
        assert actor.send_to_user("ann", "d", {"x": None}) == 1
        assert actor.send_to_user("ann", "nowhere", {}) == 0
        assert actor.send_to_user("bob", "d", {}) == 0
        assert actor.emit_to_user("ann", "u", {"x": 1}) == 1
        assert ctx.to_user("ann").emit("u") == 1
        assert actor.emit_to_channel("d", "ec", {"x": 1}) == 1
        assert ctx.to_channel("d").emit("excludes the sender") == 0

    client = await (await serve(room)).connect()
    client.send({"type": "all"})
    assert [await client.text() for _ in range(12)] == [
        b'{"type":"event","channel":"c","data":{"type":"e","b":1,"a":2}}',
        b'{"type":"event","channel":"c","data":{"type":"e"}}',
        b'{"type":"event","channel":"c","data":{"type":"e","value":[1,2]}}',
        b'{"type":"event","channel":"c","data":{"type":"e","value":"text"}}',
        b'{"type":"event","channel":"c","data":{"type":"e","value":null}}',
        b'{"type":"event","channel":"c","data":{"type":"e","n":null,"i":null}}',
        b'{"type":"event","channel":"d","data":{"type":"t","x":1}}',
        b'{"type":"event","channel":"d","data":[1]}',
        b'{"type":"event","channel":"d","data":{"x":null}}',
        b'{"type":"event","channel":"default","data":{"type":"u","x":1}}',
        b'{"type":"event","channel":"default","data":{"type":"u"}}',
        b'{"type":"event","channel":"d","data":{"type":"ec","x":1}}',
    ]


async def test_a_connection_in_no_channel_is_emitted_to_on_default(serve: Serve) -> None:
    room = define_room("chat")

    @room.on("leave")
    def leave(ctx: Any, data: Any) -> None:
        ctx.leave("default")
        ctx.emit("left")

    client = await (await serve(room)).connect()
    client.send({"type": "leave"})
    assert await client.text() == b'{"type":"event","channel":"default","data":{"type":"left"}}'


async def test_to_channel_reaches_the_others_and_emit_to_channel_everybody(serve: Serve) -> None:
    room = define_room("chat")

    @room.on("go")
    def go(ctx: Any, data: Any) -> list[int]:
        return [ctx.to_channel("default").emit("others"), ctx.actor.emit_to_channel("default", "all")]

    server = await serve(room)
    first, second = await server.connect(), await server.connect()
    await second.pinged()
    first.send({"type": "go", "id": 1})
    assert await first.data() == {"type": "all"}
    assert await first.text() == b'{"type":"ack","id":1,"data":[1,2]}'
    assert [(await second.data())["type"] for _ in range(2)] == ["others", "all"]


async def test_a_room_without_handlers_gets_frames_in_on_message_and_absent_data_as_an_empty_object(
    serve: Serve,
) -> None:
    room = define_room("chat")

    @room.on_message
    def on_message(ctx: Any, frame: Any) -> list[Any]:
        return [frame.type, frame.data, frame.channel]

    client = await (await serve(room)).connect()
    client.send({"type": "a", "id": 1}, {"type": "b", "data": None, "channel": "c", "id": 2, "extra": [1]})
    assert await client.text() == b'{"type":"ack","id":1,"data":["a",{},null]}'
    assert await client.text() == b'{"type":"ack","id":2,"data":["b",null,"c"]}'


@pytest.mark.threat(34)
@pytest.mark.parametrize("data", ["0", '""', "false", "null", "[]", '"x"', "{}"])
async def test_data_arrives_as_it_was_sent_even_if_it_is_false(serve: Serve, data: str) -> None:
    room = define_room("chat")

    @room.on("same")
    def same(ctx: Any, data: Any) -> Any:
        return [data]

    client = await (await serve(room)).connect()
    client.send(text(f'{{"type":"same","id":9,"data":{data}}}'))
    assert await client.text() == b'{"type":"ack","id":9,"data":[%b]}' % data.encode()


async def test_acks_have_their_exact_bytes_and_the_order_of_their_frames(serve: Serve, clean_log: list[str]) -> None:
    room = define_room("chat")

    @room.on("first")
    def first(ctx: Any, data: Any) -> None:
        return None

    @room.on("first")
    def second(ctx: Any, data: Any) -> str:
        return "second"

    @room.on("nothing")
    async def nothing(ctx: Any, data: Any) -> None:
        await asyncio.sleep(0)

    @room.on("raises")
    def raises(ctx: Any, data: Any) -> None:
        raise ValueError("secret")

    @room.on("typed")
    def typed(ctx: Any, data: dict[str, int]) -> int:
        return data["n"]

    clean_log.append("a hook of chat/default failed: ValueError")
    client = await (await serve(room)).connect()
    client.send(
        {"type": "nothing", "id": 1},
        {"type": "first", "id": 2**53 - 1},
        {"type": "unknown", "id": 3},
        {"type": "typed", "id": 4, "data": {"n": "x"}},
        {"type": "typed", "id": 5, "data": {"n": 5}},
        {"type": "verani.anything", "id": 6},
        {"type": "nothing"},
        {"type": "raises", "id": 7},
    )
    assert [await client.text() for _ in range(7)] == [
        b'{"type":"ack","id":1,"data":null}',
        b'{"type":"ack","id":9007199254740991,"data":"second"}',
        b'{"type":"ack","id":3,"error":{"code":"not_found"}}',
        b'{"type":"ack","id":4,"error":{"code":"invalid","path":"$[...]"}}',
        b'{"type":"ack","id":5,"data":5}',
        b'{"type":"ack","id":6,"error":{"code":"not_found"}}',
        b'{"type":"ack","id":7,"error":{"code":"failed"}}',
    ]


@pytest.mark.threat(30)
@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"null",
        b"[]",
        b'"ping"',
        b"5",
        b"{",
        b"{}",
        b'{"type":1}',
        b'{"type":null}',
        b'{"type":"n","channel":5}',
        b'{"type":"n"} x',
        b'\xef\xbb\xbf{"type":"n"}',
        b'{"type":"n","id":0}',
        b'{"type":"n","id":-1}',
        b'{"type":"n","id":1.5}',
        b'{"type":"n","id":"1"}',
        b'{"type":"n","id":9007199254740992}',
        b'{"type":"n","data":}',
        b'{"type":"n","data":NaN}',
        b"{'type':'n'}",
    ],
)
async def test_what_is_no_frame_is_dropped_counted_and_never_answered(serve: Serve, payload: bytes) -> None:
    server = await serve(echo_room())
    client = await server.connect()
    client.send(text(payload), {"type": "say", "data": {"n": 1}})
    assert await client.data() == {"type": "said", "n": 1}
    assert server.gateway.metrics.invalid_frames == 1


async def test_a_payload_only_the_room_can_refuse_counts_as_an_invalid_frame_too(serve: Serve) -> None:
    server = await serve(echo_room(), max_invalid_frames=3)
    client = await server.connect()
    client.send(text(b'{"type":"say","data":1e999}'), {"type": "say", "data": {"n": 1}})
    assert await client.data() == {"type": "said", "n": 1}
    assert server.gateway.metrics.invalid_frames == 1
    client.send(text(b'{"type":"say","data":1e999}'), text(b'{"type":"say","data":1e999}'))
    assert (await client.receive()).code == 1008


LEGAL_BUT_TOO_MUCH = (
    *(b"1e999", b"-1e999", b"9" * 5000, b"[" * 64 + b"]" * 64),
    *(b"[" * 30_000 + b"]" * 30_000, b'{"a":[' * 3000 + b"0" + b"]}" * 3000),
)


@pytest.mark.parametrize("data", LEGAL_BUT_TOO_MUCH)
async def test_a_request_whose_data_is_legal_json_and_too_much_is_answered_in_turn_and_never_closes(
    serve: Serve, data: bytes
) -> None:
    server = await serve(echo_room(), max_invalid_frames=3)
    client = await server.connect()
    for n in range(1, 20, 3):
        client.send(
            text(b'{"type":"say","id":%d}' % n),
            text(b'{"id":%d,"type":"say","data":%b}' % (n + 1, data)),
            text(b'{"type":"say","data":%b,"id":%d}' % (data, n + 2)),
        )
        assert await client.data() == {"type": "said"}
        assert await client.text() == b'{"type":"ack","id":%d,"data":null}' % n
        for id in (n + 1, n + 2):
            assert await client.text() == b'{"type":"ack","id":%d,"error":{"code":"invalid"}}' % id
    assert server.gateway.metrics.invalid_frames == 0
    client.send(text(b'{"type":"say","channel":null,"id":null,"data":{"n":1}}'))
    assert await client.data() == {"type": "said", "n": 1}


async def test_the_half_emoji_of_a_browser_is_answered_and_never_closes(serve: Serve) -> None:
    server = await serve(echo_room(), max_invalid_frames=3)
    client = await server.connect()
    for n in range(1, 20):
        client.send(text(b'{"type":"say","data":{"text":"hi \\ud83d"},"id":%d}' % n))
        assert await client.data() == {"type": "said", "text": "hi \ufffd"}
        assert await client.text() == b'{"type":"ack","id":%d,"data":null}' % n
    assert server.gateway.metrics.invalid_frames == 0


@pytest.mark.threat(9)
async def test_a_binary_frame_is_an_invalid_frame(serve: Serve) -> None:
    server = await serve(echo_room())
    client = await server.connect()
    client.send(frame(Opcode.BINARY, b'{"type":"say","data":{}}'), PING)
    assert (await client.receive()).raw == PONG_FRAME
    assert server.gateway.metrics.invalid_frames == 1


async def test_the_sixteenth_invalid_frame_closes_with_1008_and_the_reason(serve: Serve) -> None:
    server = await serve(echo_room())
    client = await server.connect()
    client.send(*[text(b"{}")] * 15, PING)
    assert (await client.receive()).raw == PONG_FRAME
    client.send(text(b"{}"), {"type": "say", "data": {"never": 1}})
    assert (await client.receive()).raw == b"\x88\x19\x03\xf0too many invalid frames"
    assert server.gateway.metrics.invalid_frames == 16


async def test_zero_means_that_invalid_frames_never_close(serve: Serve) -> None:
    server = await serve(echo_room(), max_invalid_frames=0, rate_limit=0)
    client = await server.connect()
    client.send(*[text(b"{}")] * 1000, PING)
    assert (await client.receive()).raw == PONG_FRAME
    assert server.gateway.metrics.invalid_frames == 1000


# --- keepalive (13, 14) --------------------------------------------------------------------------------------


async def test_any_valid_frame_of_type_ping_gets_exactly_the_pong_and_reaches_no_hook(serve: Serve) -> None:
    seen: list[str] = []
    room = define_room("chat")
    room.on("*")(lambda ctx, data: seen.append(ctx.frame.type))
    room.on_message(lambda ctx, frame: seen.append(frame.type))
    server = await serve(room)
    client = await server.connect()
    pings: list[dict[str, Any]] = [
        {"type": "ping"},
        {"type": "ping", "data": {"t": 1}},
        {"type": "ping", "data": None, "channel": "c"},
        {"type": "ping", "extra": True},
        {"id": 5, "type": "ping"},
    ]
    for ping in pings:
        client.send(ping)
        assert (await client.receive()).raw == PONG_FRAME
    client.send({"type": "pong"}, PING)
    assert (await client.receive()).raw == PONG_FRAME
    await until(lambda: seen)
    assert seen == ["pong"]


async def test_a_websocket_ping_gets_its_payload_back(serve: Serve) -> None:
    client = await (await serve(echo_room())).connect()
    client.send(frame(Opcode.PING, b""), frame(Opcode.PING, b"x" * 125))
    assert (await client.receive()).raw == b"\x8a\x00"
    assert (await client.receive()).raw == b"\x8a\x7d" + b"x" * 125


async def test_a_silent_peer_is_pinged_and_kept_while_it_answers(serve: Serve) -> None:
    server = await serve(echo_room(), ping_interval=0.05, pong_timeout=5.0)
    client = await server.connect()
    for _ in range(3):
        assert (await client.receive()).raw == b"\x89\x00"
        client.send(frame(Opcode.PONG))
    client.send({"type": "say", "data": {}})
    while (received := await client.receive()).opcode == Opcode.PING:
        pass
    assert received.opcode == Opcode.TEXT


async def test_a_ping_is_answered_while_a_hook_hangs(serve: Serve) -> None:
    goes_on = asyncio.Event()
    entered = asyncio.Event()
    room = define_room("chat")

    @room.on("hang")
    async def hang(ctx: Any, data: Any) -> None:
        entered.set()
        await goes_on.wait()
        ctx.emit("done")

    client = await (await serve(room)).connect()
    client.send({"type": "hang"})
    await entered.wait()
    client.send(PING)
    assert (await client.receive()).raw == PONG_FRAME
    goes_on.set()
    assert await client.data() == {"type": "done"}


# --- closing (15) --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [1000, 1001, 1003, 1007, 1011, 1014, 3000, 4999])
async def test_a_close_code_is_echoed_and_reaches_on_disconnect(serve: Serve, code: int) -> None:
    closes: list[tuple[int | None, str]] = []
    room = define_room("chat", on_disconnect=lambda ctx: closes.append((ctx.close_code, ctx.close_reason)))
    client = await (await serve(room)).connect()
    client.send(close(code, "grüße".encode()))
    assert (await client.receive()).raw == b"\x88\x02" + code.to_bytes(2, "big")
    assert await client.rest() == b""
    await until(lambda: closes)
    assert closes == [(code, "grüße")]


async def test_a_close_without_a_code_is_echoed_without_one(serve: Serve) -> None:
    closes: list[int | None] = []
    room = define_room("chat", on_disconnect=lambda ctx: closes.append(ctx.close_code))
    client = await (await serve(room)).connect()
    client.send(close())
    assert (await client.receive()).raw == b"\x88\x00"
    assert await client.rest() == b""
    await until(lambda: closes)
    assert closes == [1005]


@pytest.mark.threat(7)
@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 1016, 2000, 2999, 5000, 65535])
async def test_a_close_code_that_may_not_travel_is_answered_with_1002(serve: Serve, code: int) -> None:
    closes: list[int | None] = []
    room = define_room("chat", on_disconnect=lambda ctx: closes.append(ctx.close_code))
    client = await (await serve(room)).connect()
    client.send(close(code))
    assert (await client.receive()).raw == b"\x88\x02\x03\xea"
    assert await client.rest() == b""
    await client.end()
    await until(lambda: closes)
    assert closes == [1002]


@pytest.mark.parametrize("lose", ["reset", "end"])
async def test_a_lost_connection_is_1006_to_on_disconnect(serve: Serve, lose: str) -> None:
    closes: list[int | None] = []
    room = define_room("chat", on_disconnect=lambda ctx: closes.append(ctx.close_code))
    client = await (await serve(room)).connect()
    await client.pinged()
    if lose == "reset":
        client.reset()
    else:
        await client.end()
    await until(lambda: closes)
    assert closes == [1006]


@pytest.mark.parametrize(("code", "reason"), [(1000, ""), (1008, "spam"), (4001, "bye"), (4999, "ü" * 61)])
async def test_a_kick_has_its_code_and_reason_after_what_was_sent_before(serve: Serve, code: int, reason: str) -> None:
    closes: list[tuple[int | None, str]] = []
    room = define_room("chat", on_disconnect=lambda ctx: closes.append((ctx.close_code, ctx.close_reason)))

    @room.on("kick")
    def kick(ctx: Any, data: Any) -> None:
        ctx.emit("last words")
        assert ctx.close(code, reason)
        assert ctx.emit("too late") == 0
        assert ctx.actor.get_session_count() == 0

    client = await (await serve(room)).connect()
    client.send({"type": "kick"}, {"type": "kick"})
    assert await client.data() == {"type": "last words"}
    assert (await client.receive()).payload == code.to_bytes(2, "big") + reason.encode()
    client.send(close(code))
    assert await client.rest() == b""
    await until(lambda: closes)
    assert closes == [(code, reason)]


async def test_a_failing_on_connect_closes_with_1011_and_runs_no_on_disconnect(
    serve: Serve, clean_log: list[str]
) -> None:
    clean_log.append("a hook of chat/default failed: RuntimeError")
    seen: list[str] = []
    room = define_room("chat", on_disconnect=lambda ctx: seen.append("disconnect"))
    room.on("*")(lambda ctx, data: seen.append("frame"))
    room.on_error(lambda error, ctx: seen.append(str(error)))

    @room.on_connect
    def on_connect(ctx: Any) -> None:
        raise RuntimeError("no")

    server = await serve(room)
    client = await server.connect(together=text({"type": "queued"}))
    assert (await client.receive()).raw == b"\x88\x02\x03\xf3"
    client.send(close(1011))
    assert await client.rest() == b""
    await until(lambda: not server.gateway.connections)
    await server.stop()
    assert seen == ["no"]


async def test_a_connection_that_on_connect_refused_runs_no_on_disconnect_after_a_sleep_either(
    serve: Serve, clean_log: list[str]
) -> None:
    clean_log.append("a hook of chat/default failed: RuntimeError")
    seen: list[str] = []
    room = define_room("chat", on_disconnect=lambda ctx: seen.append("disconnect"))

    @room.on_connect
    def on_connect(ctx: Any) -> None:
        raise RuntimeError("no")

    server = await serve(room, hibernate_after=0.02)
    client = await server.connect()
    assert (await client.receive()).code == 1011
    await _asleep(server)
    client.send(close(1011))
    await until(lambda: not server.gateway.rooms())
    assert seen == []


async def test_a_stop_closes_with_1012(serve: Serve) -> None:
    server = await serve(echo_room())
    client = await server.connect()
    stopping = asyncio.create_task(server.stop())
    received = await client.closed()
    assert received.payload == b"\x03\xf4service restart"
    client.send(close(1012))
    await stopping
    assert await client.rest() == b""


async def test_nothing_follows_the_close_frame(serve: Serve) -> None:
    room = define_room("chat")

    @room.on("kick all")
    def kick_all(ctx: Any, data: Any) -> None:
        for session in ctx.actor:
            ctx.actor.close(session, 4000)
        ctx.actor.broadcast("default", {"type": "too late"})

    client = await (await serve(room)).connect()
    client.send({"type": "kick all"}, PING, frame(Opcode.PING, b"x"))
    await client.closed()
    client.send(PING, frame(Opcode.PING, b"y"), {"type": "kick all"}, text(b"{}"), close(4000))
    assert await client.rest() == b""


# --- faults of the original (F1 to F10) ----------------------------------------------------------------------


def _sleepy_room(seen: list[Any]) -> Room:
    room = echo_room(
        on_connect=lambda ctx: seen.append(("connect", ctx.actor.get_session_count())),
        on_disconnect=lambda ctx: seen.append(("disconnect", ctx.meta.user_id, ctx.close_code)),
        on_hibernate=lambda actor: seen.append("sleep"),
        on_hibernation_restore=lambda actor: seen.append("restore"),
    )

    @room.on("join")
    def join(ctx: Any, data: Any) -> None:
        ctx.join(data)
        ctx.emit("joined")

    return room


async def _asleep(server: Server) -> None:
    await until(lambda: server.state("chat/default") == "asleep")


async def test_the_first_message_after_hibernation_wakes_the_room_and_is_handled(serve: Serve) -> None:
    seen: list[Any] = []
    server = await serve(_sleepy_room(seen), hibernate_after=0.02)
    client = await server.connect()
    await _asleep(server)
    client.send({"type": "say", "data": {"n": 1}})
    assert await client.data() == {"type": "said", "n": 1}
    assert seen[:3] == [("connect", 1), "sleep", "restore"]


async def test_pings_neither_wake_a_room_nor_keep_it_awake(serve: Serve) -> None:
    seen: list[Any] = []
    server = await serve(_sleepy_room(seen), hibernate_after=0.1, rate_limit=0)
    client = await server.connect()
    async with asyncio.timeout(10):
        while server.state("chat/default") != "asleep":
            await client.pinged()
    for _ in range(20):
        await client.pinged()
        assert server.state("chat/default") == "asleep"
    assert seen == [("connect", 1), "sleep"]


async def test_a_close_while_asleep_runs_on_disconnect_with_the_right_meta(serve: Serve) -> None:
    seen: list[Any] = []
    server = await serve(_sleepy_room(seen), hibernate_after=0.02)
    client = await server.connect("/ws?userId=ann")
    await _asleep(server)
    client.send(close(1000))
    await client.rest()
    await until(lambda: len(seen) >= 4)
    assert seen[:4] == [("connect", 1), "sleep", "restore", ("disconnect", "ann", 1000)]
    await until(lambda: server.gateway.rooms() == [])


async def test_channels_joined_later_survive_hibernation(serve: Serve) -> None:
    seen: list[Any] = []
    room = _sleepy_room(seen)

    @room.on("shout")
    def shout(ctx: Any, data: Any) -> None:
        ctx.actor.broadcast("late", {"type": "shout"})

    server = await serve(room, hibernate_after=0.02)
    client = await server.connect()
    client.send({"type": "join", "data": "late"})
    assert await client.data() == {"type": "joined"}
    await _asleep(server)
    client.send({"type": "shout"})
    assert await client.text() == b'{"type":"event","channel":"late","data":{"type":"shout"}}'
    assert "restore" in seen


async def test_async_handlers_of_one_connection_do_not_overtake_each_other(serve: Serve) -> None:
    room = define_room("chat")
    release: list[asyncio.Event] = [asyncio.Event() for _ in range(3)]

    @room.on("n")
    async def n(ctx: Any, data: int) -> None:
        await release[data].wait()
        ctx.emit("done", {"n": data})

    client = await (await serve(room)).connect()
    client.send(*({"type": "n", "data": n} for n in range(3)))
    for event in reversed(release):
        event.set()
        await asyncio.sleep(0)
    assert [(await client.data())["n"] for _ in range(3)] == [0, 1, 2]


async def test_a_connect_that_wakes_the_room_sees_all_other_sessions(serve: Serve) -> None:
    seen: list[Any] = []
    server = await serve(_sleepy_room(seen), hibernate_after=0.02)
    first, second = await server.connect(), await server.connect()
    await first.pinged()
    await second.pinged()
    await _asleep(server)
    seen.clear()
    await server.connect()
    await until(lambda: len(seen) >= 2)
    assert seen[:2] == ["restore", ("connect", 3)]


async def test_a_synchronous_exception_reaches_on_error_and_no_client(serve: Serve, clean_log: list[str]) -> None:
    clean_log.append("a hook of chat/default failed: ZeroDivisionError")
    errors: list[BaseException] = []
    room = echo_room(on_error=lambda error, ctx: errors.append(error))

    @room.on("fail")
    def fail(ctx: Any, data: Any) -> None:
        raise ZeroDivisionError("secret")

    client = await (await serve(room)).connect()
    client.send({"type": "fail"}, {"type": "say", "data": {}})
    assert await client.text() == b'{"type":"event","channel":"default","data":{"type":"said"}}'
    assert [type(error) for error in errors] == [ZeroDivisionError]


async def test_a_refused_connection_never_opens(serve: Serve) -> None:
    connects: list[Any] = []
    room = _refusing(Unauthorized())
    room.on_connect(connects.append)
    server = await serve(room)
    assert (await server.request(handshake())).status == 401
    assert (connects, server.gateway.rooms()) == ([], [])


@pytest.mark.threat(63)
async def test_two_hundred_frames_sent_while_a_room_falls_asleep_are_handled_once_each_in_order(serve: Serve) -> None:
    got: list[int] = []
    sleeps: list[Any] = []
    room = define_room("chat", on_hibernate=sleeps.append)
    room.on("n")(lambda ctx, data: got.append(data))
    server = await serve(room, hibernate_after=0.001, rate_limit=0)
    client = await server.connect()
    for n in range(200):
        client.send({"type": "n", "data": n})
        if n % 10 == 9:
            await client.pinged()
            await until(lambda: server.state("chat/default") != "awake")
    await until(lambda: len(got) >= 200)
    assert got == list(range(200))
    assert len(sleeps) > 1

"""What is sent to whom, byte for byte, and how many that were."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest

from tests.verani.conftest import OpenRoom, Room, Sent
from verani import Context, TooLarge, define_room
from verani.engine.outputs import MAX_HOOK_OUTPUT, MAX_OUTPUT_FRAME
from verani.link.messages import Deliver, Drain


@dataclass
class Point:
    x: int


class Tagged(msgspec.Struct, tag="of-the-struct"):
    x: float


async def four(open_room: OpenRoom) -> Room:
    """A room of ann (a, b) and bob (c, d), of whom b and c are also in "news", at two gateways."""
    lobby = open_room(define_room("chat"))
    await lobby.connect("a", user="ann")
    await lobby.connect("b", user="ann", channels=("default", "news"))
    await lobby.connect("c", user="bob", channels=("news", "default"), gateway="g2")
    await lobby.connect("d", user="bob", gateway="g2")
    return lobby


def reached(lobby: Room) -> str:
    found = "".join(sorted(lobby.sink.received))
    lobby.sink.received.clear()
    return found


# --- frames --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "frame"),
    [
        ({"text": "hi", "n": 1}, b'{"type":"e","text":"hi","n":1}'),
        ({}, b'{"type":"e"}'),
        ("text", b'{"type":"e","value":"text"}'),
        ([1, 2], b'{"type":"e","value":[1,2]}'),
        (None, b'{"type":"e","value":null}'),
        (0, b'{"type":"e","value":0}'),
        (float("nan"), b'{"type":"e","value":null}'),
        ({"n": float("-inf")}, b'{"type":"e","n":null}'),
        (Point(1), b'{"type":"e","x":1}'),
        ({1: "é"}, '{"type":"e","1":"é"}'.encode()),
    ],
)
async def test_emit_spreads_an_object_beside_the_type_and_sends_anything_else_as_value(
    open_room: OpenRoom, data: object, frame: bytes
) -> None:
    room = define_room("chat")
    room.on("x")(lambda ctx, _: [ctx.emit("e", data), ctx.actor.emit_to_user("user-a", "e", data)])
    lobby = open_room(room)
    await lobby.connect("a")
    await lobby.frame("a", "x")
    assert lobby.received("a") == [b'{"type":"event","channel":"default","data":%b}' % frame] * 2


@pytest.mark.parametrize("data", [{"type": "circle"}, {"x": 1, "type": None}, Tagged(1.0)])
async def test_a_type_in_the_data_of_an_emit_is_an_error_that_names_the_way(open_room: OpenRoom, data: object) -> None:
    lobby = await four(open_room)
    actor = lobby.engine.actor
    context = Context(lobby.engine.room, lobby.engine.room.members.sessions["a"])
    emits: list[Callable[[], int]] = [
        lambda: actor.emit("shape", data),
        lambda: actor.emit_to_channel("news", "shape", data),
        lambda: actor.emit_to_user("user-a", "shape", data),
        lambda: context.emit("shape", data),
        lambda: context.to_channel("news").emit("shape", data),
        lambda: context.to_user("user-a").emit("shape", data),
    ]
    for emit in emits:
        with pytest.raises(ValueError, match=r"without a 'type'.*broadcast\(\) and send_to_user\(\)"):
            emit()
    told = "expected data without a type, which is the event's name; broadcast and send_to_user take one"
    for method, arguments in (("emit_to_channel", ["news", "shape"]), ("emit_to_user", ["user-a", "shape"])):
        outcome = await lobby.call(method, [*arguments, {"type": "circle"}])
        assert (outcome.code, outcome.path, outcome.public) == ("invalid", "$.data.type", told)
    assert lobby.received("a") == []
    assert actor.broadcast("default", data) > 0


async def test_emit_without_data_sends_the_type_alone(open_room: OpenRoom) -> None:
    lobby = await four(open_room)
    lobby.engine.actor.emit_to_channel("news", "e")
    assert lobby.received("b") == [b'{"type":"event","channel":"news","data":{"type":"e"}}']


@pytest.mark.parametrize(
    ("data", "body"),
    [
        ({"type": "t", "b": 1, "a": 2}, b'{"type":"t","b":1,"a":2}'),
        ("text", b'"text"'),
        (None, b"null"),
        (float("nan"), b"null"),
        (Point(1), b'{"x":1}'),
        (msgspec.Raw(b'{"ready":1}'), b'{"ready":1}'),
    ],
)
async def test_broadcast_and_send_to_user_send_data_unchanged(open_room: OpenRoom, data: object, body: bytes) -> None:
    lobby = await four(open_room)
    assert lobby.engine.actor.broadcast("news", data) == 2
    assert lobby.engine.actor.send_to_user("bob", "news", data) == 1
    assert lobby.received("c") == [b'{"type":"event","channel":"news","data":%b}' % body] * 2


async def test_data_is_encoded_in_the_call_so_a_later_mutation_is_not_seen(open_room: OpenRoom) -> None:
    lobby = await four(open_room)
    data = {"type": "t", "list": [1]}
    lobby.engine.actor.broadcast("news", data)
    data["list"] = "changed"
    assert lobby.data("b") == [{"type": "t", "list": [1]}]


async def test_ctx_emit_goes_to_the_connection_alone_on_its_first_channel(open_room: OpenRoom) -> None:
    room = define_room("chat")
    room.on("e")(lambda ctx, data: ctx.emit("e"))
    room.on("leave")(lambda ctx, data: ctx.leave(data))
    lobby = open_room(room)
    await lobby.connect("a", channels=("news", "default"))
    await lobby.connect("b", user="user-a")
    for event, data in [("e", 0), ("leave", "news"), ("e", 0), ("leave", "default"), ("e", 0)]:
        await lobby.frame("a", event, data)
    assert [frame["channel"] for frame in lobby.take("a")] == ["news", "default", "default"]
    assert lobby.received("b") == []


async def test_a_channel_name_is_encoded_as_json(open_room: OpenRoom) -> None:
    lobby = open_room(define_room("chat"))
    await lobby.connect("a", channels=('a"b\\é',))
    lobby.engine.actor.broadcast('a"b\\é', 1)
    assert lobby.take("a") == [{"type": "event", "channel": 'a"b\\é', "data": 1}]


# --- audiences and counts ------------------------------------------------------------------------------


async def test_broadcast_filters_are_anded_and_the_count_is_what_matched(open_room: OpenRoom) -> None:
    lobby = await four(open_room)
    broadcast = lobby.engine.actor.broadcast
    cases: list[tuple[str, dict[str, Any], str]] = [
        ("default", {}, "abcd"),
        ("news", {}, "bc"),
        ("nowhere", {}, ""),
        ("default", {"user_ids": ["ann"]}, "ab"),
        ("news", {"user_ids": ["ann"]}, "b"),
        ("default", {"user_ids": ["ann", "bob", "eve", "ann"]}, "abcd"),
        ("default", {"user_ids": []}, ""),
        ("default", {"client_ids": ["client-a", "client-d", "no", "client-a"]}, "ad"),
        ("news", {"client_ids": ["client-a", "client-c"]}, "c"),
        ("default", {"client_ids": []}, ""),
        ("default", {"user_ids": ["ann"], "client_ids": ["client-b", "client-c"]}, "b"),
        ("default", {"user_ids": iter(["ann"]), "client_ids": iter(["client-b"])}, "b"),
        ("default", {"user_ids": {"bob": 1}, "except_": "c"}, "d"),
        ("default", {"except_": "a"}, "bcd"),
        ("default", {"except_": ["a", "d", "nobody"]}, "bc"),
        ("default", {"except_": {"a"}}, "bcd"),
        ("default", {"except_": []}, "abcd"),
        ("news", {"except_": "a"}, "bc"),
        ("news", {"except_": ("a", "b", "c", "d")}, ""),
        ("default", {"client_ids": ["client-a", "client-b"], "except_": "a"}, "b"),
    ]
    for channel, filters, expected in cases:
        assert broadcast(channel, 1, **filters) == len(expected), (channel, filters)
        assert reached(lobby) == expected, (channel, filters)


async def test_except_takes_a_handle_a_session_an_id_or_an_iterable_of_these(open_room: OpenRoom) -> None:
    room, seen = define_room("chat"), list[Any]()

    @room.on("x")
    def handler(ctx: Context[Any, Any], data: Any) -> None:
        b = ctx.actor.sessions["b"]
        for except_ in (ctx.ws, ctx.ws.id, [ctx.ws, b], (ctx.ws, "b"), iter([b]), None):
            seen.append(ctx.actor.broadcast("default", 1, except_=except_))

    lobby = open_room(room)
    await lobby.connect("a", "b", "c")
    await lobby.frame("a", "x")
    assert seen == [2, 2, 1, 1, 2, 3]
    assert [len(lobby.received(connection)) for connection in "abc"] == [2, 3, 6]


@pytest.mark.parametrize("name", ["user_ids", "client_ids"])
async def test_a_bare_string_as_a_filter_is_a_type_error_before_anything_is_sent(
    open_room: OpenRoom, name: str
) -> None:
    lobby = await four(open_room)
    with pytest.raises(TypeError, match=rf"^{name}: .* write \['ann'\]$"):
        lobby.engine.actor.broadcast("default", 1, **{name: "ann"})
    assert reached(lobby) == ""


async def test_send_to_user_reaches_that_users_connections_in_the_channel(open_room: OpenRoom) -> None:
    lobby = await four(open_room)
    actor = lobby.engine.actor
    for user, channel, expected in [("ann", "default", "ab"), ("ann", "news", "b"), ("eve", "news", ""), ("", "x", "")]:
        assert actor.send_to_user(user, channel, 1) == len(expected)
        assert reached(lobby) == expected


async def test_emit_to_channel_excludes_nobody_and_emit_to_user_asks_for_no_channel(open_room: OpenRoom) -> None:
    room = define_room("chat")

    @room.on("x")
    def handler(ctx: Context[Any, Any], data: Any) -> list[int]:
        return [
            ctx.actor.emit_to_channel("news", "e"),
            ctx.actor.emit_to_user("ann", "e"),
            ctx.to_user("ann").emit("e", {"n": 1}),
            ctx.to_channel("news").emit("e", {"n": 2}),
            ctx.to_channel("default").emit("e"),
            ctx.actor.emit_to_user("eve", "e"),
            ctx.to_channel("nowhere").emit("e"),
        ]

    lobby = open_room(room)
    await lobby.connect("a", "b", user="ann", channels=("news",))
    assert await lobby.request("a", "x") == b'{"type":"ack","id":7,"data":[2,2,2,1,0,0,0]}'
    a, b = lobby.take("a"), lobby.take("b")
    assert [frame["channel"] for frame in b] == ["news", "default", "default", "news"]
    assert [frame.get("data") for frame in b] == [{"type": "e"}] * 2 + [{"type": "e", "n": 1}, {"type": "e", "n": 2}]
    assert [frame["type"] for frame in a] == ["event"] * 3 + ["ack"]


async def test_emit_of_the_actor_reaches_everybody_whatever_their_channels(open_room: OpenRoom) -> None:
    lobby = await four(open_room)
    await lobby.connect("e", channels=())
    await lobby.connect("f", channels=("elsewhere",), gateway="g2")
    assert lobby.engine.actor.emit("news", {"n": 1}) == 6
    assert {lobby.sink.received[name][-1] for name in "abcdef"} == {
        b'{"type":"event","channel":"default","data":{"type":"news","n":1}}'
    }
    assert reached(lobby) == "abcdef"


async def test_emit_of_the_actor_is_one_output_a_gateway_and_follows_those_who_come_and_go(open_room: OpenRoom) -> None:
    lobby = await four(open_room)
    before = len(lobby.sink.effects)
    for _ in range(2):
        lobby.engine.actor.emit("e")
    sent = [effect for effect in lobby.sink.effects[before:] if isinstance(effect, Sent)]
    assert [effect.gateway for effect in sent] == ["g1", "g2", "g1", "g2"]
    assert isinstance(sent[0].output, Deliver)
    assert isinstance(sent[2].output, Deliver)
    assert sent[0].output.connections is sent[2].output.connections, "picked once while nobody comes or goes"
    lobby.engine.actor.close("d")
    await lobby.close("a")
    await lobby.connect("e")
    lobby.sink.received.clear()
    assert lobby.engine.actor.emit("e") == 3
    assert reached(lobby) == "bce"


async def test_users_are_listed_once_in_first_seen_order(open_room: OpenRoom) -> None:
    lobby = open_room(define_room("chat"))
    users = lobby.engine.actor.get_connected_user_ids
    for connection, user in [("1", "cat"), ("2", "ann"), ("3", "cat"), ("4", "bob")]:
        await lobby.connect(connection, user=user)
    assert users() == ["cat", "ann", "bob"]
    await lobby.close("1")
    assert users() == ["ann", "cat", "bob"], "by the oldest session of each"
    await lobby.close("3")
    await lobby.connect("5", user="cat")
    assert users() == ["ann", "bob", "cat"]
    assert lobby.engine.actor.get_session_count() == 3


async def test_a_broadcast_is_one_output_a_gateway_and_the_same_audience_object_while_nobody_moves(
    open_room: OpenRoom,
) -> None:
    lobby = await four(open_room)
    before = len(lobby.sink.effects)
    for _ in range(2):
        lobby.engine.actor.broadcast("default", 1, except_="a")
    sent = [effect for effect in lobby.sink.effects[before:] if isinstance(effect, Sent)]
    assert [effect.gateway for effect in sent] == ["g1", "g2", "g1", "g2"]
    first, _, third, _ = (effect.output for effect in sent)
    assert isinstance(first, Deliver)
    assert isinstance(third, Deliver)
    assert first.connections is third.connections
    await lobby.close("b")
    lobby.engine.actor.broadcast("default", 1)
    assert lobby.sink.effects[-2] == Sent("g1", Deliver(("a",), b'{"type":"event","channel":"default","data":1}'), None)


# --- what is refused -----------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [object(), {"a": {1, object()}}, {(1, 2): 3}, 1j])
async def test_data_that_cannot_be_encoded_is_refused_where_it_is_sent(open_room: OpenRoom, data: object) -> None:
    lobby = await four(open_room)
    actor = lobby.engine.actor
    sends: list[Callable[[], int]] = [
        lambda: actor.broadcast("default", data),
        lambda: actor.emit("e", data),
        lambda: actor.emit_to_channel("default", "e", data),
        lambda: actor.emit_to_user("ann", "e", data),
    ]
    for send in sends:
        with pytest.raises((TypeError, UnicodeEncodeError)):
            send()
    assert reached(lobby) == ""


@pytest.mark.parametrize(
    ("name", "error"), [("", ValueError), ("a\nb", ValueError), ("x" * 256, ValueError), (5, TypeError)]
)
async def test_an_unfit_channel_or_event_name_is_refused(
    open_room: OpenRoom, name: Any, error: type[Exception]
) -> None:
    lobby = await four(open_room)
    actor = lobby.engine.actor
    sends: list[Callable[[], int]] = [
        lambda: actor.broadcast(name, 1),
        lambda: actor.send_to_user("ann", name, 1),
        lambda: actor.emit(name),
        lambda: actor.emit_to_channel(name, "e"),
        lambda: actor.emit_to_channel("default", name),
        lambda: actor.emit_to_user("ann", name),
    ]
    for send in sends:
        with pytest.raises(error, match="^(event|channel): expected"):
            send()


async def test_reserved_event_names_may_not_be_emitted(open_room: OpenRoom) -> None:
    lobby = await four(open_room)
    with pytest.raises(ValueError, match="reserved"):
        lobby.engine.actor.emit_to_channel("default", "verani.expiring")
    assert lobby.engine.actor.emit_to_channel("default", "verani") == 4


async def test_emitting_a_life_cycle_name_of_the_original_client_warns_once_and_is_sent(
    open_room: OpenRoom, caplog: pytest.LogCaptureFixture
) -> None:
    lobby = await four(open_room)
    for _ in range(2):
        assert lobby.engine.actor.emit_to_channel("news", "close") == 2
        assert lobby.engine.actor.emit_to_channel("news", "error") == 2
    assert [record.getMessage() for record in caplog.records] == [
        "event 'close' of room definition 'chat' collides with a life-cycle listener of the client"
    ]


async def test_a_frame_over_1_mib_is_refused_and_nothing_of_it_leaves(open_room: OpenRoom) -> None:
    lobby = await four(open_room)
    overhead = len(b'{"type":"event","channel":"default","data":""}')
    assert lobby.engine.actor.broadcast("default", "x" * (MAX_OUTPUT_FRAME - overhead)) == 4
    reached(lobby)
    with pytest.raises(TooLarge, match="at most 1048576 bytes, got 1048577"):
        lobby.engine.actor.broadcast("default", "x" * (MAX_OUTPUT_FRAME - overhead + 1))
    assert reached(lobby) == ""


async def test_one_hook_may_output_16_mib_and_what_was_refused_does_not_count(open_room: OpenRoom) -> None:
    room, seen = define_room("chat"), list[Any]()
    big = msgspec.Raw(b'"%b"' % (b"x" * (MAX_OUTPUT_FRAME - 100)))

    @room.on("x")
    def handler(ctx: Context[Any, Any], data: Any) -> None:
        for _ in range(MAX_HOOK_OUTPUT // MAX_OUTPUT_FRAME):
            ctx.actor.broadcast("default", big)
        with pytest.raises(TooLarge, match="16777216 bytes of output in one hook"):
            ctx.actor.broadcast("default", big)
        seen.append(ctx.emit("still", "fits"))
        ctx.actor.broadcast("default", big)

    room.on_error(lambda error, ctx: seen.append((type(error), ctx.emit("sorry"))))
    lobby = open_room(room)
    await lobby.connect("a")
    await lobby.frame("a", "x")
    assert seen == [1, (TooLarge, 1)]  # on_error is a hook of its own, with output of its own
    await lobby.frame("a", "x")
    assert seen[2:] == seen[:2]


# --- drain ---------------------------------------------------------------------------------------------


def drains(lobby: Room) -> list[Drain]:
    outputs = [effect.output for effect in lobby.sink.effects if isinstance(effect, Sent)]
    return [output for output in outputs if isinstance(output, Drain)]


async def test_drain_waits_for_the_word_of_the_gateway(open_room: OpenRoom) -> None:
    room, seen = define_room("chat"), list[str]()

    @room.on("x")
    async def handler(ctx: Context[Any, Any], data: Any) -> None:
        ctx.emit("e")
        await ctx.drain()
        seen.append("drained")
        await ctx.drain()
        seen.append("again")

    lobby = open_room(room)
    await lobby.connect("a")
    await lobby.frame("a", "x")
    [first] = drains(lobby)
    assert first.connection == "a"
    assert seen == []
    lobby.engine.drained(first.token + 1)  # of nobody
    lobby.engine.drained(first.token)
    lobby.engine.drained(first.token)
    await lobby.settle()
    assert seen == ["drained"]
    lobby.engine.drained(drains(lobby)[1].token)
    await lobby.settle()
    assert seen == ["drained", "again"]
    assert lobby.numbers == [1, 2]


async def test_drain_of_a_connection_that_is_gone_returns_at_once(open_room: OpenRoom) -> None:
    room, seen = define_room("chat"), list[str]()

    @room.on_disconnect
    async def gone(ctx: Context[Any, Any]) -> None:
        await ctx.drain()
        seen.append("drained")

    lobby = open_room(room)
    await lobby.connect("a")
    await lobby.close("a")
    assert seen == ["drained"]
    assert drains(lobby) == []


async def test_a_task_that_drains_is_released_when_the_room_ends(open_room: OpenRoom) -> None:
    lobby = open_room(define_room("chat"))
    await lobby.connect("a")
    context = Context(lobby.engine.room, lobby.engine.actor.sessions["a"])
    waiting = asyncio.ensure_future(context.drain())
    await lobby.settle()
    assert not waiting.done()
    lobby.engine.end()
    await waiting

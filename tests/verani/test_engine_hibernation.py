"""Sleeping and waking: what is rebuilt from records, what is lost, and what a handle is worth afterwards."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.verani.conftest import OpenRoom
from verani import ConnectionMeta, Context, RoomAsleep, define_room
from verani.messages import Record

ROOM_NAME = "chat/lobby"


class Player(ConnectionMeta, kw_only=True):
    score: int = 0


async def test_a_room_wakes_with_its_sessions_in_order_before_the_event_that_woke_it(make_room: OpenRoom) -> None:
    room, seen = define_room("chat"), list[Any]()
    room.on_hibernation_restore(lambda actor: seen.append(("restore", list(actor.sessions))))
    room.on_connect(lambda ctx: seen.append(("connect", list(ctx.actor.sessions), ctx.actor.wake_reason)))
    lobby = make_room(room)
    await lobby.wake(("g1", [lobby.record("a"), lobby.record("b")]), ("g2", [lobby.record("c")]), reason="moved")
    await lobby.connect("d")
    assert seen == [("restore", ["a", "b", "c"]), ("connect", ["a", "b", "c", "d"], "moved")]
    assert lobby.engine.actor.broadcast("default", 1) == 4


async def test_the_first_message_after_a_sleep_is_handled_with_the_right_meta(make_room: OpenRoom) -> None:
    room = define_room("chat", meta=Player)
    room.on("who")(lambda ctx, data: [ctx.meta.user_id, ctx.meta.score, ctx.actor.wake_reason])
    lobby = make_room(room)
    await lobby.wake(("g1", [lobby.record("a", score=3)]))
    assert await lobby.request("a", "who") == b'{"type":"ack","id":7,"data":["user-a",3,"event"]}'


async def test_on_hibernation_restore_does_not_run_in_an_empty_room(make_room: OpenRoom) -> None:
    room, seen = define_room("chat"), list[str]()
    room.on_hibernation_restore(lambda actor: seen.append("restore"))
    lobby = make_room(room)
    await lobby.wake()
    await lobby.wake(("g1", [lobby.record("a", closing=True)]), fresh=True)
    assert seen == []


async def test_channels_joined_before_a_sleep_are_kept(make_room: OpenRoom) -> None:
    room = define_room("chat")
    room.on("join")(lambda ctx, data: ctx.join(data))
    room.on("leave")(lambda ctx, data: ctx.leave(data))
    lobby = make_room(room)
    await lobby.wake()
    await lobby.connect("a")
    await lobby.frame("a", "join", "news")
    await lobby.frame("a", "leave", "default")
    await lobby.sleep()
    await lobby.wake(*lobby.records(), fresh=True)
    assert lobby.engine.actor.sessions["a"].channels == ("news",)
    assert lobby.engine.actor.emit_to_channel("news", "x") == 1
    assert lobby.engine.actor.emit_to_channel("default", "x") == 0


async def test_a_close_while_asleep_runs_on_disconnect_with_the_right_meta(make_room: OpenRoom) -> None:
    room, seen = define_room("chat", meta=Player), list[Any]()
    room.on_disconnect(lambda ctx: seen.append((ctx.meta.score, ctx.close_code, ctx.actor.get_session_count())))
    lobby = make_room(room)
    await lobby.wake(("g1", [lobby.record("a", score=5)]))
    await lobby.close("a", 1001)
    assert seen == [(5, 1001, 0)]


async def test_a_record_that_was_told_to_close_is_no_session_but_has_its_on_disconnect(make_room: OpenRoom) -> None:
    room, seen = define_room("chat"), list[Any]()
    room.on_disconnect(lambda ctx: seen.append((ctx.meta.user_id, ctx.close_code)))
    room.on("*")(lambda ctx, data: seen.append("frame"))
    lobby = make_room(room)
    await lobby.wake(("g1", [lobby.record("a", closing=True), lobby.record("b")]))
    assert lobby.engine.actor.get_connected_user_ids() == ["user-b"]
    assert lobby.engine.actor.broadcast("default", 1) == 1
    await lobby.frame("a", "x")
    await lobby.close("a", 4009)
    assert seen == [("user-a", 4009)]


@pytest.mark.parametrize("why", ["on_connect failed", "client id taken", "attachment unreadable"])
async def test_a_connection_that_was_turned_away_before_a_sleep_has_no_on_disconnect_after_it(
    make_room: OpenRoom, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    room, seen = define_room("chat", same_client="reject"), list[str]()
    room.on_disconnect(lambda ctx: seen.append("disconnect"))

    @room.on_connect
    def connected(ctx: Context[Any, Any]) -> None:
        if ctx.ws.id == "b" and why == "on_connect failed":
            raise RuntimeError

    lobby = make_room(room)
    await lobby.wake()
    await lobby.connect("a", client="phone")
    if why == "attachment unreadable":
        lobby.put_attachment("b", b"\x01garbage")
    else:
        lobby.put_connect("b", client="phone" if why == "client id taken" else "desk")
    await lobby.settle()
    kicks, logged = list(lobby.sink.kicks), len(caplog.records)
    await lobby.sleep()
    await lobby.wake(*lobby.records(), fresh=True)
    await lobby.close("b", 1006)
    assert seen == []
    assert (lobby.sink.kicks, len(caplog.records)) == (kicks, logged)
    assert list(lobby.engine.actor.sessions) == ["a"]


async def test_a_corrupt_or_foreign_record_skips_that_connection_never_the_room(
    make_room: OpenRoom, caplog: pytest.LogCaptureFixture
) -> None:
    room, seen = define_room("chat"), list[Any]()
    room.on_disconnect(lambda ctx: seen.append(ctx.ws.id))
    lobby = make_room(room)
    good = lobby.record("good")
    foreign = make_room(define_room("other")).record("x").attachment
    newer = make_room(define_room("chat", meta_version=2)).record("x").attachment
    bad = {
        "empty": b"",
        "cut": good.attachment[:-3],
        "longer": good.attachment + b"\x00",
        "foreign": foreign,
        "schema": newer,
        "format": b"\x02" + good.attachment[1:],
    }
    records = [Record(name, attachment) for name, attachment in bad.items()]
    await lobby.wake(("g1", [*records[:3], good, *records[3:]]))
    assert list(lobby.engine.actor.sessions) == ["good"]
    assert lobby.sink.kicks == [(name, 1011, "attachment unreadable") for name in bad]
    assert [r.__dict__["connection"] for r in caplog.records] == list(bad)
    for name in bad:
        await lobby.close(name, 1011)
    assert seen == []
    assert lobby.numbers == [1, 2, 3, 4, 5, 6]


async def test_a_failing_on_hibernation_restore_is_reported_and_the_room_is_awake(make_room: OpenRoom) -> None:
    room, seen = define_room("chat"), list[str]()

    @room.on_hibernation_restore
    def restore(actor: Any) -> None:
        raise RuntimeError("restore")

    room.on_error(lambda error, ctx: seen.append(str(error)))
    room.on("x")(lambda ctx, data: "fine")
    lobby = make_room(room)
    await lobby.wake(("g1", [lobby.record("a")]))
    assert seen == ["restore"]
    assert await lobby.request("a", "x") == b'{"type":"ack","id":7,"data":"fine"}'


async def test_state_is_made_anew_by_its_factory_at_each_wake(make_room: OpenRoom) -> None:
    room = define_room("chat", state=dict[str, int])

    @room.on("count")
    def count(ctx: Context[Any, dict[str, int]], data: Any) -> int:
        ctx.actor.state["n"] = ctx.actor.state.get("n", 0) + 1
        return ctx.actor.state["n"]

    lobby = make_room(room)
    await lobby.wake(("g1", [lobby.record("a")]))
    assert await lobby.request("a", "count") == b'{"type":"ack","id":7,"data":1}'
    assert await lobby.request("a", "count") == b'{"type":"ack","id":7,"data":2}'
    await lobby.sleep()
    await lobby.wake(*lobby.records(), fresh=True)
    assert await lobby.request("a", "count") == b'{"type":"ack","id":7,"data":1}'


async def test_state_is_a_plain_namespace_unless_a_factory_is_given(open_room: OpenRoom) -> None:
    room = define_room("chat")

    @room.on("x")
    def handler(ctx: Context[Any, Any], data: Any) -> int:
        ctx.actor.state.anything = 5
        return int(ctx.actor.state.anything)

    lobby = open_room(room)
    await lobby.connect("a")
    assert await lobby.request("a", "x") == b'{"type":"ack","id":7,"data":5}'


async def test_a_failing_state_factory_is_reported_and_only_the_use_of_state_fails(make_room: OpenRoom) -> None:
    def broken() -> int:
        raise OSError("no database")

    room, seen = define_room("chat", state=broken), list[str]()
    room.on_error(lambda error, ctx: seen.append(str(error)))
    room.on("use")(lambda ctx, data: ctx.actor.state)
    room.on("other")(lambda ctx, data: "fine")
    lobby = make_room(room)
    await lobby.wake(("g1", [lobby.record("a")]))
    assert await lobby.request("a", "use") == b'{"type":"ack","id":7,"error":{"code":"failed"}}'
    assert await lobby.request("a", "other") == b'{"type":"ack","id":7,"data":"fine"}'
    assert seen == ["no database", "chat/lobby: its state could not be made, see the log"]


async def test_on_hibernate_runs_before_the_sleep_with_a_living_actor(make_room: OpenRoom) -> None:
    room, seen = define_room("chat"), list[Any]()

    @room.on_hibernate
    async def hibernate(actor: Any) -> None:
        await asyncio.sleep(0)
        seen.append((actor.name, actor.broadcast("default", "night"), actor.state.n))

    lobby = make_room(room)
    await lobby.wake(("g1", [lobby.record("a")]))
    lobby.engine.actor.state.n = 9
    await lobby.sleep()
    assert seen == [(ROOM_NAME, 1, 9)]
    assert lobby.data("a") == ["night"]


async def test_on_hibernate_may_change_metas_and_they_are_kept(make_room: OpenRoom) -> None:
    room = define_room("chat", meta=Player)

    @room.on_hibernate
    def hibernate(actor: Any) -> None:
        for session in actor:
            session.update(score=99)

    lobby = make_room(room)
    await lobby.wake(("g1", [lobby.record("a")]))
    await lobby.sleep()
    assert lobby.committed("a").score == 99


async def test_a_failing_on_hibernate_is_reported_and_the_room_sleeps_anyway(make_room: OpenRoom) -> None:
    room, seen = define_room("chat"), list[str]()

    @room.on_hibernate
    def hibernate(actor: Any) -> None:
        raise RuntimeError("disk full")

    room.on_error(lambda error, ctx: seen.append(str(error)))
    lobby = make_room(room)
    await lobby.wake()
    await lobby.sleep()
    assert seen == ["disk full"]
    with pytest.raises(RoomAsleep):
        lobby.engine.actor.get_session_count()


async def test_every_operation_of_a_handle_that_outlived_its_room_raises_room_asleep(make_room: OpenRoom) -> None:
    room, kept = define_room("chat"), list[Context[Any, Any]]()
    room.on("x")(lambda ctx, data: kept.append(ctx))
    lobby = make_room(room)
    await lobby.wake(("g1", [lobby.record("a")]))
    await lobby.frame("a", "x")
    await lobby.sleep()
    before = list(lobby.sink.effects)
    [ctx] = kept
    actor, session = ctx.actor, ctx.ws

    async def nothing() -> None: ...

    coroutine = nothing()
    operations: list[Any] = [
        lambda: ctx.meta,
        lambda: ctx.emit("e"),
        lambda: ctx.to_user("u").emit("e"),
        lambda: ctx.to_channel("c").emit("e"),
        lambda: ctx.join("c"),
        lambda: ctx.join("default"),
        lambda: ctx.leave("default"),
        lambda: ctx.leave("c"),
        lambda: ctx.close(),
        lambda: actor.state,
        lambda: actor.wake_reason,
        lambda: actor.sessions,
        lambda: list(actor),
        lambda: actor.broadcast("default", 1),
        lambda: actor.broadcast("default", 1, user_ids=["u"]),
        lambda: actor.send_to_user("u", "default", 1),
        lambda: actor.emit_to_channel("default", "e"),
        lambda: actor.emit_to_user("u", "e"),
        lambda: actor.get_session_count(),
        lambda: actor.get_connected_user_ids(),
        lambda: actor.get_user_sessions("u"),
        lambda: actor.cleanup_stale_sessions(),
        lambda: actor.close("a"),
        lambda: actor.close_user("user-a"),
        lambda: actor.spawn(coroutine),
        lambda: session.join("c"),
        lambda: session.leave("default"),
        lambda: session.update(),
    ]
    for operation in operations:
        with pytest.raises(RoomAsleep):
            operation()
    with pytest.raises(RoomAsleep):
        await ctx.drain()
    assert lobby.sink.effects == before
    assert actor.name == ROOM_NAME  # a name for logs may still be read

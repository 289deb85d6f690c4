"""When which hook runs, with what, and what a connection and a close mean."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.verani.conftest import Attached, OpenRoom, Processed, Sent
from verani import ConnectionMeta, Context, Forbidden, Session, VeraniError, define_room
from verani.engine.room_events import HookFailed
from verani.errors import REFUSALS
from verani.link.messages import Close, Connect, Kick

ROOM_NAME = "chat/lobby"


class Player(ConnectionMeta, kw_only=True):
    score: int = 0


# --- connecting ----------------------------------------------------------------------------------------


async def test_on_connect_counts_its_own_session_and_broadcasts_to_it(open_room: OpenRoom) -> None:
    room = define_room("chat")

    @room.on_connect
    def connected(ctx: Context[Any, Any]) -> None:
        count = ctx.actor.broadcast("default", {"type": "came", "who": ctx.meta.user_id})
        assert count == ctx.actor.get_session_count() == len(ctx.actor.sessions)

    lobby = open_room(room)
    await lobby.connect("a", "b")
    assert lobby.data("a") == [{"type": "came", "who": "user-a"}, {"type": "came", "who": "user-b"}]
    assert lobby.data("b") == [{"type": "came", "who": "user-b"}]


async def test_a_connection_without_hooks_is_simply_in(open_room: OpenRoom) -> None:
    lobby = open_room(define_room("chat"))
    await lobby.connect("a")
    assert lobby.engine.actor.get_session_count() == 1
    assert lobby.sink.effects == [Processed("g1", 1)]  # nothing is sent on open


@pytest.mark.short_way
async def test_who_comes_and_goes_needs_no_task_where_the_hooks_are_plain_functions(open_room: OpenRoom) -> None:
    room, tasks = define_room("chat"), list[Any]()
    room.on_connect(lambda ctx: tasks.append(asyncio.current_task()))
    room.on_disconnect(lambda ctx: tasks.append(asyncio.current_task()))
    lobby = open_room(room)
    await lobby.wake()
    inputs: list[Connect | Close] = [
        Connect("chat/lobby", 1, "a", lobby.record("a").attachment),
        Close("chat/lobby", 2, "a", 1000, ""),
    ]
    rests = list[Any]()
    asyncio.get_running_loop().call_soon(lambda: rests.extend(lobby.engine.start(each, "g1") for each in inputs))
    await asyncio.sleep(0)
    assert (tasks, rests, lobby.numbers) == ([None, None], [None, None], [1, 2])


async def test_an_on_connect_that_refuses_leaves_the_rest_to_a_task(open_room: OpenRoom) -> None:
    room, seen = define_room("chat"), list[Any]()

    @room.on_connect
    def connected(ctx: Context[Any, Any]) -> None:
        raise Forbidden

    @room.on_error
    async def failed(error: BaseException, ctx: Context[Any, Any]) -> None:
        await asyncio.sleep(0)
        seen.append(type(error))

    lobby = open_room(room)
    await lobby.connect("a")
    assert (seen, lobby.sink.kicks) == ([Forbidden], [("a", 1000, "forbidden")])
    assert lobby.engine.actor.get_session_count() == 0


async def test_frames_wait_for_an_async_on_connect_and_keep_their_order(open_room: OpenRoom) -> None:
    room, seen, gate = define_room("chat"), list[Any](), asyncio.Event()

    @room.on_connect
    async def connected(ctx: Context[Any, Any]) -> None:
        await gate.wait()
        seen.append("connected")

    room.on("say")(lambda ctx, data: seen.append(data))
    lobby = open_room(room)
    lobby.put_connect("a")
    for word in "xyz":
        lobby.put_frame("a", "say", word)
    await lobby.settle()
    assert seen == []
    gate.set()
    await lobby.settle()
    assert seen == ["connected", "x", "y", "z"]
    assert lobby.numbers == [1, 2, 3, 4]


async def test_async_handlers_of_one_connection_never_overtake_each_other(open_room: OpenRoom) -> None:
    room, seen = define_room("chat"), list[str]()

    @room.on("wait")
    async def wait(ctx: Context[Any, Any], turns: int) -> None:
        seen.append(f"begin {turns}")
        for _ in range(turns):
            await asyncio.sleep(0)
        seen.append(f"end {turns}")

    lobby = open_room(room)
    lobby.put_connect("a")
    for turns in (5, 1, 0, 3):
        lobby.put_frame("a", "wait", turns)
    await lobby.settle()
    assert seen == [f"{what} {turns}" for turns in (5, 1, 0, 3) for what in ("begin", "end")]


@pytest.mark.parametrize("refusal", [*REFUSALS, type("Banned", (Forbidden,), {"code": "banned"})])
async def test_a_refusal_of_on_connect_closes_with_1000_and_its_code(
    open_room: OpenRoom, refusal: type[VeraniError]
) -> None:
    def connected(ctx: Context[Any, Any]) -> None:
        raise refusal("secret")

    seen: list[str] = []
    room = define_room("chat", on_connect=connected, on_disconnect=lambda ctx: seen.append("disconnect"))
    room.on_error(lambda error, ctx: seen.append(str(error)))
    lobby = open_room(room)
    lobby.put_connect("a")
    lobby.put_frame("a", "say", request=1)
    await lobby.settle()
    assert lobby.sink.kicks == [("a", 1000, refusal.code)]
    await lobby.close("a", 1000)
    assert seen == ["secret"]
    assert lobby.data("a") == []


async def test_what_a_call_of_on_connect_came_to_is_no_refusal_of_its_own(open_room: OpenRoom) -> None:
    def connected(ctx: Context[Any, Any]) -> None:
        error = Forbidden("not for this room")
        error.is_of_call = True
        raise error

    lobby = open_room(define_room("chat", on_connect=connected))
    lobby.put_connect("a")
    await lobby.settle()
    assert lobby.sink.kicks == [("a", 1011, "")]


async def test_a_code_that_fits_in_no_close_frame_is_cut(open_room: OpenRoom) -> None:
    def connected(ctx: Context[Any, Any]) -> None:
        raise type("Long", (Forbidden,), {"code": "\N{SNOWMAN}" * 50})

    lobby = open_room(define_room("chat", on_connect=connected))
    lobby.put_connect("a")
    await lobby.settle()
    assert lobby.sink.kicks == [("a", 1000, "\N{SNOWMAN}" * 41)]


async def test_a_failing_on_connect_closes_with_1011_drops_the_frames_and_runs_no_on_disconnect(
    open_room: OpenRoom,
) -> None:
    room, seen = define_room("chat"), list[str]()

    @room.on_connect
    async def connected(ctx: Context[Any, Any]) -> None:
        ctx.emit("hello")
        await asyncio.sleep(0)
        raise RuntimeError("no")

    room.on("*")(lambda ctx, data: seen.append("frame"))
    room.on_disconnect(lambda ctx: seen.append("disconnect"))
    room.on_error(lambda error, ctx: seen.append(f"error {error} {ctx.actor.get_session_count()}"))
    lobby = open_room(room)
    lobby.put_connect("a")
    lobby.put_frame("a", "say", request=1)
    await lobby.settle()
    await lobby.close("a", 1011)
    assert seen == ["error no 0"]
    assert lobby.sink.kicks == [("a", 1011, "")]
    assert Sent("g1", Kick("a", 1011, refused=True), 1) in lobby.sink.effects
    assert lobby.data("a") == [{"type": "hello"}]  # what was sent stays sent, the frame gets no answer
    assert lobby.numbers == [1, 2, 3]


async def test_a_failing_on_connect_that_had_kicked_its_session_runs_no_on_disconnect_either(
    open_room: OpenRoom,
) -> None:
    room, seen = define_room("chat"), list[str]()

    @room.on_connect
    def connected(ctx: Context[Any, Any]) -> None:
        ctx.close(4000)
        raise RuntimeError

    room.on_disconnect(lambda ctx: seen.append("disconnect"))
    lobby = open_room(room)
    await lobby.connect("a")
    await lobby.close("a", 4000)
    assert seen == []


async def test_an_unreadable_attachment_closes_that_connection_only(
    open_room: OpenRoom, caplog: pytest.LogCaptureFixture
) -> None:
    lobby = open_room(define_room("chat"))
    lobby.put_attachment("a", b"\x01garbage")
    await lobby.connect("b")
    assert lobby.sink.kicks == [("a", 1011, "attachment unreadable")]
    assert list(lobby.engine.actor.sessions) == ["b"]
    assert lobby.numbers == [1, 2]
    assert [(r.levelname, r.__dict__["connection"]) for r in caplog.records] == [("ERROR", "a")]


# --- one client id, one session ------------------------------------------------------------------------


async def test_a_second_connection_with_the_same_client_id_replaces_the_first_with_4009(open_room: OpenRoom) -> None:
    room, seen = define_room("chat"), list[Any]()
    room.on_connect(lambda ctx: seen.append(("connect", ctx.ws.id, sorted(ctx.actor.sessions))))
    room.on_disconnect(lambda ctx: seen.append(("disconnect", ctx.ws.id, ctx.close_code, sorted(ctx.actor.sessions))))
    lobby = open_room(room)
    await lobby.connect("a", client="phone", gateway="g1")
    await lobby.connect("b", client="phone", gateway="g2")
    assert [(c, code) for c, code, _ in lobby.sink.kicks] == [("a", 4009)]
    assert any(isinstance(e, Sent) and isinstance(e.output, Kick) and e.gateway == "g1" for e in lobby.sink.effects)
    await lobby.frame("a", "late")
    await lobby.close("a", 4009)
    assert seen == [("connect", "a", ["a"]), ("connect", "b", ["b"]), ("disconnect", "a", 4009, ["b"])]
    assert lobby.engine.actor.broadcast("default", 1, client_ids=["phone"]) == 1


async def test_with_same_client_reject_the_second_connection_is_closed_and_never_seen(open_room: OpenRoom) -> None:
    room, seen = define_room("chat", same_client="reject"), list[str]()
    room.on_connect(lambda ctx: seen.append(ctx.ws.id))
    room.on_disconnect(lambda ctx: seen.append(f"gone {ctx.ws.id}"))
    lobby = open_room(room)
    await lobby.connect("a", "b", client="phone")
    assert [(c, code) for c, code, _ in lobby.sink.kicks] == [("b", 4009)]
    await lobby.close("b", 4009)
    assert seen == ["a"]
    assert list(lobby.engine.actor.sessions) == ["a"]
    await lobby.close("a")
    await lobby.connect("c", client="phone")
    assert seen == ["a", "gone a", "c"]


async def test_a_kicked_session_no_longer_holds_its_client_id(open_room: OpenRoom) -> None:
    room = define_room("chat", same_client="reject")
    room.on("leave")(lambda ctx, data: ctx.close(1000))
    lobby = open_room(room)
    await lobby.connect("a", client="phone")
    await lobby.frame("a", "leave")
    await lobby.connect("b", client="phone")
    assert list(lobby.engine.actor.sessions) == ["b"]


# --- closing -------------------------------------------------------------------------------------------


async def test_on_disconnect_runs_after_the_session_is_gone_with_its_meta_code_and_reason(
    open_room: OpenRoom,
) -> None:
    room, seen = define_room("chat", meta=Player), list[Any]()

    @room.on_disconnect
    async def gone(ctx: Context[Player, Any]) -> None:
        await asyncio.sleep(0)
        seen.append((ctx.meta.user_id, ctx.meta.score, ctx.close_code, ctx.close_reason, ctx.actor.get_session_count()))
        assert ctx.emit("bye") == 0
        assert ctx.actor.broadcast("default", {"type": "left"}) == 1

    lobby = open_room(room)
    await lobby.connect("a", score=7)
    await lobby.connect("b")
    await lobby.close("a", 1006, "lost")
    assert seen == [("user-a", 7, 1006, "lost", 1)]
    assert lobby.data("a") == []
    assert lobby.data("b") == [{"type": "left"}]


async def test_a_close_of_an_unknown_connection_is_processed_and_runs_nothing(open_room: OpenRoom) -> None:
    room, seen = define_room("chat"), list[str]()
    room.on_disconnect(lambda ctx: seen.append("disconnect"))
    lobby = open_room(room)
    assert await lobby.close("ghost") == 1
    assert lobby.numbers == [1]
    assert seen == []


async def test_close_code_and_reason_are_none_and_empty_outside_of_on_disconnect(open_room: OpenRoom) -> None:
    room, seen = define_room("chat"), list[Any]()
    room.on("x")(lambda ctx, data: seen.append((ctx.close_code, ctx.close_reason)))
    lobby = open_room(room)
    await lobby.connect("a")
    await lobby.frame("a", "x")
    assert seen == [(None, "")]


async def test_a_kicked_session_leaves_at_once_and_on_disconnect_runs_when_its_close_arrives(
    open_room: OpenRoom,
) -> None:
    room, seen = define_room("chat"), list[Any]()

    @room.on("kick")
    def kick(ctx: Context[Any, Any], who: str) -> list[Any]:
        sent = ctx.actor.broadcast("default", "before")
        closed = ctx.actor.close(who, 4321, "out")
        again = ctx.actor.close(who, 4321, "out")
        return [sent, closed, again, ctx.actor.broadcast("default", "after"), ctx.actor.get_connected_user_ids()]

    room.on("say")(lambda ctx, data: seen.append(data))
    room.on_disconnect(lambda ctx: seen.append((ctx.ws.id, ctx.close_code, ctx.close_reason)))
    lobby = open_room(room)
    await lobby.connect("a", "b")
    ack = await lobby.request("a", "kick", "b")
    assert ack == b'{"type":"ack","id":7,"data":[2,true,false,1,["user-a"]]}'
    assert lobby.data("b") == ["before"]
    assert lobby.sink.kicks == [("b", 4321, "out")]
    await lobby.frame("b", "say", "too late", request=9)
    assert seen == []
    await lobby.close("b", 1005, "as it came")
    assert seen == [("b", 1005, "as it came")]
    assert lobby.received("b") == []
    assert lobby.numbers == [1, 2, 3, 4, 5]


async def test_a_context_closes_its_own_connection_after_what_it_sent(open_room: OpenRoom) -> None:
    room = define_room("chat")

    @room.on("quit")
    def quit(ctx: Context[Any, Any], data: Any) -> bool:
        ctx.emit("bye")
        return ctx.close(reason="as you wish") and ctx.emit("never") == 0

    lobby = open_room(room)
    await lobby.connect("a")
    await lobby.frame("a", "quit")
    assert lobby.data("a") == [{"type": "bye"}]
    assert lobby.sink.kicks == [("a", 1000, "as you wish")]


async def test_close_user_kicks_all_sessions_of_a_user_and_counts_them(open_room: OpenRoom) -> None:
    room = define_room("chat")
    room.on("ban")(lambda ctx, who: [ctx.actor.close_user(who, 1008, "banned"), ctx.actor.close_user(who)])
    lobby = open_room(room)
    await lobby.connect("a")
    await lobby.connect("b", "c", user="bob")
    assert await lobby.request("a", "ban", "bob") == b'{"type":"ack","id":7,"data":[2,0]}'
    assert lobby.sink.kicks == [("b", 1008, "banned"), ("c", 1008, "banned")]


@pytest.mark.parametrize("code", [1000, 1008, 1011, 1012, 1013, 3000, 4001, 4999])
async def test_an_application_may_close_with_this_code(open_room: OpenRoom, code: int) -> None:
    lobby = open_room(define_room("chat"))
    await lobby.connect("a")
    assert lobby.engine.actor.close("a", code, "é" * 61 + "x")  # 123 bytes
    assert lobby.sink.kicks == [("a", code, "é" * 61 + "x")]


@pytest.mark.parametrize("code", [0, -1, 999, 1001, 1002, 1005, 1006, 1009, 1010, 1014, 1015, 2999, 5000])
async def test_an_application_may_not_close_with_this_code(open_room: OpenRoom, code: int) -> None:
    lobby = open_room(define_room("chat"))
    await lobby.connect("a")
    with pytest.raises(ValueError, match=f"expected code 1000, .* got {code}"):
        lobby.engine.actor.close("a", code)
    assert lobby.sink.kicks == []
    assert lobby.engine.actor.get_session_count() == 1


async def test_a_close_reason_of_more_than_123_bytes_is_refused(open_room: OpenRoom) -> None:
    lobby = open_room(define_room("chat"))
    await lobby.connect("a")
    with pytest.raises(ValueError, match="at most 123 bytes"):
        lobby.engine.actor.close("a", 1000, "é" * 62)
    assert lobby.engine.actor.get_session_count() == 1


async def test_cleanup_takes_out_the_sessions_whose_close_is_queued_and_on_disconnect_runs_for_each(
    open_room: OpenRoom,
) -> None:
    room, seen = define_room("chat"), list[Any]()
    room.on("tidy")(lambda ctx, data: [ctx.actor.cleanup_stale_sessions(), ctx.actor.cleanup_stale_sessions()])
    room.on_disconnect(lambda ctx: seen.append((ctx.ws.id, ctx.close_code)))
    lobby = open_room(room)
    await lobby.connect("a", "b", "c")
    for connection in ("b", "c", "ghost"):
        lobby.engine.note_close(connection)
    assert lobby.engine.actor.get_session_count() == 3
    assert await lobby.request("a", "tidy") == b'{"type":"ack","id":7,"data":[2,0]}'
    assert list(lobby.engine.actor.sessions) == ["a"]
    assert lobby.sink.kicks == []
    await lobby.close("b", 1001)
    await lobby.close("c", 1006)
    assert seen == [("b", 1001), ("c", 1006)]


# --- what a context offers -----------------------------------------------------------------------------


async def test_a_hook_without_connection_or_frame_says_so(open_room: OpenRoom) -> None:
    room, seen = define_room("chat"), list[str]()

    @room.on_error
    def on_error(error: BaseException, ctx: Context[Any, Any]) -> None:
        for use in (lambda: ctx.ws, lambda: ctx.meta, lambda: ctx.frame, lambda: ctx.emit("x")):
            with pytest.raises(VeraniError) as caught:
                use()
            seen.append(str(caught.value))

    lobby = open_room(room)
    await lobby.feed(HookFailed(RuntimeError("x"), Context(lobby.engine.room, None)))
    assert seen == [
        "ctx.ws: this event belongs to no connection",
        "ctx.ws: this event belongs to no connection",
        "ctx.frame: this event is not a frame",
        "ctx.ws: this event belongs to no connection",
    ]


async def test_sessions_are_a_snapshot_oldest_first_and_iterating_an_actor_gives_them(open_room: OpenRoom) -> None:
    room = define_room("chat")

    @room.on("x")
    def handler(ctx: Context[Any, Any], data: Any) -> list[Any]:
        before = ctx.actor.sessions
        ctx.actor.close("b")
        return [list(before), list(ctx.actor.sessions), [session.id for session in ctx.actor], repr(ctx.actor)]

    lobby = open_room(room)
    await lobby.connect("c", "b", "a")
    ack = await lobby.request("a", "x")
    assert ack == b"""{"type":"ack","id":7,"data":[["c","b","a"],["c","a"],["c","a"],"<Actor 'chat/lobby'>"]}"""


async def test_an_actor_knows_the_name_and_the_id_of_its_room(make_room: OpenRoom) -> None:
    actor = make_room(define_room("chat"), room_id="a.b:c@d~e-f").engine.actor
    assert (actor.name, actor.room_id) == ("chat/a.b:c@d~e-f", "a.b:c@d~e-f")


async def test_user_sessions_are_those_of_the_user_oldest_first(open_room: OpenRoom) -> None:
    lobby = open_room(define_room("chat"))
    await lobby.connect("c", "a", user="ann")
    await lobby.connect("b")
    sessions = lobby.engine.actor.get_user_sessions("ann")
    assert [session.id for session in sessions] == ["c", "a"]
    assert all(isinstance(session, Session) and session.user_id == "ann" for session in sessions)
    assert [repr(session) for session in sessions] == ["<Session c>", "<Session a>"]
    assert lobby.engine.actor.get_user_sessions("nobody") == ()


async def test_effects_of_an_input_come_before_its_acknowledgement(open_room: OpenRoom) -> None:
    room = define_room("chat", meta=Player)

    @room.on("x")
    async def handler(ctx: Context[Player, Any], data: Any) -> None:
        ctx.meta.score = 1
        await asyncio.sleep(0)
        ctx.emit("done")

    lobby = open_room(room)
    await lobby.connect("a")
    number = await lobby.frame("a", "x", request=1)
    kinds = [type(effect).__name__ for effect in lobby.sink.effects]
    assert kinds == ["Processed", "Sent", "Attached", "Sent", "Processed"]
    outputs = [effect for effect in lobby.sink.effects if isinstance(effect, Sent)]
    assert [output.cause for output in outputs] == [number, number]
    attached = next(effect for effect in lobby.sink.effects if isinstance(effect, Attached))
    assert attached.gateway == "g1"

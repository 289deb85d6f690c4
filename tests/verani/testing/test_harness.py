"""The test kit keeps its promises: what it shows is what a client of a served room would see."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import re
import secrets
import uuid
from typing import Any

import pytest

from verani import (
    Conflict,
    ConnectionMeta,
    ConnectRequest,
    Context,
    Forbidden,
    InvalidArguments,
    RoomAsleep,
    RoomBusy,
    RoomDefinition,
    Settings,
    TooLarge,
    Unauthorized,
    VeraniError,
    define_room,
)
from verani.errors import CallCycle, CallFailed, DeadlineExceeded, HookTimeout, Interrupted, NotFound
from verani.frames import InvalidFrame
from verani.testing import Event, RoomHarness, assert_hibernation_transparent, incarnations


class Player(ConnectionMeta, kw_only=True):
    score: int = 0


def a_room(**options: Any) -> RoomDefinition[Player, Any]:
    room = define_room("test", meta=Player, **options)

    @room.on("say")
    def say(ctx: Context[Player], data: Any) -> str:
        ctx.actor.broadcast("default", {"type": "said", "from": ctx.meta.user_id, "text": data})
        return "done"

    @room.on("join")
    def join(ctx: Context[Player], channel: str) -> None:
        ctx.join(channel)

    @room.on("tell")
    def tell(ctx: Context[Player], channel: str) -> None:
        ctx.to_channel(channel).emit("told")

    @room.on("score")
    def score(ctx: Context[Player], points: int) -> int:
        ctx.meta.score += points
        return ctx.meta.score

    @room.on("fail")
    def fail(ctx: Context[Player], data: Any) -> None:
        raise ValueError("a bug")

    @room.on("forbid")
    def forbid(ctx: Context[Player], data: Any) -> None:
        raise Forbidden("not you")

    @room.on("kick")
    def kick(ctx: Context[Player], user: str) -> None:
        ctx.actor.close_user(user, 4001, "out")

    @room.on("hang")
    async def hang(ctx: Context[Player], data: Any) -> None:
        await asyncio.Event().wait()

    return room


# --- clients -------------------------------------------------------------------------------------------


async def test_clients_see_events_and_the_exact_bytes() -> None:
    async with RoomHarness(a_room()) as room:
        ann = await room.connect(user_id="ann")
        bob = await room.connect(user_id="bob", channels=("elsewhere",))
        await ann.send("say", "hi")
        said = {"type": "said", "from": "ann", "text": "hi"}
        assert ann.received == [Event("said", said, "default")]
        assert ann.raw == [b'{"type":"event","channel":"default","data":{"type":"said","from":"ann","text":"hi"}}']
        assert bob.received == []
        assert ann.take() == [Event("said", said, "default")]
        assert ann.take() == []


async def test_requests_are_answered_or_raise_the_error_the_ack_names() -> None:
    async with RoomHarness(a_room()) as room:
        ann = await room.connect(user_id="ann")
        assert await ann.request("say", "hi") == "done"
        with pytest.raises(Forbidden):
            await ann.request("forbid")
        with pytest.raises(NotFound):
            await ann.request("nothing of that name")
        with pytest.raises(InvalidArguments) as refusal:
            await ann.request("score", "many")
        assert refusal.value.path is None or refusal.value.path.startswith("$")
        assert room.errors == []
        with pytest.raises(CallFailed):
            await ann.request("fail")
        assert [str(error) for error in room.take_errors()] == ["a bug"]
        await ann.send("say", "hi", id=99)
        assert ann.raw[-1] == b'{"type":"ack","id":99,"data":"done"}'


async def test_a_request_waits_in_real_time_for_a_hook_that_does() -> None:
    room = a_room()

    @room.on("slow")
    async def slow(ctx: Context[Player], data: Any) -> str:
        await asyncio.sleep(0.02)
        ctx.emit("ready")
        return "late"

    async with RoomHarness(room) as harness:
        ann = await harness.connect(user_id="ann")
        assert await ann.request("slow") == "late"
        await ann.send("slow")
        assert [event.type for event in ann.take()] == ["ready"]
        await harness.idle()
        assert [event.type for event in ann.take()] == ["ready"]


async def test_frames_that_a_gateway_would_not_pass_raise() -> None:
    async with RoomHarness(a_room(), settings=Settings(max_frame_bytes=100)) as room:
        ann = await room.connect(user_id="ann")
        for payload in ("no json", "[]", '{"type":"a\\u0000b"}'):
            with pytest.raises(InvalidFrame):
                await ann.send_raw(payload)
        with pytest.raises(TooLarge):
            await ann.send("say", "x" * 100)
        await ann.send_raw(b'{"type":"say","data":1}')
        assert len(ann.received) == 1


async def test_a_ping_is_answered_without_waking_the_room() -> None:
    async with RoomHarness(a_room()) as room:
        ann = await room.connect(user_id="ann")
        await room.hibernate()
        await ann.send("ping")
        assert ann.raw == [b'{"type":"pong"}']
        assert ann.received == []
        assert not room.awake


async def test_closes_run_on_disconnect_from_either_side() -> None:
    codes: list[Any] = []
    room = a_room(on_disconnect=lambda ctx: codes.append((ctx.meta.user_id, ctx.close_code, ctx.close_reason)))
    async with RoomHarness(room) as harness:
        ann = await harness.connect(user_id="ann")
        bob = await harness.connect(user_id="bob")
        await ann.send("kick", "bob")
        assert bob.closed == (4001, "out")
        await ann.close(1006)
        assert ann.closed == (1006, "")
        assert codes == [("bob", 4001, "out"), ("ann", 1006, "")]
        with pytest.raises(VeraniError, match="client ann: expected an open connection"):
            await ann.send("say", 1)


async def test_a_request_is_interrupted_by_the_end_of_its_connection() -> None:
    async with RoomHarness(a_room()) as room:
        ann = await room.connect(user_id="ann")
        asking = asyncio.create_task(ann.request("hang"))
        await room.advance(1)
        await ann.close()
        with pytest.raises(Interrupted):
            await asking


async def test_a_client_that_on_connect_refuses_is_closed_with_1000_and_told_why() -> None:
    def refuse(ctx: Context[Player]) -> None:
        raise Forbidden("nobody")

    async with RoomHarness(a_room(on_connect=refuse)) as room:
        ann = await room.connect(user_id="ann")
        assert ann.closed == (1000, "forbidden")
        with pytest.raises(Forbidden, match="refused client ann with 'forbidden'"):
            await ann.send("move")
        assert not room.sessions
        await room.hibernate()
        await room.connect(user_id="bob")
        assert not room.sessions


# --- who connects --------------------------------------------------------------------------------------


async def test_connect_fills_the_own_fields_of_the_meta() -> None:
    async with RoomHarness(a_room()) as room:
        ann = await room.connect(user_id="ann", score=7, channels=["red"])
        assert ann.meta == Player(user_id="ann", client_id="client-1", channels=("red",), score=7)
        bob = await room.connect(meta=Player(user_id="bob", client_id="b", score=1))
        assert (bob.client_id, bob.meta.score) == ("b", 1)
        again = await room.connect(user_id="ann")
        assert [client.name for client in room.clients] == ["ann", "bob", "ann (2)"]
        assert again.client_id == "client-3"
        with pytest.raises(TypeError):
            await room.connect(user_id="eve", score="high")
        with pytest.raises(InvalidArguments):
            await room.connect(user_id="a\x00b")
        with pytest.raises(InvalidArguments, match="128 channels"):
            await room.connect(user_id="eve", channels=map(str, range(129)))
        with pytest.raises(TypeError, match="expected meta= to be a Player, or its fields as keywords, got dict"):
            await room.connect(meta={"user_id": "eve"})  # type: ignore[arg-type]  # the mistake under test
        with pytest.raises(TypeError, match="expected a user_id beside score"):
            await room.connect(score=1)


async def test_connect_by_query_runs_the_real_hooks() -> None:
    room = define_room("test")

    @room.name_from_request
    def name(request: ConnectRequest) -> str:
        return request.query.get("where", "test")

    @room.extract_meta
    async def who(request: ConnectRequest) -> ConnectionMeta:
        if request.query.get("token") != "secret":
            raise Unauthorized("expected the secret")
        return ConnectionMeta(user_id="ann", client_id=f"in {request.room}")

    async with RoomHarness(room) as harness:
        ann = await harness.connect(query={"token": "secret"})
        assert (ann.user_id, ann.client_id) == ("ann", "in test")
        with pytest.raises(Unauthorized):
            await harness.connect(query={"token": "guess"})
        with pytest.raises(Unauthorized):
            await harness.connect()
        with pytest.raises(ValueError, match="asks for 'other'"):
            await harness.connect(query={"where": "other", "token": "secret"})
        by_request = await harness.connect(request=ConnectRequest("/ws", query={"token": "secret"}))
        assert ann.closed == (4009, "another connection has this client id")
        assert by_request.closed is None


async def test_rooms_that_trust_the_query_get_ids_that_repeat() -> None:
    async with RoomHarness(a_room()) as room:
        ann = await room.connect(query={"userId": "ann", "channels": "a,b"})
        somebody = await room.connect()
        assert (ann.user_id, ann.client_id, ann.meta.channels) == ("ann", "client-1", ("a", "b"))
        assert (somebody.user_id, somebody.client_id) == ("user-2", "client-2")
        with pytest.raises(ValueError, match="asks for 'elsewhere'"):
            await room.connect(query={"room": "elsewhere"})


async def test_a_second_client_id_is_refused_where_the_definition_says_so() -> None:
    async with RoomHarness(a_room(same_client="reject")) as room:
        await room.connect(user_id="ann", client_id="phone")
        with pytest.raises(Conflict):
            await room.connect(user_id="ann", client_id="phone")
        assert len(room.sessions) == 1


# --- the room ------------------------------------------------------------------------------------------


async def test_the_room_can_be_looked_at_and_used_from_the_test() -> None:
    async with RoomHarness(a_room(), room_id="lobby") as room:
        with pytest.raises(RoomAsleep):
            room.actor  # noqa: B018
        ann = await room.connect(user_id="ann")
        assert room.actor.name == "test/lobby"
        assert list(room.sessions) == [ann.id]
        assert room.actor.broadcast("default", "from outside") == 1
        assert ann.received[0].data == "from outside"


async def test_startup_and_shutdown_run_once_around_everything() -> None:
    log: list[str] = []

    async def up() -> None:
        log.append("up")

    room = a_room(on_startup=up, on_shutdown=lambda: log.append("down"), on_connect=lambda ctx: log.append("connect"))
    async with RoomHarness(room) as harness:
        await harness.connect(user_id="ann")
        await harness.hibernate()
        await harness.connect(user_id="bob")
        assert log == ["up", "connect", "connect"]
    assert log == ["up", "connect", "connect", "down"]


async def test_leaving_the_block_raises_what_hooks_raised() -> None:
    with pytest.raises(ExceptionGroup) as failures:
        async with RoomHarness(a_room()) as room:
            await (await room.connect(user_id="ann")).send("fail")
    assert [str(error) for error in failures.value.exceptions] == ["a bug"]
    async with RoomHarness(a_room(), check_errors=False) as room:
        await (await room.connect(user_id="ann")).send("fail")

    async def failing_test() -> None:
        async with RoomHarness(a_room()) as room:
            await (await room.connect(user_id="ann")).send("fail")
            raise KeyError("the test's own")

    with pytest.raises(KeyError) as raised:
        await failing_test()
    assert raised.value.__notes__ == ["hooks raised, too: [ValueError('a bug')]"]


async def test_a_harness_without_a_block_is_ended_with_close() -> None:
    room = RoomHarness(a_room())
    ann = await room.connect(user_id="ann")
    asking = asyncio.create_task(ann.request("hang"))
    await asyncio.sleep(0)
    await room.close()
    await room.close()
    with pytest.raises(Interrupted, match="the harness was closed"):
        await asking
    with pytest.raises(VeraniError, match="closed"):
        await ann.send("say", 1)


async def test_spawned_tasks_that_need_no_real_time_are_over_when_an_operation_returns() -> None:
    room = a_room()

    @room.on("task")
    def task(ctx: Context[Player], seconds: float) -> None:
        async def work() -> None:
            for _ in range(10):
                await asyncio.sleep(seconds)
            ctx.emit("worked")
            raise ValueError("in a task")

        ctx.actor.spawn(work())

    async with RoomHarness(room) as harness:
        ann = await harness.connect(user_id="ann")
        await ann.send("task", 0)
        assert [event.type for event in ann.take()] == ["worked"]
        assert len(harness.take_errors()) == 1
        await ann.send("task", 0.002)
        assert (await ann.wait_for("worked")).channel == "default"
        await harness.idle()
        assert len(harness.take_errors()) == 1


async def test_drain_returns_at_once() -> None:
    room = a_room()

    @room.on("drain")
    async def drain(ctx: Context[Player], data: Any) -> str:
        await ctx.drain()
        return "drained"

    async with RoomHarness(room) as harness:
        assert await (await harness.connect(user_id="ann")).request("drain") == "drained"


# --- time and sleep ------------------------------------------------------------------------------------


async def test_an_idle_room_sleeps_when_the_clock_says_so() -> None:
    async with RoomHarness(a_room(hibernate_after=10)) as room:
        ann = await room.connect(user_id="ann")
        await room.advance(9)
        await ann.send("score", 1)
        await room.advance(9.5)
        assert room.awake
        await room.advance(0.5)
        assert not room.awake
        assert room.now == 19
        assert await ann.request("score", 1) == 2
        assert room.awake
        await room.advance(3600)
        assert not room.awake
        with pytest.raises(ValueError, match="0 seconds or more"):
            await room.advance(-1)


async def test_rooms_that_never_hibernate_stay_awake() -> None:
    async with RoomHarness(a_room(hibernate_after=None)) as room:
        await room.connect(user_id="ann")
        await room.advance(1e6)
        assert room.awake


async def test_the_time_budget_of_a_hook_is_in_the_rooms_time() -> None:
    async with RoomHarness(a_room(), settings=Settings(hook_timeout=5)) as room:
        ann = await room.connect(user_id="ann")
        asking = asyncio.create_task(ann.request("hang"))
        await room.advance(4)
        assert not asking.done()
        await room.advance(2)
        with pytest.raises(DeadlineExceeded):
            await asking
        assert [type(error) for error in room.take_errors()] == [HookTimeout]
        assert await ann.request("say", "next") == "done"


async def test_a_hook_that_ignores_its_cancellation_is_abandoned() -> None:
    room = a_room()
    end = asyncio.Event()

    @room.on("stubborn")
    async def stubborn(ctx: Context[Player], data: Any) -> None:
        while not end.is_set():
            try:
                await end.wait()
            except asyncio.CancelledError:
                continue

    async with RoomHarness(room, settings=Settings(hook_timeout=5)) as harness:
        ann = await harness.connect(user_id="ann")
        await ann.send("stubborn")
        await ann.send("say", "waiting")
        assert ann.received == []
        await harness.advance(10)
        assert [event.type for event in ann.received] == ["said"]
        assert [type(error) for error in harness.take_errors()] == [HookTimeout]
        end.set()


async def test_hibernate_keeps_the_meta_and_loses_the_state() -> None:
    room = a_room()

    @room.on("count")
    def count(ctx: Context[Player], data: Any) -> int:
        ctx.actor.state.count = getattr(ctx.actor.state, "count", 0) + 1
        return int(ctx.actor.state.count)

    async with RoomHarness(room) as harness:
        ann = await harness.connect(user_id="ann")
        bob = await harness.connect(user_id="bob")
        await ann.send("join", "red")
        assert await ann.request("score", 5) == 5
        assert await ann.request("count") == 1
        await harness.hibernate()
        assert not harness.awake
        assert ann.meta.score == 5
        await harness.hibernate()
        await bob.send("tell", "red")
        assert [event.type for event in ann.received] == ["told"]
        assert await ann.request("score", 1) == 6
        assert await ann.request("count") == 1


async def test_hibernate_names_what_keeps_the_room_awake() -> None:
    room = a_room()

    @room.on("spawn")
    def spawn(ctx: Context[Player], data: Any) -> None:
        ctx.actor.spawn(asyncio.Event().wait())

    async with RoomHarness(room) as harness:
        ann = await harness.connect(user_id="ann")
        await ann.send("spawn")
        with pytest.raises(RoomBusy, match="spawned task"):
            await harness.hibernate()
        await harness.advance(100)
        assert harness.awake
        await harness.hibernate(force=True)
        assert not harness.awake
        await ann.send("hang")
        with pytest.raises(RoomBusy, match="running hook"):
            await harness.hibernate(force=True)


async def test_the_rooms_own_word_about_its_sleep_counts() -> None:
    room = a_room(hibernate_after=10)

    @room.on("stay")
    def stay(ctx: Context[Player], data: Any) -> None:
        ctx.actor.keep_awake(25)

    @room.on("sleep")
    def sleep(ctx: Context[Player], data: Any) -> None:
        ctx.actor.hibernate()

    async with RoomHarness(room) as harness:
        ann = await harness.connect(user_id="ann")
        await ann.send("stay")
        with pytest.raises(RoomBusy, match="keep_awake"):
            await harness.hibernate()
        await harness.advance(20)
        assert harness.awake
        await harness.advance(20)
        assert not harness.awake
        await ann.send("stay")
        await ann.send("sleep")
        assert not harness.awake


async def test_a_room_whose_on_hibernate_waits_for_something_real_is_asleep_when_hibernate_returns() -> None:
    async def save(actor: Any) -> None:
        await asyncio.sleep(0.01)  # a database

    async with RoomHarness(a_room(on_hibernate=save, hibernate_after=10), settings=Settings(hook_timeout=5)) as room:
        ann = await room.connect(user_id="ann")
        await room.hibernate()
        assert not room.awake
        await ann.send("say", "hi")
        await room.hibernate(force=True)
        assert not room.awake
        await ann.send("say", "hi")
        await room.advance(100)
        assert not room.awake, "and what is real does not use up the time budget of the hook"


async def test_a_room_whose_on_hibernate_hangs_sleeps_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    assert incarnations._PATIENCE == 1.0
    monkeypatch.setattr(incarnations, "_PATIENCE", 0.05)
    end = asyncio.Event()

    async def stubborn(actor: Any) -> None:
        while not end.is_set():
            try:
                await end.wait()
            except asyncio.CancelledError:
                continue

    async with RoomHarness(a_room(on_hibernate=stubborn), settings=Settings(hook_timeout=5)) as room:
        ann = await room.connect(user_id="ann")
        with pytest.raises(RoomBusy, match="on_hibernate of test/test has not returned"):
            await room.hibernate()
        await ann.send("say", "waiting for the next life")
        assert ann.received == []
        await room.advance(10)
        assert [event.data["text"] for event in ann.received] == ["waiting for the next life"]
        assert [type(error) for error in room.take_errors()] == [HookTimeout]
        end.set()


@pytest.mark.parametrize("asleep", [False, True])
async def test_a_session_whose_close_waits_is_stale_also_in_a_room_that_just_woke(asleep: bool) -> None:
    room = a_room()

    @room.on("clean")
    def clean(ctx: Context[Player], data: Any) -> None:
        ctx.emit("cleaned", {"sessions": ctx.actor.cleanup_stale_sessions()})

    async with RoomHarness(room) as harness:
        ann = await harness.connect(user_id="ann")
        bob = await harness.connect(user_id="bob")
        if asleep:
            await harness.hibernate()
        await asyncio.gather(ann.send("clean"), bob.close())
        assert [event.data["sessions"] for event in ann.received] == [1]
        assert list(harness.sessions) == [ann.id]


async def test_the_hooks_of_sleep_and_waking_run() -> None:
    log: list[Any] = []
    room = a_room(
        on_hibernate=lambda actor: log.append("sleeps"),
        on_hibernation_restore=lambda actor: log.append(("woke with", len(actor.sessions))),
    )
    async with RoomHarness(room) as harness:
        ann = await harness.connect(user_id="ann")
        await harness.hibernate()
        await ann.close()
        assert log == ["sleeps", ("woke with", 1)]


# --- transparency --------------------------------------------------------------------------------------


async def talk(room: RoomHarness[Any, Any]) -> None:
    ann = await room.connect(user_id="ann")
    bob = await room.connect(user_id="bob")
    await ann.send("join", "red")
    await bob.send("tell", "red")
    await ann.request("score", 3)
    await room.advance(30)
    await room.hibernate()
    assert await ann.request("score", 3) == 6
    await bob.send("kick", "ann")
    await bob.close(1001)


async def test_a_difference_is_the_fault_of_the_point_that_is_named() -> None:
    async def script(room: RoomHarness[Any, Any]) -> None:
        ann = await room.connect(user_id="ann")
        await ann.send("count")
        await room.advance(100)
        await room.hibernate()
        bob = await room.connect(user_id="bob")
        await bob.send("count")

    with pytest.raises(AssertionError) as difference:
        await assert_hibernation_transparent(counting_room(), script)
    assert "asleep after: ann sent 'count'; before: 100 s passed\n" in str(difference.value)


async def test_what_is_kept_in_meta_is_transparent() -> None:
    assert await assert_hibernation_transparent(a_room(), talk) >= 8


def counting_room() -> RoomDefinition[ConnectionMeta, Any]:
    room = define_room("counting")

    @room.on("count")
    def count(ctx: Context, data: Any) -> None:
        ctx.actor.state.count = getattr(ctx.actor.state, "count", 0) + 1
        ctx.actor.broadcast("default", {"type": "count", "is": ctx.actor.state.count})

    return room


async def test_state_that_is_lost_is_shown_as_a_diff_that_names_the_point() -> None:
    async def script(room: RoomHarness[Any, Any]) -> None:
        ann = await room.connect(user_id="ann")
        await ann.send("count")
        await ann.send("count")

    texts = set()
    for _ in range(3):
        with pytest.raises(AssertionError) as difference:
            await assert_hibernation_transparent(counting_room(), script)
        texts.add(str(difference.value))
    (text,) = texts  # the same in every run
    assert text.splitlines() == [
        "counting: the sleep of the room is visible; asleep after: ann sent 'count'; before: ann sent 'count'",
        "--- never asleep",
        "+++ asleep after: ann sent 'count'; before: ann sent 'count'",
        "@@ -2,5 +2,5 @@",
        " ann sent 'count'",
        '     ann: {"type":"event","channel":"default","data":{"type":"count","is":1}}',
        " ann sent 'count'",
        '-    ann: {"type":"event","channel":"default","data":{"type":"count","is":2}}',
        '+    ann: {"type":"event","channel":"default","data":{"type":"count","is":1}}',
        " the script ended",
    ]


async def test_hooks_that_wait_for_something_real_do_not_hide_that_state_is_lost() -> None:
    room = define_room("counting")

    @room.on("count")
    async def count(ctx: Context, data: Any) -> None:
        await asyncio.sleep(0.005)  # a database
        ctx.actor.state.count = getattr(ctx.actor.state, "count", 0) + 1
        ctx.emit("counted", {"count": ctx.actor.state.count, "id": uuid.uuid4().hex})

    async def script(room: RoomHarness[Any, Any]) -> None:
        ann = await room.connect(user_id="ann")
        for _ in range(3):
            await ann.send("count")

    with pytest.raises(AssertionError, match="asleep after: ann sent 'count'; before: ann sent 'count'"):
        await assert_hibernation_transparent(room, script)
    mask = re.compile(r'"count":\d+').sub
    assert await assert_hibernation_transparent(room, script, mask=lambda text: mask("", text)) == 4


async def test_points_at_which_a_task_or_a_hook_keeps_the_room_awake_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    assert incarnations._PATIENCE == 1.0
    monkeypatch.setattr(incarnations, "_PATIENCE", 0.05)
    room = a_room()
    gate = asyncio.Event()

    @room.on("wait")
    async def wait(ctx: Context[Player], in_task: bool) -> None:
        if in_task:
            ctx.actor.spawn(gate.wait())
        else:
            await gate.wait()

    async def script(room: RoomHarness[Any, Any]) -> None:
        gate.clear()
        ann = await room.connect(user_id="ann")
        await ann.send("say", "before")
        await ann.send("wait", True)
        await ann.send("wait", False)
        await ann.send("say", "meanwhile")
        gate.set()
        await room.idle()
        await ann.send("say", "after")

    with pytest.warns(UserWarning, match="nothing is known") as told:
        assert await assert_hibernation_transparent(room, script) == 5
    assert [str(warning.message).splitlines() for warning in told] == [
        [
            "test: nothing is known of the sleep of the room where it was busy:",
            "    before: ann sent 'wait' false (spawned task)",
            "    before: ann sent 'say' \"meanwhile\" (running hook)",
        ]
    ]


async def test_where_a_room_wants_to_stay_awake_its_sleep_is_not_missed() -> None:
    room = counting_room()
    room.on("count")(lambda ctx, data: ctx.actor.keep_awake(60))

    async def script(room: RoomHarness[Any, Any]) -> None:
        ann = await room.connect(user_id="ann")
        await ann.send("count")
        await ann.send("count")

    assert await assert_hibernation_transparent(room, script) == 1


async def test_a_script_that_fails_in_a_room_that_slept_is_a_difference() -> None:
    async def script(room: RoomHarness[Any, Any]) -> None:
        ann = await room.connect(user_id="ann")
        await ann.send("count")
        assert room.actor.state.count == 1
        await ann.send("count")
        assert room.actor.state.count == 2, "lost count"

    with pytest.raises(AssertionError, match="the script raised AssertionError") as difference:
        await assert_hibernation_transparent(counting_room(), script)
    assert isinstance(difference.value.__cause__, AssertionError)


async def test_errors_and_closes_of_a_room_that_slept_are_differences() -> None:
    room = define_room("test")

    @room.on_hibernation_restore
    def restore(actor: Any) -> None:
        raise ValueError("cannot restore")

    @room.on("nothing")
    def nothing(ctx: Context, data: Any) -> None:
        pass

    async def script(room: RoomHarness[Any, Any]) -> None:
        await (await room.connect(user_id="ann")).send("nothing")

    with pytest.raises(AssertionError, match=r"\+    a hook: raised ValueError\('cannot restore'\)"):
        await assert_hibernation_transparent(room, script)


async def test_a_script_that_fails_anyway_fails_as_it_is() -> None:
    async def script(room: RoomHarness[Any, Any]) -> None:
        raise KeyError("wrong")

    with pytest.raises(KeyError, match="wrong"):
        await assert_hibernation_transparent(a_room(), script)


async def test_a_room_that_is_always_busy_shows_nothing_and_says_so() -> None:
    room = define_room("busy", on_connect=lambda ctx: ctx.actor.spawn(asyncio.Event().wait()) and None)

    async def script(room: RoomHarness[Any, Any]) -> None:
        await room.connect(user_id="ann")
        await room.advance(100)

    with pytest.raises(AssertionError, match=r"busy at every point:\n    before: 100 s passed \(spawned task\)\n"):
        await assert_hibernation_transparent(room, script)


async def test_random_values_are_no_difference() -> None:
    def draw() -> dict[str, Any]:
        return {
            "uuid": uuid.uuid4().hex,
            "urandom": os.urandom(8).hex(),
            "random": random.random(),
            "secret": secrets.token_hex(),
            "choice": secrets.choice(range(1 << 60)),
            "system": random.SystemRandom().random(),
        }

    room = define_room("ids", state=draw)

    @room.on("draw")
    def make(ctx: Context, data: Any) -> dict[str, Any]:
        return draw()

    seen: dict[str, set[Any]] = {kind: set() for kind in draw()}

    async def script(room: RoomHarness[Any, Any]) -> None:
        ann = await room.connect(query={"userId": "ann"})
        for _ in range(3):
            for kind, value in (await ann.request("draw")).items():
                seen[kind].add(value)

    state = random.getstate()
    await assert_hibernation_transparent(room, script)
    assert {kind: len(values) for kind, values in seen.items()} == dict.fromkeys(seen, 3)
    assert random.getstate() == state
    assert len({secrets.token_hex() for _ in range(2)}) == 2


async def test_what_differs_from_run_to_run_can_be_masked() -> None:
    numbers = itertools.count()
    room = define_room("numbers", on_connect=lambda ctx: ctx.emit("at", {"at": next(numbers)}) and None)

    async def script(room: RoomHarness[Any, Any]) -> None:
        await (await room.connect(user_id="ann")).close()

    with pytest.raises(AssertionError, match="the sleep of the room is visible"):
        await assert_hibernation_transparent(room, script)
    await assert_hibernation_transparent(room, script, mask=lambda text: text.split('"at":')[0])


# --- calls ---------------------------------------------------------------------------------------------


def a_bank() -> RoomDefinition[Player, Any]:
    bank = define_room("bank", meta=Player)

    @bank.rpc
    async def award(actor: Any, user_id: str, points: int = 1) -> int:
        for session in actor.get_user_sessions(user_id):
            session.update(score=session.meta.score + points)
            actor.emit_to_user(user_id, "awarded", {"points": points})
        return sum(session.meta.score for session in actor)

    @bank.rpc
    async def wait(actor: Any) -> None:
        await asyncio.Event().wait()

    @bank.rpc
    async def total(actor: Any, others: list[str]) -> int:
        return sum([await actor.stub(bank, other).award("ada", points=0) for other in others])

    @bank.on("later")
    def later(ctx: Context[Player], data: Any) -> None:
        async def count() -> None:
            ctx.actor.broadcast("default", await ctx.actor.stub(bank, "test").get_session_count())

        ctx.actor.spawn(count())

    return bank


@pytest.mark.parametrize("room_id", ["", "a/b", "a\u200bb", "a\n", "x" * 129])
def test_a_room_that_no_client_could_reach_is_refused(room_id: str) -> None:
    with pytest.raises(ValueError, match="RoomHarness: expected a room id"):
        RoomHarness(define_room("chat"), room_id=room_id)


async def test_a_call_wakes_the_room_and_returns_what_the_method_returns() -> None:
    async with RoomHarness(a_bank()) as room:
        assert await room.call("get_session_count") == 0
        ada = await room.connect(user_id="ada")
        await room.hibernate()
        assert await room.call("award", "ada", points=3) == 3
        assert await room.call("award", user_id="ada") == 4
        assert [event.data for event in ada.take()] == [
            {"type": "awarded", "points": 3},
            {"type": "awarded", "points": 1},
        ]
        assert ada.meta.score == 4
        with pytest.raises(InvalidArguments, match=r"Expected `int \| null`"):
            await room.call("award", "ada", "many")
        with pytest.raises(NotFound):
            await room.call("nothing")
        with pytest.raises(TypeError):
            await room.call("award", "ada", nothing=1)


async def test_the_deadline_of_a_call_is_one_of_the_rooms_clock() -> None:
    async with RoomHarness(a_bank(), settings=Settings(hook_timeout=60)) as room:
        call = asyncio.create_task(room.call("wait", timeout=20))
        await room.advance(19.9)
        assert not call.done()
        await room.advance(0.1)
        with pytest.raises(DeadlineExceeded):
            await call


async def test_a_call_that_waits_when_the_harness_ends_is_interrupted() -> None:
    async with RoomHarness(a_bank()) as room:
        call = asyncio.create_task(room.call("wait"))
        await room.advance(0.1)
    with pytest.raises(Interrupted):
        await call


async def test_other_rooms_are_what_the_test_says_they_are() -> None:
    asked: list[Any] = []

    async def others(room: str, method: str, arguments: Any) -> int:
        asked.append((room, method, arguments))
        if room == "bank/closed":
            raise Forbidden("closed")
        return 20

    async with RoomHarness(a_bank(), calls=others) as room:
        assert await room.call("total", ["north", "south"]) == 40
        assert [call[0] for call in asked] == ["bank/north", "bank/south"]
        assert asked[0][1:] == ("award", {"user_id": "ada", "points": 0})
        for target, error in (("closed", Forbidden), ("test", CallCycle)):
            with pytest.raises(CallFailed):
                await room.call("total", [target])
            assert [type(raised) for raised in room.take_errors()] == [error]


async def test_without_a_stand_in_another_room_is_not_found_and_the_error_says_what_to_do() -> None:
    room = RoomHarness(a_bank(), check_errors=False)
    async with room:
        with pytest.raises(CallFailed):
            await room.call("total", ["north"])
    [error] = room.errors
    assert isinstance(error, NotFound)
    assert "calls=" in str(error)


async def test_a_spawned_task_may_call_its_own_room() -> None:
    async with RoomHarness(a_bank()) as room:
        ada = await room.connect(user_id="ada")
        await ada.send("later")
        assert [event.data for event in ada.take()] == [1]


async def test_calls_are_part_of_the_proof_that_sleep_is_invisible() -> None:
    async def script(room: RoomHarness[Any, Any]) -> None:
        ada = await room.connect(user_id="ada")
        assert await room.call("award", "ada", points=3) == 3
        await ada.send("later")
        assert await room.call("award", "ada") == 4

    assert await assert_hibernation_transparent(a_bank(), script) == 4

    forgetful = define_room("test", state=lambda: {"calls": 0})

    @forgetful.rpc
    def count(actor: Any) -> int:
        actor.state["calls"] += 1
        return int(actor.state["calls"])

    async def twice(room: RoomHarness[Any, Any]) -> None:
        await room.call("count")
        await room.call("count")

    with pytest.raises(AssertionError, match=r"the caller: got 1"):
        await assert_hibernation_transparent(forgetful, twice)

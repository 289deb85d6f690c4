"""How long a hook may run: it is cancelled at its budget, and abandoned if it ignores that."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.verani.conftest import OpenRoom, Room, noted
from verani import ConnectionMeta, Context, HookTimeout, RoomAsleep, Settings, define_room
from verani.engine.hook_runner import CANCEL_GRACE

BUDGET = Settings().hook_timeout


class Player(ConnectionMeta, kw_only=True):
    score: int = 0


class Stubborn:
    """A hook that ignores its cancellations until it is released."""

    def __init__(self) -> None:
        self.released = asyncio.Event()
        self.cancellations = 0

    async def wait(self) -> None:
        while not self.released.is_set():
            try:
                await self.released.wait()
            except asyncio.CancelledError:
                self.cancellations += 1


@pytest.fixture
def stubborn() -> Stubborn:
    return Stubborn()


async def release(lobby: Room, stubborn: Stubborn) -> None:
    stubborn.released.set()
    await asyncio.wait(lobby.mail.abandoned)
    await lobby.settle()
    for task in lobby.mail.abandoned:
        task.result()


# --- cancelled at the budget ---------------------------------------------------------------------------


async def test_an_awaiting_hook_is_cancelled_at_its_budget(open_room: OpenRoom) -> None:
    room, seen = define_room("chat", meta=Player), list[Any]()

    @room.on("x")
    async def handler(ctx: Context[Player, Any], data: Any) -> None:
        ctx.meta.score = 9
        await asyncio.Event().wait()

    room.on("y")(lambda ctx, data: seen.append("next"))
    room.on_error(lambda error, ctx: seen.append((type(error), str(error), ctx.meta.score)))
    lobby = open_room(room)
    await lobby.connect("a")
    lobby.put_frame("a", "x", request=3)
    lobby.put_frame("a", "y")
    await lobby.settle()
    await lobby.pass_time(BUDGET)
    assert (seen, lobby.numbers) == ([], [1])
    assert not await lobby.pass_time(0.1)
    assert seen == [(HookTimeout, "a hook of chat/lobby (frame) ran longer than 30 s", 0), "next"]
    assert lobby.received("a") == [b'{"type":"ack","id":3,"error":{"code":"deadline"}}']
    assert lobby.numbers == [1, 2, 3]
    assert lobby.suspended == set()


async def test_the_budget_is_that_of_the_settings_and_starts_anew_with_each_hook(open_room: OpenRoom) -> None:
    room, seen, gate = define_room("chat"), list[str](), asyncio.Event()

    @room.on("x")
    async def handler(ctx: Context[Any, Any], data: Any) -> None:
        gate.clear()
        await gate.wait()
        seen.append("done")

    room.on_error(lambda error, ctx: seen.append(str(error)))
    lobby = open_room(room, settings=Settings(hook_timeout=2))
    await lobby.connect("a")
    for _ in range(3):
        await lobby.frame("a", "x")
        await lobby.pass_time(1.9)
        gate.set()
        await lobby.settle()
    assert seen == ["done"] * 3
    await lobby.frame("a", "x")
    await lobby.pass_time(2.1)
    assert seen[3:] == ["a hook of chat/lobby (frame) ran longer than 2 s"]


async def test_time_that_passes_between_hooks_counts_for_none(open_room: OpenRoom) -> None:
    room, gate = define_room("chat"), asyncio.Event()

    @room.on("x")
    async def handler(ctx: Context[Any, Any], data: Any) -> str:
        await gate.wait()
        return "fine"

    lobby = open_room(room)
    await lobby.connect("a")
    await lobby.pass_time(10 * BUDGET)
    await lobby.frame("a", "x", request=1)
    await lobby.pass_time(1)
    gate.set()
    await lobby.settle()
    assert lobby.received("a") == [b'{"type":"ack","id":1,"data":"fine"}']


async def test_a_hook_that_swallows_the_cancellation_and_returns_within_the_grace_has_returned(
    open_room: OpenRoom,
) -> None:
    room, seen = define_room("chat", meta=Player), list[Any]()

    @room.on("x")
    async def handler(ctx: Context[Player, Any], data: Any) -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ctx.meta.score = 1
            ctx.emit("tidied up")
        await asyncio.sleep(0)
        return "late"

    @room.on("y")
    async def stray(ctx: Context[Player, Any], data: Any) -> None:
        raise asyncio.CancelledError

    room.on_error(lambda error, ctx: seen.append(type(error)))
    lobby = open_room(room)
    await lobby.connect("a")
    lobby.put_frame("a", "x", request=3)
    lobby.put_frame("a", "y")
    await lobby.settle()
    await lobby.pass_time(BUDGET + 1)
    assert lobby.received("a")[-1] == b'{"type":"ack","id":3,"data":"late"}'
    assert lobby.committed("a").score == 1
    assert seen == [asyncio.CancelledError]  # the task bears no trace of the cancellation that was swallowed
    assert lobby.numbers == [1, 2, 3]


async def test_a_hook_that_turns_the_cancellation_into_an_error_has_failed_with_that(open_room: OpenRoom) -> None:
    room, seen = define_room("chat"), list[type[BaseException]]()

    @room.on("x")
    async def handler(ctx: Context[Any, Any], data: Any) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise ConnectionError from None

    room.on_error(lambda error, ctx: seen.append(type(error)))
    lobby = open_room(room)
    await lobby.connect("a")
    await lobby.frame("a", "x")
    await lobby.pass_time(BUDGET + 1)
    assert seen == [ConnectionError]
    assert lobby.numbers == [1, 2]


@pytest.mark.parametrize("hook", ["on_connect", "on_hibernation_restore", "on_hibernate", "on_error"])
async def test_every_kind_of_hook_has_the_budget(make_room: OpenRoom, hook: str) -> None:
    room, seen = define_room("chat"), list[BaseException]()

    async def forever(*arguments: Any) -> None:
        await asyncio.Event().wait()

    getattr(room, hook)(forever)
    if hook != "on_error":
        room.on_error(lambda error, ctx: seen.append(error))
    room.on("x")(lambda ctx, data: 1 / 0)
    lobby = make_room(room)
    await lobby.wake(("g1", [lobby.record("old")]))
    await lobby.pass_time(BUDGET + 1)
    await lobby.connect("a")
    await lobby.pass_time(BUDGET + 1)
    await lobby.frame("a", "x")
    await lobby.pass_time(BUDGET + 1)
    await lobby.sleep()
    await lobby.pass_time(BUDGET + 1)
    assert lobby.numbers == [1, 2]
    assert lobby.sink.kicks == ([("a", 1011, "")] if hook == "on_connect" else [])
    assert [type(error) for error in seen if not isinstance(error, ZeroDivisionError)] == (
        [] if hook == "on_error" else [HookTimeout]
    )
    with pytest.raises(RoomAsleep):
        lobby.engine.actor.get_session_count()


async def test_expire_of_a_room_that_runs_no_hook_does_nothing(open_room: OpenRoom) -> None:
    lobby = open_room(define_room("chat"))
    await lobby.connect("a")
    lobby.clock.now += 10 * BUDGET
    assert lobby.engine.expire() is False


# --- abandoned -----------------------------------------------------------------------------------------


async def test_a_hook_that_ignores_its_cancellation_is_abandoned_and_the_room_goes_on(
    open_room: OpenRoom, stubborn: Stubborn
) -> None:
    room, seen = define_room("chat", meta=Player), list[Any]()

    @room.on("x")
    async def handler(ctx: Context[Player, Any], data: Any) -> str:
        ctx.meta.score = 9
        ctx.join("news")
        ctx.emit("before")
        await stubborn.wait()
        for operation in (
            lambda: ctx.meta,
            lambda: ctx.emit("after"),
            lambda: ctx.join("c"),
            lambda: ctx.close(),
            lambda: ctx.ws.update(score=1),
            lambda: ctx.actor.broadcast("default", 1),
            lambda: ctx.actor.close("b"),
            lambda: ctx.actor.state,
            lambda: ctx.actor.spawn(stubborn.wait()),
            lambda: ctx.actor.cleanup_stale_sessions(),
        ):
            with pytest.raises(RoomAsleep):
                operation()
        with pytest.raises(RoomAsleep):
            await ctx.drain()
        with pytest.raises(RoomAsleep):
            await asyncio.create_task(in_a_task_of_its_own(ctx))
        seen.append("the old hook ended")
        return "too late"

    async def in_a_task_of_its_own(ctx: Context[Player, Any]) -> None:
        ctx.emit("after")

    room.on("y")(lambda ctx, data: noted(seen, "next", "fine"))
    room.on_error(lambda error, ctx: seen.append((type(error), ctx.meta.score, ctx.ws.channels, ctx.emit("sorry"))))
    lobby = open_room(room)
    await lobby.connect("a", "b")
    lobby.put_frame("a", "x", request=3)
    lobby.put_frame("b", "y", request=4)
    await lobby.settle()
    await lobby.abandon_hook()
    assert stubborn.cancellations == 1
    assert lobby.received("b") == [b'{"type":"ack","id":4,"data":"fine"}']
    assert lobby.take("a")[1] == {"type": "ack", "id": 3, "error": {"code": "deadline"}}
    assert seen == ["next", (HookTimeout, 0, ("default",), 1)]
    assert lobby.numbers == [1, 2, 3, 4]
    effects = list(lobby.sink.effects)
    await release(lobby, stubborn)
    assert seen[2:] == ["the old hook ended"]
    assert lobby.sink.effects == effects
    assert await lobby.request("a", "y") == b'{"type":"ack","id":7,"data":"fine"}'


async def test_a_hook_is_given_a_grace_of_a_second_to_end_after_its_cancellation(
    open_room: OpenRoom, stubborn: Stubborn
) -> None:
    room = define_room("chat")

    @room.on("x")
    async def handler(ctx: Context[Any, Any], data: Any) -> None:
        await stubborn.wait()

    lobby = open_room(room)
    await lobby.connect("a")
    await lobby.frame("a", "x")
    assert not await lobby.pass_time(BUDGET + 0.1)
    assert not await lobby.pass_time(CANCEL_GRACE)
    assert stubborn.cancellations == 1
    assert await lobby.pass_time(0.1)
    assert lobby.engine.expire() is False  # told once
    await release(lobby, stubborn)


@pytest.mark.parametrize("outcome", ["returns", "raises", "is cancelled"])
async def test_however_an_abandoned_hook_ends_later_nothing_comes_of_it(
    open_room: OpenRoom, stubborn: Stubborn, outcome: str
) -> None:
    room, seen = define_room("chat"), list[BaseException]()

    @room.on("x")
    async def handler(ctx: Context[Any, Any], data: Any) -> str:
        await stubborn.wait()
        if outcome == "raises":
            raise RuntimeError
        if outcome == "is cancelled":
            raise asyncio.CancelledError
        return "late"

    room.on_error(lambda error, ctx: seen.append(error))
    lobby = open_room(room)
    await lobby.connect("a")
    await lobby.frame("a", "x", request=3)
    await lobby.abandon_hook()
    effects, errors = list(lobby.sink.effects), len(seen)
    await release(lobby, stubborn)
    assert (lobby.sink.effects, len(seen), errors) == (effects, 1, 1)


async def test_an_old_hook_that_ends_while_another_runs_leaves_that_one_alone(
    open_room: OpenRoom, stubborn: Stubborn
) -> None:
    room, gate = define_room("chat", meta=Player), asyncio.Event()

    @room.on("x")
    async def handler(ctx: Context[Player, Any], data: Any) -> None:
        await stubborn.wait()

    @room.on("y")
    async def other(ctx: Context[Player, Any], data: Any) -> None:
        ctx.meta.score = 1
        await gate.wait()
        ctx.join("news")

    lobby = open_room(room)
    await lobby.connect("a")
    await lobby.frame("a", "x")
    await lobby.abandon_hook()
    await lobby.frame("a", "y")
    await release(lobby, stubborn)
    assert lobby.engine.busy == "running hook"
    assert lobby.suspended == {lobby.engine}
    gate.set()
    await lobby.settle()
    assert lobby.committed("a") == lobby.meta("a", channels=("default", "news"), score=1)


async def test_the_context_of_an_abandoned_hook_is_disarmed_for_that_hook_only(
    open_room: OpenRoom, stubborn: Stubborn
) -> None:
    room, kept = define_room("chat"), list[Context[Any, Any]]()

    @room.on("x")
    async def handler(ctx: Context[Any, Any], data: Any) -> None:
        kept.append(ctx)
        await stubborn.wait()

    room.on("y")(lambda ctx, data: kept[0].emit("through an old handle"))
    lobby = open_room(room)
    await lobby.connect("a")
    await lobby.frame("a", "x")
    await lobby.abandon_hook()
    assert await lobby.request("a", "y") == b'{"type":"ack","id":7,"data":1}'
    await release(lobby, stubborn)


async def test_an_abandoned_on_connect_closes_with_1011_and_runs_no_on_disconnect(
    open_room: OpenRoom, stubborn: Stubborn
) -> None:
    room, seen = define_room("chat"), list[str]()

    @room.on_connect
    async def connected(ctx: Context[Any, Any]) -> None:
        await stubborn.wait()
        seen.append("the old hook ended")

    room.on("*")(lambda ctx, data: seen.append("frame"))
    room.on_disconnect(lambda ctx: seen.append("disconnect"))
    room.on_error(lambda error, ctx: seen.append(type(error).__name__))
    lobby = open_room(room)
    lobby.put_connect("a")
    lobby.put_frame("a", "x", request=1)
    await lobby.settle()
    await lobby.abandon_hook()
    assert lobby.sink.kicks == [("a", 1011, "")]
    await lobby.close("a", 1011)
    await release(lobby, stubborn)
    assert seen == ["HookTimeout", "the old hook ended"]
    assert lobby.received("a") == []
    assert lobby.numbers == [1, 2, 3]


async def test_an_abandoned_on_hibernate_does_not_keep_the_room_awake(make_room: OpenRoom, stubborn: Stubborn) -> None:
    room, seen = define_room("chat"), list[str]()

    @room.on_hibernate
    async def hibernate(actor: Any) -> None:
        await stubborn.wait()
        with pytest.raises(RoomAsleep):
            actor.broadcast("default", 1)
        seen.append("the old hook ended")

    room.on_error(lambda error, ctx: seen.append(type(error).__name__))
    lobby = make_room(room)
    await lobby.wake(("g1", [lobby.record("a")]))
    await lobby.sleep()
    assert lobby.engine.busy == "running hook"
    await lobby.abandon_hook()
    assert lobby.engine.busy is None
    assert seen == ["HookTimeout"]
    lobby.engine.end()  # as the room actor does when it resumes
    await lobby.wake(*lobby.records(), fresh=True)
    await release(lobby, stubborn)
    assert seen == ["HookTimeout", "the old hook ended"]
    assert lobby.engine.actor.get_session_count() == 1


async def test_an_abandoned_on_error_is_logged_and_not_reported_again(
    open_room: OpenRoom, stubborn: Stubborn, caplog: pytest.LogCaptureFixture
) -> None:
    room, calls = define_room("chat"), list[type[BaseException]]()
    room.on("x")(lambda ctx, data: 1 / 0)
    room.on("y")(lambda ctx, data: "fine")

    @room.on_error
    async def on_error(error: BaseException, ctx: Context[Any, Any]) -> None:
        calls.append(type(error))
        await stubborn.wait()

    lobby = open_room(room)
    await lobby.connect("a")
    await lobby.frame("a", "x")
    await lobby.abandon_hook()
    assert calls == [ZeroDivisionError]
    assert [record.exc_info[0] for record in caplog.records if record.exc_info] == [ZeroDivisionError, HookTimeout]
    assert lobby.numbers == [1, 2]
    assert await lobby.request("a", "y") == b'{"type":"ack","id":7,"data":"fine"}'
    await release(lobby, stubborn)


async def test_an_on_error_abandoned_over_an_answer_that_cannot_be_sent_leaves_no_input_unprocessed(
    open_room: OpenRoom, stubborn: Stubborn
) -> None:
    room = define_room("chat")
    room.on("x")(lambda ctx, data: object())

    @room.on_error
    async def on_error(error: BaseException, ctx: Context[Any, Any]) -> None:
        await stubborn.wait()

    lobby = open_room(room)
    await lobby.connect("a")
    assert await lobby.request("a", "x") == b'{"type":"ack","id":7,"error":{"code":"failed"}}'
    await lobby.abandon_hook()
    assert lobby.numbers == [1, 2]
    await release(lobby, stubborn)


async def test_a_hook_may_be_cancelled_for_real_after_it_swallowed_its_budget(
    open_room: OpenRoom, stubborn: Stubborn
) -> None:
    """A shell that goes away still gets its task back."""
    room = define_room("chat")

    @room.on("x")
    async def handler(ctx: Context[Any, Any], data: Any) -> None:
        await stubborn.wait()

    lobby = open_room(room)
    await lobby.connect("a")
    await lobby.frame("a", "x")
    await lobby.pass_time(BUDGET + 0.1)
    task = lobby.cancel()
    stubborn.released.set()
    await asyncio.wait([task])
    assert task.cancelled() or task.exception() is None


def test_a_room_that_is_not_awake_yet_is_not_busy(make_room: Any) -> None:
    lobby: Room = make_room(define_room("chat"))
    assert lobby.engine.busy is None

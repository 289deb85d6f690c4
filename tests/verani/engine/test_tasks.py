"""Tasks that hooks start: when their outputs leave, what keeps the room awake, what their errors lead to."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import pytest

from tests.verani.conftest import Attached, OpenRoom, Room, Sent
from verani import ConnectionMeta, Context, RoomBusy, TooLarge, VeraniError, define_room
from verani.engine.outputs import MAX_HOOK_OUTPUT, MAX_OUTPUT_FRAME


class Player(ConnectionMeta, kw_only=True):
    score: int = 0


class Stage:
    """A room whose event "spawn" starts `act` and whose event "wait" runs a hook until `gate` opens."""

    def __init__(self, open_room: OpenRoom) -> None:
        self.go = asyncio.Event()
        self.gate = asyncio.Event()
        self.seen: list[Any] = []
        self.tasks: list[asyncio.Task[Any]] = []
        self.act: Any = None
        room = define_room("game", meta=Player)

        @room.on("spawn")
        def spawn(ctx: Context[Player, Any], data: Any) -> None:
            self.tasks.append(ctx.actor.spawn(self.run(ctx)))

        @room.on("wait")
        async def wait(ctx: Context[Player, Any], data: Any) -> None:
            ctx.emit("begin")
            await self.gate.wait()
            ctx.emit("end")
            if data == "raise":
                raise RuntimeError

        @room.on("join and wait")
        async def join_and_wait(ctx: Context[Player, Any], data: Any) -> None:
            ctx.join("vip")
            await self.gate.wait()

        room.on_error(lambda error, ctx: self.seen.append((type(error).__name__, str(error), ctx.ws.id)))
        self.lobby: Room = open_room(room)

    async def run(self, ctx: Context[Player, Any]) -> Any:
        await self.go.wait()
        result = self.act(ctx)
        return await result if asyncio.iscoroutine(result) else result

    async def spawned(self, act: Any) -> None:
        self.act = act
        await self.lobby.connect("a", "b")
        await self.lobby.frame("a", "spawn")

    async def start(self) -> None:
        self.go.set()
        await self.lobby.settle()


@pytest.fixture
async def stage(open_room: OpenRoom) -> Stage:
    return Stage(open_room)


async def test_a_spawned_task_keeps_the_room_busy_until_it_ends_and_holds_up_no_input(stage: Stage) -> None:
    await stage.spawned(lambda ctx: "result")
    assert stage.lobby.numbers == [1, 2, 3]
    assert stage.lobby.engine.busy == "spawned task"
    await stage.start()
    assert stage.lobby.engine.busy is None
    assert await stage.tasks[0] == "result"


async def test_what_a_task_sends_while_no_hook_runs_leaves_at_once(stage: Stage) -> None:
    await stage.spawned(lambda ctx: stage.seen.append(ctx.actor.broadcast("default", "tick")))
    await stage.start()
    assert stage.seen == [2]
    assert stage.lobby.data("b") == ["tick"]
    last = [effect for effect in stage.lobby.sink.effects if isinstance(effect, Sent)][-1]
    assert last.cause is None


@pytest.mark.parametrize("outcome", ["return", "raise"])
async def test_what_a_task_sends_while_a_hook_runs_leaves_when_that_hook_has_ended(stage: Stage, outcome: str) -> None:
    def act(ctx: Context[Player, Any]) -> None:
        stage.seen.append(ctx.actor.broadcast("default", "tick"))
        ctx.actor.close("b", 4000)
        stage.seen.append(ctx.actor.get_session_count())

    await stage.spawned(act)
    await stage.lobby.frame("a", "wait", outcome)
    await stage.start()
    assert stage.seen == [2, 1]
    assert stage.lobby.data("a") == [{"type": "begin"}]
    assert stage.lobby.sink.kicks == []
    stage.gate.set()
    await stage.lobby.settle()
    assert stage.lobby.data("a") == [{"type": "end"}, "tick"]
    assert stage.lobby.sink.kicks == [("b", 4000, "")]
    causes = [effect.cause for effect in stage.lobby.sink.effects if isinstance(effect, Sent)]
    assert causes == [4, 4, None, None]


async def test_what_a_task_sent_meanwhile_leaves_when_the_hook_is_abandoned(stage: Stage) -> None:
    released = asyncio.Event()

    async def stubborn(ctx: Any, data: Any) -> None:
        while not released.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await released.wait()

    stage.lobby.definition.on("stubborn")(stubborn)
    del stage.lobby.definition.hooks["on_error"]  # or its end would let the outputs go
    await stage.spawned(lambda ctx: ctx.actor.broadcast("default", "tick"))
    await stage.lobby.frame("a", "stubborn")
    await stage.start()
    assert stage.lobby.data("b") == []
    await stage.lobby.abandon_hook()
    assert stage.lobby.data("b") == ["tick"]
    released.set()
    await asyncio.wait(stage.lobby.mail.abandoned)


async def test_a_change_of_a_task_while_no_hook_runs_is_committed_at_once(stage: Stage) -> None:
    async def act(ctx: Context[Player, Any]) -> None:
        ctx.join("news")
        stage.seen.append(len([e for e in stage.lobby.sink.effects if isinstance(e, Attached)]))
        ctx.ws.update(score=5)
        ctx.actor.sessions["b"].leave("default")
        await asyncio.sleep(0)
        raise RuntimeError("too late to undo anything")

    await stage.spawned(act)
    await stage.start()
    assert stage.seen[0] == 1
    assert stage.lobby.committed("a") == stage.lobby.meta("a", channels=("default", "news"), score=5)
    assert stage.lobby.committed("b").channels == ()
    assert stage.lobby.engine.actor.broadcast("default", 1) == 1


async def test_a_change_of_a_task_that_does_not_fit_is_refused_at_once_and_undone(stage: Stage) -> None:
    def act(ctx: Context[Player, Any]) -> None:
        def join_too_many() -> None:
            for number in range(120):
                ctx.ws.join(f"{'x' * 200}{number}")

        changes: list[Callable[[], None]] = [
            lambda: ctx.ws.update(score="many"),
            lambda: ctx.ws.update(score=object()),
            join_too_many,
            lambda: ctx.ws.update(score=5, user_id="eve"),
        ]
        for change in changes:
            with pytest.raises((TypeError, TooLarge, AttributeError)) as caught:
                change()
            stage.seen.append(type(caught.value))

    await stage.spawned(act)
    await stage.start()
    assert stage.seen == [TypeError, TypeError, TooLarge, AttributeError]
    session = stage.lobby.engine.actor.sessions["a"]
    assert session.meta == stage.lobby.committed("a")
    assert session.meta.score == 0
    assert 60 < len(session.channels) < 100
    assert len(stage.lobby.sink.attachments["a"]) <= stage.lobby.settings.max_meta_bytes


async def test_the_meta_of_a_context_is_a_copy_in_a_task(stage: Stage) -> None:
    def act(ctx: Context[Player, Any]) -> None:
        ctx.meta.score = 9
        stage.seen.append(ctx.meta.score)

    await stage.spawned(act)
    await stage.start()
    assert stage.seen == [0]
    await stage.lobby.frame("a", "wait")
    assert not any(isinstance(effect, Attached) for effect in stage.lobby.sink.effects)


@pytest.mark.parametrize("error", [RuntimeError("task"), BaseException("task"), VeraniError("task")])
async def test_the_error_of_a_task_goes_to_on_error_in_its_turn(stage: Stage, error: BaseException) -> None:
    def act(ctx: Context[Player, Any]) -> None:
        raise error

    await stage.spawned(act)
    await stage.lobby.frame("a", "wait")
    await stage.start()
    assert stage.seen == []  # one hook at a time
    stage.gate.set()
    await stage.lobby.settle()
    assert stage.seen == [(type(error).__name__, "task", "a")]
    assert [posted.error for posted in stage.lobby.posted] == [error]


@pytest.mark.parametrize("error", [SystemExit("task"), KeyboardInterrupt("task")])
async def test_a_task_that_wants_to_exit_fails_and_does_not_end_the_event_loop(
    stage: Stage, error: BaseException
) -> None:
    def act(ctx: Context[Player, Any]) -> None:
        raise error

    await stage.spawned(act)
    await stage.start()
    await stage.lobby.settle()
    assert stage.seen == [("VeraniError", f"a spawned task raised {type(error).__name__}", "a")]
    assert stage.lobby.posted[0].error.__cause__ is error
    with pytest.raises(VeraniError):
        await stage.tasks[0]


async def test_a_task_that_is_cancelled_is_no_error(stage: Stage) -> None:
    await stage.spawned(lambda ctx: None)
    stage.tasks[0].cancel()
    await stage.lobby.settle()
    assert stage.seen == []
    assert stage.lobby.engine.busy is None


async def test_tasks_are_cancelled_when_the_room_ends_also_those_that_never_began(stage: Stage) -> None:
    await stage.spawned(lambda ctx: stage.seen.append("ran"))

    async def never_begun() -> None:
        stage.seen.append("began")

    stage.tasks.append(stage.lobby.engine.actor.spawn(never_begun()))
    stage.lobby.engine.end()
    await asyncio.wait(stage.tasks)
    assert all(task.cancelled() for task in stage.tasks)
    assert stage.seen == []
    assert stage.lobby.posted == []


async def test_the_sleep_of_a_room_cancels_what_on_hibernate_started(make_room: OpenRoom) -> None:
    room, tasks = define_room("chat"), list[asyncio.Task[Any]]()
    room.on_hibernate(lambda actor: tasks.append(actor.spawn(asyncio.Event().wait())))
    lobby = make_room(room)
    await lobby.wake()
    await lobby.sleep()
    await asyncio.wait(tasks)
    assert tasks[0].cancelled()


async def test_a_forced_sleep_cancels_the_tasks_first_so_that_they_may_tidy_up_before_on_hibernate(
    stage: Stage,
) -> None:
    stage.lobby.definition.on_hibernate(lambda actor: stage.seen.append(("hibernate", actor.get_session_count())))

    async def tidy(ctx: Context[Player, Any]) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ctx.ws.update(score=8)
            ctx.emit("bye")

    await stage.spawned(tidy)
    await stage.start()
    await stage.lobby.sleep(force=True)
    assert stage.seen == [("hibernate", 2)]
    assert stage.tasks[0].cancelled()
    assert stage.lobby.committed("a").score == 8
    assert stage.lobby.data("a") == [{"type": "bye"}]


async def test_the_error_of_a_task_after_the_end_of_its_room_is_nobodys_any_more(stage: Stage) -> None:
    async def stubborn(ctx: Any) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise RuntimeError from None

    await stage.spawned(stubborn)
    await stage.start()
    stage.lobby.engine.end()
    await asyncio.wait(stage.tasks)
    assert stage.lobby.posted == []


async def test_a_task_spawned_by_a_task_is_a_task_of_the_room_too(stage: Stage) -> None:
    async def child(ctx: Context[Player, Any]) -> None:
        await asyncio.sleep(0)
        ctx.emit("from the child")
        raise RuntimeError("child")

    await stage.spawned(lambda ctx: ctx.actor.spawn(child(ctx)) and None)
    await stage.start()
    assert stage.lobby.data("a") == [{"type": "from the child"}]
    assert stage.seen == [("RuntimeError", "child", "a")]


async def test_a_plain_asyncio_task_of_a_hook_is_not_the_hook_once_that_has_returned(open_room: OpenRoom) -> None:
    room, gate, tasks = define_room("game", meta=Player), asyncio.Event(), list[asyncio.Task[None]]()

    async def later(ctx: Context[Player, Any]) -> None:
        await gate.wait()
        ctx.join("news")
        ctx.emit("later")

    room.on("x")(lambda ctx, data: tasks.append(asyncio.create_task(later(ctx))))
    lobby = open_room(room)
    await lobby.connect("a")
    await lobby.frame("a", "x")
    gate.set()
    await asyncio.wait(tasks)
    assert lobby.committed("a").channels == ("default", "news")
    sent = [effect for effect in lobby.sink.effects if isinstance(effect, Sent)]
    assert [effect.cause for effect in sent] == [None]


async def test_what_a_hook_gathers_is_still_that_hook(open_room: OpenRoom) -> None:
    room = define_room("game", meta=Player)

    async def part(ctx: Context[Player, Any], number: int) -> None:
        await asyncio.sleep(0)
        ctx.meta.score += number
        ctx.join(f"c{number}")
        ctx.emit("part")

    @room.on("x")
    async def handler(ctx: Context[Player, Any], data: Any) -> None:
        await asyncio.gather(part(ctx, 1), part(ctx, 2))
        if data == "raise":
            raise RuntimeError

    lobby = open_room(room)
    await lobby.connect("a")
    await lobby.frame("a", "x", "raise")
    assert lobby.engine.actor.sessions["a"].meta == lobby.committed("a") == lobby.meta("a")
    number = await lobby.frame("a", "x")
    assert lobby.committed("a") == lobby.meta("a", channels=("default", "c1", "c2"), score=3)
    sent = [effect for effect in lobby.sink.effects if isinstance(effect, Sent)]
    assert [effect.cause for effect in sent] == [number - 1, number - 1, number, number]


@pytest.mark.parametrize("outcome", ["return", "raise"])
async def test_a_change_of_a_task_while_another_hook_runs_is_kept_at_once_whatever_becomes_of_that_hook(
    stage: Stage, outcome: str
) -> None:
    await stage.spawned(lambda ctx: ctx.join("news"))
    await stage.lobby.frame("b", "wait", outcome)
    await stage.start()
    assert stage.lobby.committed("a").channels == ("default", "news")
    stage.gate.set()
    await stage.lobby.settle()
    assert stage.lobby.committed("a").channels == ("default", "news")
    assert stage.lobby.engine.actor.sessions["a"].channels == ("default", "news")


async def test_a_task_may_not_change_a_session_that_the_running_hook_is_changing(stage: Stage) -> None:
    def act(ctx: Context[Player, Any]) -> None:
        with pytest.raises(RoomBusy, match="belongs to the running hook"):
            ctx.join("news")
        stage.seen.append("refused")

    await stage.spawned(act)
    await stage.lobby.frame("a", "join and wait")
    await stage.start()
    assert stage.seen == ["refused"]
    stage.gate.set()
    await stage.lobby.settle()
    assert stage.lobby.committed("a").channels == ("default", "vip")


async def test_what_tasks_may_queue_behind_a_hook_is_limited(stage: Stage) -> None:
    big = "x" * (MAX_OUTPUT_FRAME - 100)

    def act(ctx: Context[Player, Any]) -> None:
        for _ in range(MAX_HOOK_OUTPUT // MAX_OUTPUT_FRAME):
            ctx.actor.broadcast("default", big)
        with pytest.raises(TooLarge):
            ctx.actor.broadcast("default", big)
        stage.seen.append("refused")

    await stage.spawned(act)
    await stage.lobby.frame("a", "wait")
    await stage.start()
    assert stage.seen == ["refused"]
    stage.gate.set()
    await stage.lobby.settle()
    assert len(stage.lobby.received("b")) == 16
    stage.lobby.sink.received.clear()


async def test_what_a_task_says_to_nobody_while_a_hook_runs_does_not_count(stage: Stage) -> None:
    big = "x" * (MAX_OUTPUT_FRAME - 100)

    def act(ctx: Context[Player, Any]) -> None:
        for _ in range(MAX_HOOK_OUTPUT // MAX_OUTPUT_FRAME + 1):
            assert ctx.actor.broadcast("where nobody is", big) == 0
        stage.seen.append(ctx.actor.broadcast("default", "heard"))

    await stage.spawned(act)
    await stage.lobby.frame("a", "wait")
    await stage.start()
    assert stage.seen == [2]
    stage.gate.set()
    await stage.lobby.settle()
    assert stage.lobby.data("b") == ["heard"]


async def test_spawn_wants_a_coroutine(open_room: OpenRoom) -> None:
    lobby = open_room(define_room("chat"))
    await lobby.settle()
    with pytest.raises(TypeError, match="^spawn: expected a coroutine, got function$"):
        lobby.engine.actor.spawn(lambda: None)  # type: ignore[arg-type]  # what is tested
    assert lobby.engine.busy is None


async def test_what_a_task_sends_is_refused_while_the_gateways_are_far_behind_and_what_a_hook_sends_is_not(
    stage: Stage,
) -> None:
    def send(ctx: Context[Player, Any]) -> None:
        try:
            ctx.emit("tick")
        except RoomBusy as error:
            stage.seen.append(str(error))

    await stage.spawned(send)
    stage.lobby.is_full = True
    stage.gate.set()
    await stage.lobby.frame("a", "wait")
    await stage.start()
    assert stage.seen == ["game/lobby: its gateways are far behind what it has sent; wait before a task sends more"]
    heard = b"".join(stage.lobby.received("a"))
    assert [word in heard for word in (b'"begin"', b'"end"', b'"tick"')] == [True, True, False]

"""Other threads: what they may not do, and how the room does it for them."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from tests.verani.conftest import OpenRoom, Room
from verani import (
    ConnectionMeta,
    Context,
    DeadlineExceeded,
    Forbidden,
    RoomAsleep,
    WrongThread,
    define_room,
)
from verani.engine.engine import Engine
from verani.settings import Settings
from verani.testing import RoomHarness


class Player(ConnectionMeta, kw_only=True):
    score: int = 0


OPERATIONS: dict[str, Callable[[Any], Any]] = {
    "ctx.emit": lambda ctx: ctx.emit("x"),
    "ctx.to_user": lambda ctx: ctx.to_user("ann").emit("x"),
    "ctx.to_channel": lambda ctx: ctx.to_channel("default").emit("x"),
    "ctx.join": lambda ctx: ctx.join("a"),
    "ctx.leave": lambda ctx: ctx.leave("default"),
    "ctx.close": lambda ctx: ctx.close(),
    "ctx.meta": lambda ctx: ctx.meta,
    "ctx.drain": lambda ctx: asyncio.run(ctx.drain()),
    "actor.emit": lambda ctx: ctx.actor.emit("x"),
    "actor.broadcast": lambda ctx: ctx.actor.broadcast("default", 1),
    "actor.broadcast to some": lambda ctx: ctx.actor.broadcast("default", 1, user_ids=["ann"]),
    "actor.send_to_user": lambda ctx: ctx.actor.send_to_user("ann", "default", 1),
    "actor.emit_to_channel": lambda ctx: ctx.actor.emit_to_channel("default", "x"),
    "actor.emit_to_user": lambda ctx: ctx.actor.emit_to_user("ann", "x"),
    "actor.get_session_count": lambda ctx: ctx.actor.get_session_count(),
    "actor.get_connected_user_ids": lambda ctx: ctx.actor.get_connected_user_ids(),
    "actor.get_user_sessions": lambda ctx: ctx.actor.get_user_sessions("ann"),
    "actor.cleanup_stale_sessions": lambda ctx: ctx.actor.cleanup_stale_sessions(),
    "actor.sessions": lambda ctx: ctx.actor.sessions,
    "iter(actor)": lambda ctx: list(ctx.actor),
    "actor.state": lambda ctx: ctx.actor.state,
    "actor.wake_reason": lambda ctx: ctx.actor.wake_reason,
    "actor.close": lambda ctx: ctx.actor.close(ctx.ws),
    "actor.close_user": lambda ctx: ctx.actor.close_user("ann"),
    "actor.keep_awake": lambda ctx: ctx.actor.keep_awake(1),
    "actor.hibernate": lambda ctx: ctx.actor.hibernate(),
    "actor.stub": lambda ctx: ctx.actor.stub("chat", "b"),
    "actor.spawn": lambda ctx: ctx.actor.spawn(asyncio.sleep(0)),
    "session.join": lambda ctx: ctx.ws.join("default"),
    "session.leave": lambda ctx: ctx.ws.leave("none"),
    "session.update": lambda ctx: ctx.ws.update(score=1),
    "session.update nothing": lambda ctx: ctx.ws.update(),
    "session.meta": lambda ctx: ctx.ws.meta,
    "a stub's method": lambda ctx: asyncio.run(ctx.kept.get_session_count()),
}


def in_thread(function: Callable[[], Any]) -> Any:
    """Run in a new thread without context variables of this one, block, and return the result or what it raised."""
    results: list[Any] = []

    def run() -> None:
        try:
            results.append(function())
        except BaseException as error:  # noqa: BLE001
            results.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return results[0]


@pytest.mark.parametrize("name", OPERATIONS)
async def test_every_operation_of_a_handle_raises_at_once_in_another_thread_and_names_the_way(
    open_room: OpenRoom, name: str
) -> None:
    room, seen = define_room("chat", meta=Player), list[Any]()

    @room.on("x")
    def handler(ctx: Context[Any, Any], data: Any) -> None:
        handle = SimpleNamespace(ctx=ctx, kept=ctx.actor.stub("chat", "b"))
        seen.append(in_thread(lambda: OPERATIONS[name](_Handle(ctx, handle.kept))))

    lobby = open_room(room)
    await lobby.connect("a")
    await lobby.frame("a", "x")
    [error] = seen
    assert isinstance(error, WrongThread), error
    assert "ctx.actor.from_thread(function, *args)" in str(error)
    assert lobby.received("a") == []
    assert lobby.sink.kicks == []
    assert lobby.sink.invoked == []
    assert lobby.engine.busy is None


class _Handle:
    """A context with a stub beside it."""

    def __init__(self, ctx: Any, kept: Any) -> None:
        self._ctx = ctx
        self.kept = kept

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ctx, name)


async def awaited_in_thread(function: Callable[[], Any]) -> Any:
    return await asyncio.get_running_loop().run_in_executor(None, function)


@pytest.mark.parametrize("run", [asyncio.to_thread, awaited_in_thread])
async def test_from_thread_runs_a_function_as_part_of_the_hook_and_returns_its_result(run: Any) -> None:
    room = define_room("chat", meta=Player, state=list[str])

    @room.on("work")
    async def work(ctx: Context[Player, list[str]], data: Any) -> Any:
        def blocking() -> Any:
            thread = threading.get_ident()
            for n in range(3):
                assert ctx.actor.from_thread(ctx.emit, "progress", n) == 1
            return ctx.actor.from_thread(change, thread, more=5)

        def change(thread: int, *, more: int) -> list[Any]:
            assert threading.get_ident() != thread
            ctx.meta.score += more
            ctx.actor.state.append("changed")
            ctx.join("done")
            return [ctx.meta.score, ctx.actor.get_session_count()]

        ctx.emit("begins")
        result = await run(blocking)
        ctx.emit("ends")
        if data == "fail":
            raise Forbidden
        return result

    async with RoomHarness(room) as harness:
        ann = await harness.connect(user_id="ann")
        assert await ann.request("work") == [5, 1]
        values = [(event.type, event.data.get("value")) for event in ann.take()]
        assert values == [("begins", None), ("progress", 0), ("progress", 1), ("progress", 2), ("ends", None)]
        assert (ann.meta.score, ann.meta.channels) == (5, ("default", "done"))
        with pytest.raises(Forbidden):
            await ann.request("work", "fail")
        assert ann.meta.score == 5, "what the thread changed was part of the hook that failed"
        assert harness.actor.state == ["changed"] * 2


async def test_what_the_function_raises_is_raised_in_the_thread(open_room: OpenRoom) -> None:
    room, seen = define_room("chat"), list[Any]()

    @room.on("x")
    async def handler(ctx: Context[Any, Any], data: Any) -> None:
        def blocking() -> None:
            for error in (
                ValueError("mine"),
                TimeoutError("mine"),
                SystemExit(3),
                RuntimeError("Event loop is closed"),
            ):
                try:
                    ctx.actor.from_thread(fail, error)
                except BaseException as caught:  # noqa: BLE001
                    seen.append(caught is error)
            functions: list[Callable[[], Any]] = [coroutine, lambda: coroutine()]
            for function in functions:
                with pytest.raises(TypeError, match="expected a plain function"):
                    ctx.actor.from_thread(function)

        def fail(error: BaseException) -> None:
            raise error

        async def coroutine() -> None:
            """Do nothing."""

        await asyncio.to_thread(blocking)

    lobby = open_room(room)
    await lobby.connect("a")
    lobby.put_frame("a", "x")
    await lobby.finish()
    assert seen == [True] * 4


async def test_on_the_thread_of_the_loop_it_is_refused_instead_of_waiting_for_ever(open_room: OpenRoom) -> None:
    room, seen = define_room("chat"), list[Any]()

    @room.on("x")
    def handler(ctx: Context[Any, Any], data: Any) -> None:
        with pytest.raises(WrongThread, match="call it directly"):
            ctx.actor.from_thread(seen.append, 1)

    lobby = open_room(room)
    await lobby.connect("a")
    assert await lobby.request("a", "x") == b'{"type":"ack","id":7,"data":null}'
    assert seen == []


async def test_a_hook_that_blocks_the_loop_for_its_own_thread_does_not_wait_for_ever(make_room: OpenRoom) -> None:
    room, seen = define_room("chat"), list[Any]()

    @room.on("x")
    def handler(ctx: Context[Any, Any], data: Any) -> None:
        seen.append(in_thread(lambda: ctx.actor.from_thread(seen.append, "too late")))

    lobby = make_room(room, settings=Settings(hook_timeout=0.1))
    await lobby.wake()
    await lobby.connect("a")
    await lobby.frame("a", "x")
    assert [type(each) for each in seen] == [DeadlineExceeded]


async def test_a_thread_that_outlives_its_hook_works_like_a_spawned_task_until_the_room_sleeps(
    open_room: OpenRoom,
) -> None:
    room = define_room("chat", meta=Player)
    handles, go = list[Any](), asyncio.Event()
    contexts: list[contextvars.Context] = []

    @room.on("begin")
    def begin(ctx: Context[Player], data: Any) -> None:
        handles.append(ctx)
        contexts.append(contextvars.copy_context())

    @room.on("wait")
    async def wait(ctx: Context[Player], data: Any) -> None:
        ctx.meta.score += 1
        await go.wait()
        ctx.emit("waited")

    lobby = open_room(room)
    await lobby.connect("a", "b")
    await lobby.frame("a", "begin")
    [ctx], [context] = handles, contexts

    def later(function: Callable[[], Any]) -> Any:
        return context.copy().run(ctx.actor.from_thread, function)

    assert await asyncio.to_thread(later, lambda: ctx.actor.emit("late")) == 2
    lobby.put_frame("a", "wait")
    await lobby.settle()
    assert await asyncio.to_thread(later, lambda: ctx.actor.emit("later")) == 2
    await asyncio.to_thread(later, lambda: lobby.engine.room.members.sessions["b"].update(score=9))
    go.set()
    await lobby.settle()
    assert [each["type"] for each in lobby.data("a")] == ["late", "waited", "later"]
    assert lobby.committed("b").score == 9
    await lobby.sleep()
    with pytest.raises(RoomAsleep):
        await asyncio.to_thread(later, lambda: None)


def test_a_thread_is_told_when_the_loop_has_ended() -> None:
    room = define_room("chat")
    lobby = Room(room)

    async def wake() -> Engine[Any, Any]:
        return await lobby.wake()

    engine = asyncio.run(wake())
    with pytest.raises(RoomAsleep):
        in_thread_raising(lambda: engine.actor.from_thread(lambda: None))
    engine.end()


def in_thread_raising(function: Callable[[], Any]) -> Any:
    result = in_thread(function)
    if isinstance(result, BaseException):
        raise result
    return result

"""What an error of a hook leads to: a log, `on_error`, and nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from tests.verani.conftest import OpenRoom, Room
from verani import Context, RoomDefinition, define_room
from verani.engine.room_events import HookFailed
from verani.errors import REFUSALS
from verani.link.messages import Invalid


class Strange(BaseException):
    """Neither an Exception nor one of the interpreter's."""


ERRORS = [
    RuntimeError("secret"),
    SystemExit("secret"),
    KeyboardInterrupt("secret"),
    asyncio.CancelledError("secret"),
    Strange("secret"),
    RecursionError("secret"),
]

# Every place for a user's function in a room, and whether it is an `async def` there.
PLACES = [
    *[
        (hook, is_async)
        for hook in ("on_hibernation_restore", "on_connect", "on", "on_message", "use", "on_disconnect", "on_hibernate")
        for is_async in (False, True)
    ],
    ("state", False),
]


def raising(error: BaseException, is_async: bool) -> Callable[..., Any]:
    def plain(*arguments: Any) -> None:
        raise error

    async def asynchronous(*arguments: Any) -> None:
        await asyncio.sleep(0)
        raise error

    return asynchronous if is_async else plain


def reporting(room: RoomDefinition[Any, Any]) -> list[BaseException]:
    seen: list[BaseException] = []
    room.on_error(lambda error, ctx: seen.append(error))
    return seen


async def through_every_hook(room: Room) -> None:
    """Wake with a record, connect, send a handled and an unhandled frame, close, sleep."""
    await room.wake(("g1", [room.record("old")]))
    await room.connect("new")
    await room.frame("old", "x", request=1)
    await room.frame("old", "y", request=2)
    await room.close("old", 1000)
    await room.sleep()


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize(("hook", "is_async"), PLACES)
async def test_whatever_a_hook_raises_goes_to_on_error_and_the_room_lives(
    make_room: OpenRoom, hook: str, error: BaseException, is_async: bool, caplog: pytest.LogCaptureFixture
) -> None:
    fail = raising(error, is_async)
    room: RoomDefinition[Any, Any] = define_room("chat", state=fail if hook == "state" else dict)
    match hook:
        case "on":
            room.on("x")(fail)
        case "use":
            room.on("x")(lambda ctx, data: None)
            room.use(fail)
        case "state":
            pass
        case _:
            getattr(room, hook)(fail)
    seen = reporting(room)
    lobby = make_room(room)
    await through_every_hook(lobby)
    expected = 2 if hook == "on_message" else 1  # "x" and "y" are both unhandled there
    assert seen == [error] * expected
    assert lobby.numbers == [1, 2, 3, 4]
    assert b"secret" not in repr(lobby.sink.effects).encode()
    assert [record.levelname for record in caplog.records] == ["ERROR"] * expected
    record = caplog.records[0]
    assert record.getMessage() == f"a hook of chat/lobby failed: {type(seen[0]).__name__}"
    assert record.exc_info is not None
    assert record.exc_info[1] is seen[0]
    assert record.__dict__["room"] == "chat/lobby"
    named = {"on": "on('x')", "use": "on('x')", "on_message": "on_message"}
    assert record.__dict__["hook"] == named.get(hook, hook)


@pytest.mark.parametrize("catch", ["*", "on_message"])
async def test_what_clients_choose_names_no_hook(
    open_room: OpenRoom, catch: str, caplog: pytest.LogCaptureFixture
) -> None:
    room: RoomDefinition[Any, Any] = define_room("chat")
    room.on("known")(raising(ValueError(), False))
    if catch == "*":
        room.on("*")(raising(ValueError(), False))
    else:
        room.on_message(raising(ValueError(), False))
    lobby = open_room(room)
    await lobby.connect("a")
    for event in ("known", "made-up-1", "made-up-2"):
        await lobby.frame("a", event)
    named = "on('*')" if catch == "*" else catch
    assert [record.__dict__["hook"] for record in caplog.records] == ["on('known')", named, named]


async def test_other_connections_notice_nothing_of_an_error(open_room: OpenRoom) -> None:
    room = define_room("chat")
    room.on("raise")(raising(RuntimeError("secret"), True))
    room.on("x")(lambda ctx, data: "fine")
    lobby = open_room(room)
    await lobby.connect("a", "b")
    await lobby.frame("a", "raise")
    assert await lobby.request("b", "x") == b'{"type":"ack","id":7,"data":"fine"}'
    assert await lobby.request("a", "x") == b'{"type":"ack","id":7,"data":"fine"}'
    assert lobby.sink.kicks == []


async def test_on_error_gets_the_context_of_the_hook_and_may_use_it(open_room: OpenRoom) -> None:
    room, seen = define_room("chat"), list[Any]()
    kept = list[Any]()

    @room.on("x")
    def handler(ctx: Context[Any, Any], data: Any) -> None:
        kept.append(ctx)
        raise RuntimeError("oops")

    @room.on_error
    async def on_error(error: BaseException, ctx: Context[Any, Any]) -> None:
        await asyncio.sleep(0)
        seen.append((str(error), ctx is kept[0], ctx.frame.data, ctx.meta.user_id))
        ctx.emit("sorry")
        ctx.close(4000)

    lobby = open_room(room)
    await lobby.connect("a")
    await lobby.frame("a", "x", 5)
    assert seen == [("oops", True, 5, "user-a")]
    assert lobby.data("a") == [{"type": "sorry"}]
    assert lobby.sink.kicks == [("a", 4000, "")]


async def test_the_answer_of_a_failed_request_leaves_before_on_error_is_asked(open_room: OpenRoom) -> None:
    room = define_room("chat")
    room.on("x")(raising(RuntimeError(), False))
    room.on_error(lambda error, ctx: ctx.emit("sorry"))
    lobby = open_room(room)
    await lobby.connect("a")
    await lobby.frame("a", "x", request=3)
    assert [frame["type"] for frame in lobby.take("a")] == ["ack", "event"]


@pytest.mark.parametrize("is_async", [False, True], ids=["def", "async def"])
@pytest.mark.parametrize("error", ERRORS[:-1], ids=lambda error: type(error).__name__)
async def test_what_on_error_raises_is_only_logged(
    open_room: OpenRoom, error: BaseException, is_async: bool, caplog: pytest.LogCaptureFixture
) -> None:
    room, calls = define_room("chat"), list[BaseException]()
    room.on("x")(raising(ValueError("first"), False))
    fail = raising(error, is_async)

    @room.on_error
    def on_error(reported: BaseException, ctx: Context[Any, Any]) -> Any:
        calls.append(reported)
        return fail()

    lobby = open_room(room)
    await lobby.connect("a")
    await lobby.frame("a", "x")
    assert [str(call) for call in calls] == ["first"]
    logged = [record.exc_info[1] for record in caplog.records if record.exc_info]
    assert [type(found) for found in logged] == [ValueError, type(error)]
    assert lobby.posted == []
    assert lobby.numbers == [1, 2]


async def test_without_on_error_an_error_is_logged_with_its_room_and_connection(
    open_room: OpenRoom, caplog: pytest.LogCaptureFixture
) -> None:
    room = define_room("chat")
    room.on("x")(raising(RuntimeError("secret"), False))
    lobby = open_room(room)
    await lobby.connect("a")
    await lobby.frame("a", "x")
    [record] = caplog.records
    assert (record.name, record.levelno) == ("verani.engine.hook_log", logging.ERROR)
    assert (record.__dict__["room"], record.__dict__["connection"]) == ("chat/lobby", "a")


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda kind: kind.__name__)
async def test_a_refusal_said_on_purpose_is_an_error_like_any_other_but_for_its_log(
    open_room: OpenRoom, refusal: type[Exception], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "verani")
    room = define_room("chat")
    seen = reporting(room)

    @room.on("x")
    def handler(ctx: Context[Any, Any], data: Any) -> None:
        ctx.join("news")
        raise refusal("not you")

    lobby = open_room(room)
    await lobby.connect("a")
    await lobby.frame("a", "x")
    assert [type(error) for error in seen] == [refusal]
    assert lobby.engine.actor.sessions["a"].channels == ("default",)
    assert [(record.levelname, record.exc_info) for record in caplog.records] == [("DEBUG", None)]


async def test_an_error_from_outside_the_order_of_inputs_comes_to_on_error_in_its_turn(open_room: OpenRoom) -> None:
    room, seen = define_room("chat"), list[Any]()
    room.on("x")(lambda ctx, data: seen.append("frame"))
    room.on_error(lambda error, ctx: seen.append((str(error), ctx.actor.get_session_count())))
    lobby = open_room(room)
    lobby.put_connect("a")
    lobby.put_frame("a", "x")
    lobby.put(HookFailed(RuntimeError("posted"), Context(lobby.engine.room, None)))
    lobby.put_frame("a", "x")
    await lobby.settle()
    assert seen == ["frame", ("posted", 1), "frame"]


async def test_an_invalid_frame_is_told_to_the_gateway_that_holds_the_connection(open_room: OpenRoom) -> None:
    room = define_room("chat")
    room.on("x")(lambda ctx, data: None)
    lobby = open_room(room)
    await lobby.connect("a", gateway="g2")
    number = await lobby.frame("a", "x", raw=b"1e999")
    [sent] = [effect for effect in lobby.sink.effects if getattr(effect, "output", None) == Invalid("a")]
    assert (sent.gateway, getattr(sent, "cause", None)) == ("g2", number)


async def test_a_bug_of_ours_is_raised_to_the_shell_and_the_gateway_does_not_wait_for_that_input(
    open_room: OpenRoom, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(gateway: str, output: object, cause: int | None) -> None:
        raise LookupError("a bug in a sink")

    lobby = open_room(define_room("chat"))
    await lobby.connect("a")
    monkeypatch.setattr(lobby.sink, "output", broken)
    with pytest.raises(LookupError):
        await lobby.frame("a", "unknown", request=1)
    assert lobby.numbers == [1, 2]


# --- cancellation from outside -------------------------------------------------------------------------


async def test_a_cancellation_by_the_shell_that_tears_the_room_down_propagates_and_rolls_back(
    open_room: OpenRoom,
) -> None:
    room = define_room("chat")
    seen = reporting(room)

    @room.on("x")
    async def handler(ctx: Context[Any, Any], data: Any) -> None:
        ctx.join("news")
        await asyncio.Event().wait()

    lobby = open_room(room)
    await lobby.connect("a")
    await lobby.frame("a", "x")
    lobby.engine.end()
    task = lobby.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert task.cancelled()
    assert seen == []
    assert lobby.engine.room.members.sessions["a"].channels == ("default",)
    assert lobby.engine.busy is None
    assert lobby.suspended == set()
    assert lobby.numbers == [1]  # not processed: the next owner of the room gets it again


@pytest.mark.parametrize("how", ["awaits", "returns", "plain"])
async def test_a_hook_that_cancels_its_own_task_harms_nobody_else(open_room: OpenRoom, how: str) -> None:
    room = define_room("chat")
    seen = reporting(room)

    def cancel() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()

    async def asynchronous(ctx: Context[Any, Any], data: Any) -> None:
        cancel()
        if how == "awaits":
            await asyncio.sleep(0)

    room.on("x")((lambda ctx, data: cancel()) if how == "plain" else asynchronous)

    @room.on("y")
    async def innocent(ctx: Context[Any, Any], data: Any) -> str:
        await asyncio.sleep(0)
        return "fine"

    lobby = open_room(room)
    await lobby.connect("a")
    lobby.put_frame("a", "x", request=1)
    lobby.put_frame("a", "y", request=2)
    await lobby.settle()
    assert lobby.received("a")[-1] == b'{"type":"ack","id":2,"data":"fine"}'
    assert [type(error) for error in seen] == ([asyncio.CancelledError] if how == "awaits" else [])
    assert lobby.numbers == [1, 2, 3]


async def test_a_payload_type_that_raises_system_exit_is_answered_and_harms_nobody_else(open_room: OpenRoom) -> None:
    room = define_room("chat")
    seen = reporting(room)
    room.on("x")(leave_with_a_payload)
    lobby = open_room(room)
    await lobby.connect("a")
    assert await lobby.request("a", "x") == b'{"type":"ack","id":7,"error":{"code":"failed"}}'
    assert [type(error) for error in seen] == [SystemExit]
    assert lobby.numbers == [1, 2]


class Leaving(msgspec.Struct):
    def __post_init__(self) -> None:
        raise SystemExit(1)


def leave_with_a_payload(ctx: Context[Any, Any], data: Leaving) -> None:
    raise AssertionError("its payload cannot be made")


async def test_a_cancelled_await_inside_a_hook_is_an_error_like_any_other(open_room: OpenRoom) -> None:
    room = define_room("chat")
    seen = reporting(room)

    @room.on("x")
    async def handler(ctx: Context[Any, Any], data: Any) -> None:
        future = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(future.cancel)
        await future

    lobby = open_room(room)
    await lobby.connect("a")
    assert await lobby.request("a", "x") == b'{"type":"ack","id":7,"error":{"code":"failed"}}'
    assert [type(error) for error in seen] == [asyncio.CancelledError]


async def test_timeouts_and_task_groups_work_inside_hooks(open_room: OpenRoom) -> None:
    room = define_room("chat")

    @room.on("timeout")
    async def timeout(ctx: Context[Any, Any], data: Any) -> str:
        try:
            async with asyncio.timeout(0):
                await asyncio.Event().wait()
        except TimeoutError:
            return "timed out"
        return "never"

    @room.on("group")
    async def group(ctx: Context[Any, Any], data: Any) -> str:
        async def child() -> None:
            await asyncio.sleep(0)
            raise ValueError

        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(child())
                await asyncio.Event().wait()
        except* ValueError:
            pass
        return "grouped"

    lobby = open_room(room)
    await lobby.connect("a")
    assert await lobby.request("a", "timeout") == b'{"type":"ack","id":7,"data":"timed out"}'
    assert await lobby.request("a", "group") == b'{"type":"ack","id":7,"data":"grouped"}'


async def test_a_cancellation_that_a_hook_asked_for_and_swallowed_does_not_haunt_the_next_one(
    open_room: OpenRoom,
) -> None:
    room = define_room("chat")
    seen = reporting(room)

    @room.on("swallow")
    async def swallow(ctx: Context[Any, Any], data: Any) -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(0)

    room.on("stray")(raising(asyncio.CancelledError(), True))
    lobby = open_room(room)
    lobby.put_connect("a")
    lobby.put_frame("a", "swallow")  # in the same task, as in a room actor with a full mailbox
    lobby.put_frame("a", "stray")
    lobby.put_frame("a", "swallow")
    await lobby.settle()
    assert lobby.numbers == [1, 2, 3, 4]
    assert len(seen) == 1

"""Which handler gets a frame, what it gets, and what a request is answered with."""

from __future__ import annotations

import asyncio
import json
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
import pytest

from tests.verani.conftest import OpenRoom, Sent, noted
from verani import Context, Forbidden, Frame, InvalidArguments, RateLimited, VeraniError, define_room
from verani.errors import REFUSALS
from verani.link.messages import Connect, FrameInput, Invalid


class Say(msgspec.Struct):
    text: Annotated[str, msgspec.Meta(max_length=5)]
    to: list[int] = []


class Fragile(msgspec.Struct):
    text: str

    def __post_init__(self) -> None:
        if self.text == "unfit":
            raise ValueError("told to the client as invalid")
        raise KeyError("a bug")


def ack(data: bytes) -> bytes:
    return b'{"type":"ack","id":7,"data":%b}' % data


def refusal(code: str, path: str | None = None) -> bytes:
    where = b',"path":"%b"' % path.encode() if path is not None else b""
    return b'{"type":"ack","id":7,"error":{"code":"%b"%b}}' % (code.encode(), where)


# --- order ---------------------------------------------------------------------------------------------


async def test_handlers_of_the_event_run_first_then_those_of_the_wildcard_in_registration_order(
    open_room: OpenRoom,
) -> None:
    seen = list[str]()
    room = define_room("chat", on_message=lambda ctx, frame: seen.append("on_message"))

    @room.on("*")
    def any_1(ctx: Context[Any, Any], data: Any) -> None:
        seen.append(f"any 1 {ctx.frame.type} {data}")

    @room.on("x")
    async def x_1(ctx: Context[Any, Any], data: Any) -> None:
        await asyncio.sleep(0)
        seen.append("x 1")

    @room.on("x")
    def x_2(ctx: Context[Any, Any], data: Any) -> None:
        seen.append("x 2")

    @room.on("*")
    async def any_2(ctx: Context[Any, Any], data: Any) -> None:
        seen.append("any 2")

    lobby = open_room(room)
    await lobby.connect("a")
    await lobby.frame("a", "x", 5)
    assert seen == ["x 1", "x 2", "any 1 x 5", "any 2"]
    seen.clear()
    await lobby.frame("a", "y", 6)
    assert seen == ["any 1 y 6", "any 2"]


async def test_on_message_gets_the_frame_and_only_where_no_handler_exists(open_room: OpenRoom) -> None:
    room, seen = define_room("chat"), list[Any]()
    room.on_message(lambda ctx, frame: seen.append((frame, frame is ctx.frame)))
    room.on("x")(lambda ctx, data: None)
    lobby = open_room(room)
    await lobby.connect("a")
    await lobby.frame("a", "x", 1)
    await lobby.frame("a", "y", [1], channel="news")
    await lobby.frame("a", "z")
    assert seen == [(Frame("y", [1], "news"), True), (Frame("z", {}, None), True)]


async def test_an_event_nobody_handles_is_ignored(open_room: OpenRoom, caplog: pytest.LogCaptureFixture) -> None:
    lobby = open_room(define_room("chat"))
    await lobby.connect("a")
    await lobby.frame("a", "x", 1)
    assert lobby.received("a") == []
    assert lobby.numbers == [1, 2]
    assert caplog.records == []


@pytest.mark.parametrize("position", [0, 1, 2])
async def test_the_first_handler_that_raises_ends_the_dispatch(open_room: OpenRoom, position: int) -> None:
    room, seen = define_room("chat"), list[Any]()

    def make(number: int) -> Any:
        def handler(ctx: Context[Any, Any], data: Any) -> int:
            seen.append(number)
            if number == position:
                raise RuntimeError
            return number

        return handler

    room.on("x")(make(0))
    room.on("x")(make(1))
    room.on("*")(make(2))
    lobby = open_room(room)
    await lobby.connect("a")
    assert await lobby.request("a", "x") == refusal("failed")
    assert seen == list(range(position + 1))


async def test_the_first_result_that_is_not_none_is_the_answer_and_all_handlers_run(open_room: OpenRoom) -> None:
    room, seen = define_room("chat"), list[int]()
    for number, result in enumerate([None, 0, False, "later"]):
        room.on("x")(lambda ctx, data, number=number, result=result: noted(seen, number, result))
    lobby = open_room(room)
    await lobby.connect("a")
    assert await lobby.request("a", "x") == ack(b"0")
    assert seen == [0, 1, 2, 3]


async def test_a_handler_taken_off_runs_no_more_and_the_event_is_nobodys_again(open_room: OpenRoom) -> None:
    room, seen = define_room("chat"), list[str]()

    def first(ctx: Context[Any, Any], data: Any) -> None:
        seen.append("first")

    def second(ctx: Context[Any, Any], data: Any) -> None:
        seen.append("second")
        room.off("x", second)  # while it is being dispatched

    def third(ctx: Context[Any, Any], data: Any) -> None:
        seen.append("third")

    for handler in (first, second, third):
        room.on("x")(handler)
    room.off("x", first)
    room.off("x", first)
    room.off("never", first)
    lobby = open_room(room)
    await lobby.connect("a")
    await lobby.frame("a", "x")
    assert seen == ["second", "third"]
    room.off("x", third)
    assert await lobby.request("a", "x") == refusal("not_found")


async def test_a_def_handler_that_returns_an_awaitable_is_awaited(open_room: OpenRoom) -> None:
    room = define_room("chat")

    async def answer() -> str:
        await asyncio.sleep(0)
        return "waited"

    room.on("x")(lambda ctx, data: answer())
    room.on("y")(lambda ctx, data: asyncio.ensure_future(answer()))
    lobby = open_room(room)
    await lobby.connect("a")
    assert await lobby.request("a", "x") == ack(b'"waited"')
    assert await lobby.request("a", "y") == ack(b'"waited"')


async def test_a_bound_method_and_a_callable_object_may_be_handlers(open_room: OpenRoom) -> None:
    class Counter:
        total = 0

        def add(self, ctx: Context[Any, Any], amount: int) -> int:
            self.total += amount
            return self.total

        def __call__(self, ctx: Context[Any, Any], amount: int) -> int:
            return self.add(ctx, 10 * amount)

    room, counter = define_room("chat"), Counter()
    room.on("add")(counter.add)
    room.on("ten")(counter)
    lobby = open_room(room)
    await lobby.connect("a")
    assert await lobby.request("a", "add", 2) == ack(b"2")
    assert await lobby.request("a", "ten", 3) == ack(b"32")
    assert b'"invalid"' in await lobby.request("a", "ten", "3")
    room.off("add", counter.add)
    assert await lobby.request("a", "add", 2) == refusal("not_found")


# --- payloads ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "value"),
    [(None, {}), (b"{}", {}), (b"0", 0), (b'""', ""), (b"false", False), (b"null", None), (b"[]", []), (b"-0.5", -0.5)],
)
async def test_falsy_data_arrives_as_it_is_and_absent_data_as_an_empty_object(
    open_room: OpenRoom, raw: bytes | None, value: object
) -> None:
    room, seen = define_room("chat"), list[Any]()
    room.on("x")(lambda ctx, data: seen.append((data, ctx.frame.data)))
    lobby = open_room(room)
    await lobby.connect("a")
    await lobby.frame("a", "x", raw=raw)
    assert seen == [(value, value)]
    assert type(seen[0][0]) is type(value)


async def test_absent_data_is_none_for_a_handler_that_takes_nothing_else(open_room: OpenRoom) -> None:
    room, seen = define_room("chat"), list[Any]()

    @room.on("wave")
    def wave(ctx: Context[Any, Any], data: None) -> str:
        seen.append((data, ctx.frame.data))
        return "hello"

    lobby = open_room(room)
    await lobby.connect("a")
    await lobby.frame("a", "wave", raw=None)
    await lobby.frame("a", "wave", raw=b"null")
    assert seen == [(None, {}), (None, None)]
    assert await lobby.request("a", "wave", {}) == refusal("invalid")


async def test_a_typed_payload_arrives_as_its_type(open_room: OpenRoom) -> None:
    room, seen = define_room("chat"), list[Any]()

    @room.on("say")
    def say(ctx: Context[Any, Any], data: Say) -> None:
        seen.append((data, ctx.frame.data))

    lobby = open_room(room)
    await lobby.connect("a")
    await lobby.frame("a", "say", {"text": "hello", "to": [1], "more": True})
    assert seen == [(Say("hello", [1]), {"text": "hello", "to": [1], "more": True})]


@pytest.mark.parametrize(
    ("payload", "path"),
    [
        ({"text": "hello!"}, b"$.text"),
        ({"text": 5}, b"$.text"),
        ({"text": "hi", "to": [1, "2"]}, b"$.to[1]"),
        ({}, b"$.text"),
        ([], None),
        (None, None),
    ],
)
async def test_a_payload_that_does_not_fit_reaches_no_handler_and_the_answer_says_where(
    open_room: OpenRoom, payload: object, path: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    room, seen = define_room("chat"), list[Any]()
    room.on_error(lambda error, ctx: seen.append("error"))

    @room.on("say")
    def untyped(ctx: Context[Any, Any], data: Any) -> None:
        seen.append("untyped")

    @room.on("say")
    def say(ctx: Context[Any, Any], data: Say) -> None:
        seen.append("typed")

    room.use(lambda ctx, call_next: noted(seen, "middleware", call_next()))
    lobby = open_room(room)
    await lobby.connect("a")
    answer = await lobby.request("a", "say", payload)
    where = b',"path":"%b"' % path if path else b""
    assert answer == b'{"type":"ack","id":7,"error":{"code":"invalid"%b}}' % where
    await lobby.frame("a", "say", payload)
    assert len(lobby.received("a")) == 1  # nobody asked
    assert seen == []
    assert lobby.sink.invalid == []  # a valid frame all the same
    assert caplog.records == []


async def test_a_list_payload_is_checked_item_by_item(open_room: OpenRoom) -> None:
    room = define_room("chat")

    @room.on("sum")
    def total(ctx: Context[Any, Any], data: list[int]) -> int:
        return sum(data)

    lobby = open_room(room)
    await lobby.connect("a")
    assert await lobby.request("a", "sum", [1, 2]) == ack(b"3")
    assert (
        await lobby.request("a", "sum", [1, 2.5]) == b'{"type":"ack","id":7,"error":{"code":"invalid","path":"$[1]"}}'
    )


@pytest.mark.parametrize("raw", [b"1e999", b"[-1e999]", b"1" * 5000, b'{"a":[1e999]}', b"[" * 64 + b"]" * 64])
@pytest.mark.parametrize("typed", [False, True])
async def test_data_that_no_room_can_decode_comes_back_as_an_invalid_frame(
    open_room: OpenRoom, raw: bytes, typed: bool
) -> None:
    room, seen = define_room("chat"), list[Any]()
    if typed:

        @room.on("x")
        def handler(ctx: Context[Any, Any], data: Say) -> None:
            seen.append(data)
    else:
        room.on("x")(lambda ctx, data: seen.append(data))
    room.on_message(lambda ctx, frame: seen.append(frame))
    room.on_error(lambda error, ctx: seen.append(error))
    lobby = open_room(room)
    await lobby.connect("a")
    number = await lobby.frame("a", "x", raw=raw)
    assert lobby.sink.effects[-2:-1] == [Sent("g1", Invalid("a"), number)]
    assert lobby.received("a") == []
    assert json.loads(await lobby.request("a", "x", raw=raw))["error"]["code"] == "invalid"
    await lobby.frame("a", "y", raw=raw)
    assert lobby.sink.invalid == ["a", "a"]
    assert lobby.numbers == [1, 2, 3, 4]
    assert seen == []


async def test_of_a_plain_event_that_does_not_fit_is_told_once_and_not_what_came(
    open_room: OpenRoom, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "verani")
    room = define_room("chat")

    @room.on("say")
    def say(ctx: Context[Any, Any], data: Annotated[str, msgspec.Meta(max_length=5)]) -> None: ...

    @room.on("typing")
    def typing(ctx: Context[Any, Any], data: list[str]) -> None: ...

    @room.on("*")
    def any_event(ctx: Context[Any, Any], data: dict[str, int]) -> None: ...

    lobby, garden = open_room(room), open_room(room)
    for each in (lobby, garden):
        await each.connect("a")
        await each.frame("a", "say", "secret")
        await each.frame("a", "typing")
        for name in ("*", "x", "y"):  # names that clients choose are not kept
            await each.frame("a", name, {"secret": "z"})
    once = "(said once for this event; --log-level debug says all)"
    expected = "dict[str, int]"
    say_expected = "typing.Annotated[str, msgspec.Meta(max_length=5)]"
    assert [record.getMessage() for record in caplog.records] == [
        f"an event 'say' is dropped: expected {say_expected} and {expected}, got other data {once}",
        f"an event 'typing' is dropped: expected list[str] and {expected}, got no data, which is read as {{}} {once}",
        f"an event '*' is dropped: expected {expected}, got other data {once}",
    ]
    assert [record.__dict__["connection"] for record in caplog.records] == ["a"] * 3


async def test_a_request_that_does_not_fit_is_told_to_who_asked_alone(
    open_room: OpenRoom, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "verani")
    room = define_room("chat")

    @room.on("say")
    def say(ctx: Context[Any, Any], data: str) -> None: ...

    lobby = open_room(room)
    await lobby.connect("a")
    assert await lobby.request("a", "say", 5) == refusal("invalid")
    assert caplog.records == []


async def test_a_payload_type_whose_own_code_raises_is_an_error_of_the_room_never_of_the_engine(
    open_room: OpenRoom,
) -> None:
    room, seen = define_room("chat"), list[Any]()
    room.on_error(lambda error, ctx: seen.append((type(error), ctx.ws.id)))

    @room.on("x")
    def handler(ctx: Context[Any, Any], data: Fragile) -> None:
        seen.append(data)

    lobby = open_room(room)
    await lobby.connect("a")
    assert await lobby.request("a", "x", {"text": "unfit"}) == refusal("invalid")
    assert await lobby.request("a", "x", {"text": "bug"}) == refusal("failed")
    assert seen == [(KeyError, "a")]
    assert lobby.numbers == [1, 2, 3]


@pytest.mark.parametrize("kind", REFUSALS)
async def test_a_refusal_brings_the_text_for_people_that_it_was_given(
    open_room: OpenRoom, kind: type[VeraniError]
) -> None:
    room = define_room("chat")

    @room.on("x")
    def handler(ctx: Context[Any, Any], data: Any) -> None:
        raise kind("a secret", public=data and data.replace("?", "\ud83d"))

    lobby = open_room(room)
    await lobby.connect("a")
    assert await lobby.request("a", "x", raw=b"null") == refusal(kind.code)
    told = json.loads(await lobby.request("a", "x", "Bücher \u2026 ?"))
    assert told["error"] == {"code": kind.code, "message": "Bücher \u2026 \ufffd"}
    assert len(json.loads(await lobby.request("a", "x", "x" * 5000))["error"]["message"]) == 1000


async def test_a_refusal_says_where_and_why(open_room: OpenRoom) -> None:
    room = define_room("chat")

    @room.on("x")
    def handler(ctx: Context[Any, Any], data: Any) -> None:
        raise InvalidArguments("a secret", path="$.text", public="Too rude")

    lobby = open_room(room)
    await lobby.connect("a")
    told = b'{"type":"ack","id":7,"error":{"code":"invalid","path":"$.text","message":"Too rude"}}'
    assert await lobby.request("a", "x") == told
    with pytest.raises(TypeError, match="public: expected a text"):
        Forbidden(public=5)  # type: ignore[arg-type]  # what somebody may write


# --- answers -------------------------------------------------------------------------------------------


@dataclass
class Point:
    x: int
    y: float


@pytest.mark.parametrize(
    ("result", "data"),
    [
        (None, b"null"),
        (0, b"0"),
        (False, b"false"),
        ("", b'""'),
        ({"b": 1, "a": [None]}, b'{"b":1,"a":[null]}'),
        (Say("é", [1]), '{"text":"é","to":[1]}'.encode()),
        (Point(1, float("nan")), b'{"x":1,"y":null}'),
        (float("inf"), b"null"),
    ],
)
async def test_a_request_is_answered_with_the_encoded_result(open_room: OpenRoom, result: object, data: bytes) -> None:
    room = define_room("chat")
    room.on("x")(lambda ctx, payload: result)
    lobby = open_room(room)
    await lobby.connect("a")
    await lobby.connect("b")
    assert await lobby.request("a", "x") == ack(data)
    assert lobby.received("b") == []


async def test_a_frame_without_an_id_gets_no_answer_of_any_kind(open_room: OpenRoom) -> None:
    room = define_room("chat")
    room.on("x")(lambda ctx, data: "result")
    room.on("raise")(lambda ctx, data: 1 / 0)
    lobby = open_room(room)
    await lobby.connect("a")
    for event in ("x", "raise", "unknown", "verani.x"):
        await lobby.frame("a", event)
    assert lobby.received("a") == []


async def test_answers_keep_the_order_of_their_frames_and_follow_what_the_hook_sent(open_room: OpenRoom) -> None:
    room = define_room("chat")

    @room.on("x")
    async def handler(ctx: Context[Any, Any], turns: int) -> int:
        for _ in range(turns):
            await asyncio.sleep(0)
        ctx.emit("e")
        return turns

    lobby = open_room(room)
    lobby.put_connect("a")
    for id, turns in ((9, 4), (2**53 - 1, 0), (1, 1)):
        lobby.put_frame("a", "x", turns, request=id)
    await lobby.settle()
    event = b'{"type":"event","channel":"default","data":{"type":"e"}}'
    assert lobby.received("a") == [
        event,
        b'{"type":"ack","id":9,"data":4}',
        event,
        b'{"type":"ack","id":9007199254740991,"data":0}',
        event,
        b'{"type":"ack","id":1,"data":1}',
    ]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (RuntimeError("secret"), "failed"),
        (Forbidden("secret"), "forbidden"),
        (InvalidArguments("secret", path="$.text"), "invalid"),
        (RateLimited("secret"), "rate_limited"),
        (VeraniError("secret"), "failed"),
        (SystemExit("secret"), "failed"),
        (KeyboardInterrupt("secret"), "failed"),
        (asyncio.CancelledError("secret"), "failed"),
        (TimeoutError("secret"), "failed"),
        (type("Strange", (BaseException,), {})("secret"), "failed"),
    ],
)
@pytest.mark.parametrize("is_async", [False, True])
async def test_a_handler_that_raises_is_answered_with_a_code_and_never_with_its_text(
    open_room: OpenRoom, error: BaseException, code: str, is_async: bool
) -> None:
    room = define_room("chat")

    def plain(ctx: Context[Any, Any], data: Any) -> None:
        raise error

    async def asynchronous(ctx: Context[Any, Any], data: Any) -> None:
        await asyncio.sleep(0)
        raise error

    room.on("x")(asynchronous if is_async else plain)
    lobby = open_room(room)
    await lobby.connect("a")
    assert await lobby.request("a", "x") == refusal(code, getattr(error, "path", None))
    assert b"secret" not in b"".join(lobby.received("a"))


async def test_a_frame_of_type_star_runs_the_wildcard_handlers_once(open_room: OpenRoom) -> None:
    room, seen = define_room("chat"), list[Any]()
    room.on("*")(lambda ctx, data: seen.append(ctx.frame.type))
    lobby = open_room(room)
    await lobby.connect("a")
    await lobby.frame("a", "*")
    await lobby.frame("a", "other")
    assert seen == ["*", "other"]


async def test_an_event_nobody_handles_is_answered_with_not_found(open_room: OpenRoom) -> None:
    lobby = open_room(define_room("chat"))
    await lobby.connect("a")
    assert await lobby.request("a", "x") == refusal("not_found")


@pytest.mark.parametrize("event", ["verani.refresh", "verani.", "verani.anything"])
async def test_reserved_events_reach_no_hook_not_even_the_wildcard(open_room: OpenRoom, event: str) -> None:
    room, seen = define_room("chat"), list[Any]()
    room.on("*")(lambda ctx, data: seen.append("any"))
    room.on_message(lambda ctx, frame: seen.append("message"))
    lobby = open_room(room)
    await lobby.connect("a")
    assert await lobby.request("a", event) == refusal("not_found")
    assert seen == []
    await lobby.frame("a", "verani")
    assert seen == ["any"]


class Unencodable:
    """Something that msgspec cannot encode."""


@pytest.mark.parametrize(
    ("result", "code"),
    [(Unencodable(), "failed"), ({(1, 2): 3}, "failed"), ("x" * (1 << 20), "too_large")],
)
async def test_a_result_that_cannot_be_sent_is_an_error_of_the_hook(
    open_room: OpenRoom, result: object, code: str
) -> None:
    room, seen = define_room("chat"), list[Any]()
    room.on_error(lambda error, ctx: seen.append((isinstance(error, Exception), ctx.frame.type)))
    room.on("x")(lambda ctx, data: result)
    lobby = open_room(room)
    await lobby.connect("a")
    assert await lobby.request("a", "x") == refusal(code)
    assert seen == [(True, "x")]
    await lobby.frame("a", "x")  # nobody asked, so nothing is encoded
    assert len(seen) == 1


# --- middleware ----------------------------------------------------------------------------------------


async def test_middleware_runs_in_registration_order_the_first_one_outermost(open_room: OpenRoom) -> None:
    room, seen = define_room("chat"), list[str]()

    def make(name: str) -> Any:
        async def middleware(ctx: Context[Any, Any], call_next: Any) -> Any:
            seen.append(f"{name} in {ctx.frame.type}")
            result = await call_next()
            seen.append(f"{name} out")
            return result

        return middleware

    outer, inner = make("outer"), make("inner")
    assert room.use(outer) is outer
    room.use(inner)
    room.on("x")(lambda ctx, data: noted(seen, "handler", 5))
    room.on_message(lambda ctx, frame: noted(seen, "on_message", 6))
    lobby = open_room(room)
    await lobby.connect("a")
    assert await lobby.request("a", "x") == ack(b"5")
    assert seen == ["outer in x", "inner in x", "handler", "inner out", "outer out"]
    seen.clear()
    assert await lobby.request("a", "y") == ack(b"6")
    assert seen == ["outer in y", "inner in y", "on_message", "inner out", "outer out"]


async def test_middleware_may_veto_a_frame_and_answer_in_its_place(open_room: OpenRoom) -> None:
    room, seen = define_room("chat"), list[str]()

    @room.use
    def veto(ctx: Context[Any, Any], call_next: Any) -> Any:
        return "no" if ctx.frame.data == "bad" else call_next()

    room.on("x")(lambda ctx, data: seen.append(data))
    lobby = open_room(room)
    await lobby.connect("a")
    assert await lobby.request("a", "x", "bad") == ack(b'"no"')
    assert await lobby.request("a", "x", "good") == ack(b"null")
    assert seen == ["good"]


async def test_what_middleware_returns_replaces_the_answer(open_room: OpenRoom) -> None:
    room = define_room("chat")

    @room.use
    async def double(ctx: Context[Any, Any], call_next: Any) -> Any:
        return 2 * await call_next()

    room.on("x")(lambda ctx, data: data)
    lobby = open_room(room)
    await lobby.connect("a")
    assert await lobby.request("a", "x", 21) == ack(b"42")


async def test_middleware_sees_the_error_of_a_handler_and_may_turn_it_into_an_answer(open_room: OpenRoom) -> None:
    room, seen = define_room("chat"), list[Any]()
    room.on_error(lambda error, ctx: seen.append(error))

    @room.use
    async def rescue(ctx: Context[Any, Any], call_next: Any) -> Any:
        try:
            return await call_next()
        except ZeroDivisionError:
            return "infinite"

    room.on("divide")(lambda ctx, data: 1 / data)
    lobby = open_room(room)
    await lobby.connect("a")
    assert await lobby.request("a", "divide", 0) == ack(b'"infinite"')
    assert seen == []


async def test_middleware_that_raises_refuses_the_frame_with_its_code(open_room: OpenRoom) -> None:
    room, seen = define_room("chat"), list[Any]()
    room.on_error(lambda error, ctx: seen.append(type(error)))

    @room.use
    def guard(ctx: Context[Any, Any], call_next: Any) -> Any:
        raise Forbidden("not you")

    room.on("x")(lambda ctx, data: seen.append("handler"))
    lobby = open_room(room)
    await lobby.connect("a")
    assert await lobby.request("a", "x") == refusal("forbidden")
    assert seen == [Forbidden]


# --- with a task, and without ----------------------------------------------------------------------------


@pytest.mark.short_way
async def test_a_handler_that_does_not_wait_is_done_when_its_frame_was_taken(open_room: OpenRoom) -> None:
    room = define_room("chat")
    tasks = list[Any]()

    @room.on("x")
    def plain(ctx: Context[Any, Any], data: Any) -> str:
        ctx.emit("heard")
        tasks.append(asyncio.current_task())
        return "done"

    lobby = open_room(room)
    await lobby.connect("a")
    event = FrameInput("chat/lobby", 9, "a", "x", None, None, 7)
    asyncio.get_running_loop().call_soon(lobby.engine.start, event, "g1")
    await asyncio.sleep(0)
    assert lobby.received("a")[-1] == ack(b'"done"')
    assert lobby.numbers[-1] == 9
    assert tasks == [None]
    assert lobby.engine.start(msgspec.structs.replace(event, number=10, request=None), "g1") is None


@pytest.mark.parametrize("reports", [True, False])
async def test_a_handler_that_fails_or_returns_an_awaitable_leaves_the_rest_to_a_task(
    open_room: OpenRoom, reports: bool
) -> None:
    room = define_room("chat")
    seen = list[Any]()

    async def rest() -> str:
        seen.append(asyncio.current_task())
        return "awaited"

    room.on("returns")(lambda ctx, data: rest())
    room.on("fails")(lambda ctx, data: 1 / 0)

    async def on_error(error: BaseException, ctx: Context[Any, Any]) -> None:
        seen.append(type(error))

    if reports:
        room.on_error(on_error)
    lobby = open_room(room)
    await lobby.connect("a")
    assert await lobby.request("a", "returns") == ack(b'"awaited"')
    assert await lobby.request("a", "fails") == refusal("failed")
    assert isinstance(seen[0], asyncio.Task)
    assert seen[1:] == [ZeroDivisionError] * reports
    left = lobby.engine.start(FrameInput("chat/lobby", 9, "a", "fails", None, None, 7), "g1")
    assert left is not None
    lobby.engine.end()
    assert await left() is False, "what is left of a room that is over is left alone"


@pytest.mark.short_way
async def test_what_a_hook_sets_for_its_own_code_is_not_there_for_the_next_one(make_room: OpenRoom) -> None:
    variable, seen = ContextVar("variable", default=""), list[str]()
    room = define_room("chat")

    async def look() -> None:
        await asyncio.sleep(0)
        seen.append(variable.get())

    @room.on_connect
    def connected(ctx: Context[Any, Any]) -> None:
        seen.append(variable.get())
        variable.set("of who connects")

    @room.on("x")
    def plain(ctx: Context[Any, Any], data: Any) -> None:
        seen.append(variable.get())
        variable.set("of x")

    @room.on("y")
    def waiting(ctx: Context[Any, Any], data: Any) -> Any:
        variable.set("of y")
        return look()

    lobby = make_room(room)
    await lobby.wake()
    inputs: list[Connect | FrameInput] = [
        Connect("chat/lobby", 1, "a", lobby.record("a").attachment),
        FrameInput("chat/lobby", 2, "a", "x", None, None),
        FrameInput("chat/lobby", 3, "a", "x", None, None),
    ]
    asyncio.get_running_loop().call_soon(lambda: [lobby.engine.start(each, "g1") for each in inputs])
    await asyncio.sleep(0)
    rest = lobby.engine.start(FrameInput("chat/lobby", 4, "a", "y", None, None), "g1")
    assert rest is not None
    await asyncio.create_task(rest())
    assert seen == ["", "", "", "of y"]
    assert variable.get() == ""

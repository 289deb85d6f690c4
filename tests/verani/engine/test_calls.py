"""The rules for calls: a method runs as an event of its own, and its caller learns one outcome."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import msgspec
import pytest

from tests.verani.conftest import OpenRoom, Processed, Sent
from verani import (
    CallCycle,
    ConnectionMeta,
    Context,
    DeadlineExceeded,
    Forbidden,
    RateLimited,
    RoomBusy,
    RoomDefinition,
    define_room,
)
from verani.engine.room_events import Attached
from verani.errors import HookInterrupted, NotFound
from verani.link import messages
from verani.link.messages import Deliver, Outcome, Record, Reply


class Fragile(msgspec.Struct):
    text: str

    def __post_init__(self) -> None:
        raise KeyError("a bug")


class Player(ConnectionMeta, kw_only=True):
    score: int = 0


def a_room(**options: Any) -> RoomDefinition[Player, Any]:
    room = define_room("chat", meta=Player, **options)

    @room.rpc
    async def award(actor: Any, user_id: str, points: int = 1) -> int:
        """Give points to every session of a user."""
        await asyncio.sleep(0)
        for session in actor.get_user_sessions(user_id):
            session.update(score=session.meta.score + points)
            actor.emit_to_user(user_id, "awarded", {"points": points})
        if points > 100:
            raise ValueError("secret reason")
        return len(actor.get_user_sessions(user_id))

    @room.rpc
    def refuse(actor: Any) -> None:
        raise Forbidden("not for you")

    @room.rpc
    def wrong(actor: Any) -> int:
        return "text"  # type: ignore[return-value]

    @room.rpc
    def huge(actor: Any) -> str:
        return "x" * (1 << 20)

    return room


# --- built-in methods ----------------------------------------------------------------------------------


async def test_the_built_in_methods_do_what_the_rooms_own_do(open_room: OpenRoom) -> None:
    lobby = open_room(define_room("chat"))
    await lobby.connect("a", user="ada", channels=("default", "news"))
    await lobby.connect("b", user="bob")
    assert await lobby.call("get_session_count") == Outcome(b"2")
    assert await lobby.call("get_connected_user_ids") == Outcome(b'["ada","bob"]')
    assert await lobby.call("broadcast", ["default", {"type": "x"}]) == Outcome(b"2")
    assert await lobby.call("broadcast", {"channel": "default", "data": 1, "user_ids": ["bob"]}) == Outcome(b"1")
    filters = {"channel": "default", "data": 2, "user_ids": ["ada"], "client_ids": ["client-b"]}
    assert await lobby.call("broadcast", filters) == Outcome(b"0")
    assert await lobby.call("send_to_user", ["ada", "news", {"type": "y"}]) == Outcome(b"1")
    assert await lobby.call("emit_to_channel", ["news", "z", {"a": 1}]) == Outcome(b"1")
    assert await lobby.call("emit_to_user", ["bob", "w"]) == Outcome(b"1")
    assert await lobby.call("cleanup_stale_sessions") == Outcome(b"0")
    assert lobby.data("a") == [{"type": "x"}, {"type": "y"}, {"type": "z", "a": 1}]
    assert lobby.data("b") == [{"type": "x"}, 1, {"type": "w"}]


@pytest.mark.parametrize(
    ("method", "arguments", "path"),
    [
        ("broadcast", {"channel": "default"}, "$.data"),
        ("broadcast", {"channel": "default", "data": 1, "except_": "c1"}, "$.except_"),
        ("broadcast", {"channel": "default", "data": 1, "user_ids": "ada"}, "$.user_ids"),
        ("broadcast", ["a\nb", 1], "$[0]"),
        ("broadcast", {"channel": "", "data": 1}, "$.channel"),
        ("emit_to_user", ["ada", "verani.refresh"], "$[1]"),
        ("emit_to_user", ["ada", "x\u202e"], "$[1]"),
        ("send_to_user", [1, 2, 3], "$[0]"),
    ],
)
async def test_bad_arguments_are_the_callers_fault(
    open_room: OpenRoom, method: str, arguments: Any, path: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    lobby = open_room(define_room("chat"))
    outcome = await lobby.call(method, arguments)
    assert (outcome.result, outcome.code, outcome.path) == (None, "invalid", path)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_what_a_hook_made_public_reaches_the_caller_and_nothing_else(open_room: OpenRoom) -> None:
    room = define_room("chat")

    @room.rpc
    def refuse(actor: Any, public: str | None = None) -> None:
        raise Forbidden("a secret", public=public)

    @room.rpc
    async def pass_on(actor: Any) -> None:
        await actor.stub("other", "x").refuse()

    lobby = open_room(room)
    assert await lobby.call("refuse") == Outcome(code="forbidden")
    assert await lobby.call("refuse", ["You are muted"]) == Outcome(code="forbidden", public="You are muted")
    number = lobby.put_call("pass_on")
    await lobby.settle()
    lobby.engine.replied(lobby.sink.invoked[0].token, Outcome(code="forbidden", public="You are muted"))
    await lobby.settle()
    assert lobby.sink.replies[number] == Outcome(code="failed"), "said about another room, to this one"


async def test_an_interrupted_call_whose_arguments_no_longer_fit_is_answered_and_on_error_told(
    open_room: OpenRoom,
) -> None:
    room, seen = define_room("chat"), list[Any]()

    @room.rpc
    def take(actor: Any, fragile: Fragile, times: int = 1) -> None:
        seen.append("ran")

    room.on_error(lambda error, ctx: seen.append((type(error), ctx.call.method, dict(ctx.call.arguments))))
    lobby = open_room(room)
    for raw in (b'{"fragile":{"text":"x"}}', b'{"times":"x"}', b"{", b'{"nobody":1}'):
        number = lobby.number()
        call = messages.CallInput("chat/lobby", number, "take", raw, 5.0)
        await lobby.feed(messages.InterruptedInput(call), "g1")
        assert lobby.sink.replies[number] == Outcome(code="interrupted")
    assert seen == [(HookInterrupted, "take", {})] * 4
    assert lobby.sink.numbers == [("g1", n) for n in range(1, 5)]


# --- the definition's own methods ----------------------------------------------------------------------


async def test_a_method_is_a_transaction_whose_reply_comes_last(open_room: OpenRoom) -> None:
    lobby = open_room(a_room())
    await lobby.connect("a", user="ada")
    lobby.sink.effects.clear()
    number = lobby.put_call("award", {"user_id": "ada", "points": 5})
    await lobby.settle()
    assert lobby.committed("a").score == 5
    sent = [effect.output for effect in lobby.sink.effects if isinstance(effect, Sent)]
    assert [type(output) for output in sent] == [Deliver, Reply]
    assert sent[1] == Reply(number, Outcome(b"1"))
    assert lobby.sink.effects[-1] == Processed("g1", number)


async def test_what_a_method_raises_is_rolled_back_logged_and_told_as_a_code(
    open_room: OpenRoom, caplog: pytest.LogCaptureFixture
) -> None:
    errors: list[tuple[str, Any]] = []
    lobby = open_room(a_room(on_error=lambda error, ctx: errors.append((repr(error), ctx.call))))
    await lobby.connect("a", user="ada")
    outcome = await lobby.call("award", ["ada", 101])
    assert outcome == Outcome(code="failed")
    assert lobby.committed("a").score == 0
    assert lobby.data("a") == [{"type": "awarded", "points": 101}], "what it had sent stays sent"
    [(error, call)] = errors
    assert error == "ValueError('secret reason')"
    assert (call.method, call.arguments) == ("award", {"user_id": "ada", "points": 101})
    assert "secret reason" in caplog.text


@pytest.mark.parametrize(
    ("method", "code"),
    [
        ("refuse", "forbidden"),
        ("wrong", "failed"),
        ("huge", "too_large"),
        ("nothing", "not_found"),
        ("__class__", "not_found"),
        ("_engine", "not_found"),
    ],
)
async def test_every_failure_has_its_code(open_room: OpenRoom, method: str, code: str) -> None:
    lobby = open_room(a_room())
    assert await lobby.call(method) == Outcome(code=code)


async def test_calls_and_frames_are_handled_in_the_order_they_came(open_room: OpenRoom) -> None:
    seen: list[str] = []
    room = define_room("chat")

    @room.on("frame")
    async def frame(ctx: Context, data: int) -> None:
        await asyncio.sleep(0)
        seen.append(f"frame {data}")

    @room.rpc
    async def method(actor: Any, number: int) -> None:
        await asyncio.sleep(0)
        seen.append(f"call {number}")

    lobby = open_room(room)
    await lobby.connect("a")
    for number in range(3):
        lobby.put_frame("a", "frame", number)
        lobby.put_call("method", [number])
    await lobby.settle()
    assert seen == ["frame 0", "call 0", "frame 1", "call 1", "frame 2", "call 2"]


async def test_a_call_that_expired_is_not_run(open_room: OpenRoom) -> None:
    lobby = open_room(a_room())
    await lobby.connect("a", user="ada")
    late = await lobby.call("award", ["ada"], expires=lobby.clock.now)
    in_time = await lobby.call("award", ["ada"], expires=lobby.clock.now + 0.1)
    assert (late, in_time) == (Outcome(code="deadline"), Outcome(b"1"))
    assert lobby.committed("a").score == 1


async def test_a_method_has_the_time_budget_of_a_hook(open_room: OpenRoom) -> None:
    room = define_room("chat")

    @room.rpc
    async def forever(actor: Any) -> None:
        await asyncio.Event().wait()

    lobby = open_room(room)
    number = lobby.put_call("forever")
    await lobby.settle()
    assert lobby.engine.busy == "RPC"
    await lobby.pass_time(lobby.settings.hook_timeout + 1)
    assert lobby.sink.replies[number] == Outcome(code="deadline")
    assert lobby.engine.busy is None


async def test_an_abandoned_method_is_answered_once(open_room: OpenRoom) -> None:
    room = define_room("chat")
    free = asyncio.Event()

    @room.rpc
    async def stubborn(actor: Any) -> int:
        while not free.is_set():
            try:
                await free.wait()
            except asyncio.CancelledError:
                continue
        return 1

    lobby = open_room(room)
    number = lobby.put_call("stubborn")
    await lobby.settle()
    await lobby.abandon_hook()
    assert lobby.sink.replies[number] == Outcome(code="deadline")
    free.set()
    await lobby.settle()
    replies = [e.output for e in lobby.sink.effects if isinstance(e, Sent) and isinstance(e.output, Reply)]
    assert len(replies) == 1


async def test_a_key_makes_a_call_run_once_while_the_room_is_awake(open_room: OpenRoom) -> None:
    lobby = open_room(a_room())
    await lobby.connect("a", user="ada")
    first = await lobby.call("award", ["ada", 5], key="k1")
    again = await lobby.call("award", ["ada", 5], key="k1")
    other = await lobby.call("award", ["ada", 5], key="k2")
    assert first == again == other == Outcome(b"1")
    assert lobby.committed("a").score == 10
    assert (await lobby.call("award", ["ada", 6], key="k1")).code == "conflict"
    assert await lobby.call("award", ["ada", 101], key="k3") == Outcome(code="failed")
    lobby.take("a")
    assert await lobby.call("award", ["ada", 101], key="k3") == Outcome(code="failed")
    assert lobby.data("a") == [], "a failed call was run, so its repetition is not"


async def test_a_call_that_surely_did_not_run_is_not_remembered(open_room: OpenRoom) -> None:
    lobby = open_room(a_room())
    await lobby.connect("a", user="ada")
    assert (await lobby.call("award", ["ada", "x"], key="k")).code == "invalid"
    assert (await lobby.call("award", ["ada"], key="k", expires=1.0)).code == "deadline"
    assert await lobby.call("award", ["ada"], key="k") == Outcome(b"1")


async def test_a_refusal_that_invites_to_try_again_is_not_remembered(open_room: OpenRoom) -> None:
    room, runs = define_room("chat"), list[int]()

    @room.rpc
    def reserve(actor: Any) -> str:
        runs.append(1)
        if len(runs) < 3:
            raise RoomBusy("no seat now") if len(runs) == 1 else RateLimited("too many")
        return "a seat"

    lobby = open_room(room)
    codes = [(await lobby.call("reserve", key="k")).code for _ in range(4)]
    assert codes == ["busy", "rate_limited", None, None]
    assert len(runs) == 3


async def test_middleware_wraps_calls(open_room: OpenRoom) -> None:
    seen: list[Any] = []
    room = a_room()

    @room.use
    async def audit(ctx: Context[Player], call_next: Any) -> Any:
        seen.append(ctx.call and ctx.call.method)
        result = await call_next()
        return result * 10 if isinstance(result, int) else result

    lobby = open_room(room)
    await lobby.connect("a", user="ada")
    assert await lobby.call("award", ["ada"]) == Outcome(b"10")
    assert seen == ["award"]


# --- calls to other rooms ------------------------------------------------------------------------------


def a_calling_room(results: list[Any]) -> RoomDefinition[Any, Any]:
    room = define_room("chat")

    async def ask(actor: Any, target: str, timeout: float | None = None) -> Any:
        try:
            results.append(await actor.stub("chat", target).get_session_count(timeout=timeout))
        except Exception as error:  # the test looks at it  # noqa: BLE001
            results.append(error)

    @room.on("ask")
    async def asked(ctx: Context, target: str) -> None:
        await ask(ctx.actor, target)

    @room.on("ask soon")
    async def asked_soon(ctx: Context, target: str) -> None:
        await ask(ctx.actor, target, 0.001)

    @room.on("ask aside")
    def asked_aside(ctx: Context, target: str) -> None:
        ctx.actor.spawn(ask(ctx.actor, target))

    @room.rpc
    async def pass_on(actor: Any, target: str) -> None:
        await ask(actor, target)

    return room


async def test_a_call_of_a_hook_says_who_waits_for_it_and_has_a_key_of_its_own(open_room: OpenRoom) -> None:
    results: list[Any] = []
    lobby = open_room(a_calling_room(results))
    await lobby.connect("a")
    number = await lobby.frame("a", "ask", "b")
    [invoke] = lobby.sink.invoked
    assert (invoke.room, invoke.target, invoke.method) == ("chat/lobby", "chat/b", "get_session_count")
    assert invoke.chain == ("chat/lobby",)
    assert invoke.key == f"chat/lobby g1 {number} 1"
    assert invoke.timeout == lobby.settings.rpc_timeout
    lobby.engine.replied(invoke.token, Outcome(b"5"))
    lobby.engine.replied(invoke.token, Outcome(b"6"))
    await lobby.settle()
    assert results == [5]


async def test_the_chain_grows_with_every_room_and_a_room_in_it_is_not_called(open_room: OpenRoom) -> None:
    results: list[Any] = []
    lobby = open_room(a_calling_room(results))
    lobby.put_call("pass_on", ["c"], chain=("chat/a", "chat/b"))
    await lobby.settle()
    assert lobby.sink.invoked[0].chain == ("chat/a", "chat/b", "chat/lobby")
    lobby.engine.replied(lobby.sink.invoked[0].token, Outcome(code="not_found"))
    await lobby.settle()
    await lobby.call("pass_on", ["a"], chain=("chat/a",))
    await lobby.call("pass_on", ["lobby"])
    assert [type(result) for result in results] == [NotFound, CallCycle, CallCycle]
    assert len(lobby.sink.invoked) == 1


async def test_a_spawned_task_holds_no_room_so_it_may_call_its_own(open_room: OpenRoom) -> None:
    results: list[Any] = []
    lobby = open_room(a_calling_room(results))
    await lobby.connect("a")
    await lobby.frame("a", "ask aside", "lobby")
    [invoke] = lobby.sink.invoked
    assert (invoke.target, invoke.chain, invoke.key) == ("chat/lobby", (), None)
    lobby.engine.replied(invoke.token, Outcome(b"1"))
    await lobby.settle()
    assert results == [1]


async def test_a_call_without_an_answer_ends_at_its_deadline(open_room: OpenRoom) -> None:
    results: list[Any] = []
    lobby = open_room(a_calling_room(results))
    await lobby.connect("a")
    lobby.put_frame("a", "ask soon", "b")
    await lobby.finish()
    assert isinstance(results[0], DeadlineExceeded)
    lobby.engine.replied(lobby.sink.invoked[0].token, Outcome(b"5"))


async def test_calls_of_a_room_that_ends_are_interrupted(open_room: OpenRoom) -> None:
    results: list[Any] = []
    lobby = open_room(a_calling_room(results))
    await lobby.connect("a")
    await lobby.frame("a", "ask aside", "b")
    await lobby.sleep(force=True)
    assert not lobby.engine.room.calls._waiting


async def test_what_a_call_came_to_is_not_said_of_the_hook_that_made_it(open_room: OpenRoom) -> None:
    """A room that was busy surely did not run; the hook that called it did, so its own caller must not try again."""
    room = define_room("chat")

    @room.rpc
    async def careless(actor: Any) -> None:
        await actor.stub("chat", "b").get_session_count()

    lobby = open_room(room)
    for code in ("busy", "forbidden", "invalid", "deadline"):
        number = lobby.put_call("careless")
        await lobby.settle()
        lobby.engine.replied(lobby.sink.invoked[-1].token, Outcome(code=code, path="$.a"))
        await lobby.settle()
        assert lobby.sink.replies[number] == Outcome(code="failed")


# --- places --------------------------------------------------------------------------------------------


async def test_sessions_of_several_gateways_keep_their_order_over_a_sleep(open_room: OpenRoom) -> None:
    lobby = open_room(define_room("chat"))
    for number, gateway in enumerate(["g2", "g1", "g2", "g3", "g1"]):
        await lobby.connect(f"c{number}", gateway=gateway, user=f"u{number}")
    before = await lobby.call("get_connected_user_ids")
    records = lobby.records()
    await lobby.sleep()
    await lobby.wake(*records, fresh=True)
    assert await lobby.call("get_connected_user_ids") == before == Outcome(b'["u0","u1","u2","u3","u4"]')
    await lobby.connect("c5", user="u5")
    assert lobby.sink.seats["c5"] > max(lobby.sink.seats[f"c{number}"] for number in range(5))


async def test_records_that_come_late_take_their_old_places(open_room: OpenRoom) -> None:
    lobby = open_room(define_room("chat"))
    for number, gateway in enumerate(["g2", "g1", "g2", "g1"]):
        await lobby.connect(f"c{number}", gateway=gateway, user=f"u{number}", channels=("news",))
    records: dict[str, list[Record]] = dict(lobby.records())
    await lobby.sleep()
    await lobby.wake(("g1", records["g1"]), fresh=True)
    await lobby.connect("c4", user="u4", gateway="g1", channels=("news",))
    await lobby.feed(Attached("g2", tuple(records["g2"])))
    assert await lobby.call("get_connected_user_ids") == Outcome(b'["u0","u1","u2","u3","u4"]')
    assert await lobby.call("emit_to_channel", ["news", "x"]) == Outcome(b"5")
    assert [session.user_id for session in lobby.engine.actor] == ["u0", "u1", "u2", "u3", "u4"]

"""How long hooks take and how they end is counted by names of the definition, whatever clients send."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from tests.verani.conftest import OpenRoom, Room
from verani import Actor, Context, Forbidden, Settings, define_room
from verani.engine.hook_runner import CANCEL_GRACE
from verani.engine.room_events import Retire
from verani.histogram import BOUNDS, Histogram
from verani.room.definition import RoomDefinition

BUDGET = Settings().hook_timeout


def runs(lobby: Room) -> dict[tuple[str, str], tuple[int, float]]:
    """Say how often each hook has run, and how long in all; those that have not run are left out."""
    found = {(kind, name): (sum(measure.counts), round(measure.seconds, 6)) for kind, name, measure in lobby.measures}
    return {key: value for key, value in found.items() if value[0]}


def failures(lobby: Room) -> dict[str, tuple[int, int]]:
    """Say how many errors and refusals there were of each hook that had any."""
    found = {name: (measure.errors, measure.refusals) for _, name, measure in lobby.measures}
    return {name: counts for name, counts in found.items() if any(counts)}


def test_a_duration_is_counted_in_the_first_bucket_that_holds_it() -> None:
    histogram = Histogram()
    for seconds in (0.0, BOUNDS[0], BOUNDS[0] * 1.01, BOUNDS[-1], BOUNDS[-1] + 1):
        histogram.observe(seconds)
    assert (histogram.counts[:2], histogram.counts[-2:]) == ([2, 1], [1, 1])
    assert histogram.seconds == pytest.approx(2.01 * BOUNDS[0] + 2 * BOUNDS[-1] + 1)


@pytest.mark.short_way
async def test_a_hook_that_waits_is_measured_like_one_that_does_not(open_room: OpenRoom) -> None:
    room = define_room("chat")

    @room.on("quick")
    def quick(ctx: Context, data: Any) -> None:
        lobby.clock.now += 0.003

    @room.on("slow")
    async def slow(ctx: Context, data: Any) -> None:
        lobby.clock.now += 0.25
        await asyncio.sleep(0)
        lobby.clock.now += 0.5

    @room.rpc
    def count(actor: Actor) -> int:
        lobby.clock.now += 1
        return 3

    lobby = open_room(room)
    await lobby.connect("a")
    await lobby.frame("a", "quick")
    await lobby.frame("a", "quick")
    await lobby.frame("a", "slow")
    await lobby.call("count")
    assert runs(lobby) == {
        ("event", "quick"): (2, 0.006),
        ("event", "slow"): (1, 0.75),
        ("method", "count"): (1, 1.0),
    }


@pytest.mark.short_way
@pytest.mark.parametrize("catch", ["*", "on_message"])
async def test_names_of_clients_do_not_make_measures(open_room: OpenRoom, catch: str) -> None:
    room: RoomDefinition[Any, Any] = define_room("chat")
    room.on("say")(lambda ctx, data: None)

    def everything(ctx: Context, data: Any) -> None:
        if getattr(data, "data", data) == "fail":
            raise RuntimeError

    if catch == "*":
        room.on("*")(everything)
    else:
        room.on_message(everything)
    lobby = open_room(room)
    await lobby.connect("a")
    before = {(kind, name) for kind, name, _ in lobby.measures}
    for event in ("say", "on_connect", "state", *(f"made-up-{n}" for n in range(50))):
        await lobby.frame("a", event)
    await lobby.frame("a", "on_wake", "fail")
    assert {(kind, name) for kind, name, _ in lobby.measures} == before
    kind = "event" if catch == "*" else "hook"
    assert {key: count for key, (count, _) in runs(lobby).items()} == {
        ("event", "say"): 1,
        (kind, catch): 53,
    }
    assert failures(lobby) == {catch: (1, 0)}


async def test_every_error_is_counted_once_and_refusals_apart(open_room: OpenRoom) -> None:
    room: RoomDefinition[Any, Any] = define_room("chat")

    @room.on_connect
    def on_connect(ctx: Context) -> None:
        if ctx.ws.id == "b":
            raise Forbidden

    @room.on("fail")
    def fail(ctx: Context, data: Any) -> None:
        raise RuntimeError("the first")

    @room.on("unanswerable")
    def unanswerable(ctx: Context, data: Any) -> Any:
        return object()

    @room.rpc
    async def ask(actor: Actor) -> None:
        await asyncio.sleep(0)
        raise ValueError

    @room.on_error
    def on_error(error: BaseException, ctx: Context) -> None:
        if str(error) == "the first":
            raise OSError

    lobby = open_room(room)
    await lobby.connect("a", "b")
    await lobby.frame("a", "fail")
    await lobby.frame("a", "fail")
    await lobby.request("a", "unanswerable")
    await lobby.call("ask")
    assert failures(lobby) == {
        "on_connect": (0, 1),
        "fail": (2, 0),
        "unanswerable": (1, 0),
        "ask": (1, 0),
        "on_error": (2, 0),
    }
    assert runs(lobby)["hook", "on_error"][0] == 5


async def test_a_hook_that_is_abandoned_is_measured_then_and_not_again(open_room: OpenRoom) -> None:
    room, released = define_room("chat"), asyncio.Event()

    @room.on("hang")
    async def hang(ctx: Context, data: Any) -> None:
        while not released.is_set():
            try:
                await released.wait()
            except asyncio.CancelledError:
                continue

    lobby = open_room(room)
    await lobby.connect("a")
    lobby.put_frame("a", "hang")
    await lobby.settle()
    await lobby.pass_time(BUDGET + 0.1)
    assert await lobby.pass_time(CANCEL_GRACE + 0.1)
    measured = runs(lobby)["event", "hang"]
    assert measured == (1, BUDGET + CANCEL_GRACE + 0.2)
    assert failures(lobby) == {"hang": (1, 0)}
    released.set()
    await asyncio.wait(lobby.mail.abandoned)
    assert runs(lobby)["event", "hang"] == measured


async def test_what_a_definition_has_is_there_before_it_runs(open_room: OpenRoom) -> None:
    room: RoomDefinition[Any, Any] = define_room("chat")
    room.on("say")(lambda ctx, data: None)
    room.on_disconnect(lambda ctx: None)
    room.rpc(count)
    lobby = open_room(room)
    assert {(kind, name) for kind, name, _ in lobby.measures} == {
        ("event", "say"),
        ("hook", "on_disconnect"),
        ("method", "count"),
    }


def count(actor: Actor) -> int:
    return 3


class Picky(msgspec.Struct):
    value: int

    def __post_init__(self) -> None:
        raise RuntimeError("code of the application")


async def test_what_the_type_of_a_payload_raises_is_an_error_of_what_takes_it(open_room: OpenRoom) -> None:
    room, seen = define_room("chat"), list[tuple[str, Any]]()
    room.on_connect(lambda ctx: None)

    @room.on("take")
    def take(ctx: Context, data: Picky) -> None: ...

    @room.rpc
    def give(actor: Actor, picky: Picky) -> None: ...

    @room.on_error
    def on_error(error: BaseException, ctx: Context) -> None:
        seen.append((ctx.hook, ctx.frame.data if ctx.call is None else None))

    lobby = open_room(room)
    await lobby.connect("a")
    await lobby.frame("a", "take", {"value": 1})
    await lobby.call("give", {"picky": {"value": 1}})
    assert failures(lobby) == {"take": (1, 0), "give": (1, 0)}
    assert seen == [("on('take')", {"value": 1}), ("rpc give", None)]


async def test_an_error_outside_the_order_of_inputs_is_one_of_the_hook_it_comes_from(open_room: OpenRoom) -> None:
    room, released = define_room("chat"), asyncio.Event()

    async def fail() -> None:
        raise ValueError

    async def fail_in_a_task_of_its_own(actor: Actor) -> None:
        actor.spawn(fail())

    @room.on_wake
    def on_wake(actor: Actor) -> None:
        actor.spawn(fail())
        actor.spawn(fail_in_a_task_of_its_own(actor))

    @room.on_hibernate
    async def on_hibernate(actor: Actor) -> None:
        while not released.is_set():
            try:
                await released.wait()
            except asyncio.CancelledError:
                continue

    lobby = open_room(room)
    await lobby.settle()
    assert failures(lobby) == {"on_wake": (2, 0)}
    lobby.put(Retire(force=True))
    await lobby.settle()
    await lobby.abandon_hook()
    await lobby.settle()
    assert failures(lobby) == {"on_wake": (2, 0), "on_hibernate": (1, 0)}
    released.set()

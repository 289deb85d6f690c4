"""What runs when a room wakes, and what becomes of events while `on_wake` fails."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from tests.verani.conftest import OpenRoom
from verani import NotFound, RoomBusy, RoomDefinition, define_room
from verani.engine.room_events import Woken
from verani.link.messages import Outcome

BUSY = b'{"type":"ack","id":7,"error":{"code":"busy"}}'


class Store:
    """What an application keeps outside, and whether it can be reached."""

    def __init__(self) -> None:
        self.saved: dict[str, Any] = {}
        self.error: BaseException | None = None
        self.seen: list[Any] = []


@pytest.fixture
def store() -> Store:
    return Store()


def counter(store: Store) -> RoomDefinition[Any, Any]:
    """Define a room that counts frames and keeps the count while it sleeps."""
    room = define_room("chat", state=lambda: SimpleNamespace(count=0))

    @room.on_wake
    async def load(actor: Any) -> None:
        store.seen.append(("wake", list(actor.sessions), actor.state.count))
        actor.state.count += 100  # half of the work, before the store answers
        await asyncio.sleep(0)
        if store.error is not None:
            raise store.error
        actor.state.count = store.saved.get(actor.room_id, 0)

    @room.on_hibernate
    def save(actor: Any) -> None:
        store.seen.append("save")
        store.saved[actor.room_id] = actor.state.count

    @room.on("add")
    def add(ctx: Any, data: Any) -> int:
        ctx.actor.state.count += 1
        return ctx.actor.state.count  # type: ignore[no-any-return]  # a namespace

    @room.rpc
    def count(actor: Any) -> int:
        return actor.state.count  # type: ignore[no-any-return]  # a namespace

    room.on_hibernation_restore(lambda actor: store.seen.append("restore"))
    room.on_connect(lambda ctx: store.seen.append(("connect", ctx.ws.id)))
    room.on_disconnect(lambda ctx: store.seen.append(("disconnect", ctx.ws.id)))
    room.on_error(lambda error, ctx: store.seen.append(error))
    return room


async def test_on_wake_runs_at_every_wake_before_anything_else_also_in_an_empty_room(
    make_room: OpenRoom, store: Store
) -> None:
    lobby = make_room(counter(store))
    await lobby.wake()
    await lobby.connect("a")
    assert await lobby.request("a", "add") == b'{"type":"ack","id":7,"data":1}'
    await lobby.close("a")
    await lobby.sleep()
    assert store.seen == [("wake", [], 0), ("connect", "a"), ("disconnect", "a"), "save"]
    store.seen.clear()
    await lobby.wake(fresh=True)
    assert await lobby.call("count") == Outcome(b"1")
    await lobby.sleep()
    assert store.saved == {"lobby": 1}, "a room that woke empty has not forgotten what it saved"
    await lobby.wake(("g1", [lobby.record("b")]), fresh=True)
    assert await lobby.request("b", "add") == b'{"type":"ack","id":7,"data":2}'
    assert store.seen == [("wake", [], 0), "save", ("wake", ["b"], 0), "restore"]


async def test_while_on_wake_fails_no_hook_runs_each_event_is_refused_once_and_nothing_is_saved(
    make_room: OpenRoom, store: Store
) -> None:
    store.saved["lobby"] = 41
    store.error = OSError("no database")
    lobby = make_room(counter(store))
    await lobby.wake(("g1", [lobby.record("a"), lobby.record("b")]))
    attempt = [("wake", ["a", "b"], 0), store.error]
    assert store.seen == attempt
    assert await lobby.request("a", "add") == BUSY, "the event that woke it, for which it is not tried again"
    assert store.seen == attempt
    assert await lobby.request("a", "add") == BUSY
    assert store.seen == attempt * 2
    await lobby.frame("a", "add")
    await lobby.connect("c")
    assert lobby.sink.kicks == [("c", 1013, "")]
    assert await lobby.call("count", key="k") == Outcome(code="busy")
    assert store.seen == attempt * 5
    await lobby.close("b")
    assert store.seen == attempt * 6, "on_disconnect is a hook, too"
    await lobby.sleep()
    assert store.saved == {"lobby": 41}
    assert lobby.sink.numbers == [("g1", n) for n in range(1, 7)]


async def test_the_next_event_after_a_failure_finds_a_new_state_and_a_room_that_wakes(
    make_room: OpenRoom, store: Store
) -> None:
    store.saved["lobby"] = 41
    store.error = OSError("no database")
    lobby = make_room(counter(store))
    await lobby.wake(("g1", [lobby.record("a")]))
    assert await lobby.request("a", "add") == BUSY
    failed, store.error = store.error, None
    assert await lobby.request("a", "add") == b'{"type":"ack","id":7,"data":42}'
    assert store.seen == [("wake", ["a"], 0), failed, ("wake", ["a"], 0), "restore"]
    await lobby.connect("b")
    assert await lobby.call("count") == Outcome(b"42")
    await lobby.sleep()
    assert store.saved == {"lobby": 42}


async def test_a_room_that_woke_for_no_event_tries_again_for_the_first_one(make_room: OpenRoom, store: Store) -> None:
    store.error = OSError("no database")
    lobby = make_room(counter(store))
    await lobby.wake(("g1", [lobby.record("a")]), reason="crash")
    store.error = None
    assert await lobby.request("a", "add") == b'{"type":"ack","id":7,"data":1}'


@pytest.mark.parametrize(
    ("error", "outcome", "kick"),
    [
        (
            NotFound("no row", public="This room is gone"),
            Outcome(code="not_found", public="This room is gone"),
            (1000, "not_found"),
        ),
        (RoomBusy("later"), Outcome(code="busy"), (1013, "")),
        (SystemExit(), Outcome(code="busy"), (1013, "")),
    ],
)
async def test_a_refusal_of_on_wake_is_told_to_everybody_it_refuses(
    make_room: OpenRoom, store: Store, error: BaseException, outcome: Outcome, kick: tuple[int, str]
) -> None:
    store.error = error
    lobby = make_room(counter(store))
    await lobby.wake()
    await lobby.connect("a")
    assert await lobby.call("count") == outcome
    assert lobby.sink.kicks == [("a", *kick)]


async def test_tasks_of_an_on_wake_that_failed_are_cancelled(make_room: OpenRoom, store: Store) -> None:
    room, tasks = define_room("chat"), list[asyncio.Task[Any]]()

    @room.on_wake
    def load(actor: Any) -> None:
        tasks.append(actor.spawn(asyncio.Event().wait()))
        if store.error is not None:
            raise store.error

    store.error = OSError("no database")
    lobby = make_room(room)
    await lobby.wake()
    await lobby.call("get_session_count")
    assert tasks[0].cancelled()
    store.error = None
    assert await lobby.call("get_session_count") == Outcome(b"0")
    assert not tasks[1].done()
    await lobby.sleep(force=True)


async def test_an_on_wake_that_hangs_is_cut_off_and_its_event_answered_even_if_it_ignores_that(
    make_room: OpenRoom, store: Store
) -> None:
    room, gate = define_room("chat"), asyncio.Event()

    @room.on_wake
    async def load(actor: Any) -> None:
        store.seen.append("wake")
        while not gate.is_set():
            try:
                await gate.wait()
            except asyncio.CancelledError:
                store.seen.append("ignored")

    room.on_hibernate(lambda actor: store.seen.append("save"))
    lobby = make_room(room)
    lobby.put(Woken())
    first = lobby.put_call("get_session_count")
    await lobby.settle()
    await lobby.abandon_hook()
    assert lobby.sink.replies[first] == Outcome(code="busy")
    second = lobby.put_call("get_session_count")
    await lobby.settle()
    await lobby.abandon_hook()
    assert lobby.sink.replies[second] == Outcome(code="busy")
    assert lobby.sink.numbers == [("g1", first), ("g1", second)]
    await lobby.sleep()
    assert store.seen == ["wake", "ignored", "wake", "ignored"]
    gate.set()
    await lobby.settle()


async def test_calls_of_on_wake_and_of_the_hook_behind_it_have_keys_of_their_own(make_room: OpenRoom) -> None:
    room, failing = define_room("chat"), [True]

    @room.on_wake
    async def load(actor: Any) -> None:
        if failing.pop():
            failing.append(False)
            raise OSError("no database")
        await actor.stub("other", "x").one()

    @room.on("go")
    async def go(ctx: Any, data: Any) -> None:
        await ctx.actor.stub("other", "x").two()

    lobby = make_room(room)
    await lobby.wake(("g1", [lobby.record("a")]))
    await lobby.frame("a", "go")
    lobby.put_frame("a", "go")
    await lobby.settle()
    lobby.engine.replied(lobby.sink.invoked[0].token, Outcome(b"1"))
    await lobby.settle()
    lobby.engine.replied(lobby.sink.invoked[1].token, Outcome(b"1"))
    await lobby.settle()
    assert [invoke.method for invoke in lobby.sink.invoked] == ["one", "two"]
    assert len({invoke.key for invoke in lobby.sink.invoked}) == 2

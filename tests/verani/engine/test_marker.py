"""A host that dies knows in whose hook: the marker is set while code of a hook runs, and only then."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import pytest
from msgspec import Struct

from tests.verani.conftest import OpenRoom, Room
from verani.engine.marked_engine import MarkedEngine
from verani.room.definition import define_room
from verani.settings import Settings


class Marker:
    """Keep what is marked now."""

    def __init__(self) -> None:
        self.now: tuple[str, str, int] | None = None

    def enter(self, room: str, gateway: str, number: int) -> None:
        assert self.now is None, "one room runs at a time"
        self.now = room, gateway, number

    def leave(self) -> None:
        self.now = None


@pytest.fixture
def marker(monkeypatch: pytest.MonkeyPatch) -> Marker:
    """Give every engine that is made one marker."""
    marker = Marker()
    monkeypatch.setattr("tests.verani.conftest.Engine", partial(MarkedEngine, marker=marker))
    return marker


async def test_the_marker_names_the_input_while_its_hook_runs(open_room: OpenRoom, marker: Marker) -> None:
    room, seen = define_room("chat"), list[Any]()
    room.on("x")(lambda ctx, data: seen.append(marker.now))
    room.on_connect(lambda ctx: seen.append(marker.now))
    lobby = open_room(room)
    await lobby.connect("a", gateway="g2")
    number = await lobby.frame("a", "x")
    assert seen == [(lobby.engine.name, "g2", number - 1), (lobby.engine.name, "g2", number)]
    assert marker.now is None


async def test_the_marker_is_clear_while_a_hook_waits_and_set_again_when_it_goes_on(
    open_room: OpenRoom, marker: Marker
) -> None:
    room, gate, seen = define_room("chat"), asyncio.Event(), list[Any]()

    @room.on("x")
    async def handler(ctx: Any, data: Any) -> str:
        seen.append(marker.now)
        await gate.wait()
        seen.append(marker.now)
        return "answer"

    lobby = open_room(room)
    await lobby.connect("a")
    await lobby.frame("a", "x", request=3)
    assert len(seen) == 1
    assert marker.now is None
    gate.set()
    await lobby.settle()
    assert seen[0] == seen[1] is not None
    assert marker.now is None
    assert b"answer" in b"".join(lobby.received("a"))


async def test_hooks_that_raise_and_awaits_that_are_cancelled_leave_no_mark(
    open_room: OpenRoom, marker: Marker, caplog: pytest.LogCaptureFixture
) -> None:
    room, caught = define_room("chat"), list[str]()

    @room.on("raise")
    async def fails(ctx: Any, data: Any) -> None:
        await asyncio.sleep(0)
        raise ValueError("no")

    @room.on("hang")
    async def hangs(ctx: Any, data: Any) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            caught.append("cancelled")
            raise

    lobby = open_room(room, settings=Settings(hook_timeout=1.0))
    await lobby.connect("a")
    await lobby.frame("a", "raise")
    await lobby.settle()
    assert marker.now is None
    await lobby.frame("a", "hang")
    await lobby.pass_time(1.1)
    await lobby.settle()
    assert caught == ["cancelled"]
    assert marker.now is None


async def test_hooks_of_no_input_are_marked_without_one(open_room: OpenRoom, marker: Marker) -> None:
    room, seen = define_room("chat"), list[Any]()
    room.on_hibernate(lambda actor: seen.append(marker.now))
    lobby: Room = open_room(room)
    await lobby.connect("a")
    await lobby.sleep()
    assert seen == [(lobby.engine.name, "", 0)]


async def test_steps_of_a_spawned_task_are_marked_for_its_room_and_for_no_input(
    open_room: OpenRoom, marker: Marker
) -> None:
    room, gate, seen = define_room("chat"), asyncio.Event(), list[Any]()

    async def work() -> None:
        seen.append(marker.now)
        await gate.wait()
        seen.append(marker.now)
        await asyncio.Event().wait()

    @room.on("x")
    def handler(ctx: Any, data: Any) -> None:
        ctx.actor.spawn(work())

    lobby = open_room(room)
    await lobby.connect("a")
    await lobby.frame("a", "x")
    assert marker.now is None
    gate.set()
    await lobby.settle()
    assert seen == [(lobby.engine.name, "", 0)] * 2
    assert marker.now is None
    await lobby.sleep(force=True)
    assert not asyncio.all_tasks() - {asyncio.current_task()}
    assert marker.now is None


class Payload(Struct):
    """What looks around while it is decoded."""

    text: str = ""

    def __post_init__(self) -> None:
        Payload.look()

    look: ClassVar[Callable[[], None]]


@pytest.mark.parametrize("is_async", [False, True])
async def test_code_that_decodes_what_a_client_sent_is_marked_like_a_hook(
    open_room: OpenRoom, marker: Marker, is_async: bool
) -> None:
    room, seen = define_room("chat"), list[Any]()
    Payload.look = lambda: seen.append(marker.now)

    def handler(ctx: Any, data: Payload) -> str:
        return data.text

    async def slow(ctx: Any, data: Payload) -> str:
        await asyncio.sleep(0)
        return data.text

    room.on("x")(slow if is_async else handler)
    lobby = open_room(room)
    await lobby.connect("a", gateway="g2")
    number = await lobby.frame("a", "x", {"text": "hi"}, request=1)
    await lobby.settle()
    assert seen == [(lobby.engine.name, "g2", number)]
    assert b"hi" in b"".join(lobby.received("a"))
    assert marker.now is None

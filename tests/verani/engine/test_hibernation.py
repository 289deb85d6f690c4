"""Sleeping and waking: what is rebuilt from records, what is lost, and what a handle is worth afterwards."""

from __future__ import annotations

import asyncio
import heapq
import json
import random
from itertools import combinations
from typing import Any

import msgspec
import pytest

from tests.verani.conftest import OpenRoom, Room
from verani import ConnectionMeta, Context, RoomAsleep, RoomDefinition, define_room
from verani.engine.room_events import Event, Retire, Woken
from verani.link.messages import Close, Connect, FrameInput, Record

ROOM_NAME = "chat/lobby"


class Player(ConnectionMeta, kw_only=True):
    score: int = 0


async def test_a_room_wakes_with_its_sessions_in_order_before_the_event_that_woke_it(make_room: OpenRoom) -> None:
    room, seen = define_room("chat"), list[Any]()
    room.on_hibernation_restore(lambda actor: seen.append(("restore", list(actor.sessions))))
    room.on_connect(lambda ctx: seen.append(("connect", list(ctx.actor.sessions), ctx.actor.wake_reason)))
    lobby = make_room(room)
    await lobby.wake(("g1", [lobby.record("a"), lobby.record("b")]), ("g2", [lobby.record("c")]), reason="moved")
    await lobby.connect("d")
    assert seen == [("restore", ["a", "b", "c"]), ("connect", ["a", "b", "c", "d"], "moved")]
    assert lobby.engine.actor.broadcast("default", 1) == 4


async def test_the_first_message_after_a_sleep_is_handled_with_the_right_meta(make_room: OpenRoom) -> None:
    room = define_room("chat", meta=Player)
    room.on("who")(lambda ctx, data: [ctx.meta.user_id, ctx.meta.score, ctx.actor.wake_reason])
    lobby = make_room(room)
    await lobby.wake(("g1", [lobby.record("a", score=3)]))
    assert await lobby.request("a", "who") == b'{"type":"ack","id":7,"data":["user-a",3,"frame"]}'


async def test_on_hibernation_restore_does_not_run_in_an_empty_room(make_room: OpenRoom) -> None:
    room, seen = define_room("chat"), list[str]()
    room.on_hibernation_restore(lambda actor: seen.append("restore"))
    lobby = make_room(room)
    await lobby.wake()
    await lobby.wake(("g1", [lobby.record("a", closing=True)]), fresh=True)
    assert seen == []


async def test_channels_joined_before_a_sleep_are_kept(make_room: OpenRoom) -> None:
    room = define_room("chat")
    room.on("join")(lambda ctx, data: ctx.join(data))
    room.on("leave")(lambda ctx, data: ctx.leave(data))
    lobby = make_room(room)
    await lobby.wake()
    await lobby.connect("a")
    await lobby.frame("a", "join", "news")
    await lobby.frame("a", "leave", "default")
    await lobby.sleep()
    await lobby.wake(*lobby.records(), fresh=True)
    assert lobby.engine.actor.sessions["a"].channels == ("news",)
    assert lobby.engine.actor.emit_to_channel("news", "x") == 1
    assert lobby.engine.actor.emit_to_channel("default", "x") == 0


async def test_a_close_while_asleep_runs_on_disconnect_with_the_right_meta(make_room: OpenRoom) -> None:
    room, seen = define_room("chat", meta=Player), list[Any]()
    room.on_disconnect(lambda ctx: seen.append((ctx.meta.score, ctx.close_code, ctx.actor.get_session_count())))
    lobby = make_room(room)
    await lobby.wake(("g1", [lobby.record("a", score=5)]))
    await lobby.close("a", 1001)
    assert seen == [(5, 1001, 0)]


async def test_a_record_that_was_told_to_close_is_no_session_but_has_its_on_disconnect(make_room: OpenRoom) -> None:
    room, seen = define_room("chat"), list[Any]()
    room.on_disconnect(lambda ctx: seen.append((ctx.meta.user_id, ctx.close_code)))
    room.on("*")(lambda ctx, data: seen.append("frame"))
    lobby = make_room(room)
    await lobby.wake(("g1", [lobby.record("a", closing=True), lobby.record("b")]))
    assert lobby.engine.actor.get_connected_user_ids() == ["user-b"]
    assert lobby.engine.actor.broadcast("default", 1) == 1
    await lobby.frame("a", "x")
    await lobby.close("a", 4009)
    assert seen == [("user-a", 4009)]


@pytest.mark.parametrize("why", ["on_connect failed", "client id taken", "attachment unreadable"])
async def test_a_connection_that_was_turned_away_before_a_sleep_has_no_on_disconnect_after_it(
    make_room: OpenRoom, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    room, seen = define_room("chat", same_client="reject"), list[str]()
    room.on_disconnect(lambda ctx: seen.append("disconnect"))

    @room.on_connect
    def connected(ctx: Context[Any, Any]) -> None:
        if ctx.ws.id == "b" and why == "on_connect failed":
            raise RuntimeError

    lobby = make_room(room)
    await lobby.wake()
    await lobby.connect("a", client="phone")
    if why == "attachment unreadable":
        lobby.put_attachment("b", b"\x01garbage")
    else:
        lobby.put_connect("b", client="phone" if why == "client id taken" else "desk")
    await lobby.settle()
    kicks, logged = list(lobby.sink.kicks), len(caplog.records)
    await lobby.sleep()
    await lobby.wake(*lobby.records(), fresh=True)
    await lobby.close("b", 1006)
    assert seen == []
    assert (lobby.sink.kicks, len(caplog.records)) == (kicks, logged)
    assert list(lobby.engine.actor.sessions) == ["a"]


async def test_a_corrupt_or_foreign_record_skips_that_connection_never_the_room(
    make_room: OpenRoom, caplog: pytest.LogCaptureFixture
) -> None:
    room, seen = define_room("chat"), list[Any]()
    room.on_disconnect(lambda ctx: seen.append(ctx.ws.id))
    lobby = make_room(room)
    good = lobby.record("good")
    foreign = make_room(define_room("other")).record("x").attachment
    newer = make_room(define_room("chat", meta_version=2)).record("x").attachment
    bad = {
        "empty": b"",
        "cut": good.attachment[:-3],
        "longer": good.attachment + b"\x00",
        "foreign": foreign,
        "schema": newer,
        "format": b"\x02" + good.attachment[1:],
    }
    records = [Record(name, attachment) for name, attachment in bad.items()]
    await lobby.wake(("g1", [*records[:3], good, *records[3:]]))
    assert list(lobby.engine.actor.sessions) == ["good"]
    assert lobby.sink.kicks == [(name, 1011, "attachment unreadable") for name in bad]
    assert [r.__dict__["connection"] for r in caplog.records] == list(bad)
    for name in bad:
        await lobby.close(name, 1011)
    assert seen == []
    assert lobby.numbers == [1, 2, 3, 4, 5, 6]


async def test_a_failing_on_hibernation_restore_is_reported_and_the_room_is_awake(make_room: OpenRoom) -> None:
    room, seen = define_room("chat"), list[str]()

    @room.on_hibernation_restore
    def restore(actor: Any) -> None:
        raise RuntimeError("restore")

    room.on_error(lambda error, ctx: seen.append(str(error)))
    room.on("x")(lambda ctx, data: "fine")
    lobby = make_room(room)
    await lobby.wake(("g1", [lobby.record("a")]))
    assert seen == ["restore"]
    assert await lobby.request("a", "x") == b'{"type":"ack","id":7,"data":"fine"}'


async def test_state_is_made_anew_by_its_factory_at_each_wake(make_room: OpenRoom) -> None:
    room = define_room("chat", state=dict[str, int])

    @room.on("count")
    def count(ctx: Context[Any, dict[str, int]], data: Any) -> int:
        ctx.actor.state["n"] = ctx.actor.state.get("n", 0) + 1
        return ctx.actor.state["n"]

    lobby = make_room(room)
    await lobby.wake(("g1", [lobby.record("a")]))
    assert await lobby.request("a", "count") == b'{"type":"ack","id":7,"data":1}'
    assert await lobby.request("a", "count") == b'{"type":"ack","id":7,"data":2}'
    await lobby.sleep()
    await lobby.wake(*lobby.records(), fresh=True)
    assert await lobby.request("a", "count") == b'{"type":"ack","id":7,"data":1}'


async def test_state_is_a_plain_namespace_unless_a_factory_is_given(open_room: OpenRoom) -> None:
    room = define_room("chat")

    @room.on("x")
    def handler(ctx: Context[Any, Any], data: Any) -> int:
        ctx.actor.state.anything = 5
        return int(ctx.actor.state.anything)

    lobby = open_room(room)
    await lobby.connect("a")
    assert await lobby.request("a", "x") == b'{"type":"ack","id":7,"data":5}'


async def test_a_failing_state_factory_is_reported_and_only_the_use_of_state_fails(make_room: OpenRoom) -> None:
    def broken() -> int:
        raise OSError("no database")

    room, seen = define_room("chat", state=broken), list[str]()
    room.on_error(lambda error, ctx: seen.append(str(error)))
    room.on("use")(lambda ctx, data: ctx.actor.state)
    room.on("other")(lambda ctx, data: "fine")
    lobby = make_room(room)
    await lobby.wake(("g1", [lobby.record("a")]))
    assert await lobby.request("a", "use") == b'{"type":"ack","id":7,"error":{"code":"failed"}}'
    assert await lobby.request("a", "other") == b'{"type":"ack","id":7,"data":"fine"}'
    assert seen == ["no database", "chat/lobby: its state could not be made, see the log"]


async def test_on_hibernate_runs_before_the_sleep_with_a_living_actor(make_room: OpenRoom) -> None:
    room, seen = define_room("chat"), list[Any]()

    @room.on_hibernate
    async def hibernate(actor: Any) -> None:
        await asyncio.sleep(0)
        seen.append((actor.name, actor.broadcast("default", "night"), actor.state.n))

    lobby = make_room(room)
    await lobby.wake(("g1", [lobby.record("a")]))
    lobby.engine.actor.state.n = 9
    await lobby.sleep()
    assert seen == [(ROOM_NAME, 1, 9)]
    assert lobby.data("a") == ["night"]


async def test_on_hibernate_may_change_metas_and_they_are_kept(make_room: OpenRoom) -> None:
    room = define_room("chat", meta=Player)

    @room.on_hibernate
    def hibernate(actor: Any) -> None:
        for session in actor:
            session.update(score=99)

    lobby = make_room(room)
    await lobby.wake(("g1", [lobby.record("a")]))
    await lobby.sleep()
    assert lobby.committed("a").score == 99


async def test_a_failing_on_hibernate_is_reported_and_the_room_sleeps_anyway(make_room: OpenRoom) -> None:
    room, seen = define_room("chat"), list[str]()

    @room.on_hibernate
    def hibernate(actor: Any) -> None:
        raise RuntimeError("disk full")

    room.on_error(lambda error, ctx: seen.append(str(error)))
    lobby = make_room(room)
    await lobby.wake()
    await lobby.sleep()
    assert seen == ["disk full"]
    with pytest.raises(RoomAsleep):
        lobby.engine.actor.get_session_count()


async def test_every_operation_of_a_handle_that_outlived_its_room_raises_room_asleep(make_room: OpenRoom) -> None:
    room, kept = define_room("chat"), list[Context[Any, Any]]()
    room.on("x")(lambda ctx, data: kept.append(ctx))
    lobby = make_room(room)
    await lobby.wake(("g1", [lobby.record("a")]))
    await lobby.frame("a", "x")
    await lobby.sleep()
    before = list(lobby.sink.effects)
    [ctx] = kept
    actor, session = ctx.actor, ctx.ws

    async def nothing() -> None: ...

    coroutine = nothing()
    operations: list[Any] = [
        lambda: ctx.meta,
        lambda: ctx.emit("e"),
        lambda: ctx.to_user("u").emit("e"),
        lambda: ctx.to_channel("c").emit("e"),
        lambda: ctx.join("c"),
        lambda: ctx.join("default"),
        lambda: ctx.leave("default"),
        lambda: ctx.leave("c"),
        lambda: ctx.close(),
        lambda: actor.state,
        lambda: actor.wake_reason,
        lambda: actor.sessions,
        lambda: list(actor),
        lambda: actor.broadcast("default", 1),
        lambda: actor.broadcast("default", 1, user_ids=["u"]),
        lambda: actor.send_to_user("u", "default", 1),
        lambda: actor.emit("e"),
        lambda: actor.emit_to_channel("default", "e"),
        lambda: actor.emit_to_user("u", "e"),
        lambda: actor.get_session_count(),
        lambda: actor.get_connected_user_ids(),
        lambda: actor.get_user_sessions("u"),
        lambda: actor.cleanup_stale_sessions(),
        lambda: actor.close("a"),
        lambda: actor.close_user("user-a"),
        lambda: actor.spawn(coroutine),
        lambda: session.join("c"),
        lambda: session.leave("default"),
        lambda: session.update(),
    ]
    for operation in operations:
        with pytest.raises(RoomAsleep):
            operation()
    with pytest.raises(RoomAsleep):
        await ctx.drain()
    assert lobby.sink.effects == before
    assert actor.name == ROOM_NAME  # a name for logs may still be read


@pytest.mark.parametrize("sleeps", [False, True])
async def test_users_are_listed_in_the_order_of_their_oldest_session_asleep_meanwhile_or_not(
    make_room: OpenRoom, sleeps: bool
) -> None:
    room = define_room("chat")
    room.on("who")(lambda ctx, data: ctx.actor.get_connected_user_ids())
    lobby = make_room(room)
    await lobby.wake()
    for connection, user in (("a", "u1"), ("b", "u2"), ("c", "u1")):
        await lobby.connect(connection, user=user)
    await lobby.close("a")
    if sleeps:
        await lobby.sleep()
        await lobby.wake(*lobby.records(), fresh=True)
    assert await lobby.request("c", "who") == b'{"type":"ack","id":7,"data":["u2","u1"]}'


@pytest.mark.parametrize("first", ["g1", "g2"])
async def test_of_two_records_with_one_client_id_the_connection_that_came_last_stays(
    make_room: OpenRoom, first: str
) -> None:
    """It came back through another gateway while the first one's records were late; then the room slept."""
    lobby = make_room(define_room("chat"))
    old = msgspec.structs.replace(lobby.record("old", client="phone"), order=1)
    new = msgspec.structs.replace(lobby.record("new", client="phone"), order=2)
    records = [("g1", [old]), ("g2", [new])]
    await lobby.wake(*(records if first == "g1" else records[::-1]))
    assert list(lobby.engine.actor.sessions) == ["new"]
    assert [(connection, code) for connection, code, _ in lobby.sink.kicks] == [("old", 4009)]


# --- a tear-down that races with the inputs ------------------------------------------------------------------


class Rush(Room):
    """A room under load on virtual time: inputs wait while it is torn down and go to the next incarnation.

    Only what the actor of a room and its host do is done here: a room with something in hand refuses to sleep.
    """

    def __init__(self, definition: RoomDefinition[Any, Any]) -> None:
        self.retiring = False
        self.waiting: list[tuple[Event, str]] = []
        self.sleepers: list[tuple[float, int, asyncio.Event]] = []
        self.sleeps = 0
        self.refused = 0
        super().__init__(definition)

    def put(self, event: Event, gateway: str = "") -> None:
        if self.retiring and isinstance(event, Connect | FrameInput | Close):
            self.waiting.append((event, gateway))
        else:
            super().put(event, gateway)

    @property
    def in_hand(self) -> bool:
        return not self.mail.is_quiet

    def tear_down(self) -> None:
        if self.retiring or self.in_hand or self.engine.busy is not None:
            self.refused += 1
        else:
            self.put(Retire())
            self.retiring = True

    async def wait(self, seconds: float) -> None:
        """Let a hook wait on the virtual clock."""
        wakes = asyncio.Event()
        heapq.heappush(self.sleepers, (self.clock.now + seconds, id(wakes), wakes))
        await wakes.wait()

    async def tick(self, seconds: float) -> None:
        """Let time pass, and what can run, run."""
        self.clock.now += seconds
        while self.sleepers and self.sleepers[0][0] <= self.clock.now:
            heapq.heappop(self.sleepers)[2].set()
        for _ in range(4):
            await asyncio.sleep(0)
        if self.retiring and not self.in_hand:
            self._wake_again()
            await asyncio.sleep(0)

    def records(self) -> list[tuple[str, list[Record]]]:
        """As of the last processed input, and in the order they came, as gateways keep them."""
        going = {event.connection: gateway for event, gateway in self.waiting if isinstance(event, Close)}
        coming = {event.connection for event, _ in self.waiting if isinstance(event, Connect)}
        now, held = self.gateway_of, {**self.gateway_of, **going}
        try:
            self.gateway_of = {id: held[id] for id in sorted(held.keys() - coming, key=self.sink.seats.__getitem__)}
            return super().records()
        finally:
            self.gateway_of = now

    def _wake_again(self) -> None:
        self.retiring = False
        self.sleeps += 1
        self.engine = self._incarnate()
        self.put(Woken(tuple((gateway, tuple(records)) for gateway, records in self.records())))
        waiting, self.waiting = self.waiting, []
        for event, gateway in waiting:
            self.put(event, gateway)


@pytest.mark.parametrize("seed", range(5))
async def test_a_thousand_frames_a_second_race_with_tear_downs_and_none_is_lost_doubled_or_overtaken(seed: int) -> None:
    """Two seconds of frames from eight connections of two gateways; one hook in ten takes a while, tear-downs too."""
    chance, handled = random.Random(seed), list[int]()
    definition = define_room("chat", meta=Player)
    rush = Rush(definition)

    @definition.on("n")
    async def n(ctx: Context[Player, Any], data: Any) -> None:
        ctx.meta.score += 1
        if data["takes"]:
            await rush.wait(data["takes"])
        handled.append(data["n"])
        ctx.actor.broadcast("default", data["n"])

    @definition.on_hibernate
    async def night(actor: Any) -> None:
        await rush.wait(chance.choice((0.0005, 0.001, 0.003)))

    rush.put(Woken())
    for index in range(8):
        rush.put_connect(f"c{index}", gateway=f"g{index % 2}")
    await rush.tick(0.001)
    senders, suspended = list[int](), 0
    for number in range(2000):
        takes = chance.uniform(0.001, 0.005) if chance.random() < 0.1 else 0
        senders.append(chance.randrange(8))
        rush.put_frame(f"c{senders[-1]}", "n", {"n": number, "takes": takes})
        if chance.random() < 0.2:  # as the frame arrives
            rush.tear_down()
        await rush.tick(0.001)
        if rush.engine.busy is not None and not rush.retiring:
            assert rush.engine.busy == "running hook"
            suspended += 1
            rush.tear_down()
            assert not rush.retiring, "while a hook is suspended, a tear-down is refused"
        elif chance.random() < 0.2:  # between two frames
            rush.tear_down()
    while rush.in_hand or rush.retiring:
        await rush.tick(0.001)
    assert handled == list(range(2000)), "none lost, none doubled, none out of order"
    assert [[json.loads(frame)["data"] for frame in rush.received(f"c{index}")] for index in range(8)] == [handled] * 8
    assert sorted(rush.numbers) == list(range(1, 2009)), "each is acknowledged once"
    scores = [rush.committed(f"c{index}").score for index in range(8)]
    assert scores == [senders.count(index) for index in range(8)]
    assert [rush.engine.actor.sessions[f"c{index}"].meta.score for index in range(8)] == scores
    assert (rush.sleeps > 100, suspended > 100, rush.refused > 100) == (True, True, True)
    await rush.end()


async def test_a_tear_down_between_any_two_inputs_changes_nothing_that_anybody_sees() -> None:
    """At every point, at every two points and at all points: the same outputs, metas and hooks as without any."""
    whole = await _story(frozenset())
    points = range(len(_STORY) + 1)
    for where in [*combinations(points, 1), *combinations(points, 2), tuple(points)]:
        assert await _story(frozenset(where)) == whole, f"torn down before inputs {where}"


# Who, what, with which data; a connection is its own user, on a gateway by its letter.
_STORY: tuple[tuple[str, str, Any], ...] = (
    ("a", "connect", None),
    ("b", "connect", None),
    ("a", "join", "red"),
    ("b", "fail", "red"),
    ("b", "score", 5),
    ("c", "connect", None),
    ("a", "red", 1),
    ("b", "join", "red"),
    ("c", "kick", "a"),
    ("b", "red", 2),
    ("a", "close", 4000),
    ("c", "leave", "default"),
    ("b", "all", 3),
    ("b", "close", 1001),
    ("d", "connect", None),
    ("c", "red", 4),
)


async def _story(tear_downs: frozenset[int]) -> list[Any]:
    """Tell the story with tear-downs before these inputs, and return all there is to see of it."""
    definition, hooks = define_room("chat", meta=Player), list[Any]()

    def act(ctx: Context[Player, Any], what: str, data: Any) -> Any:
        match what:
            case "join" | "fail":
                ctx.join(data)
                assert what != "fail", "so that the join is undone"
            case "leave":
                ctx.leave(data)
            case "score":
                ctx.meta.score = data
            case "kick":
                ctx.actor.close(data, 4000)
            case "red":
                ctx.to_channel("red").emit("red", {"n": data})
            case "all":
                ctx.actor.broadcast("default", data)
        return [ctx.actor.get_connected_user_ids(), ctx.meta.score, ctx.meta.channels]

    definition.on("*")(lambda ctx, data: act(ctx, ctx.frame.type, data))
    definition.on_connect(lambda ctx: hooks.append(("connect", ctx.ws.id, ctx.actor.broadcast("default", "hello"))))
    definition.on_disconnect(lambda ctx: hooks.append(("gone", ctx.ws.id, ctx.close_code, ctx.meta.score)))
    definition.on_error(lambda error, ctx: hooks.append((type(error).__name__, ctx.ws.id)))
    room = Rush(definition)
    room.put(Woken())
    await room.tick(0.001)
    for index, (who, what, data) in enumerate((*_STORY, ("", "end", None))):
        if index in tear_downs:
            room.tear_down()
            assert room.retiring
        match what:
            case "connect":
                room.put_connect(who, gateway=f"g{ord(who) % 2}")
            case "close":
                room.put_close(who, data)
            case "end":
                pass
            case _:
                room.put_frame(who, what, data, request=index + 1)
        await room.tick(0.001)
        await room.tick(0.001)
    assert room.sleeps == len(tear_downs)
    sessions = [(session.id, session.meta) for session in room.engine.actor]
    await room.end()
    return [hooks, room.sink.received, room.sink.kicks, room.numbers, sessions]


class _Unruly(ConnectionMeta, kw_only=True):
    """A meta whose own code gives up, in whatever way, where it is rebuilt."""

    raises: str = ""

    def __post_init__(self) -> None:
        match self.raises:
            case "exit":
                raise SystemExit
            case "cancel":
                raise asyncio.CancelledError
            case "error":
                raise RuntimeError


@pytest.mark.parametrize("how", ["exit", "cancel", "error"])
async def test_a_meta_that_gives_up_when_it_is_rebuilt_costs_only_its_own_connection(
    make_room: OpenRoom, how: str
) -> None:
    lobby = make_room(define_room("chat", meta=_Unruly))
    unruly = lobby.record("bad", raises="")
    unruly = msgspec.structs.replace(unruly, attachment=unruly.attachment.replace(b"raises\xa0", b"raises\xa5error"))
    unruly = msgspec.structs.replace(
        unruly, attachment=unruly.attachment.replace(b"\xa5error", bytes([0xA0 + len(how)]) + how.encode())
    )
    await lobby.wake(("g1", [lobby.record("before"), unruly, lobby.record("after")]))
    assert list(lobby.engine.actor.sessions) == ["before", "after"]
    assert lobby.sink.kicks == [("bad", 1011, "attachment unreadable")]

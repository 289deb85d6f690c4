"""Any order of events: the engine against plain dicts, and a room that sleeps against one that does not."""

from __future__ import annotations

import asyncio
import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.verani.conftest import Attached, Effect, Processed, Room, Sent
from verani import ConnectionMeta, Context, RoomDefinition, define_room
from verani.engine.room_events import Woken
from verani.link.messages import Deliver, Kick

pytestmark = pytest.mark.filterwarnings("error")

CHANNELS = ("default", "red", "blue")
USERS = ("ann", "bob", "cat")
CLIENTS = ("phone", "tablet", "laptop", "desk", "watch")
SLOTS = 6  # how many connections a script can name at a time


class Player(ConnectionMeta, kw_only=True):
    score: int = 0
    tags: list[str] = []
    refuse: bool = False


class Refused(Exception):
    """What the hooks of these rooms raise."""


def perform(ctx: Context[Player, Any], action: list[Any]) -> Any:
    """Do one action of a script."""
    actor = ctx.actor
    match action:
        case ["join", channel]:
            return ctx.join(channel)
        case ["leave", channel]:
            return ctx.leave(channel)
        case ["score", amount]:
            ctx.meta.score += amount
        case ["tag", tag]:
            ctx.meta.tags.append(tag)
        case ["grant", id, tag]:
            session = actor.sessions.get(id)
            if session is not None:
                session.update(tags=[*session.meta.tags, tag])
        case ["move", id, channel]:
            session = actor.sessions.get(id)
            if session is not None:
                session.join(channel)
        case ["kick", id, code]:
            return actor.close(id, code, "script")
        case ["broadcast", channel, users, clients, except_, payload]:
            return actor.broadcast(channel, payload, user_ids=users, client_ids=clients, except_=except_)
        case ["emit", event]:
            return ctx.emit(event)
        case ["to_user", user, event]:
            return ctx.to_user(user).emit(event)
        case ["to_channel", channel, event]:
            return ctx.to_channel(channel).emit(event)
        case ["users"]:
            return [actor.get_session_count(), actor.get_connected_user_ids()]
        case _:
            raise AssertionError(action)
    return None


def scripted_room() -> RoomDefinition[Player, Any]:
    room = define_room("game", meta=Player)

    @room.on("do")
    def do(ctx: Context[Player, Any], data: dict[str, Any]) -> list[Any]:
        results = [perform(ctx, action) for action in data["actions"]]
        if data["raise"]:
            raise Refused
        return results

    @room.on("do async")
    async def do_async(ctx: Context[Player, Any], data: dict[str, Any]) -> list[Any]:
        results = []
        for action in data["actions"]:
            await asyncio.sleep(0)
            results.append(perform(ctx, action))
        if data["raise"]:
            raise Refused
        return results

    @room.on_connect
    def connected(ctx: Context[Player, Any]) -> None:
        ctx.join("red")
        ctx.actor.broadcast("default", {"came": ctx.meta.user_id})
        if ctx.meta.refuse:
            raise Refused

    @room.on_disconnect
    def gone(ctx: Context[Player, Any]) -> None:
        ctx.actor.broadcast(
            "default",
            {"left": ctx.meta.user_id, "code": ctx.close_code, "score": ctx.meta.score, "tags": ctx.meta.tags},
        )

    return room


ids = st.integers(0, SLOTS - 1)
channels = st.sampled_from(CHANNELS)
some_ids = st.none() | st.lists(ids, max_size=3)
actions = st.one_of(
    st.tuples(st.just("join"), channels),
    st.tuples(st.just("leave"), channels),
    st.tuples(st.just("score"), st.integers(-3, 3)),
    st.tuples(st.just("tag"), st.sampled_from("xyz")),
    st.tuples(st.just("grant"), ids, st.sampled_from("xyz")),
    st.tuples(st.just("move"), ids, channels),
    st.tuples(st.just("kick"), ids, st.sampled_from([1000, 4000])),
    st.tuples(
        st.just("broadcast"),
        channels,
        st.none() | st.lists(st.sampled_from(USERS), max_size=3),
        st.none() | st.lists(st.sampled_from(CLIENTS), max_size=4),
        some_ids,
        st.integers(0, 99),
    ),
    st.tuples(st.just("emit"), st.just("to me")),
    st.tuples(st.just("to_user"), st.sampled_from(USERS), st.just("to user")),
    st.tuples(st.just("to_channel"), channels, st.just("to channel")),
    st.tuples(st.just("users")),
)
programs = st.fixed_dictionaries(
    {"actions": st.lists(actions, max_size=5).map(lambda found: [list(a) for a in found]), "raise": st.booleans()}
)


class Slots:
    """Turn the numbers of a script into the ids of connections, the same ones in every run of it."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def add(self) -> str:
        self.names.append(f"c{len(self.names)}")
        return self.names[-1]

    def __getitem__(self, slot: int) -> str:
        """Name one of the latest connections."""
        recent = self.names[-SLOTS:]
        return recent[slot % len(recent)] if recent else "nobody"

    def program(self, program: dict[str, Any]) -> dict[str, Any]:
        def named(action: list[Any]) -> list[Any]:
            match action:
                case ["grant" | "move" | "kick" as what, slot, *rest]:
                    return [what, self[slot], *rest]
                case ["broadcast", channel, users, clients, except_, payload]:
                    excluded = None if except_ is None else [self[slot] for slot in except_]
                    return ["broadcast", channel, users, clients, excluded, payload]
                case _:
                    return action

        return {"actions": [named(action) for action in program["actions"]], "raise": program["raise"]}


# --- the reference -------------------------------------------------------------------------------------


class Reference:
    """A room as plain dicts and scans: no index, no cache, no transaction but a copy of everything."""

    def __init__(self) -> None:
        self.present: dict[str, dict[str, Any]] = {}
        self.closing: dict[str, dict[str, Any]] = {}
        self.heard: dict[str, list[Any]] = {}
        self.kicks: list[tuple[str, int]] = []

    def say(self, id: str, frame: dict[str, Any]) -> None:
        self.heard.setdefault(id, []).append(frame)

    def send(self, matching: list[str], channel: str, data: Any) -> int:
        for id in matching:
            self.say(id, {"type": "event", "channel": channel, "data": data})
        return len(matching)

    def inside(self, channel: str) -> list[str]:
        return [id for id, meta in self.present.items() if channel in meta["channels"]]

    def users(self) -> list[str]:
        """Users in first-seen order: by the oldest session of each that is still here."""
        return list(dict.fromkeys(meta["user"] for meta in self.present.values()))

    def enter(self, id: str, user: str, client: str, chosen: list[str], refuse: bool) -> None:
        for other, meta in list(self.present.items()):
            if meta["client"] == client:
                self.kick(other, 4009)
        self.present[id] = {
            "user": user, "client": client, "channels": list(chosen), "score": 0, "tags": [], "refuse": refuse
        }  # fmt: skip
        before = list(chosen)
        if "red" not in chosen:
            self.present[id]["channels"].append("red")
        self.send(self.inside("default"), "default", {"came": user})
        if refuse:
            self.present[id]["channels"] = before
            self.drop(id)
            self.kicks.append((id, 1011))

    def drop(self, id: str) -> dict[str, Any]:
        return self.present.pop(id)

    def kick(self, id: str, code: int) -> bool:
        if id not in self.present:
            return False
        self.closing[id] = self.drop(id)
        self.kicks.append((id, code))
        return True

    def close(self, id: str, code: int) -> None:
        meta = self.closing.pop(id, None)
        if meta is None and id in self.present:
            meta = self.drop(id)
        if meta is not None:
            left = {"left": meta["user"], "code": code, "score": meta["score"], "tags": meta["tags"]}
            self.send(self.inside("default"), "default", copy.deepcopy(left))

    def do(self, id: str, program: dict[str, Any], request: int) -> None:
        if id not in self.present:
            return
        everybody = {**self.present, **self.closing}
        before = copy.deepcopy(everybody)
        results = [self.act(id, action) for action in program["actions"]]
        if program["raise"]:
            for other, meta in before.items():
                everybody[other].update(meta)
            self.say(id, {"type": "ack", "id": request, "error": {"code": "failed"}})
        else:
            self.say(id, {"type": "ack", "id": request, "data": results})

    def act(self, me: str, action: list[Any]) -> Any:
        mine = self.present.get(me) or self.closing[me]
        match action:
            case ["join", channel]:
                if channel not in mine["channels"]:
                    mine["channels"].append(channel)
            case ["leave", channel]:
                if channel in mine["channels"]:
                    mine["channels"].remove(channel)
            case ["score", amount]:
                mine["score"] += amount
            case ["tag", tag]:
                mine["tags"].append(tag)
            case ["grant", id, tag]:
                if id in self.present:
                    self.present[id]["tags"].append(tag)
            case ["move", id, channel]:
                if id in self.present and channel not in self.present[id]["channels"]:
                    self.present[id]["channels"].append(channel)
            case ["kick", id, code]:
                return self.kick(id, code)
            case ["broadcast", channel, users, clients, except_, payload]:
                matching = [
                    id
                    for id in self.inside(channel)
                    if (users is None or self.present[id]["user"] in users)
                    and (clients is None or self.present[id]["client"] in clients)
                    and id not in (except_ or ())
                ]
                return self.send(matching, channel, payload)
            case ["emit", event]:
                own = mine["channels"][0] if mine["channels"] else "default"
                return self.send([me] if me in self.present else [], own, {"type": event})
            case ["to_user", user, event]:
                matching = [id for id, meta in self.present.items() if meta["user"] == user]
                return self.send(matching, "default", {"type": event})
            case ["to_channel", channel, event]:
                return self.send([id for id in self.inside(channel) if id != me], channel, {"type": event})
            case ["users"]:
                return [len(self.present), self.users()]
        return None


class AnyOrderOfEvents(RuleBasedStateMachine):
    """The engine does what the reference does, whatever comes in whatever order."""

    @initialize()
    def begin(self) -> None:
        self.runner = asyncio.Runner()
        self.room = self.runner.run(self.woken())
        self.reference = Reference()
        self.slots = Slots()
        self.sent: list[int] = []

    async def woken(self) -> Room:
        room = Room(scripted_room())
        await room.feed(Woken())
        return room

    def teardown(self) -> None:
        if hasattr(self, "runner"):
            self.runner.run(self.room.end())
            self.runner.close()

    async def settled(self, number: int) -> None:
        self.sent.append(number)
        await self.room.settle()

    @rule(
        user=st.sampled_from(USERS),
        client=st.sampled_from(CLIENTS),
        chosen=st.lists(channels, unique=True, max_size=3),
        refuse=st.integers(0, 5).map(lambda n: n == 0),
        gateway=st.sampled_from(["g1", "g2"]),
    )
    def connect(self, user: str, client: str, chosen: list[str], refuse: bool, gateway: str) -> None:
        id = self.slots.add()

        async def act() -> None:
            options = {"user": user, "client": client, "channels": tuple(chosen), "refuse": refuse}
            await self.settled(self.room.put_connect(id, gateway=gateway, **options))

        self.runner.run(act())
        self.reference.enter(id, user, client, chosen, refuse)

    @precondition(lambda self: self.slots.names)
    @rule(slot=ids, program=programs, event=st.sampled_from(["do", "do async"]))
    def frame(self, slot: int, program: dict[str, Any], event: str) -> None:
        id, program = self.slots[slot], self.slots.program(program)
        request = len(self.sent) + 1

        async def act() -> None:
            await self.settled(self.room.put_frame(id, event, program, request=request))

        self.runner.run(act())
        self.reference.do(id, program, request)

    @precondition(lambda self: self.slots.names)
    @rule(slot=ids, code=st.sampled_from([1000, 1006, 4000]))
    def close(self, slot: int, code: int) -> None:
        id = self.slots[slot]

        async def act() -> None:
            await self.settled(self.room.put_close(id, code))

        self.runner.run(act())
        self.reference.close(id, code)

    @invariant()
    def what_clients_heard_is_the_same(self) -> None:
        if not hasattr(self, "room"):
            return
        heard = {id: [json.loads(frame) for frame in frames] for id, frames in self.room.sink.received.items()}
        assert heard == self.reference.heard
        assert [(id, code) for id, code, _ in self.room.sink.kicks] == self.reference.kicks

    @invariant()
    def every_input_is_processed_once_and_in_order(self) -> None:
        if hasattr(self, "room"):
            assert self.room.numbers == self.sent

    @invariant()
    def attachments_are_the_metas_of_the_reference(self) -> None:
        if not hasattr(self, "room"):
            return
        engine = self.room.engine
        assert list(engine.actor.sessions) == list(self.reference.present)
        assert engine.actor.get_connected_user_ids() == self.reference.users()
        for id, meta in {**self.reference.present, **self.reference.closing}.items():
            expected = Player(
                user_id=meta["user"],
                client_id=meta["client"],
                channels=tuple(meta["channels"]),
                score=meta["score"],
                tags=meta["tags"],
                refuse=meta["refuse"],
            )
            assert self.room.committed(id) == expected
            if id in self.reference.present:
                assert engine.actor.sessions[id].meta == expected


AnyOrderOfEvents.TestCase.settings = settings(
    max_examples=60, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)
TestAnyOrderOfEvents = AnyOrderOfEvents.TestCase


# --- sleeping changes nothing --------------------------------------------------------------------------

steps = st.one_of(
    st.tuples(
        st.just("connect"),
        st.sampled_from(USERS),
        st.sampled_from(CLIENTS),
        st.lists(channels, unique=True, max_size=2),
        st.integers(0, 4).map(lambda number: number == 0),
    ),
    st.tuples(st.just("frame"), ids, programs),
    st.tuples(st.just("frame"), ids, programs),
    st.tuples(st.just("close"), ids, st.sampled_from([1000, 1006])),
)


async def play(script: list[Any], sleeps: set[int]) -> Room:
    """Run a script in a new room, which sleeps and wakes before these steps."""
    room, slots = Room(scripted_room()), Slots()
    await room.feed(Woken())
    for position, step in enumerate(script):
        if position in sleeps:
            await room.sleep()
            await room.wake(*room.records(), fresh=True)
        match step:
            case ["connect", user, client, chosen, refuse]:
                await room.connect(slots.add(), user=user, client=client, channels=tuple(chosen), refuse=refuse)
            case ["frame", slot, program]:
                await room.frame(slots[slot], "do async", slots.program(program), request=position + 1)
            case ["close", slot, code]:
                await room.close(slots[slot], code)
    await room.end()
    return room


def comparable(effects: list[Effect]) -> Iterator[Any]:
    """Yield effects without what a sleep may change: in which order a frame's receivers are named."""
    for effect in effects:
        match effect:
            case Sent(gateway, Deliver(connections, payload, exclude), cause):
                if receivers := sorted(set(connections) - set(exclude)):
                    yield gateway, receivers, payload, cause
            case Sent(gateway, Kick() as kick, cause):
                yield gateway, kick, cause
            case Attached() | Processed():
                yield effect
            case _:
                raise AssertionError(effect)


@given(st.lists(steps, max_size=20).map(lambda found: [list(step) for step in found]), st.sets(st.integers(0, 19)))
@settings(max_examples=150, deadline=None)
def test_a_room_that_slept_anywhere_in_a_script_does_the_same_as_one_that_did_not(
    script: list[Any], sleeps: set[int]
) -> None:
    with asyncio.Runner() as runner:
        awake, slept = runner.run(play(script, set())), runner.run(play(script, sleeps))
    assert list(comparable(slept.sink.effects)) == list(comparable(awake.sink.effects))
    assert slept.sink.attachments == awake.sink.attachments

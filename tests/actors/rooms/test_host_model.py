"""Random scripts against a room host and against a room that never sleeps: no client may tell the two apart.

The host is the real one, with its actors and its hibernation manager, on a clock that the test moves; behind it are
two gateways that keep what gateways keep.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import random
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

from hypothesis import HealthCheck, currently_in_test_context, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.actors.conftest import FakeGateway
from tests.actors.rooms.reference_room import Action, Boom, Inbound, Member, Meta, ReferenceRoom
from tests.virtual_time import VirtualTimeLoop
from verani.link.messages import FrameInput, Input, Kick, Snapshot
from verani.room.context import Actor, Context
from verani.room.definition import RoomDefinition, define_room
from verani.room.meta import ConnectionMeta
from verani.settings import Settings
from verani_actors.rooms.host import RoomHost

# How many random scripts to try; with another number than in CI, other ones.
SCRIPTS = int(os.environ.get("VERANI_TEST_EXAMPLES", "150"))

ROOM = "chat/a"
IDLE = 10_000.0
GATEWAYS = ("g1", "g2")

# Passes of the loop without a message after which nothing moves any more unless the test lets it.
_QUIET = 6


class Player(ConnectionMeta, kw_only=True):
    """Two own fields: one that scripts change, and what `on_connect` is to do."""

    score: int = 0
    greeting: list[list[Any]] = []


class Scripted:
    """The real room: its hooks run the same scripts as the reference."""

    def __init__(self) -> None:
        self.hooks: list[tuple[Any, ...]] = []
        self.waiting: asyncio.Event | None = None
        self.night = asyncio.Event()
        self.night.set()
        room: RoomDefinition[Player, Any] = define_room("chat", meta=Player, same_client="replace")
        self.room = room
        room.on_connect(self._connected)
        room.on_disconnect(self._disconnected)
        room.on_error(self._failed)
        room.on_hibernate(self._hibernates)
        room.on("do")(self._framed)
        room.rpc(self.run)

    def _note(self, hook: str, id: str, meta: Player, *more: Any) -> None:
        self.hooks.append((hook, id, *more, *_row(meta)))

    async def _connected(self, ctx: Context[Player, Any]) -> None:
        self._note("connect", ctx.ws.id, ctx.meta)
        ctx.actor.broadcast("default", {"joined": ctx.ws.id})
        await self._perform(ctx.actor, ctx, ctx.meta.greeting)

    def _disconnected(self, ctx: Context[Player, Any]) -> None:
        self._note("disconnect", ctx.ws.id, ctx.meta, ctx.close_code)
        ctx.actor.broadcast("default", {"left": ctx.ws.id, "code": ctx.close_code})

    def _failed(self, error: BaseException, ctx: Context[Player, Any]) -> None:
        connection = ctx._session.id if ctx._session is not None else None
        self.hooks.append(("error", type(error).__name__, connection))

    async def _hibernates(self, actor: Actor[Player, Any]) -> None:
        await self.night.wait()

    async def _framed(self, ctx: Context[Player, Any], data: Any) -> list[Any]:
        self._note("frame", ctx.ws.id, ctx.meta, data["number"])
        return await self._perform(ctx.actor, ctx, data["script"])

    async def run(self, actor: Any, script: list[Any]) -> list[Any]:
        """Run a script for a caller."""
        return await self._perform(actor, None, script)

    async def _perform(self, actor: Actor[Player, Any], ctx: Context[Player, Any] | None, script: Any) -> list[Any]:
        results: list[Any] = []
        for action in script:
            match action:
                case ["wait"]:
                    self.waiting = asyncio.Event()
                    await self.waiting.wait()
                    self.waiting = None
                    results.append(None)
                case ["raise"]:
                    raise Boom
                case [("join" | "leave" | "score" | "mine" | "emit" | "to_channel" | "to_user"), *_]:
                    results.append(None if ctx is None else _act_of(ctx, action))
                case _:
                    results.append(_act(actor, action))
        return results


def _row(meta: Player) -> list[Any]:
    return [meta.user_id, meta.client_id, list(meta.channels), meta.score]


def _act(actor: Actor[Player, Any], action: Action) -> Any:
    match action:
        case ["invite" | "expel" | "give", id, _] if id not in actor.sessions:
            return False
        case ["invite", id, channel]:
            actor.sessions[id].join(channel)
            return True
        case ["expel", id, channel]:
            actor.sessions[id].leave(channel)
            return True
        case ["give", id, n]:
            actor.sessions[id].update(score=n)
            return True
        case ["emit_to_user", user, n]:
            return actor.emit_to_user(user, "e", {"n": n})
        case ["emit_to_channel", channel, n]:
            return actor.emit_to_channel(channel, "e", {"n": n})
        case ["send_to_user", user, channel, n]:
            return actor.send_to_user(user, channel, {"n": n})
        case ["broadcast", channel, n, users, clients, excluded]:
            return actor.broadcast(channel, {"n": n}, user_ids=users, client_ids=clients, except_=excluded)
        case ["kick", id]:
            return actor.close(id, 4100, "out")
        case ["kick_user", user]:
            return actor.close_user(user)
        case ["count"]:
            return actor.get_session_count()
        case ["users"]:
            return actor.get_connected_user_ids()
        case ["who"]:
            return [[session.id, *_row(session.meta)] for session in actor]
        case ["stale"]:
            return actor.cleanup_stale_sessions()
        case ["hibernate"]:
            return actor.hibernate()
    raise AssertionError(action)


def _act_of(ctx: Context[Player, Any], action: Action) -> Any:
    match action:
        case ["join", channel]:
            return ctx.join(channel)
        case ["leave", channel]:
            return ctx.leave(channel)
        case ["score", n]:
            ctx.meta.score = n
            return None
        case ["mine"]:
            return _row(ctx.meta)
        case ["emit", n]:
            return ctx.emit("e", {"n": n})
        case ["to_channel", channel, n]:
            return ctx.to_channel(channel).emit("e", {"n": n})
        case ["to_user", user, n]:
            return ctx.to_user(user).emit("e", {"n": n})
    raise AssertionError(action)


# --- what scripts are made of ----------------------------------------------------------------------------------

CHANNELS = ("default", "red", "blue")
USERS = ("u0", "u1", "u2")
# Which connection, of those there are, counted from the newest.
PICKS = range(6)
SOME_PICKS: tuple[list[int] | None, ...] = (None, [], [0], [1, 2], [0, 3, 4])
SOME_USERS: tuple[list[str] | None, ...] = (None, [], ["u1"], ["u0", "u2"])


def one_of_these(choices: Sequence[tuple[Any, ...]]) -> st.SearchStrategy[tuple[Any, ...]]:
    """Choose with one draw, because an example that draws much is thrown away by hypothesis."""
    return st.integers(0, len(choices) - 1).map(lambda index: choices[index])


CHANGES: list[tuple[Any, ...]] = [("score",), *product(("join", "leave"), CHANNELS)]
SENDS: list[tuple[Any, ...]] = [
    ("emit",),
    *product(("to_channel", "emit_to_channel"), CHANNELS),
    *product(("to_user", "emit_to_user"), USERS),
    *product(("send_to_user",), USERS, CHANNELS),
]
BROADCASTS = list(product(("broadcast",), CHANNELS, SOME_USERS, SOME_PICKS, SOME_PICKS))
ASKS: list[tuple[Any, ...]] = [("who",), ("users",), ("count",), ("mine",), ("stale",)]
OTHERS: list[tuple[Any, ...]] = [*product(("give",), PICKS), *product(("invite", "expel"), PICKS, CHANNELS)]
TURNS: list[tuple[Any, ...]] = [
    ("raise",),
    ("wait",),
    ("hibernate",),
    ("kick_user", "u1"),
    *product(("kick",), range(2)),
]
actions = st.one_of(
    [
        one_of_these(choices)
        for choices in (CHANGES, CHANGES, SENDS, SENDS, BROADCASTS, BROADCASTS, ASKS, OTHERS, OTHERS, TURNS)
    ]
)
scripts = st.lists(actions, max_size=4)
greetings = st.one_of(st.just([]), st.just([]), st.lists(actions, min_size=1, max_size=2))

CONNECTS = [
    ("connect", gateway, user, client, names)
    for client in (None, None, None, None, None, None, 1)
    for names in (("default",), ("default", "red"), ("blue",), ())
    for user in USERS
    for gateway in GATEWAYS
]
BUILT_IN = (
    "run", "run", "missing", "run_wrong", "broadcast", "send_to_user", "emit_to_channel", "emit_to_user",
    "get_session_count", "get_connected_user_ids", "cleanup_stale_sessions",
)  # fmt: skip
CALLS = list(product(("call",), GATEWAYS, BUILT_IN, USERS, CHANNELS, SOME_PICKS, (False, True)))
connects = st.tuples(one_of_these(CONNECTS), greetings)
frames = st.tuples(one_of_these(list(product(("frame",), PICKS, (True, False)))), scripts)
calls = st.tuples(one_of_these(CALLS), scripts)
closes = st.tuples(one_of_these(list(product(("close",), PICKS))), st.just([]))
inputs = st.one_of(frames, frames, frames, frames, connects, connects, calls, calls, closes)


class Hibernation(RuleBasedStateMachine):
    """The same steps for both; after each one they are compared."""

    def __init__(self) -> None:
        super().__init__()
        # What raises on purpose is logged with its traceback, thousands of times.
        logging.disable(logging.CRITICAL)
        self.loop = VirtualTimeLoop()
        self.model = ReferenceRoom()
        self.real = Scripted()
        self.count = 0
        # The connections whose close has not been sent, oldest first, and the codes of those that were kicked.
        self.open: dict[str, Member] = {}
        self.chunks: dict[str, list[Snapshot]] = {}
        self.stale: list[tuple[FakeGateway, Snapshot]] = []
        self.host = self.loop.run_until_complete(self._start())

    async def _start(self) -> RoomHost:
        limits = Settings(hibernate_after=IDLE, hook_timeout=1e9, hook_blocked=1e9)
        host = RoomHost([self.real.room], limits, clock=self.loop.time)
        await host.start()
        return host

    @initialize(coded=st.booleans(), first=st.lists(connects, min_size=3, max_size=6))
    def link(self, coded: bool, first: list[tuple[Any, ...]]) -> None:
        self.gateways = {id: FakeGateway(self.host, id=id, coded=coded) for id in GATEWAYS}
        self.send(first, True)

    def settle(self, after: Callable[[], None] = lambda: None) -> None:
        async def run() -> None:
            after()
            quiet = 0
            while quiet < _QUIET:
                await asyncio.sleep(0)
                quiet = (
                    0
                    if self.host.actors.base._run_queue.messages or self.host.entries._flushing is not None
                    else quiet + 1
                )

        self.loop.run_until_complete(run())

    # --- what is sent ---

    def pick(self, index: int) -> str:
        return list(self.open)[-1 - index % len(self.open)] if self.open else "nobody"

    def clients(self, indexes: list[int] | None) -> list[str] | None:
        if indexes is None:
            return None
        return [member.meta.client for member in (self.open.get(self.pick(i)) for i in indexes) if member is not None]

    def resolve(self, script: list[tuple[Any, ...]]) -> list[Action]:
        return [self._resolve(action) for action in script]

    def _resolve(self, action: tuple[Any, ...]) -> Action:
        self.count += 1
        match action:
            case ["broadcast", channel, names, clients, excluded]:
                ids = None if excluded is None else [self.pick(index) for index in excluded]
                return ["broadcast", channel, self.count, names, self.clients(clients), ids]
            case ["kick", index]:
                return ["kick", self.pick(index)]
            case ["give", index]:
                return ["give", self.pick(index), self.count]
            case ["invite" | "expel" as kind, index, channel]:
                return [kind, self.pick(index), channel]
            case [("score" | "emit" | "to_channel" | "emit_to_channel" | "to_user" | "emit_to_user"), *_]:
                return [*action, self.count]
            case ["send_to_user", user, channel]:
                return ["send_to_user", user, channel, self.count]
            case _:
                return list(action)

    def build(self, spec: tuple[Any, ...]) -> tuple[Inbound, Input] | None:
        """Make one input for both; None if there is nobody to send it."""
        what, script = spec
        match what:
            case ("connect", gateway, user, client, names):
                return self._connect(self.gateways[gateway], user, client, names, self.resolve(script))
            case ("frame", index, asks) if self.open:
                return self._frame(self.open[self.pick(index)], self.resolve(script), asks)
            case ("close", index) if self.open:
                return self._close(self.open.pop(self.pick(index)))
            case ("call", gateway, method, user, channel, clients, filters):
                return self._call(self.gateways[gateway], method, script, user, channel, clients, filters)
        return None

    def _connect(
        self, gateway: FakeGateway, user: str, client: int | None, names: tuple[str, ...], greeting: list[Action]
    ) -> tuple[Inbound, Input]:
        self.count += 1
        id = f"c{self.count}"
        again = self.open.get(self.pick(client)) if client is not None else None
        name = again.meta.client if again is not None else f"client of {id}"
        meta = Player(user_id=user, client_id=name, channels=names, greeting=greeting)
        member = self.open[id] = Member(id, gateway.id, Meta(user, name, names), greeting)
        input = gateway.connect(self.real.room, id, meta=meta)
        return Inbound("connect", gateway.id, input.number, id, member), input

    def _frame(self, member: Member, script: list[Action], asks: bool) -> tuple[Inbound, Input]:
        gateway = self.gateways[member.gateway]
        number = gateway.number()
        request = number if asks else None
        body = _json({"number": number, "script": script})
        input = FrameInput(ROOM, number, member.id, "do", body, request=request)
        return Inbound("frame", gateway.id, number, member.id, script=tuple(script), request=request), input

    def _close(self, member: Member) -> tuple[Inbound, Input]:
        gateway = self.gateways[member.gateway]
        seen = self.model.seen.get(member.id, [b""])[-1]
        code = seen[0] if isinstance(seen, tuple) else 1000
        input = gateway.close(member.id, code=code)
        return Inbound("close", gateway.id, input.number, member.id, code=code), input

    def _call(
        self,
        gateway: FakeGateway,
        method: str,
        script: list[tuple[Any, ...]],
        user: str,
        channel: str,
        clients: list[int] | None,
        filters: bool,
    ) -> tuple[Inbound, Input]:
        self.count += 1
        data = {"n": self.count}
        arguments: dict[str, Any] = {}
        match method:
            case "run":
                arguments = {"script": self.resolve(script)}
            case "run_wrong":
                arguments = {"script": 5}
            case "broadcast":
                chosen = {"user_ids": [user] if filters else None, "client_ids": self.clients(clients)}
                arguments = {"channel": channel, "data": data, **{k: v for k, v in chosen.items() if v is not None}}
            case "send_to_user":
                arguments = {"user_id": user, "channel": channel, "data": data}
            case "emit_to_channel":
                arguments = {"channel": channel, "event": "e", "data": data}
            case "emit_to_user":
                arguments = {"user_id": user, "event": "e", "data": data}
        input = gateway.call(method.removesuffix("_wrong"), arguments, timeout=1e9)
        return Inbound("call", gateway.id, input.number, method=method, arguments=arguments), input

    # --- steps ---

    @rule(specs=st.lists(inputs, min_size=1, max_size=3), joined=st.booleans())
    def send(self, specs: list[tuple[Any, ...]], joined: bool) -> None:
        """Inputs of both gateways in one tick, those of one in a row in one batch or each in its own."""
        built = [pair for pair in map(self.build, specs) if pair is not None]

        def put() -> None:
            batch: list[Input] = []
            for position, (inbound, input) in enumerate(built):
                batch.append(input)
                following = built[position + 1][0].gateway if position + 1 < len(built) else None
                if not joined or following != inbound.gateway:
                    self.gateways[inbound.gateway].put(*batch)
                    batch = []

        if currently_in_test_context():
            note(f"sent: {[inbound for inbound, _ in built]}")
        self.settle(put)
        self.model.put(*(inbound for inbound, _ in built))

    @precondition(lambda self: any(isinstance(self.model.seen.get(id, [b""])[-1], tuple) for id in self.open))
    @rule()
    def close_the_kicked(self) -> None:
        """The sockets of those that were told to close are closed."""
        gone = [id for id in self.open if isinstance(self.model.seen.get(id, [b""])[-1], tuple)]
        for id in gone:
            inbound, input = self._close(self.open.pop(id))
            self.settle(lambda inbound=inbound, input=input: self.gateways[inbound.gateway].put(input))  # type: ignore[misc]
            self.model.put(inbound)

    @precondition(lambda self: self.model.state != "waking")
    @rule()
    def be_idle(self) -> None:
        """Nothing happens for long: the room sleeps unless something is going on."""
        self.loop.pass_time(IDLE + 1)
        self.settle()
        self.model.retire()

    @precondition(lambda self: self.model.state != "retiring")
    @rule()
    def hold_the_night(self) -> None:
        """The next tear-down will take a while."""
        self.real.night.clear()
        self.model.night_is_held = True

    @precondition(lambda self: self.model.night_is_held)
    @rule()
    def end_the_night(self) -> None:
        self.real.night.set()
        self.settle()
        self.model.end_night()

    @precondition(lambda self: self.model.waits)
    @rule()
    def end_the_wait(self) -> None:
        """The hook that awaits goes on."""
        assert self.real.waiting is not None
        self.real.waiting.set()
        self.settle()
        self.model.go_on()

    @rule(gateway=st.sampled_from(GATEWAYS))
    def slow_down(self, gateway: str) -> None:
        """From now on this gateway does not answer pulls, or does again."""
        self.gateways[gateway].answers = not self.gateways[gateway].answers
        self.model.slow ^= {gateway}

    @precondition(lambda self: bool(self.model.awaited))
    @rule(index=st.integers(0, 1), count=st.integers(1, 4))
    def answer(self, index: int, count: int) -> None:
        """A slow gateway answers, all or the next chunks of it."""
        asked = sorted(self.model.awaited)
        gateway = self.gateways[asked[index % len(asked)]]
        stale, self.stale = self.stale, []
        pull = gateway.pulls[-1]
        chunks = self.chunks.pop(gateway.id, None) or gateway.chunks(pull)
        if chunks[0].incarnation != pull.incarnation:
            stale += [(gateway, chunk) for chunk in chunks]
            chunks = gateway.chunks(pull)
        now, later = chunks[:count], chunks[count:]
        if later:
            self.chunks[gateway.id] = later

        self.settle(lambda: _say(stale))
        self.nobody_can_tell()
        self.settle(lambda: _say([(gateway, chunk) for chunk in now]))
        if not later:
            self.model.answered(gateway.id)

    @precondition(lambda self: self.model.state == "asleep")
    @rule(index=st.sampled_from(PICKS))
    def corrupt(self, index: int) -> None:
        """The attachment of a sleeping connection is damaged."""
        id = self.pick(index)
        if id in self.open:
            self.gateways[self.open[id].gateway].held[ROOM][id].attachment = b"\x01damaged"
            self.model.unreadable.add(id)

    # --- comparison ---

    @invariant()
    def nobody_can_tell(self) -> None:
        if not hasattr(self, "gateways"):
            return
        assert self.host.rooms().get(ROOM, "asleep") == self.model.state
        assert self.real.hooks == self.model.hooks
        seen = {id: items for gateway in self.gateways.values() for id, items in gateway.seen.items()}
        assert seen == self.model.seen
        kicks = [
            output.connection
            for gateway in self.gateways.values()
            for output in gateway.outputs
            if isinstance(output, Kick) and output.reason == "attachment unreadable"
        ]
        assert len(kicks) == len(set(kicks)), "a record that is unreadable is given up once"
        replies = {
            (gateway.id, number): {"code": o.code} if o.code is not None else _read(o.result)
            for gateway in self.gateways.values()
            for number, o in gateway.replies.items()
        }
        assert replies == self.model.replies
        pending = len(self.model.queue) + (self.model.running is not None)
        if self.model.state != "retiring":
            left = sum(len(gateway.unprocessed) for gateway in self.gateways.values())
            assert left == pending

    def teardown(self) -> None:
        try:
            if hasattr(self, "gateways"):
                self.leave()
        finally:
            self.end()

    def leave(self) -> None:
        """Let all go on, everybody leave and the room sleep: nothing is left anywhere."""
        assert +self.host.directory.counts == Counter(self.host.rooms().values())
        for gateway in self.model.slow.copy():
            self.slow_down(gateway)
        for _ in range(1000):
            if self.model.waits:
                self.end_the_wait()
            elif self.model.night_is_held:
                self.end_the_night()
            elif self.model.awaited:
                self.answer(0, 1000)
            elif self.open:
                self.send(
                    [(("call", "g1", "run", "", "", None, False), [("who",), ("users",)]), (("close", 0), [])], True
                )
            else:
                break
            self.nobody_can_tell()
        self.be_idle()
        self.nobody_can_tell()
        assert self.host.rooms() == {}
        assert self.host.known_rooms() == [], "a room without connections is forgotten"
        assert all(not gateway.held.get(ROOM) for gateway in self.gateways.values())
        assert not self.host.entries.pending
        assert not self.host.entries.working

    def end(self) -> None:
        """Stop the host, whatever state it is in."""
        try:
            self.real.night.set()
            self.host.directory.rooms.clear()
            self.loop.run_until_complete(self.host.stop(1.0))
        finally:
            self.loop.close()
            logging.disable(logging.NOTSET)


def _say(chunks: list[tuple[FakeGateway, Snapshot]]) -> None:
    for gateway, chunk in chunks:
        gateway.say(chunk)


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()


def _read(result: bytes | None) -> Any:
    return json.loads(result or b"null")


# How often a random script does what; every rule of the machine is here.
WEIGHTS = {
    "send": 20, "close_the_kicked": 2, "be_idle": 6, "hold_the_night": 2, "end_the_night": 3, "end_the_wait": 3,
    "slow_down": 4, "answer": 4, "corrupt": 1,
}  # fmt: skip


def _step(machine: Hibernation, chance: random.Random) -> None:
    """Do one step that is possible now."""
    model = machine.model
    possible = {
        "be_idle": model.state != "waking",
        "hold_the_night": model.state != "retiring",
        "end_the_night": model.night_is_held,
        "end_the_wait": model.waits,
        "answer": bool(model.awaited),
        "corrupt": model.state == "asleep",
    }
    weights = [weight * possible.get(name, True) for name, weight in WEIGHTS.items()]
    match chance.choices(list(WEIGHTS), weights)[0]:
        case "send":
            machine.send([_input(chance) for _ in range(chance.randint(1, 4))], chance.random() < 0.5)
        case "slow_down":
            machine.slow_down(chance.choice(GATEWAYS))
        case "answer":
            machine.answer(chance.randrange(2), chance.choice((1, 2, 9)))
        case "corrupt":
            machine.corrupt(chance.choice(PICKS))
        case name:
            getattr(machine, name)()
    machine.nobody_can_tell()


def _input(chance: random.Random) -> tuple[Any, ...]:
    kinds = (CHANGES, CHANGES, SENDS, SENDS, BROADCASTS, BROADCASTS, ASKS, ASKS, OTHERS, OTHERS, TURNS)
    script = [chance.choice(chance.choice(kinds)) for _ in range(chance.randint(0, 4))]
    match chance.choices(("frame", "connect", "call", "close"), (10, 4, 4, 1))[0]:
        case "connect":
            return chance.choice(CONNECTS), script[3:]
        case "call":
            return chance.choice(CALLS), script
        case "close":
            return ("close", chance.choice(PICKS)), []
        case _:
            return ("frame", chance.choice(PICKS), chance.random() < 0.7), script


def test_scripts_of_forty_steps_cannot_tell_them_apart_either() -> None:
    """Hypothesis prefers short scripts, which is good for finding the shortest; these are all of forty steps."""
    for seed in range(SCRIPTS):
        chance, machine = random.Random(seed), Hibernation()
        try:
            machine.link(seed % 2 == 0, [(chance.choice(CONNECTS), []) for _ in range(5)])
            for _ in range(40):
                _step(machine, chance)
            machine.leave()
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise
        finally:
            machine.end()


def test_no_client_can_tell_a_room_that_sleeps_from_one_that_never_does() -> None:
    run_state_machine_as_test(
        Hibernation,
        settings=settings(
            max_examples=SCRIPTS,
            stateful_step_count=30,
            deadline=None,
            report_multiple_bugs=False,
            derandomize="VERANI_TEST_EXAMPLES" not in os.environ,
            suppress_health_check=list(HealthCheck),
        ),
    )

"""The same actors on Thespian's `simpleSystemBase` and on ours: whatever both can do leaves the same trace.

What differs on purpose is in `test_system.py`.
"""

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any, ClassVar

import pytest
from thespian.actors import (
    Actor,
    ActorAddress,
    ActorExitRequest,
    ActorSystem,
    ChildActorExited,
    DeadEnvelope,
    PoisonMessage,
    WakeupMessage,
    requireCapability,
)

from verani_actors.system.asyncio_base import AsyncioSystemBase

# One line for each message an actor saw: its role, the message, the role of the sender.
Trace = list[tuple[str, str, str]]


class Player(Actor):
    """Traces every message, then plays its role: a subclass's `play`."""

    trace: ClassVar[Trace] = []
    # An address is no dict key, and both bases number them differently: traces show roles.
    roles: ClassVar[list[tuple[ActorAddress, str]]] = []
    # Wakeups an actor waits for; the last one sets the event.
    wakeups_left: ClassVar[int] = 0
    woken: ClassVar[asyncio.Event]

    @classmethod
    def role_of(cls, address: ActorAddress) -> str:
        if address.actorAddressString in ("System:ExternalRequester", "/ActorSys"):
            return "outside"
        return next((role for known, role in cls.roles if known == address), "?")

    @classmethod
    def text_of(cls, message: Any) -> str:
        match message:
            case ChildActorExited():
                return f"exited {cls.role_of(message.childAddress)}"
            case PoisonMessage():
                # The traceback's last line; file names and line numbers in it differ.
                return f"poison {cls.text_of(message.poisonMessage)}: {str(message.details).splitlines()[-1]}"
            case DeadEnvelope():
                return f"dead {cls.text_of(message.deadMessage)}"
            case WakeupMessage():
                return f"wakeup {message.delayPeriod} {message.payload}"
            case ActorExitRequest():
                return "exit"
            case _:
                return str(message)

    def receiveMessage(self, msg: Any, sender: ActorAddress) -> None:
        role = type(self).__name__
        if not any(known == self.myAddress for known, _ in self.roles):
            self.roles.append((self.myAddress, role))
        self.trace.append((role, self.text_of(msg), self.role_of(sender)))
        self.play(msg, sender)

    def play(self, msg: Any, sender: ActorAddress) -> None:
        pass

    def create(self, cls: type[Actor], name: str | None = None) -> ActorAddress:
        address = self.createActor(cls, globalName=name)
        if not any(known == address for known, _ in self.roles):
            self.roles.append((address, cls.__name__))
        return address


@pytest.fixture(autouse=True)
def fresh_stage() -> None:
    Player.wakeups_left = 0


# What to tell the first actor, in order. Each is handled completely before the next, as simpleSystemBase's tell does.
Script = tuple[type[Player], list[Any]]


def play_on_simple(script: Script, prepare: Callable[[ActorSystem], None]) -> Trace:
    Player.woken = asyncio.Event()
    Player.trace.clear()
    Player.roles.clear()
    system = ActorSystem("simpleSystemBase", logDefs=False, transientUnique=True)
    prepare(system)
    first = system.createActor(script[0])
    for message in script[1]:
        system.tell(first, message)
        while Player.wakeups_left:
            system.listen(0.01)
    system.shutdown()
    return list(Player.trace)


async def play_on_ours(script: Script, prepare: Callable[[ActorSystem], None]) -> Trace:
    Player.trace.clear()
    Player.roles.clear()
    Player.woken = asyncio.Event()
    base = AsyncioSystemBase()
    system = ActorSystem(systemBase=base, capabilities=base.capabilities, transientUnique=True)
    prepare(system)
    first = system.createActor(script[0])
    for message in script[1]:
        system.tell(first, message)
        await base.idle()
        if Player.wakeups_left:
            await Player.woken.wait()
            await base.idle()
    system.shutdown()
    await base.closed()
    return list(Player.trace)


async def same(script: Script, *, prepare: Callable[[ActorSystem], None] = lambda system: None) -> Trace:
    """Play on both bases, assert that the traces are equal, and return the trace."""
    expected = play_on_simple(script, prepare)
    assert await play_on_ours(script, prepare) == expected
    return expected


class Echo(Player):
    def play(self, msg: Any, sender: ActorAddress) -> None:
        if isinstance(msg, str) and msg.startswith("ask"):
            self.send(sender, f"answer to {msg}")


class Chain(Player):
    def play(self, msg: Any, sender: ActorAddress) -> None:
        if isinstance(msg, int) and msg:
            next_one = self.create(Chain)
            self.send(next_one, msg - 1)
            self.send(self.myAddress, f"sent {msg}")
            self.send(next_one, f"after {msg}")


async def test_a_chain_of_sends_runs_in_the_same_order() -> None:
    trace = await same((Chain, [5, "end"]))
    assert len(trace) == 1 + 5 * 3 + 1


class Fan(Player):
    def play(self, msg: Any, sender: ActorAddress) -> None:
        if msg == "go":
            echoes = [self.create(Echo) for _ in range(3)]
            for number in range(2):
                for echo in echoes:
                    self.send(echo, f"ask {number}")


async def test_fan_out_and_answers_come_in_the_same_order() -> None:
    assert len(await same((Fan, ["go", "go"]))) == 2 * (1 + 6 + 6)


class Namer(Player):
    def play(self, msg: Any, sender: ActorAddress) -> None:
        match msg:
            case "create":
                one = self.create(Echo, "echo")
                self.trace.append(("same address", str(one == self.create(Chain, "echo")), ""))
                self.send(one, "hello")
            case "kill":
                self.send(self.create(Chain, "echo"), ActorExitRequest())
            case ChildActorExited():
                self.send(self.create(Chain, "echo"), "after the kill")


async def test_a_name_is_one_actor_until_that_actor_exits() -> None:
    trace = await same((Namer, ["create", "create", "kill", "create"]))
    assert ("same address", "True", "") in trace
    assert ("Chain", "after the kill", "Namer") in trace


class Grandchild(Player):
    pass


class Child(Player):
    def play(self, msg: Any, sender: ActorAddress) -> None:
        if msg == "create":
            for _ in range(2):
                self.send(self.create(Grandchild), "hello")


class Parent(Player):
    def play(self, msg: Any, sender: ActorAddress) -> None:
        match msg:
            case "create":
                self.child = self.create(Child)
                self.send(self.child, "create")
            case "kill":
                self.send(self.child, ActorExitRequest())


async def test_an_exit_reaches_all_descendants_and_the_parent_in_the_same_order() -> None:
    trace = await same((Parent, ["create", "kill"]))
    assert trace[-4:] == [
        ("Child", "exit", "Parent"),
        ("Parent", "exited Child", "outside"),
        ("Grandchild", "exit", "outside"),
        ("Grandchild", "exit", "outside"),
    ]


async def test_a_top_level_exit_reaches_all_descendants() -> None:
    trace = await same((Parent, ["create", ActorExitRequest()]))
    assert [role for role, text, _ in trace if text == "exit"] == ["Parent", "Child", "Grandchild", "Grandchild"]


class Failing(Player):
    def play(self, msg: Any, sender: ActorAddress) -> None:
        if msg != "fine":
            raise ValueError(f"cannot play {self.text_of(msg)}")


class Employer(Player):
    worker: ClassVar[type[Player]] = Failing

    def play(self, msg: Any, sender: ActorAddress) -> None:
        if msg == "go":
            worker = self.create(self.worker)
            self.send(worker, "bad")
            self.send(worker, "fine")
            self.send(worker, "worse")


async def test_a_failing_actor_gets_as_many_attempts_and_its_sender_the_poison() -> None:
    trace = await same((Employer, ["go"]))
    assert trace.count(("Failing", "bad", "Employer")) == 3
    assert trace.count(("Employer", "poison bad: ValueError: cannot play bad", "Failing")) == 1


async def test_a_failure_whose_sender_is_outside_stays_inside() -> None:
    assert len(await same((Failing, ["bad", "fine"]))) == 3 + 1


class Selfish(Player):
    def play(self, msg: Any, sender: ActorAddress) -> None:
        if msg == "go":
            self.send(self.myAddress, "to myself")
        elif msg == "to myself" or isinstance(msg, PoisonMessage):
            raise ValueError("no")


async def test_a_failing_poison_is_tried_twice_and_not_answered() -> None:
    trace = await same((Selfish, ["go"]))
    assert [text.split(":")[0] for _, text, _ in trace] == ["go", *["to myself"] * 3, *["poison to myself"] * 2]


class Forwarder(Player):
    def play(self, msg: Any, sender: ActorAddress) -> None:
        if msg == "go":
            self.send(self.create(Failing), PoisonMessage("mine", "details"))


async def test_a_poison_message_that_is_sent_on_and_fails_is_not_answered() -> None:
    assert len(await same((Forwarder, ["go"]))) == 1 + 3


class FailsOnLoss(Player):
    def play(self, msg: Any, sender: ActorAddress) -> None:
        match msg:
            case "go":
                self.send(self.create(Echo), ActorExitRequest())
            case ChildActorExited():
                raise ValueError("lost a child")


async def test_a_parent_that_fails_on_the_exit_of_its_child_gets_as_many_attempts() -> None:
    assert len(await same((FailsOnLoss, ["go", "end"]))) == 1 + 1 + 3 + 1


class Undertaker(Player):
    def play(self, msg: Any, sender: ActorAddress) -> None:
        match msg:
            case "handle":
                self.handleDeadLetters()
            case "stop":
                self.handleDeadLetters(False)
            case "kill":
                self.gone = self.create(Echo)
                self.send(self.gone, ActorExitRequest())
            case "write":
                self.send(self.gone, "a letter")
            case "kill again":
                self.send(self.gone, PoisonMessage("x", "y"))


async def test_dead_letters_reach_the_handler_until_it_stops_handling() -> None:
    trace = await same((Undertaker, ["kill", "write", "handle", "write", "kill again", "stop", "write"]))
    assert [text for _, text, _ in trace if text.startswith("dead")] == ["dead a letter", "dead poison x: y"]
    assert ("Undertaker", "dead a letter", "Undertaker") in trace


async def test_a_dead_handler_handles_nothing() -> None:
    await same((Undertaker, ["kill", "handle", ActorExitRequest(), "write"]))


class Sleeper(Player):
    periods: ClassVar[list[timedelta | float]] = [0.002, timedelta(milliseconds=2), 0.002]

    def play(self, msg: Any, sender: ActorAddress) -> None:
        match msg:
            case "go":
                for number, period in enumerate(self.periods):
                    self.wakeupAfter(period, number)
                    Player.wakeups_left += 1
            case "now":
                self.wakeupAfter(0, "at once")
                self.send(self.myAddress, "sent after")
            case WakeupMessage(payload=payload) if payload != "at once":
                Player.wakeups_left -= 1
                if not Player.wakeups_left:
                    self.woken.set()


async def test_wakeups_carry_period_and_payload_and_come_from_the_actor_itself() -> None:
    trace = await same((Sleeper, ["go", "now"]))
    assert trace[1:4] == [
        ("Sleeper", "wakeup 0.002 0", "Sleeper"),
        ("Sleeper", "wakeup 0:00:00.002000 1", "Sleeper"),
        ("Sleeper", "wakeup 0.002 2", "Sleeper"),
    ]
    assert trace[5:] == [("Sleeper", "wakeup 0 at once", "Sleeper"), ("Sleeper", "sent after", "Sleeper")]


class Unborn(Player):
    def __init__(self) -> None:
        raise ValueError("unborn")


@requireCapability("gpu")
class NeedsGpu(Player):
    pass


class NeedsColour(Player):
    @staticmethod
    def actorSystemCapabilityCheck(capabilities: dict[str, Any], requirements: dict[str, Any]) -> bool:
        return bool(capabilities.get("colour") == requirements.get("colour"))

    def __init__(self, capabilities: Any = None, requirements: Any = None) -> None:
        self.trace.append(("NeedsColour", f"born {capabilities['colour']} {requirements}", ""))


class Mother(Player):
    def play(self, msg: Any, sender: ActorAddress) -> None:
        match msg:
            case "unborn":
                self.send(self.create(Unborn, "name"), "are you there?")
            case "gpu":
                self.send(self.create(NeedsGpu), "hello")
            case "buy":
                self.updateCapability("gpu", True)
            case "sell":
                self.updateCapability("gpu")
            case "red" | "blue":
                self.send(self.createActor(NeedsColour, {"colour": msg}), "hello")
            case "missing":
                self.createActor("no.such.module.Actor")
            case "unqualified":
                self.createActor("Echo")


@pytest.mark.parametrize("how", ["unborn", "gpu", "blue", "unqualified"])
async def test_a_child_that_cannot_be_created_shows_as_exited(how: str) -> None:
    trace = await same((Mother, [how]), prepare=lambda system: system.updateCapability("colour", "red"))
    assert any(text.startswith("exited") for _, text, _ in trace)


async def test_capabilities_and_requirements_decide_over_a_child() -> None:
    script = (Mother, ["buy", "gpu", "sell", "gpu", "red"])
    trace = await same(script, prepare=lambda system: system.updateCapability("colour", "red"))
    assert trace.count(("NeedsGpu", "hello", "Mother")) == 1
    assert ("NeedsColour", "born red {'colour': 'red'}", "") in trace


async def test_a_module_that_does_not_exist_is_the_creators_failure() -> None:
    trace = await same((Mother, ["missing"]))
    assert len(trace) == 3


@pytest.mark.parametrize("specification", [Unborn, "no.such.module.Actor", "Echo"])
async def test_a_top_level_actor_that_cannot_be_created_raises_the_same(specification: Any) -> None:
    simple = ActorSystem("simpleSystemBase", logDefs=False, transientUnique=True)
    with pytest.raises(Exception) as expected:  # noqa: PT011  its type is what the other base is held to
        simple.createActor(specification)
    base = AsyncioSystemBase()
    ours = ActorSystem(systemBase=base, transientUnique=True)
    with pytest.raises(type(expected.value), match=str(expected.value).replace("(", r"\(").replace(")", r"\)")):
        ours.createActor(specification, globalName="name")
    assert len(base) == 0
    # The name is not poisoned by the failure.
    assert ours.createActor(Echo, globalName="name") is not None
    ours.shutdown()


class Becomes(Player):
    def play(self, msg: Any, sender: ActorAddress) -> None:
        if msg == "become":
            self.receiveMessage = self.other  # type: ignore[method-assign]  # actors do this

    def other(self, msg: Any, sender: ActorAddress) -> None:
        self.trace.append(("Becomes", f"other {msg}", ""))


async def test_an_actor_may_replace_its_receive_message() -> None:
    assert ("Becomes", "other 1", "") in await same((Becomes, ["become", "1"]))


class Hooked(Player):
    def play(self, msg: Any, sender: ActorAddress) -> None:
        if msg == "hook":
            plain = self._receive  # type: ignore[has-type]  # the hook that both bases install

            def receive(msg: Any, sender: ActorAddress) -> Any:
                self.trace.append(("hook", str(msg), ""))
                return plain(msg, sender)

            self._receive = receive


async def test_a_hook_around_an_actors_messages_is_honoured() -> None:
    trace = await same((Hooked, ["hook", "1"]))
    assert trace[1:] == [("hook", "1", ""), ("Hooked", "1", "outside")]

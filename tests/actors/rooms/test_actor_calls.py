"""Other Thespian actors call rooms by message, and a host without gateways says that it takes no calls."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from thespian.actors import Actor, ActorAddress

from tests.actors.conftest import FakeGateway, Start
from tests.raw import until
from verani import define_room
from verani.link.messages import CallInput, Entry, InputBatch, Invoke, Outcome, Replied, Reply
from verani_actors.messages import CALLS, CallRefused, CallReturned, CallRoom
from verani_actors.rooms.actor_calls import RoomCalls
from verani_actors.rooms.host import RoomHost


class Ask(CallRoom, frozen=True):
    """What the test tells its actor to ask."""


class Program(Actor):
    """Somebody else's actor in the same system."""

    answers: asyncio.Queue[Any]

    def receiveMessage(self, message: Any, sender: ActorAddress) -> None:
        match message:
            case Ask():
                calls = self.createActor(RoomCalls, globalName=CALLS)
                fields = {name: getattr(message, name) for name in message.__struct_fields__}
                self.send(calls, CallRoom(**fields))
            case CallReturned() | CallRefused():
                self.answers.put_nowait(message)


class CarryingGateway(FakeGateway):
    """A gateway that carries calls, too."""

    def __init__(self, host: RoomHost) -> None:
        self.waiting: dict[int, Invoke] = {}
        self.refusal: str | None = None
        super().__init__(host)

    def _take(self, message: Any) -> None:
        if not isinstance(message, Invoke):
            super()._take(message)
        elif self.refusal is not None:
            self.say(Replied(message.room, message.token, Outcome(code=self.refusal)))
        else:
            number = self.number()
            self.waiting[number] = message
            self.put(CallInput(message.target, number, message.method, message.arguments, message.timeout, message.key))

    def _apply(self, entry: Entry) -> None:
        super()._apply(entry)
        for output in entry.outputs:
            if isinstance(output, Reply):
                invoke = self.waiting.pop(output.call)
                self.say(Replied(invoke.room, invoke.token, output.outcome))


room = define_room("chat")


@room.rpc
def add(actor: Any, a: int, b: int) -> int:
    return a + b


@pytest.fixture
async def host(start: Start) -> RoomHost:
    Program.answers = asyncio.Queue()
    return await start(room)


def ask(host: RoomHost, *calls: Ask) -> None:
    assert host.actors._system is not None
    program = host.actors._system.createActor(Program, globalName="program")
    for call in calls:
        host.actors.tell(program, call)


async def answer() -> Any:
    async with asyncio.timeout(5):
        return await Program.answers.get()


async def test_an_actor_calls_a_room_by_message(host: RoomHost) -> None:
    CarryingGateway(host)
    ask(host, Ask("chat/a", "add", {"a": 1, "b": 2}, reference=7))
    assert await answer() == CallReturned(3, 7)
    ask(host, Ask("chat/a", "add", [3, 4]))
    assert await answer() == CallReturned(7)


@pytest.mark.parametrize(
    ("call", "code", "path"),
    [
        (Ask("chat/a", "add", {"a": 1, "b": "x"}, reference="r"), "invalid", "$.b"),
        (Ask("chat/a", "add", {"a": object()}, reference="r"), "invalid", None),
        (Ask("chat/a", "add", [1, 2], timeout="2", reference="r"), "invalid", None),  # type: ignore[arg-type]
        (Ask("chat/a", 5, reference="r"), "invalid", None),  # type: ignore[arg-type]
        (Ask("chat/a", "add", "[1,2]", reference="r"), "invalid", None),  # type: ignore[arg-type]
        (Ask("chat/a", "nothing", reference="r"), "not_found", None),
        (Ask("nothing/a", "add", reference="r"), "not_found", None),
    ],
)
async def test_a_call_that_fails_is_answered_with_its_code(
    host: RoomHost, call: Ask, code: str, path: str | None
) -> None:
    CarryingGateway(host)
    ask(host, call)
    refused = await answer()
    assert (refused.code, refused.path, refused.reference) == (code, path, "r")


async def test_a_host_without_gateways_is_busy(host: RoomHost) -> None:
    ask(host, Ask("chat/a", "add", [1, 2]))
    assert (await answer()).code == "busy"


@pytest.mark.parametrize("linked", [True, False])
async def test_a_call_whose_gateway_is_lost_is_interrupted(host: RoomHost, linked: bool) -> None:
    gateway = CarryingGateway(host)
    gateway.answers = False
    ask(host, Ask("chat/a", "add", [1, 2]))
    await until(lambda: gateway.pulls)
    if linked:
        FakeGateway(host, id="another")
    host.unlink("g1")
    assert (await answer()).code == "interrupted"
    assert host.calls._carried == {}


async def test_calls_of_one_actor_run_side_by_side(host: RoomHost) -> None:
    gateway = CarryingGateway(host)
    gateway.answers = False  # the wake of the first room waits
    ask(host, Ask("chat/a", "add", [1, 2], reference="a"), Ask("chat/b", "add", [3, 4], reference="b"))
    await until(lambda: len(gateway.pulls) == 2)
    first, second = gateway.pulls
    gateway.answer(second)
    assert await answer() == CallReturned(7, "b")
    gateway.answer(first)
    assert await answer() == CallReturned(3, "a")


async def test_a_call_carries_its_deadline_in_the_hosts_clock(start: Start) -> None:
    now = [100.0]
    host = await start(room, clock=lambda: now[0])
    gateway = CarryingGateway(host)
    call = CallInput("chat/a", 1, "add", b"[1,2]", 2.5)
    gateway.waiting[1] = Invoke("", 1, "chat/a", "add", b"", 2.5)
    gateway.answers = False
    gateway.say(InputBatch([call]))
    await until(lambda: gateway.pulls)
    now[0] = 102.5
    gateway.answer(gateway.pulls[0])
    await until(lambda: not gateway.waiting)
    assert gateway.outputs == [Reply(1, Outcome(code="deadline"))]


async def test_a_call_that_cannot_be_carried_is_refused_once_and_the_next_one_is_carried(
    host: RoomHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    CarryingGateway(host)
    with monkeypatch.context() as failing:
        failing.setattr(host.calls, "call", lambda *_, **__: 1 / 0)
        ask(host, Ask("chat/a", "add", [1, 2], reference="r"))
        refused = await answer()
    assert (refused.code, refused.reference) == ("failed", "r")
    ask(host, Ask("chat/a", "add", [3, 4]))
    assert await answer() == CallReturned(7)
    assert Program.answers.empty()

"""What a room declares that it sends, what may be declared, and what tests hold it to."""

from __future__ import annotations

import enum
import logging
import sys
import types
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, NotRequired, TypedDict

import pydantic
import pytest
from msgspec import UNSET, Meta, Struct, UnsetType

from verani import DefinitionError, define_room
from verani.client import VeraniClient
from verani.room.definition import RoomDefinition
from verani.testing import NotDeclared, RoomHarness, serve


class Message(Struct):
    text: Annotated[str, Meta(min_length=1)]
    mentions: list[str] = []


class Line(Struct):
    points: list[tuple[int, int]]


class Tree(Struct):
    name: str
    children: list[Tree] = []


class Circle(Struct, tag_field="shape", tag="circle"):
    radius: float


class Square(Struct, tag_field="shape", tag="square"):
    side: float
    filled: bool = False


class Sparse(Struct, omit_defaults=True, rename="camel"):
    is_new: bool = False
    seen_at: datetime | None = None


class Patch(Struct):
    title: str | UnsetType = UNSET
    body: Annotated[str, Meta(max_length=5)] | UnsetType = UNSET
    note: Annotated[str | UnsetType, Meta(description="for people")] = UNSET


class Options(TypedDict):
    size: int
    color: NotRequired[str]


@dataclass
class Score:
    user: str
    points: int = 0


WOOD = """
from msgspec import Struct
from verani import define_room

wood = define_room("wood")

@wood.event("tree")
class Tree(Struct):
    children: list["Tree"]
    leaves: "Leaves"

class Leaves(Struct):
    number: int
"""


class Mood(enum.Enum):
    GOOD = "good"
    BAD = "bad"


class Item(pydantic.BaseModel):
    name: str
    price: float = 0.0


class Order(pydantic.BaseModel):
    items: list[Item]
    note: str | None = None

    @pydantic.computed_field  # type: ignore[prop-decorator]  # as Pydantic's own documentation has it
    @property
    def total(self) -> float:
        return sum(item.price for item in self.items)


def a_room(**events: Any) -> RoomDefinition[Any, Any]:
    """Define a room that declares these events."""
    room = define_room("chat")
    for name, kind in events.items():
        room.event(name, kind)
    return room


# --- what may be declared ------------------------------------------------------------------------------


def test_events_are_declared_by_a_call_or_above_a_class_in_order() -> None:
    room = define_room("chat")
    room.event("chat.message", Message)

    @room.event("typing")
    class Typing(Struct):
        user: str

    room.event("left", None)
    assert [(each.name, each.kind) for each in room.events] == [
        ("chat.message", Message),
        ("typing", Typing),
        ("left", None),
    ]
    assert Typing("ann").user == "ann"


@pytest.mark.parametrize(
    "kind",
    [Message, Score, Options, Item, Order, Mood, Circle | Square, Message | None, dict[str, int], list[Line], int, Any],
    ids=str,
)
def test_every_type_that_is_checked_when_it_comes_in_may_go_out(kind: Any) -> None:
    a_room(event=kind).check()


def test_a_type_may_name_itself_and_classes_that_stand_further_down() -> None:
    sys.modules["wood"] = types.ModuleType("wood")
    try:
        exec(WOOD, sys.modules["wood"].__dict__)
        wood = sys.modules["wood"].wood
        wood.check()
        [tree] = wood.events
        tree.check({"children": [{"children": [], "leaves": {"number": 0}}], "leaves": {"number": 5}})
        with pytest.raises(NotDeclared, match=r"declared as Tree: .* `leaves` - at `\$\.children\[0\]`"):
            tree.check({"children": [{"children": []}], "leaves": {"number": 5}})
    finally:
        del sys.modules["wood"]


def test_a_type_whose_names_never_exist_is_refused_when_all_has_run() -> None:
    room = define_room("wood")

    @room.event("tree")
    class Tree(Struct):
        leaves: Nothing  # type: ignore[name-defined]  # noqa: F821

    with pytest.raises(DefinitionError, match=r"^wood: event 'tree': expected a type whose names exist: .*Nothing"):
        room.check()


def test_an_event_is_declared_once() -> None:
    room = a_room(typing=str)
    with pytest.raises(DefinitionError, match=r"^chat: event 'typing' is declared twice"):
        room.event("typing", int)
    with pytest.raises(DefinitionError, match=r"^chat: event 'typing' is declared twice"):
        room.event("typing")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("ping", "answered by the gateway"),
        ("verani.session", "reserved"),
        ("*", "by its name"),
    ],
)
def test_names_that_mean_something_else_are_refused(name: str, said: str) -> None:
    with pytest.raises(DefinitionError, match=said):
        define_room("chat").event(name, Message)


@pytest.mark.parametrize(("name", "error"), [("", ValueError), ("a\nb", ValueError), (5, TypeError)])
def test_what_is_no_name_is_refused(name: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="^event: expected"):
        define_room("chat").event(name, Message)


def test_a_name_that_browsers_mix_up_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        define_room("chat").event("close", None)
    assert "event 'close' of room definition 'chat' collides" in caplog.text


@pytest.mark.parametrize("kind", [type("Stranger", (), {}), Annotated[str, pydantic.Field(min_length=1)], 5, print])
def test_a_type_that_nobody_could_check_is_refused(kind: Any) -> None:
    with pytest.raises(DefinitionError, match="^chat: event 'event': (nobody would check|expected a type)"):
        a_room(event=kind)


class Tagged(Struct, tag="typing"):
    user: str


class Typed(TypedDict):
    type: str


@pytest.mark.parametrize(
    "kind", [Tagged, Typed, Tagged | None, pydantic.create_model("Model", type=(str, ...))], ids=str
)
def test_data_with_a_type_of_its_own_is_refused_because_that_is_the_name(kind: Any) -> None:
    with pytest.raises(DefinitionError, match="^chat: event 'event': expected data without a 'type'"):
        a_room(event=kind)


def test_a_decorator_that_is_used_as_a_call_is_told_how() -> None:
    room = define_room("chat")
    room.event("left")
    with pytest.raises(DefinitionError, match="^chat: event 'left': expected the type .* None for no data"):
        room.check()


# --- what tests hold a room to -------------------------------------------------------------------------

FITTING: list[tuple[Any, Any]] = [
    (Message, Message("hi")),
    (Message, {"text": "hi", "mentions": []}),
    (Score, Score("ann")),
    (Options, {"size": 1}),
    (Options, {"size": 1, "color": "red"}),
    (Tree, Tree("root", [Tree("leaf")])),
    (Circle | Square, Square(2.0)),
    (list[Circle | Square], [Square(2.0), Circle(1.0)]),
    (Sparse, Sparse()),
    (Sparse, {"isNew": False}),
    (Sparse, Sparse(seen_at=datetime(2026, 1, 1, tzinfo=UTC))),
    (Patch, Patch()),
    (Patch, Patch(body="b")),
    (dict[str, Message], {"any": Message("hi")}),
    (Message | None, None),
    (int, 5),
    (Mood, Mood.BAD),
    (Literal["a", "b"], "b"),
    (Item, Item(name="pen")),
    (Order, Order(items=[Item(name="pen", price=2.0)])),
    (Any, {"what": "ever"}),
    (object, ["what", "ever"]),
    (None, UNSET),
    (None, {}),
]


@pytest.mark.parametrize(("kind", "data"), FITTING)
async def test_data_that_fits_is_sent(kind: Any, data: Any) -> None:
    async with RoomHarness(a_room(event=kind)) as room:
        ann = await room.connect(user_id="ann")
        assert room.actor.emit("event", data) == 1
        assert [event.type for event in ann.received] == ["event"]


@pytest.mark.parametrize(
    ("kind", "data", "path", "said"),
    [
        (Message, {"text": 5, "mentions": []}, "$.text", "Expected `str`, got `int`"),
        (Message, Message(""), "$.text", "length >= 1"),
        (Message, Message("hi", mentions=[5]), "$.mentions[0]", "Expected `str`"),  # type: ignore[list-item]
        (Message, {"text": "hi"}, "$.mentions", "is missing; what has a default is sent, too"),
        (Message, {"text": "hi", "mentions": [], "secret": 1}, "$.secret", "is not declared"),
        (Message, "hi", "$", "Expected `object`, got `str`"),
        (Message, UNSET, "$.text", "expected data, got none"),
        (Score, {"user": "ann"}, "$.points", "is missing"),
        (Options, {"size": 1, "colour": "red"}, "$.colour", "is not declared"),
        (Tree, {"name": "root", "children": [{"name": "leaf"}]}, "$.children[0].children", "is missing"),
        (Line, {"points": [[1, 2, 3]]}, "$.points[0]", "length 2"),
        (Circle | Square, {"shape": "square", "side": 1.0}, "$.filled", "is missing"),
        (dict[str, Message], {"a": {"text": "hi"}}, "$.a.mentions", "is missing"),
        (Sparse, {"is_new": True}, "$.is_new", "is not declared"),
        (Patch, Patch(body="longer"), "$.body", "length <= 5"),
        (float, float("nan"), "$", "got `null`"),
        (Order, {"items": [{"name": "pen", "price": 1.0, "weight": 1}], "note": None, "total": 1.0}, None, "weight"),
        (Order, {"items": [], "note": None}, "$.total", "is missing"),
        (list[Item], [{"name": "pen"}], "$[0].price", "is missing"),
        (Item, {"name": 5}, "$.name", "valid string"),
        (None, {"text": "hi"}, None, "expected no data"),
        (None, None, None, "expected no data"),
    ],
)
async def test_data_that_does_not_fit_is_an_error_where_it_is_sent(
    kind: Any, data: Any, path: str | None, said: str
) -> None:
    async with RoomHarness(a_room(event=kind)) as room:
        ann = await room.connect(user_id="ann")
        with pytest.raises(NotDeclared) as raised:
            room.actor.emit("event", data)
        assert ann.received == []
    name = kind.__name__ if isinstance(kind, type) else str(kind)
    assert str(raised.value).startswith(f"chat: event 'event', which is declared as {name}: ")
    assert said in str(raised.value)
    assert raised.value.event == "event"
    assert path is None or raised.value.path == path


async def test_an_event_that_is_not_declared_is_an_error_of_the_hook_in_every_way_to_send() -> None:
    room = a_room(hello=None, message=Message)
    ways = {
        "ctx": lambda ctx: ctx.emit("helo"),
        "user": lambda ctx: ctx.to_user("ann").emit("helo"),
        "others": lambda ctx: ctx.to_channel("default").emit("helo"),
        "room": lambda ctx: ctx.actor.emit("helo"),
        "channel": lambda ctx: ctx.actor.emit_to_channel("default", "helo"),
        "to user": lambda ctx: ctx.actor.emit_to_user("ann", "helo"),
        "broadcast": lambda ctx: ctx.actor.broadcast("default", {"type": "helo"}),
        "send": lambda ctx: ctx.actor.send_to_user("ann", "default", {"type": "helo"}),
    }

    @room.on("try")
    def send(ctx: Any, way: str) -> None:
        ways[way](ctx)

    async with RoomHarness(room) as harness:
        ann = await harness.connect(user_id="ann")
        for way in ways:
            await ann.send("try", way)
            [error] = harness.take_errors()
            assert isinstance(error, NotDeclared), way
            assert str(error) == "chat: event 'helo' is not declared; declared are 'hello', 'message'"
        assert ann.received == []


async def test_what_goes_out_unchanged_is_an_event_where_clients_take_it_for_one() -> None:
    async with RoomHarness(a_room(message=Message, hello=None, count=int)) as room:
        ann = await room.connect(user_id="ann")
        assert room.actor.emit("count", 5) == 1
        assert room.actor.broadcast("default", {"type": "count", "value": 5}) == 1
        first, second = ann.take()
        assert first == second
        with pytest.raises(NotDeclared, match=r"event 'count', .*Expected `int`, got `str`"):
            room.actor.broadcast("default", {"type": "count", "value": "five"})
        assert room.actor.broadcast("default", {"type": "message", "text": "hi", "mentions": []}) == 1
        assert room.actor.send_to_user("ann", "default", {"type": "hello"}) == 1
        assert room.actor.broadcast("default", [1, 2]) == 1
        assert room.actor.broadcast("default", {"text": "no event"}, user_ids=["ann"]) == 1
        with pytest.raises(NotDeclared, match=r"event 'message', .*Expected `str`, got `int` - at `\$\.text`"):
            room.actor.broadcast("default", {"type": "message", "text": 5, "mentions": []})


async def test_calls_from_outside_are_held_to_it_too() -> None:
    async with RoomHarness(a_room(message=Message)) as room:
        await room.connect(user_id="ann")
        assert await room.call("emit_to_user", "ann", "message", {"text": "hi", "mentions": []}) == 1
        with pytest.raises(Exception, match="failed"):
            await room.call("emit_to_user", "ann", "message", {"text": "hi"})
        assert [type(error) for error in room.take_errors()] == [NotDeclared]


async def test_a_room_that_declares_nothing_sends_what_it_likes() -> None:
    async with RoomHarness(define_room("chat")) as room:
        await room.connect(user_id="ann")
        assert room.actor.emit("anything", {"at": "all"}) == 1


async def test_a_served_room_is_held_to_it_in_a_test_and_the_log_says_what_it_sent(
    caplog: pytest.LogCaptureFixture,
) -> None:
    room = a_room(message=Message)

    @room.on("say")
    def say(ctx: Any, text: Any) -> str:
        ctx.emit("message", {"text": text, "mentions": []})
        return "said"

    async with serve(room) as url, VeraniClient(f"{url}/ws") as client:
        assert await client.request("say", "hi") == "said"
        with pytest.raises(Exception, match="failed"):
            await client.request("say", 5)
    assert "event 'message', which is declared as Message: Expected `str`, got `int`" in caplog.text


def test_what_is_not_tested_is_not_looked_at() -> None:
    room = a_room(message=Message)
    assert not room.events.are_checked
    RoomHarness(room)
    assert room.events.are_checked

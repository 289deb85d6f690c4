"""Rooms with every kind of type, name and text that documents have to cope with, and data that fits them.

`SENT` has what the room `sends` sends by the names of its events, `TAKEN` what the room `takes` takes.
"""

from __future__ import annotations

import datetime as dt
import decimal
import enum
import uuid
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, Generic, Literal, NamedTuple, NotRequired, TypedDict, TypeVar

import msgspec
import pydantic
from msgspec import UNSET, Meta, Struct, UnsetType

from verani import Context, define_room

__all__ = ["ROOMS", "SENT", "TAKEN"]

T = TypeVar("T")


class Tree(Struct):
    """A tree.

    It has `*/` in its text, and "quotes" \\ and backslashes.
    """

    name: Annotated[str, Meta(description="what */ it is called", max_length=10)]
    children: list[Tree] = []


class Circle(Struct, tag_field="shape", tag="circle"):
    radius: float = 1.0


class Square(Struct, tag_field="shape", tag="square"):
    side: float


class Mood(enum.Enum):
    """How somebody is."""

    GOOD = "good"
    BAD = 'ba"d'


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Pair(NamedTuple):
    left: int
    right: str = "r"


class Row(Struct, array_like=True):
    key: int
    value: str | None = None


class Page(Struct, Generic[T], rename="camel"):
    page_items: list[T]
    next_page: int | None = None


class Strict(Struct, forbid_unknown_fields=True):
    number: int


class Sparse(Struct, omit_defaults=True):
    sure: int
    maybe: str = ""
    unset: int | UnsetType = UNSET


class Nothing(Struct):
    pass


Odd = TypedDict("Odd", {"odd-key": int, 'with"quote': str, "constructor": bool, "class": NotRequired[int]})


@dataclass
class Score:
    user: str
    points: dict[str, int] = field(default_factory=dict)


class Item(pydantic.BaseModel):
    """One */ item."""

    name: str = pydantic.Field(min_length=1)
    price: float = 0.0


class Order(pydantic.BaseModel):
    items: list[Item]
    by: Literal["ann", "bob"] = "ann"
    note: str | None = None


class Node(pydantic.BaseModel):
    label: str = ""
    children: list[Node] = []


class Open(pydantic.BaseModel, extra="allow"):
    size: int


class Everything(Struct):
    """All scalars that JSON has no type for."""

    when: dt.datetime
    day: dt.date
    at: dt.time
    took: dt.timedelta
    id: uuid.UUID
    price: decimal.Decimal
    blob: bytes
    any: Any
    yes: bool
    none: None
    kinds: set[Literal["a", "b", 3]]
    frozen: frozenset[int]
    by_number: dict[int, str]


# Two classes of one name, one that is called as a room is, and one as what the language has.
Note = msgspec.defstruct("Note", [("text", str)], module="one")
OtherNote = msgspec.defstruct("Note", [("number", int)], module="two")


class Sends(Struct):
    sends: int


class Array(Struct):
    items: list[Sends]


EVERYTHING: Final = Everything(
    when=dt.datetime(2026, 1, 1, tzinfo=dt.UTC),
    day=dt.date(2026, 1, 1),
    at=dt.time(12),
    took=dt.timedelta(seconds=1),
    id=uuid.UUID(int=1),
    price=decimal.Decimal("1.5"),
    blob=b"blob",
    any=[1, {"b": None}],
    yes=True,
    none=None,
    kinds={"a"},
    frozen=frozenset({1}),
    by_number={1: "one"},
)

# The name of an event, the type of its data, and data.
SENT: Final[list[tuple[str, Any, Any]]] = [
    ("tree", Tree, Tree("root", [Tree("leaf")])),
    ('quo"ted.\\name', Circle | Square, Square(2.0)),
    ("shapes/all", list[Circle | Square], [Circle(), Square(1.0)]),
    ("mood", Mood, Mood.BAD),
    ("level", dict[str, Level], {"ann": Level.HIGH}),
    ("pair", Pair, Pair(1)),
    ("row", list[Row], [Row(1)]),
    ("page", Page[Tree], Page([Tree("one")])),
    ("page of pairs", Page[Pair], Page([Pair(1)], 2)),
    ("strict", Strict, Strict(1)),
    ("sparse", Sparse, Sparse(1)),
    ("odd~1name", Odd, {"odd-key": 1, 'with"quote': "x", "constructor": True}),
    ("score", Score, Score("ann")),
    ("item", Item, Item(name="pen")),
    ("order", Order, Order(items=[Item(name="pen")])),
    ("node", Node, Node(children=[Node()])),
    ("more", Open, Open.model_validate({"size": 1, "more": "things"})),
    ("everything", Everything, EVERYTHING),
    ("note", Note, Note("hi")),
    ("other note", OtherNote, OtherNote(1)),
    ("sends", Array, Array([Sends(1)])),
    ("maybe", Strict | None, None),
    ("number", Annotated[int, Meta(ge=0)], 5),
    ("literal", Literal["a", 1, None], 1),
    ("nothing", None, UNSET),
    ("empty", Nothing, Nothing()),
    ("anything", Any, {"at": "all"}),
    ("ünïcode ✓", str, "line\nbreak \u2028 </script>"),
    ("tuple", tuple[int, ...], (1, 2)),
    ("no places", tuple[()], ()),
    ("constructor", dict[str, Any], {"a": None}),
]

# The name of an event, the type that is taken, and JSON that fits.
TAKEN: Final[list[tuple[str, Any, str]]] = [
    ("tree", Tree, '{"name": "root", "children": [{"name": "leaf"}]}'),
    ("shape", Circle | Square, '{"shape": "circle"}'),
    ("pair", Pair, "[1]"),
    ("row", Row, "[1]"),
    ("page", Page[Strict], '{"pageItems": [{"number": 1}]}'),
    ("sparse", Sparse, '{"sure": 1}'),
    ("odd", Odd, '{"odd-key": 1, "with\\"quote": "x", "constructor": true}'),
    ("score", Score, '{"user": "ann"}'),
    ("order", Order, '{"items": [{"name": "pen"}]}'),
    ("node", Node, "{}"),
    ("level", Level, "1"),
    ("nothing", Nothing, "{}"),
    ("any", Any, "[1]"),
    ("none", None, "null"),
    ("constructor", str, '"x"'),
]

sends = define_room("sends", websocket_path="/sends/{room}")
takes = define_room("takes", websocket_path="/takes")
# Names that make poor identifiers, and are alike.
others = [
    define_room(name, websocket_path=f"/other/{number}") for number, name in enumerate(["2048", "Sends", "a.b-c"])
]
ROOMS: Final = [sends, takes, *others]

for _name, _kind, _data in SENT:
    sends.event(_name, _kind)


def _handler(kind: Any) -> Any:
    def handle(ctx: Context, data: Any) -> None:
        """Take it.

        And more */ text.
        """

    handle.__annotations__["data"] = kind
    return handle


for _name, _kind, _text in TAKEN:
    takes.on(_name)(_handler(_kind))


@takes.on("answer")
async def answer(ctx: Context, data: Literal["one"]) -> Tree | int:
    return 5


@takes.on("answer")
def answer_too(ctx: Context, data: str) -> list[Order]:
    return []


@others[0].on("*")
def whatever(ctx: Context, data: Any) -> None: ...


@others[0].on("some")
def some(ctx: Context, data: Strict) -> Item:
    return Item(name="pen")


@others[2].event("close")
class Close(Struct):
    code: int

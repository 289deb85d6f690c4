"""Schemas of what is taken and what is sent: of one class there may be two."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, Literal, NamedTuple, TypeVar

import msgspec
import pydantic
import pytest
from msgspec import UNSET, Struct, UnsetType

from verani.misfits import misfit
from verani.schemas import describe, describe_both, resolved

T = TypeVar("T")


class Inner(Struct):
    count: int = 0


class Outer(Struct):
    inner: Inner
    name: str


class Plain(Struct):
    name: str


class Page(Struct, Generic[T]):
    items: list[T]
    next: str | None = None


class Pair(NamedTuple):
    left: int
    right: int = 0


class Row(Struct, array_like=True):
    left: int
    right: int = 0


class Empty(Struct):
    pass


class Tagged(Struct, tag=True):
    choice: Literal["a", "b"] = "a"
    count: int = 0


class OtherTagged(Struct, tag=True):
    pass


class Choice(Struct, omit_defaults=True):
    sure: str
    maybe: str = ""
    unset: int | UnsetType = UNSET


class Item(pydantic.BaseModel):
    name: str
    price: float = 0.0


class Order(pydantic.BaseModel):
    items: list[Item]


class Node(pydantic.BaseModel):
    children: list[Node] = []


class Uncallable(pydantic.BaseModel):
    back: Callable[[], int]


def components_of(*types: Any, sent: bool) -> dict[str, Any]:
    return describe(types, sent=sent)[1]


def test_what_has_a_default_may_be_left_out_by_who_sends_to_a_room_and_is_always_sent_by_it() -> None:
    assert components_of(Outer, sent=False)["Inner"]["required"] == []
    assert components_of(Outer, sent=True)["Inner"]["required"] == ["count"]
    assert components_of(Page[Inner], sent=False)["Page_Inner_"]["required"] == ["items"]
    assert components_of(Page[Inner], sent=True)["Page_Inner_"]["required"] == ["items", "next"]
    for kind in (Pair, Row):
        assert components_of(kind, sent=False)[kind.__name__]["minItems"] == 1
        assert components_of(kind, sent=True)[kind.__name__]["minItems"] == 2


def test_what_a_class_does_not_write_is_not_always_sent() -> None:
    assert components_of(Choice, sent=True)["Choice"]["required"] == ["sure"]


def test_a_class_that_goes_both_ways_has_two_names_only_where_it_is_not_the_same() -> None:
    taken, sent, components = describe_both([Outer, Plain, list[Inner]], [Outer, Plain])
    assert sorted(components) == ["Inner", "Inner-Input", "Outer", "Outer-Input", "Plain"]
    assert [schema.get("$ref") for schema in sent] == ["#/components/schemas/Outer", "#/components/schemas/Plain"]
    assert taken[0] == {"$ref": "#/components/schemas/Outer-Input"}
    assert taken[1] == {"$ref": "#/components/schemas/Plain"}
    assert taken[2]["items"] == {"$ref": "#/components/schemas/Inner-Input"}
    assert components["Outer-Input"]["properties"]["inner"] == {"$ref": "#/components/schemas/Inner-Input"}
    assert components["Outer"]["properties"]["inner"] == {"$ref": "#/components/schemas/Inner"}


def test_a_class_that_goes_one_way_has_one_name() -> None:
    _, _, components = describe_both([Inner], [Plain])
    assert sorted(components) == ["Inner", "Plain"]


def test_models_are_components_with_what_they_refer_to() -> None:
    [order, item], components = describe([list[Order], Item], sent=True)
    assert order["items"] == {"$ref": "#/components/schemas/Order"}
    assert components["Order"]["properties"]["items"]["items"] == item == {"$ref": "#/components/schemas/Item"}
    assert components["Item"]["required"] == ["name", "price"]
    assert describe([Order])[1]["Item"]["required"] == ["name"]
    [node], components = describe([Node])
    assert components["Node"]["properties"]["children"]["items"] == node


def test_models_and_classes_of_one_name_do_not_get_mixed_up() -> None:
    fields: dict[str, Any] = {"items": (list[pydantic.create_model("Item", weight=(int, ...))], ...)}  # type: ignore[misc]
    other: Any = pydantic.create_model("Order", **fields)
    struct = msgspec.defstruct("Inner", [("model", pydantic.create_model("Inner", deep=(int, ...)))])
    [first, second, third], components = describe([Order, other, struct])
    for schema, keys in (first, {"name", "price"}), (second, {"weight"}):
        [items] = resolved(schema, components)["properties"].values()
        assert resolved(items["items"], components)["properties"].keys() == keys
    inner = resolved(third, components)["properties"]["model"]
    assert inner != third
    assert list(resolved(inner, components)["properties"]) == ["deep"]


def test_classes_of_one_full_name_are_described_as_far_as_they_can_be() -> None:
    def make(**fields: Any) -> type:
        return msgspec.defstruct("Same", list(fields.items()), module="m")

    schemas, components = describe([make(a=int), make(b=str), make(a=int)])
    described = [list(resolved(schema, components).get("properties", [])) for schema in schemas]
    # From 0.23 on, msgspec has a name for each.
    assert described in ([["a"], [], []], [["a"], ["b"], ["a"]])


@pytest.mark.parametrize("kind", [msgspec.Raw, object, Any])
def test_what_may_be_anything_says_nothing(kind: Any) -> None:
    assert describe([kind, int]) == ([{}, {"type": "integer"}], {})


def test_a_model_with_a_field_that_has_no_schema_is_some_object() -> None:
    [schema], _ = describe([Uncallable])
    assert schema["type"] == "object"


@pytest.mark.parametrize(
    ("kind", "value", "path"),
    [
        (list[Any], [{"any": {"thing": 1}}], None),
        (list[list[Inner]], [[{"count": 1}], [{}]], "$[1][0].count"),
        (Row, [1, 2], None),
        (Row, [1], "$[1]"),
        (Empty, {"more": 1}, "$.more"),
        (list[Pair], [[1, 2], [1]], "$[1][1]"),
        (Tagged | OtherTagged, {"type": "Tagged", "choice": "a"}, "$.count"),
        (Tagged | OtherTagged, {"type": "Tagged", "count": 0}, "$.choice"),
        (tuple[int, Inner], [1, {}], "$[1].count"),
        (Page[Inner], {"items": [{"cuont": 1, "count": 1}], "next": None}, "$.items[0].cuont"),
        (dict[str, Any] | int, {"any": {"thing": 1}}, None),
        (list[Inner] | Plain, {"name": "x", "more": 1}, "$.more"),
        (list[Inner] | Plain, [{}], "$[0].count"),
        (Choice, {"sure": "x", "maybe": ""}, None),
    ],
)
def test_the_first_key_that_is_too_many_or_missing_is_found(kind: Any, value: Any, path: str | None) -> None:
    [schema], components = describe([kind], sent=True)
    found = misfit(schema, components, value)
    assert (found.path if found is not None else None) == path

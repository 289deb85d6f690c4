"""Pydantic models as types of payloads, arguments and results; and types that nobody would check."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Hashable, Mapping
from typing import Annotated, Any

import annotated_types
import msgspec
import pydantic
import pytest

from verani import ConnectionMeta, Context, DefinitionError, InvalidArguments, define_room
from verani.room.methods import Method
from verani.testing import RoomHarness


class Item(pydantic.BaseModel):
    name: str = pydantic.Field(min_length=1)
    price: float = pydantic.Field(default=1.0, gt=0, alias="unitPrice")


class Order(pydantic.BaseModel):
    items: list[Item]

    @pydantic.field_validator("items")
    @classmethod
    def not_too_many(cls, items: list[Item]) -> list[Item]:
        if len(items) > 2:
            raise ValueError("expected at most two items")
        return items


class Basket(msgspec.Struct):
    order: Order | None = None
    baskets: list[Basket] = []


@pydantic.dataclasses.dataclass
class Point:
    x: int


class Limits(msgspec.Struct):
    age: Annotated[int, annotated_types.Ge(18)]


class Unknown:
    """What nobody can make of JSON."""


shop = define_room("shop")


@shop.on("order")
def order(ctx: Context, data: Order) -> Item:
    ctx.emit("ordered", data)
    ctx.emit("first", {"item": data.items[0]})
    ctx.actor.broadcast("default", data.items[0])
    return data.items[0]


@shop.on("nested")
def nested(ctx: Context, data: dict[str, list[Item]] | None) -> int:
    return sum(isinstance(item, Item) for items in (data or {}).values() for item in items)


@shop.rpc
def cheapest(actor: Any, order: Order, basket: Basket | None = None, spare: Item = Item(name="spare")) -> Item:  # noqa: B008
    assert isinstance(spare, Item)
    assert basket is None or isinstance(basket.order, Order)
    return min([*order.items, spare], key=lambda item: item.price)


async def test_models_are_validated_where_they_come_in_and_dumped_where_they_go_out() -> None:
    async with RoomHarness(shop) as room:
        ann = await room.connect(user_id="ann")
        item = {"name": "tea", "unitPrice": 2.5}
        assert await ann.request("order", {"items": [{"name": "tea", "unitPrice": "2.5"}]}) == item
        first, second, third = (event.data for event in ann.take())
        assert first == {"type": "ordered", "items": [item]}
        assert second == {"type": "first", "item": item}
        assert third == item
        assert await ann.request("nested", {"a": [item, item], "b": []}) == 2
        assert await ann.request("nested", None) == 0


@pytest.mark.parametrize(
    ("event", "payload", "path"),
    [
        ("order", {}, "$.items"),
        ("order", {"items": [{"name": "tea"}, {"name": ""}]}, "$.items[1].name"),
        ("order", {"items": [{"name": "tea", "unitPrice": 0}]}, "$.items[0].unitPrice"),
        ("order", {"items": [{"name": "a"}] * 3}, "$.items"),
        ("order", 5, None),
        ("nested", {"a": [{"name": "tea"}, {}]}, "$[...][1].name"),
    ],
)
async def test_a_payload_that_does_not_fit_a_model_is_refused_and_the_place_is_named(
    event: str, payload: object, path: str | None
) -> None:
    async with RoomHarness(shop) as room:
        ann = await room.connect(user_id="ann")
        with pytest.raises(InvalidArguments) as refused:
            await ann.request(event, payload)
        assert refused.value.path == path
        assert refused.value.public is None


async def test_arguments_and_results_of_calls_are_models() -> None:
    tea, gold = {"name": "tea", "unitPrice": 0.5}, {"name": "gold", "unitPrice": 900}
    async with RoomHarness(shop) as room:
        found = await room.call("cheapest", {"items": [tea, gold]})
        assert found == Item(name="tea", unitPrice=0.5)
        assert await room.call("cheapest", order=Order(items=[]), basket={"order": {"items": []}}) == Item(name="spare")
        assert await room.call("cheapest", Order(items=[]), spare=None) == Item(name="spare")
        for arguments, path in (
            ({"order": {"items": [{}]}}, "$.order.items[0].name"),
            ({"order": {"items": []}, "basket": {"baskets": [{"order": {}}]}}, "$.basket.baskets[0].order.items"),
        ):
            with pytest.raises(InvalidArguments) as refused:
                await room.call("cheapest", **arguments)
            assert refused.value.path == path
            assert "\n" not in str(refused.value)


UNCHECKED: list[Any] = [
    Unknown,
    list[Unknown],
    dict[str, Unknown | None],
    complex,
    Callable[[], None],
    Point,
    list[Point],
    Annotated[int, pydantic.Field(gt=0)],
    list[Annotated[int, pydantic.Field(gt=0)]],
    Limits,
]


@pytest.mark.parametrize("annotation", UNCHECKED)
def test_a_type_that_nobody_would_check_is_refused_in_one_sentence(annotation: Any) -> None:
    def handler(ctx: Any, data: Any) -> None:
        """Do nothing."""

    def method(actor: Any, data: Any) -> None:
        """Do nothing."""

    def result(actor: Any) -> Any:
        """Do nothing."""

    handler.__annotations__["data"] = method.__annotations__["data"] = result.__annotations__["return"] = annotation
    for register in (
        lambda: define_room("chat").on("x")(handler),
        lambda: Method("method", method),
        lambda: Method("result", result),
    ):
        with pytest.raises(DefinitionError, match="nobody would check .*; expected types of msgspec") as refused:
            register()
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "annotation", [object, Hashable, Mapping[str, Any], Basket, Order, msgspec.Raw, list[Order | None]]
)
def test_types_that_are_checked_or_may_be_anything_pass(annotation: Any) -> None:
    def handler(ctx: Any, data: Any) -> None:
        """Do nothing."""

    handler.__annotations__["data"] = annotation
    define_room("chat").on("x")(handler)


def test_a_meta_with_fields_that_an_attachment_cannot_hold_is_refused_when_the_definition_is_checked() -> None:
    class Strange(ConnectionMeta, kw_only=True):
        item: Item | None = None

    with pytest.raises(DefinitionError, match="chat: meta= Strange: nobody could read .*Item.* back"):
        define_room("chat", meta=Strange).check()


def test_pydantic_is_not_imported_by_us() -> None:
    program = "import sys, verani, verani.testing, verani_gateway; assert 'pydantic' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)

"""The rules for methods: what may be one, what fits its arguments, what is remembered of a call."""

from __future__ import annotations

import functools
from typing import Annotated, Any

import msgspec
import pytest
from msgspec import Meta

from verani import DefinitionError, InvalidArguments, define_room
from verani.room.methods import BUILT_IN, Method


class Ban(msgspec.Struct):
    user_id: str
    days: Annotated[int, Meta(ge=1)] = 7


async def ban(actor: Any, ban: Ban, notify: bool = False, tags: list[str] = []) -> dict[str, int]:  # noqa: B006
    return {ban.user_id: ban.days}


def plain(actor, a, *, b=None):  # type: ignore[no-untyped-def]
    return a


BAN = Method("ban", ban)


@pytest.mark.parametrize(
    ("payload", "arguments"),
    [
        (b'{"ban":{"user_id":"ada"}}', {"ban": Ban("ada")}),
        (b'{"notify":true,"ban":{"user_id":"ada","days":2}}', {"ban": Ban("ada", 2), "notify": True}),
        (b'[{"user_id":"ada"}]', {"ban": Ban("ada")}),
        (b' [{"user_id":"ada"},true,["x"]]', {"ban": Ban("ada"), "notify": True, "tags": ["x"]}),
        (b'{"notify":null,"ban":{"user_id":"ada"},"tags":null}', {"ban": Ban("ada")}),
        (b'[{"user_id":"ada"},null,["x"]]', {"ban": Ban("ada"), "tags": ["x"]}),
        (
            b'{"ban":{"user_id":"a\\ud83d"},"tags":["\\uDE00","\\\\ud83d"]}',
            {"ban": Ban("a\ufffd"), "tags": ["\ufffd", "\\ud83d"]},
        ),
    ],
)
def test_arguments_come_by_name_or_by_position_and_defaults_are_the_functions_own(
    payload: bytes, arguments: dict[str, Any]
) -> None:
    assert BAN.decode(payload) == arguments


@pytest.mark.parametrize(
    ("payload", "path"),
    [
        (b"{}", "$.ban"),
        (b'{"ban":{"days":2}}', "$.ban.user_id"),
        (b"[]", None),
        (b'{"ban":{"user_id":"ada","days":0}}', "$.ban.days"),
        (b'{"ban":{"user_id":5}}', "$.ban.user_id"),
        (b'[{"user_id":5}]', "$[0].user_id"),
        (b'{"ban":{"user_id":"ada"},"except_":["c1"]}', "$.except_"),
        (b'[{"user_id":"ada"},true,[],1]', None),
        (b'{"ban":null}', "$.ban"),
        (b'{"ban":{"user_id":"\\ud8"}}', None),
        (b"3", None),
        (b"", None),
        (b"{", None),
        (b'{"ban":NaN}', None),
        (b'{"ban":' + b"[" * 5000 + b"]" * 5000 + b"}", "$.ban"),
        (b"\xff", None),
        (b'[{"user_id":"ada","\x80ays":2},true]', None),
    ],
)
def test_arguments_that_do_not_fit_are_refused_and_the_place_is_named(payload: bytes, path: str | None) -> None:
    with pytest.raises(InvalidArguments) as refused:
        BAN.decode(payload)
    assert refused.value.path == path
    assert str(refused.value)


def test_null_is_null_where_an_argument_may_be_null() -> None:
    assert Method("plain", plain).decode(b'{"a":null,"b":null}') == {"a": None, "b": None}
    filters = {"channel": "c", "data": None, "user_ids": None}
    assert BUILT_IN["broadcast"].decode(msgspec.json.encode(filters)) == filters


def test_arguments_are_no_deeper_than_frames_may_be() -> None:
    method = Method("plain", plain)
    assert method.decode(b'{"a":' + b"[" * 63 + b"]" * 63 + b"}")
    with pytest.raises(InvalidArguments, match="64 nested"):
        method.decode(b'{"a":' + b"[" * 64 + b"]" * 64 + b"}")


def _by_name_only(actor: Any, first: int = 0, *, a: int = 1, b: int) -> None: ...


def test_arguments_that_are_given_by_name_only_are_no_positions() -> None:
    method = Method("method", _by_name_only)
    assert method.decode(b'{"b":2}') == {"b": 2}
    assert method.decode(b'{"b":2,"a":3,"first":4}') == {"first": 4, "a": 3, "b": 2}
    with pytest.raises(InvalidArguments, match="b are given by name only"):
        method.decode(b"[1]")


def test_a_result_must_be_what_was_annotated() -> None:
    assert BAN.encode({"ada": 7}) == b'{"ada":7}'
    with pytest.raises(TypeError, match="result of rpc ban: Expected `int`, got `str`"):
        BAN.encode({"ada": "seven"})
    with pytest.raises(TypeError, match="result of rpc ban"):
        BAN.encode(object())
    with pytest.raises(TypeError, match="an await is missing"):
        BAN.encode(ban(None, Ban("ada")))
    assert Method("plain", plain).encode(None) == b"null"


def _positional_only(actor: Any, a: int, /) -> None: ...
def _many(actor: Any, *a: int) -> None: ...
def _named(actor: Any, **a: int) -> None: ...
def _timeout(actor: Any, timeout: float) -> None: ...
def _nobody() -> None: ...
def _only_named(*, actor: Any) -> None: ...
def _unknown_type(actor: Any, a: Nowhere) -> None: ...  # type: ignore[name-defined]  # noqa: F821
async def _many_results(actor: Any) -> Any:
    yield 1


def _some_results(actor: Any) -> Any:
    yield 1


def _undecodable(actor: Any, a: type[int] | memoryview | int) -> None: ...


@pytest.mark.parametrize(
    "function",
    [
        _positional_only,
        _many,
        _named,
        _many_results,
        _some_results,
        _timeout,
        _nobody,
        _only_named,
        _unknown_type,
        _undecodable,
        5,
        print,
    ],
    ids=lambda function: getattr(function, "__name__", repr(function)),
)
def test_a_function_that_json_cannot_serve_is_no_method(function: Any) -> None:
    with pytest.raises(DefinitionError, match="expected"):
        Method("method", function)


@pytest.mark.parametrize("name", ["_private", "__init__", "call", "", "no name", *BUILT_IN])
def test_names_that_are_taken_or_private_are_refused_at_definition(name: str) -> None:
    def function(actor: Any) -> None: ...

    function.__name__ = name
    with pytest.raises(DefinitionError):
        define_room("chat").rpc(function)


def test_a_method_is_given_once_and_returned_unchanged() -> None:
    room = define_room("chat")
    assert room.rpc(ban) is ban
    with pytest.raises(DefinitionError, match="given twice"):
        room.rpc(ban)
    with pytest.raises(DefinitionError):
        room.rpc(functools.partial(ban, notify=True))

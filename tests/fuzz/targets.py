"""What must hold of every decoder that strangers' bytes reach, whatever the bytes.

A target takes one payload, raises AssertionError if a promise is broken, lets every undocumented exception through,
and says whether the payload was accepted.
"""

from __future__ import annotations

import datetime
import decimal
import json
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec
from hypothesis import strategies as st
from msgspec import UNSET, Meta, Struct

from verani import ConnectionMeta, InvalidArguments, TooLarge
from verani.frames import (
    MAX_DEPTH,
    InvalidFrame,
    NotUtf8,
    ack_frame,
    decode_data,
    encode,
    event_frame,
    named_event_frame,
    scan,
)
from verani.names import is_name, well_formed
from verani.room.meta import AttachmentCodec, AttachmentError
from verani.room.methods import BUILT_IN, Method

from . import inputs

__all__ = ["MAX_SECONDS", "TARGETS", "Target", "check"]

# CPU time that one payload of at most a few ten thousand bytes may take.
MAX_SECONDS = 0.25


@dataclass(frozen=True, slots=True)
class Target:
    """One decoder, and what it is given."""

    name: str
    accepts: Callable[[bytes], bool]
    payloads: st.SearchStrategy[bytes]


def check(target: Target, payload: bytes) -> bool:
    """Give a payload to a target, within the time it may take."""
    began = time.thread_time()
    try:
        accepted = target.accepts(payload)
        took = time.thread_time() - began
        assert took < MAX_SECONDS, f"{took:.3f} s of CPU"
    except Exception as error:
        error.add_note(f"{target.name}, payload of {len(payload)} bytes: {payload[:2000]!r}")
        raise
    return accepted


# --- JSON ----------------------------------------------------------------------------------------------------


def _no_constant(text: str) -> None:
    raise ValueError(f"{text} is no JSON")


def strict(payload: bytes) -> Any:
    """Read JSON as the standard has it; numbers as their text, so that none is too large. Last of equal keys wins."""
    return json.loads(payload, parse_constant=_no_constant, parse_int=str, parse_float=str)


def depth_of(value: Any) -> int:
    """Count nested arrays and objects, without recursion."""
    deepest, todo = 0, [(value, 0)]
    while todo:
        each, depth = todo.pop()
        if isinstance(each, dict | list):
            depth += 1
            todo += [(inner, depth) for inner in (each.values() if isinstance(each, dict) else each)]
        deepest = max(deepest, depth)
    return deepest


def _is_utf8(payload: bytes) -> bool:
    try:
        payload.decode()
    except UnicodeDecodeError:
        return False
    return True


def _is_short(error: Exception) -> bool:
    """Check that an error may be logged or sent to the caller: it does not repeat the whole payload."""
    assert len(str(error)) < 1000
    return False


def _travels(value: Any) -> None:
    """Check that a decoded value can be sent on inside every envelope of ours."""
    encoded = encode(value)
    plain = strict(encoded)
    assert strict(event_frame("news", encoded)) == {"type": "event", "channel": "news", "data": plain}
    assert strict(ack_frame(1, value))["data"] == plain
    if isinstance(plain, dict) and "type" in plain:
        return
    named = strict(named_event_frame("news", "said", value))["data"]
    expected = {"type": "said", **plain} if isinstance(plain, dict) else {"type": "said", "value": plain}
    assert named == expected


# --- frames --------------------------------------------------------------------------------------------------


class Point(Struct):
    x: int
    label: Annotated[str, Meta(max_length=10)] = ""


class Shape(Struct, tag="square", forbid_unknown_fields=True):
    side: float
    parts: list[Shape] = []


# What a handler may have annotated its data with.
_TYPES: tuple[Any, ...] = (
    *(int, str, bool, float, None, bytes, list[int], dict[str, int], tuple[int, str], frozenset[str], dict[int, Any]),
    *(datetime.datetime, datetime.timedelta, datetime.date, datetime.time, uuid.UUID, decimal.Decimal),
    *(Point, Shape, Point | None, list[Point | int], Literal["a", "b", 1], msgspec.Raw),
    *(Annotated[int, Meta(ge=0, lt=100, multiple_of=5)], Annotated[str, Meta(pattern=r"^[a-z]+$")]),
)
_DECODERS = tuple(msgspec.json.Decoder(each) for each in _TYPES)


def accepts_frame(payload: bytes) -> bool:
    try:
        frame = scan(payload)
    except NotUtf8:
        assert not _is_utf8(payload)
        return False
    except InvalidFrame:
        assert _is_utf8(payload)
        return False
    assert is_name(frame.type)
    data = None if frame.data is UNSET else bytes(frame.data)
    if data == b"[" * 65 + b"]" * 65:  # stands for what no parser gets through
        assert _is_refused(data)
        return False
    plain = strict(payload)
    assert frame.type == well_formed(plain["type"])
    assert frame.channel == (None if plain.get("channel") is None else well_formed(plain["channel"]))
    assert ("data" in plain) == (frame.data is not UNSET)
    if frame.id is not None:
        assert 1 <= frame.id < 2**53
        assert plain["id"] == str(frame.id)
    for decoder in _DECODERS:
        try:
            value = decode_data(data, decoder)
        except (InvalidFrame, msgspec.ValidationError):
            continue
        strict(encode(value))
    try:
        value = decode_data(data)
    except InvalidFrame:
        return False
    assert depth_of(value) < MAX_DEPTH
    _travels(value)
    return True


def _is_refused(data: bytes) -> bool:
    try:
        decode_data(data)
    except InvalidFrame:
        return True
    return False


# --- attachments ---------------------------------------------------------------------------------------------


class Player(ConnectionMeta, kw_only=True):
    score: int = 0
    tags: list[str] = []
    seen: datetime.datetime | None = None
    any: Any = None


_PLAYERS = (
    Player(user_id="ann", client_id="c1"),
    Player(
        user_id="ü" * 50,
        client_id="c2",
        channels=("a", "b"),
        score=-5,
        tags=["x", ""],
        seen=datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC),
        any={"a": [1, None, 2.5, b"x"]},
    ),
)
_codec = AttachmentCodec("chat", Player, 1, 16384)


def accepts_attachment(attachment: bytes) -> bool:
    try:
        meta = _codec.decode(attachment)
    except AttachmentError as error:
        return _is_short(error)
    assert type(meta) is Player
    assert (type(meta.user_id), type(meta.client_id), type(meta.channels)) == (str, str, tuple)
    again = _codec.encode(meta)
    assert _codec.encode(_codec.decode(again)) == again
    assert _codec.encode(_codec.copy(meta)) == again
    try:
        _codec.check(again)
    except TooLarge:
        assert len(again) > 16384
    return True


# --- calls ---------------------------------------------------------------------------------------------------


class Ban(Struct):
    user_id: str
    days: Annotated[int, Meta(ge=1)] = 7


def ban(
    actor: Any, ban: Ban, notify: bool = False, tags: tuple[str, ...] = (), when: datetime.datetime | None = None
) -> None:
    """Take what methods of applications take."""


def anything(actor: Any, data: Any, user_id: str = "", notify: float = 0.0) -> None:
    """Take anything."""


_METHODS = (Method("ban", ban), Method("anything", anything), *BUILT_IN.values())


def accepts_arguments(payload: bytes) -> bool:
    accepted = False
    for method in _METHODS:
        try:
            arguments = method.decode(payload)
        except InvalidArguments as error:
            _is_short(error)
            continue
        accepted = True
        # Of a key that a type does not know, msgspec does not even read the text: it need not be UTF-8.
        plain = strict(payload.decode(errors="replace").encode())
        assert depth_of(plain) <= MAX_DEPTH
        assert arguments.keys() <= method.signature.parameters.keys()
        nulls = sum(value is None for value in (plain.values() if isinstance(plain, dict) else plain))
        assert len(plain) - nulls <= len(arguments) <= len(plain)
        for value in arguments.values():
            _travels(value)
        # As a stub sends it, it is the same call.
        assert encode(method.decode(encode(arguments))) == encode(arguments)
    return accepted


TARGETS = (
    Target("frames", accepts_frame, inputs.frames()),
    Target("attachments", accepts_attachment, inputs.attachments(tuple(map(_codec.encode, _PLAYERS)))),
    Target("arguments", accepts_arguments, inputs.arguments()),
)

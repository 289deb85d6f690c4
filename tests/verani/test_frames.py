"""Frames byte for byte: what a client may say, and what it hears."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from msgspec import UNSET

from verani.frames import (
    MAX_DEPTH,
    PONG,
    InvalidFrame,
    NotUtf8,
    ScannedFrame,
    ack_frame,
    decode_data,
    encode,
    error_ack_frame,
    event_frame,
    named_event_frame,
    scan,
)
from verani.names import is_name


@dataclass
class Point:
    x: int


class Shape(msgspec.Struct, tag="square"):
    side: float


def as_tuple(frame: ScannedFrame) -> tuple[Any, ...]:
    return frame.type, None if frame.data is UNSET else bytes(frame.data), frame.channel, frame.id


# --- what a client may say -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        (b'{"type":"a"}', ("a", None, None, None)),
        (b' {"type" : "a"}\n', ("a", None, None, None)),
        (b'{"type":""}', ("", None, None, None)),
        (b'{"type":"a","data":null}', ("a", b"null", None, None)),
        (b'{"type":"a","data":0}', ("a", b"0", None, None)),
        (b'{"type":"a","data":""}', ("a", b'""', None, None)),
        (b'{"type":"a","data":false}', ("a", b"false", None, None)),
        (b'{"type":"a","data": { "x" : [1, 2] }}', ("a", b'{ "x" : [1, 2] }', None, None)),
        (b'{"data":1,"channel":"news","id":5,"type":"a"}', ("a", b"1", "news", 5)),
        (b'{"type":"a","id":1}', ("a", None, None, 1)),
        (b'{"type":"a","id":9007199254740991}', ("a", None, None, 2**53 - 1)),
        (b'{"type":"a","seq":1,"epoch":"x","more":[{}]}', ("a", None, None, None)),
        (b'{"type":"a","type":"b","data":1,"data":2}', ("b", b"2", None, None)),
        ('{"type":"é","channel":"日本"}'.encode(), ("é", None, "日本", None)),
        (b'{"type":"\\u00e9\\ud83d\\ude00"}', ("é😀", None, None, None)),
        (b'{"type":"a","channel":null,"id":null}', ("a", None, None, None)),
        (b'{"type":"\\ud800","channel":"x\\uDFff"}', ("\ufffd", None, "x\ufffd", None)),
        (b'{"\\u0074ype":"a"}', ("a", None, None, None)),
    ],
)
def test_a_valid_frame_is_scanned_and_its_data_left_as_it_came(payload: bytes, expected: tuple[Any, ...]) -> None:
    assert as_tuple(scan(payload)) == expected


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b" ",
        b"null",
        b"5",
        b'"type"',
        b"[]",
        b'[{"type":"a"}]',
        b"{}",
        b'{"data":1}',
        b'{"type":null}',
        b'{"type":5}',
        b'{"type":["a"]}',
        b'{"Type":"a"}',
        b'{"type":"a"',
        b'{"type":"a"}}',
        b'{"type":"a"}{"type":"a"}',
        b"{'type':'a'}",
        b'{"type":"a",}',
        b'{"type":"a","data":}',
        b'{"type":"a","data":undefined}',
        b'{"type":"a","data":NaN}',
        b'{"type":"a","data":Infinity}',
        b'{"type":"a","data":01}',
        b'{"type":"a","data":"\n"}',
        b'\xef\xbb\xbf{"type":"a"}',
        b'{"type":"a","channel":5}',
        b'{"type":"a\\n"}',
        b'{"type":"a\\u0000"}',
        b'{"type":"a","channel":"\\u202e"}',
        b'{"type":"\\ud80"}',
        b'{"type":"a","data":"\\ud80g"}',
        b'{"type":"a","data":"\\ud800',
        b'{"type":"%b"}' % (b"x" * 256),
        b'{"type":"a","channel":"%b"}' % (b"x" * 256),
        b"[" * 100_000,
        b'{"type":"a","data":' + b"[" * 100_000 + b"]" * 99_999 + b"}",
        b'{"type":5,"data":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    ],
)
def test_anything_else_is_an_invalid_frame(payload: bytes) -> None:
    with pytest.raises(InvalidFrame) as caught:
        scan(payload)
    assert not isinstance(caught.value, NotUtf8)


@pytest.mark.parametrize(
    "id", ["0", "-1", "1.0", "1e0", "1.5", "9007199254740992", "1" * 400, "true", '"1"', "[1]", "{}"]
)
def test_a_malformed_id_makes_an_invalid_frame(id: str) -> None:
    with pytest.raises(InvalidFrame):
        scan(b'{"type":"a","id":%b}' % id.encode())


@pytest.mark.parametrize(
    "payload",
    [
        b"\xff",
        b'{"type":"\xff"}',
        b'{"type":"a","data":"\xc3"}',
        b'{"type":"a","data":"\xed\xa0\x80"}',  # a surrogate, which UTF-8 may not hold
        b'{"type":"a","data":"\xc0\xaf"}',  # an overlong form
        b'{"type":"a","more":"\xf5\x80\x80\x80"}',
        b"not even json \x80",
    ],
)
def test_bytes_that_are_not_utf_8_are_told_apart(payload: bytes) -> None:
    with pytest.raises(NotUtf8):
        scan(payload)


def read(payload: bytes) -> Any:
    """Decode the data of a frame, as a room does."""
    return decode_data(bytes(scan(payload).data))  # type: ignore[arg-type]  # it has data


def nested(depth: int, inner: bytes = b"", opening: bytes = b"[", closing: bytes = b"]") -> bytes:
    """Build a frame whose deepest array or object is at this depth; the frame itself is the first."""
    return b'{"type":"a","data":' + opening * (depth - 1) + inner + closing * (depth - 1) + b"}"


@pytest.mark.parametrize(
    ("opening", "closing", "inner"), [(b"[", b"]", b""), (b'{"k":', b"}", b"1"), (b'[1,{"k":[2,', b"]},3]", b"4")]
)
def test_64_nested_arrays_and_objects_pass_and_65_do_not(opening: bytes, closing: bytes, inner: bytes) -> None:
    each = opening.count(b"[") + opening.count(b"{")
    fits = 1 + (MAX_DEPTH - 1) // each
    assert (fits - 1) * each + 1 == MAX_DEPTH
    read(nested(fits, inner, opening, closing))
    with pytest.raises(InvalidFrame, match="at most 64 nested"):
        read(nested(fits, b"[" + (inner or b"1") + b"]", opening, closing))


@pytest.mark.parametrize("depth", [MAX_DEPTH, 900, 30_000])
def test_the_envelope_of_a_frame_with_data_too_deep_for_any_parser_is_read_for_the_room_to_refuse(depth: int) -> None:
    deep = b'[{"k\\"]\\\\":["]",' * (depth // 2) + b"1" + b"]}]" * (depth // 2)
    for payload in (
        b'{"type":"a","data":%b,"id":7,"channel":"c"}' % deep,
        b' {"id":7,"data":[[],%b,[1]],"type":"a\\ud83d","channel":"c"}\n' % deep,
        b'{"id":7,"more":[[%b],{"x":%b}],"data":%b,"channel":"c","type":"a","x":"]}{"}' % (deep, deep, deep),
    ):
        frame = scan(payload)
        assert (frame.type[:1], frame.id, frame.channel) == ("a", 7, "c")
        with pytest.raises(InvalidFrame, match="at most 64 nested"):
            read(payload)


def test_what_is_too_deep_for_any_parser_never_reaches_a_room_as_something_else() -> None:
    deep = b"[" * 3000 + b"]" * 3000
    for payload in (
        b'{"type":"a","data":1,"more":%b}' % deep,
        b'{"more":%b,"data":[1],"x":{},"type":"a"}' % deep,
        b'{"more":%b,"type":"a"}' % deep,
    ):
        with pytest.raises(InvalidFrame, match="at most 64 nested"):
            read(payload)


def test_the_depth_of_what_no_room_is_given_does_not_count() -> None:
    assert read(b'{"type":"a","data":1,"more":%b%b}' % (b"[" * MAX_DEPTH, b"]" * MAX_DEPTH)) == 1


@pytest.mark.parametrize(
    "text", ["[" * 200, '"[' * 100, "\\[" * 100, '\\"{[' * 100, "}{" * 200, "\\" * 200 + "[" * 100, '"' * 99 + "[" * 99]
)
def test_brackets_inside_strings_do_not_count(text: str) -> None:
    read(json.dumps({"type": "a", "data": [text, {text: text}]}).encode())
    deepest = json.dumps([text]).encode()
    read(nested(MAX_DEPTH - 1, deepest))
    with pytest.raises(InvalidFrame):
        read(nested(MAX_DEPTH, deepest))


@pytest.mark.parametrize("text", [b"\\\\", b'\\"', b'\\\\\\"', b"x\\\\\\\\", b"\\u005c"])
def test_an_escape_at_the_end_of_a_string_hides_no_brackets_behind_it(text: bytes) -> None:
    for depth, passes in ((MAX_DEPTH - 2, True), (MAX_DEPTH - 1, False)):
        payload = b'{"type":"a","data":["%b",%b%b,"%b"]}' % (text, b"[" * depth, b"]" * depth, text)
        json.loads(payload)
        if passes:
            read(payload)
        else:
            with pytest.raises(InvalidFrame, match="at most 64 nested"):
                read(payload)


def test_many_arrays_beside_each_other_are_not_deep() -> None:
    read(b'{"type":"a","data":[' + b",".join([b"[[]]"] * 5000) + b"]}")


# --- properties of the scan ----------------------------------------------------------------------------

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=15,
)


@given(st.binary(max_size=300))
def test_arbitrary_bytes_never_raise_anything_but_invalid_frame(payload: bytes) -> None:
    try:
        frame = scan(payload)
    except InvalidFrame:
        return
    assert is_name(frame.type)


def usv(value: Any) -> Any:
    return re.sub("[\ud800-\udfff]", "\ufffd", value) if isinstance(value, str) else value


@given(st.data())
def test_mutated_frames_never_raise_anything_but_invalid_frame(data: st.DataObject) -> None:
    whole = {"type": data.draw(texts), "data": data.draw(values), "id": data.draw(st.integers(-1, 2**54))}
    payload = bytearray(json.dumps(whole, ensure_ascii=data.draw(st.booleans())).encode())
    for _ in range(data.draw(st.integers(0, 5))):
        position = data.draw(st.integers(0, len(payload)))
        match data.draw(st.sampled_from(["insert", "delete", "copy"])):
            case "insert":
                payload[position:position] = data.draw(
                    st.sampled_from([b'"', b"\\", b"[", b"}", b"\xff", b"e9", b"\\u", b","])
                )
            case "delete":
                del payload[position : position + data.draw(st.integers(1, 5))]
            case _:
                payload[position:position] = payload[: data.draw(st.integers(0, 30))]
    try:
        frame = scan(bytes(payload))
    except InvalidFrame:
        return
    found = json.loads(bytes(payload))
    assert (usv(found["type"]), usv(found.get("channel")), found.get("id")) == (frame.type, frame.channel, frame.id)


def depth_of(value: object) -> int:
    match value:
        case dict():
            return 1 + max(map(depth_of, value.values()), default=0)
        case list():
            return 1 + max(map(depth_of, value), default=0)
        case _:
            return 0


@given(texts.filter(is_name), values, st.booleans(), st.integers(0, 80))
def test_a_generated_object_is_valid_if_its_depth_is_and_its_data_is_what_json_reads(
    type_: str, value: Any, escaped: bool, wrapped: int
) -> None:
    for _ in range(wrapped):
        value = [value]
    payload = json.dumps({"type": type_, "data": value}, ensure_ascii=escaped).encode()
    if 1 + depth_of(value) > MAX_DEPTH:
        with pytest.raises(InvalidFrame):
            read(payload)
        return
    frame = scan(payload)
    assert frame.type == type_
    assert isinstance(frame.data, msgspec.Raw)
    assert decode_data(bytes(frame.data)) == json.loads(payload)["data"] == value


# What escapes of a string are made of, those of cut emoji among them.
_pieces = st.lists(
    st.sampled_from(
        [r"\ud83d", r"\uDE00", r"\udE00", r"\uD83D", r"\\\\", r"\"", r"\u0041", r"\u005c", r"\n", "ud83d", "é"]
    )
)


@given(_pieces.map("".join))
def test_lone_surrogates_become_replacement_characters_wherever_they_are(text: str) -> None:
    payload = f'{{"type":"a","data":[{{"{text}":"{text}"}},"{text}"],"more":"{text}"}}'
    try:
        expected = json.loads(payload)["data"]
    except ValueError:
        return
    want = usv(expected[1])
    assert read(payload.encode()) == [{want: want}, want]


@given(_pieces.map("".join))
def test_what_hooks_send_with_lone_surrogates_arrives_with_replacement_characters(text: str) -> None:
    with_surrogates = re.sub(r"\\u([0-9a-fA-F]{4})", lambda found: chr(int(found[1], 16)), text)
    sent = {with_surrogates: [with_surrogates, (1, float("nan"), {"x": with_surrogates})]}
    want = with_surrogates.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    assert json.loads(encode(sent)) == {want: [want, [1, None, {"x": want}]]}
    assert json.loads(ack_frame(1, with_surrogates))["data"] == want
    assert json.loads(named_event_frame("c", "e", {"x": with_surrogates}))["data"] == {"type": "e", "x": want}


@given(st.text(max_size=40))
def test_data_that_is_no_json_for_python_is_none_for_us(text: str) -> None:
    """`json` takes NaN, Infinity and lone surrogates besides, which `JSON.parse` or UTF-8 does not."""
    try:
        raw = text.encode()
    except UnicodeEncodeError:
        assume(False)
    try:
        value = decode_data(raw)
    except InvalidFrame:
        return
    assert json.loads(raw) == value


# --- decoding data -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "raw", [b"1e999", b"-1e999", b"[1e999]", b"1" * 5000, b"9" * 310 + b".5", b'"\\ud800"', b"", b"nope", b"[" * 50_000]
)
@pytest.mark.parametrize("decoder", [None, msgspec.json.Decoder()])
def test_what_is_no_json_value_is_an_invalid_frame(raw: bytes, decoder: Any) -> None:
    with pytest.raises((InvalidFrame, msgspec.ValidationError) if decoder else InvalidFrame):
        decode_data(raw, decoder)


def test_the_scan_lets_numbers_pass_that_only_a_decoder_can_judge() -> None:
    for number in (b"1e999", b"1" * 5000):
        scan(b'{"type":"a","data":%b}' % number)


def test_absent_data_is_an_empty_object() -> None:
    assert decode_data(None) == {}


def test_data_that_does_not_fit_the_decoder_is_a_validation_error() -> None:
    decoder = msgspec.json.Decoder(list[int])
    assert decode_data(b"[1]", decoder) == [1]
    for raw in (b"{}", b'["1"]', None):
        with pytest.raises(msgspec.ValidationError):
            decode_data(raw, decoder)


@pytest.mark.parametrize("number", ["18446744073709551616", "-9223372036854775809", "0.1", "1e5", "-0.0"])
def test_numbers_keep_their_value(number: str) -> None:
    assert decode_data(number.encode()) == json.loads(number)


# --- what a client hears -------------------------------------------------------------------------------


def test_an_event_frame_has_its_keys_in_the_order_of_the_protocol() -> None:
    assert event_frame("default", b"[1]") == b'{"type":"event","channel":"default","data":[1]}'
    assert event_frame('é"\\', b"1") == '{"type":"event","channel":"é\\"\\\\","data":1}'.encode()


@pytest.mark.parametrize(
    ("data", "body"),
    [
        (UNSET, b'{"type":"e"}'),
        ({}, b'{"type":"e"}'),
        ({"b": 1, "a": 2}, b'{"type":"e","b":1,"a":2}'),
        ({"value": 1}, b'{"type":"e","value":1}'),
        ({1: 2, 1.5: 3}, b'{"type":"e","1":2,"1.5":3}'),
        (None, b'{"type":"e","value":null}'),
        ("abc", b'{"type":"e","value":"abc"}'),
        (["a"], b'{"type":"e","value":["a"]}'),
        ((), b'{"type":"e","value":[]}'),
        (False, b'{"type":"e","value":false}'),
        (float("nan"), b'{"type":"e","value":null}'),
        ({"x": float("inf"), "y": [float("-inf")]}, b'{"type":"e","x":null,"y":[null]}'),
        (Point(1), b'{"type":"e","x":1}'),
        ({"p": Point(1)}, b'{"type":"e","p":{"x":1}}'),
        (b"\x00", b'{"type":"e","value":"AA=="}'),
        (2**70, b'{"type":"e","value":1180591620717411303424}'),
    ],
)
def test_what_emit_sends(data: object, body: bytes) -> None:
    assert named_event_frame("c", "e", data) == b'{"type":"event","channel":"c","data":%b}' % body


@pytest.mark.parametrize("data", [{"a": 1, "type": "mine"}, {"type": None}, Shape(2.0)])
def test_a_type_inside_the_data_is_no_way_to_change_the_event(data: object) -> None:
    with pytest.raises(ValueError, match="without a 'type'"):
        named_event_frame("c", "e", data)


@given(texts, texts, values)
def test_what_emit_sends_is_the_spread_of_the_original(channel: str, event: str, data: Any) -> None:
    assume(not (isinstance(data, dict) and "type" in data))
    expected = {"type": event, **data} if isinstance(data, dict) else {"type": event, "value": data}
    frame = named_event_frame(channel, event, data)
    assert json.loads(frame) == {"type": "event", "channel": channel, "data": expected}
    assert list(json.loads(frame)["data"]) == list(expected)
    assert frame == event_frame(channel, encode(expected))


@pytest.mark.parametrize("data", [object(), {1, object()}, {(1,): 2}, {None: 1}, 1j])
def test_data_that_cannot_be_encoded_is_a_type_error(data: object) -> None:
    with pytest.raises(TypeError):
        encode(data)
    with pytest.raises(TypeError):
        named_event_frame("c", "e", data)


def test_what_a_client_hears_is_always_utf_8() -> None:
    for data in ("\ud800", {"\udc00": 1}, ["\udfff"]):
        assert "\ufffd" in encode(data).decode()
        assert "\ufffd" in named_event_frame("c", "e", data).decode()


def test_answers_byte_for_byte() -> None:
    assert ack_frame(1, None) == b'{"type":"ack","id":1,"data":null}'
    assert ack_frame(2**53 - 1, {"a": 0}) == b'{"type":"ack","id":9007199254740991,"data":{"a":0}}'
    assert error_ack_frame(7, "not_found") == b'{"type":"ack","id":7,"error":{"code":"not_found"}}'
    assert (
        error_ack_frame(7, "invalid", '$."é"')
        == '{"type":"ack","id":7,"error":{"code":"invalid","path":"$.\\"é\\""}}'.encode()
    )
    assert PONG == b'{"type":"pong"}'

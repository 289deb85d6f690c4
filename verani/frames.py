"""Read client frames and write server frames, byte for byte as the protocol has them.

A client frame is only scanned here: its `data` stays undecoded bytes until a room needs it.
What a WebSocket frame looks like is the gateway's business.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Callable
from functools import lru_cache
from itertools import accumulate
from types import NoneType
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from .errors import VeraniError
from .models import Unfit, encode_hook
from .names import MAX_NAME, is_name, well_formed

__all__ = [
    "PING",
    "PONG",
    "MAX_DEPTH",
    "Frame",
    "InvalidFrame",
    "NotUtf8",
    "ScannedFrame",
    "ack_frame",
    "decode_data",
    "decode_json",
    "encode",
    "error_ack_frame",
    "event_frame",
    "is_too_deep",
    "named_event_frame",
    "path_of",
    "scan",
]

T = TypeVar("T")

# The type that the gateway answers itself (protocol 13), and the exact answer.
PING = "ping"
PONG = b'{"type":"pong"}'

# Deep enough for any application, shallow enough for every decoder and every stack (threats 24, 25).
MAX_DEPTH = 64

# JavaScript's largest exact integer (protocol 17).
_RequestId = Annotated[int, Meta(ge=1, le=2**53 - 1)]


class InvalidFrame(VeraniError):
    """Bytes that are no frame (protocol 7), or data that is more than a room can hold."""

    code = "invalid"
    status = 400

    def __init__(self, message: str = "", *, path: str | None = None) -> None:
        super().__init__(message)
        self.path = path


class NotUtf8(InvalidFrame):
    """A text frame that is not UTF-8; RFC 6455 8.1 closes the connection with 1007."""


class Frame(Struct, frozen=True):
    """One application frame as hooks see it; `data` is ``{}`` where the client sent none."""

    type: str
    data: Any
    channel: str | None = None


class ScannedFrame(Struct, frozen=True, gc=False):
    """The envelope of a client frame; unknown keys are ignored, of duplicate keys the last one counts.

    A `channel` or `id` that is null is absent: typed clients write it.
    """

    type: str
    data: Raw | UnsetType = UNSET
    channel: str | None = None
    id: _RequestId | None = None


_scan = msgspec.json.Decoder(ScannedFrame).decode
_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder(enc_hook=encode_hook).encode

# What malformed, hostile or merely unfitting JSON makes msgspec raise (threats 24).
_UNREADABLE = (msgspec.DecodeError, RecursionError, UnicodeDecodeError)


def is_too_deep(payload: bytes, limit: int = MAX_DEPTH) -> bool:
    """Measure nesting without decoding, in one pass; `payload` is known to be valid JSON."""
    if len(payload) <= 2 * limit or payload.count(b"[") + payload.count(b"{") <= limit:
        return False
    text = payload.replace(b"\\\\", b"").replace(b'\\"', b"")
    outside = b"".join(text.split(b'"')[::2])
    steps = array("b", outside.translate(_STEPS, delete=_NOT_BRACKETS))
    return max(accumulate(steps), default=0) > limit


# One up for an opening bracket, one down for a closing one, as signed bytes.
_STEPS = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")
_NOT_BRACKETS = bytes(byte for byte in range(256) if byte not in b"[]{}")


# --- legal JSON that msgspec does not read -----------------------------------------------------------------

# A surrogate's escape behind an even number of backslashes: a pair, or one that is alone.
_SURROGATES = re.compile(
    rb"(?<!\\)(?:\\\\)*(?:\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(\\u[dD][89a-fA-F][0-9a-fA-F]{2}))"
)


def _without_lone_escapes(payload: bytes) -> bytes:
    """Read every escape of a lone surrogate as U+FFFD, as WHATWG's USVString does."""
    return _SURROGATES.sub(lambda found: found[0] if found[1] is None else found[0][:-6] + rb"\ufffd", payload)


def decode_json(payload: bytes, decode: Callable[[bytes], T]) -> T:
    """Decode what may hold lone surrogates: browsers make them of a cut emoji. Raises what `decode` does."""
    try:
        return decode(payload)
    except msgspec.ValidationError:
        raise
    except msgspec.DecodeError:
        whole = _without_lone_escapes(payload)
        if whole == payload:
            raise
        return decode(whole)


# What stands between brackets: strings, in which nothing is escaped any more, and the rest.
_FLAT = re.compile(rb'(?:[^"\[\]{}]++|"[^"]*+")*+')
_STRING = re.compile(rb'"[^"]*+"')

# What no room takes.
_TOO_DEEP = b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1)


def _flattened(payload: bytes) -> bytes:
    """Put one value that is too deep for everything from the first bracket inside an object to the last.

    Only what is left of the object is known to be JSON then. Made of a few passes, because it costs on every frame of
    somebody who sends nothing else. Returns nothing for brackets without their counterparts.
    """
    text = payload.replace(b"\\\\", b"__").replace(b'\\"', b"__")
    brackets = _STRING.sub(b"", text)
    if brackets.count(b"[") != brackets.count(b"]") or brackets.count(b"{") != brackets.count(b"}"):
        return b""
    backwards = text[::-1]
    first = _FLAT.match(text, text.find(b"{") + 1)
    last = _FLAT.match(backwards, backwards.find(b"}") + 1)
    assert first is not None, "it matches nothing, too"
    assert last is not None, "it matches nothing, too"
    return payload[: first.end()] + _TOO_DEEP + payload[len(payload) - last.end() :]


# --- what does not fit ------------------------------------------------------------------------------------

_MISSING = re.compile("Object (?:missing required|contains unknown) field `(.*)`", re.DOTALL)


def path_of(error: msgspec.ValidationError) -> str | None:
    """Take the path, ``$.text``, out of msgspec's message: of what does not fit, is missing or is not known."""
    text, _, path = str(error).rpartition(" - at `")
    text, path = (text, path.removesuffix("`").removeprefix("key` in `")) if text else (path, "")
    if isinstance(error.__cause__, Unfit) and error.__cause__.path:
        return f"{path or '$'}{error.__cause__.path}"
    field = _MISSING.fullmatch(text)
    return f"{path or '$'}.{field[1]}" if field is not None else path or None


# --- what clients say --------------------------------------------------------------------------------------


def scan(payload: bytes | bytearray) -> ScannedFrame:
    """Check one client frame and return its envelope.

    Raises `NotUtf8` for bytes that are not UTF-8, `InvalidFrame` for anything else the protocol calls invalid.
    Whether a room can hold the data is for `decode_data` to say, so that who asked is answered in turn.
    """
    if not payload.isascii():
        try:
            payload.decode()
        except UnicodeDecodeError as error:
            raise NotUtf8(str(error)) from error
    try:
        try:
            frame = _scan(payload)
        except msgspec.DecodeError:  # which most frames are spared the second try for
            frame = decode_json(bytes(payload), _scan)
    except RecursionError as error:
        frame = _scan_deep(bytes(payload), error)
    except _UNREADABLE as error:
        raise InvalidFrame(f"not a frame: {error}") from error
    # The first three are what `is_name` sees of most, without the call.
    if (frame.channel is not None or not frame.type.isprintable() or len(frame.type) > MAX_NAME) and not (
        is_name(frame.type) and (frame.channel is None or is_name(frame.channel))
    ):
        raise InvalidFrame("expected type and channel without control characters")
    return frame


def _scan_deep(payload: bytes, cause: RecursionError) -> ScannedFrame:
    try:
        frame = _scan(_flattened(_without_lone_escapes(payload)))
    except _UNREADABLE:
        raise InvalidFrame(f"not a frame: {cause}") from cause
    # Wherever it was too deep: data of the same name may have been there.
    return ScannedFrame(frame.type, Raw(_TOO_DEEP), frame.channel, frame.id)


# The frame itself is the first; and who is no longer than this nests no deeper.
_MAX_DATA_DEPTH = MAX_DEPTH - 1
_SHALLOW = 2 * _MAX_DATA_DEPTH


def decode_data(data: bytes | None, decoder: msgspec.json.Decoder[Any] | None = None) -> Any:
    """Decode the data of a scanned frame, absent data as ``{}``, or as None where only that is taken.

    Raises `InvalidFrame` for what is no JSON value or more than we hold (the scan lets ``1e999`` and any depth pass),
    and `msgspec.ValidationError` for a value that does not fit the decoder's type.
    """
    payload = b"{}" if data is None else data
    try:
        if decoder is not None:
            return None if data is None and decoder.type is NoneType else decoder.decode(payload)
        value = _decode(payload)
    except msgspec.ValidationError as error:
        if decoder is not None:
            raise
        raise InvalidFrame("expected JSON numbers of a sane size", path=path_of(error)) from None
    except _UNREADABLE as error:
        raise InvalidFrame(f"expected JSON data: {error}") from error
    if len(payload) > _SHALLOW and is_too_deep(payload, _MAX_DATA_DEPTH):
        raise InvalidFrame(f"expected at most {MAX_DEPTH} nested arrays and objects")
    return value


def encode(data: Any) -> bytes:
    """Encode what a client will read; NaN and Infinity become null (protocol 12), lone surrogates U+FFFD.

    Raises TypeError for what msgspec cannot encode.
    """
    try:
        return _encode(data)
    except UnicodeEncodeError:
        return _encode(_well_formed_in(msgspec.to_builtins(data, str_keys=True, enc_hook=encode_hook)))


def _well_formed_in(value: Any) -> Any:
    """Do what `well_formed` does to every text in builtins."""
    match value:
        case str():
            return well_formed(value)
        case dict():
            return {well_formed(key): _well_formed_in(inner) for key, inner in value.items()}
        case list() | tuple():
            return list(map(_well_formed_in, value))
        case _:
            return value


def event_frame(channel: str, data: bytes) -> bytes:
    """Wrap encoded data in a server frame, keys in the order of protocol 9."""
    return b"".join((_envelope(channel), data, b"}"))


def named_event_frame(channel: str, event: str, data: Any = UNSET) -> bytes:
    """Build what `emit` sends: the event's name spread into the data (protocol 9).

    Data that is no object goes as ``value``; unset data leaves the type alone. Raises ValueError for a `type` inside
    the data, which would be taken for the event's name.
    """
    if data is UNSET:
        return b"%b}}" % _named_envelope(channel, event)
    plain = data if isinstance(data, dict) else msgspec.to_builtins(data, str_keys=True, enc_hook=encode_hook)
    if not isinstance(plain, dict):
        return b'%b,"value":%b}}' % (_named_envelope(channel, event), encode(plain))
    if "type" in plain:
        raise ValueError(
            f"emit: expected data of {event!r} without a 'type', which is the event's name; broadcast() and "
            "send_to_user() send data with a type of its own"
        )
    try:
        body = _encode(plain)
    except UnicodeEncodeError:
        body = encode(plain)
    return b"%b%b%b}" % (_named_envelope(channel, event), b"," if plain else b"", body[1:])


# Names are few and frames are many. Bounded, because applications may make up channels without end.
@lru_cache(maxsize=1024)
def _envelope(channel: str) -> bytes:
    return b'{"type":"event","channel":%b,"data":' % _encode(channel)


@lru_cache(maxsize=1024)
def _named_envelope(channel: str, event: str) -> bytes:
    return b'%b{"type":%b' % (_envelope(channel), _encode(event))


def ack_frame(request: int, result: Any) -> bytes:
    """Answer a request (protocol 17); raises TypeError if the result cannot be encoded."""
    return b'{"type":"ack","id":%d,"data":%b}' % (request, encode(result))


def error_ack_frame(request: int, code: str, path: str | None = None, message: str | None = None) -> bytes:
    """Answer a request that failed: a code of the error table, where in the payload, and a text for people."""
    told = {"code": code, "path": path, "message": message}
    error = {key: value for key, value in told.items() if value is not None}
    return b'{"type":"ack","id":%d,"error":%b}' % (request, encode(error))

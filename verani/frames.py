"""Read client frames and write server frames, byte for byte as the protocol has them.

A client frame is only scanned here: its `data` stays undecoded bytes until a room needs it.
What a WebSocket frame looks like is the gateway's business.
"""

from __future__ import annotations

from array import array
from functools import lru_cache
from itertools import accumulate
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from .errors import VeraniError
from .names import is_name

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
    "encode",
    "error_ack_frame",
    "event_frame",
    "is_too_deep",
    "named_event_frame",
    "scan",
]

# The type that the gateway answers itself (protocol 13), and the exact answer.
PING = "ping"
PONG = b'{"type":"pong"}'

# Deep enough for any application, shallow enough for every decoder and every stack (threats 24, 25).
MAX_DEPTH = 64

# JavaScript's largest exact integer (protocol 17).
_RequestId = Annotated[int, Meta(ge=1, le=2**53 - 1)]


class InvalidFrame(VeraniError):
    """Bytes that are no frame (protocol 7): dropped and counted, never answered."""

    code = "invalid"
    status = 400


class NotUtf8(InvalidFrame):
    """A text frame that is not UTF-8; RFC 6455 8.1 closes the connection with 1007."""


class Frame(Struct, frozen=True):
    """One application frame as hooks see it; `data` is ``{}`` where the client sent none (protocol 21)."""

    type: str
    data: Any
    channel: str | None = None


class ScannedFrame(Struct, frozen=True, gc=False):
    """The envelope of a client frame; unknown keys are ignored, of duplicate keys the last one counts."""

    type: str
    data: Raw | UnsetType = UNSET
    channel: str | UnsetType = UNSET
    id: _RequestId | UnsetType = UNSET


_scan = msgspec.json.Decoder(ScannedFrame).decode
_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode

# What malformed, hostile or merely unfitting JSON makes msgspec raise (threats 24).
_UNREADABLE = (msgspec.DecodeError, RecursionError, UnicodeDecodeError)


def is_too_deep(payload: bytes) -> bool:
    """Measure nesting without decoding, in one pass; `payload` is known to be valid JSON."""
    if payload.count(b"[") + payload.count(b"{") <= MAX_DEPTH:
        return False
    text = payload.replace(b"\\\\", b"").replace(b'\\"', b"")
    outside = b"".join(text.split(b'"')[::2])
    steps = array("b", outside.translate(_STEPS, delete=_NOT_BRACKETS))
    return max(accumulate(steps)) > MAX_DEPTH


# One up for an opening bracket, one down for a closing one, as signed bytes.
_STEPS = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")
_NOT_BRACKETS = bytes(byte for byte in range(256) if byte not in b"[]{}")


def scan(payload: bytes) -> ScannedFrame:
    """Check one client frame and return its envelope.

    Raises `NotUtf8` for bytes that are not UTF-8, `InvalidFrame` for anything else the protocol calls invalid.
    """
    if not payload.isascii():
        try:
            payload.decode()
        except UnicodeDecodeError as error:
            raise NotUtf8(str(error)) from error
    try:
        frame = _scan(payload)
    except _UNREADABLE as error:
        raise InvalidFrame(f"not a frame: {error}") from error
    if not is_name(frame.type) or (frame.channel is not UNSET and not is_name(frame.channel)):
        raise InvalidFrame("expected type and channel without control characters")
    if is_too_deep(payload):
        raise InvalidFrame(f"expected at most {MAX_DEPTH} nested arrays and objects")
    return frame


def decode_data(data: bytes | None, decoder: msgspec.json.Decoder[Any] | None = None) -> Any:
    """Decode the data of a scanned frame, absent data as ``{}``.

    Raises `InvalidFrame` for what is no JSON value (the scan lets ``1e999`` pass) and
    `msgspec.ValidationError` for a value that does not fit the decoder's type.
    """
    try:
        return (decoder.decode if decoder is not None else _decode)(b"{}" if data is None else data)
    except msgspec.ValidationError:
        if decoder is not None:
            raise
        raise InvalidFrame("expected JSON numbers of a sane size") from None
    except _UNREADABLE as error:
        raise InvalidFrame(f"expected JSON data: {error}") from error


def encode(data: Any) -> bytes:
    """Encode what a client will read; NaN and Infinity become null (protocol 12).

    Raises TypeError for what msgspec cannot encode.
    """
    return _encode(data)


def event_frame(channel: str, data: bytes) -> bytes:
    """Wrap encoded data in a server frame, keys in the order of protocol 9."""
    return b"%b%b}" % (_envelope(channel), data)


def named_event_frame(channel: str, event: str, data: Any = UNSET) -> bytes:
    """Build what `emit` sends: the event's name spread into the data (protocol 9).

    A `type` inside the data wins; data that is no object goes as ``value``; unset data leaves the type alone.
    """
    if data is UNSET:
        return b"%b}}" % _named_envelope(channel, event)
    plain = data if isinstance(data, dict) else msgspec.to_builtins(data, str_keys=True)
    if not isinstance(plain, dict):
        return b'%b,"value":%b}}' % (_named_envelope(channel, event), _encode(plain))
    if "type" in plain:
        return event_frame(channel, _encode({"type": event, **plain}))
    body = _encode(plain)
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
    return b'{"type":"ack","id":%d,"data":%b}' % (request, _encode(result))


def error_ack_frame(request: int, code: str, path: str | None = None) -> bytes:
    """Answer a request that failed with a code of the error table, and where in the payload."""
    error = {"code": code} if path is None else {"code": code, "path": path}
    return b'{"type":"ack","id":%d,"error":%b}' % (request, _encode(error))

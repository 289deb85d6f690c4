"""Turn what a client says into frames and what it hears into values (protocol 6, 9, 10, 17).

It keeps no state: numbering requests and matching answers is the client's.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from ..errors import CallFailed, VeraniError, error_for
from .inbox import Event

__all__ = ["PING", "Incoming", "as_error", "as_event", "decode", "encode"]

PING = b'{"type":"ping"}'  # protocol 13, to the byte


class _Outgoing(msgspec.Struct):
    type: str
    data: Any = UNSET
    id: int | UnsetType = UNSET


class Incoming(msgspec.Struct):
    """One frame from the server; only `type` decides whether it is one, anything may stand under the other keys."""

    type: str
    data: Any = None
    channel: Any = None
    id: Any = None
    error: Any = None


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Incoming)


def encode(event: str, data: Any, number: int | UnsetType = UNSET) -> bytes:
    """Return one frame; UNSET leaves its key out. Raise TypeError for what JSON cannot say."""
    if not isinstance(event, str):
        raise TypeError(f"expected an event name, got {event!r}")
    return _encoder.encode(_Outgoing(event, data, number))


def decode(text: str) -> Incoming:
    """Parse one frame. Raise ValueError for what is none."""
    try:
        return _decoder.decode(text)
    except RecursionError as exc:
        raise ValueError("nested too deeply") from exc


def as_event(frame: Incoming) -> Event:
    """Name the event as protocol 10 does: by `data.type` where an `event` has one."""
    name = frame.type
    if name == "event" and isinstance(frame.data, dict) and isinstance(frame.data.get("type"), str):
        name = frame.data["type"]
    return Event(name, frame.data, frame.channel if isinstance(frame.channel, str) else None)


def as_error(error: Any) -> VeraniError:
    """Rebuild the error of an ack, whatever stands there."""
    match error:
        case {"code": str(code), "path": str(path)}:
            return error_for(code, f"the room answered {code!r} for {path}", path=path)
        case {"code": str(code)}:
            return error_for(code, f"the room answered {code!r}")
        case _:
            return CallFailed("the room answered with an error without a code")

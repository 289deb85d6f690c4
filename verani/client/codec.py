"""Turn what a client says into frames and what it hears into values (protocol 6, 9, 10, 17).

It keeps no state: numbering requests and matching answers is the client's.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from .. import frames
from ..errors import CallFailed, VeraniError, error_for
from ..names import MAX_NAME, is_name
from .events import Event

__all__ = ["PING", "ClientFrame", "Incoming", "as_error", "as_event", "decode", "encode"]

PING = b'{"type":"ping"}'  # protocol 13, to the byte


class ClientFrame(msgspec.Struct):
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


_decoder = msgspec.json.Decoder(Incoming)


def encode(event: str, data: Any, number: int | UnsetType = UNSET) -> bytes:
    """Return one frame; UNSET leaves its key out.

    Raise TypeError for what JSON cannot say, ValueError for names that the server does not take or answer.
    """
    if not isinstance(event, str):
        raise TypeError(f"expected an event name, got {event!r}")
    if not is_name(event):
        raise ValueError(
            f"expected an event name of at most {MAX_NAME} characters without control characters, got {event[:40]!r}"
        )
    if event == "ping" and number is not UNSET:
        raise ValueError("'ping' is the keepalive, no room sees or answers it: expected another event name")
    return frames.encode(ClientFrame(event, data, number))


def decode(text: str) -> Incoming:
    """Parse one frame. Raise ValueError for what is none."""
    try:
        return frames.decode_json(text.encode(), _decoder.decode)
    except RecursionError as exc:
        raise ValueError("nested too deeply") from exc


def as_event(frame: Incoming) -> Event:
    """Name the event as protocol 10 does: by `data.type` where an `event` has one."""
    name = frame.type
    if name == "event" and isinstance(frame.data, dict) and isinstance(frame.data.get("type"), str):
        name = frame.data["type"]
    return Event(name, frame.data, frame.channel if isinstance(frame.channel, str) else None)


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def as_error(error: Any, event: str | None = None) -> VeraniError:
    """Rebuild the error that a request (of `event`) was answered with, whatever stands there."""
    answered = "the room answered" if event is None else f"the room answered {event!r} with"
    match error:
        case {"code": str(code)}:
            path, public = (_text(error.get(key)) for key in ("path", "message"))
            where = "" if path is None else f" at {path}"
            said = "" if public is None else f": {public}"
            return error_for(code, f"{answered} {code!r}{where}{said}", path=path, public=public)
        case _:
            return CallFailed(f"{answered} an error without a code")

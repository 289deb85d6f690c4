"""Say who is in a room, and close one of them, from what the gateway of each connection keeps: no room is woken for it.

Invariant: of what an application keeps in a meta, only small plain values are told, and none whose name looks like that
of a secret; operators see who is there, not what they know.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct

from verani.room.meta import FIXED_FIELDS, AttachmentError, ConnectionMeta

if TYPE_CHECKING:
    from ..gateway import Gateway
    from ..inputs.attachments import RoomInputs

__all__ = ["MAX_SESSIONS", "CloseOrder", "SessionSeen", "SessionsTold", "close", "sessions_of"]

# Connections of a room that one gateway tells of: about 100 KiB, and 1 MiB with channels of long names.
MAX_SESSIONS: Final = 100

# Channels and own fields of a meta that are told, and characters of a text among these.
_MAX_LISTED: Final = 20
_MAX_TEXT: Final = 40

_SECRET: Final = re.compile(
    "api|auth|bearer|cert|cookie|credential|csrf|hash|jwt|key|nonce|otp|pass|pin|private|pwd|salt|secret|session|sign"
    "|ticket|token|xsrf",
    re.IGNORECASE,
)


class SessionSeen(Struct, frozen=True, kw_only=True):
    """One connection of a room. `meta`: its own fields, as far as they may be shown.

    `connected_seconds` is None once the socket is gone and its close waits for the room; `expires_seconds`, until the
    identity expires, is None for one that does not.
    """

    connection: str
    gateway: str
    user_id: str
    client_id: str
    channels: Sequence[str]
    connected_seconds: float | None
    expires_seconds: float | None
    meta: dict[str, Any]


class SessionsTold(Struct, frozen=True):
    """Connections of a room; with `more`, there are others besides."""

    sessions: list[SessionSeen]
    more: bool = False


class CloseOrder(Struct, frozen=True):
    """Which connection to close, and how; see `verani.Actor.close`."""

    connection: str
    code: int = 1000
    reason: str = ""


def sessions_of(gateway: Gateway, name: str) -> SessionsTold:
    """Tell of the connections that a room has at a gateway."""
    held = gateway.attachments.rooms.get(name)
    if held is None:
        return SessionsTold([])
    seen = [session for id in islice(held.records, MAX_SESSIONS) if (session := _seen(gateway, held, id)) is not None]
    return SessionsTold(seen, more=len(held.records) > MAX_SESSIONS)


def _seen(gateway: Gateway, held: RoomInputs, id: str) -> SessionSeen | None:
    kind = held.name.partition("/")[0]
    definition = next(each for each in gateway.definitions if each.name == kind)
    try:
        meta = definition.codec(gateway.settings.max_meta_bytes).decode(held.records[id].attachment)
    except AttachmentError:  # of another version of the application: the room will not have it either
        return None
    connection = gateway.connections.get(id)
    renewal = connection.renewal if connection is not None else None
    return SessionSeen(
        connection=id,
        gateway=gateway.id,
        user_id=meta.user_id,
        client_id=meta.client_id,
        channels=meta.channels[:_MAX_LISTED],
        connected_seconds=gateway.facilities.now() - connection.liveness.since if connection is not None else None,
        expires_seconds=renewal.seconds_left(time.time()) if renewal is not None else None,
        meta=_shown(meta),
    )


def _shown(meta: ConnectionMeta) -> dict[str, Any]:
    own = (name for name in meta.__struct_fields__ if name not in FIXED_FIELDS)
    return {name: _shown_value(name, getattr(meta, name)) for name in islice(own, _MAX_LISTED)}


def _shown_value(name: str, value: object) -> Any:
    if _SECRET.search(name):
        return "(hidden)"
    match value:
        case None | bool() | float():
            return value
        case int() if -(2**53) < value < 2**53:
            return value
        case str() if len(value) <= _MAX_TEXT:
            return value
        case str():
            return f"(text of {len(value)} characters)"
        case _:
            return f"({type(value).__name__})"


def close(gateway: Gateway, order: CloseOrder) -> bool:
    """Close a connection, if it is at this gateway."""
    connection = gateway.connections.get(order.connection)
    if connection is None:
        return False
    connection.close(order.code, order.reason)
    return True

"""Decide which names may pass: room ids, channels, events and user ids.

Names travel into logs, URLs and other users' screens, so control characters and
direction overrides never enter one. Payload text is not this module's business.

The name of a room is text in one spelling (NFC) and without what cannot be seen, so that two names that look alike
are rarely two rooms; it holds no `/`, which ends it in paths. Who spells it otherwise means the same room, so every
way in takes what `room_id_of` makes of it.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Annotated

from msgspec import Meta

__all__ = [
    "CLOSE_CODES",
    "EventName",
    "LIFECYCLE_EVENTS",
    "MAX_CHANNELS",
    "MAX_NAME",
    "MAX_ROOM_ID",
    "MAX_REASON_BYTES",
    "Name",
    "RESERVED_PREFIX",
    "ROOM_ID",
    "check_name",
    "is_name",
    "room_id_of",
    "well_formed",
]

MAX_NAME = 255
# RFC 6455 5.5: a control frame holds 125 bytes, two of them the close code.
MAX_REASON_BYTES = 123
# Codes an application may close with: those of protocol 15 and the ranges RFC 6455 7.4.2 leaves to applications.
CLOSE_CODES = frozenset({1000, 1008, 1011, 1012, 1013, *range(3000, 5000)})
MAX_CHANNELS = 128
RESERVED_PREFIX = "verani."

# The original client's own listeners: an application event of that name would be mixed up with them (protocol 11).
LIFECYCLE_EVENTS = frozenset({"open", "connected", "connecting", "close", "disconnected", "reconnecting"})

MAX_ROOM_ID = 128
# What errors say was expected.
ROOM_ID = (
    f"a room id of 1 to {MAX_ROOM_ID} characters (normalized, NFC), without '/' and characters that cannot be seen"
)

_PLAIN_ROOM_ID = re.compile(rf"[A-Za-z0-9_.:@~-]{{1,{MAX_ROOM_ID}}}")
# Control and format characters, separators of lines and paragraphs, surrogates.
_UNSEEN = frozenset({"Cc", "Cf", "Zl", "Zp", "Cs"})
# C0, DEL, C1, line and paragraph separators, then the bidirectional controls; JSON lets no surrogate through.
_CONTROLS = r"\x00-\x1f\x7f-\x9f\u2028\u2029\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"
_FORBIDDEN = re.compile(rf"[{_CONTROLS}\ud800-\udfff]")

# The same rules for arguments of calls, where their schema says so.
Name = Annotated[str, Meta(min_length=1, max_length=MAX_NAME, pattern=rf"^[^{_CONTROLS}]*$")]
EventName = Annotated[
    str, Meta(min_length=1, max_length=MAX_NAME, pattern=rf"^(?!{re.escape(RESERVED_PREFIX)})[^{_CONTROLS}]*$")
]


def room_id_of(text: object) -> str | None:
    """Return the id of the room that `text` names, in its one spelling; None if it may name no room.

    That is a 404 before the upgrade, or `not_found`.
    """
    if not isinstance(text, str):
        return None
    if _PLAIN_ROOM_ID.fullmatch(text) is not None:
        return text
    spelled = unicodedata.normalize("NFC", text)
    fits = 0 < len(spelled) <= MAX_ROOM_ID and "/" not in spelled
    return spelled if fits and _UNSEEN.isdisjoint(map(unicodedata.category, spelled)) else None


def is_name(text: str) -> bool:
    """Tell whether `text` may be an event, channel or user name (the empty string may)."""
    # isprintable() settles the common case without the regular expression.
    return len(text) <= MAX_NAME and (text.isprintable() or _FORBIDDEN.search(text) is None)


def well_formed(text: str) -> str:
    """Put U+FFFD for every lone surrogate of a text; joins those that are a pair."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def check_name(text: object, what: str) -> str:
    """Return `text` if it is a non-empty name; raise TypeError or ValueError that names `what` otherwise."""
    if not isinstance(text, str):
        raise TypeError(f"{what}: expected a string, got {type(text).__name__}")
    if not text or not is_name(text):
        raise ValueError(f"{what}: expected 1 to {MAX_NAME} characters without control characters, got {text[:40]!r}")
    return text

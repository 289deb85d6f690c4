"""Name what a room host tells a gateway to do: entries, each with the outputs of one room in one tick."""

from __future__ import annotations

from typing import TypeAlias

import msgspec
from msgspec import Struct

from .questions import Outcome, Said

__all__ = [
    "Attach",
    "Cast",
    "Deliver",
    "Drain",
    "Ended",
    "Entry",
    "EntryBatch",
    "Group",
    "Invalid",
    "Kick",
    "Output",
    "Reply",
    "Seat",
    "Ungroup",
]


class Deliver(Struct, frozen=True, array_like=True, tag="deliver"):
    """Write one encoded frame to these connections, except the excluded ones.

    The same tuple object (in memory) or an equal one (decoded) in consecutive outputs means the same audience.
    """

    connections: tuple[str, ...]
    payload: bytes
    exclude: tuple[str, ...] = ()


class Cast(Struct, frozen=True, array_like=True, tag="cast"):
    """Stand for a `Deliver` on a link between processes: to a `Group`, except the members at these places."""

    group: int
    payload: bytes
    exclude: tuple[int, ...] = ()


class Kick(Struct, frozen=True, array_like=True, tag="kick"):
    """Close a connection after everything written to it before; a refused one never had a session."""

    connection: str
    code: int
    reason: str = ""
    refused: bool = False


class Invalid(Struct, frozen=True, array_like=True, tag="invalid"):
    """The room could not decode a frame of this connection: it counts as an invalid frame."""

    connection: str


class Drain(Struct, frozen=True, array_like=True, tag="drain"):
    """Ask for a `Drained` once what was written to the connection so far has left."""

    connection: str
    token: int


class Reply(Struct, frozen=True, array_like=True, tag="reply"):
    """Answer the call with this input number."""

    call: int
    outcome: Outcome


class Attach(Struct, frozen=True, array_like=True, tag="attach"):
    """Replace the attachment of a connection."""

    connection: str
    attachment: bytes


class Seat(Struct, frozen=True, array_like=True, tag="seat"):
    """Note the place of a session among all of its room, so that a wake finds the order they came in."""

    connection: str
    order: int


# A `Cast` is seen by the two ends of a link only.
Output: TypeAlias = Deliver | Cast | Kick | Invalid | Drain | Reply


class Entry(Struct, array_like=True, tag="entry"):
    """What one room did in one tick, applied whole: outputs, attachment updates and acknowledgement together.

    `processed`: every input up to this number is done. `begun`: this input's hook is running and has visible
    outputs, so it is never replayed. `seq` rises with every entry of a host, to whomever. `asleep`: the room has fallen
    asleep with this entry. `more`: on a link between processes, the next entry is the rest of this one. `others`: what
    gateways must have of the room by the end of the tick; None of hosts of an earlier version. `traces`: the spans that
    the outputs belong to, where they are followed.
    """

    room: str
    processed: int | None = None
    begun: int | None = None
    outputs: list[Output] = msgspec.field(default_factory=list)
    attachments: list[Attach | Seat] = msgspec.field(default_factory=list)
    seq: int = 0
    asleep: bool = False
    more: bool = False
    others: tuple[Said, ...] | None = None
    traces: tuple[str, ...] = ()


class EntryBatch(Struct, frozen=True, array_like=True, tag="entries"):
    """Entries of one tick."""

    entries: list[Entry]


class Group(Struct, frozen=True, array_like=True, tag="group"):
    """Give an audience a name on this link: members of the group `base`, and those that are added.

    `kept` counts members of the base in a row, in turn some that are taken and some that are not; the last that are
    not are left out. `base` is 0 for a group that is all added.
    """

    name: int
    base: int
    kept: tuple[int, ...]
    added: tuple[str, ...]


class Ungroup(Struct, frozen=True, array_like=True, tag="ungroup"):
    """Forget groups: their names may mean others from now on."""

    names: list[int]


class Ended(Struct, frozen=True, array_like=True, tag="ended"):
    """Tell a link that incarnations of rooms are over, and with them the groups of these rooms; not sent itself."""

    rooms: list[str]

"""Define what a gateway and a room host say to each other over a link.

Inputs go to the host, entries come back; both directions open with `Hello` and are batched per event-loop
tick. All are tagged structs whose fields are only ever appended, encoded as msgpack between processes and
handed over as they are in memory. An input's `number` rises within its gateway and room; gaps mean nothing.
How they travel is the links' business.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec
from msgspec import Struct

__all__ = [
    "PROTOCOL_VERSIONS",
    "Attach",
    "Close",
    "Connect",
    "Deliver",
    "Drain",
    "Drained",
    "Entry",
    "EntryBatch",
    "Frame",
    "Hello",
    "HostMessage",
    "Input",
    "InputBatch",
    "Invalid",
    "Kick",
    "GatewayMessage",
    "Output",
    "Pull",
    "Record",
    "Snapshot",
    "decode_gateway_message",
    "decode_host_message",
    "encode_message",
]

# Lowest and highest version of this file that a process speaks.
PROTOCOL_VERSIONS = (1, 1)


class Hello(Struct, frozen=True, tag="hello"):
    """Open a link. `received` is the highest batch number the sender has, so a broken link resumes there."""

    versions: tuple[int, int]
    build: str
    gateway: str
    incarnation: str
    epoch: int = 0
    features: tuple[str, ...] = ()
    received: int = 0


# --- inputs: gateway to host ---------------------------------------------------------------------------


class Connect(Struct, frozen=True, tag="connect"):
    """A client came; `attachment` is its encoded meta."""

    room: str
    number: int
    connection: str
    attachment: bytes
    trace: str | None = None


class Frame(Struct, frozen=True, tag="frame"):
    """A client frame, scanned; `event` is its type, `data` JSON text or None where absent, `request` its `id`."""

    room: str
    number: int
    connection: str
    event: str
    data: bytes | None = None
    channel: str | None = None
    request: int | None = None
    trace: str | None = None


class Close(Struct, frozen=True, tag="close"):
    """A connection is over, for whatever reason; the last input of its connection."""

    room: str
    number: int
    connection: str
    code: int
    reason: str = ""
    trace: str | None = None


Input: TypeAlias = Connect | Frame | Close


class InputBatch(Struct, frozen=True, tag="inputs"):
    """Inputs of one tick; `confirmed` is the highest entry batch applied."""

    number: int
    confirmed: int
    inputs: list[Input]


class Record(Struct, frozen=True):
    """One connection as of the last processed input: its attachment, and whether it was told to close.

    An empty attachment of a closing connection: it never became a session.
    """

    connection: str
    attachment: bytes
    closing: bool = False


class Snapshot(Struct, frozen=True, tag="snapshot"):
    """Answer to `Pull`: the records of a room; `last` is false while more chunks follow."""

    room: str
    incarnation: int
    records: list[Record]
    last: bool = True


class Drained(Struct, frozen=True, tag="drained"):
    """Answer to `Drain`: what was written to the connection has left, or the connection is gone."""

    room: str
    token: int


GatewayMessage: TypeAlias = Hello | InputBatch | Snapshot | Drained


# --- outputs: host to gateway --------------------------------------------------------------------------


class Deliver(Struct, frozen=True, tag="deliver"):
    """Write one encoded frame to these connections, except the excluded ones.

    The same tuple object (in memory) or an equal one (decoded) in consecutive outputs means the same audience.
    """

    connections: tuple[str, ...]
    payload: bytes
    exclude: tuple[str, ...] = ()


class Kick(Struct, frozen=True, tag="kick"):
    """Close a connection after everything written to it before; a refused one never had a session."""

    connection: str
    code: int
    reason: str = ""
    refused: bool = False


class Invalid(Struct, frozen=True, tag="invalid"):
    """The room could not decode a frame of this connection: it counts as an invalid frame."""

    connection: str


class Drain(Struct, frozen=True, tag="drain"):
    """Ask for a `Drained` once what was written to the connection so far has left."""

    connection: str
    token: int


class Attach(Struct, frozen=True, tag="attach"):
    """Replace the attachment of a connection; an empty one says that the room turned it away."""

    connection: str
    attachment: bytes


Output: TypeAlias = Deliver | Kick | Invalid | Drain


class Entry(Struct, tag="entry"):
    """What one room did in one tick, applied whole: outputs, attachment updates and acknowledgement together.

    `processed`: every input up to this number is done. `begun`: this input's hook is running and has visible
    outputs, so it is never replayed. `seq` rises with every entry of a room's incarnation.
    """

    room: str
    processed: int | None = None
    begun: int | None = None
    outputs: list[Output] = msgspec.field(default_factory=list)
    attachments: list[Attach] = msgspec.field(default_factory=list)
    seq: int = 0


class EntryBatch(Struct, frozen=True, tag="entries"):
    """Entries of one tick; `confirmed` is the highest input batch received."""

    number: int
    confirmed: int
    entries: list[Entry]


class Pull(Struct, frozen=True, tag="pull"):
    """Ask a gateway for its records of a room that wakes."""

    room: str
    incarnation: int


HostMessage: TypeAlias = Hello | EntryBatch | Pull

# For links between processes; in memory, messages are handed over as they are.
encode_message = msgspec.msgpack.Encoder().encode
decode_gateway_message = msgspec.msgpack.Decoder(GatewayMessage).decode
decode_host_message = msgspec.msgpack.Decoder(HostMessage).decode

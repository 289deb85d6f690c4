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
    "Call",
    "Close",
    "Connect",
    "Deliver",
    "Drain",
    "Drained",
    "Entry",
    "EntryBatch",
    "Frame",
    "GatewayMessage",
    "Hello",
    "HostMessage",
    "Input",
    "InputBatch",
    "Invalid",
    "Invoke",
    "Kick",
    "Outcome",
    "Output",
    "Pull",
    "Record",
    "Replied",
    "Reply",
    "Seat",
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


class Call(Struct, tag="call"):
    """Somebody outside calls a method of the room; answered with `Reply` under this number.

    `arguments` is JSON text: an object (by name) or an array (by position). `timeout`: seconds left when it was sent;
    `expires`: what that means on the clock of the host, which sets it. `key`: a call with the same key is not run
    again while the room is awake. `chain`: the rooms whose running hooks wait for this call.
    """

    room: str
    number: int
    method: str
    arguments: bytes
    timeout: float
    key: str | None = None
    chain: tuple[str, ...] = ()
    trace: str | None = None
    expires: float = 0.0


Input: TypeAlias = Connect | Frame | Close | Call


class InputBatch(Struct, frozen=True, tag="inputs"):
    """Inputs of one tick; `confirmed` is the highest entry batch applied."""

    number: int
    confirmed: int
    inputs: list[Input]


class Record(Struct, frozen=True):
    """One connection as of the last processed input: its attachment, and whether it was told to close.

    `order` is the last `Seat` it was given.
    """

    connection: str
    attachment: bytes
    closing: bool = False
    order: int = 0


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


class Outcome(Struct, frozen=True):
    """What came of a call: its result as JSON text, or a code of the error table and where in the arguments.

    `message` is only about the caller's own arguments; what a hook raised stays on the server.
    """

    result: bytes | None = None
    code: str | None = None
    path: str | None = None
    message: str | None = None


class Replied(Struct, frozen=True, tag="replied"):
    """Answer to `Invoke`."""

    room: str
    token: int
    outcome: Outcome


GatewayMessage: TypeAlias = Hello | InputBatch | Snapshot | Drained | Replied


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


class Reply(Struct, frozen=True, tag="reply"):
    """Answer the call with this input number."""

    call: int
    outcome: Outcome


class Attach(Struct, frozen=True, tag="attach"):
    """Replace the attachment of a connection."""

    connection: str
    attachment: bytes


class Seat(Struct, frozen=True, tag="seat"):
    """Note the place of a session among all of its room, so that a wake finds the order they came in."""

    connection: str
    order: int


Output: TypeAlias = Deliver | Kick | Invalid | Drain | Reply


class Entry(Struct, tag="entry"):
    """What one room did in one tick, applied whole: outputs, attachment updates and acknowledgement together.

    `processed`: every input up to this number is done. `begun`: this input's hook is running and has visible
    outputs, so it is never replayed. `seq` rises with every entry of a room's incarnation.
    """

    room: str
    processed: int | None = None
    begun: int | None = None
    outputs: list[Output] = msgspec.field(default_factory=list)
    attachments: list[Attach | Seat] = msgspec.field(default_factory=list)
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


class Invoke(Struct, frozen=True, tag="invoke"):
    """Ask a gateway to call a method of another room for this one; answered with `Replied`.

    Gateways know which host has which room. The fields from `target` on are those of the `Call` it becomes.
    """

    room: str
    token: int
    target: str
    method: str
    arguments: bytes
    timeout: float
    key: str | None = None
    chain: tuple[str, ...] = ()


HostMessage: TypeAlias = Hello | EntryBatch | Pull | Invoke

# For links between processes; in memory, messages are handed over as they are.
encode_message = msgspec.msgpack.Encoder().encode
decode_gateway_message = msgspec.msgpack.Decoder(GatewayMessage).decode
decode_host_message = msgspec.msgpack.Decoder(HostMessage).decode

"""Define what a gateway and a room host say to each other over a link.

Inputs go to the host, entries come back; both are batched per event-loop tick. In memory, messages are handed over
as they are. Between processes both sides open with `Hello` and then send packets: messages of one tick, numbered
and confirmed (see `verani.link.stream`), in shorthand (see `verani.link.shorthand`), as msgpack. All are tagged structs
whose fields are only ever appended. An input's `number` rises within its gateway and room; gaps mean nothing.
"""

from __future__ import annotations

import math
from typing import Literal, TypeAlias

import msgspec
from msgspec import Struct

from .epoch import Epoch

__all__ = [
    "PROTOCOL_VERSIONS",
    "Announce",
    "Arrival",
    "Ask",
    "Attach",
    "Call",
    "Cast",
    "Close",
    "Connect",
    "Deliver",
    "Drain",
    "Drained",
    "Ended",
    "Entry",
    "EntryBatch",
    "Frame",
    "GatewayMessage",
    "GatewayPacket",
    "GivenUp",
    "Group",
    "Heard",
    "Hello",
    "HostMessage",
    "HostPacket",
    "Input",
    "InputBatch",
    "Interrupted",
    "Invalid",
    "Invoke",
    "Kick",
    "Outcome",
    "Output",
    "Pull",
    "Rebuild",
    "Record",
    "Replied",
    "Reply",
    "Said",
    "Seat",
    "Snapshot",
    "TakenCall",
    "Told",
    "Ungroup",
    "decode_gateway_packet",
    "decode_hello",
    "decode_host_packet",
    "encode_message",
    "kind_of",
]

# Lowest and highest version of this file that a process speaks.
PROTOCOL_VERSIONS = (2, 2)


class Hello(Struct, frozen=True, array_like=True, tag="hello"):
    """Open a link between processes, each side once.

    `sender` is the id of the gateway or host, `incarnation` that of its process. The gateway speaks first: `resumes`
    is the incarnation of the host whose packets up to `received` it has, empty for a new link. The host answers with
    the `resumes` it grants, and what it has received; an empty one means that it knows nothing of an earlier link.
    `wanted` is the incarnation of the host that the gateway means, empty in answers: at an address may be another one
    by now, which answers who it is and begins nothing.
    """

    versions: tuple[int, int]
    build: str
    sender: str
    incarnation: str
    epoch: int = 0
    features: tuple[str, ...] = ()
    received: int = 0
    resumes: str = ""
    wanted: str = ""


# --- inputs: gateway to host ---------------------------------------------------------------------------


class Connect(Struct, frozen=True, array_like=True, tag="connect"):
    """A client came; `attachment` is its encoded meta."""

    room: str
    number: int
    connection: str
    attachment: bytes
    trace: str | None = None


class Frame(Struct, frozen=True, array_like=True, tag="frame"):
    """A client frame, scanned; `event` is its type, `data` JSON text or None where absent, `request` its `id`."""

    room: str
    number: int
    connection: str
    event: str
    data: bytes | None = None
    channel: str | None = None
    request: int | None = None
    trace: str | None = None


class Close(Struct, frozen=True, array_like=True, tag="close"):
    """A connection is over, for whatever reason; the last input of its connection."""

    room: str
    number: int
    connection: str
    code: int
    reason: str = ""
    trace: str | None = None


class Call(Struct, frozen=True, array_like=True, tag="call"):
    """Somebody outside calls a method of the room; answered with `Reply` under this number.

    `arguments` is JSON text: an object (by name) or an array (by position). `timeout`: seconds left when it was sent.
    `key`: a call with the same key is not run again while the room is awake. `chain`: the rooms whose running hooks
    wait for this call.
    """

    room: str
    number: int
    method: str
    arguments: bytes
    timeout: float
    key: str | None = None
    chain: tuple[str, ...] = ()
    trace: str | None = None


class TakenCall(Call, frozen=True, array_like=True, tag="call"):
    """A call at a room host, which never sends it: `expires` is when its time is over, on the clock of the host."""

    expires: float = math.inf

    @classmethod
    def of(cls, call: Call, expires: float) -> TakenCall:
        """Note the deadline of a call."""
        return cls(
            call.room,
            call.number,
            call.method,
            call.arguments,
            call.timeout,
            call.key,
            call.chain,
            call.trace,
            expires,
        )


Input: TypeAlias = Connect | Frame | Close | Call


class Interrupted(Struct, frozen=True, array_like=True, tag="interrupted"):
    """An input that the room's last owner had begun, visibly, when it died: it is not run again, the room is told."""

    input: Input

    @property
    def room(self) -> str:
        """Room of the input."""
        return self.input.room

    @property
    def number(self) -> int:
        """Number of the input."""
        return self.input.number


# What a batch brings.
Arrival: TypeAlias = Input | Interrupted


def kind_of(arrival: Arrival) -> str:
    """Name the kind of an input, for people: frame, call, ..."""
    return str(arrival.__struct_config__.tag)


class InputBatch(Struct, frozen=True, array_like=True, tag="inputs"):
    """Inputs of one tick, sent to the owner of their rooms in this epoch.

    `again`: the owner may have some of them, from an earlier link or epoch; those it has are not taken twice.
    """

    inputs: list[Arrival]
    epoch: int = 0
    again: bool = False


class Rebuild(Struct, frozen=True, array_like=True, tag="rebuild"):
    """Wake a room that was awake at its last owner, though nothing is there for it to handle."""

    room: str
    reason: Literal["crash", "moved"]
    epoch: int = 0


class Record(Struct, frozen=True, array_like=True):
    """One connection as of the last processed input: its attachment, and whether it was told to close.

    `order` is the last `Seat` it was given.
    """

    connection: str
    attachment: bytes
    closing: bool = False
    order: int = 0


class Said(Struct, frozen=True, array_like=True):
    """What a gateway must have of a room by now: the entry `seq`, unless its own inputs alone led to what that says.

    `shown` is its last input of which other gateways have seen something.
    """

    gateway: str
    seq: int
    shown: int


class Heard(Struct, frozen=True, array_like=True):
    """What a gateway has of a room: owner, epoch and `seq` of the last entry, and what that said of `others`."""

    owner: str
    epoch: int
    seq: int
    others: tuple[Said, ...] = ()


class Snapshot(Struct, frozen=True, array_like=True, tag="snapshot"):
    """Answer to `Pull`: the records of a room; `last` is false while more chunks follow.

    `processed` is the number of the last input of the room that is done: an input up to it that is still under way was
    handled by an earlier owner. `heard`, in the last chunk, is what the owners until now have said.
    """

    room: str
    incarnation: int
    records: list[Record]
    last: bool = True
    processed: int = 0
    heard: Heard | None = None


class Drained(Struct, frozen=True, array_like=True, tag="drained"):
    """Answer to `Drain`: what was written to the connection has left, or the connection is gone."""

    room: str
    token: int


class Outcome(Struct, frozen=True, array_like=True):
    """What came of a call: its result as JSON text, or a code of the error table and where in the arguments.

    `message` is only about the caller's own arguments; of what a hook raised only the text that it made `public` leaves
    the server.
    """

    result: bytes | None = None
    code: str | None = None
    path: str | None = None
    message: str | None = None
    public: str | None = None


class Replied(Struct, frozen=True, array_like=True, tag="replied"):
    """Answer to `Invoke`."""

    room: str
    token: int
    outcome: Outcome


class Ask(Struct, frozen=True, array_like=True, tag="ask"):
    """Ask the other process about itself, or, as `relay`, a host to ask all other gateways too; answered with `Told`.

    `topic` and `argument` are the questions of `verani_gateway.operating.overview`.
    """

    token: int
    topic: str
    argument: str = ""
    relay: bool = False


class Told(Struct, frozen=True, array_like=True, tag="told"):
    """Answer to `Ask`: what `sender` says, as JSON text; `more` names the gateways whose answers follow."""

    token: int
    sender: str
    body: bytes
    more: tuple[str, ...] = ()


GatewayMessage: TypeAlias = InputBatch | Snapshot | Drained | Replied | Rebuild | Ask | Told


# --- outputs: host to gateway --------------------------------------------------------------------------


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
    other gateways must have of the room by the end of the tick.
    """

    room: str
    processed: int | None = None
    begun: int | None = None
    outputs: list[Output] = msgspec.field(default_factory=list)
    attachments: list[Attach | Seat] = msgspec.field(default_factory=list)
    seq: int = 0
    asleep: bool = False
    more: bool = False
    others: tuple[Said, ...] = ()


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


class Pull(Struct, frozen=True, array_like=True, tag="pull"):
    """Ask a gateway for its records of a room that wakes; it answers once it is in this epoch."""

    room: str
    incarnation: int
    epoch: int = 0


class Invoke(Struct, frozen=True, array_like=True, tag="invoke"):
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


class Announce(Struct, frozen=True, array_like=True, tag="announce"):
    """Tell a gateway the epoch that is committed; it forwards rooms to their owners in it from now on."""

    epoch: Epoch


class GivenUp(Struct, frozen=True, array_like=True, tag="given_up"):
    """Tell a gateway that came back too late: in these rooms its connections got their `on_disconnect`.

    `others`: other rooms may have woken without its records, too, and its connections there have missed outputs.
    """

    rooms: list[str]
    others: bool = False


class Serving(Struct, frozen=True, array_like=True, tag="serving"):
    """Tell a gateway that this host may serve its rooms for so many seconds from now; said again long before."""

    seconds: float


HostMessage: TypeAlias = (
    EntryBatch | Pull | Invoke | Announce | GivenUp | Serving | Ask | Told | Group | Ungroup | Ended
)


# --- packets: both directions between processes --------------------------------------------------------


class GatewayPacket(Struct, frozen=True, array_like=True):
    """Messages of a gateway; `number` 0 only confirms. `confirmed` is the highest packet received."""

    number: int
    confirmed: int
    messages: list[GatewayMessage]


class HostPacket(Struct, frozen=True, array_like=True):
    """The same of a room host."""

    number: int
    confirmed: int
    messages: list[HostMessage]


# For links between processes; in memory, messages are handed over as they are.
encode_message = msgspec.msgpack.Encoder().encode
decode_hello = msgspec.msgpack.Decoder(Hello).decode
decode_gateway_packet = msgspec.msgpack.Decoder(GatewayPacket).decode
decode_host_packet = msgspec.msgpack.Decoder(HostPacket).decode

"""Name what gateways and room hosts ask each other, and the answers."""

from __future__ import annotations

from msgspec import Struct

__all__ = [
    "Ask",
    "Drained",
    "Heard",
    "Invoke",
    "Outcome",
    "Pull",
    "Record",
    "Replied",
    "Said",
    "Snapshot",
    "Told",
]


class Pull(Struct, frozen=True, array_like=True, tag="pull"):
    """Ask a gateway for its records of a room that wakes; it answers once it is in this epoch."""

    room: str
    incarnation: int
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
    others: tuple[Said, ...] | None = None


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


class Invoke(Struct, frozen=True, array_like=True, tag="invoke"):
    """Ask a gateway to call a method of another room for this one; answered with `Replied`.

    Gateways know which host has which room. The fields from `target` on are those of the `CallInput` it becomes.
    """

    room: str
    token: int
    target: str
    method: str
    arguments: bytes
    timeout: float
    key: str | None = None
    chain: tuple[str, ...] = ()
    trace: str | None = None


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

    `topic` and `argument` are the questions of `verani_gateway.operating.inquiry`.
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

"""Name what a gateway tells a room host to handle: inputs of rooms, in order.

An input's `number` rises within its gateway and room; gaps mean nothing.
"""

from __future__ import annotations

import math
from typing import Literal, TypeAlias

from msgspec import Struct

__all__ = [
    "Arrival",
    "CallInput",
    "Close",
    "Connect",
    "FrameInput",
    "Input",
    "InputBatch",
    "InterruptedInput",
    "Rebuild",
    "TakenCall",
    "kind_of",
]


class Connect(Struct, frozen=True, array_like=True, tag="connect"):
    """A client came; `attachment` is its encoded meta."""

    room: str
    number: int
    connection: str
    attachment: bytes
    trace: str | None = None


class FrameInput(Struct, frozen=True, array_like=True, tag="frame"):
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


class CallInput(Struct, frozen=True, array_like=True, tag="call"):
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


class TakenCall(CallInput, frozen=True, array_like=True, tag="call"):
    """A call at a room host, which never sends it: `expires` is when its time is over, on the clock of the host."""

    expires: float = math.inf

    @classmethod
    def of(cls, call: CallInput, expires: float) -> TakenCall:
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


Input: TypeAlias = Connect | FrameInput | Close | CallInput


class InterruptedInput(Struct, frozen=True, array_like=True, tag="interrupted"):
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
Arrival: TypeAlias = Input | InterruptedInput


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

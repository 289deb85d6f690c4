"""Gather what a gateway and a room host say to each other over a link.

Inputs go to the host, entries come back; both are batched per event-loop tick. In memory, messages are handed over
as they are. Between processes both sides open with `Hello` and then send packets: messages of one tick, numbered
and confirmed (see `verani.link.stream`), in shorthand (see `verani.link.shorthand`), as msgpack. All are tagged structs
whose fields are only ever appended.
"""

from __future__ import annotations

from .announcements import (
    Announce,
    GivenUp,
    Serving,
)
from .entries import (
    Attach,
    Cast,
    Deliver,
    Drain,
    Ended,
    Entry,
    EntryBatch,
    Group,
    Invalid,
    Kick,
    Output,
    Reply,
    Seat,
    Ungroup,
)
from .inputs import (
    Arrival,
    CallInput,
    Close,
    Connect,
    FrameInput,
    Input,
    InputBatch,
    InterruptedInput,
    Rebuild,
    TakenCall,
    kind_of,
)
from .packets import (
    PROTOCOL_VERSIONS,
    GatewayMessage,
    GatewayPacket,
    Hello,
    HostMessage,
    HostPacket,
    decode_gateway_packet,
    decode_hello,
    decode_host_packet,
    encode_message,
)
from .questions import (
    Ask,
    Drained,
    Heard,
    Invoke,
    Outcome,
    Pull,
    Record,
    Replied,
    Said,
    Snapshot,
    Told,
)

__all__ = [
    "PROTOCOL_VERSIONS",
    "Announce",
    "Arrival",
    "Ask",
    "Attach",
    "Call",
    "CallInput",
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
    "FrameInput",
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
    "InterruptedInput",
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
    "Serving",
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

# The names that `verani.room.methods.Call`, `verani.Frame` and `verani.errors.Interrupted` have, too; on their way out.
Call = CallInput
Frame = FrameInput
Interrupted = InterruptedInput

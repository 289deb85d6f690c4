"""Define what processes send each other: `Hello`, once each, then packets of messages, encoded as msgpack.

Here are also the messages that only processes need: what a host says of who serves which rooms.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec
from msgspec import Struct

from .entries import Ended, EntryBatch, Group, Ungroup
from .epoch import Epoch
from .inputs import InputBatch, Rebuild
from .questions import Ask, Drained, Invoke, Pull, Replied, Snapshot, Told

__all__ = [
    "PROTOCOL_VERSIONS",
    "Announce",
    "GatewayMessage",
    "GatewayPacket",
    "GivenUp",
    "Hello",
    "HostMessage",
    "HostPacket",
    "Serving",
    "decode_gateway_packet",
    "decode_hello",
    "decode_host_packet",
    "encode_message",
]

# Lowest and highest version of these messages that a process speaks.
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


class Announce(Struct, frozen=True, array_like=True, tag="announce"):
    """Tell a gateway the epoch that is committed; it forwards rooms to their owners in it from now on."""

    epoch: Epoch


class GivenUp(Struct, frozen=True, array_like=True, tag="given_up"):
    """Tell a gateway that came back too late: in these rooms its connections got their `on_disconnect`.

    `others`: other rooms may have woken without its records, too, and its connections there have missed outputs.
    `unheard`: besides, what these rooms said last may not have come; with the last input of it that each is through.
    """

    rooms: list[str]
    others: bool = False
    unheard: dict[str, int] = {}


class Serving(Struct, frozen=True, array_like=True, tag="serving"):
    """Tell a gateway that this host may serve its rooms for so many seconds from now; said again long before."""

    seconds: float


GatewayMessage: TypeAlias = InputBatch | Snapshot | Drained | Replied | Rebuild | Ask | Told


HostMessage: TypeAlias = (
    EntryBatch | Pull | Invoke | Announce | GivenUp | Serving | Ask | Told | Group | Ungroup | Ended
)


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

"""Pack control messages for Thespian: a parcel is one message, which only our own code can read.

Thespian pickles whatever is sent and writes `str()` of it to logs and status reports. So what it gets to see is an
object of this class: bytes of our own format, and a text that tells nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from thespian.actors import ActorAddress

from ..membership.control import Control, decode_control, encode_control

__all__ = ["Parcel", "Probe"]

# Thespian's transport takes 1 MiB (see `verani_actors.processes.hardened`), addresses and frame included.
_LARGEST: Final = 1 << 19


class Probe:
    """Ask a process of the actor system, by its name, whether it does anything at all; it sends this back."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __str__(self) -> str:
        return "a probe"

    __repr__ = __str__


class Parcel:
    """One control message. `sender` is "registrar", "launcher:<machine>" or "host:<incarnation>".

    `addresses` tells the receiver where others are, by the same names.
    """

    def __init__(self, sender: str, message: Control, addresses: Mapping[str, ActorAddress] | None = None) -> None:
        self.sender = sender
        self.addresses = dict(addresses or {})
        self._content = encode_control(message)
        if len(self._content) > _LARGEST:
            raise ValueError(f"expected a control message of at most {_LARGEST} bytes, got {len(self._content)}")

    def open(self) -> Control:
        """Decode the message."""
        message: Control = decode_control(self._content)
        return message

    def __str__(self) -> str:
        return "a control message"

    __repr__ = __str__

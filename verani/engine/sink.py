"""Say where the effects of a room go; whoever runs an engine brings a sink."""

from __future__ import annotations

from typing import Protocol

from ..link import messages

__all__ = ["Sink"]


class Sink(Protocol):
    """Where effects go, as they occur."""

    def output(self, gateway: str, output: messages.Output, cause: int | None) -> None:
        """Take one output for a gateway; `cause` is the number of the input being handled, if any."""

    def attach(self, gateway: str, attach: messages.Attach | messages.Seat, cause: int | None) -> None:
        """Take one committed attachment, or the place of a new session; `cause` is None where a repeat does no harm."""

    def invoke(self, invoke: messages.Invoke) -> None:
        """Carry a call to another room; `Engine.replied` takes the outcome."""

    def processed(self, gateway: str, number: int) -> None:
        """Take the acknowledgement of an input: all it caused has been written before."""

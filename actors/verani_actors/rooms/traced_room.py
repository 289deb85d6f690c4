"""Say with what a room sends, and asks of others, which span it belongs to."""

from __future__ import annotations

from msgspec.structs import replace

from verani.link.messages import Invoke, Output
from verani.tracing import traceparent

from .hosted_room import HostedRoom, RoomState

__all__ = ["TracedRoom"]

# Spans of hooks that one entry names; a tick of a busy room has more.
_MAX_TRACES = 16


def _id(trace: str) -> str:
    """Return what all spans of a trace begin with: the version of the format and the id of the trace."""
    return trace[:35]


class TracedRoom(HostedRoom):
    """One incarnation of a room, whose effects are followed."""

    def output(self, gateway: str, output: Output, cause: int | None) -> None:
        if self.state is not RoomState.GONE and gateway in self._entries.gateways:
            self._note(gateway, cause)
        super().output(gateway, output, cause)

    def _note(self, gateway: str, cause: int | None) -> None:
        if cause is None or (self.engine is not None and self.engine.room.turn.is_callers):
            trace = traceparent()
        else:  # what follows a hook, such as its answer
            trace = getattr(self.in_flight[0][1], "trace", None)
        entry = self._entries.entry(gateway, self)
        if (
            trace is not None
            and len(entry.traces) < _MAX_TRACES
            and not any(map(trace.startswith, map(_id, entry.traces)))
        ):
            entry.traces = (*entry.traces, trace)

    def invoke(self, invoke: Invoke) -> None:
        super().invoke(replace(invoke, trace=traceparent()))

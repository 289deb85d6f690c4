"""What a client learns: events of its room, and signals of its own life."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["Event", "LIFECYCLE_EVENTS", "Signal"]

# Protocol 11. `error` is missing on purpose: applications may use that name.
LIFECYCLE_EVENTS = frozenset(
    {"open", "connected", "connecting", "close", "disconnected", "reconnecting"},
)


@dataclass(frozen=True, slots=True)
class Event:
    """One application event from the server.

    `data` is the whole payload as the server sent it (with the `type` key that `emit` puts into it), None where
    there is none; `channel` is None on frames without a channel.
    """

    type: str
    data: Any
    channel: str | None


@dataclass(frozen=True, slots=True)
class Signal:
    """One life-cycle change of the client itself, with the arguments its listeners get."""

    name: str
    args: tuple[Any, ...]

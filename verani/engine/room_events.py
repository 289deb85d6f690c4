"""Name what an engine takes: inputs of gateways, and what else happens to a room."""

from __future__ import annotations

from typing import Any, TypeAlias

from msgspec import Struct

from ..link import messages
from ..room.operations import WakeReason

__all__ = ["Attached", "Event", "HookFailed", "Retire", "Woken", "reason_of"]


class Woken(Struct, frozen=True):
    """The room wakes with these records of each gateway; the first event of every incarnation."""

    records: tuple[tuple[str, tuple[messages.Record, ...]], ...] = ()
    reason: WakeReason = "frame"


class Attached(Struct, frozen=True):
    """A gateway whose records came late, or that linked later; its connections join without `on_connect`."""

    gateway: str
    records: tuple[messages.Record, ...]


class Retire(Struct, frozen=True):
    """The room goes to sleep: the last event of an incarnation. `force` cancels the tasks it spawned."""

    force: bool = False


class HookFailed(Struct, frozen=True):
    """Something outside the order of inputs failed: a spawned task, an abandoned hook. Leads to `on_error`.

    `name` is that of the hook that it was, or was spawned by, where `context` was not made for that hook alone.
    """

    error: BaseException
    context: Any
    name: str = ""


Event: TypeAlias = messages.Arrival | Woken | Attached | Retire | HookFailed


def reason_of(event: Event) -> WakeReason:
    """Say what woke a room that this event woke."""
    match event:
        case messages.Connect():
            return "connect"
        case messages.Close():
            return "close"
        case messages.CallInput():
            return "call"
        case messages.InterruptedInput():
            return "crash"
        case _:
            return "frame"

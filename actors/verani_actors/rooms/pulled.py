"""Keep the records that an incarnation of a room pulls from gateways, until they are merged: pure.

Invariants:
- Records are taken of gateways that were asked and have not answered to the end, and of nobody else.
- Inputs of a gateway that linked after the room was opened are held until its records are merged.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from verani.link.messages import Arrival, Heard, InterruptedInput, Record, Snapshot

from .hearsay import seen_of

__all__ = ["UNKNOWN", "Pulled"]

# In place of a gateway whose records a room waits for: one that this host does not know of yet.
UNKNOWN: Final = ""


class Pulled:
    """What one incarnation has asked for, and what has come of it."""

    def __init__(self, incarnation: int, expected: Iterable[str]) -> None:
        """Wait for the records of the `expected` gateways."""
        self.incarnation = incarnation
        # Gateways whose last chunk is awaited: before the room is opened, and, of those that linked later, after.
        self.expected = set(expected)
        self.late: set[str] = set()
        self.held: dict[str, list[Arrival]] = {}
        self.records: dict[str, list[Record]] = {}
        # What gateways have heard of earlier owners; and their last inputs of which others have seen something.
        self.heard: dict[str, Heard] = {}
        self.seen: dict[str, int] = {}

    def take(self, gateway: str, snapshot: Snapshot) -> bool:
        """Take a chunk; True if it was the last one of a gateway that was asked."""
        if snapshot.incarnation != self.incarnation or (gateway not in self.late and gateway not in self.expected):
            return False
        self.records.setdefault(gateway, []).extend(snapshot.records)
        return snapshot.last

    def settle_hearsay(self) -> dict[str, Heard]:
        """Return what gateways have heard, and mark from now on what others have seen."""
        heard, self.heard = self.heard, {}
        self.seen = seen_of(heard)
        return heard

    def as_seen(self, gateway: str, arrival: Arrival) -> Arrival:
        """Mark an input that an earlier owner had begun, or processed, for others to see: it is not run again."""
        is_seen = 0 < arrival.number <= self.seen.get(gateway, 0)
        return InterruptedInput(arrival) if is_seen and not isinstance(arrival, InterruptedInput) else arrival

    def all_held(self) -> list[tuple[str, Arrival]]:
        """List the inputs that wait for late records."""
        return [(gateway, arrival) for gateway, arrivals in self.held.items() for arrival in arrivals]

    def drop_processed(self, gateway: str, processed: int) -> None:
        """Drop held inputs up to this number."""
        if gateway in self.held:
            self.held[gateway] = [arrival for arrival in self.held[gateway] if arrival.number > processed]

    def lose(self, gateway: str) -> bool:
        """Wait for a gateway no more; False if nothing was of it."""
        had = self.held.pop(gateway, None) is not None
        had |= bool(self.records.pop(gateway, None)) or gateway in self.expected or gateway in self.late
        self.late.discard(gateway)
        self.expected.discard(gateway)
        return had

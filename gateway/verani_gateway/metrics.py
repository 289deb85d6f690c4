"""Count what a gateway does and what its limits refuse, and write that down in Prometheus' text format 0.0.4.

Counting must cost nothing: plain numbers, changed by the loop's thread only, and read when somebody asks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from verani_actors.families import Family, labelled, rooms_family, written

if TYPE_CHECKING:
    from .gateway import Gateway

__all__ = ["CONTENT_TYPE", "Family", "Metrics", "exposition", "labelled"]

CONTENT_TYPE: Final = "text/plain; version=0.0.4"


class Metrics:
    """The counters of one gateway; they only ever rise."""

    def __init__(self) -> None:
        self.frames = 0
        self.invalid_frames = 0
        self.dropped_frames = 0
        self.connections = 0
        # Of connections, by close code; of handshakes and calls, by the code of the error table ("ok" for a result).
        self.closes: Counter[int] = Counter()
        self.refusals: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()
        # How often a limit made itself felt, by the name of its setting.
        self.limited: Counter[str] = Counter()


def exposition(gateway: Gateway) -> str:
    """Write down all counters and gauges of a gateway and of what it knows of the room hosts."""
    return written(_families(gateway))


def _families(gateway: Gateway) -> Iterator[Family]:
    metrics = gateway.metrics
    yield Family("connections", "gauge", "open connections", {"": len(gateway.connections)})
    yield Family("connections_total", "counter", "connections accepted", {"": metrics.connections})
    yield Family("closes_total", "counter", "connections closed, by close code", labelled("code", metrics.closes))
    yield Family(
        "refusals_total", "counter", "handshakes and bodies refused, by error code", labelled("code", metrics.refusals)
    )
    yield Family("frames_total", "counter", "frames forwarded to rooms", {"": metrics.frames})
    yield Family("invalid_frames_total", "counter", "invalid frames dropped", {"": metrics.invalid_frames})
    yield Family("dropped_frames_total", "counter", "frames dropped by the rate", {"": metrics.dropped_frames})
    yield Family("limited_total", "counter", "what limits did, by setting", labelled("setting", metrics.limited))
    yield Family("calls_total", "counter", "calls answered, by error code or ok", labelled("code", metrics.calls))
    yield Family("calls_waiting", "gauge", "calls that wait for their answer", {"": len(gateway.calls)})
    yield rooms_family(gateway.room_states())
    yield from gateway.placement.families()
    yield Family("in_flight_bytes", "gauge", "bytes of inputs not yet processed", {"": gateway.in_flight})

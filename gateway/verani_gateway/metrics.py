"""Count what a gateway does and what its limits refuse, and write that down in Prometheus' text format 0.0.4.

Counting must cost nothing: plain numbers, changed by the loop's thread only, and read when somebody asks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from .gateway import Gateway

__all__ = ["CONTENT_TYPE", "Metrics", "exposition"]

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
    """Write down all counters and gauges of a gateway and its embedded room host."""
    return "".join(_lines(gateway))


def _lines(gateway: Gateway) -> Iterator[str]:
    metrics = gateway.metrics
    host = gateway.host
    yield from _family("connections", "gauge", "open connections", {"": len(gateway.connections)})
    yield from _family("connections_total", "counter", "connections accepted", {"": metrics.connections})
    yield from _family("closes_total", "counter", "connections closed, by close code", _by("code", metrics.closes))
    yield from _family("refusals_total", "counter", "handshakes refused, by error code", _by("code", metrics.refusals))
    yield from _family("frames_total", "counter", "frames forwarded to rooms", {"": metrics.frames})
    yield from _family("invalid_frames_total", "counter", "invalid frames dropped", {"": metrics.invalid_frames})
    yield from _family("dropped_frames_total", "counter", "frames dropped by the rate", {"": metrics.dropped_frames})
    yield from _family("limited_total", "counter", "what limits did, by setting", _by("setting", metrics.limited))
    yield from _family("calls_total", "counter", "calls answered, by error code or ok", _by("code", metrics.calls))
    yield from _family("calls_waiting", "gauge", "calls that wait for their answer", {"": len(gateway.calls)})
    yield from _family(
        "rooms",
        "gauge",
        "rooms that are awake, or sleep with connections, by state",
        _by("state", gateway.room_states()),
    )
    yield from _family("wakes_total", "counter", "rooms woken", {"": host.wakes})
    yield from _family("sleeps_total", "counter", "rooms fallen asleep", {"": host.sleeps})
    yield from _family("awake_excess", "gauge", "rooms awake above max_awake_rooms", {"": host.excess})
    yield from _family("in_flight_bytes", "gauge", "bytes of inputs not yet processed", {"": gateway.in_flight})


def _by(label: str, counts: Mapping[str, int] | Mapping[int, int]) -> dict[str, int]:
    """Label counts; the values are codes, states and settings, never anything that a client chose."""
    return {f'{{{label}="{value}"}}': counts[value] for value in sorted(counts)}  # type: ignore[index]  # one of the two


def _family(name: str, kind: str, text: str, samples: Mapping[str, float]) -> Iterator[str]:
    yield f"# HELP verani_{name} {text}\n# TYPE verani_{name} {kind}\n"
    for labels, value in samples.items():
        yield f"verani_{name}{labels} {value}\n"

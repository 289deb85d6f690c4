"""Render for Prometheus what a gateway has counted, and what it knows of room hosts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from verani_actors.operating.measures import Metric, counter, counters, gauge, render, rooms_gauges

from ..gateway import Gateway

__all__ = ["CONTENT_TYPE", "exposition"]

CONTENT_TYPE: Final = "text/plain; version=0.0.4"


def exposition(gateway: Gateway) -> str:
    """Render all counters and gauges of a gateway and of what it knows of the room hosts."""
    return render(_metrics(gateway))


def _metrics(gateway: Gateway) -> Iterator[Metric]:
    counts = gateway.metrics
    closes = {str(code): count for code, count in counts.closes.items()}
    yield gauge("connections", "open connections", len(gateway.connections))
    yield counter("connections", "connections accepted", counts.connections)
    yield counters("closes", "connections closed, by close code", "code", closes)
    yield counters("refusals", "handshakes and bodies refused, by error code", "code", counts.refusals)
    yield counter("frames", "frames forwarded to rooms", counts.frames)
    yield counter("invalid_frames", "invalid frames dropped", counts.invalid_frames)
    yield counter("dropped_frames", "frames dropped by the rate", counts.dropped_frames)
    yield counters("limited", "what limits did, by setting", "setting", counts.limited)
    yield counters("calls", "calls answered, by error code or ok", "code", counts.calls)
    yield gauge("calls_waiting", "calls that wait for their answer", len(gateway.calls))
    yield rooms_gauges(gateway.room_states())
    yield from gateway.placement.measures()
    yield gauge("in_flight_bytes", "bytes of inputs not yet processed", gateway.in_flight)

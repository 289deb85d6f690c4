"""Write down what a gateway has counted, and what it knows of room hosts, in Prometheus' text format 0.0.4."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from verani_actors.operating.measures import Family, labelled, rooms_family, written

from ..gateway import Gateway

__all__ = ["CONTENT_TYPE", "exposition"]

CONTENT_TYPE: Final = "text/plain; version=0.0.4"


def exposition(gateway: Gateway) -> str:
    """Write down all counters and gauges of a gateway and of what it knows of the room hosts."""
    return written(_families(gateway))


def _families(gateway: Gateway) -> Iterator[Family]:
    metrics = gateway.metrics
    closes = {str(code): count for code, count in metrics.closes.items()}
    yield Family("connections", "gauge", "open connections", {"": len(gateway.connections)})
    yield Family("connections_total", "counter", "connections accepted", {"": metrics.connections})
    yield Family("closes_total", "counter", "connections closed, by close code", labelled("code", closes))
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

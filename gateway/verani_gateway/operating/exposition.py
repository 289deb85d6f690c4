"""Render for Prometheus what a gateway has counted, and what it knows of room hosts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from verani_actors.operating.measures import Measure, counter, counters, gauge, histograms, process_metrics, render

from ..gateway import Gateway

__all__ = ["CONTENT_TYPE", "exposition"]

CONTENT_TYPE: Final = "text/plain; version=0.0.4"


def exposition(gateway: Gateway) -> str:
    """Render all counters and gauges of a gateway and of what it knows of the room hosts."""
    own = (*_traffic(gateway), *_identifying(gateway), *_queues(gateway))
    return render((*own, *gateway.placement.measures(), *process_metrics()))


def _traffic(gateway: Gateway) -> Iterator[Measure]:
    counts = gateway.metrics
    closes = {str(code): count for code, count in counts.closes.items()}
    slow = counts.limited["max_send_buffer"]
    yield gauge("connections", "Open connections.", len(gateway.connections))
    yield counter("connections", "Connections accepted.", counts.connections)
    yield counters("closes", "Connections closed, by close code.", "code", closes)
    yield counters("refusals", "Handshakes and bodies refused, by error code.", "code", counts.refusals)
    yield counter("frames", "Frames forwarded to rooms.", counts.frames)
    yield counter("deliveries", "Frames of rooms written to connections, one for each of them.", counts.deliveries)
    yield counter("received_bytes", "Bytes read from connections.", counts.received_bytes)
    yield counter("sent_bytes", "Bytes written to connections.", counts.sent_bytes)
    yield counter("invalid_frames", "Invalid frames dropped.", counts.invalid_frames)
    yield counter("dropped_frames", "Frames dropped by the rate.", counts.dropped_frames)
    yield counters("limited", "What limits did, by setting.", "setting", counts.limited)
    yield counter("slow_consumers", "Connections closed because their clients do not read.", slow)
    yield counters("calls", "Calls answered, by error code or ok.", "code", counts.calls)


def _identifying(gateway: Gateway) -> Iterator[Measure]:
    rows = gateway.metrics.identifying
    told = (({"definition": name}, measure) for name, measure in rows.items())
    errors = {name: measure.errors for name, measure in rows.items()}
    yield histograms("identify_duration", "Time that hooks took which decide who may connect.", told)
    yield counters("identify_errors", "Hooks that failed which decide who may connect.", "definition", errors)


def _queues(gateway: Gateway) -> Iterator[Measure]:
    full = gateway.metrics.full
    unsent = sum(transport.get_write_buffer_size() for transport in full)
    yield gauge("calls_waiting", "Calls that wait for their answer.", len(gateway.calls))
    yield gauge("in_flight_inputs", "Inputs that no room has processed yet.", gateway.attachments.unprocessed)
    yield gauge("in_flight_bytes", "Bytes of inputs that no room has processed yet.", gateway.in_flight)
    waiting = gateway.facilities.writer.waiting_bytes
    yield gauge("outbox_bytes", "Bytes of outboxes whose turn has not come, or whose sockets are full.", waiting)
    yield gauge("full_sockets", "Connections whose sockets take nothing more at present.", len(full))
    yield gauge("send_buffer_bytes", "Bytes that wait for sockets which take nothing more.", unsent)

"""Bring what rooms say to connections in a span that belongs to the hooks which have said it."""

from __future__ import annotations

from opentelemetry.trace import SpanKind

from verani.link.messages import Entry
from verani.tracing import begin_span

from .delivery import Delivery

__all__ = ["TracedDelivery"]


class TracedDelivery(Delivery):
    """What one gateway does with entries, as spans."""

    def _apply(self, entry: Entry) -> None:
        if not entry.traces:
            super()._apply(entry)
            return
        first, *others = entry.traces
        about = {"messaging.batch.message_count": len(entry.outputs)}
        span = begin_span("deliver", entry.room, SpanKind.PRODUCER, about, parent=first, others=tuple(others))
        try:
            super()._apply(entry)
        finally:
            span.end()

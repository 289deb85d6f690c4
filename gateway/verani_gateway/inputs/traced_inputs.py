"""Send each input in a span, and have the input carry its context to the room."""

from __future__ import annotations

from collections.abc import Callable

from msgspec.structs import force_setattr
from opentelemetry.trace import SpanKind

from verani.link.messages import CallInput, FrameInput, Input, kind_of
from verani.tracing import begin_span, traceparent

from .attachments import size_of

__all__ = ["traced_send"]

# Of the name of an event: a client chooses it.
_LONGEST = 100


def traced_send(send: Callable[[Input], None]) -> Callable[[Input], None]:
    """Wrap what leads to the owners of rooms; a call has its parent with it, or belongs to the code that makes it."""

    def send_traced(input: Input) -> None:
        about: dict[str, str | int] = {"verani.input": kind_of(input), "messaging.message.body.size": size_of(input)}
        parent = input.trace
        match input:
            case FrameInput():
                about |= {"verani.event": input.event[:_LONGEST], "messaging.client.id": input.connection}
            case CallInput():
                about |= {"verani.event": input.method}
                parent = parent or traceparent()
            case _:
                about |= {"messaging.client.id": input.connection}
        span = begin_span("send", input.room, SpanKind.PRODUCER, about, parent=parent)
        # It was made just now and only the attachments have it: what is sent again is in this span, too.
        force_setattr(input, "trace", traceparent(span))
        try:
            send(input)
        finally:
            span.end()

    return send_traced

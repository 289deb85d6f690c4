"""Speak OpenTelemetry: name spans and what is said of them, and carry their context as text.

Needs the extra `otel`, and is imported only where the setting `tracing` is on. Where spans go is the application's
business, which sets up a tracer provider. Nothing of a payload, a token or the text of an error is in a span.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Final

try:
    from opentelemetry import trace
    from opentelemetry.context import Context, attach, detach, get_current
    from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
except ModuleNotFoundError as error:
    raise ModuleNotFoundError("tracing needs OpenTelemetry: pip install 'verani[otel]'", name=error.name) from error

from .errors import VeraniError, is_refusal
from .version import __version__

__all__ = ["HEADER", "begin_span", "belonging_to", "failed_with", "making_current", "traceparent"]

# Of W3C's Trace Context, in requests and between processes.
HEADER: Final = "traceparent"

# A span links to so many others, at most.
_MAX_LINKS: Final = 16

_carrying: Final = TraceContextTextMapPropagator()
_tracer: Final = trace.get_tracer("verani", __version__)


def traceparent(span: Span | None = None) -> str | None:
    """Write down the context of a span, by default that of the code that runs; None outside of any."""
    carrier: dict[str, str] = {}
    _carrying.inject(carrier, trace.set_span_in_context(span, Context()) if span is not None else None)
    return carrier.get(HEADER)


def begin_span(
    operation: str,
    room: str,
    kind: SpanKind,
    attributes: Mapping[str, str | int],
    *,
    parent: str | None,
    others: tuple[str, ...] = (),
) -> Span:
    """Begin what is done to a message of a room, as the conventions for messaging name it.

    The operation is send, process or deliver. `parent` and `others` were written by `traceparent`; without a parent a
    trace begins. What runs now is never the parent: callbacks of the loop run in the context of who has planned them.
    """
    definition, _, _ = room.partition("/")
    said: dict[str, str | int] = {
        "messaging.system": "verani",
        "messaging.operation.name": operation,
        "messaging.operation.type": "process" if kind is SpanKind.CONSUMER else "send",
        "messaging.destination.name": room,
        "messaging.destination.template": f"{definition}/{{room}}",
        **attributes,
    }
    links = [Link(_span_of(_read(other)).get_span_context()) for other in others[:_MAX_LINKS]]
    context = _read(parent) if parent is not None else Context()
    return _tracer.start_span(f"{operation} {definition}", context, kind, said, links)


def making_current(span: Span) -> AbstractContextManager[Span]:
    """Have the code in a `with` block belong to a span, which goes on after it."""
    return trace.use_span(span, record_exception=False, set_status_on_exception=False)


@contextmanager
def belonging_to(parent: str) -> Iterator[None]:
    """Have the code in a `with` block belong to a span elsewhere, if that is what was written by `traceparent`."""
    token = attach(_carrying.extract({HEADER: parent}, get_current()))
    try:
        yield
    finally:
        detach(token)


def failed_with(span: Span, error: BaseException) -> None:
    """Say what type of error came of it; who was refused on purpose was treated as it should."""
    span.set_attribute("error.type", error.code if isinstance(error, VeraniError) else type(error).__name__)
    if not is_refusal(error):
        span.set_status(Status(StatusCode.ERROR))


def _read(parent: str) -> Context:
    return _carrying.extract({HEADER: parent}, Context())


def _span_of(context: Context) -> Span:
    return trace.get_current_span(context)

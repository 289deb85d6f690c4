"""Rooms whose spans go to the file that `SPANS` names, a line of JSON each, with the process that made them."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult

from verani import Actor, Context, define_room

SPANS = "TRACED_SPANS"


class FileExporter(SpanExporter):
    """Append spans to a file that several processes have open: a line is written at once, and so stays whole."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", buffering=1)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        for span in spans:
            self._file.write(json.dumps({"pid": os.getpid(), "span": json.loads(span.to_json())}) + "\n")
        return SpanExportResult.SUCCESS


if SPANS in os.environ:
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(FileExporter(Path(os.environ[SPANS]))))
    trace.set_tracer_provider(provider)


chat = define_room("chat", websocket_path="/ws")


@chat.on("ask")
async def ask(ctx: Context, data: str) -> int:
    ctx.actor.broadcast("default", {"type": "asked"})
    return await ctx.actor.stub(chat, data).answer()  # type: ignore[no-any-return]


@chat.rpc
def answer(actor: Actor) -> int:
    return 42

"""What rooms say reaches connections and callers."""

from __future__ import annotations

import asyncio

import pytest

from tests.gateway.connections.test_outbox import Line
from verani.link.messages import CallInput, Entry, Outcome, Reply
from verani_gateway.connections.delivery import Delivery
from verani_gateway.connections.open_connections import OpenConnections
from verani_gateway.connections.outbox import Writer
from verani_gateway.inputs.attachments import Attachments
from verani_gateway.inputs.congestion import Congestion
from verani_gateway.inputs.metrics import Metrics


async def test_after_an_entry_that_cannot_be_applied_everybody_is_written_to_as_before() -> None:
    def replied(_: Reply) -> None:
        raise RuntimeError("whoever waits cannot take it")

    attachments, metrics = Attachments(), Metrics()
    writer = Writer(asyncio.get_running_loop(), metrics)
    delivery = Delivery(
        OpenConnections("g", ()),
        attachments,
        Congestion(attachments),
        writer,
        metrics,
        replied=replied,
        answering=lambda _: lambda _: None,
        progress=asyncio.Event(),
    )
    attachments.add(CallInput("chat/a", attachments.next_number(), "m", b"[]", 1.0))
    line = Line(writer)
    with pytest.raises(RuntimeError, match="whoever waits"):
        delivery.apply([Entry("chat/a", outputs=[Reply(1, Outcome(code="failed"))])])
    line.outbox.put(b"a")
    await asyncio.sleep(0)
    assert line.written == b"a"

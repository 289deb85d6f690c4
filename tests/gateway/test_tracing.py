"""A frame and a call are one trace each: from the socket through hooks and other rooms to what is delivered."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import aiohttp
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from tests.raw import text, until
from tests.server import Serve
from verani import Actor, CallFailed, Context, DeadlineExceeded, Forbidden, Settings, connect, define_room
from verani.client import VeraniClient
from verani.engine.hook_runner import Hooks
from verani.link.messages import FrameInput, Input
from verani.room.definition import RoomDefinition
from verani.testing import serve as serve_rooms
from verani_actors.rooms.hosted_room import HostedRoom
from verani_gateway.connections.delivery import Delivery

# A process has one provider for ever.
_EXPORTER = InMemorySpanExporter()
_PROVIDER = TracerProvider()
_PROVIDER.add_span_processor(SimpleSpanProcessor(_EXPORTER))


class Spans:
    """What was exported since the test has begun."""

    def all(self) -> list[ReadableSpan]:
        return list(_EXPORTER.get_finished_spans())

    def of(self, operation: str, **attributes: Any) -> list[ReadableSpan]:
        """Find the spans of an operation with these attributes, of those that are ours alone."""
        named = {f"verani.{name}": value for name, value in attributes.items()}
        return [
            span
            for span in self.all()
            if span.name.split()[0] == operation and (span.attributes or {}).items() >= named.items()
        ]

    async def one(self, operation: str, **attributes: Any) -> ReadableSpan:
        await until(lambda: bool(self.of(operation, **attributes)))
        (span,) = self.of(operation, **attributes)
        return span


@pytest.fixture
def spans() -> Iterator[Spans]:
    if trace.get_tracer_provider() is not _PROVIDER:
        trace.set_tracer_provider(_PROVIDER)
    assert trace.get_tracer_provider() is _PROVIDER
    _EXPORTER.clear()
    yield Spans()
    _EXPORTER.clear()


def trace_of(span: ReadableSpan) -> int:
    context = span.get_span_context()
    assert context is not None
    return context.trace_id


def is_child(child: ReadableSpan, parent: ReadableSpan) -> bool:
    context = parent.get_span_context()
    return context is not None and child.parent is not None and child.parent.span_id == context.span_id


class Traced:
    """A service with spans, of rooms that talk to each other; `stuck` is what a hook waits for that ignores its end."""

    def __init__(self) -> None:
        self.chat: RoomDefinition[Any, Any] = define_room("chat", websocket_path="/ws")
        self.ledger: RoomDefinition[Any, Any] = define_room("ledger", websocket_path="/ledger")
        self.stuck = asyncio.Event()
        for hook in (self.say, self.pay, self.spawn, self.fail, self.decline, self.hang):
            self.chat.on(hook.__name__)(hook)
        self.chat.rpc(total)
        self.ledger.rpc(book)

    def say(self, ctx: Context, data: Any) -> str:
        ctx.emit("said", data)
        return "done"

    async def pay(self, ctx: Context, data: Any) -> int:
        await asyncio.sleep(0)
        return await ctx.actor.stub(self.ledger, "main").book(amount=data)  # type: ignore[no-any-return]

    def spawn(self, ctx: Context, data: Any) -> None:
        ctx.actor.spawn(self._later(ctx.actor))

    async def _later(self, actor: Actor) -> None:
        await actor.stub(self.ledger, "main").book(amount=0)
        actor.broadcast("default", {"type": "spawned"})

    def fail(self, ctx: Context, data: Any) -> None:
        raise KeyError(SECRET)

    def decline(self, ctx: Context, data: Any) -> None:
        raise Forbidden(public=SECRET)

    async def hang(self, ctx: Context, data: Any) -> None:
        while not self.stuck.is_set():
            with suppress(asyncio.CancelledError):
                await self.stuck.wait()


SECRET = "what nobody else is to read"


async def total(actor: Actor) -> int:
    return await actor.stub("ledger", "main").book(amount=1)  # type: ignore[no-any-return]


def book(actor: Actor, amount: int) -> int:
    actor.broadcast("default", {"type": "booked"})
    return amount + 1


@pytest.fixture
def traced() -> Traced:
    return Traced()


@asynccontextmanager
async def serving(traced: Traced, **settings: Any) -> AsyncIterator[tuple[VeraniClient, str]]:
    """Serve, with one client in the room of the chat; give it, and the URL of the internal listener."""
    service = serve_rooms(traced.chat, traced.ledger, settings=Settings(**{"tracing": True, **settings}))
    async with service as url, VeraniClient(f"{url}/ws?room=lobby") as client:
        yield client, service.internal_url


async def test_a_frame_is_one_trace_from_its_socket_through_its_hook_to_what_is_delivered(
    traced: Traced, spans: Spans
) -> None:
    async with serving(traced) as (client, _):
        assert await client.request("say", SECRET) == "done"
        sent = await spans.one("send", input="frame")
        processed = await spans.one("process", hook="say")
        delivered = await spans.one("deliver")
    assert is_child(processed, sent)
    assert is_child(delivered, processed)
    assert sent.parent is None
    path = (sent, processed, delivered)
    assert [span.name for span in path] == ["send chat", "process chat", "deliver chat"]
    assert [span.kind.name for span in path] == ["PRODUCER", "CONSUMER", "PRODUCER"]
    for span in path:
        assert span.attributes is not None
        assert span.attributes["messaging.system"] == "verani"
        assert span.attributes["messaging.destination.name"] == "chat/lobby"
        assert span.attributes["messaging.destination.template"] == "chat/{room}"


def test_a_span_ends_where_what_it_is_about_fails(spans: Spans) -> None:
    from verani_gateway.inputs.traced_inputs import traced_send

    def fail(_: Input) -> None:
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        traced_send(fail)(FrameInput("chat/a", 1, "c", "say"))
    assert len(spans.of("send", event="say")) == 1


async def test_frames_that_come_together_are_traces_of_their_own(traced: Traced, spans: Spans) -> None:
    async with serving(traced) as (client, _):
        await asyncio.gather(*(client.request("say", number) for number in range(30)))
        assert await client.request("pay", 1) == 2
        await until(lambda: len(spans.of("process", hook="say")) == 30)
        await until(lambda: bool(spans.of("deliver")))
    sent = {trace_of(span): span for span in spans.of("send", input="frame")}
    assert len(sent) == 31
    assert all(span.parent is None for span in sent.values())
    for span in spans.of("process", hook="say"):
        assert is_child(span, sent[trace_of(span)])
    told = [[trace_of(span), *(link.context.trace_id for link in span.links)] for span in spans.of("deliver")]
    assert all(len({*each}) == len(each) for each in told)
    assert sent.keys() >= {each for traces in told for each in traces}
    assert max(map(len, told)) > 1


async def test_what_a_hook_asks_of_another_room_is_in_its_trace(traced: Traced, spans: Spans) -> None:
    async with serving(traced) as (client, _):
        assert await client.request("pay", 4) == 5
        pays = await spans.one("process", hook="pay")
        asks = await spans.one("send", input="call")
        books = await spans.one("process", hook="book")
    assert is_child(asks, pays)
    assert is_child(books, asks)
    assert trace_of(books) == trace_of(await spans.one("send", input="frame"))


async def test_a_spawned_task_goes_on_with_the_trace_of_its_hook(traced: Traced, spans: Spans) -> None:
    async with serving(traced) as (client, _):
        heard = asyncio.Event()
        client.once("spawned", lambda data: heard.set())
        client.emit("spawn")
        await heard.wait()
        spawns = await spans.one("process", hook="spawn")
        await until(lambda: bool(spans.of("deliver")))
        assert is_child(await spans.one("send", input="call"), spawns)
        assert is_child(spans.of("deliver")[-1], spawns)


async def test_a_call_over_http_belongs_to_the_trace_that_its_header_names(traced: Traced, spans: Spans) -> None:
    parent = f"00-{'ab' * 16}-{'cd' * 8}-01"
    async with serving(traced) as (_, internal), aiohttp.ClientSession() as session:
        url = f"{internal}/rpc/chat/lobby/total"
        for headers in ({"traceparent": parent}, {"traceparent": "00-nonsense"}, {}):
            async with session.post(url, headers=headers) as response:
                assert await response.json() == 2
        calls = spans.of("process", hook="total")
        books = spans.of("process", hook="book")
    assert trace_of(calls[0]) == trace_of(books[0]) == int("ab" * 16, 16)
    parents = [span.parent.span_id for span in spans.of("send", event="total") if span.parent is not None]
    assert parents == [int("cd" * 8, 16)]
    assert len({trace_of(call) for call in calls}) == 3


async def test_a_span_says_what_type_of_error_there_was_and_nothing_that_anybody_wrote(
    traced: Traced, spans: Spans, clean_log: list[str]
) -> None:
    clean_log.append("a hook of chat/lobby failed: KeyError")
    async with serving(traced) as (client, _):
        for event in ("fail", "decline"):
            with pytest.raises(CallFailed if event == "fail" else Forbidden):
                await client.request(event, SECRET)
        failed = await spans.one("process", hook="fail")
        declined = await spans.one("process", hook="decline")
        client.emit("e" * 200, SECRET)
        await until(lambda: bool(spans.of("send", event="e" * 100)))
    assert (failed.attributes or {})["error.type"] == "KeyError"
    assert not failed.status.is_ok
    assert (declined.attributes or {})["error.type"] == "forbidden"
    assert declined.status.is_unset
    assert SECRET not in "".join(span.to_json() for span in spans.all())


async def test_the_span_of_a_hook_that_is_abandoned_ends_then(
    traced: Traced, spans: Spans, clean_log: list[str]
) -> None:
    clean_log.append("a hook of chat/lobby failed: HookTimeout")
    async with serving(traced, hook_timeout=0.05) as (client, _):
        with pytest.raises(DeadlineExceeded):
            await client.request("hang", timeout=30)
        hung = await spans.one("process", hook="hang")
        assert hung.end_time is not None
        assert (hung.attributes or {}).get("error.type") == "deadline"
        assert await client.request("say", 1) == "done"
        traced.stuck.set()
        assert is_child(await spans.one("process", hook="say"), spans.of("send", input="frame")[-1])


async def test_without_the_setting_there_are_no_spans(traced: Traced, spans: Spans) -> None:
    async with serving(traced, tracing=False) as (client, internal), connect(internal) as caller:
        assert await client.request("pay", 4) == 5
        assert await caller.room("chat", "lobby").total() == 2
    assert spans.all() == []


async def test_without_the_setting_nothing_stands_in_the_way_of_a_frame(serve: Serve) -> None:
    server = await serve(define_room("chat"))
    client = await server.connect()
    client.send(text(b'{"type":"any"}'))
    await until(lambda: server.gateway.metrics.frames == 1)
    room = server.gateway.host.directory.rooms["chat/default"]
    assert server.gateway.ingress.send == server.gateway.placement.put
    assert room.engine is not None
    assert [type(each) for each in (server.gateway.delivery, room, room.engine._hooks)] == [Delivery, HostedRoom, Hooks]

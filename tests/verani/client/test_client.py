"""What `VeraniClient` promises, against a scripted server on a real socket."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import logging
import re
import socket
import traceback
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

import aiohttp
import pytest
from aiohttp import WSMsgType, web
from yarl import URL

import verani
from verani.client import (
    ClientState,
    ConnectFailed,
    ConnectionClosed,
    Event,
    HandshakeRefused,
    NotSent,
    RequestInterrupted,
    VeraniClient,
)
from verani.client.causes import reason_of
from verani.client.destination import URLSource
from verani.client.failures import address_of
from verani.client.reconnection import Reconnection
from verani.errors import (
    REFUSALS,
    CallCycle,
    CallFailed,
    Conflict,
    DeadlineExceeded,
    Forbidden,
    Interrupted,
    InvalidArguments,
    NotFound,
    RateLimited,
    RoomBusy,
    TooLarge,
    Unauthorized,
    VeraniError,
    WrongThread,
)

T = TypeVar("T")

AT_ONCE = Reconnection(initial_delay=0.001, max_delay=0.002, max_attempts=None)
NEVER = Reconnection(enabled=False)
# Longer than any test: a client in this state waits until it is told otherwise.
MUCH_LATER = Reconnection(initial_delay=600, max_delay=600)
DEEP = '{"type":"a","data":' + "[" * 20_000 + "]" * 20_000 + "}"


async def soon(awaitable: Awaitable[T]) -> T:
    """Bound a wait that a broken client would never end."""
    return await asyncio.wait_for(awaitable, 10)


class Peer:
    """The server's end of one connection, driven by the test."""

    def __init__(self, ws: web.WebSocketResponse, request: web.Request) -> None:
        self.ws = ws
        self.request = request
        self.frames: asyncio.Queue[str] = asyncio.Queue()
        self.pings: asyncio.Queue[str] = asyncio.Queue()
        self.closed: asyncio.Future[tuple[int, str]] = asyncio.get_running_loop().create_future()

    async def send(self, *texts: str) -> None:
        for text in texts:
            await self.ws.send_str(text)

    async def next(self) -> str:
        return await soon(self.frames.get())

    async def close(self, code: int, reason: str = "why") -> None:
        """Send a close frame; 1005 stands for one without a code, 1006 for no close frame at all."""
        transport = self.request.transport
        assert transport is not None
        if code == 1006:
            transport.abort()
        elif code == 1005:
            transport.write(b"\x88\x00")
        else:
            await self.ws.close(code=code, message=reason.encode())


class Server:
    """Accept WebSockets at /ws, or refuse them as scripted."""

    def __init__(self) -> None:
        self.url = ""
        self.handshakes = 0
        self.refusals: deque[tuple[int, dict[str, str]]] = deque()
        self.refusal_body = b'{"error":{"code":"of_the_server"}}'
        self.hold_handshakes: asyncio.Event | None = None
        self.answers_pings = True
        self.reads = True
        self.greeting: list[str] = []
        self._peers: asyncio.Queue[Peer] = asyncio.Queue()
        self._done = asyncio.Event()

    async def accepted(self) -> Peer:
        return await soon(self._peers.get())

    async def start(self) -> web.AppRunner:
        app = web.Application()
        app.router.add_get("/ws", self._handle)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0][:2]
        self.url = f"ws://{host}:{port}/ws?userId=ada&token=secret"
        return runner

    def release(self) -> None:
        """Let everything go that waits inside the server."""
        self._done.set()
        if self.hold_handshakes is not None:
            self.hold_handshakes.set()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        self.handshakes += 1
        if self.hold_handshakes is not None:
            await self.hold_handshakes.wait()
        if self.refusals:
            status, headers = self.refusals.popleft()
            return web.Response(body=self.refusal_body, status=status, headers=headers)
        ws = web.WebSocketResponse(max_msg_size=0)
        await ws.prepare(request)
        peer = Peer(ws, request)
        for text in self.greeting:
            await ws.send_str(text)
        self._peers.put_nowait(peer)
        if not self.reads:
            await self._done.wait()
        reason = ""
        while True:
            message = await ws.receive()
            if message.type is WSMsgType.CLOSE:
                reason = message.extra or ""
            if message.type is not WSMsgType.TEXT:
                break
            if message.data == '{"type":"ping"}':
                peer.pings.put_nowait(message.data)
                if self.answers_pings:
                    with contextlib.suppress(ConnectionError):
                        await ws.send_str('{"type":"pong"}')
            else:
                peer.frames.put_nowait(message.data)
        peer.closed.set_result((ws.close_code or 0, reason))
        return ws


@pytest.fixture
async def nothing_left() -> AsyncIterator[None]:
    """Fail if a test leaves a task behind, or (warnings are errors) anything unclosed."""
    before = asyncio.all_tasks()
    yield
    await asyncio.sleep(0)
    left = asyncio.all_tasks() - before - {asyncio.current_task()}
    assert not left
    gc.collect()


@pytest.fixture
async def server(nothing_left: None) -> AsyncIterator[Server]:
    server = Server()
    runner = await server.start()
    yield server
    server.release()
    await runner.cleanup()


Make = Callable[..., VeraniClient]


@pytest.fixture
async def make(server: Server) -> AsyncIterator[Make]:
    """Make clients that come back at once and are closed at the end of the test."""
    clients = []

    def make(url: str | URLSource | None = None, **options: Any) -> VeraniClient:
        options.setdefault("reconnection", AT_ONCE)
        options.setdefault("close_timeout", 5.0)
        clients.append(VeraniClient(url or server.url, **options))
        return clients[-1]

    yield make
    for client in clients:
        await soon(client.close())


def record(client: VeraniClient, *events: str) -> asyncio.Queue[tuple[Any, ...]]:
    """Return a queue of what the listeners of these events are told: the name, then the arguments."""
    told: asyncio.Queue[tuple[Any, ...]] = asyncio.Queue()
    for event in events:
        client.on(event, lambda *args, event=event: told.put_nowait((event, *args)))
    return told


async def take(queue: asyncio.Queue[T], count: int) -> list[T]:
    return [await soon(queue.get()) for _ in range(count)]


# --- frames to the server ----------------------------------------------------------------------------------------


async def test_absent_data_is_omitted_and_null_is_kept(server: Server, make: Make) -> None:
    client = make()
    await client.connect()
    peer = await server.accepted()
    client.emit("x")
    client.emit("x", None)
    client.emit("x", {"b": 1, "a": [True, 1.5, "é"]})
    assert await take(peer.frames, 3) == [
        '{"type":"x"}',
        '{"type":"x","data":null}',
        '{"type":"x","data":{"b":1,"a":[true,1.5,"é"]}}',
    ]


async def test_a_request_has_its_id_behind_type_and_data(server: Server, make: Make) -> None:
    client = make()
    await client.connect()
    peer = await server.accepted()
    first = asyncio.create_task(client.request("x", {"a": 1}))
    second = asyncio.create_task(client.request("y"))
    assert await take(peer.frames, 2) == ['{"type":"x","data":{"a":1},"id":1}', '{"type":"y","id":2}']
    await peer.send('{"type":"ack","id":1,"data":1}', '{"type":"ack","id":2,"data":null}')
    assert await soon(first) == 1
    assert await soon(second) is None


async def test_data_is_encoded_when_it_is_emitted(server: Server, make: Make) -> None:
    client = make()
    data = {"n": 1}
    client.emit("x", data)
    data["n"] = 2
    await client.connect()
    assert await (await server.accepted()).next() == '{"type":"x","data":{"n":1}}'


async def test_what_cannot_be_encoded_is_refused_at_once(make: Make) -> None:
    client = make()
    with pytest.raises(TypeError):
        client.emit("x", object())
    with pytest.raises(TypeError, match="expected an event name, got 7"):
        client.emit(7)  # type: ignore[arg-type]  # the mistake under test
    with pytest.raises(TypeError):
        await client.request("x", object())


async def test_frames_emitted_offline_leave_in_order_when_it_opens(server: Server, make: Make) -> None:
    client = make()
    for number in range(5):
        client.emit("n", number)
    await client.connect()
    peer = await server.accepted()
    assert await take(peer.frames, 5) == [f'{{"type":"n","data":{n}}}' for n in range(5)]


async def test_the_offline_queue_drops_its_oldest_and_reports(server: Server, make: Make) -> None:
    client = make(max_queue=3)
    told = record(client, "verani.dropped")
    for number in range(5):
        client.emit("n", number)
    assert client.dropped == 2
    await client.connect()
    peer = await server.accepted()
    assert await take(peer.frames, 3) == [f'{{"type":"n","data":{n}}}' for n in (2, 3, 4)]
    assert await soon(told.get()) == ("verani.dropped", "outbox", 2)


async def test_a_listener_of_drops_that_causes_drops_does_not_hold_the_loop(server: Server, make: Make) -> None:
    server.hold_handshakes = asyncio.Event()
    client = make(max_queue=1)
    client.on("verani.dropped", lambda where, count: client.emit("again"))
    client.emit("x")
    client.emit("x")
    await client.connect(wait=False)
    await until(lambda: client.dropped > 10)
    server.hold_handshakes.set()
    await soon(client.wait_for_connection())
    client.off("verani.dropped")
    assert await (await server.accepted()).next() == '{"type":"again"}'


async def test_a_burst_over_an_open_connection_may_be_longer_than_the_offline_queue(server: Server, make: Make) -> None:
    client = make(max_queue=3)
    await client.connect()
    peer = await server.accepted()
    for number in range(100):
        client.emit("n", number)
    assert await take(peer.frames, 100) == [f'{{"type":"n","data":{n}}}' for n in range(100)]
    assert client.dropped == 0


async def test_a_burst_is_bounded_by_its_bytes(server: Server, make: Make) -> None:
    server.reads = False
    client = make(close_timeout=0.05)
    await client.connect()
    await server.accepted()
    megabyte = "x" * 1024 * 1024
    for _ in range(40):
        client.emit("big", megabyte)
    assert 24 <= client.dropped < 40


async def test_drain_waits_until_everything_is_handed_over(server: Server, make: Make) -> None:
    client = make()
    client.emit("x")
    waiting = asyncio.create_task(client.drain())
    await client.connect()
    await soon(waiting)
    assert await (await server.accepted()).next() == '{"type":"x"}'
    await soon(client.drain())


async def test_drain_fails_when_the_client_ends_first(server: Server, make: Make) -> None:
    server.refusals.append((403, {}))
    client = make()
    client.emit("x")
    with pytest.raises(HandshakeRefused):
        await client.connect()
    with pytest.raises(NotSent, match="1 frames were not sent"):
        await client.drain()


async def test_emitting_a_life_cycle_name_warns_once(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    client = make()
    client.emit("open")
    client.emit("open")
    client.emit("error")
    client.emit("verani.refresh", {"token": "t"})
    assert [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING] == [
        "the event name open collides with a life-cycle listener of clients"
    ]


# --- frames from the server --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "event"),
    [
        ('{"type":"event","channel":"c","data":{"type":"a","n":1}}', Event("a", {"type": "a", "n": 1}, "c")),
        ('{"type":"event","channel":"c","data":{"n":1}}', Event("event", {"n": 1}, "c")),
        ('{"type":"event","data":{"type":5}}', Event("event", {"type": 5}, None)),
        ('{"type":"event","data":[1]}', Event("event", [1], None)),
        ('{"type":"event"}', Event("event", None, None)),
        ('{"type":"a","data":{"type":"b"}}', Event("a", {"type": "b"}, None)),
        ('{"type":"a"}', Event("a", None, None)),
        ('{"type":"a","data":1,"seq":7,"epoch":"x","id":"odd","more":{}}', Event("a", 1, None)),
        ('{"type":"a","channel":3}', Event("a", None, None)),
        ('{"type":"ack","data":1}', Event("ack", 1, None)),
        ('{"type":"ack","id":true,"data":1}', Event("ack", 1, None)),
        (
            '{"type":"verani.expiring","data":{"seconds":30}}',
            Event("verani.expiring", {"seconds": 30}, None),
        ),
        ('{"type":"event","data":{"type":"pong"}}', Event("pong", {"type": "pong"}, None)),
        ('{"type":"event","data":{"type":"error","m":1}}', Event("error", {"type": "error", "m": 1}, None)),
    ],
)
async def test_a_frame_is_dispatched_by_the_type_inside_an_event_else_by_its_own(
    server: Server, make: Make, text: str, event: Event
) -> None:
    client = make()
    named, all_events = record(client, event.type), record(client, "*")
    await client.connect()
    await (await server.accepted()).send(text)
    assert await soon(all_events.get()) == ("*", event)
    assert named.get_nowait() == (event.type, event.data)


@pytest.mark.parametrize("name", ["open", "close", "connected", "verani.dropped", "*"])
async def test_a_frame_cannot_pose_as_a_life_cycle_event(server: Server, make: Make, name: str) -> None:
    client = make()
    told = record(client, name)
    await client.connect()
    await (await server.accepted()).send(f'{{"type":"{name}","data":"forged"}}', '{"type":"end"}')
    events = aiter(client)
    assert (await soon(anext(events))).type == name
    assert (await soon(anext(events))).type == "end"
    await soon(client.close())
    assert all("forged" not in told.get_nowait() for _ in range(told.qsize()))


async def test_invalid_frames_are_ignored_and_counted(server: Server, make: Make) -> None:
    client = make()
    told = record(client, "*")
    await client.connect()
    peer = await server.accepted()
    await peer.send("{", "[]", "1", "{}", '{"type":5}', '{"type":null}', DEEP, '{"type":"pong"}')
    await peer.ws.send_bytes(b'{"type":"binary"}')
    await peer.send('{"type":"ack","id":99,"data":1}', '{"type":"end"}')
    assert await soon(told.get()) == ("*", Event("end", None, None))
    assert client.ignored_frames == 8


# --- callbacks ---------------------------------------------------------------------------------------------------


async def test_callbacks_run_in_order_and_wildcards_last(server: Server, make: Make) -> None:
    client = make()
    ran = []
    client.on("*", lambda event: ran.append(("*", event.type)))

    @client.on("a")
    async def first(data: Any) -> None:
        await asyncio.sleep(0)
        ran.append(("first", data))

    @client.on("a")
    def second(data: Any) -> None:
        ran.append(("second", data))

    done = record(client, "end")
    await client.connect()
    await (await server.accepted()).send('{"type":"a","data":1}', '{"type":"a","data":2}', '{"type":"end"}')
    await soon(done.get())
    assert ran[:6] == [("first", 1), ("second", 1), ("*", "a"), ("first", 2), ("second", 2), ("*", "a")]


async def test_async_callbacks_do_not_overtake_each_other(server: Server, make: Make) -> None:
    client = make()
    running = 0
    seen: list[int] = []
    done = asyncio.Event()

    @client.on("n")
    async def handle(data: int) -> None:
        nonlocal running
        running += 1
        assert running == 1
        for _ in range(10 - data):  # a later one would finish first
            await asyncio.sleep(0)
        seen.append(data)
        running -= 1
        if data == 9:
            done.set()

    await client.connect()
    await (await server.accepted()).send(*(f'{{"type":"n","data":{n}}}' for n in range(10)))
    await soon(done.wait())
    assert seen == list(range(10))


async def test_a_callback_registered_twice_runs_once(server: Server, make: Make) -> None:
    client = make()
    ran: list[Any] = []
    client.on("a", ran.append)
    assert client.on("a", ran.append) == ran.append
    done = record(client, "end")
    await client.connect()
    await (await server.accepted()).send('{"type":"a","data":1}', '{"type":"end"}')
    await soon(done.get())
    assert ran == [1]


async def test_once_runs_for_the_next_event_only_unless_on_makes_it_permanent(server: Server, make: Make) -> None:
    client = make()
    one: list[Any] = []
    two: list[Any] = []
    three: list[Any] = []
    client.once("a", one.append)
    client.once("a")(two.append)
    client.on("a", two.append)
    client.on("a", three.append)
    client.once("a", three.append)
    done = record(client, "end")
    await client.connect()
    await (await server.accepted()).send('{"type":"a","data":1}', '{"type":"a","data":2}', '{"type":"end"}')
    await soon(done.get())
    assert (one, two, three) == ([1], [1, 2], [1, 2])


async def test_off_forgets_one_callback_or_all_and_ignores_strangers(server: Server, make: Make) -> None:
    client = make()
    a: list[Any] = []
    b: list[Any] = []
    client.off("a")
    client.on("a", a.append)
    client.on("a", b.append)
    client.off("a", a.append)
    client.off("a", print)
    done = record(client, "middle", "end")
    await client.connect()
    peer = await server.accepted()
    await peer.send('{"type":"a","data":1}', '{"type":"middle"}')
    await soon(done.get())
    client.off("a")
    await peer.send('{"type":"a","data":2}', '{"type":"end"}')
    await soon(done.get())
    assert (a, b) == ([], [1])


async def test_a_callback_removed_by_an_earlier_one_of_the_round_does_not_run(server: Server, make: Make) -> None:
    client = make()
    ran: list[Any] = []
    client.on("a", lambda data: client.off("a", ran.append))
    client.on("a", ran.append)
    done = record(client, "end")
    await client.connect()
    await (await server.accepted()).send('{"type":"a","data":1}', '{"type":"end"}')
    await soon(done.get())
    assert ran == []


async def test_a_callback_that_raises_is_logged_and_reported_and_the_next_one_runs(
    server: Server, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    client = make()
    boom = RuntimeError("boom")

    @client.on("a")
    def broken(data: Any) -> None:
        raise boom

    @client.on("a")
    async def cancelled(data: Any) -> None:
        gone = asyncio.get_running_loop().create_future()
        gone.cancel()
        await gone

    @client.on("error")
    def broken_too(error: Any) -> None:
        raise ValueError("while reporting")

    told = record(client, "error", "a")
    await client.connect()
    await (await server.accepted()).send('{"type":"a","data":1}')
    first, second, third = await take(told, 3)
    assert first == ("error", boom)
    assert isinstance(second[1], asyncio.CancelledError)
    assert third == ("a", 1)
    messages = [r.getMessage() for r in caplog.records if r.name == "verani.client" and r.exc_info]
    assert messages == ["callback of 'a' raised", "callback of 'error' raised"] * 2


def test_a_callback_must_be_callable() -> None:
    with pytest.raises(TypeError, match="expected a callable for 'a', got 5"):
        VeraniClient("ws://localhost/ws").on("a", 5)  # type: ignore[call-overload]  # the mistake under test


@pytest.mark.parametrize("decorator", ["on", "once"])
def test_a_decorator_without_the_name_of_its_event_says_so(decorator: str) -> None:
    def told() -> None: ...

    with pytest.raises(TypeError, match=r"expected the name of an event, as in client.on\(\"message\"\), got .*told"):
        getattr(VeraniClient("ws://localhost/ws"), decorator)(told)


# --- requests ----------------------------------------------------------------------------------------------------


async def test_requests_are_answered_by_their_id_in_any_order(server: Server, make: Make) -> None:
    client = make()
    await client.connect()
    peer = await server.accepted()
    asked = [asyncio.create_task(client.request("n", n)) for n in range(3)]
    await take(peer.frames, 3)
    await peer.send(*(f'{{"type":"ack","id":{i},"data":{i * 10}}}' for i in (3, 1, 2)))
    assert await soon(asyncio.gather(*asked)) == [10, 20, 30]


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        ('{"code":"invalid","path":"$.text"}', InvalidArguments),
        ('{"code":"unauthorized"}', Unauthorized),
        ('{"code":"forbidden"}', Forbidden),
        ('{"code":"not_found"}', NotFound),
        ('{"code":"conflict"}', Conflict),
        ('{"code":"too_large"}', TooLarge),
        ('{"code":"rate_limited"}', RateLimited),
        ('{"code":"failed"}', CallFailed),
        ('{"code":"busy"}', RoomBusy),
        ('{"code":"overloaded"}', RoomBusy),
        ('{"code":"call_cycle"}', CallCycle),
        ('{"code":"deadline"}', DeadlineExceeded),
        ('{"code":"interrupted"}', Interrupted),
        ('{"code":"of the future"}', CallFailed),
        ('{"code":5}', CallFailed),
        ('"odd"', CallFailed),
    ],
)
async def test_a_refused_request_raises_the_error_of_its_code(
    server: Server, make: Make, error: str, kind: type[VeraniError]
) -> None:
    client = make()
    await client.connect()
    peer = await server.accepted()
    asked = asyncio.create_task(client.request("x"))
    await peer.next()
    await peer.send(f'{{"type":"ack","id":1,"error":{error}}}')
    with pytest.raises(kind) as caught:
        await soon(asked)
    assert type(caught.value) is kind
    if isinstance(caught.value, InvalidArguments):
        assert caught.value.path == "$.text"


async def test_a_request_without_an_answer_ends_at_its_deadline_and_a_late_answer_is_ignored(
    server: Server, make: Make
) -> None:
    client = make()
    await client.connect()
    peer = await server.accepted()
    with pytest.raises(DeadlineExceeded, match=r"no answer to 'x' within 0\.01 s"):
        await client.request("x", timeout=0.01)
    await peer.next()
    asked = asyncio.create_task(client.request("y", timeout=None))
    await peer.next()
    await peer.send('{"type":"ack","id":1,"data":"late"}', '{"type":"ack","id":2,"data":"right"}')
    assert await soon(asked) == "right"


async def test_a_request_that_never_left_is_taken_back_at_its_deadline(server: Server, make: Make) -> None:
    server.hold_handshakes = asyncio.Event()
    client = make()
    await client.connect(wait=False)
    with pytest.raises(DeadlineExceeded):
        await client.request("x", timeout=0.001)
    cancelled = asyncio.create_task(client.request("y"))
    await asyncio.sleep(0)
    cancelled.cancel()
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    client.emit("z")
    server.hold_handshakes.set()
    await client.connect()
    assert await (await server.accepted()).next() == '{"type":"z"}'


async def test_a_request_whose_connection_is_lost_is_interrupted(server: Server, make: Make) -> None:
    client = make()
    await client.connect()
    peer = await server.accepted()
    asked = asyncio.create_task(client.request("x"))
    await peer.next()
    await peer.close(1006)
    with pytest.raises(Interrupted):
        await soon(asked)
    await server.accepted()


async def test_a_request_that_was_not_sent_survives_a_reconnect(server: Server, make: Make) -> None:
    server.refusals.append((503, {}))
    client = make()
    await client.connect(wait=False)
    asked = asyncio.create_task(client.request("x"))
    await client.connect()
    peer = await server.accepted()
    assert await peer.next() == '{"type":"x","id":1}'
    await peer.send('{"type":"ack","id":1,"data":"yes"}')
    assert await soon(asked) == "yes"


async def test_a_request_that_surely_did_not_run_says_so(server: Server, make: Make) -> None:
    server.refusals.append((401, {}))
    client = make(max_queue=1)
    await client.connect(wait=False)
    dropped = asyncio.create_task(client.request("dropped"))
    await asyncio.sleep(0)
    waiting = asyncio.create_task(client.request("waiting"))
    with pytest.raises(NotSent, match="the queue is full"):
        await soon(dropped)
    with pytest.raises(HandshakeRefused):
        await client.connect()
    with pytest.raises(NotSent, match="refused the handshake with 401"):
        await soon(waiting)
    with pytest.raises(NotSent, match="refused the handshake with 401"):
        await client.request("after the end")
    await client.close()
    with pytest.raises(NotSent, match="closed"):
        await client.request("after close")
    with pytest.raises(NotSent, match="closed"):
        client.emit("after close")
    assert issubclass(NotSent, RoomBusy)
    assert client.dropped == 0, "callers were told, nothing was lost in silence"


async def test_a_request_of_a_client_that_was_never_connected_fails_at_once(make: Make) -> None:
    client = make()
    with pytest.raises(NotSent, match="the client is not connected: use `async with client`"):
        await soon(client.request("x", timeout=None))


@pytest.mark.parametrize("name", ["x" * 256, "a\nb", "a\u202eb", "a\ud800b"])
async def test_an_event_name_that_the_server_does_not_take_is_refused_at_once(make: Make, name: str) -> None:
    client = make()
    with pytest.raises(ValueError, match="expected an event name of at most 255 characters"):
        client.emit(name)
    with pytest.raises(ValueError, match="expected an event name of at most 255 characters"):
        await client.request(name)


async def test_a_request_that_would_be_a_ping_is_refused_at_once(make: Make) -> None:
    with pytest.raises(ValueError, match="'ping' is the keepalive"):
        await make().request("ping")


async def test_a_refused_request_names_the_event_and_the_path(server: Server, make: Make) -> None:
    client = make()
    await client.connect()
    peer = await server.accepted()
    cases = [
        (',"path":"$.n"', " at $.n", None),
        (',"path":"$.n","message":"Too rude"', " at $.n: Too rude", "Too rude"),
        (',"path":null,"message":null', "", None),
        ("", "", None),
    ]
    for number, (path, text, public) in enumerate(cases, 1):
        asked = asyncio.create_task(client.request("chat.join"))
        await peer.next()
        await peer.send(f'{{"type":"ack","id":{number},"error":{{"code":"invalid"{path}}}}}')
        with pytest.raises(InvalidArguments) as caught:
            await soon(asked)
        assert str(caught.value) == f"the room answered 'chat.join' with 'invalid'{text}"
        assert caught.value.public == public


async def test_a_callback_may_await_a_request(server: Server, make: Make) -> None:
    client = make()
    answers: asyncio.Queue[Any] = asyncio.Queue()

    @client.on("go")
    async def go(data: Any) -> None:
        answers.put_nowait(await client.request("ask"))

    await client.connect()
    peer = await server.accepted()
    await peer.send('{"type":"go"}')
    await peer.next()
    await peer.send('{"type":"ack","id":1,"data":"yes"}')
    assert await soon(answers.get()) == "yes"


async def test_a_callback_gets_its_answer_although_the_inbox_is_full(server: Server, make: Make) -> None:
    client = make(max_inbox=4)
    answers: asyncio.Queue[Any] = asyncio.Queue()
    later: list[Any] = []
    full = asyncio.Event()
    client.on("n", later.append)
    done = record(client, "end")

    @client.on("go")
    async def go(data: Any) -> None:
        await full.wait()
        answers.put_nowait(await client.request("ask"))

    await client.connect()
    peer = await server.accepted()
    await peer.send('{"type":"go"}', *(f'{{"type":"n","data":{n}}}' for n in range(7)))
    await until(lambda: client._exchange.inbox.full)
    full.set()
    await peer.next()
    await peer.send('{"type":"ack","id":1,"data":"yes"}')
    assert await soon(answers.get()) == "yes"
    await peer.send('{"type":"end"}')
    await soon(done.get())
    assert later == list(range(7))
    assert client.dropped == 0


async def test_what_exceeds_twice_the_inbox_while_a_request_waits_is_dropped_and_reported(
    server: Server, make: Make
) -> None:
    client = make(max_inbox=4)
    answered = asyncio.Event()
    kept: list[Any] = []
    client.on("n", kept.append)
    dropped, done = record(client, "verani.dropped"), record(client, "end")

    @client.on("go")
    async def go(data: Any) -> None:
        await client.request("ask")
        answered.set()

    await client.connect()
    peer = await server.accepted()
    await peer.send('{"type":"go"}')
    await peer.next()
    await peer.send(*(f'{{"type":"n","data":{n}}}' for n in range(20)), '{"type":"ack","id":1,"data":1}')
    await soon(answered.wait())
    assert await soon(dropped.get()) == ("verani.dropped", "inbox", 12)
    await peer.send('{"type":"end"}')
    await soon(done.get())
    assert kept == list(range(12, 20))


async def test_a_burst_while_a_request_waits_loses_nothing_if_callbacks_are_quick(server: Server, make: Make) -> None:
    client = make(max_inbox=4)
    seen: list[Any] = []
    client.on("n", seen.append)
    await client.connect()
    peer = await server.accepted()
    asked = asyncio.create_task(client.request("ask"))
    await peer.next()
    await peer.send(*(f'{{"type":"n","data":{n}}}' for n in range(100)), '{"type":"ack","id":1}', '{"type":"end"}')
    assert await soon(asked) is None
    await until(lambda: len(seen) == 100 or client.dropped > 0)
    assert client.dropped == 0


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something that nothing announces."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - the condition is inside the client or the kernel
            await asyncio.sleep(0.001)


async def test_a_slow_callback_stops_the_reading_and_loses_nothing(server: Server, make: Make) -> None:
    client = make(max_inbox=4)
    seen: list[int] = []
    go_on, started = asyncio.Event(), asyncio.Event()
    done = record(client, "end")

    @client.on("n")
    async def slow(data: dict[str, Any]) -> None:
        started.set()
        await go_on.wait()
        seen.append(data["n"])

    await client.connect()
    peer = await server.accepted()
    padding = "x" * 100_000
    texts = [f'{{"type":"n","data":{{"n":{n},"x":"{padding}"}}}}' for n in range(200)]
    sending = asyncio.create_task(peer.send(*texts, '{"type":"end"}'))
    await soon(started.wait())
    transport = peer.request.transport
    assert isinstance(transport, asyncio.Transport)
    # The server's own buffer fills only if this client does not read: 20 MB would fit nowhere else.
    await until(lambda: client._exchange.reading_stopped and transport.get_write_buffer_size() > 0)
    assert not sending.done()
    go_on.set()
    await soon(done.get())
    await soon(sending)
    assert seen == list(range(200))
    assert client.dropped == 0


async def test_close_ends_a_client_whose_reading_is_stopped(server: Server, make: Make) -> None:
    client = make(max_inbox=1, close_timeout=0.05)

    @client.on("n")
    async def stuck(data: Any) -> None:
        await asyncio.Event().wait()

    await client.connect()
    peer = await server.accepted()
    await peer.send(*['{"type":"n"}'] * 10)
    await until(lambda: client._exchange.reading_stopped)
    await soon(client.close(4000))
    assert await soon(peer.closed) == (4000, "")


# --- keepalive ---------------------------------------------------------------------------------------------------


async def test_pings_are_exact_and_an_answered_connection_stays(server: Server, make: Make) -> None:
    client = make(ping_interval=0.005, pong_timeout=5)
    await client.connect()
    peer = await server.accepted()
    assert await take(peer.pings, 20) == ['{"type":"ping"}'] * 20
    assert server.handshakes == 1


async def test_a_silent_server_is_dropped_and_connected_again(server: Server, make: Make) -> None:
    server.answers_pings = False
    client = make(ping_interval=0.005, pong_timeout=0.02)
    told = record(client, "close")
    await client.connect()
    await server.accepted()
    assert await soon(told.get()) == ("close", 1006, "")
    await server.accepted()


async def test_a_server_that_reads_nothing_any_more_is_dropped(server: Server, make: Make) -> None:
    server.reads = False
    client = make(ping_interval=0.005, pong_timeout=0.05)
    told = record(client, "close")
    await client.connect()
    await server.accepted()
    for _ in range(15):
        client.emit("big", "x" * 1024 * 1024)
    assert await soon(told.get()) == ("close", 1006, "")
    await server.accepted()


async def test_no_pong_is_missed_while_reading_is_stopped(server: Server, make: Make) -> None:
    client = make(max_inbox=1, ping_interval=0.005, pong_timeout=0.02)
    go_on = asyncio.Event()
    done = record(client, "end")

    @client.on("n")
    async def slow(data: Any) -> None:
        await go_on.wait()

    await client.connect()
    peer = await server.accepted()
    await peer.send(*['{"type":"n"}'] * 5)
    await until(lambda: client._exchange.reading_stopped)
    while not peer.pings.empty():
        peer.pings.get_nowait()
    await take(peer.pings, 20)  # five times as long as the pong may take
    go_on.set()
    await peer.send('{"type":"end"}')
    await soon(done.get())
    assert server.handshakes == 1


# --- closing and coming back -------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [1000, 1001])
async def test_it_stays_away_after_1000_and_1001(server: Server, make: Make, code: int) -> None:
    client = make()
    told = record(client, "close", "disconnected", "reconnecting")
    await client.connect()
    events = aiter(client)
    await (await server.accepted()).close(code)
    assert await take(told, 2) == [("close", code, "why"), ("disconnected", code, "why")]
    with pytest.raises(StopAsyncIteration):
        await soon(anext(events))
    with pytest.raises(StopAsyncIteration):
        await soon(anext(aiter(client)))
    with pytest.raises(ConnectFailed, match=f"ended with code {code} 'why'"):
        await client.wait_for_connection()
    assert client.state is ClientState.DISCONNECTED
    assert server.handshakes == 1
    assert told.empty()


@pytest.mark.parametrize("code", [1005, 1006, 1008, 1009, 1011, 1012, 1013, 3000, 4001, 4009])
async def test_it_comes_back_after_every_other_end(server: Server, make: Make, code: int) -> None:
    client = make()
    told = record(client, "close", "reconnecting")
    await client.connect()
    await (await server.accepted()).close(code)
    close, reconnecting = await take(told, 2)
    assert close == ("close", code, "" if code in (1005, 1006) else "why")
    assert reconnecting[:2] == ("reconnecting", 1)
    peer = await server.accepted()
    await soon(client.wait_for_connection())
    client.emit("back")
    assert await peer.next() == '{"type":"back"}'


async def test_an_end_of_file_without_a_close_frame_is_a_lost_connection(server: Server, make: Make) -> None:
    client = make()
    told = record(client, "close")
    await client.connect()
    peer = await server.accepted()
    assert isinstance(peer.request.transport, asyncio.Transport)
    peer.request.transport.close()
    assert await soon(told.get()) == ("close", 1006, "")
    await server.accepted()


async def test_a_frame_over_the_limit_costs_the_connection_not_the_client(server: Server, make: Make) -> None:
    client = make()
    told = record(client, "close")
    await client.connect()
    peer = await server.accepted()
    with contextlib.suppress(ConnectionError):
        await peer.send('{"type":"' + "x" * 5 * 1024 * 1024 + '"}')
    assert (await soon(told.get()))[:2] == ("close", 1009)
    await server.accepted()


async def test_without_reconnection_a_lost_connection_is_the_end(server: Server, make: Make) -> None:
    client = make(reconnection=NEVER)
    told = record(client, "disconnected")
    await client.connect()
    await (await server.accepted()).close(1012)
    assert await soon(told.get()) == ("disconnected", 1012, "why")
    assert client.state is ClientState.DISCONNECTED
    with pytest.raises(ConnectFailed):
        await client.wait_for_connection()
    with pytest.raises(ConnectFailed, match="ended with code 1012 'why'"):
        await soon(anext(aiter(client)))


def transport_of(client: VeraniClient) -> asyncio.Transport:
    connection = client._reconnector.connection
    assert connection is not None
    assert connection.transport is not None
    return connection.transport


async def test_a_frame_emitted_when_the_connection_just_broke_is_kept_for_the_next(server: Server, make: Make) -> None:
    client = make()
    await client.connect()
    await server.accepted()
    transport_of(client).abort()
    client.emit("x")
    assert client.connected, "nobody has noticed yet"
    assert await (await server.accepted()).next() == '{"type":"x"}'


async def test_frames_emitted_while_it_is_away_arrive_afterwards(server: Server, make: Make) -> None:
    client = make()
    client.on("disconnected", lambda code, reason: client.emit("missed you"))
    await client.connect()
    await (await server.accepted()).close(1012)
    assert await (await server.accepted()).next() == '{"type":"missed you"}'


async def test_the_life_cycle_is_told_in_order(server: Server, make: Make) -> None:
    names = ["connecting", "open", "connected", "close", "disconnected", "reconnecting", "error"]
    client = make(random=lambda: 0.5)
    told = record(client, *names)
    assert client.state is ClientState.DISCONNECTED
    await client.connect()
    assert client.connected
    assert str(client.state) == "connected"
    peer = await server.accepted()
    server.refusals.append((503, {}))
    await peer.close(1012)
    await server.accepted()
    await soon(client.wait_for_connection())
    await soon(client.close(4000, "bye"))
    everything = await take(told, told.qsize())
    failed = everything.pop(7)
    assert failed[0] == "error"
    assert isinstance(failed[1], HandshakeRefused)
    assert everything == [
        ("connecting",),
        ("open",),
        ("connected",),
        ("close", 1012, "why"),
        ("disconnected", 1012, "why"),
        ("reconnecting", 1, 0.0005),
        ("connecting",),
        ("reconnecting", 2, 0.00075),
        ("connecting",),
        ("open",),
        ("connected",),
        ("close", 4000, "bye"),
        ("disconnected", 4000, "bye"),
    ]


# --- what an end means ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", REFUSALS)
async def test_what_on_connect_refused_a_client_with_is_raised_to_everybody_who_waits(
    server: Server, make: Make, kind: type[VeraniError]
) -> None:
    client = make()
    told = record(client, "disconnected", "error", "reconnecting")
    await client.connect()
    peer = await server.accepted()
    events, asked = aiter(client), asyncio.create_task(client.request("x"))
    await peer.next()
    await peer.send('{"type":"welcome"}')
    await peer.close(1000, kind.code)
    with pytest.raises(kind, match=f"the room refused this client with '{kind.code}'"):
        await soon(asked)
    assert (await soon(anext(events))).type == "welcome"
    for _ in range(2):
        with pytest.raises(kind):
            await soon(anext(events))
    with pytest.raises(kind):
        await client.wait_for_connection()
    with pytest.raises(kind):
        await client.request("later")
    with pytest.raises(kind):
        await soon(anext(aiter(client)))
    assert client.state is ClientState.ERROR
    assert await soon(told.get()) == ("disconnected", 1000, kind.code)
    name, error = await soon(told.get())
    assert (name, type(error)) == ("error", kind)
    assert told.empty()
    assert server.handshakes == 1


@pytest.mark.parametrize(
    ("code", "reason"), [(1000, ""), (1000, "bye"), (1000, "failed"), (1000, "deadline"), (1001, "forbidden")]
)
async def test_a_goodbye_that_is_no_refusal_ends_without_an_error(
    server: Server, make: Make, code: int, reason: str
) -> None:
    client = make()
    await client.connect()
    events = aiter(client)
    await (await server.accepted()).close(code, reason)
    with pytest.raises(StopAsyncIteration):
        await soon(anext(events))
    assert client.state is ClientState.DISCONNECTED


async def test_a_client_that_was_refused_while_nobody_listens_says_so_in_the_log(
    server: Server, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    client = make()
    await client.connect()
    await (await server.accepted()).close(1000, "forbidden")
    await until(lambda: client.state is ClientState.ERROR)
    await soon(client.close())
    errors = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
    assert errors == ["does not come back: the room refused this client with 'forbidden'"]


ENDS = [
    (1005, "", "a close frame without a code"),
    (1006, "", "it was lost"),
    (1007, "", "a frame was no UTF-8"),
    (1008, "too many frames", "too many frames, or too many that were invalid"),
    (1011, "", "the room could not take the connection"),
    (1012, "restart", "the service restarts"),
    (1013, "slow consumer", "did not read, or the room cannot take it now"),
    (4001, "token expired", "the token has expired"),
    (4009, "replaced", "another connection has the same client id"),
    (4100, "of the application", ""),
]


@pytest.mark.parametrize(("code", "reason", "meaning"), ENDS)
async def test_a_request_that_was_interrupted_says_how_the_connection_ended(
    server: Server, make: Make, code: int, reason: str, meaning: str
) -> None:
    client = make()
    await client.connect()
    peer = await server.accepted()
    asked = asyncio.create_task(client.request("chat.join"))
    await peer.next()
    await peer.close(code, reason)
    with pytest.raises(
        RequestInterrupted, match=f"'chat.join' was sent and not answered.* code {code} .*{meaning}"
    ) as e:
        await soon(asked)
    assert isinstance(e.value, Interrupted)
    assert (e.value.closing.code, e.value.closing.reason) == (code, reason)


@pytest.mark.parametrize(("code", "reason", "meaning"), ENDS)
async def test_a_client_that_does_not_come_back_says_how_its_connection_ended(
    server: Server, make: Make, code: int, reason: str, meaning: str
) -> None:
    client = make(reconnection=NEVER)
    await client.connect()
    events = aiter(client)
    await (await server.accepted()).close(code, reason)
    expected = f"the connection ended with code {code} {reason!r}.*{meaning}"
    with pytest.raises(ConnectionClosed, match=expected) as caught:
        await soon(anext(events))
    assert caught.value.closing.code == code
    with pytest.raises(ConnectionClosed, match=expected):
        await client.wait_for_connection()
    with pytest.raises(NotSent, match=expected):
        await client.request("x")


async def test_a_request_that_was_too_large_says_so_and_the_others_that_they_were_interrupted(
    server: Server, make: Make
) -> None:
    client = make()
    await client.connect()
    peer = await server.accepted()
    small = asyncio.create_task(client.request("small"))
    large = asyncio.create_task(client.request("large", "x" * 70_000))
    await take(peer.frames, 2)
    await peer.close(1009, "")
    with pytest.raises(
        TooLarge, match=r"'large' was not taken: its frame of 700\d\d bytes is larger than the server takes"
    ):
        await soon(large)
    with pytest.raises(RequestInterrupted, match="code 1009 .*: a frame was larger than the server takes"):
        await soon(small)


async def test_an_event_that_was_too_large_is_not_blamed_on_a_request(server: Server, make: Make) -> None:
    client = make()
    await client.connect()
    peer = await server.accepted()
    client.emit("large", "x" * 70_000)
    small = asyncio.create_task(client.request("small"))
    await take(peer.frames, 2)
    await peer.close(1009, "")
    with pytest.raises(RequestInterrupted, match="a frame was larger than the server takes"):
        await soon(small)
    peer = await server.accepted()
    alone = asyncio.create_task(client.request("alone"))
    await peer.next()
    await peer.close(1009, "")
    with pytest.raises(TooLarge, match="'alone' was not taken"):
        await soon(alone)


async def test_what_the_server_sent_too_large_is_not_blamed_on_a_request(server: Server, make: Make) -> None:
    client = make()
    await client.connect()
    peer = await server.accepted()
    asked = asyncio.create_task(client.request("x"))
    await peer.next()
    with contextlib.suppress(ConnectionError):
        await peer.send('{"type":"' + "x" * 5 * 1024 * 1024 + '"}')
    with pytest.raises(RequestInterrupted, match="code 1009 .*: the server sent what no client takes"):
        await soon(asked)


async def test_a_request_that_a_silent_server_interrupted_says_so(server: Server, make: Make) -> None:
    server.answers_pings = False
    client = make(ping_interval=0.005, pong_timeout=0.02)
    await client.connect()
    with pytest.raises(RequestInterrupted, match=r"code 1006 '': no pong within 0\.02 s"):
        await soon(client.request("x"))


async def test_a_request_that_close_interrupted_says_so(server: Server, make: Make) -> None:
    client = make()
    await client.connect()
    peer = await server.accepted()
    asked = asyncio.create_task(client.request("x"))
    await peer.next()
    await soon(client.close())
    with pytest.raises(RequestInterrupted, match="the client was closed"):
        await soon(asked)


async def test_a_request_and_a_wait_that_time_out_without_a_connection_say_why_there_is_none(
    server: Server, make: Make
) -> None:
    server.refusals.append((503, {}))
    client = make(reconnection=MUCH_LATER, close_timeout=0.1)
    told = record(client, "reconnecting")
    await client.connect(wait=False)
    await soon(told.get())
    with pytest.raises(DeadlineExceeded, match=r"no answer to 'x' within 0\.01 s: it was not sent, .* with 503"):
        await client.request("x", timeout=0.01)
    with pytest.raises(TimeoutError, match=r"no connection within 0\.01 s: .* with 503"):
        await client.wait_for_connection(timeout=0.01)
    ended = make(reconnection=MUCH_LATER, close_timeout=0.1)
    told = record(ended, "reconnecting")
    await ended.connect()
    await (await server.accepted()).close(1012)
    await soon(told.get())
    with pytest.raises(TimeoutError, match="the service restarts"):
        await ended.wait_for_connection(timeout=0.01)


# --- threads -----------------------------------------------------------------------------------------------------


async def test_every_call_from_another_thread_is_refused_at_once_and_names_the_way(server: Server, make: Make) -> None:
    client = make()
    await client.connect()
    peer = await server.accepted()
    events = aiter(client)
    calls: list[Callable[[], Any]] = [
        lambda: client.emit("x"),
        lambda: client.on("x", print),
        lambda: client.once("x", print),
        lambda: client.off("x"),
        lambda: aiter(client),
        lambda: setattr(client, "url", server.url),
        lambda: asyncio.run(client.request("x")),
        lambda: asyncio.run(client.drain()),
        lambda: asyncio.run(client.connect()),
        lambda: asyncio.run(client.wait_for_connection()),
        lambda: asyncio.run(client.close()),
    ]
    for call in calls:
        with pytest.raises(WrongThread, match=r"call_soon_threadsafe.*run_coroutine_threadsafe"):
            await asyncio.to_thread(call)
    with pytest.raises(WrongThread, match="iterate in the client's own thread"):
        await asyncio.to_thread(lambda: asyncio.run(step(events)))
    assert client.connected

    loop = asyncio.get_running_loop()
    await asyncio.to_thread(lambda: loop.call_soon_threadsafe(client.emit, "from afar"))
    assert await peer.next() == '{"type":"from afar"}'
    asked = asyncio.create_task(
        asyncio.to_thread(lambda: asyncio.run_coroutine_threadsafe(client.request("ask"), loop).result(10))
    )
    assert await peer.next() == '{"type":"ask","id":1}'
    await peer.send('{"type":"ack","id":1,"data":"yes"}')
    assert await soon(asked) == "yes"


async def step(events: AsyncIterator[Event]) -> Event:
    return await anext(events)


async def test_a_client_may_be_made_in_one_thread_and_used_in_another(server: Server) -> None:
    client = VeraniClient(server.url)
    client.emit("queued")

    async def use() -> None:
        async with client:
            await client.drain()

    await soon(asyncio.to_thread(lambda: asyncio.run(use())))
    assert await (await server.accepted()).next() == '{"type":"queued"}'


# --- handshakes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [200, 204, 206, 301, 302, 307, 400, 401, 403, 404, 410, 426])
async def test_a_refusal_that_will_not_heal_ends_the_client(server: Server, make: Make, status: int) -> None:
    server.refusals.append((status, {}))
    client = make()
    told = record(client, "error")
    with pytest.raises(HandshakeRefused) as caught:
        await client.connect()
    assert caught.value.status == status
    assert client.state is ClientState.ERROR
    assert await soon(told.get()) == ("error", caught.value)
    assert server.handshakes == 1
    assert "secret" not in f"{caught.value!r} {caught.value.__cause__!r}"


@pytest.mark.parametrize("status", [408, 409, 425, 429, 500, 501, 502, 503])
async def test_a_refusal_that_may_heal_is_tried_again(server: Server, make: Make, status: int) -> None:
    server.refusals.append((status, {}))
    client = make()
    told = record(client, "error")
    await soon(client.connect())
    await server.accepted()
    assert server.handshakes == 2
    assert (await soon(told.get()))[1].status == status


async def test_each_refused_handshake_counts_once(server: Server, make: Make) -> None:
    server.refusals.extend([(503, {})] * 10)
    client = make(reconnection=Reconnection(initial_delay=0, max_attempts=4))
    told = record(client, "reconnecting", "error")
    with pytest.raises(HandshakeRefused):
        await soon(client.connect())
    assert server.handshakes == 4
    await soon(client.close())
    assert [entry[0] for entry in await take(told, told.qsize())] == ["error", "reconnecting"] * 3 + ["error"]


async def test_a_connection_that_answered_starts_the_count_again_when_it_is_lost(server: Server, make: Make) -> None:
    client = make(reconnection=Reconnection(initial_delay=0, max_attempts=3))
    for number in range(1, 4):
        server.refusals.extend([(503, {})] * 2)
        await soon(client.connect(wait=False))
        peer = await server.accepted()
        asked = asyncio.create_task(client.request("x"))
        await peer.next()
        await peer.send(f'{{"type":"ack","id":{number}}}')
        await soon(asked)
        await peer.close(1012)
    await server.accepted()
    assert server.handshakes == 10


@pytest.mark.parametrize("code", [1005, 1006, 1008, 1011, 1012, 1013, 3000, 4001, 4009])
async def test_connections_that_do_not_last_count_like_refused_handshakes(
    server: Server, make: Make, code: int
) -> None:
    server.greeting = ['{"type":"welcome"}', '{"type":"event","channel":"default","data":{"type":"presence"}}']
    client = make(reconnection=Reconnection(initial_delay=0, max_attempts=4))
    told = record(client, "error")
    await client.connect()
    events = aiter(client)
    for _ in range(4):
        await (await server.accepted()).close(code)
    with pytest.raises(ConnectionClosed, match=rf"gave up after 4 failed attempts in a row: .* code {code} ") as caught:
        await soon(until_it_ends(events))
    assert caught.value.closing.code == code
    assert caught.value.failures == 4
    name, error = await soon(told.get())
    assert (name, type(error), str(error)) == ("error", ConnectionClosed, str(caught.value))
    assert client.state is ClientState.ERROR
    assert server.handshakes == 4


@pytest.mark.parametrize("code", [1008, 1011, 1013, 4001, 4009])
async def test_an_answer_proves_nothing_where_the_server_ends_the_connection_for_a_reason_of_its_own(
    server: Server, make: Make, code: int
) -> None:
    client = make(reconnection=Reconnection(initial_delay=0, max_attempts=3))
    for number in range(1, 4):
        await soon(client.connect(wait=False))
        peer = await server.accepted()
        asked = asyncio.create_task(client.request("x"))
        await peer.next()
        await peer.send(f'{{"type":"ack","id":{number}}}')
        await soon(asked)
        await peer.close(code)
    with pytest.raises(ConnectionClosed):
        await until_ended(client)


async def test_retry_after_is_waited_for_with_the_jitter_on_top(server: Server, make: Make) -> None:
    server.refusals.append((503, {"Retry-After": "600"}))
    client = make(reconnection=Reconnection(initial_delay=4, max_delay=4), random=lambda: 0.5, close_timeout=1)
    told = record(client, "reconnecting")
    await client.connect(wait=False)
    assert await soon(told.get()) == ("reconnecting", 1, 602.0)
    assert client.state is ClientState.RECONNECTING


async def test_an_unreachable_server_is_a_network_error(make: Make, unused_tcp_port: int) -> None:
    client = make(f"ws://127.0.0.1:{unused_tcp_port}/ws?token=secret", reconnection=NEVER)
    with pytest.raises(ConnectFailed) as caught:
        await soon(client.connect())
    assert not isinstance(caught.value, HandshakeRefused)
    assert isinstance(caught.value.__cause__, ConnectionRefusedError)
    assert str(caught.value) == f"no connection to 127.0.0.1:{unused_tcp_port}: Connection refused"
    assert client.state is ClientState.ERROR


async def test_the_traceback_of_a_network_error_is_short(make: Make, unused_tcp_port: int) -> None:
    client = make(
        f"ws://127.0.0.1:{unused_tcp_port}/ws?token=secret", reconnection=Reconnection(initial_delay=0, max_attempts=3)
    )
    with pytest.raises(ConnectFailed) as caught:
        await soon(client.__aenter__())
    shown = "".join(traceback.format_exception(caught.value))
    assert shown.count("Traceback (most recent call last)") == 1
    assert shown.count("  File ") < 8
    assert "aiohttp" not in shown
    assert "ssl:" not in shown
    assert "secret" not in shown


async def test_a_server_that_goes_away_in_the_handshake_is_named(make: Make, unused_tcp_port: int) -> None:
    server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", unused_tcp_port)
    client = make(f"ws://127.0.0.1:{unused_tcp_port}/ws?token=secret", reconnection=NEVER)
    with pytest.raises(ConnectFailed) as caught:
        await soon(client.connect())
    assert str(caught.value).startswith(f"no connection to 127.0.0.1:{unused_tcp_port}: ")
    server.close()
    await server.wait_closed()


async def test_a_server_that_speaks_no_tls_is_named_without_what_aiohttp_adds(server: Server, make: Make) -> None:
    client = make(server.url.replace("ws://", "wss://"))
    with pytest.raises(ConnectFailed) as caught:
        await soon(client.connect())
    assert re.match(r"no connection to 127\.0\.0\.1:\d+: .*SSL", str(caught.value))
    assert "ssl:" not in str(caught.value)
    assert caught.value.is_final


def test_why_a_connection_failed_is_said_in_the_words_of_the_system() -> None:
    assert reason_of(ConnectionRefusedError(errno.ECONNREFUSED, "Connect call failed")) == "Connection refused"
    assert reason_of(socket.gaierror(-2, "Name or service not known")) == "Name or service not known"
    assert reason_of(OSError("odd")) == "odd"
    assert reason_of(ConnectionResetError()) == "ConnectionResetError"


def test_an_address_has_its_port() -> None:
    assert address_of(URL("wss://ada:secret@host/ws?token=secret")) == "host:443"
    assert address_of(URL("ws://[::1]:8000/ws")) == "[::1]:8000"


@pytest.mark.parametrize(
    ("status", "body", "text"),
    [
        (401, b'{"error":{"code":"unauthorized"}}', "401 (unauthorized)"),
        (404, b'{"error":{"code":"not_found"}}', "404 (not_found): is that the public listener and a path of a room?"),
        (403, b'{"error":{"code":"forbidden","message":"Not you"}}', "403 (forbidden): Not you"),
        (
            404,
            b'{"error":{"code":"not_found","message":5}}',
            "404 (not_found): is that the public listener and a path of a room?",
        ),
        (404, b"404: Not Found", "404: is that the public listener and a path of a room?"),
        (403, b"", "403"),
        (403, b'{"error":{"code":"evil\\nline"}}', "403"),
        (403, b'{"error":{"code":5}}', "403"),
        (403, b'{"error":{"code":"' + b"x" * 100_000 + b'"}}', "403"),
    ],
)
async def test_a_refused_handshake_says_where_and_which_code_the_server_gave(
    server: Server, make: Make, status: int, body: bytes, text: str
) -> None:
    server.refusals.append((status, {}))
    server.refusal_body = body
    client = make(server.url.replace("ws://", "ws://ada:secret@"))
    with pytest.raises(HandshakeRefused) as caught:
        await soon(client.connect())
    assert str(caught.value) == f"{server.url.partition('?')[0]} refused the handshake with {text}"
    assert caught.value.server_code == (text.partition("(")[2].partition(")")[0] or None)


async def test_a_body_that_does_not_end_does_not_keep_the_refusal(make: Make, unused_tcp_port: int) -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 99\r\n\r\n{")
        await reader.read()
        writer.close()

    server = await asyncio.start_server(refuse, "127.0.0.1", unused_tcp_port)
    client = make(f"ws://127.0.0.1:{unused_tcp_port}/ws", connection_timeout=60)
    with pytest.raises(HandshakeRefused, match="403$"):
        await soon(client.connect())
    server.close()
    await server.wait_closed()


async def test_a_refusal_over_a_given_session_has_its_status(server: Server, make: Make) -> None:
    server.refusals.append((403, {}))
    async with aiohttp.ClientSession() as session:
        with pytest.raises(HandshakeRefused, match="refused the handshake with 403"):
            await soon(make(session=session).connect())


async def test_a_handshake_without_an_answer_ends_at_its_timeout(server: Server, make: Make) -> None:
    server.hold_handshakes = asyncio.Event()
    client = make(reconnection=NEVER, connection_timeout=0.02)
    with pytest.raises(ConnectFailed, match=r"no handshake with 127\.0\.0\.1:\d+ within 0\.02 s"):
        await soon(client.connect())


async def test_a_token_that_does_not_come_ends_the_attempt_and_is_named(make: Make) -> None:
    async def token() -> str:
        await asyncio.Event().wait()
        return "never"

    client = make(token=token, reconnection=NEVER, connection_timeout=0.02)
    with pytest.raises(ConnectFailed, match=r"no token from its function within 0\.02 s"):
        await soon(client.connect())


@pytest.mark.parametrize("is_own", [True, False])
async def test_a_redirect_to_nowhere_is_final(server: Server, make: Make, is_own: bool) -> None:
    server.refusals.append((302, {"Location": "mailto:someone?token=secret"}))
    async with aiohttp.ClientSession() as session:
        client = make(session=None if is_own else session)
        with pytest.raises(ConnectFailed, match="redirected") as caught:
            await soon(client.connect())
    assert "secret" not in str(caught.value)
    assert server.handshakes == 1


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_not_followed(server: Server, make: Make, status: int) -> None:
    server.refusals.append((status, {"Location": server.url}))
    with pytest.raises(HandshakeRefused, match=f"with {status}: it redirected, which no room does") as caught:
        await soon(make().connect())
    assert caught.value.status == status
    assert "secret" not in str(caught.value)
    assert server.handshakes == 1


async def test_a_redirect_that_a_given_session_follows_to_a_page_is_final(server: Server, make: Make) -> None:
    server.refusals.extend([(302, {"Location": server.url.replace("ws:", "http:")}), (200, {})])
    async with aiohttp.ClientSession() as session:
        with pytest.raises(HandshakeRefused, match="with 302"):
            await soon(make(session=session).connect())


async def test_a_session_that_raises_for_status_tells_refusals_apart_all_the_same(server: Server, make: Make) -> None:
    server.refusals.extend([(503, {}), (403, {})])
    async with aiohttp.ClientSession(raise_for_status=True) as session:
        with pytest.raises(HandshakeRefused, match="with 403"):
            await soon(make(session=session).connect())
    assert server.handshakes == 2


@pytest.mark.parametrize("host", ["a..b", "a" * 300 + ".example"])
async def test_a_host_that_cannot_be_is_final(make: Make, host: str) -> None:
    with pytest.raises(ConnectFailed, match="has no host name that there can be") as caught:
        await soon(make(f"ws://{host}/ws?token=secret").connect())
    assert caught.value.is_final
    assert "secret" not in str(caught.value)


UPGRADE = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
            "refused the handshake with 200: that is no WebSocket server",
        ),
        (b"HTTP/1.1 204 No Content\r\n\r\n", "refused the handshake with 204: that is no WebSocket server"),
        (b"HTTP/1.1 304 Not Modified\r\n\r\n", "refused the handshake with 304"),
        (b"HTTP/1.0 200 OK\r\n\r\n<html>", "refused the handshake with 200"),
        (UPGRADE + b"Sec-WebSocket-Accept: AAAAAAAAAAAAAAAAAAAAAAAAAAA=\r\n\r\n", "invalid challenge response"),
        (UPGRADE + b"\r\n", "invalid challenge response"),
        (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n", "invalid upgrade header"),
        (b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\r\n", "invalid upgrade header"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "its answer is no HTTP"),
        (b"\x15\x03\x01\x00\x02\x02\x46", "its answer is no HTTP"),
        (b"+OK ready\r\n", "its answer is no HTTP"),
        (b"\x00" * 100, "its answer is no HTTP"),
        (b"HTTP/1.1 yes\r\n\r\n", "its answer is no HTTP"),
        (b"HTTP/1.1 101 X\r\nA: " + b"x" * 100_000 + b"\r\n\r\n", "its answer is no HTTP"),
    ],
    ids=lambda value: value[:40] if isinstance(value, bytes) else "",
)
async def test_an_answer_that_no_websocket_server_gives_is_final_at_once(
    make: Make, unused_tcp_port: int, answer: bytes, text: str
) -> None:
    handshakes = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal handshakes
        handshakes += 1
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await reader.read()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", unused_tcp_port)
    client = make(f"ws://127.0.0.1:{unused_tcp_port}/ws?token=secret")
    with pytest.raises(ConnectFailed, match=text) as caught:
        await soon(client.connect())
    assert caught.value.is_final
    assert client.state is ClientState.ERROR
    assert "secret" not in str(caught.value)
    assert handshakes == 1
    server.close()
    await server.wait_closed()


async def test_an_attempt_is_one_connection_also_where_it_is_closed_at_once(make: Make) -> None:
    connections = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/ws"
    client = make(url, reconnection=Reconnection(max_attempts=3, initial_delay=0.01))
    with pytest.raises(ConnectFailed):
        await soon(client.connect())
    assert connections == 3
    server.close()
    await server.wait_closed()


@pytest.mark.parametrize(
    "answer", [b"", b"HTTP/1.1 101 Switching Pro", b"HT", b"HTTP/1.1 403 Forbidden\r\nSet-Cookie: secret\r\nX"]
)
async def test_an_answer_that_breaks_off_is_tried_again(server: Server, make: Make, answer: bytes) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    broken = await asyncio.start_server(serve, "127.0.0.1", 0)
    client = make(f"ws://127.0.0.1:{broken.sockets[0].getsockname()[1]}/ws")
    told = record(client, "error")
    await client.connect(wait=False)
    for name, error in await take(told, 2):
        assert (name, error.is_final) == ("error", False)
        assert str(error).endswith(": the server closed the connection and had not answered")
        assert "secret" not in repr(error.__cause__)
    client.url = server.url
    await soon(client.wait_for_connection())
    broken.close()
    await broken.wait_closed()


# --- what goes with a handshake ----------------------------------------------------------------------------------


async def test_a_session_that_is_closed_ends_the_client_with_its_error(
    server: Server, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    session = aiohttp.ClientSession()
    await session.close()
    client = make(session=session)
    with pytest.raises(ConnectFailed, match="Session is closed"):
        await soon(client.connect())
    assert client.state is ClientState.ERROR
    assert "the connection task failed" in caplog.text


async def test_headers_go_with_the_handshake_and_a_given_session_stays_open(server: Server, make: Make) -> None:
    async with aiohttp.ClientSession() as session:
        client = make(session=session, headers={"Authorization": "Bearer t"})
        await client.connect()
        peer = await server.accepted()
        assert peer.request.headers["Authorization"] == "Bearer t"
        assert "Sec-WebSocket-Protocol" not in peer.request.headers
        assert "Sec-WebSocket-Extensions" not in peer.request.headers
        await client.close()
        assert not session.closed


async def test_a_token_may_be_a_string_and_goes_with_each_handshake(server: Server, make: Make) -> None:
    client = make(token="t-1")
    told = record(client, "verani.expiring")
    await client.connect()
    for _ in range(2):
        peer = await server.accepted()
        assert peer.request.headers["Authorization"] == "Bearer t-1"
        await peer.send('{"type":"verani.expiring","data":{"seconds":30}}')
        assert await soon(told.get()) == ("verani.expiring", {"seconds": 30})
        client.emit("x")
        assert await peer.next() == '{"type":"x"}', "there is no other token that it could send"
        await peer.close(4001)


@pytest.mark.parametrize("token", [b"secret", 5, ["secret"]])
def test_a_token_that_is_none_is_refused_at_once(token: Any) -> None:
    with pytest.raises(TypeError, match="expected a string, a function that returns one, or None, got") as caught:
        VeraniClient("ws://localhost/ws", token=token)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("token", ["", "secret\n", "secr\u00e9t", "two words"])
def test_a_token_that_no_header_can_carry_is_refused_at_once(token: str) -> None:
    with pytest.raises(ValueError, match="token: expected visible ASCII characters") as caught:
        VeraniClient("ws://localhost/ws", token=token)
    assert "secr" not in str(caught.value)


@pytest.mark.parametrize("token", [b"secret", None, "secret\n"])
async def test_a_function_that_returns_no_token_fails_the_attempt(
    make: Make, token: Any, caplog: pytest.LogCaptureFixture
) -> None:
    client = make(token=lambda: token, reconnection=NEVER)
    with pytest.raises(ConnectFailed, match="expected a token"):
        await soon(client.connect())
    assert "secret" not in caplog.text


async def test_a_server_may_ping_and_say_unknown_things_by_websocket(server: Server, make: Make) -> None:
    client = make()
    told = record(client, "a")
    await client.connect()
    peer = await server.accepted()
    await peer.ws.ping(b"are you there")
    await peer.send('{"type":"a"}')
    assert await soon(told.get()) == ("a", None)
    assert server.handshakes == 1


async def test_the_next_attempt_uses_a_new_url(server: Server, make: Make) -> None:
    client = make()
    await client.connect()
    peer = await server.accepted()
    assert peer.request.query["token"] == "secret"
    client.url = client.url.replace("secret", "fresh")
    await peer.close(4001)
    assert (await server.accepted()).request.query["token"] == "fresh"


@pytest.mark.parametrize("is_async", [False, True])
async def test_a_function_is_asked_for_the_url_before_every_attempt(server: Server, make: Make, is_async: bool) -> None:
    names = iter(["one", "two", "three"])

    def plain() -> str:
        return server.url.replace("ada", next(names))

    async def later() -> URL:
        await asyncio.sleep(0)
        return URL(plain())

    client = make(later if is_async else plain)
    assert client.url == ""
    server.refusals.append((503, {}))
    await soon(client.connect())
    peer = await server.accepted()
    assert peer.request.query["userId"] == "two"
    assert client.url == server.url.replace("ada", "two")
    await peer.close(4001)
    peer = await server.accepted()
    assert peer.request.query["userId"] == "three"
    client.url = server.url
    await peer.close(4001)
    assert (await server.accepted()).request.query["userId"] == "ada"


@pytest.mark.parametrize("given", [5, None, b"ws://host/ws?token=secret", "ftp://host/ws?token=secret", OSError("no")])
async def test_a_function_that_gives_no_url_fails_the_attempt_and_is_asked_again(
    server: Server, make: Make, caplog: pytest.LogCaptureFixture, given: Any
) -> None:
    answers = [given, server.url]

    def url() -> Any:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    client = make(url)
    told = record(client, "error")
    await soon(client.connect())
    assert str((await soon(told.get()))[1]) == "expected a URL, its function failed"
    assert "the function that returns URLs failed" in caplog.text
    assert "secret" not in caplog.text


async def test_a_url_that_does_not_come_ends_the_attempt_and_is_named(make: Make) -> None:
    async def url() -> str:
        await asyncio.Event().wait()
        return "never"

    client = make(url, reconnection=NEVER, connection_timeout=0.02)
    with pytest.raises(ConnectFailed, match=r"no URL from its function within 0\.02 s"):
        await soon(client.connect())


@pytest.mark.parametrize("name", ["VeraniClient", "Reconnection"])
def test_who_looks_for_the_client_among_the_rooms_is_told_where_it_is(name: str) -> None:
    with pytest.raises(ImportError, match=f"^{name} is in verani.client: from verani.client import {name}$"):
        exec(f"from verani import {name}")
    with pytest.raises(ImportError, match="cannot import name 'Nothing' from 'verani'"):
        exec("from verani import Nothing")
    assert not hasattr(verani, "Nothing")


@pytest.mark.parametrize("url", [5, None, b"ws://host/ws?token=secret"])
def test_what_is_no_url_and_no_function_is_refused_at_once(url: Any) -> None:
    with pytest.raises(TypeError, match="url: expected a string, a URL, or a function that returns one, got") as caught:
        VeraniClient(url)
    assert "secret" not in str(caught.value)


async def test_no_log_line_has_the_query(server: Server, make: Make, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    server.refusals.extend([(503, {}), (403, {})])
    with pytest.raises(HandshakeRefused):
        await soon(make().connect())
    lines = [record.getMessage() for record in caplog.records if record.name.startswith("verani")]
    assert lines
    assert not any("secret" in line for line in lines)


async def test_a_client_that_ended_by_itself_can_connect_again(server: Server, make: Make) -> None:
    client = make()
    await client.connect()
    await (await server.accepted()).close(1000)
    with pytest.raises(ConnectFailed):
        await until_ended(client)
    client.emit("kept")
    await soon(client.connect())
    assert await (await server.accepted()).next() == '{"type":"kept"}'
    await soon(client.connect())
    assert server.handshakes == 2


async def until_it_ends(events: AsyncIterator[Event]) -> None:
    async for _ in events:
        pass


async def until_ended(client: VeraniClient) -> None:
    async with asyncio.timeout(10):
        while True:
            await client.wait_for_connection()
            await asyncio.sleep(0.001)


async def test_waiting_for_a_connection_can_time_out(server: Server, make: Make) -> None:
    server.hold_handshakes = asyncio.Event()
    client = make()
    await client.connect(wait=False)
    with pytest.raises(TimeoutError):
        await client.wait_for_connection(timeout=0.01)
    waiting = [asyncio.create_task(client.wait_for_connection()) for _ in range(3)]
    server.hold_handshakes.set()
    await soon(asyncio.gather(*waiting))


@pytest.mark.parametrize("url", ["localhost:8000/ws", "ftp://host/ws", "/ws", "ws:///ws?token=secret"])
def test_a_url_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="expected a ws:// or wss:// URL") as caught:
        VeraniClient(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("option", ["max_queue", "max_inbox", "connection_timeout", "ping_interval"])
def test_limits_and_durations_are_positive(option: str) -> None:
    with pytest.raises(ValueError, match=f"{option} must be positive, not 0"):
        VeraniClient("ws://localhost/ws", **{option: 0})  # type: ignore[arg-type]  # a computed keyword


# --- the end -----------------------------------------------------------------------------------------------------


async def test_close_sends_what_waits_then_the_code_and_reason(server: Server, make: Make) -> None:
    client = make()
    await client.connect()
    peer = await server.accepted()
    client.emit("last", 1)
    client.emit("last", 2)
    await soon(client.close(4002, "done"))
    assert await soon(peer.closed) == (4002, "done")
    assert [peer.frames.get_nowait() for _ in range(2)] == [f'{{"type":"last","data":{n}}}' for n in (1, 2)]
    assert client.state is ClientState.DISCONNECTED


async def test_the_context_manager_connects_and_closes(server: Server, make: Make) -> None:
    async with make() as client:
        peer = await server.accepted()
        assert client.connected
    assert await soon(peer.closed) == (1000, "")
    with pytest.raises(RuntimeError, match="closed"):
        await client.connect()
    with pytest.raises(ConnectFailed, match="closed"):
        await client.wait_for_connection()


async def test_a_context_manager_that_cannot_connect_leaves_nothing(server: Server, make: Make) -> None:
    server.refusals.append((403, {}))
    with pytest.raises(HandshakeRefused):
        async with make():
            pytest.fail("it was refused")


async def test_entering_can_be_cancelled(server: Server, make: Make) -> None:
    server.hold_handshakes = asyncio.Event()
    client = make()
    entering = asyncio.create_task(client.__aenter__())
    await until(lambda: server.handshakes == 1)
    entering.cancel()
    with pytest.raises(asyncio.CancelledError):
        await soon(entering)
    assert client.state is ClientState.DISCONNECTED


async def test_a_callback_may_close_the_client(server: Server, make: Make) -> None:
    client = make()
    told = record(client, "close", "disconnected")
    closed = asyncio.Event()

    @client.on("stop")
    async def stop(data: Any) -> None:
        await client.close(4003, "asked to")
        closed.set()

    await client.connect()
    peer = await server.accepted()
    await peer.send('{"type":"stop"}')
    await soon(closed.wait())
    assert await take(told, 2) == [("close", 4003, "asked to"), ("disconnected", 4003, "asked to")]
    assert await soon(peer.closed) == (4003, "asked to")


async def test_a_callback_that_waits_for_a_task_that_closes_is_not_waited_for_in_turn(
    server: Server, make: Make
) -> None:
    client = make(close_timeout=0.02)
    cancelled = asyncio.Event()

    @client.on("stop")
    async def stop(data: Any) -> None:
        try:
            await asyncio.shield(asyncio.create_task(client.close()))
        except asyncio.CancelledError:
            cancelled.set()
            raise

    await client.connect()
    await (await server.accepted()).send('{"type":"stop"}')
    await soon(cancelled.wait())


async def test_close_while_connecting(server: Server, make: Make) -> None:
    server.hold_handshakes = asyncio.Event()
    client = make()
    told = record(client, "disconnected", "close")
    await client.connect(wait=False)
    waiting = asyncio.create_task(client.wait_for_connection())
    await until(lambda: server.handshakes == 1)
    await soon(client.close(4004, "changed my mind"))
    with pytest.raises(ConnectFailed, match="closed"):
        await soon(waiting)
    assert await soon(told.get()) == ("disconnected", 4004, "changed my mind")
    assert told.empty()


async def test_close_while_backing_off(server: Server, make: Make) -> None:
    client = make(reconnection=MUCH_LATER)
    told = record(client, "reconnecting")
    await client.connect()
    await (await server.accepted()).close(1012)
    await soon(told.get())
    await soon(client.close())
    assert client.state is ClientState.DISCONNECTED
    assert server.handshakes == 1


async def test_close_while_requests_are_pending(server: Server, make: Make) -> None:
    client = make()
    await client.connect()
    peer = await server.accepted()
    asked = asyncio.create_task(client.request("x"))
    await peer.next()
    await soon(client.close())
    with pytest.raises(Interrupted):
        await soon(asked)

    server.hold_handshakes = asyncio.Event()
    offline = make()
    await offline.connect(wait=False)
    waiting = asyncio.create_task(offline.request("x"))
    await asyncio.sleep(0)
    await soon(offline.close())
    with pytest.raises(NotSent, match="closed"):
        await soon(waiting)


async def test_close_drops_what_could_not_be_sent_and_reports_it(server: Server, make: Make) -> None:
    server.refusals.extend([(503, {})])
    client = make(reconnection=MUCH_LATER)
    told = record(client, "verani.dropped", "reconnecting")
    client.emit("x")
    client.emit("y")
    await client.connect(wait=False)
    assert (await soon(told.get()))[0] == "reconnecting"
    await soon(client.close())
    assert told.get_nowait() == ("verani.dropped", "outbox", 2)


async def test_close_gives_up_on_a_server_that_does_not_answer(server: Server, make: Make) -> None:
    server.reads = False
    async with aiohttp.ClientSession() as session:  # a session of its own would abort its connections itself
        client = make(close_timeout=0.02, session=session)
        await client.connect()
        await server.accepted()
        client.emit("big", "x" * 8 * 1024 * 1024)
        client.emit("big", "x" * 7 * 1024 * 1024)
        transport = transport_of(client)
        await until(lambda: transport.get_write_buffer_size() > 0)
        await soon(client.close())
        assert client.state is ClientState.DISCONNECTED
        assert transport.get_write_buffer_size() == 0, "the socket lingers until the server reads"


async def test_close_does_not_wait_for_a_reconnect_when_the_connection_breaks_meanwhile(
    server: Server, make: Make
) -> None:
    server.reads = False
    client = make()
    await client.connect()
    peer = await server.accepted()
    for _ in range(15):
        client.emit("big", "x" * 1024 * 1024)
    closing = asyncio.create_task(client.close())
    await until(lambda: client._life.closed is not None)
    await peer.close(1006)
    await soon(closing)
    assert server.handshakes == 1


async def test_events_that_arrived_are_told_before_close_returns(server: Server, make: Make) -> None:
    client = make()
    seen: list[Any] = []

    @client.on("n")
    async def slow(data: Any) -> None:
        await asyncio.sleep(0.001)
        seen.append(data)

    await client.connect()
    peer = await server.accepted()
    await peer.send(*(f'{{"type":"n","data":{n}}}' for n in range(5)))
    events = aiter(client)
    for _ in range(5):
        await soon(anext(events))
    await soon(client.close())
    assert seen == list(range(5))


async def test_callbacks_that_do_not_finish_are_cancelled(server: Server, make: Make) -> None:
    client = make(close_timeout=0.02)
    cancelled = asyncio.Event()
    started = asyncio.Event()

    @client.on("n")
    async def stuck(data: Any) -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    await client.connect()
    await (await server.accepted()).send('{"type":"n"}')
    await soon(started.wait())
    await soon(client.close())
    assert cancelled.is_set()


async def test_a_cancelled_close_ends_everything_at_once(server: Server, make: Make) -> None:
    server.reads = False
    client = make(close_timeout=600)
    started = asyncio.Event()

    @client.on("connected")
    async def stuck() -> None:
        started.set()
        await asyncio.Event().wait()

    await client.connect()
    await server.accepted()
    await soon(started.wait())
    closing = asyncio.create_task(client.close())
    connection = client._reconnector.connection
    assert connection is not None
    await until(lambda: connection._goodbye.locked())
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await soon(closing)
    assert client.state is ClientState.DISCONNECTED


async def test_close_is_harmless_at_any_time_and_in_any_number(server: Server, make: Make) -> None:
    never_connected = make()
    await soon(never_connected.close())
    await soon(never_connected.close())
    client = make()
    await client.connect()
    peer = await server.accepted()
    await soon(asyncio.gather(*(client.close(4000 + n) for n in range(3))))
    assert await soon(peer.closed) == (4000, "")


@pytest.mark.parametrize(("code", "reason"), [(1001, ""), (1006, ""), (5000, ""), (1000, "é" * 62)])
async def test_a_close_that_cannot_be_said_is_refused(make: Make, code: int, reason: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        await make().close(code, reason)


# --- iteration ---------------------------------------------------------------------------------------------------


async def test_iteration_sees_what_the_server_says_first(server: Server, make: Make) -> None:
    server.greeting = ['{"type":"welcome","data":1}']
    for _ in range(20):
        async with make() as client:
            event = await soon(anext(aiter(client)))
            assert event == Event("welcome", 1, None)


async def test_the_first_iterator_begins_with_what_the_server_said_since_the_first_open(
    server: Server, make: Make
) -> None:
    server.greeting = ['{"type":"welcome","data":1}', '{"type":"welcome","data":2}']
    async with make() as client:
        peer = await server.accepted()
        asked = asyncio.create_task(client.request("x"))
        await peer.next()
        await peer.send('{"type":"ack","id":1}')
        await soon(asked)
        await peer.close(1012)
        peer = await server.accepted()
        await peer.send('{"type":"end"}')
        first = aiter(client)
        assert [(await soon(anext(first))).data for _ in range(5)] == [1, 2, 1, 2, None]
        second = aiter(client)
        await peer.send('{"type":"later"}')
        assert (await soon(anext(second))).type == "later"
        assert (await soon(anext(first))).type == "later"


async def test_what_no_iterator_took_is_bounded_and_its_loss_told_to_the_first(server: Server, make: Make) -> None:
    client = make(max_inbox=3)
    told, done = record(client, "verani.dropped"), record(client, "end")
    await client.connect()
    await (await server.accepted()).send(*(f'{{"type":"n","data":{n}}}' for n in range(6)), '{"type":"end"}')
    await soon(done.get())
    assert client.dropped == 0, "nobody iterates, so nobody misses anything"
    events = aiter(client)
    assert client.dropped == 4
    assert [(await soon(anext(events))).data for _ in range(3)] == [4, 5, None]
    assert await soon(told.get()) == ("verani.dropped", "iterator", 4)


async def test_what_no_iterator_took_is_bounded_by_its_bytes(server: Server, make: Make) -> None:
    client = make()
    done = record(client, "end")
    await client.connect()
    peer = await server.accepted()
    await peer.send(*['{"type":"n","data":"' + "x" * 1024 * 1024 + '"}'] * 20, '{"type":"end"}')
    await soon(done.get())
    aiter(client)
    assert 4 <= client.dropped < 8


async def test_what_arrived_before_the_end_is_iterated_over_after_it(server: Server, make: Make) -> None:
    server.greeting = ['{"type":"welcome","data":1}']
    client = make()
    told = record(client, "disconnected")
    await client.connect()
    await (await server.accepted()).close(1000)
    await soon(told.get())
    assert [event.data async for event in client] == [1]
    assert [event.data async for event in client] == []


async def test_iteration_raises_why_the_client_gave_up_behind_what_arrived(
    server: Server, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    server.greeting = ['{"type":"welcome","data":1}']
    client = make()
    await client.connect()
    seen: list[Any] = []

    async def consume() -> None:
        async for event in client:
            seen.append(event.data)

    consuming = [asyncio.create_task(consume()) for _ in range(2)]
    peer = await server.accepted()
    await until(lambda: 1 in seen)
    server.refusals.append((401, {}))
    await peer.send('{"type":"n","data":2}')
    await peer.close(4001)
    for task in consuming:
        with pytest.raises(HandshakeRefused, match="401"):
            await soon(task)
    assert 2 in seen
    assert client.state is ClientState.ERROR
    late = aiter(client)
    for _ in range(2):
        with pytest.raises(HandshakeRefused, match="401"):
            await soon(anext(late))
    await soon(client.close())
    with pytest.raises(HandshakeRefused, match="401"):
        await soon(anext(late))
    with pytest.raises(HandshakeRefused, match="401"):
        await soon(anext(aiter(client)))
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


async def test_a_client_that_gives_up_while_nobody_listens_says_so_once_in_the_log(
    server: Server, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    client = make()
    await client.connect()
    peer = await server.accepted()
    server.refusals.append((401, {}))
    await peer.close(4001)
    await until(lambda: client.state is ClientState.ERROR)
    await soon(client.close())
    errors = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
    assert len(errors) == 1
    assert "refused the handshake with 401" in errors[0]
    assert "secret" not in errors[0]


async def test_close_ends_an_iteration_like_any_other_end(server: Server, make: Make) -> None:
    client = make()
    await client.connect()
    events = aiter(client)
    await soon(client.close(4000))
    assert [event async for event in events] == []
    assert [event async for event in client] == []


async def test_a_client_that_connects_again_can_be_iterated_over_again(server: Server, make: Make) -> None:
    server.refusals.append((401, {}))
    client = make()
    with pytest.raises(HandshakeRefused):
        await client.connect()
    server.greeting = ['{"type":"welcome","data":1}']
    await soon(client.connect())
    assert (await soon(anext(aiter(client)))).data == 1


async def test_iteration_goes_on_over_reconnects_and_ends_with_the_client(server: Server, make: Make) -> None:
    client = make()
    seen: list[Any] = []

    async def consume() -> None:
        async for event in client:
            seen.append(event.data)

    consuming = asyncio.create_task(consume())
    await client.connect()
    peer = await server.accepted()
    await peer.send('{"type":"n","data":1}')
    await peer.close(1012)
    peer = await server.accepted()
    await peer.send('{"type":"n","data":2}')
    await peer.close(1000)
    await soon(consuming)
    assert seen == [1, 2]


async def test_every_iterator_gets_every_event(server: Server, make: Make) -> None:
    client = make()
    await client.connect()
    peer = await server.accepted()
    first, second = aiter(client), aiter(client)
    assert aiter(first) is first
    await peer.send('{"type":"n","data":1}')
    assert (await soon(anext(first))).data == 1
    assert (await soon(anext(second))).data == 1


async def test_a_slow_iterator_loses_its_oldest_events_and_that_is_reported(server: Server, make: Make) -> None:
    client = make(max_inbox=3)
    told, done = record(client, "verani.dropped"), record(client, "end")
    await client.connect()
    events = aiter(client)
    await (await server.accepted()).send(*(f'{{"type":"n","data":{n}}}' for n in range(6)), '{"type":"end"}')
    await soon(done.get())
    assert [(await soon(anext(events))).data for _ in range(3)] == [4, 5, None]
    await soon(client.close())
    assert client.dropped == 4
    assert sum(entry[2] for entry in await take(told, told.qsize())) == 4


async def test_an_iterator_left_early_is_forgotten(server: Server, make: Make) -> None:
    client = make(max_inbox=3)
    done = record(client, "end")
    await client.connect()
    peer = await server.accepted()
    await peer.send('{"type":"n"}')
    async for _ in client:
        break
    gc.collect()
    await peer.send(*['{"type":"n"}'] * 10, '{"type":"end"}')
    await soon(done.get())
    assert client.dropped == 0


async def test_two_clients_do_not_mix(server: Server, make: Make) -> None:
    first, second = make(), make()
    told = record(first, "n"), record(second, "n")
    await first.connect()
    first_peer = await server.accepted()
    await second.connect()
    second_peer = await server.accepted()
    asked = asyncio.create_task(first.request("x")), asyncio.create_task(second.request("x"))
    await first_peer.next()
    await second_peer.next()
    await first_peer.send('{"type":"n","data":1}', '{"type":"ack","id":1,"data":"a"}')
    await second_peer.send('{"type":"n","data":2}', '{"type":"ack","id":1,"data":"b"}')
    assert [await soon(answer) for answer in asked] == ["a", "b"]
    assert await soon(told[0].get()) == ("n", 1)
    assert await soon(told[1].get()) == ("n", 2)
    await first.close()
    assert second.connected

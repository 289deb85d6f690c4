"""Talk to a room from asyncio: keep one WebSocket to it, tell callbacks what arrives, ask and get answers.

It does not store anything between processes, replay what a lost connection swallowed (delivery is at most once),
or work from other threads. This is the face; behind it, each in a module of its own, one floor on the other:

    client            what an application calls
    reconnector       one connection after the other   (reconnection: when; destination: where; handshakes: how)
    live_connection   one WebSocket: reader, writer     (keepalive, tokens)
    lifecycle         the state, and who waits for the connection
    exchange          inbox, send_queue and requests: what may be read, what may leave, who is answered
    inbox             events and signals for callbacks and iterators   (callbacks, streams, events)

Invariants:
1. The reconnector owns the connection, the inbox owns the task that calls callbacks, the handshakes own their session;
   the client owns all three, and `close` ends them.
2. From `connect` on the client belongs to one thread; what could change it is refused to all others.
3. A client that is closed is free without the collector: nothing that it has refers to it, and tasks are forgotten.
"""

from __future__ import annotations

import asyncio
import random as random_module
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeVar, overload

import aiohttp
from msgspec import UNSET
from yarl import URL

from ..names import MAX_REASON_BYTES
from .client_thread import ClientThread
from .destination import Destination, URLSource
from .exchange import Exchange
from .handshakes import Handshakes
from .lifecycle import ClientLife, ClientState
from .live_connection import LiveConnection
from .reconnection import Reconnection
from .reconnector import Reconnector
from .streams import EventStream
from .tokens import Token, TokenSource

__all__ = ["VeraniClient"]

C = TypeVar("C", bound=Callable[..., Any])


class VeraniClient:
    """One client of one room, over one WebSocket that it keeps alive.

    Register callbacks, then use it as an async context manager, which connects, waits until that has worked, and
    closes at the end::

        client = VeraniClient("ws://localhost:8000/ws/lobby?userId=ada")

        @client.on("chat.message")
        async def message(data): ...

        async with client:
            client.emit("chat.message", {"text": "hello"})
            async for event in client:
                ...

    `url` holds everything the room wants to know (user, token, channels); it may be replaced at any time, for the
    next attempt, or be a function, plain or async, that is asked for it before each. `headers` go with each handshake.
    `token` is a function, plain or async, that returns a token: it is called for each handshake, which carries it as
    ``Authorization: Bearer``, and when the server says that the token expires, which is answered with a new one. A
    token that is a string goes with each handshake and is never renewed: `verani.expiring` is then an event like
    others. `session` is used for the handshakes and not closed.
    All durations are seconds: `connection_timeout` for one handshake; `ping_interval` between keepalives and
    `pong_timeout` until an unanswered one ends the connection; `close_timeout` for what is waited for in `close`.
    `max_queue` bounds the frames that wait for a connection, `max_inbox` the events that wait for callbacks and those
    that wait in each iterator. `random` returns floats in [0, 1) for the jitter.

    It comes back after a lost connection and after every close code except 1000 and 1001, and tries again when
    a handshake fails, `reconnection` says how often. A handshake answered with anything but 408, 409, 425, 429 or a
    5xx status would be answered so again, as would one that is answered with something else than HTTP, so it ends the
    client in state `error`; so does a room whose `on_connect` refuses the client. `Retry-After` is honoured, with the
    jitter on top. Why a client gave up is raised by `connect`, `wait_for_connection` and every iterator: a
    `ConnectFailed`, or the error that the room refused it with; an ERROR is logged where there is none of them.

    From `connect` on it belongs to the thread it was connected in: any other gets `WrongThread` at once, which names
    `loop.call_soon_threadsafe` (for `emit`) and `asyncio.run_coroutine_threadsafe` (for what is awaited).
    """

    def __init__(
        self,
        url: str | URL | URLSource,
        *,
        reconnection: Reconnection | None = None,
        max_queue: int = 1000,
        max_inbox: int = 1000,
        connection_timeout: float = 10.0,
        ping_interval: float = 5.0,
        pong_timeout: float = 10.0,
        close_timeout: float = 5.0,
        headers: Mapping[str, str] | None = None,
        token: str | TokenSource | None = None,
        session: aiohttp.ClientSession | None = None,
        random: Callable[[], float] = random_module.random,
    ) -> None:
        for name, value in (
            ("max_queue", max_queue),
            ("max_inbox", max_inbox),
            ("connection_timeout", connection_timeout),
            ("ping_interval", ping_interval),
            ("pong_timeout", pong_timeout),
            ("close_timeout", close_timeout),
        ):
            if not value > 0:
                raise ValueError(f"{name} must be positive, not {value!r}")
        tokens = Token(token)
        self._thread = ClientThread()
        self._close_timeout = close_timeout
        self._exchange = Exchange(max_queue, max_inbox, self._thread)
        self._life = ClientLife(self._exchange)
        self._handshakes = Handshakes(
            Destination(url),
            headers=headers or {},
            token=tokens,
            session=session,
            timeout=connection_timeout,
            close_timeout=close_timeout,
        )
        use = partial(
            LiveConnection,
            exchange=self._exchange,
            life=self._life,
            token=tokens,
            ping_interval=ping_interval,
            pong_timeout=pong_timeout,
        )
        self._reconnector = Reconnector(reconnection or Reconnection(), self._handshakes, self._life, use, random)

    # --- what it is ---------------------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        """Where the next attempt connects to, or the latest one did if a function is asked (empty before the first).

        Raise ValueError, or TypeError, if set to something that is no WebSocket URL and no function that returns one.
        """
        return str(self._handshakes.destination.latest or "")

    @url.setter
    def url(self, url: str | URL | URLSource) -> None:
        self._thread.check_call("url")
        self._handshakes.destination = Destination(url)

    @property
    def state(self) -> ClientState:
        """Where this client is in its life."""
        return self._life.state

    @property
    def connected(self) -> bool:
        """Tell whether there is an open connection now."""
        return self.state is ClientState.CONNECTED

    @property
    def dropped(self) -> int:
        """Count what was dropped because a queue was full: frames to send, events for callbacks and iterators."""
        return self._exchange.inbox.dropped

    @property
    def ignored_frames(self) -> int:
        """Count the frames from the server that were no valid frames."""
        return self._exchange.ignored_frames

    # --- listeners ----------------------------------------------------------------------------------------------

    @overload
    def on(self, event: str, callback: C) -> C: ...
    @overload
    def on(self, event: str, callback: None = None) -> Callable[[C], C]: ...
    def on(self, event: str, callback: C | None = None) -> C | Callable[[C], C]:
        """Call `callback`, plain or async, on every such event; without a callback this is a decorator.

        Callbacks run one at a time in the client's own task, in the order of arrival, those of one event in order of
        registration; the same callback registered twice runs once. A callback gets the event's data, those of `"*"`
        get the `Event`, after the others. One that raises is logged and reported to `error`; a slow one keeps later
        events waiting. It may await `request` and `close`.

        Life-cycle events, and what their callbacks get: `connecting()`, `open()` and `connected()`,
        `close(code, reason)` and `disconnected(code, reason)` (1006 for a lost connection),
        `reconnecting(attempt, delay)` with the seconds until then, `error(exception)` for failed attempts, the end in
        state `error` and callbacks that raised. Frames with these names reach only `"*"` and iterators; `error` alone
        is shared, and its callbacks get the data of such an event.
        `verani.dropped(where, count)` tells about overflow; `where` is "outbox", "inbox" or "iterator".
        """
        return self._exchange.inbox.callbacks.register(event, callback, once=False)

    @overload
    def once(self, event: str, callback: C) -> C: ...
    @overload
    def once(self, event: str, callback: None = None) -> Callable[[C], C]: ...
    def once(self, event: str, callback: C | None = None) -> C | Callable[[C], C]:
        """Register like `on`, for the next such event only."""
        return self._exchange.inbox.callbacks.register(event, callback, once=True)

    def off(self, event: str, callback: Callable[..., Any] | None = None) -> None:
        """Forget one callback of an event, or all of them; it also holds for events that already wait."""
        self._thread.check_call("off")
        self._exchange.inbox.callbacks.remove(event, callback)

    def __aiter__(self) -> EventStream:
        """Iterate over the application events until the client has ended.

        The first iterator begins with what has arrived since the client first connected (at most 16 MiB), others with
        what arrives from now on. Each keeps at most `max_inbox` events; beyond, its oldest are dropped and reported.
        Behind the last event it raises why the client gave up, also if that is long ago; it ends without an
        error after `close` and after the close codes 1000 and 1001.
        """
        self._thread.check_call("async for")
        return self._life.open_stream()

    # --- sending ------------------------------------------------------------------------------------------------

    def emit(self, event: str, data: Any = UNSET) -> None:
        """Queue one frame; it is encoded now and sent in order, at once or when there is a connection.

        Without a connection, also before the first `connect`, at most `max_queue` frames wait, with one at most 16 MiB;
        the oldest are dropped and reported. `data` is anything msgspec encodes; omitted it is absent, None is null.
        Raise `NotSent` once the client is closed, TypeError for what cannot be encoded, ValueError for an event name
        that is too long or has control characters.
        """
        self._thread.check_call("emit")
        self._life.check_open()
        self._exchange.emit(event, data)

    async def request(self, event: str, data: Any = UNSET, *, timeout: float | None = 5.0) -> Any:
        """Send one frame and return the answer of the room's handlers.

        Raise the error the room answers with (`errors.error_for`), `DeadlineExceeded` after `timeout` seconds,
        `RequestInterrupted` if the connection ended in between (it may have run; its text and `closing` say how),
        `TooLarge` if that was because of this frame, what `on_connect` refused this client with, `NotSent` if the frame
        never left (full queue, client ended or never told to connect; it surely did not run), and what `emit` raises
        for what cannot be sent. Cancelling it takes back a frame that still waits.
        """
        self._thread.check_call("request")
        self._life.check_alive(event)
        return await self._exchange.request(event, data, timeout, started=self._life.started)

    async def drain(self) -> None:
        """Wait until everything emitted is handed to a connection; raise `NotSent` if the client ends first."""
        self._thread.check_call("drain")
        await self._life.drain()

    # --- life ---------------------------------------------------------------------------------------------------

    async def connect(self, *, wait: bool = True) -> None:
        """Start, also again after it ended by itself, and `wait` until it is connected.

        Raise what ended it if that fails for good: `HandshakeRefused`, or `ConnectFailed` for a network error.
        Cancelling this does not stop the client, `close` does. Raise RuntimeError after `close`.
        """
        self._thread.check_call("connect")
        if self._life.closed is not None:
            raise RuntimeError("the client is closed, make a new one")
        self._thread.take()
        self._exchange.inbox.start()
        self._reconnector.start()
        if wait:
            await self.wait_for_connection()

    async def wait_for_connection(self, timeout: float | None = None) -> None:
        """Wait until there is a connection.

        Raise TimeoutError after `timeout` seconds, with the reason if there is one, or what ended the client if it has.
        """
        self._thread.check_call("wait_for_connection")
        await self._life.wait_for_connection(timeout)

    async def __aenter__(self) -> Self:
        try:
            await self.connect()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """End the client for good: send what waits if there is a connection, close it, tell callbacks what arrived.

        The hand-over and closing handshake may take `close_timeout` seconds, then the connection is aborted; callbacks
        get as long to finish, then they are cancelled. Called from a callback, it returns without waiting
        for callbacks. Calling it again is harmless; a client in state `error` stays in it.
        Raise ValueError for a code or reason that cannot be sent.
        """
        self._thread.check_call("close")
        if not (code == 1000 or 3000 <= code <= 4999):
            raise ValueError(f"expected close code 1000 or 3000 to 4999, got {code}")
        if len(reason.encode()) > MAX_REASON_BYTES:
            raise ValueError(f"expected a reason of at most {MAX_REASON_BYTES} bytes, got {len(reason.encode())}")
        closed = self._life.close(code, reason)
        patience = 0.0  # when cancelled, everything ends at once
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._close_timeout):
                    await self._reconnector.hang_up(*closed)
            patience = self._close_timeout
        finally:
            await self._tear_down(patience)

    async def _tear_down(self, patience: float) -> None:
        inbox = self._exchange.inbox
        try:
            await self._reconnector.stop()
            self._life.closed_down()
            await inbox.finish(patience)
        finally:
            await inbox.cancel(self._close_timeout)
            await self._handshakes.close()
            self._reconnector.forget()

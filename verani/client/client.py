"""Talk to a room from asyncio: keep one WebSocket to it, tell callbacks what arrives, ask and get answers.

It does not store anything between processes, replay what a lost connection swallowed (delivery is at most once),
or work from other threads. When to come back is `backoff.py`, the frames are `frames.py`, calling callbacks
is `inbox.py`, what waits to be sent is `outbox.py`, why there is no connection is `failures.py`.

Invariants:
1. Reading stops only while the inbox is full and no request waits for its answer. So a slow callback slows the
   server down, and a callback that awaits a request always gets its answer: while one is pending, the inbox may
   grow to twice its limit, beyond which its oldest entries are dropped and reported.
2. What waits to be sent is bounded too, by number and bytes.
3. The end of a connection is noticed in one place, by the reader; the other tasks at most break the transport.
   Only a close frame, received or sent, carries a code; a lost connection is 1006, whatever aiohttp calls it.
   Everybody who waited for that connection is told the same: how it ended, and what that means.
4. While reading is stopped, no pong can be seen, so none is missed.
5. A request ends in exactly one way: its answer, `DeadlineExceeded`, `NotSent` (surely did not run), `TooLarge` (was
   sent and not taken), the refusal of `on_connect` (nobody looked at it), or `Interrupted` (was sent, may have run).
6. `_run` owns the connection with its writer, pinger and refresh of the token; the client owns `_run`, the
   dispatcher (`Inbox.run`) and its session; `close` ends all of them.
7. A client that gives up is heard: by everyone who iterates or waits for the connection, else in the log.
8. Tokens are in no log line and in no exception, and so are URL queries, which carry them too.
9. From `connect` on the client belongs to one thread; what could change it is refused to all others.
10. A client that is closed is free without the collector: nothing that it has refers to it, tasks are forgotten, and
    an exception that was raised is not kept, because it has the frames of whoever caught it; `fresh` makes the next.
"""

from __future__ import annotations

import asyncio
import enum
import inspect
import logging
import random as random_module
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeVar, overload

import aiohttp
from aiohttp import ClientWebSocketResponse, ClientWSTimeout, WSMsgType
from aiohttp.http import HttpProcessingError
from msgspec import UNSET
from yarl import URL

from ..errors import DeadlineExceeded, VeraniError, fresh
from ..names import MAX_REASON_BYTES
from ..threads import OwnThread
from .backoff import Attempts, Reconnection, parse_retry_after
from .codec import PING, Incoming, as_error, as_event, decode, encode
from .failures import (
    Closing,
    ConnectFailed,
    ConnectionClosed,
    HandshakeRefused,
    NoWebSocketServer,
    address_of,
    bare,
    reason_of,
    speaks_no_tls,
    told_in,
    without_secrets,
)
from .inbox import LIFECYCLE_EVENTS, EventStream, Inbox, Signal
from .outbox import Frame, NotSent, Outbox, Requests

__all__ = ["ClientState", "VeraniClient", "cause_of"]

logger = logging.getLogger(__name__)

C = TypeVar("C", bound=Callable[..., Any])

# Returns a fresh token, at once or later.
TokenSource = Callable[[], str | Awaitable[str]]

_STAY_AWAY = frozenset({1000, 1001})  # protocol 15
_NO_CODE, _LOST = 1005, 1006  # RFC 6455, 7.4.1: a close frame without a code, no close frame at all
_MAX_FRAME_BYTES = 4 * 1024 * 1024  # a room's frame has at most 1 MiB (design 7)
_MAX_REFUSAL_BYTES = 4096  # a refusal of ours has less than 100
_REFUSAL_SECONDS = 1.0  # for the body of a refusal, which comes with its status
_OTHER_THREADS = (
    "use loop.call_soon_threadsafe(client.emit, ...), or asyncio.run_coroutine_threadsafe(client.request(...), loop)"
)


class ClientState(enum.StrEnum):
    """Where a client is in its life; `disconnected` is also where it begins."""

    CONNECTING = "connecting"
    CONNECTED = "connected"
    DISCONNECTED = "disconnected"
    RECONNECTING = "reconnecting"
    ERROR = "error"


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
    next attempt. `headers` go with each handshake. `token` is a function, plain or async, that returns a token: it is
    called for each handshake, which carries it as ``Authorization: Bearer``, and when the server says that the
    token expires, which is answered with a new one. A token that is a string goes with each handshake and is never
    renewed: `verani.expiring` is then an event like others. `session` is used for the handshakes and not closed.
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
        url: str | URL,
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
        if isinstance(token, str):
            _check_token(token)
        elif not (token is None or callable(token)):
            raise TypeError(
                f"token: expected a string, a function that returns one, or None, got {type(token).__name__}"
            )
        self._thread = OwnThread()
        self.url = url
        self._reconnection = reconnection or Reconnection()
        self._connection_timeout = connection_timeout
        self._ping_interval = ping_interval
        self._pong_timeout = pong_timeout
        self._close_timeout = close_timeout
        self._headers = dict(headers or {})
        self._token = token
        self._refresh: asyncio.Task[None] | None = None
        self._own_session = session is None
        self._session = session
        self._answers = _Answers()
        self._random = random

        self._state = ClientState.DISCONNECTED
        self._trouble = ""  # why there is no connection at the moment, as far as known
        self._failure: VeraniError | None = None  # why it ended, None while it lives
        self._gave_up = False  # it ended otherwise than by `close` or a close code that means to stay away
        self._waiting = 0  # tasks in `wait_for_connection`, which raises the failure
        self._closed: tuple[int, str] | None = None  # code and reason given to `close`
        self._settled = asyncio.Event()  # connected or ended: those who wait for a connection look again
        self._runner: asyncio.Task[None] | None = None
        self._dispatcher: asyncio.Task[None] | None = None

        self._ws: ClientWebSocketResponse | None = None
        self._pong_due: asyncio.Handle | None = None  # armed while a ping is unanswered
        self._gone_silent = ""  # what was waited for in vain, if that is why this connection was broken
        self._answered = False  # a request over this connection was
        self._goodbye = asyncio.Lock()
        self._reading_stopped = False
        self._look_again = asyncio.Event()  # something that decides whether to read has changed
        self._inbox = Inbox(max_inbox, self._look_again.set, self._thread)

        self._outbox = Outbox(max_queue, partial(self._inbox.drop, "outbox"))
        self._requests = Requests()
        self._ignored_frames = 0
        self._warned_names: set[str] = set()

    # --- what it is ---------------------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        """Where the next attempt connects to. Raise ValueError if set to something that is no WebSocket URL."""
        return str(self._url)

    @url.setter
    def url(self, url: str | URL) -> None:
        self._check_thread("url")
        parsed = URL(url)
        if parsed.scheme not in ("ws", "wss", "http", "https") or not parsed.host:
            raise ValueError(f"expected a ws:// or wss:// URL with a host, got {str(parsed.with_query(None))!r}")
        self._url = parsed

    @property
    def state(self) -> ClientState:
        """Where this client is in its life."""
        return self._state

    @property
    def connected(self) -> bool:
        """Tell whether there is an open connection now."""
        return self._state is ClientState.CONNECTED

    @property
    def dropped(self) -> int:
        """Count what was dropped because a queue was full: frames to send, events for callbacks and iterators."""
        return self._inbox.dropped

    @property
    def ignored_frames(self) -> int:
        """Count the frames from the server that were no valid frames."""
        return self._ignored_frames

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
        return self._register(event, callback, once=False)

    @overload
    def once(self, event: str, callback: C) -> C: ...
    @overload
    def once(self, event: str, callback: None = None) -> Callable[[C], C]: ...
    def once(self, event: str, callback: C | None = None) -> C | Callable[[C], C]:
        """Register like `on`, for the next such event only."""
        return self._register(event, callback, once=True)

    def _register(self, event: str, callback: C | None, *, once: bool) -> C | Callable[[C], C]:
        if callback is None:
            return lambda callback: self._registered(event, callback, once)
        return self._registered(event, callback, once)

    def _registered(self, event: str, callback: C, once: bool) -> C:
        if not callable(callback):
            raise TypeError(f"expected a callable for {event!r}, got {callback!r}")
        self._check_thread("on")
        self._inbox.add(event, callback, once=once)
        return callback

    def off(self, event: str, callback: Callable[..., Any] | None = None) -> None:
        """Forget one callback of an event, or all of them; it also holds for events that already wait."""
        self._check_thread("off")
        self._inbox.remove(event, callback)

    def __aiter__(self) -> EventStream:
        """Iterate over the application events until the client has ended.

        The first iterator begins with what has arrived since the client first connected (at most 16 MiB), others with
        what arrives from now on. Each keeps at most `max_inbox` events; beyond, its oldest are dropped and reported.
        Behind the last event it raises why the client gave up, also if that is long ago; it ends without an
        error after `close` and after the close codes 1000 and 1001.
        """
        self._check_thread("async for")
        stream = self._inbox.open_stream()
        if self._failure is not None:
            self._inbox.end_streams(self._failure if self._gave_up else None)
        return stream

    # --- sending ------------------------------------------------------------------------------------------------

    def emit(self, event: str, data: Any = UNSET) -> None:
        """Queue one frame; it is encoded now and sent in order, at once or when there is a connection.

        Without a connection, also before the first `connect`, at most `max_queue` frames wait, with one at most 16 MiB;
        the oldest are dropped and reported. `data` is anything msgspec encodes; omitted it is absent, None is null.
        Raise `NotSent` once the client is closed, TypeError for what cannot be encoded, ValueError for an event name
        that is too long or has control characters.
        """
        self._check_thread("emit")
        self._refuse_if_closed()
        self._warn_of_collision(event)
        self._outbox.put(Frame(encode(event, data)))

    async def request(self, event: str, data: Any = UNSET, *, timeout: float | None = 5.0) -> Any:
        """Send one frame and return the answer of the room's handlers.

        Raise the error the room answers with (`errors.error_for`), `DeadlineExceeded` after `timeout` seconds,
        `RequestInterrupted` if the connection ended in between (it may have run; its text and `closing` say how),
        `TooLarge` if that was because of this frame, what `on_connect` refused this client with, `NotSent` if the frame
        never left (full queue, client ended or never told to connect; it surely did not run), and what `emit` raises
        for what cannot be sent. Cancelling it takes back a frame that still waits.
        """
        self._check_thread("request")
        self._refuse_if_closed()
        if self._failure is not None:
            raise self._not_sent(event)
        self._warn_of_collision(event)
        request = self._requests.open(event)
        self._look_again.set()  # reading goes on while a request is open
        frame: Frame | None = None
        try:
            frame = Frame(encode(event, data, request.number), request)
            if self._runner is None:  # nobody else may ever connect it, so waiting would only hide the mistake
                raise NotSent("the client is not connected: use `async with client`, or call `connect` first")
            async with asyncio.timeout(timeout):
                self._outbox.put(frame)
                return await request.answer
        except TimeoutError:
            waits = "" if request.sent or not self._trouble else f": it was not sent, {self._trouble}"
            raise DeadlineExceeded(f"no answer to {event!r} within {timeout} s{waits}") from None
        finally:
            self._requests.forget(request)
            if frame is not None:
                self._outbox.withdraw(frame)
            del request, frame  # which have the exception that has this very function's frame

    async def drain(self) -> None:
        """Wait until everything emitted is handed to a connection; raise `NotSent` if the client ends first."""
        self._check_thread("drain")
        while not self._outbox.flushed:
            if self._failure is not None:
                raise NotSent(f"{len(self._outbox)} frames were not sent: {self._failure}")
            await self._outbox.progress()

    def _take_failure(self) -> VeraniError:
        """Return why it ended, to be raised; the next one gets a copy."""
        assert self._failure is not None
        failure, self._failure = self._failure, fresh(self._failure)
        return failure

    def _not_sent(self, event: str) -> VeraniError:
        """Say why a request cannot be sent any more; a refusal speaks for itself."""
        assert self._failure is not None
        if isinstance(self._failure, ConnectFailed):
            return NotSent(f"{event!r} was not sent: {self._failure}")
        return fresh(self._failure)

    def _check_thread(self, call: str) -> None:
        self._thread.check(f"VeraniClient.{call}", _OTHER_THREADS)

    def _refuse_if_closed(self) -> None:
        if self._closed is not None:
            raise NotSent("expected an open client, this one is closed")

    def _warn_of_collision(self, event: str) -> None:
        if event in LIFECYCLE_EVENTS and event not in self._warned_names:
            self._warned_names.add(event)
            logger.warning("the event name %s collides with a life-cycle listener of clients", event)

    # --- life ---------------------------------------------------------------------------------------------------

    async def connect(self, *, wait: bool = True) -> None:
        """Start, also again after it ended by itself, and `wait` until it is connected.

        Raise what ended it if that fails for good: `HandshakeRefused`, or `ConnectFailed` for a network error.
        Cancelling this does not stop the client, `close` does. Raise RuntimeError after `close`.
        """
        self._check_thread("connect")
        if self._closed is not None:
            raise RuntimeError("the client is closed, make a new one")
        self._thread.take()
        if self._dispatcher is None:
            self._dispatcher = asyncio.create_task(self._inbox.run(), name="verani-client-dispatcher")
        if self._runner is None or self._runner.done():
            self._failure, self._gave_up = None, False
            self._runner = asyncio.create_task(self._run(), name="verani-client")
        if wait:
            await self.wait_for_connection()

    async def wait_for_connection(self, timeout: float | None = None) -> None:
        """Wait until there is a connection.

        Raise TimeoutError after `timeout` seconds, with the reason if there is one, or what ended the client if it has.
        """
        self._check_thread("wait_for_connection")
        self._waiting += 1
        try:
            async with asyncio.timeout(timeout):
                while not self.connected:
                    if self._failure is not None:
                        raise self._take_failure()
                    self._settled.clear()
                    await self._settled.wait()
        except TimeoutError:
            why = f": {self._trouble}" if self._trouble else ""
            raise TimeoutError(f"no connection within {timeout} s{why}") from None
        finally:
            self._waiting -= 1

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
        self._check_thread("close")
        if not (code == 1000 or 3000 <= code <= 4999):
            raise ValueError(f"expected close code 1000 or 3000 to 4999, got {code}")
        if len(reason.encode()) > MAX_REASON_BYTES:
            raise ValueError(f"expected a reason of at most {MAX_REASON_BYTES} bytes, got {len(reason.encode())}")
        if self._closed is None:
            self._closed = (code, reason)
        self._look_again.set()
        patience = 0.0  # when cancelled, everything ends at once
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._close_timeout):
                    await self._hang_up(*self._closed)
            patience = self._close_timeout
        finally:
            await self._tear_down(patience)

    async def _hang_up(self, code: int, reason: str) -> None:
        if self._runner is None:
            return
        if self._ws is not None:
            with suppress(NotSent):
                await self.drain()
        if self._ws is not None:
            await self._say_goodbye(self._ws, code, reason)
        else:
            self._runner.cancel()
        await asyncio.wait({self._runner})

    async def _say_goodbye(self, ws: ClientWebSocketResponse, code: int, reason: str) -> None:
        # aiohttp lets a second call return before the handshake is done, and `_serve` must not cut it short.
        async with self._goodbye:
            await ws.close(code=code, message=reason.encode())

    async def _tear_down(self, patience: float) -> None:
        try:
            if self._runner is not None:
                self._runner.cancel()
                await asyncio.wait({self._runner})
            if self._state not in (ClientState.DISCONNECTED, ClientState.ERROR):
                self._enter(ClientState.DISCONNECTED, *(self._closed or (_LOST, "")))
            self._end(ConnectFailed("the client is closed"), gave_up=False)
            self._inbox.finish()
            if self._dispatcher not in (None, asyncio.current_task()):
                await asyncio.wait({self._dispatcher}, timeout=patience)
        finally:
            if self._dispatcher not in (None, asyncio.current_task()):
                self._dispatcher.cancel()
                await asyncio.wait({self._dispatcher}, timeout=self._close_timeout)
            if self._own_session and self._session is not None:
                await self._session.close()
            # What was cancelled keeps the frames it ran in, and so the client.
            self._runner = None
            if self._dispatcher is not asyncio.current_task():
                self._dispatcher = None

    def _enter(self, state: ClientState, *args: Any) -> None:
        logger.debug("state %s", state)
        self._state = state
        self._inbox.put(Signal(state.value, args))

    def _end(self, failure: VeraniError, *, gave_up: bool) -> None:
        """Settle everyone who waits for a connection; frames stay queued for another `connect` unless closed."""
        if self._closed is not None:
            failure, gave_up = ConnectFailed("the client is closed"), False
            self._outbox.clear()
        if self._failure is None:
            self._failure, self._gave_up = failure, gave_up
        if isinstance(failure, ConnectFailed):
            self._requests.fail(NotSent(f"the request was not sent: {failure}"))
        else:  # a refusal speaks for itself
            self._requests.fail(fresh(failure))
        self._trouble = str(failure)
        if gave_up and not self._waiting and not self._inbox.has_streams:
            logger.error("does not come back: %s", failure)
        self._inbox.end_streams(failure if gave_up else None)
        self._outbox.wake()
        self._settled.set()

    # --- connecting ---------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        try:
            await self._keep_connected()
        except VeraniError as exc:  # why there is no connection, or what the room refused this client with
            self._fail(exc)
        except Exception as exc:
            # The socket pump: what nobody foresaw must not leave anyone waiting.
            logger.exception("the connection task failed")
            failure = ConnectFailed(f"the client failed: {exc!r}")
            failure.__cause__ = exc.with_traceback(None)
            self._fail(failure)

    def _fail(self, failure: VeraniError) -> None:
        # The frames it came through are this client's.
        failure.__traceback__ = failure.__context__ = None
        self._enter(ClientState.ERROR, failure)
        self._end(failure, gave_up=True)

    async def _keep_connected(self) -> None:
        attempts = Attempts(self._reconnection)
        while True:
            self._enter(ClientState.CONNECTING)
            at_least = await self._attempt(attempts)
            if at_least is None:
                return
            delay = at_least + attempts.next_delay(self._random())
            self._enter(ClientState.RECONNECTING, attempts.retries, delay)
            await asyncio.sleep(delay)

    async def _attempt(self, attempts: Attempts) -> float | None:
        """Connect, and use the connection to its end; return the seconds to wait at least, None if this was the last.

        Raise why the client gives up.
        """
        try:
            ws = await self._open()
        except ConnectFailed as exc:
            attempts.failed()
            if exc.is_final or not attempts.may_go_on:
                raise
            logger.warning("attempt %d failed: %s", attempts.failures, exc)
            self._inbox.put(Signal("error", (exc,)))
            self._trouble = str(exc)
            return exc.retry_after
        clock = asyncio.get_running_loop().time
        opened = clock()
        closing = await self._serve(ws)
        if closing.refusal is not None:
            raise closing.refusal
        if self._closed is not None or closing.code in _STAY_AWAY or not self._reconnection.enabled:
            self._end(ConnectionClosed(closing), gave_up=closing.code not in _STAY_AWAY)
            return None
        attempts.ended(closing.code, lasted=clock() - opened, answered=self._answered)
        if not attempts.may_go_on:
            raise ConnectionClosed(closing, attempts.failures)
        if attempts.failures:
            logger.warning("connection %d in a row did not last: %s", attempts.failures, closing)
        return 0.0

    async def _open(self) -> ClientWebSocketResponse:
        if self._session is None:
            self._session = aiohttp.ClientSession(trace_configs=[self._answers.trace()])
            # Or each attempt would be two, one right after the other; aiohttp has no public way.
            self._session._retry_connection = False
        url, self._answers.body = self._url, b""
        awaited = "token from its function"
        try:
            async with asyncio.timeout(self._connection_timeout):
                headers = self._headers
                if self._token is not None:
                    headers = {**headers, "Authorization": f"Bearer {await self._ask_token(self._token)}"}
                awaited = f"handshake with {address_of(url)}"
                return await self._session.ws_connect(
                    url,
                    headers=headers,
                    max_msg_size=_MAX_FRAME_BYTES,
                    timeout=ClientWSTimeout(ws_close=self._close_timeout),
                )
        except aiohttp.ClientResponseError as exc:
            raise self._refused(exc, url) from None  # its text has the query
        except UnicodeError:
            raise NoWebSocketServer(f"{address_of(url)} has no host name that there can be") from None
        except (aiohttp.InvalidURL, aiohttp.RedirectClientError):  # over a session that is not ours
            raise NoWebSocketServer("the server redirected to something that is no HTTP URL") from None
        except TimeoutError:
            raise ConnectFailed(f"no {awaited} within {self._connection_timeout} s") from None
        except (aiohttp.ClientError, OSError) as exc:
            cause, why = cause_of(exc)
            exc.__traceback__ = None  # aiohttp keeps the exception in one of its frames, and so this one
            kind = NoWebSocketServer if speaks_no_tls(cause) else ConnectFailed
            raise kind(f"no connection to {address_of(url)}: {why}") from bare(cause)

    def _refused(self, error: aiohttp.ClientResponseError, url: URL) -> ConnectFailed:
        """Say what an answer means that is no 101 of a WebSocket server."""
        if isinstance(error.__cause__, HttpProcessingError):
            return NoWebSocketServer(f"{without_secrets(url)} is no WebSocket server: its answer is no HTTP")
        if error.status == 101:
            return NoWebSocketServer(f"{without_secrets(url)} is no WebSocket server: {error.message.lower()}")
        header = None if error.headers is None else error.headers.get("Retry-After")
        server_code, public = told_in(self._answers.body)
        return HandshakeRefused(
            error.history[0].status if error.history else error.status,  # redirected, over a session that is not ours
            url=without_secrets(url),
            server_code=server_code,
            public=public,
            retry_after=parse_retry_after(header, now=time.time()),
        )

    async def _ask_token(self, source: str | TokenSource) -> str:
        if isinstance(source, str):
            return source
        try:
            given = source()
            token = await given if inspect.isawaitable(given) else given
            _check_token(token)
            return token
        except Exception as exc:
            # The application's own code: whatever it raises, another attempt may work.
            logger.exception("the function that returns tokens failed")
            raise ConnectFailed("expected a token, its function failed") from exc

    # --- one connection -----------------------------------------------------------------------------------------

    async def _serve(self, ws: ClientWebSocketResponse) -> Closing:
        """Use one connection until it is over; return how it ended."""
        ended = Closing(_LOST)
        transport = _transport_of(ws)
        self._ws = ws
        self._answered = False
        self._trouble = self._gone_silent = ""
        self._inbox.put(Signal("open", ()))
        self._enter(ClientState.CONNECTED)
        self._settled.set()
        self._outbox.connected()
        writer = asyncio.create_task(self._write(ws, transport), name="verani-client-writer")
        pinger = asyncio.create_task(self._ping(ws), name="verani-client-pinger")
        try:
            # Whoever waited for the connection runs before the first frame is read, and can still listen for it.
            await asyncio.sleep(0)
            ended = await self._read(ws)
            if self._closed is not None:
                await self._say_goodbye(ws, *self._closed)
        finally:
            if ws.close_code in (None, _LOST):
                _abort(transport)
            self._disarm()
            tasks = {writer, pinger} if self._refresh is None else {writer, pinger, self._refresh}
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            self._refresh = None
            await ws.close()  # gives the connection back, there is no handshake any more
            if (error := ws.exception()) is not None:  # aiohttp keeps it, and with it whatever frames it came from
                bare(error)
            self._ws = None
            if self._closed is not None:
                ended = Closing(*self._closed, by_client="the client was closed")
            self._disconnected(ended)
        return ended

    def _disconnected(self, closing: Closing) -> None:
        logger.info("connection ended with code %d", closing.code)
        self._trouble = str(closing)
        self._outbox.disconnected()
        largest = self._outbox.largest
        self._requests.interrupt(lambda request: closing.error_for(request.event, request.size, largest))
        self._inbox.put(Signal("close", (closing.code, closing.reason)))
        self._enter(ClientState.DISCONNECTED, closing.code, closing.reason)

    async def _write(self, ws: ClientWebSocketResponse, transport: asyncio.Transport | None) -> None:
        with suppress(aiohttp.ClientError, ConnectionError):  # the reader notices too, and says how it ended
            while True:
                await self._outbox.ready()
                if ws.closed or transport is None or transport.is_closing():
                    break  # what waits is for the next connection
                await ws.send_frame(self._outbox.take().payload, WSMsgType.TEXT)
        self._outbox.disconnected()

    async def _read(self, ws: ClientWebSocketResponse) -> Closing:
        while True:
            await self._until_readable()
            message = await ws.receive()
            match message.type:
                case WSMsgType.TEXT:
                    self._receive(message.data)
                case WSMsgType.BINARY:
                    self._ignore("a binary frame")
                case WSMsgType.CLOSE:
                    return Closing(message.data or _NO_CODE, message.extra or "")
                case WSMsgType.ERROR:
                    code = getattr(message.data, "code", _LOST)  # ours, for what the server did
                    return Closing(int(code), str(message.data), by_client="the server sent what no client takes")
                case _:
                    return Closing(_LOST, by_client=self._gone_silent)

    async def _until_readable(self) -> None:
        if not self._inbox.full:
            return
        # Let callbacks go first, also while requests allow to read on.
        await asyncio.sleep(0)
        while self._inbox.full and not self._requests and self._closed is None:
            self._reading_stopped = True
            self._look_again.clear()
            try:
                await self._look_again.wait()
            finally:
                self._reading_stopped = False
            if self._pong_due is not None:
                self._arm()

    def _receive(self, text: str) -> None:
        try:
            frame = decode(text)
        except ValueError as exc:
            self._ignore(exc)
            return
        match frame.type:
            case "pong":
                self._disarm()
            case "ack" if type(frame.id) is int:
                self._answer(frame.id, frame)
            case "verani.expiring" if callable(self._token):
                if self._refresh is None or self._refresh.done():
                    self._refresh = asyncio.create_task(self._send_token(self._token), name="verani-client-refresh")
            case "verani.refreshed" if callable(self._token):
                logger.debug("the token was refreshed")
            case _:
                self._inbox.put(as_event(frame), len(text))

    def _answer(self, number: int, frame: Incoming) -> None:
        self._answered = True
        request = self._requests.get(number)
        if request is None:
            logger.debug("nobody waits for answer %d", number)
        elif frame.error is None:
            request.succeed(frame.data)
        else:
            request.fail(as_error(frame.error, request.event))

    async def _send_token(self, source: TokenSource) -> None:
        with suppress(ConnectFailed):  # it is logged; the server closes with 4001, and the next handshake asks again
            self._outbox.put(Frame(encode("verani.refresh", {"token": await self._ask_token(source)})))

    def _ignore(self, why: object) -> None:
        self._ignored_frames += 1
        logger.debug("ignored a frame: %s", why)

    # --- keepalive ----------------------------------------------------------------------------------------------

    async def _ping(self, ws: ClientWebSocketResponse) -> None:
        while True:
            await asyncio.sleep(self._ping_interval)
            if self._pong_due is None:
                self._arm()
            with suppress(aiohttp.ClientError, ConnectionError):
                await ws.send_frame(PING, WSMsgType.TEXT)

    def _arm(self) -> None:
        self._disarm()
        self._pong_due = asyncio.get_running_loop().call_later(self._pong_timeout, self._pong_missed, True)

    def _disarm(self) -> None:
        if self._pong_due is not None:
            self._pong_due.cancel()
            self._pong_due = None

    def _pong_missed(self, may_be_waiting: bool) -> None:
        if self._reading_stopped:
            self._arm()
        elif may_be_waiting:
            # A callback that blocked the loop makes us late too: let the reader see what the socket has first.
            self._pong_due = asyncio.get_running_loop().call_soon(self._pong_missed, False)
        elif self._ws is not None:
            self._gone_silent = f"no pong within {self._pong_timeout} s"
            logger.warning("%s, dropping the connection", self._gone_silent)
            _abort(_transport_of(self._ws))


class _Answers:
    """What only a trace sees of answers that are no 101: the body, and a redirect before it is followed."""

    def __init__(self) -> None:
        self.body = b""  # the beginning of that of the latest answer

    def trace(self) -> aiohttp.TraceConfig:
        trace = aiohttp.TraceConfig()
        trace.on_request_end.append(self._keep_body)
        trace.on_request_redirect.append(self._refuse_redirect)
        return trace

    async def _keep_body(self, session: object, context: object, params: aiohttp.TraceRequestEndParams) -> None:
        if params.response.status == 101:
            return
        with suppress(aiohttp.ClientError, OSError, TimeoutError):  # the status alone says enough
            async with asyncio.timeout(_REFUSAL_SECONDS):
                while len(self.body) < _MAX_REFUSAL_BYTES:
                    piece = await params.response.content.read(_MAX_REFUSAL_BYTES)
                    if not piece:
                        break
                    self.body += piece

    async def _refuse_redirect(
        self, session: object, context: object, params: aiohttp.TraceRequestRedirectParams
    ) -> None:
        params.response.close()
        raise HandshakeRefused(params.response.status, url=without_secrets(params.url))


def _check_token(token: object) -> None:
    """Refuse what no header can carry, without showing it."""
    if not isinstance(token, str):
        raise TypeError(f"token: expected a string, got {type(token).__name__}")
    if not (token.isascii() and token.isprintable() and token) or " " in token:
        raise ValueError("token: expected visible ASCII characters, at least one, and no spaces or line ends")


def cause_of(error: Exception) -> tuple[Exception, str]:
    """Return what is behind an error of aiohttp, and its text without aiohttp's additions."""
    match error:
        case aiohttp.ClientConnectorCertificateError():
            return error.certificate_error, str(error.certificate_error)
        case aiohttp.ClientSSLError():  # a number of OpenSSL's, not of the system's
            return error.os_error, str(error.os_error)
        case aiohttp.ClientConnectorError():
            return error.os_error, reason_of(error.os_error)
        case aiohttp.ServerDisconnectedError():  # it may show what came of the answer's headers, cookies too
            return aiohttp.ServerDisconnectedError(), "the server closed the connection and had not answered"
        case _:
            return error, f"{type(error).__name__}: {error}"


def _transport_of(ws: ClientWebSocketResponse) -> asyncio.Transport | None:
    connection = ws._response.connection  # aiohttp has no public way; None once it is released
    return None if connection is None else connection.transport


def _abort(transport: asyncio.Transport | None) -> None:
    """End a connection without a closing handshake and without flushing: the peer may never read again."""
    if transport is not None:
        transport.abort()

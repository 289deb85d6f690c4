"""Call rooms of a running service over HTTP: `connect` for async programs, `connect_sync` for scripts.

What can be called is `RoomStub`'s; this only carries it to the service's internal listener.
"""

from __future__ import annotations

import asyncio
import io
import random
from collections.abc import Coroutine
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote

import msgspec
from msgspec import Struct

from .backoff import Backoff
from .errors import (
    DeadlineExceeded,
    Interrupted,
    RateLimited,
    RoomBusy,
    Unauthorized,
    VeraniError,
    WrongThread,
    error_for,
)
from .room.methods import MIN_TIMEOUT
from .room.stub import RoomStub
from .threads import OwnThread

if TYPE_CHECKING:
    import aiohttp

    from .room.definition import RoomDefinition

__all__ = ["KEY_HEADER", "TIMEOUT_HEADER", "Service", "SyncRoomStub", "SyncService", "connect", "connect_sync"]

KEY_HEADER = "Idempotency-Key"
TIMEOUT_HEADER = "Verani-Timeout"

# Less than the 10 s after which the service closes an idle connection: a call on one that is just being closed
# cannot be told from one that was lost while it ran.
_KEEP_ALIVE = 5.0

# Between attempts of a call that surely did not run.
_BACKOFF = Backoff(first=0.05, longest=1.0)

# What the service needs to say "too late" itself, which is a better answer than none.
_GRACE = 0.25


class _Error(Struct):
    code: str
    path: str | None = None
    message: str | None = None
    public: bool | None = None


class _Refusal(Struct):
    error: _Error


_decode_refusal = msgspec.json.Decoder(_Refusal).decode
_check_json = msgspec.json.Decoder(msgspec.Raw).decode

_OTHER_THREADS = (
    "use asyncio.run_coroutine_threadsafe(room.method(...), loop), or connect_sync() in a thread without an event loop"
)
_OTHER_THREADS_SYNC = "use connect_sync() in each thread"


class Service:
    """A running service; use it as ``async with connect(url) as service``, or end it with `close`.

    A call that surely did not run (the room is busy, nobody listens) is tried again, with full jitter, until its
    deadline; one that may have run, only if it has an idempotency key. What answers and is no service is not asked
    again. From its first call on it belongs to one thread; others get `WrongThread`, which names the way.
    """

    def __init__(self, url: str, *, token: str | None, timeout: float, waits_for_listener: bool = True) -> None:
        if not (token is None or isinstance(token, str)):
            raise TypeError(f"token: expected a string or None, got {type(token).__name__}")
        self._url = url.rstrip("/")
        self._headers = {"Authorization": f"Bearer {token}"} if token is not None else {}
        self._timeout = timeout
        self._waits_for_listener = waits_for_listener
        self._session: aiohttp.ClientSession | None = None
        self._thread = OwnThread()
        self._closed = False

    def __repr__(self) -> str:
        return f"<Service {self._url}>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections to the service; calls that still wait are `Interrupted`."""
        self._thread.check("Service.close", _OTHER_THREADS)
        self._closed = True
        if self._session is not None:
            await self._session.close()

    def room(self, definition: RoomDefinition[Any, Any] | str, room_id: str) -> RoomStub:
        """Address a room; with the definition itself, its methods' arguments and results are typed."""
        return RoomStub(self, definition, room_id)

    async def call(
        self, room: str, method: str, arguments: bytes, *, timeout: float | None, idempotency_key: str | None
    ) -> bytes:
        """Carry one call; see `verani.room.stub.Caller`."""
        self._thread.check(f"{room}: {method}", _OTHER_THREADS)
        self._thread.take()
        timeout = self._timeout if timeout is None else timeout
        clock = asyncio.get_running_loop().time
        until = clock() + timeout
        last: VeraniError = DeadlineExceeded(f"{room}: {method} did not answer within {timeout:g} s")
        attempt = 0
        while (left := until - clock()) > 0:
            try:
                return await self._attempt(room, method, arguments, left, idempotency_key)
            except (RoomBusy, RateLimited) as error:
                last, pause = error, error.retry_after
            except Interrupted as error:
                if idempotency_key is None:
                    raise
                last, pause = error, 0.0
            pause += _BACKOFF.jittered(attempt, random.random())
            attempt += 1
            if clock() + pause >= until:
                break
            await asyncio.sleep(pause)
        try:
            raise last
        finally:
            del last  # it has this very function's frame

    async def _attempt(self, room: str, method: str, arguments: bytes, timeout: float, key: str | None) -> bytes:
        # Only here: who defines rooms imports this module, and would wait as long as for all the rest of Verani.
        import aiohttp
        from yarl import URL

        from .client.causes import bare, cause_of, speaks_no_tls

        if self._closed:
            raise VeraniError(f"{self!r} was closed")
        if self._session is None:
            connector = aiohttp.TCPConnector(keepalive_timeout=_KEEP_ALIVE, limit=0)
            self._session = aiohttp.ClientSession(connector=connector, headers=self._headers)
        headers = {"Content-Type": "application/json", TIMEOUT_HEADER: f"{max(timeout, MIN_TIMEOUT):.6f}"}
        if key is not None:
            headers[KEY_HEADER] = key
        # Encoded here, because a room may be named "..", which is a way up to whoever normalizes paths.
        path = f"/rpc/{quote(room)}/{quote(method, safe='')}"
        try:
            url = URL(self._url)
            async with self._session.post(
                url.with_path(url.raw_path.rstrip("/") + path, encoded=True),
                data=io.BytesIO(arguments),  # aiohttp warns of large bytes
                headers=headers,
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=timeout + _GRACE),
            ) as response:
                body = await response.read()
        except aiohttp.ClientConnectorError as error:
            cause, reason = cause_of(error)
            error.__traceback__ = None  # aiohttp keeps the error in one of its frames, and so this one
            if speaks_no_tls(cause):
                raise self._no_service("speaks no TLS") from bare(cause)
            text = f"cannot connect to {self._url}: {reason.lower()}"
            if self._waits_for_listener:
                raise RoomBusy(text, retry_after=0.0) from bare(cause)
            raise VeraniError(text) from bare(cause)
        except TimeoutError:
            raise DeadlineExceeded(f"{room}: {method} did not answer within {timeout:g} s") from None
        except (ValueError, aiohttp.NonHttpUrlClientError) as error:  # InvalidURL among them
            raise VeraniError(
                f"expected the URL of an internal listener, such as http://127.0.0.1:8001, got {self._url!r}"
            ) from error
        except aiohttp.ClientResponseError as error:  # no status of ours raises
            raise self._no_service("answered no HTTP") from error
        except aiohttp.ClientError as error:
            cause, reason = cause_of(error)
            raise Interrupted(f"{room}: the connection was lost while {method} ran: {reason}") from cause
        if response.status == 200:
            try:
                _check_json(body)
            except (msgspec.DecodeError, UnicodeDecodeError):
                raise self._no_service("answered 200 and no result") from None
            return body
        raise self._refusal(response, body, f"{room}: {method}")

    def _refusal(self, response: aiohttp.ClientResponse, body: bytes, what: str) -> VeraniError:
        if response.status == 401:
            given = "refused the token" if self._headers else "wants a token"
            return Unauthorized(f"{self._url} {given}: expected the service's VERANI_RPC_TOKEN")
        try:
            told = _decode_refusal(body).error
        except (msgspec.DecodeError, UnicodeDecodeError):
            return self._no_service(f"answered {response.status}")
        public = told.message if told.public else None
        text = f"{what}: {public}" if public is not None else told.message or f"{what}: {told.code}"
        error = error_for(told.code, text, path=told.path, public=public)
        if isinstance(error, RoomBusy | RateLimited):
            from .client.reconnection import parse_retry_after

            # Whole seconds are for those who cannot wait for less; backing off is what a busy room asks for.
            error.retry_after = (
                0.0 if response.status == 503 else parse_retry_after(response.headers.get("Retry-After"), now=0.0)
            )
        return error

    def _no_service(self, what: str) -> VeraniError:
        return VeraniError(f"{self._url} {what}; is that the internal listener of a service?")


def connect(url: str, *, token: str | None = None, timeout: float = 5.0) -> Service:
    """Address a running service by the URL of its internal listener: ``connect("http://127.0.0.1:8001")``.

    `token`: its `VERANI_RPC_TOKEN`, if it has one. `timeout`: seconds for each call that brings no own. Nothing is
    sent before the first call.
    """
    return Service(url, token=token, timeout=timeout)


class SyncRoomStub:
    """A `RoomStub` whose methods block."""

    def __init__(self, service: SyncService, stub: RoomStub) -> None:
        self._service = service
        self._stub = stub

    def __repr__(self) -> str:
        return f"<Sync{repr(self._stub)[1:]}"

    def call(self, method: str, /, *arguments: Any, **named: Any) -> Any:
        """Call a method by its name; see `RoomStub.call`."""
        return self._service._run(self._stub.call(method, *arguments, **named))

    def __getattr__(self, method: str) -> Any:
        if method.startswith("_"):
            raise AttributeError(f"{type(self).__name__} has no attribute {method!r}")
        call = getattr(self._stub, method)
        return lambda *arguments, **named: self._service._run(call(*arguments, **named))


class SyncService:
    """A `Service` for programs without an event loop; use it in a ``with`` block, from one thread: any other gets
    `WrongThread`.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self._runner = asyncio.Runner()
        self._thread = OwnThread()

    def __repr__(self) -> str:
        return f"<Sync{repr(self._service)[1:]}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections to the service."""
        self._thread.check("SyncService.close", _OTHER_THREADS_SYNC)
        self._runner.run(self._service.close())
        self._runner.close()

    def room(self, definition: RoomDefinition[Any, Any] | str, room_id: str) -> SyncRoomStub:
        """Address a room."""
        return SyncRoomStub(self, self._service.room(definition, room_id))

    def _run(self, call: Coroutine[Any, Any, Any]) -> Any:
        try:
            self._thread.check("a call of a blocking service", _OTHER_THREADS_SYNC)
        except WrongThread:
            call.close()
            raise
        self._thread.take()
        try:
            return self._runner.run(call)
        except VeraniError as error:
            # The runner's frame holds the task, and the task the error: with its traceback, that would be a cycle.
            raise error.with_traceback(None) from error.__cause__


def connect_sync(url: str, *, token: str | None = None, timeout: float = 5.0) -> SyncService:
    """Address a running service from a script; what `connect` does, blocking.

    Raises RuntimeError where an event loop is running: use `connect` there.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return SyncService(connect(url, token=token, timeout=timeout))
    raise RuntimeError("connect_sync: an event loop is running here; await the calls of connect() instead")

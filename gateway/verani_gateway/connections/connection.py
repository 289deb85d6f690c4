"""Own one WebSocket from its 101 to its end: read frames, forward them, keep it alive, close it.

What a frame means is the room's business; which connections exist is the gateway's.

Invariants:
- Exactly one close input follows the connect input, after every frame of the connection, whatever ended it.
- The socket is read only while the connection is within its rate and its in-flight limits; meanwhile it gets
  an unsolicited pong every 4 s, because the original client hangs for ever after 10 s without one.
- Whoever sends much takes turns with others who do: reading and refusing cost, too, and a quiet client must not
  wait for it.
- A connection that is closing forwards nothing more, and is gone 5 s later at the latest.
- What has ended is free at once: the parts of a connection do not know it, or weakly.
- Expiry and refresh (protocol 19) never reach the room; at most one refresh is under way, and none outlives `run`.
"""

from __future__ import annotations

import asyncio
import logging
import time
import weakref
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any

from aiohttp import WebSocketError, WSCloseCode, WSMessage, WSMsgType, web
from msgspec import UNSET, DecodeError

from verani import frames
from verani.errors import RateLimited, VeraniError
from verani.frames import InvalidFrame, NotUtf8, ScannedFrame
from verani.tracebacks import forget_traceback
from verani_actors.links.wire import cut_loose

from ..http.aiohttp_parts import has_failed, messages_of, take_early
from .expiry import REFRESH, REFRESHED, Expiry, expiring_frame, read_token
from .intake import Intake
from .outbox import Outbox, close_frame, control_frame, text_frame
from .rate import InvalidFrames, Meter, Turns

if TYPE_CHECKING:
    from aiohttp.abc import AbstractStreamWriter

    from ..gateway import Gateway

__all__ = ["MAX_IN_FLIGHT", "MAX_IN_FLIGHT_BYTES", "RESTART", "Connection", "Renew", "Socket"]

logger = logging.getLogger(__name__)

# Takes a client's new token and returns its expiry; raises VeraniError if it is of no use.
Renew = Callable[[str], Awaitable[float | None]]

# In flight per connection (design section 7); beyond, its socket is not read.
MAX_IN_FLIGHT = 16
MAX_IN_FLIGHT_BYTES = 64 << 10

# What one connection may read before others get their turn.
TURN = 4
# How long a connection above its rate pauses at least: a timer for each frame costs more than the frame.
GRAIN = 0.2
# Frames that are read and thrown away in that time, at most.
SKIP = 16
# A flood is over when no frame had to wait for so many seconds.
CALM = 1.0

# How often an unread client is told that the server lives; the original client gives up after 10 s.
UNREAD_PONG = 4.0
# With what connections are closed by a process that ends.
RESTART = 1012, "service restart"
# How long a peer may take to answer a close frame before its connection is aborted.
CLOSE_TIMEOUT = 5.0

_PONG_FRAME = text_frame(frames.PONG)
_REFRESHED_FRAME = text_frame(REFRESHED)
_PING = control_frame(9, b"")
# What ends a connection without a close frame of the peer: CLOSED after a lost connection, ERROR after one that
# aiohttp closed for a protocol error.
_OVER = frozenset({WSMsgType.CLOSED, WSMsgType.CLOSING, WSMsgType.ERROR})
_NO_STATUS = 1005
_LOST = 1006

# Close codes that may travel (RFC 6455 7.4 and its registry); another one from a peer is a protocol error.
_PEER_CODES = frozenset({1000, 1001, 1002, 1003, *range(1007, 1015), *range(3000, 5000)})


class Socket(web.WebSocketResponse[Any]):
    """aiohttp's WebSocket, reading only: its own close frames would overtake what waits in the outbox."""

    async def close(self, *, code: int = 1000, message: bytes = b"", drain: bool = True) -> bool:
        """Do nothing; what aiohttp closes for, it also reports to `receive`."""
        return False

    _intake: Intake | None = None
    _early = b""

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter:
        """Answer the handshake; what was sent with it, or is sent meanwhile, waits for `take_in_small_pieces`."""
        if request.transport is not None:
            request.transport.pause_reading()
            if has_failed(request.protocol):  # frames before the answer, where aiohttp did not see an upgrade
                request.transport.abort()
        self._early = take_early(request.protocol)
        return await super().prepare(request)

    def take_in_small_pieces(
        self, transport: asyncio.Transport, turns: Turns, max_frame_bytes: int, endless: Callable[[], None]
    ) -> Intake:
        """Put an `Intake` in front of what reads from the transport."""
        early, self._early = self._early, b""
        self._intake = Intake.install(transport, messages_of(self), early, turns, max_frame_bytes, endless)
        return self._intake

    def receive(self, timeout: float | None = None) -> Coroutine[Any, Any, WSMessage]:
        """Read the next message; the socket is read on where little waits."""
        if self._intake is not None and self._intake.is_held:
            self._intake.go_on()
        return super().receive(timeout)


def _weakly(method: Callable[[], None]) -> Callable[[], None]:
    """Have a method called by a part of its object, which must not keep it."""
    reference = weakref.WeakMethod(method)

    def call() -> None:
        if (alive := reference()) is not None:
            alive()

    return call


class Connection:
    """One accepted WebSocket."""

    def __init__(
        self, gateway: Gateway, id: str, room: str, client_id: str, meter: Meter, ws: Socket, request: web.Request
    ) -> None:
        """Take over a prepared WebSocket; raises ConnectionResetError if its transport is gone already."""
        if request.transport is None:
            raise ConnectionResetError("the client left during the handshake")
        settings = gateway.settings
        now = gateway.now()
        self.id = id
        self.room = room
        self.client_id = client_id
        self.in_flight = 0
        self.in_flight_bytes = 0
        self.outbox = Outbox(gateway.writer, request.transport, settings.max_send_buffer, _weakly(self._too_slow))
        self._gateway = gateway
        self._ws = ws
        self._transport = request.transport
        self._intake = ws.take_in_small_pieces(
            request.transport, gateway.turns, settings.max_frame_bytes, _weakly(self._endless)
        )
        self._meter = meter
        self._invalid = InvalidFrames(settings.max_invalid_frames)
        self._flow: asyncio.Future[None] | None = None
        self._closing: tuple[int, str] | None = None
        # Whether frames count that come after the close frame has left.
        self._heeds = False
        self._abort_at: float | None = None
        self._seen_at = now
        self._pinged_at: float | None = None
        # Since when the socket is unread, for its own flood or for a slow room, and the last pong it got since.
        self._throttled_since: float | None = None
        self._throttled_at = now
        self._blocked_since: float | None = None
        self._pong_at = now
        self._skipped = 0
        self._expiry: Expiry | None = None
        self._renew: Renew | None = None
        self._refresh: asyncio.Task[None] | None = None

    # --- reading ---------------------------------------------------------------------------------------

    async def run(self) -> tuple[int, str]:
        """Read until the connection is over; return the close code and reason."""
        code, reason = _LOST, ""
        try:
            code, reason = await self._read()
        finally:
            if self._refresh is not None:
                self._refresh.cancel()
            self.hang_up()
            cut_loose(self._ws)
        return self._closing if self._closing is not None else (code, reason)

    async def _read(self) -> tuple[int, str]:
        turn = 0
        while True:
            message = await self._ws.receive()
            kind = message.type
            turn += 1
            if turn >= TURN:
                turn = 0
                if self._meter.used >= TURN:  # who is within its rate by far, waits for nobody
                    self._intake.hold()
                    await self._gateway.turns.take()
            self._seen_at = now = self._gateway.now()
            self._pinged_at = None
            if kind is WSMsgType.CLOSE:
                return self._answer_close(message.data, message.extra or "")
            if kind in _OVER:
                ended = self._answer_error(message.data)
                await self._linger()
                return ended
            size = len(message.data)
            exceeded = self._meter.take(now, size)
            if exceeded is not None and not await self._exceeded(self._meter, exceeded, size):
                continue
            if self._closing is not None and (not self._heeds or self._over_limits()):
                await self._skip()
                continue
            if kind is WSMsgType.TEXT:
                self._intake.last_size = size
                frame = self._text(message.data)
                if frame is not None and (not self._meter.events or await self._is_within_its_rate(frame, size)):
                    data = bytes(frame.data) if frame.data is not UNSET else None
                    self._gateway.forward(self, frame.type, data, frame.channel, frame.id)
                if self.in_flight and self._over_limits():
                    await self._wait_for_room()
            elif kind is WSMsgType.BINARY:
                self.count_invalid("binary frame")
            elif kind is WSMsgType.PING:
                self.outbox.put(control_frame(10, bytes(message.data)))

    def _text(self, payload: bytes) -> ScannedFrame | None:
        """Read a frame; None if it was not for the room, and has been dealt with."""
        try:
            frame = frames.scan(payload)
        except NotUtf8:
            self.close(1007)
            return None
        except InvalidFrame as error:
            self.count_invalid(str(error))
            return None
        if frame.type == frames.PING:
            self._pong_at = self._seen_at
            self.outbox.put(_PONG_FRAME)
            return None
        if frame.type == REFRESH:
            self._start_refresh(b"null" if frame.data is UNSET else bytes(frame.data))
            return None
        return frame

    def count_invalid(self, why: str) -> None:
        """Drop and count an invalid frame (protocol 7)."""
        logger.debug("invalid frame: %s", why, extra={"room": self.room, "connection": self.id})
        self._gateway.metrics.invalid_frames += 1
        if self._invalid.add(self._gateway.now()):
            self._gateway.metrics.limited["max_invalid_frames"] += 1
            self.close(1008, "too many invalid frames")

    def _answer_close(self, code: int, reason: str) -> tuple[int, str]:
        """Echo the peer's close frame (F10: also one without a code), unless it is itself an answer."""
        if self._closing is None:
            if code and code not in _PEER_CODES:
                code = 1002
            self.outbox.seal(close_frame(code or None))
        return code or _NO_STATUS, reason

    def _answer_error(self, error: object) -> tuple[int, str]:
        """Close for a violation of RFC 6455; anything else that ends the reading is a lost connection."""
        forget_traceback(error)
        if not isinstance(error, WebSocketError):
            return _LOST, ""
        if error.code == WSCloseCode.MESSAGE_TOO_BIG:
            self._gateway.metrics.limited["max_frame_bytes"] += 1
        self._closing = int(error.code), ""
        self._abort_at = self._gateway.now() + CLOSE_TIMEOUT
        self.outbox.seal(close_frame(error.code))
        return self._closing

    async def _linger(self) -> None:
        """Let the peer read the close frame: bytes left unread would reset the connection, and lose it on its way."""
        if self._closing is None or self._transport.is_closing():
            return
        self._gateway.writer.flush()
        if self._transport.can_write_eof():
            self._transport.write_eof()
        over = asyncio.Event()
        self._intake.discard(over.set)
        await over.wait()

    # --- flow control ----------------------------------------------------------------------------------

    async def _is_within_its_rate(self, frame: ScannedFrame, size: int) -> bool:
        """Meter a frame whose event may have a rate of its own; False if it is not to be handled."""
        meter = self._meter.events.get(frame.type)
        exceeded = meter.take(self._seen_at) if meter is not None else None
        if meter is None or exceeded is None:
            return True
        if meter.policy != "drop":
            return await self._exceeded(meter, exceeded, size)
        self._gateway.metrics.limited[exceeded] += 1
        self._gateway.metrics.dropped_frames += 1
        if frame.id is not None:
            self.outbox.put(text_frame(frames.error_ack_frame(frame.id, RateLimited.code)))
        return False

    async def _exceeded(self, meter: Meter, setting: str, size: int) -> bool:
        """Apply the policy to a frame above the rate that `setting` says; False if it is to be dropped."""
        self._gateway.metrics.limited[setting] += 1
        if meter.policy == "close":
            self.close(1008, "too many frames")
            return False
        if meter.policy == "drop":
            self._gateway.metrics.dropped_frames += 1
            await self._skip()
            return False
        now = self._gateway.now()
        if self._throttled_since is None:
            self._throttled_since = now
        wait = meter.reserve(now, size)
        if wait > self._gateway.settings.max_unread:  # others of its user or address wait already
            meter.give_back(size)
            self._gateway.metrics.limited["max_unread"] += 1
            self.close(1008, "too many frames")
            return False
        until = now + max(wait, meter.span(GRAIN))
        while now < until and not self._transport.is_closing() and self._closing is None:
            await self._pause(until - now)
            now = self._gateway.now()
        if now < until:
            meter.give_back(size)
            return False
        await self._gateway.turns.take()
        self._throttled_at = self._gateway.now()
        return True

    async def _skip(self) -> None:
        """Read what is thrown away anyway no faster than a few frames at a time: reading costs, too."""
        self._skipped += 1
        if self._skipped % SKIP == 0:
            self._give_sign(self._gateway.now())  # its own pings wait, or are refused
            await self._pause(GRAIN)
            await self._gateway.turns.take()

    def _over_limits(self) -> bool:
        return (
            self.in_flight >= MAX_IN_FLIGHT
            or self.in_flight_bytes >= MAX_IN_FLIGHT_BYTES
            or self._gateway.is_congested(self.room)
        )

    async def _wait_for_room(self) -> None:
        """Leave the socket unread until the room has caught up, or the connection closes."""
        self._blocked_since = self._gateway.now()
        try:
            while self._closing is None and self._over_limits() and not self._transport.is_closing():
                self._flow = asyncio.get_running_loop().create_future()
                self._gateway.wait_for(self)
                await self._flow
        finally:
            self._flow = None
            self._blocked_since = None
            self._gateway.wait_no_more(self)

    async def _pause(self, seconds: float) -> None:
        """Wait this long, or until the connection closes."""
        self._intake.hold()
        loop = asyncio.get_running_loop()
        self._flow = loop.create_future()
        timer = loop.call_later(seconds, self.resume)
        try:
            await self._flow
        finally:
            timer.cancel()
            self._flow = None

    def resume(self) -> None:
        """Look again whether the socket may be read."""
        if self._flow is not None and not self._flow.done():
            self._flow.set_result(None)

    # --- expiry ----------------------------------------------------------------------------------------

    def expire(self, at: float, renew: Renew) -> None:
        """Close at this time of the wall clock, unless `renew` takes a token of the client's before that."""
        self._expiry = Expiry(at)
        self._renew = renew
        self._tell_expiry(time.time())

    def _tell_expiry(self, now: float) -> None:
        """Do what the expiry demands by now."""
        if self._expiry is None:
            return
        if self._expiry.is_over(now):
            self.close(4001, "token expired")
        elif (seconds := self._expiry.notice(now)) is not None:
            self.outbox.put(text_frame(expiring_frame(seconds)))

    def _start_refresh(self, data: bytes) -> None:
        try:
            token = read_token(data)
        except (DecodeError, RecursionError, UnicodeDecodeError):
            self.count_invalid("expected a token to refresh with")
            return
        # Without an expiry there is nothing to refresh, and a second token at once is one too many.
        if self._expiry is not None and self._refresh is None:
            self._refresh = asyncio.create_task(self._refresh_by(token))

    async def _refresh_by(self, token: str) -> None:
        assert self._renew is not None
        try:
            expires_at = await self._renew(token)
        except VeraniError as error:
            logger.debug("refresh refused: %s", error.code, extra={"room": self.room, "connection": self.id})
        else:
            if not self._transport.is_closing():
                self._expiry = None if expires_at is None else Expiry(expires_at)
                self.outbox.put(_REFRESHED_FRAME)
        finally:
            self._refresh = None

    # --- keepalive and closing -------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Do what is due; called a few times a second at most, with the gateway's clock."""
        if self._abort_at is not None:
            if now >= self._abort_at:
                self.abort()
            return
        if self._transport.is_closing():
            self.resume()
            return
        self._tell_expiry(time.time())
        if self._intake.is_held:
            self._give_sign(now)  # its own pings may wait behind what it sent before
        if self._blocked_since is None and now - self._throttled_at > CALM and self._flow is None:
            self._throttled_since = None
        unread = self._throttled_since or self._blocked_since
        if unread is not None:
            self._comfort(now, unread)
        elif self._pinged_at is not None:
            if now - self._pinged_at > self._gateway.settings.pong_timeout:
                self._gateway.metrics.limited["pong_timeout"] += 1
                logger.debug("peer is gone", extra={"room": self.room, "connection": self.id})
                self.abort()
        elif now - self._seen_at > self._gateway.settings.ping_interval:
            self._pinged_at = now
            self.outbox.put(_PING)

    def _comfort(self, now: float, unread_since: float) -> None:
        """Tell an unread client that the server lives, but not for ever."""
        if now - unread_since > self._gateway.settings.max_unread:
            self._gateway.metrics.limited["max_unread"] += 1
            if self._throttled_since is not None:
                self.close(1008, "too many frames")
            else:
                self.close(1013, "the room is too slow")
        else:
            self._give_sign(now)

    def _give_sign(self, now: float) -> None:
        """Send an unsolicited pong if the last one is long ago."""
        if now - self._pong_at >= UNREAD_PONG:
            self._pong_at = now
            self.outbox.put(_PONG_FRAME)

    def _endless(self) -> None:
        self._gateway.metrics.limited["max_frame_bytes"] += 1
        self.close(1009, "a message without end")

    def _too_slow(self) -> None:
        self._gateway.metrics.limited["max_send_buffer"] += 1
        logger.warning("connection closed: the client does not read", extra={"room": self.room, "connection": self.id})
        self.close(1013, "slow consumer")

    def close(self, code: int, reason: str = "") -> None:
        """Send a close frame after everything put before, and wait a while for the peer's."""
        if self._closing is not None:
            return
        self._closing = (code, reason)
        self._abort_at = self._gateway.now() + CLOSE_TIMEOUT
        self.outbox.seal(close_frame(code, reason))
        self.resume()

    def leave(self) -> None:
        """Close for a restart; what the client sends until it hears of that still reaches its room, within limits."""
        self._heeds = True
        self.close(*RESTART)

    def hang_up(self) -> None:
        """End the TCP connection once what was put is sent, but not wait for ever for a peer that does not read."""
        self._gateway.writer.flush()
        self._transport.close()
        if self._transport.get_write_buffer_size():
            asyncio.get_running_loop().call_later(CLOSE_TIMEOUT, self._transport.abort)

    def abort(self) -> None:
        """Drop the connection without a word."""
        self._transport.abort()
        self.resume()

    @property
    def is_closing(self) -> bool:
        """True once its close frame is on its way."""
        return self._closing is not None

    def released(self, size: int) -> None:
        """Account for one input that was processed."""
        self.in_flight -= 1
        self.in_flight_bytes -= size
        if self._flow is not None:
            self.resume()

    def charged(self, size: int) -> None:
        """Account for one input that was forwarded."""
        self.in_flight += 1
        self.in_flight_bytes += size

"""Own one WebSocket from its 101 to its end: read its frames and send them to its room.

What a frame means is the room's business; which connections exist is the gateway's.

Invariants:
- Exactly one close input follows the connect input, after every frame of the connection, whatever ended it.
- The socket is read only while the connection is within its rate and its in-flight limits; meanwhile it gets
  an unsolicited pong every 4 s, because the original client hangs for ever after 10 s without one.
- A connection that is closing forwards nothing more, unless it leaves for a restart.
- What has ended is free at once: the parts of a connection do not know it, or weakly.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable
from typing import Final

from aiohttp import WebSocketError, WSCloseCode, WSMsgType, web
from msgspec import UNSET, DecodeError

from verani import frames
from verani.errors import RateLimited
from verani.frames import InvalidFrame, NotUtf8, ScannedFrame
from verani.tracebacks import forget_traceback
from verani_actors.links.wire import cut_loose

from .close_handshake import CloseHandshake
from .expiry import REFRESH, read_token
from .facilities import Facilities
from .gate import Gate
from .in_flight import InFlight
from .liveness import Liveness
from .outbox import Outbox, control_frame, text_frame
from .rate import InvalidFrames, Meter
from .renewal import Renew, Renewal
from .socket import Socket
from .throttle import TURN, Throttle

__all__ = ["Connection"]

logger = logging.getLogger(__name__)

# What ends a connection without a close frame of the peer: CLOSED after a lost connection, ERROR after one that
# aiohttp closed for a protocol error.
_OVER: Final = frozenset({WSMsgType.CLOSED, WSMsgType.CLOSING, WSMsgType.ERROR})
_LOST: Final = 1006, ""


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
        self, facilities: Facilities, id: str, room: str, client_id: str, meter: Meter, ws: Socket, request: web.Request
    ) -> None:
        """Take over a prepared WebSocket; raises ConnectionResetError if its transport is gone already."""
        transport = request.transport
        if transport is None:
            raise ConnectionResetError("the client left during the handshake")
        settings, now, writer = facilities.settings, facilities.now, facilities.writer
        self.id = id
        self.room = room
        self.client_id = client_id
        self.outbox = Outbox(writer, transport, settings.max_send_buffer, _weakly(self._too_slow))
        self._facilities = facilities
        self._ws = ws
        self._intake = ws.take_in_small_pieces(
            transport, facilities.turns, settings.max_frame_bytes, _weakly(self._endless)
        )
        self._meter = meter
        self._invalid = InvalidFrames(settings.max_invalid_frames)
        self._gate = gate = Gate(self._intake)
        self.closing = CloseHandshake(now, writer, self.outbox, transport, gate)
        self.in_flight = InFlight(room, facilities.ingress.congestion, gate, self.closing, now)
        self.liveness = Liveness(settings, self.outbox, now())
        self.throttle = Throttle(facilities, gate, self.closing, self.liveness)
        self.renewal: Renewal | None = None

    @property
    def _extra(self) -> dict[str, str]:
        """What the log says of it."""
        return {"room": self.room, "connection": self.id}

    # --- reading ---------------------------------------------------------------------------------------

    async def run(self) -> tuple[int, str]:
        """Read until the connection is over; return the close code and reason."""
        ended = _LOST
        try:
            ended = await self._read()
        finally:
            if self.renewal is not None:
                self.renewal.stop()
            self.closing.hang_up()
            cut_loose(self._ws)
        return self.closing.sent or ended

    async def _read(self) -> tuple[int, str]:
        closing, liveness, in_flight, facilities = self.closing, self.liveness, self.in_flight, self._facilities
        turn = 0
        while True:
            message = await self._ws.receive()
            kind = message.type
            turn += 1
            if turn >= TURN:
                turn = 0
                if self._meter.used >= TURN:  # who is within its rate by far, waits for nobody
                    self._intake.hold()
                    await facilities.turns.take()
            liveness.seen_at = now = facilities.now()
            liveness.pinged_at = None
            if kind is WSMsgType.CLOSE:
                return closing.answer(message.data, message.extra or "")
            if kind in _OVER:
                await self._fail(message.data)
                return _LOST
            size = len(message.data)
            exceeded = self._meter.take(now, size)
            if exceeded is not None and not await self.throttle.exceeded(self._meter, exceeded, size):
                continue
            if closing.sent is not None and (not closing.heeds or in_flight.exceed()):
                await self.throttle.skip()
                continue
            if kind is WSMsgType.TEXT:
                self._intake.last_size = size
                frame = self._text(message.data)
                if frame is not None and (not self._meter.events or await self._is_within_its_rate(frame, size)):
                    data = bytes(frame.data) if frame.data is not UNSET else None
                    in_flight.charge(
                        facilities.ingress.frame(self.room, self.id, frame.type, data, frame.channel, frame.id)
                    )
                if in_flight.count and in_flight.exceed():
                    await in_flight.settle()
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
            self.liveness.pong(self.liveness.seen_at)
            return None
        if frame.type == REFRESH:
            self._refresh(b"null" if frame.data is UNSET else bytes(frame.data))
            return None
        return frame

    async def _is_within_its_rate(self, frame: ScannedFrame, size: int) -> bool:
        """Meter a frame whose event may have a rate of its own; False if it is not to be handled."""
        meter = self._meter.events.get(frame.type)
        exceeded = meter.take(self.liveness.seen_at) if meter is not None else None
        if meter is None or exceeded is None:
            return True
        if meter.policy != "drop":
            return await self.throttle.exceeded(meter, exceeded, size)
        self._facilities.metrics.limited[exceeded] += 1
        self._facilities.metrics.dropped_frames += 1
        if frame.id is not None:
            self.outbox.put(text_frame(frames.error_ack_frame(frame.id, RateLimited.code)))
        return False

    def count_invalid(self, why: str) -> None:
        """Drop and count an invalid frame (protocol 7)."""
        logger.debug("invalid frame: %s", why, extra=self._extra)
        self._facilities.metrics.invalid_frames += 1
        if self._invalid.add(self._facilities.now()):
            self._facilities.metrics.limited["max_invalid_frames"] += 1
            self.close(1008, "too many invalid frames")

    # --- expiry ----------------------------------------------------------------------------------------

    def expire(self, at: float, renew: Renew) -> None:
        """Close at this time of the wall clock, unless `renew` takes a token of the client's before that."""
        self.renewal = Renewal(at, renew, self.outbox, self.closing, extra=self._extra)
        self.renewal.tick()

    def _refresh(self, data: bytes) -> None:
        try:
            token = read_token(data)
        except (DecodeError, RecursionError, UnicodeDecodeError):
            self.count_invalid("expected a token to refresh with")
            return
        if self.renewal is not None:  # without an expiry there is nothing to refresh
            self.renewal.start(token)

    # --- the end ---------------------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Do what is due; called a few times a second at most, with the gateway's clock."""
        if self.closing.is_sent:
            self.closing.tick(now)
            return
        if self.closing.is_lost:
            self._gate.resume()
            return
        if self.renewal is not None:
            self.renewal.tick()
        if self._intake.is_held:
            self.liveness.give_sign(now)  # its own pings may wait behind what it sent before
        self.throttle.calm_down(now)
        unread_since = self.throttle.since or self.in_flight.since
        if unread_since is not None:
            self._comfort(now, unread_since)
        elif not self.liveness.tick(now):
            self._facilities.metrics.limited["pong_timeout"] += 1
            logger.debug("peer is gone", extra=self._extra)
            self.closing.abort()

    def _comfort(self, now: float, unread_since: float) -> None:
        """Tell an unread client that the server lives, but not for ever."""
        if now - unread_since <= self._facilities.settings.max_unread:
            self.liveness.give_sign(now)
            return
        self._facilities.metrics.limited["max_unread"] += 1
        if self.throttle.since is not None:
            self.close(1008, "too many frames")
        else:
            self.close(1013, "the room is too slow")

    def _endless(self) -> None:
        self._facilities.metrics.limited["max_frame_bytes"] += 1
        self.close(1009, "a message without end")

    def _too_slow(self) -> None:
        logger.warning("connection closed: the client does not read", extra=self._extra)
        self._facilities.metrics.limited["max_send_buffer"] += 1
        self.close(1013, "slow consumer")

    async def _fail(self, error: object) -> None:
        """Close for a violation of RFC 6455; anything else that ends the reading is a lost connection."""
        forget_traceback(error)
        if isinstance(error, WebSocketError):
            if error.code == WSCloseCode.MESSAGE_TOO_BIG:
                self._facilities.metrics.limited["max_frame_bytes"] += 1
            self.closing.fail(int(error.code))
        await self.closing.linger(self._intake)

    def close(self, code: int, reason: str = "") -> None:
        """Send a close frame after everything put before, and wait a while for the peer's."""
        self.closing.close(code, reason)

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

import asyncio
import logging
import weakref
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Final, TypeAlias

from aiohttp import WebSocketError, WSCloseCode, WSMessage, WSMsgType, web
from msgspec import UNSET, DecodeError

from verani import frames
from verani.errors import RateLimited
from verani.frames import InvalidFrame, NotUtf8, ScannedFrame
from verani.room.meta import ConnectionMeta
from verani.tracebacks import forget_traceback

from ..inputs.ingress import InputWay
from .close_handshake import CloseHandshake
from .deflate import inflated
from .expiry import REFRESH, read_token
from .facilities import Facilities
from .in_flight import InFlight
from .intake import Intake
from .liveness import Liveness
from .outbox import Outbox, control_frame, text_frame
from .rate import InvalidFrames, Meter
from .read_gate import ReadGate
from .renewal import Renew, Renewal
from .throttle import TURN, Throttle

__all__ = ["Connection", "Rest"]

logger = logging.getLogger(__name__)

# What a connection ends with that had no close frame of the peer's.
_LOST: Final = 1006, ""

# To look up a member of an enumeration costs as much as ten attributes in Python 3.11.
_TEXT: Final = WSMsgType.TEXT
# The messages that may be compressed.
_DATA: Final = frozenset({_TEXT, WSMsgType.BINARY})
# Those after which none follows.
_LAST: Final = frozenset({WSMsgType.CLOSE, WSMsgType.ERROR})

# The frames that are not for the room.
_OWN: Final = frozenset({frames.PING, REFRESH})

# What is left to do of a message, in the task of its connection; comes to the close code and reason if that is over.
Rest: TypeAlias = Callable[[], Coroutine[Any, Any, tuple[int, str] | None]]


async def _raise(error: Exception) -> tuple[int, str]:
    raise error


async def _end(ended: tuple[int, str]) -> tuple[int, str]:
    return ended


class Connection:
    """One accepted WebSocket."""

    __slots__ = (
        "__weakref__",
        "_facilities",
        "_idle",
        "_intake",
        "_invalid",
        "_is_free",
        "_meter",
        "_seen_at",
        "_throttle",
        "_turn",
        "_user",
        "client_id",
        "closing",
        "id",
        "in_flight",
        "liveness",
        "outbox",
        "renewal",
        "room",
    )

    def __init__(
        self,
        facilities: Facilities,
        id: str,
        room: str,
        meta: ConnectionMeta,
        meter: Meter,
        handler: web.RequestHandler,
        *,
        compressed: bool = False,
    ) -> None:
        """Take over from aiohttp after the 101; raises ConnectionResetError if the transport is gone already."""
        settings, now, writer = facilities.settings, facilities.now, facilities.writer
        self.id = id
        self.room = room
        self.client_id = meta.client_id
        self._user = meta.user_id
        self._facilities = facilities
        itself = weakref.ref(self)
        self._intake = Intake.install(handler, facilities.turns, settings.max_frame_bytes, itself, facilities.metrics)
        transport = self._intake.transport
        self.outbox = Outbox(writer, transport, settings.max_send_buffer, itself)
        if compressed:
            self._intake.expect_compressed()
            self.outbox.deflates_from = settings.compression_min_bytes
        self._meter = meter
        # Made when they are needed, as they never are for most: with the first frame that is invalid, or too much.
        self._invalid: InvalidFrames | None = None
        self._throttle: Throttle | None = None
        # What its task waits for while nothing has to wait: there may be a frame that does. And how many were read
        # since others had their turn.
        self._idle: asyncio.Future[Rest] | None = None
        # Whether a text that comes alone is handled at once.
        self._is_free = False
        self._turn = 0
        self.closing = CloseHandshake(now, writer, self.outbox, transport, ReadGate(self._intake))
        self.in_flight = InFlight(room, facilities.ingress.congestion, self.closing, now)
        self._seen_at = now()  # when anything was read at last
        self.liveness = Liveness(settings, self.outbox, self._seen_at)
        self.renewal: Renewal | None = None

    @property
    def throttle(self) -> Throttle:
        """What happens to it for sending more than it may."""
        if self._throttle is None:
            self._throttle = Throttle(self._facilities, self.closing, self.liveness)
        return self._throttle

    @property
    def _extra(self) -> dict[str, str]:
        """What the log says of it."""
        return {"room": self.room, "connection": self.id, "user": self._user}

    # --- reading ---------------------------------------------------------------------------------------

    async def run(self) -> tuple[int, str]:
        """Wait until the connection is over, whatever for; messages are handled as they arrive.

        Returns the close code and reason.
        """
        ended: tuple[int, str] | None = None
        try:
            self._intake.reader = self
            while ended is None:
                rest = self._advance(self._facilities.ingress)
                if rest is None:
                    self._idle = asyncio.get_running_loop().create_future()
                    self._is_free = self.in_flight.since is None
                    rest = await self._idle
                ended = await rest()
        finally:
            self._idle, self._is_free = None, False
            self._intake.leave()
            self._meter.release()
            if self.renewal is not None:
                self.renewal.stop()
            self.closing.hang_up()
        return self.closing.sent or ended

    def arrived(self, text: bytearray | None) -> bool:
        """See `MessageReader`; False if the connection waits for something else. Called by the loop."""
        if not self._is_free and (text is not None or self._idle is None):
            return False
        way, rest = self._facilities.ingress.shortest, None
        try:
            if text is not None:
                self._turn += 1
                if self._turn >= TURN:
                    if self._meter.used >= TURN:
                        return False  # in its turn, behind the parser
                    self._turn = 0
                rest = self._handle(_TEXT, text, way)
            if rest is None and (text is None or not self._is_free):
                rest = self._advance(way)
                self._is_free = self.in_flight.since is None
            if rest is not None:
                self._go_on_with(rest)
        except Exception as error:  # a bug of ours, which is the end of this connection  # noqa: BLE001
            self._go_on_with(partial(_raise, error))
        finally:
            way.leave()
        return True

    def _go_on_with(self, rest: Rest) -> None:
        """Leave the rest of a message to the task of the connection."""
        idle, self._idle, self._is_free = self._idle, None, False
        if idle is not None and not idle.done():  # a task that was cancelled still reads until it ends
            idle.set_result(rest)

    def _advance(self, way: InputWay) -> Rest | None:
        """Handle messages up to the first that has to wait, and return the rest of it."""
        intake, in_flight = self._intake, self.in_flight
        messages, arrived, compressed = intake.messages, intake.messages.arrived, intake.headers.compressed
        while in_flight.since is None or in_flight.goes_on():
            if arrived:
                message, weight = arrived.pop(0)
                messages.size -= weight
                if compressed is not None and message.type in _DATA and compressed.pop(0):
                    message = inflated(message, self._facilities.settings.max_frame_bytes)
                if message.type in _LAST:
                    return self._last(message)
                self._turn += 1
                if self._turn >= TURN:
                    self._turn = 0
                    if self._meter.used >= TURN:  # who is within its rate by far, waits for nobody
                        return partial(self._in_turn, message)
                if (rest := self._handle(message.type, message.data, way)) is not None:
                    return rest
            elif intake.is_lost:
                return partial(_end, _LOST)
            else:
                if intake.is_held:
                    intake.go_on()
                if not arrived:
                    break
        return None

    async def _in_turn(self, message: WSMessage) -> tuple[int, str] | None:
        self._intake.hold()
        await self._facilities.turns.take()
        rest = self._handle(message.type, message.data, self._facilities.ingress)
        return None if rest is None else await rest()

    def _handle(
        self, kind: WSMsgType, data: bytes | bytearray, way: InputWay, *, is_metered: bool = False
    ) -> Rest | None:
        closing, clock = self.closing, self._facilities.now
        self._seen_at = now = clock()
        size = len(data)
        if not is_metered and (exceeded := self._meter.take(now, size)) is not None:
            return partial(self._exceeded, kind, data, exceeded)
        if closing.sent is not None and (not closing.heeds or self.in_flight.exceed()):
            return self.throttle.skip
        if kind is _TEXT:
            self._intake.last_size = size
            try:
                frame = frames.scan(data)
            except InvalidFrame as error:
                self._unreadable(error)
                return None
            if frame.type in _OWN:
                self._heed(frame)
                return None
            if self._meter.events:
                return partial(self._forward_within_its_rate, frame, size)
            if size := way.frame(self.room, self.id, frame):
                self.in_flight.charge(size)
                self._is_free = self._is_free and self.in_flight.since is None
        elif kind is WSMsgType.BINARY:
            self.count_invalid("binary frame")
        elif kind is WSMsgType.PING:
            self.outbox.put(control_frame(10, bytes(data)))
        return None

    def _last(self, message: WSMessage) -> Rest:
        if message.type is WSMsgType.CLOSE:
            return partial(_end, self.closing.answer(message.data, message.extra or ""))
        return partial(self._fail, message.data)

    async def _exceeded(self, kind: WSMsgType, data: bytes | bytearray, setting: str) -> tuple[int, str] | None:
        if not await self.throttle.exceeded(self._meter, setting, len(data)):
            return None
        rest = self._handle(kind, data, self._facilities.ingress, is_metered=True)
        return None if rest is None else await rest()

    async def _forward_within_its_rate(self, frame: ScannedFrame, size: int) -> None:
        if await self._is_within_its_rate(frame, size):
            self.in_flight.charge(self._facilities.ingress.frame(self.room, self.id, frame))

    def _unreadable(self, error: InvalidFrame) -> None:
        if isinstance(error, NotUtf8):
            self.close(1007)
        else:
            self.count_invalid(str(error))

    def _heed(self, frame: ScannedFrame) -> None:
        """Do what a frame asks that is not for the room."""
        if frame.type == frames.PING:
            self.liveness.pong(self._seen_at)
        else:
            self._refresh(b"null" if frame.data is UNSET else bytes(frame.data))

    async def _is_within_its_rate(self, frame: ScannedFrame, size: int) -> bool:
        """Meter a frame whose event may have a rate of its own; False if it is not to be handled."""
        meter = self._meter.events.get(frame.type)
        exceeded = meter.take(self._seen_at) if meter is not None else None
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
        if self._invalid is None:
            self._invalid = InvalidFrames(self._facilities.settings.max_invalid_frames)
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
            self.closing.gate.resume()
            return
        if self.renewal is not None:
            self.renewal.tick()
        if self._intake.is_held:
            self.liveness.give_sign(now)  # its own pings may wait behind what it sent before
        unread_since = self.in_flight.since
        if self._throttle is not None:
            self._throttle.calm_down(now)
            unread_since = self._throttle.since or unread_since
        if unread_since is not None:
            self._comfort(now, unread_since)
        elif not self.liveness.tick(now, self._seen_at):
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

    def endless(self) -> None:
        """Close for a message that does not end."""
        self._facilities.metrics.limited["max_frame_bytes"] += 1
        self.close(1009, "a message without end")

    def too_slow(self) -> None:
        """Close as a slow consumer."""
        logger.warning("connection closed: the client does not read", extra=self._extra)
        self._facilities.metrics.limited["max_send_buffer"] += 1
        self.close(1013, "slow consumer")

    async def _fail(self, error: object) -> tuple[int, str]:
        """Close for a violation of RFC 6455; anything else that ends the reading is a lost connection."""
        forget_traceback(error)
        if isinstance(error, WebSocketError):
            if error.code == WSCloseCode.MESSAGE_TOO_BIG:
                self._facilities.metrics.limited["max_frame_bytes"] += 1
            self.closing.fail(int(error.code))
        await self.closing.linger(self._intake)
        return _LOST

    def close(self, code: int, reason: str = "") -> None:
        """Send a close frame after everything put before, and wait a while for the peer's."""
        self.closing.close(code, reason)

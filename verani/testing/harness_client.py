"""Be one client of a room under test: send what a client may send, and keep what it sees.

What the room makes of it is the harness's business; there is no socket and no reconnecting.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import UNSET, UnsetType

from .. import frames
from ..client.codec import Incoming, as_error, as_event, decode
from ..client.events import Event
from ..errors import Interrupted, TooLarge, VeraniError, refusal_for

if TYPE_CHECKING:
    from .harness import RoomHarness

__all__ = ["HarnessClient"]


class _Outgoing(msgspec.Struct, omit_defaults=True):
    type: str
    data: Any = UNSET
    channel: str | UnsetType = UNSET
    id: int | UnsetType = UNSET


class HarnessClient:
    """A connection that `RoomHarness.connect` made.

    `received`: the events it saw, answers to requests excepted. `raw`: every frame, to the byte.
    `closed`: code and reason once the connection is over, None until then. `name`: what reports call it.
    """

    def __init__(self, room: RoomHarness[Any, Any], id: str, name: str, user_id: str, client_id: str) -> None:
        self.id = id
        self.name = name
        self.user_id = user_id
        self.client_id = client_id
        self.received: list[Event] = []
        self.raw: list[bytes] = []
        self.closed: tuple[int, str] | None = None
        self._room = room
        self._requests = 0
        self._pending: dict[int, asyncio.Future[Incoming]] = {}
        self._news = asyncio.Event()

    def __repr__(self) -> str:
        return f"<HarnessClient {self.name}{'' if self.closed is None else f', closed {self.closed}'}>"

    @property
    def meta(self) -> Any:
        """The committed meta, as a room that wakes would see it; raises `VeraniError` once the connection is gone."""
        return self._room._meta_of(self)

    def take(self) -> list[Event]:
        """Return the events received since the last call, and forget them."""
        taken, self.received = self.received, []
        return taken

    # --- what clients do -------------------------------------------------------------------------------

    async def send(self, event: str, data: Any = UNSET, *, channel: str | None = None, id: int | None = None) -> None:
        """Send an event; return when nothing moves any more.

        With an `id` the room answers with an ack, which is in `raw`. A hook that waits for something real (a
        database, `asyncio.sleep`) may still run then: use `request`, or `RoomHarness.idle`.
        Raises what `send_raw` raises, and TypeError for data that is no JSON.
        """
        frame = _Outgoing(event, data, UNSET if channel is None else channel, UNSET if id is None else id)
        await self._send(frames.encode(frame))

    async def send_raw(self, payload: bytes | str) -> None:
        """Send one frame as it is.

        Raises `InvalidFrame` or `TooLarge` for one that a gateway would not let pass. On a closed client it raises what
        `on_connect` refused it with, if that is why, else VeraniError.
        """
        await self._send(payload.encode() if isinstance(payload, str) else payload)

    async def _send(self, payload: bytes) -> None:
        self._check_open()
        limit = self._room.settings.max_frame_bytes
        if len(payload) > limit:
            raise TooLarge(f"expected a frame of at most {limit} bytes, got {len(payload)}")
        frame = frames.scan(payload)
        await self._room._send(self, frame)

    async def request(self, event: str, data: Any = UNSET, *, channel: str | None = None) -> Any:
        """Send an event and return the room's answer.

        Waits as long as the hook takes. Raises the error that the ack names (`Forbidden`, `InvalidArguments`, ...;
        `CallFailed` where the hook raised something else), `Interrupted` if the connection is closed first.
        """
        self._requests += 1
        number = self._requests
        answer = self._pending[number] = asyncio.get_running_loop().create_future()
        try:
            await self.send(event, data, channel=channel, id=number)
            frame = await answer
        finally:
            del self._pending[number]
            if answer.done() and not answer.cancelled():
                answer.exception()  # seen, even where sending failed first
        if frame.error is not None:
            raise as_error(frame.error, event)
        return frame.data

    async def wait_for(self, event: str, *, timeout: float = 5.0) -> Event:
        """Return the first event of this name in `received`, waiting in real time until there is one.

        For what spawned tasks send after `asyncio.sleep` and the like. Raises TimeoutError.
        """
        async with asyncio.timeout(timeout):
            while True:
                for got in self.received:
                    if got.type == event:
                        return got
                self._news.clear()
                await self._news.wait()

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Close the connection; 1006 is one that was lost."""
        self._check_open()
        await self._room._close(self, code, reason)

    def _check_open(self) -> None:
        if self.closed is not None:
            raise self._refusal() or VeraniError(
                f"client {self.name}: expected an open connection, it was closed with {self.closed}"
            )

    def _refusal(self) -> VeraniError | None:
        code, reason = self.closed or (0, "")
        return refusal_for(reason, f"the room refused client {self.name} with {reason!r}") if code == 1000 else None

    # --- what the room does ----------------------------------------------------------------------------

    def _deliver(self, payload: bytes) -> None:
        if self.closed is not None:
            return
        self.raw.append(payload)
        self._room._saw(self, payload.decode())
        frame = decode(payload.decode())
        if frame.type == "ack":
            answer = self._pending.get(frame.id)
            if answer is not None and not answer.done():
                answer.set_result(frame)
        elif frame.type != "pong":
            self.received.append(as_event(frame))
            self._news.set()

    def _end(self, code: int, reason: str) -> None:
        self.closed = (code, reason)
        self._room._saw(self, f"closed {code} {reason!r}")
        self._interrupt(f"closed with {code}")

    def _interrupt(self, why: str) -> None:
        for answer in self._pending.values():
            if not answer.done():
                error = self._refusal() or Interrupted(f"client {self.name}: {why} before the answer")
                answer.set_exception(error)

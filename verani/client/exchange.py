"""The queues between an application and its connection, whichever that is at the moment.

Invariants:
1. Reading stops only while the inbox is full and no request waits for its response. So a slow callback slows the
   server down, and a callback that awaits a request always gets its response: while one is pending, the inbox may
   grow to twice its limit, beyond which its oldest entries are dropped and reported.
2. What waits to be sent is bounded too, by number and bytes.
3. Everybody who waited for a response over a connection is told the same: how it ended, and what that means.
"""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import Any

from ..errors import DeadlineExceeded
from .client_thread import ClientThread
from .codec import Incoming, as_error, encode
from .events import LIFECYCLE_EVENTS
from .failures import Closing
from .inbox import Inbox
from .requests import NotSent, Requests
from .send_queue import QueuedFrame, SendQueue

__all__ = ["Exchange"]

logger = logging.getLogger("verani.client")


class Exchange:
    """Events that came, frames that wait to be sent, and requests in flight of one client."""

    def __init__(self, max_queue: int, max_inbox: int, thread: ClientThread) -> None:
        self._look_again = asyncio.Event()  # something that decides whether to read has changed
        self._reads_on = False
        self._warned_names: set[str] = set()
        self.inbox = Inbox(max_inbox, self._look_again.set, thread)
        self.outbox = SendQueue(max_queue, partial(self.inbox.drop, "outbox"))
        self.requests = Requests()
        self.reading_stopped = False
        self.ignored_frames = 0
        # Why there is no connection at the moment, as far as known.
        self.trouble = ""

    # --- the application ----------------------------------------------------------------------------------------

    def emit(self, event: str, data: Any) -> None:
        """Queue one frame; see `VeraniClient.emit`."""
        self._warn_of_collision(event)
        self.outbox.put(QueuedFrame(encode(event, data)))

    async def request(self, event: str, data: Any, timeout: float | None, *, started: bool) -> Any:
        """Queue one frame and return its response; see `VeraniClient.request`.

        Without `started` nobody may ever connect, so waiting would only hide the mistake.
        """
        self._warn_of_collision(event)
        request = self.requests.open(event)
        self._look_again.set()  # reading goes on while a request is open
        frame: QueuedFrame | None = None
        try:
            frame = QueuedFrame(encode(event, data, request.number), request)
            if not started:
                raise NotSent("the client is not connected: use `async with client`, or call `connect` first")
            async with asyncio.timeout(timeout):
                self.outbox.put(frame)
                return await request.answer
        except TimeoutError:
            waits = "" if request.sent or not self.trouble else f": it was not sent, {self.trouble}"
            raise DeadlineExceeded(f"no answer to {event!r} within {timeout} s{waits}") from None
        finally:
            self.requests.forget(request)
            if frame is not None:
                self.outbox.withdraw(frame)
            del request, frame  # which have the exception that has this very function's frame

    def _warn_of_collision(self, event: str) -> None:
        if event in LIFECYCLE_EVENTS and event not in self._warned_names:
            self._warned_names.add(event)
            logger.warning("the event name %s collides with a life-cycle listener of clients", event)

    # --- the connection -----------------------------------------------------------------------------------------

    async def readable(self) -> bool:
        """Wait until another frame may be read; tell whether reading was stopped for that."""
        if not self.inbox.full:
            return False
        # Let callbacks go first, also while requests allow to read on.
        await asyncio.sleep(0)
        stopped = False
        while self.inbox.full and not self.requests and not self._reads_on:
            self.reading_stopped = stopped = True
            self._look_again.clear()
            try:
                await self._look_again.wait()
            finally:
                self.reading_stopped = False
        return stopped

    def read_on(self) -> None:
        """Never stop reading again: a close frame is awaited."""
        self._reads_on = True
        self._look_again.set()

    def ignore(self, why: object) -> None:
        """Count what was no valid frame."""
        self.ignored_frames += 1
        logger.debug("ignored a frame: %s", why)

    def respond(self, number: int, frame: Incoming) -> None:
        """Hand a response to whoever waits for it."""
        request = self.requests.get(number)
        if request is None:
            logger.debug("nobody waits for answer %d", number)
        elif frame.error is None:
            request.succeed(frame.data)
        else:
            request.fail(as_error(frame.error, request.event))

    def connected(self) -> None:
        """Let frames leave."""
        self.trouble = ""
        self.outbox.connected()

    def disconnected(self, closing: Closing) -> None:
        """Keep frames for the next connection, and end the requests that have left over this one."""
        self.trouble = str(closing)
        self.outbox.disconnected()
        largest = self.outbox.largest
        self.requests.interrupt(lambda request: closing.error_for(request.event, request.size, largest))

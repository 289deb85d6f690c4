"""Keep what a gateway says to one process of a host, for as long as their session lasts, whatever connection it has.

Invariants:
- While the connection is broken, what is put is kept for the session; it is sent once the host grants the session back.
- What is put before the first packet of a session was taken is dropped: the host gets it in another way.
- What waits belongs to its session, and is gone with it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping

from verani.link.messages import Arrival, GatewayMessage, HostMessage, InputBatch
from verani.link.stream import MAX_STALLED, STALLED_AFTER, Stream, StreamError, gateway_stream
from verani_actors.links.wire import Wire

__all__ = ["HostSession"]

logger = logging.getLogger(__name__)


class HostSession:
    """The session that there is now, if any; `about` is what the log says of the host."""

    def __init__(self, about: Mapping[str, str]) -> None:
        self._about = about
        self._loop = asyncio.get_running_loop()
        self._epoch = 0
        self.stream: Stream[GatewayMessage, HostMessage] | None = None
        # The first packet of the session was taken.
        self.begun = False
        # The connection that it has now.
        self.wire: Wire | None = None
        self._inputs: list[Arrival] = []
        self._outgoing: list[GatewayMessage] = []
        self._flushing: asyncio.Handle | None = None
        self._stall: asyncio.TimerHandle | None = None

    @property
    def epoch(self) -> int:
        """Number of the epoch in which inputs are put; those that wait keep theirs."""
        return self._epoch

    @epoch.setter
    def epoch(self, number: int) -> None:
        if number != self._epoch:
            self._gather()
            self._epoch = number

    def put(self, arrival: Arrival) -> None:
        """Send an input at the end of the tick; dropped before the session has begun."""
        if self.begun:
            self._inputs.append(arrival)
            if self._flushing is None:
                self._flushing = self._loop.call_soon(self.flush)

    def send(self, message: GatewayMessage) -> None:
        """Send anything but inputs, after the inputs that wait; dropped before the session has begun."""
        if self.begun:
            self._gather()
            self._outgoing.append(message)
            if self._flushing is None:
                self._flushing = self._loop.call_soon(self.flush)

    def _gather(self) -> None:
        if self._inputs:
            inputs, self._inputs = self._inputs, []
            self._outgoing.append(InputBatch(inputs, self._epoch))

    def flush(self) -> None:
        """Send what waits, or keep it in the stream while there is no connection."""
        if self._flushing is None:
            return  # nothing was put
        self._flushing.cancel()
        self._flushing = None
        self._gather()
        stream = self.stream
        if stream is None or not self._outgoing:
            return
        messages, self._outgoing = self._outgoing, []
        try:
            stream.put(messages, self._loop.time())
        except StreamError as error:
            logger.error("link begun anew: %s", error, extra=self._about)
            self.forget()
            if self.wire is not None:
                self.wire.abort()
            return
        if self.wire is not None:
            self.wire.flush()
        if stream.unconfirmed > MAX_STALLED and self._stall is None:
            self._stall = self._loop.call_later(STALLED_AFTER, self._check_stall)

    def _check_stall(self) -> None:
        self._stall = None
        stream = self.stream
        if stream is None or stream.unconfirmed <= MAX_STALLED:
            return
        if self.wire is not None and stream.is_stuck(self._loop.time()):
            logger.warning("link broken: the host takes nothing", extra=self._about)
            self.wire.abort()
        self._stall = self._loop.call_later(STALLED_AFTER, self._check_stall)

    def resume(self, received: int) -> None:
        """Go on over a new connection: the host has the packets up to `received`."""
        assert self.stream is not None, "there is something to resume"
        self.stream.resume(received, self._loop.time())

    def renew(self) -> None:
        """Start another session; it begins with the host's first packet."""
        self.forget()
        self.stream = gateway_stream(self._loop.time())

    def forget(self) -> None:
        """End the session: what waits belongs to it."""
        self.stream = None
        self.begun = False
        self._inputs.clear()
        self._outgoing.clear()

    def end(self) -> None:
        """End the session, and whatever it has planned."""
        self.forget()
        for timer in (self._flushing, self._stall):
            if timer is not None:
                timer.cancel()

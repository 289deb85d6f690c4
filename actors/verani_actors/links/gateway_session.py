"""Keep what a room host and one gateway have said to each other since they met: the host's end of a link.

What is written when, and handed over when, is the business of `LinkSessions` and `Handover`.
"""

from __future__ import annotations

import asyncio
from collections import deque

from verani.link.messages import GatewayMessage, GivenUp, HostMessage
from verani.link.stream import host_stream

from .wire import Wire

__all__ = ["GatewaySession"]


class GatewaySession:
    """One gateway, over however many connections."""

    def __init__(self, gateway: str, incarnation: str, now: float) -> None:
        self.gateway = gateway
        self.incarnation = incarnation
        self.stream = host_stream(now)
        self.resumed = 0
        # What is to leave with the next packet.
        self.outgoing: list[HostMessage] = []
        self.wire: Wire | None = None
        self.has_ended = False
        # What has come and is not handed over, the bytes of the packets that brought it, and what ends the wait of who
        # reads no more of them.
        self.incoming: deque[GatewayMessage] = deque()
        self.incoming_bytes = 0
        self.freed = asyncio.Event()
        # The message at the head of `incoming` failed before.
        self.failed = False
        # What the first packet says was lost, if anything.
        self.lost: GivenUp | None = None
        # While the connection is broken; while something waits for the gateway.
        self.grace: asyncio.TimerHandle | None = None
        self.look: asyncio.TimerHandle | None = None
        # What was confirmed at the last look, how many looks ago that had changed, and for how many a wake waits.
        self.seen = 0
        self.quiet = 0
        self.mute = 0
        # Who waits for a packet to be confirmed.
        self.waiters: list[tuple[int, asyncio.Future[None]]] = []

    @property
    def about(self) -> dict[str, str]:
        """Name the gateway for the log."""
        return {"gateway": self.gateway}

    def cut(self) -> None:
        """End the connection; nothing that it still holds is taken."""
        if self.wire is not None:
            self.wire.abort()
            self.wire = None
            self.freed.set()

    def until_confirmed(self, number: int) -> asyncio.Future[None]:
        """Return what is done when this packet is confirmed, or the session has ended."""
        future = asyncio.get_running_loop().create_future()
        self.waiters.append((number, future))
        return future

    def settle(self, upto: int | None = None) -> None:
        """Wake who waits for packets up to this one, or for any."""
        left: list[tuple[int, asyncio.Future[None]]] = []
        for number, future in self.waiters:
            if upto is not None and number > upto:
                left.append((number, future))
            elif not future.done():
                future.set_result(None)
        self.waiters = left

    def end(self) -> None:
        """Let go of everything."""
        self.has_ended = True
        for timer in (self.grace, self.look):
            if timer is not None:
                timer.cancel()
        self.cut()
        self.freed.set()
        self.outgoing.clear()
        self.incoming.clear()
        self.settle()

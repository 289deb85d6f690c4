"""Keep one session with each gateway of a room host, over however many connections: begin, resume, give up.

What the messages do is the room host's business, when this process serves is the lease's, who is a member the
registrar's. Sockets are `LinkServer`'s.

Invariants:
- Nothing but confirmations is written while `serves` says no.
- A gateway whose connection has been gone for `grace` seconds, or that takes nothing while rooms wait for it, is given
  up: its sessions in the room host end, and it is told so should it come back.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from functools import partial
from typing import Protocol

from msgspec import Struct

from verani.link.epoch import Epoch
from verani.link.messages import Announce, Ask, GivenUp, Hello, HostMessage, Serving, Told
from verani.link.stream import StreamError

from .gateway_session import GatewaySession
from .given_up import GivenUpGateways
from .handover import Handover, Receiver
from .patience import Patience, Waiters

__all__ = ["HostEnd", "LinkSessions", "LinkState"]

logger = logging.getLogger(__name__)


class HostEnd(Receiver, Waiters, Protocol):
    """A room host, as its links see it; its `flow` is told what leaves, and what gateways confirm."""

    @property
    def wakes(self) -> int:
        """How often rooms woke."""

    def link(self, gateway: str, send: Callable[[HostMessage], None]) -> None:
        """Take a gateway; `send` carries messages to it."""

    def unlink(self, gateway: str) -> list[str]:
        """Give a gateway up and name the rooms in which its connections got their `on_disconnect`."""

    def flush(self) -> None:
        """Send what rooms have said in this tick."""


class LinkState(Struct, frozen=True):
    """One link for the operator: bytes that the gateway has not confirmed, and how often it was resumed."""

    gateway: str
    connected: bool
    unconfirmed: int
    resumed: int


class LinkSessions:
    """The sessions of one room host."""

    def __init__(
        self,
        host: HostEnd,
        *,
        grace: float,
        serves: Callable[[], bool],
        ask: Callable[[str, Ask], None],
        told: Callable[[str, Told], None],
        given_up: Callable[[], None],
        lease: Callable[[], float],
    ) -> None:
        """Keep them for `host`; the rest is that of `LinkServer`."""
        self._host = host
        self._grace = grace
        self.serves = serves
        self._gave_up = given_up
        self._lease = lease
        self._loop = asyncio.get_running_loop()
        self.by_gateway: dict[str, GatewaySession] = {}
        self._given_up = GivenUpGateways()
        self.patience = Patience(host, serves, self.give_up)
        self.handover = Handover(host, serves=serves, ask=ask, told=told, flush=self.flush, give_up=self.give_up)
        self.epoch: Epoch | None = None
        # Sessions that are to pack what was put, at the end of this tick.
        self._dirty: dict[GatewaySession, None] = {}
        self._flushing: asyncio.Handle | None = None

    # --- all gateways ----------------------------------------------------------------------------------

    def announce(self, epoch: Epoch) -> None:
        """Tell every gateway that this epoch is committed, and hand over what was sent in it."""
        self.epoch = epoch
        self.handover.epoch = epoch.number
        for session in tuple(self.by_gateway.values()):
            self._put(session, Announce(epoch))
        self.flush()
        self._hand_over_all()

    def forget(self) -> None:
        """Begin anew with every gateway: this host has lost its place, and all its rooms with it."""
        for session in tuple(self.by_gateway.values()):
            self.give_up(session, tell=False)

    def tell_lease(self) -> None:
        """Tell every gateway that hears it for how long this process serves, if it does."""
        if (seconds := self._lease()) > 0:
            for session in tuple(self.by_gateway.values()):
                if session.wire is not None:
                    self._put(session, Serving(seconds))

    def resume(self) -> None:
        """Go on, if this process serves again."""
        for session in tuple(self.by_gateway.values()):
            if session.wire is not None:
                session.wire.flush()
        self._hand_over_all()
        for session in self.by_gateway.values():
            session.freed.set()

    def stop(self) -> None:
        """End all sessions; nobody is given up for it."""
        sessions, self.by_gateway = self.by_gateway, {}
        for session in sessions.values():
            self._host.flow.lost(session.gateway)
            session.end()
        if self._flushing is not None:
            self._flushing.cancel()

    async def confirmed(self, patience: float) -> None:
        """Return once every gateway has confirmed all that was sent so far; who has not in time is given up.

        The time, in seconds, counts while this process serves: nothing can be confirmed that was not written.
        """
        self.flush()
        numbered = {session: session.stream.numbered for session in self.by_gateway.values()}
        while lagging := _lagging(numbered):
            await _until_confirmed(lagging, patience)
            if self.serves():
                for session in _lagging(numbered):
                    logger.warning("gateway given up: it confirms nothing", extra=session.about)
                    self.give_up(session)

    async def said(self, patience: float) -> None:
        """Return once every gateway that is connected has confirmed all that was sent so far, or after so long."""
        self.flush()
        numbered = {s: s.stream.numbered for s in self.by_gateway.values() if s.wire is not None}
        if lagging := _lagging(numbered):
            await _until_confirmed(lagging, patience)

    def states(self) -> list[LinkState]:
        """Describe the links."""
        return [
            LinkState(session.gateway, session.wire is not None, session.stream.unconfirmed, session.resumed)
            for session in self.by_gateway.values()
        ]

    # --- sending ---------------------------------------------------------------------------------------

    def send(self, gateway: str, message: HostMessage) -> None:
        """Send a message with all others of this tick; nothing happens if the gateway is not linked."""
        if (session := self.by_gateway.get(gateway)) is not None:
            self._put(session, message)

    def _put(self, session: GatewaySession, message: HostMessage) -> None:
        session.outgoing.append(message)
        self._dirty[session] = None
        # What is said while messages are handed over leaves right after.
        if self._flushing is None and not self.handover.is_under_way:
            self._flushing = self._loop.call_soon(self.flush)

    def flush(self) -> None:
        """Send what was put."""
        if self._flushing is not None:
            self._flushing.cancel()
            self._flushing = None
        while self._dirty:
            self._pack(self._dirty.popitem()[0])

    def _pack(self, session: GatewaySession) -> None:
        if session.has_ended:
            return
        messages, session.outgoing = session.outgoing, []
        try:
            session.stream.put(messages, self._loop.time())
        except StreamError as error:
            logger.error("gateway given up: %s", error, extra=session.about)
            session.outgoing = messages
            self.give_up(session)
            return
        self._host.flow.sent(session.gateway, session.stream.numbered, messages)
        if session.wire is not None:
            session.wire.flush()
        self.patience.watch(session)

    # --- one gateway -----------------------------------------------------------------------------------

    def is_replaced_by(self, hello: Hello, incarnation: str) -> bool:
        """Tell whether there is a session of this gateway which it does not go on with."""
        known = self.by_gateway.get(hello.sender)
        return known is not None and (hello.incarnation, hello.resumes) != (known.incarnation, incarnation)

    def go_on(self, hello: Hello, incarnation: str) -> GatewaySession | None:
        """Go on with the session of a gateway; None if there is none to go on with.

        Raises StreamError if what it says of the session cannot be; that is given up then.
        """
        session = self.by_gateway.get(hello.sender)
        if session is None:
            return None
        if self.is_replaced_by(hello, incarnation):
            self.give_up(session)
            return None
        # First, so that nothing that the old connection still holds is taken after the answer.
        session.cut()
        try:
            session.stream.resume(hello.received, self._loop.time())
        except StreamError:
            self.give_up(session)
            raise
        session.resumed += 1
        self._confirmed(session)
        return session

    def begin(self, hello: Hello) -> GatewaySession:
        """Begin a session: its first packet tells what the gateway is to know before anything else."""
        session = self.by_gateway[hello.sender] = GatewaySession(hello.sender, hello.incarnation, self._loop.time())
        session.lost = self._given_up.recall(hello.sender, hello.incarnation, self._host.wakes)
        if session.lost is not None and session.lost != GivenUp([]):
            session.outgoing.append(session.lost)
        if self.epoch is not None:
            session.outgoing.append(Announce(self.epoch))
        if (seconds := self._lease()) > 0:
            session.outgoing.append(Serving(seconds))
        # Also if there is nothing to tell: the gateway waits for it.
        self._pack(session)
        self._host.link(hello.sender, partial(self._put, session))
        return session

    def take(self, session: GatewaySession, data: bytes) -> None:
        """Take a packet; raises StreamError if it is none of this session."""
        session.incoming.extend(session.stream.take(data, self._loop.time()))
        session.incoming_bytes += len(data)
        self._confirmed(session)
        self.handover.hand_over(session)

    def _confirmed(self, session: GatewaySession) -> None:
        confirmed = session.stream.confirmed
        self._host.flow.confirmed(session.gateway, confirmed)
        if session.waiters:
            session.settle(confirmed)

    def begin_grace(self, session: GatewaySession) -> None:
        """Give a gateway up whose connection does not come back in time."""
        if session.grace is None and not session.has_ended:
            session.grace = self._loop.call_later(self._grace, self.end_grace, session)

    def end_grace(self, session: GatewaySession) -> None:
        """Give a gateway up that does not come back."""
        session.grace = None
        if self.serves():
            self.give_up(session)
        else:  # its rooms may have another owner by now, at which its connections live
            self.begin_grace(session)

    def give_up(self, session: GatewaySession, *, tell: bool = True, failed: Iterable[str] = ()) -> None:
        """End the session of a gateway; its incarnation is told so if it comes back, unless no hook has run for it.

        `failed` are rooms besides those in which its connections have ended.
        """
        if session.has_ended:
            return
        self._host.flush()
        del self.by_gateway[session.gateway]
        untold = session.lost if session.stream.confirmed == 0 else None
        flow = self._host.flow
        flow.sent(session.gateway, session.stream.numbered + 1, session.outgoing)
        unheard = flow.unheard(session.gateway)
        session.end()
        flow.lost(session.gateway)
        wakes = self._host.wakes
        rooms = [*self._host.unlink(session.gateway), *failed]
        level = logging.INFO if rooms else logging.DEBUG
        logger.log(level, "gateway %s is gone for %d rooms that were awake", session.gateway, len(rooms))
        if tell:
            lost = GivenUp(rooms, unheard=unheard)
            self._given_up.remember(session.gateway, session.incarnation, lost, untold=untold, wakes=wakes)
        self._gave_up()
        if not self.handover.is_under_way:
            self._host.run()
            self._hand_over_all()

    def _hand_over_all(self) -> None:
        for session in tuple(self.by_gateway.values()):
            self.handover.hand_over(session)


def _lagging(numbered: dict[GatewaySession, int]) -> dict[GatewaySession, int]:
    """Choose the sessions that still last and have not confirmed up to their number."""
    return {s: number for s, number in numbered.items() if not s.has_ended and s.stream.confirmed < number}


async def _until_confirmed(lagging: dict[GatewaySession, int], patience: float) -> None:
    """Wait until each of these sessions has confirmed up to its number or ended, or for so long."""
    await asyncio.wait([s.until_confirmed(number) for s, number in lagging.items()], timeout=patience)

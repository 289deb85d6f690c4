"""Give gateways up that take nothing while somebody has to wait for them.

Invariant: a gateway that makes progress is never given up, however slow it is; nor is one that has no connection, or to
which nothing is written now: it cannot confirm.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Protocol

from verani.link.stream import MAX_STALLED

from .flow import Flow
from .gateway_session import GatewaySession

__all__ = ["LOOK", "LOOKS", "Patience", "Waiters"]

logger = logging.getLogger(__name__)

# A gateway is looked at so often, in seconds, while something waits for it. If it has taken nothing so many times in a
# row and much waits, or a room does, it is given up; also if each time a room had waited for its records for as long.
# (Looks, not seconds: this process may have been stopped itself.)
LOOK = 1.0
LOOKS = 5


class Waiters(Protocol):
    """The rooms that may wait for a gateway."""

    # Which of them are held until it confirms.
    flow: Flow

    def longest_wait(self, gateway: str) -> float:
        """Say for how many seconds a wake has waited for the records of a gateway; 0 if none does."""


class Patience:
    """Looks at the gateways of one host."""

    def __init__(self, rooms: Waiters, serves: Callable[[], bool], give_up: Callable[[GatewaySession], None]) -> None:
        """Have `give_up` end sessions; nothing is written while `serves` says no."""
        self._rooms = rooms
        self._serves = serves
        self._give_up = give_up

    def watch(self, session: GatewaySession) -> None:
        """Look at a gateway as long as something waits for it."""
        if session.look is None and session.stream.unconfirmed:
            session.look = asyncio.get_running_loop().call_later(LOOK, self.look_at, session)

    def look_at(self, session: GatewaySession) -> None:
        """Look once; give the gateway up, or look again if something waits."""
        session.look = None
        stream, wait = session.stream, self._rooms.longest_wait(session.gateway)
        lives = session.wire is not None and self._serves()
        session.quiet = session.quiet + 1 if lives and stream.confirmed == session.seen else 0
        session.mute = session.mute + 1 if lives and wait > LOOK * LOOKS else 0
        session.seen = stream.confirmed
        is_waited_for = stream.unconfirmed > MAX_STALLED or wait or self._rooms.flow.holds(session.gateway)
        if session.quiet >= LOOKS and is_waited_for:
            logger.warning("gateway given up: it takes nothing", extra=session.about)
            self._give_up(session)
        elif session.mute >= LOOKS:
            logger.warning("gateway given up: rooms wait for their records", extra=session.about)
            self._give_up(session)
        elif stream.unconfirmed or wait:
            session.look = asyncio.get_running_loop().call_later(LOOK, self.look_at, session)

"""Close a connection whose identity has expired, unless the client refreshes it before (protocol 19).

Invariants:
- Neither expiry nor refresh ever reaches the room.
- At most one refresh is under way, and none outlives the connection.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Final

from verani.errors import VeraniError

from .close_handshake import CloseHandshake
from .expiry import REFRESHED, Expiry, expiring_frame
from .outbox import Outbox, text_frame

__all__ = ["Renew", "Renewal"]

logger = logging.getLogger(__name__)

# Takes a client's new token and returns its expiry; raises VeraniError if it is of no use.
Renew = Callable[[str], Awaitable[float | None]]

_REFRESHED_FRAME: Final = text_frame(REFRESHED)


class Renewal:
    """The identity of one connection, from an expiry of the wall clock to the next."""

    __slots__ = ("__weakref__", "_closing", "_expiry", "_extra", "_outbox", "_renew", "task")

    def __init__(
        self, at: float, renew: Renew, outbox: Outbox, closing: CloseHandshake, *, extra: dict[str, str]
    ) -> None:
        """Expire at this time unless `renew` takes a token before; `extra` is for the log."""
        self._expiry: Expiry | None = Expiry(at)
        self._renew = renew
        self._outbox = outbox
        self._closing = closing
        self._extra = extra
        self.task: asyncio.Task[None] | None = None

    def tick(self) -> None:
        """Do what the expiry demands by now."""
        if self._expiry is None:
            return
        now = time.time()
        if self._expiry.is_over(now):
            self._closing.close(4001, "token expired")
        elif (seconds := self._expiry.notice(now)) is not None:
            self._outbox.put(text_frame(expiring_frame(seconds)))

    def seconds_left(self, now: float) -> float | None:
        """Say how many seconds are left at a time of the wall clock, None where the identity does not expire."""
        return self._expiry.left(now) if self._expiry is not None else None

    def start(self, token: str) -> None:
        """Refresh the identity with a token; a second one at once, or one after all, is one too many."""
        if self._expiry is not None and self.task is None:
            self.task = asyncio.create_task(self._refresh(token))

    async def _refresh(self, token: str) -> None:
        try:
            expires_at = await self._renew(token)
        except VeraniError as error:
            logger.debug("refresh refused: %s", error.code, extra=self._extra)
        else:
            if not self._closing.is_lost:
                self._expiry = None if expires_at is None else Expiry(expires_at)
                self._outbox.put(_REFRESHED_FRAME)
        finally:
            self.task = None

    def stop(self) -> None:
        """End a refresh that is under way."""
        if self.task is not None:
            self.task.cancel()

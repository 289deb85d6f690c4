"""Ping the server over one connection, and break that where nothing comes back.

A pong is what comes at least; whatever else comes is a sign of life, too. While reading is stopped, nothing can be
seen, so nothing is missed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress

import aiohttp
from aiohttp import ClientWebSocketResponse, WSMsgType

from .codec import PING

__all__ = ["Keepalive"]

logger = logging.getLogger("verani.client")


class Keepalive:
    """The pings of one connection, every `interval` seconds, and the sign of life due within `timeout` seconds."""

    def __init__(
        self, interval: float, timeout: float, *, is_reading: Callable[[], bool], abort: Callable[[], None]
    ) -> None:
        self._interval = interval
        self._timeout = timeout
        self._is_reading = is_reading
        self._abort = abort
        self._pong_due: asyncio.Handle | None = None  # armed while a ping is unanswered
        # What was waited for in vain, if that is why the connection was broken.
        self.silence = ""

    async def run(self, ws: ClientWebSocketResponse) -> None:
        """Send pings until cancelled."""
        while True:
            await asyncio.sleep(self._interval)
            if self._pong_due is None:
                self._arm()
            with suppress(aiohttp.ClientError, ConnectionError):
                await ws.send_frame(PING, WSMsgType.TEXT)

    def heard(self) -> None:
        """Note that something has come from the server."""
        if self._pong_due is not None:
            self._pong_due.cancel()
            self._pong_due = None

    def resume(self) -> None:
        """Give it its full time again: reading was stopped."""
        if self._pong_due is not None:
            self._arm()

    def _arm(self) -> None:
        self.heard()
        self._pong_due = asyncio.get_running_loop().call_later(self._timeout, self._missed, True)

    def _missed(self, may_be_waiting: bool) -> None:
        if not self._is_reading():
            self._arm()
        elif may_be_waiting:
            # A callback that blocked the loop makes us late too: let the reader see what the socket has first.
            self._pong_due = asyncio.get_running_loop().call_soon(self._missed, False)
        else:
            self.silence = f"no pong within {self._timeout} s"
            logger.warning("%s, dropping the connection", self.silence)
            self._abort()

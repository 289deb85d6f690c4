"""Keep a client connected: make one connection after the other, until it is closed or gives up.

When to come back is `reconnection.py`, what one connection does is `live_connection.py`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress

from aiohttp import ClientWebSocketResponse

from ..errors import VeraniError
from .failures import Closing, ConnectFailed, ConnectionClosed
from .handshakes import Handshakes
from .lifecycle import ClientLife, ClientState
from .live_connection import LiveConnection
from .reconnection import Attempts, Reconnection
from .requests import NotSent

__all__ = ["Reconnector"]

logger = logging.getLogger("verani.client")

_STAY_AWAY = frozenset({1000, 1001})  # protocol 15


class Reconnector:
    """The task that owns the connection of a client; `use` makes what uses an open WebSocket."""

    def __init__(
        self,
        plan: Reconnection,
        handshakes: Handshakes,
        life: ClientLife,
        use: Callable[[ClientWebSocketResponse], LiveConnection],
        random: Callable[[], float],
    ) -> None:
        self._plan = plan
        self._handshakes = handshakes
        self._life = life
        self._use = use
        self._random = random
        self._task: asyncio.Task[None] | None = None
        # The open one, None between two.
        self.connection: LiveConnection | None = None

    def start(self) -> None:
        """Begin, or begin again after it ended by itself."""
        if self._task is None or self._task.done():
            self._life.begin()
            self._task = asyncio.create_task(self._run(), name="verani-client")

    async def hang_up(self, code: int, reason: str) -> None:
        """Let what waits leave over an open connection, close that, and wait for the end."""
        if self._task is None:
            return
        if self.connection is not None:
            with suppress(NotSent):
                await self._life.drain()
        if self.connection is not None:
            await self.connection.say_goodbye(code, reason)
        else:
            self._task.cancel()
        await asyncio.wait({self._task})

    async def stop(self) -> None:
        """End at once."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    def forget(self) -> None:
        """Let go of the task: one that was cancelled keeps the frames it ran in, and so the client."""
        self._task = None

    async def _run(self) -> None:
        try:
            await self._keep_connected()
        except VeraniError as exc:  # why there is no connection, or what the room refused this client with
            self._life.fail(exc)
        except Exception as exc:
            # The socket pump: what nobody foresaw must not leave anyone waiting.
            logger.exception("the connection task failed")
            failure = ConnectFailed(f"the client failed: {exc!r}")
            failure.__cause__ = exc.with_traceback(None)
            self._life.fail(failure)

    async def _keep_connected(self) -> None:
        attempts = Attempts(self._plan)
        while True:
            self._life.enter(ClientState.CONNECTING)
            at_least = await self._attempt(attempts)
            if at_least is None:
                return
            delay = at_least + attempts.next_delay(self._random())
            self._life.enter(ClientState.RECONNECTING, attempts.retries, delay)
            await asyncio.sleep(delay)

    async def _attempt(self, attempts: Attempts) -> float | None:
        """Connect, and use the connection to its end; return the seconds to wait at least, None if this was the last.

        Raise why the client gives up.
        """
        try:
            ws = await self._handshakes.open()
        except ConnectFailed as exc:
            attempts.failed()
            if exc.is_final or not attempts.may_go_on:
                raise
            logger.warning("attempt %d failed: %s", attempts.failures, exc)
            self._life.attempt_failed(exc)
            return exc.retry_after
        return await self._serve(ws, attempts)

    async def _serve(self, ws: ClientWebSocketResponse, attempts: Attempts) -> float | None:
        clock = asyncio.get_running_loop().time
        opened = clock()
        connection = self.connection = self._use(ws)
        try:
            closing = await connection.serve()
        finally:
            self.connection = None
        if closing.refusal is not None:
            raise closing.refusal
        if self._is_last(closing):
            self._life.end(ConnectionClosed(closing), gave_up=closing.code not in _STAY_AWAY)
            return None
        attempts.ended(closing.code, lasted=clock() - opened, answered=connection.answered)
        if not attempts.may_go_on:
            raise ConnectionClosed(closing, attempts.failures)
        if attempts.failures:
            logger.warning("connection %d in a row did not last: %s", attempts.failures, closing)
        return 0.0

    def _is_last(self, closing: Closing) -> bool:
        return self._life.closed is not None or closing.code in _STAY_AWAY or not self._plan.enabled

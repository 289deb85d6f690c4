"""Where a client is in its life, and what those are told who wait for its connection.

Invariants:
1. A client that gives up is heard: by everyone who iterates or waits for the connection, else in the log.
2. A client that is closed keeps no exception that was raised, because that has the frames of whoever caught it; `fresh`
   makes the next.
"""

from __future__ import annotations

import asyncio
import enum
import logging
from typing import Any

from ..errors import VeraniError, fresh
from .events import Signal
from .exchange import Exchange
from .failures import Closing, ConnectFailed
from .requests import NotSent
from .streams import EventStream

__all__ = ["ClientLife", "ClientState"]

logger = logging.getLogger("verani.client")

_LOST = 1006


class ClientState(enum.StrEnum):
    """Where a client is in its life; `disconnected` is also where it begins."""

    CONNECTING = "connecting"
    CONNECTED = "connected"
    DISCONNECTED = "disconnected"
    RECONNECTING = "reconnecting"
    ERROR = "error"


class ClientLife:
    """The state of one client, and how it ended; every change is announced to its callbacks."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._failure: VeraniError | None = None  # why it ended, None while it lives
        self._gave_up = False  # it ended otherwise than by `close` or a close code that means to stay away
        self._waiting = 0  # tasks in `wait_for_connection`, which raises the failure
        self._settled = asyncio.Event()  # connected or ended: those who wait for a connection look again
        self.state = ClientState.DISCONNECTED
        self.started = False
        self.closed: tuple[int, str] | None = None  # code and reason given to `close`

    # --- what happens -------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Live, also again."""
        self.started = True
        self._failure, self._gave_up = None, False

    def enter(self, state: ClientState, *args: Any) -> None:
        """Change the state; its callbacks get `args`."""
        logger.debug("state %s", state)
        self.state = state
        self._exchange.inbox.put(Signal(state.value, args))

    def connected(self) -> None:
        """Announce an open connection."""
        self._exchange.inbox.put(Signal("open", ()))
        self.enter(ClientState.CONNECTED)
        self._settled.set()
        self._exchange.connected()

    def disconnected(self, closing: Closing) -> None:
        """Announce the end of a connection."""
        logger.info("connection ended with code %d", closing.code)
        self._exchange.disconnected(closing)
        self._exchange.inbox.put(Signal("close", (closing.code, closing.reason)))
        self.enter(ClientState.DISCONNECTED, closing.code, closing.reason)

    def attempt_failed(self, failure: ConnectFailed) -> None:
        """Announce a handshake that came to nothing and is not the last."""
        self._exchange.inbox.put(Signal("error", (failure,)))
        self._exchange.trouble = str(failure)

    def fail(self, failure: VeraniError) -> None:
        """End in state `error`."""
        # The frames it came through are this client's.
        failure.__traceback__ = failure.__context__ = None
        self.enter(ClientState.ERROR, failure)
        self.end(failure, gave_up=True)

    def end(self, failure: VeraniError, *, gave_up: bool) -> None:
        """Settle everyone who waits for a connection; frames stay queued for another `connect` unless closed."""
        exchange = self._exchange
        if self.closed is not None:
            failure, gave_up = ConnectFailed("the client is closed"), False
            exchange.outbox.clear()
        if self._failure is None:
            self._failure, self._gave_up = failure, gave_up
        if isinstance(failure, ConnectFailed):
            exchange.requests.fail(NotSent(f"the request was not sent: {failure}"))
        else:  # a refusal speaks for itself
            exchange.requests.fail(fresh(failure))
        exchange.trouble = str(failure)
        if gave_up and not self._waiting and not exchange.inbox.streams:
            logger.error("does not come back: %s", failure)
        exchange.inbox.streams.end(failure if gave_up else None)
        exchange.outbox.wake()
        self._settled.set()

    def close(self, code: int, reason: str) -> tuple[int, str]:
        """Refuse what is asked from now on; return the code and reason that count, which are the first."""
        if self.closed is None:
            self.closed = (code, reason)
        self._exchange.read_on()
        return self.closed

    def closed_down(self) -> None:
        """Announce that nothing runs any more."""
        if self.state not in (ClientState.DISCONNECTED, ClientState.ERROR):
            self.enter(ClientState.DISCONNECTED, *(self.closed or (_LOST, "")))
        self.end(ConnectFailed("the client is closed"), gave_up=False)

    # --- who asks -----------------------------------------------------------------------------------------------

    def check_open(self) -> None:
        """Raise `NotSent` once the client is closed."""
        if self.closed is not None:
            raise NotSent("expected an open client, this one is closed")

    def check_alive(self, event: str) -> None:
        """Raise why a request cannot be sent any more."""
        self.check_open()
        if isinstance(self._failure, ConnectFailed):
            raise NotSent(f"{event!r} was not sent: {self._failure}")
        if self._failure is not None:  # a refusal speaks for itself
            raise fresh(self._failure)

    def open_stream(self) -> EventStream:
        """Return an iterator, one that has ended if the client has."""
        stream = self._exchange.inbox.open_stream()
        if self._failure is not None:
            self._exchange.inbox.streams.end(self._failure if self._gave_up else None)
        return stream

    async def wait_for_connection(self, timeout: float | None) -> None:
        """Wait until there is a connection; see `VeraniClient.wait_for_connection`."""
        self._waiting += 1
        try:
            async with asyncio.timeout(timeout):
                while self.state is not ClientState.CONNECTED:
                    if self._failure is not None:
                        raise self._take_failure()
                    self._settled.clear()
                    await self._settled.wait()
        except TimeoutError:
            why = f": {self._exchange.trouble}" if self._exchange.trouble else ""
            raise TimeoutError(f"no connection within {timeout} s{why}") from None
        finally:
            self._waiting -= 1

    async def drain(self) -> None:
        """Wait until a connection has taken every frame; raise `NotSent` if the client ends first."""
        outbox = self._exchange.outbox
        while not outbox.flushed:
            if self._failure is not None:
                raise NotSent(f"{len(outbox)} frames were not sent: {self._failure}")
            await outbox.progress()

    def _take_failure(self) -> VeraniError:
        """Return why it ended, to be raised; the next one gets a copy."""
        assert self._failure is not None
        failure, self._failure = self._failure, fresh(self._failure)
        return failure

"""Link a gateway to a room host in another process: its end of the link, for as long as the epoch has the host.

What the host says is the gateway's to act on, and so is what becomes of its inputs when a session is lost.

Invariants:
- `opened(link, False)` begins a session: what was put before it is gone, what is put from it on is sent.
- What the gateway fails on ends the session: the host gives it up and says so in the next one. Nothing is taken by half
  in silence.
- It is connected again for ever, until the link is closed; from then on `receive` and `opened` are not called.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Sequence
from ssl import SSLContext
from typing import Any

import aiohttp
from yarl import URL

from verani.backoff import Backoff
from verani.link.epoch import Member
from verani.link.messages import (
    PROTOCOL_VERSIONS,
    Arrival,
    GatewayMessage,
    GivenUp,
    Hello,
    HostMessage,
    encode_message,
)
from verani.link.stream import Stream, StreamError
from verani.version import __version__
from verani_actors.links.wire import (
    LAST_WORDS,
    LINK_PATH,
    MAX_MESSAGE,
    PATIENCE,
    ClientSocket,
    VersionError,
    Wire,
    WireError,
    receive_hello,
)
from verani_actors.upkeep.refusals import Refusals

from .host_session import HostSession
from .link import LinkState

__all__ = ["RemoteLink", "delay_after"]

logger = logging.getLogger(__name__)

# A connection that breaks is made again at once; if it breaks within so many seconds, after a random part of a delay
# that doubles from the first to the longest.
_SETTLED = 1.0
_BACKOFF = Backoff(first=0.02, longest=1.0)

# Compress with the whole window (RFC 7692 7.1.2).
_WINDOW = 15


class _Unhandled(Exception):
    """What the host said could not be handled."""


class RemoteLink:
    """The gateway's end of the link to one process of a host."""

    def __init__(
        self,
        gateway_id: str,
        incarnation: str,
        member: Member,
        machine: str,
        *,
        receive: Callable[[RemoteLink, HostMessage], None],
        opened: Callable[[RemoteLink, bool], None],
        compression: bool = False,
        ssl: SSLContext | None = None,
        random: Callable[[], float] = random.random,
    ) -> None:
        """Link to `member`: by its Unix socket if it is of this machine, else by its address.

        `receive` takes what the host says; `opened` hears of every new connection, and whether the session went on.
        """
        self.member = member
        self._gateway_id = gateway_id
        self._incarnation = incarnation
        self._local = member.machine == machine
        self._receive = receive
        self._opened = opened
        self._compression = compression and not self._local
        self._ssl = ssl
        self._random = random
        self._loop = asyncio.get_running_loop()
        self._session = HostSession(self._about())
        # The session's own: every input passes here.
        self.put: Callable[[Arrival], None] = self._session.put
        self.send: Callable[[GatewayMessage], None] = self._session.send
        self._task: asyncio.Task[None] | None = None
        self._closed = False
        # Times that the session went on over a new connection, and what connections were ended for.
        self.resumed = 0
        self.refusals = Refusals(logger)

    # --- life ------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to connect."""
        self._task = self._loop.create_task(self._run())

    async def close(self) -> None:
        """Send what waits, as far as the socket takes it at once, and end the link."""
        if not self._closed:
            self._session.flush()
            self._end()
        if self._task is not None:
            await asyncio.wait([self._task])

    def close_now(self) -> None:
        """End the link; nothing more is sent or received. `close` still waits for its task."""
        if self._session.wire is not None:
            self._session.wire.abort()
        self._end()

    def _end(self) -> None:
        self._closed = True
        self._session.end()
        if self._task is not None:
            self._task.cancel()

    @property
    def state(self) -> LinkState:
        """Tell whether a session has not begun yet, goes on, or waits for a connection; a closed link is broken."""
        if not self._session.begun and not self._closed:
            return "connecting"
        return "linked" if self._session.wire is not None else "broken"

    @property
    def unconfirmed(self) -> int:
        """Bytes that the host has not confirmed."""
        return 0 if self._session.stream is None else self._session.stream.unconfirmed

    @property
    def epoch(self) -> int:
        """Number of the epoch in which inputs are put; those that wait keep theirs."""
        return self._session.epoch

    @epoch.setter
    def epoch(self, number: int) -> None:
        self._session.epoch = number

    # --- connections -----------------------------------------------------------------------------------

    async def _run(self) -> None:
        """Connect, again and again."""
        breaks = 0
        async with aiohttp.ClientSession(
            connector=self._connector(), cookie_jar=aiohttp.DummyCookieJar(), ws_response_class=ClientSocket
        ) as session:
            while True:
                since = self._loop.time()
                try:
                    await self._connect(session)
                except StreamError as error:
                    self.refusals.add("what came is no packet of this link", f"{self.member.id}: {error}")
                    self._session.forget()
                except _Unhandled:
                    self._session.forget()
                except aiohttp.ClientSSLError as error:
                    self.refusals.add("the TLS handshake failed", f"{self.member.id}: {error}")
                except (aiohttp.ClientError, OSError, TimeoutError, WireError) as error:
                    logger.debug("link broken: %s", error, extra=self._about())
                breaks = 0 if self._loop.time() - since >= _SETTLED else breaks + 1
                await asyncio.sleep(delay_after(breaks, self._random()))

    def _connector(self) -> aiohttp.BaseConnector:
        if self._local:
            return aiohttp.UnixConnector(self.member.path, force_close=True)
        return aiohttp.TCPConnector(ssl=self._ssl or True, force_close=True)

    async def _connect(self, session: aiohttp.ClientSession) -> None:
        """Make one connection, and use it up."""
        url = URL(f"http://link{LINK_PATH}" if self._local else self.member.url).with_path(LINK_PATH)
        async with asyncio.timeout(PATIENCE) as patience:
            async with session.ws_connect(
                url,
                timeout=aiohttp.ClientWSTimeout(ws_close=LAST_WORDS),
                max_msg_size=MAX_MESSAGE,
                compress=_WINDOW if self._compression else 0,
                decode_text=False,
            ) as ws:
                assert isinstance(ws, ClientSocket)
                try:
                    hello = await self._greet(ws)
                    patience.reschedule(None)
                    await self._keep(ws, hello)
                finally:
                    ws.response.close()

    async def _greet(self, ws: aiohttp.ClientWebSocketResponse[Any]) -> Hello:
        """Exchange the hellos; raises WireError if these two cannot be linked."""
        stream = self._session.stream
        resumes, received = ("", 0) if stream is None else (self.member.incarnation, stream.received)
        ours, wanted = self._incarnation, self.member.incarnation
        mine = Hello(PROTOCOL_VERSIONS, __version__, self._gateway_id, ours, self.epoch, (), received, resumes, wanted)
        await ws.send_bytes(encode_message(mine))
        try:
            hello = await receive_hello(ws, "gateway")
        except VersionError as error:
            self.refusals.add("no version in common", error)
            raise
        if hello.incarnation != self.member.incarnation:
            raise WireError("another process answers there")
        return hello

    async def _keep(self, ws: aiohttp.ClientWebSocketResponse[Any], hello: Hello) -> None:
        """Have the session go over this connection until it ends."""
        session, resumed = self._session, False
        if session.stream is not None and hello.resumes:
            session.resume(hello.received)
            self.resumed += 1
            resumed = session.begun
        else:
            session.renew()
        assert session.stream is not None
        wire = session.wire = Wire(ws, session.stream)
        try:
            wire.open()
            if resumed:
                self._call(self._opened, True)
            await self._pump(wire, session.stream)
        finally:
            session.wire = None
            await wire.close()

    async def _pump(self, wire: Wire, stream: Stream[GatewayMessage, HostMessage]) -> None:
        while self._session.stream is stream and (data := await wire.read()) is not None:
            messages = stream.take(data, self._loop.time())
            if not self._session.begun and stream.received:
                messages = self._begin(messages)
            for message in messages:
                self._call(self._receive, message)
            self._session.flush()
            wire.took()

    def _begin(self, messages: Sequence[HostMessage]) -> Sequence[HostMessage]:
        """Begin the session with its first packet: the rooms that are lost come first, then everything may be put."""
        lost = [message for message in messages if isinstance(message, GivenUp)]
        for message in lost:
            self._call(self._receive, message)
        self._session.begun = not self._closed
        self._call(self._opened, False)
        return [message for message in messages if not isinstance(message, GivenUp)]

    def _call(self, callback: Callable[[RemoteLink, Any], None], argument: Any) -> None:
        if self._closed:
            return
        try:
            callback(self, argument)
        except Exception as error:  # the socket pump: a defect met by one message must not end the link for good
            logger.exception("link begun anew: a message was not handled", extra=self._about())
            raise _Unhandled from error

    def _about(self) -> dict[str, str]:
        return {"host": self.member.id}


def delay_after(breaks: int, chance: float) -> float:
    """Return how long to wait after so many connections in a row that did not last; `chance` is in [0, 1)."""
    return _BACKOFF.jittered(breaks - 2, chance) if breaks >= 2 else 0.0

"""Take links: the room host's end of what gateways in other processes say.

One session for each gateway, over however many connections. What the messages do is the room host's business, when
this process serves is the lease's, who is a member the registrar's.

Invariants:
- Nothing but confirmations is written, and nothing handed over, while `serves` says no.
- Messages are handed over in the order of their link; what was sent in a later epoch waits for its commit, and
  everything after it.
- A gateway whose connection has been gone for `grace` seconds, or that does not take what it is sent, is given up: its
  sessions in the room host end, and it is told so should it come back.
- What one link does wrong ends that connection and nothing else.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections import OrderedDict, deque
from collections.abc import Callable
from functools import partial
from pathlib import Path
from ssl import SSLContext
from typing import Any, Protocol

import msgspec
from aiohttp import WSCloseCode, web
from msgspec import Struct

from verani.epoch import Epoch
from verani.errors import VeraniError
from verani.messages import (
    PROTOCOL_VERSIONS,
    Announce,
    Ask,
    GatewayMessage,
    GivenUp,
    Hello,
    HostMessage,
    InputBatch,
    Rebuild,
    Serving,
    Told,
    decode_hello,
    encode_message,
)
from verani.stream import MAX_STALLED, MAX_UNCONFIRMED, STALLED_AFTER, StreamError, host_stream
from verani.version import __version__

from .refusals import Refusals
from .wire import LINK_PATH, MAX_MESSAGE, REFUSED, Wire, WireError

__all__ = ["HostEnd", "LinkPortError", "LinkServer", "LinkState"]

logger = logging.getLogger(__name__)

# Seconds that a new connection may take to say hello.
_PATIENCE = 5.0

# Seconds that the last words of a connection may take.
_LAST_WORDS = 1.0

# Above so many unconfirmed bytes of a link that made progress within the last seconds, no inputs are handed over.
MAX_AHEAD = 4 << 20
_PROGRESS = 0.05

# Gateways that were given up are remembered, the last so many.
_REMEMBERED = 64


class LinkPortError(VeraniError):
    """The links of other machines cannot be listened for: the port is in use, or the address not of this machine."""

    def __init__(self, host: str, port: int, error: OSError) -> None:
        super().__init__(host, port, error)
        self.host = host
        self.port = port
        self.error = error

    def __str__(self) -> str:
        # asyncio adds the address to the text, which the sentence already names.
        reason = os.strerror(self.error.errno).lower() if self.error.errno else str(self.error)
        return f"cannot listen on {self.host}:{self.port} (link_port): {reason}"


class HostEnd(Protocol):
    """A room host, as its links see it."""

    def link(self, gateway: str, send: Callable[[HostMessage], None]) -> None:
        """Take a gateway; `send` carries messages to it."""

    def unlink(self, gateway: str) -> list[str]:
        """Give a gateway up and name the rooms in which its connections got their `on_disconnect`."""

    def receive(self, gateway: str, message: GatewayMessage) -> None:
        """Take one message of a gateway."""

    def run(self) -> None:
        """Begin to work on what was received."""


class LinkState(Struct, frozen=True):
    """One link for the operator: bytes that the gateway has not confirmed, and how often it was resumed."""

    gateway: str
    connected: bool
    unconfirmed: int
    resumed: int


class _Session:
    """What this host and one gateway have said to each other since they met."""

    def __init__(self, gateway: str, incarnation: str, now: float) -> None:
        self.gateway = gateway
        self.incarnation = incarnation
        self.stream = host_stream(now)
        self.wire: Wire | None = None
        self.resumed = 0
        # What is to leave with the next packet, and what has come and is not handed over.
        self.outgoing: list[HostMessage] = []
        self.incoming: deque[GatewayMessage] = deque()
        # Rooms of the `GivenUp` in the first packet.
        self.lost: list[str] = []
        self.grace: asyncio.TimerHandle | None = None
        self.stall: asyncio.TimerHandle | None = None
        # Who waits for a packet to be confirmed.
        self.waiters: list[tuple[int, asyncio.Future[None]]] = []

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
        for timer in (self.grace, self.stall):
            if timer is not None:
                timer.cancel()
        if self.wire is not None:
            self.wire.abort()
            self.wire = None
        self.outgoing.clear()
        self.incoming.clear()
        self.settle()


class LinkServer:
    """All links of one room host."""

    def __init__(
        self,
        host: HostEnd,
        member_id: str,
        incarnation: str,
        *,
        grace: float,
        serves: Callable[[], bool],
        ask: Callable[[str, Ask], None],
        told: Callable[[str, Told], None],
        given_up: Callable[[], None] = lambda: None,
        lease: Callable[[], float] = lambda: 0.0,
        compression: bool = False,
    ) -> None:
        """Serve `host`; `ask` and `told` take the questions and answers that gateways address to this process.

        `given_up` is called whenever a gateway was. `lease` says for how many seconds `serves` will say yes at least.
        """
        self._host = host
        self._member_id = member_id
        self._incarnation = incarnation
        self._grace = grace
        self._serves = serves
        self._ask = ask
        self._told = told
        self._gave_up = given_up
        self._lease = lease
        self._compression = compression
        self._loop = asyncio.get_running_loop()
        self._sessions: dict[str, _Session] = {}
        self._given_up: OrderedDict[tuple[str, str], list[str]] = OrderedDict()
        self._epoch: Epoch | None = None
        self._dirty: dict[_Session, None] = {}
        self._flush: asyncio.Handle | None = None
        self._look: asyncio.TimerHandle | None = None
        self._handing = False
        self._runner: web.AppRunner | None = None
        self.port: int | None = None
        # What connections were ended for, for the operator.
        self.refusals = Refusals(logger)

    # --- life ------------------------------------------------------------------------------------------

    async def start(self, path: str, address: tuple[str, int] | None = None, ssl: SSLContext | None = None) -> None:
        """Listen on a Unix socket, and on TCP where an address is given; `port` is the one taken then."""
        app = web.Application()
        app.router.add_get(LINK_PATH, self._serve)
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=_LAST_WORDS)
        await self._runner.setup()
        await web.UnixSite(self._runner, path).start()
        _protect(path)
        if address is not None:
            try:
                await web.TCPSite(self._runner, *address, ssl_context=ssl).start()
            except OSError as error:
                raise LinkPortError(*address, error) from error
            self.port = self._runner.addresses[-1][1]

    async def stop(self) -> None:
        """End all connections; nobody is given up for it. `confirmed` comes before, where nothing is to be lost."""
        sessions, self._sessions = self._sessions, {}
        for session in sessions.values():
            session.end()
        for timer in (self._flush, self._look):
            if timer is not None:
                timer.cancel()
        if self._runner is not None:
            await self._runner.cleanup()

    def announce(self, epoch: Epoch) -> None:
        """Tell every gateway that this epoch is committed, and hand over what was sent in it."""
        self._epoch = epoch
        for session in tuple(self._sessions.values()):
            self._put(session, Announce(epoch))
        self._flush_all()
        self._hand_over_all()

    def forget(self) -> None:
        """Begin anew with every gateway: this host has lost its place, and all its rooms with it."""
        for session in tuple(self._sessions.values()):
            self._give_up(session, tell=False)

    def tell_lease(self) -> None:
        """Tell every gateway that hears it for how long this process serves, if it does."""
        if (seconds := self._lease()) > 0:
            for session in tuple(self._sessions.values()):
                if session.wire is not None:
                    self._put(session, Serving(seconds))

    def resume(self) -> None:
        """Go on, if this process serves again."""
        for session in tuple(self._sessions.values()):
            if session.wire is not None:
                session.wire.flush()
        self._hand_over_all()

    async def confirmed(self, patience: float) -> None:
        """Return once every gateway has confirmed all that was sent so far; who has not in time is given up.

        The time, in seconds, counts while this process serves: nothing can be confirmed that was not written.
        """
        self._flush_all()
        numbered = {session: session.stream.numbered for session in self._sessions.values()}
        while lagging := self._lagging(numbered):
            await self._confirm(lagging, patience)
            if self._serves():
                for session in self._lagging(numbered):
                    logger.warning("gateway given up: it confirms nothing", extra=_about(session))
                    self._give_up(session)

    async def said(self, patience: float) -> None:
        """Return once every gateway that is connected has confirmed all that was sent so far, or after so long."""
        self._flush_all()
        connected = {s: s.stream.numbered for s in self._sessions.values() if s.wire is not None}
        if lagging := self._lagging(connected):
            await self._confirm(lagging, patience)

    def _lagging(self, numbered: dict[_Session, int]) -> dict[_Session, int]:
        """Choose the sessions that still last and have not confirmed up to their number."""
        return {
            session: number
            for session, number in numbered.items()
            if self._sessions.get(session.gateway) is session and session.stream.confirmed < number
        }

    async def _confirm(self, lagging: dict[_Session, int], patience: float) -> None:
        """Wait until each of these sessions has confirmed up to its number or ended, or for so long."""
        waiting: list[asyncio.Future[None]] = []
        for session, number in lagging.items():
            waiting.append(self._loop.create_future())
            session.waiters.append((number, waiting[-1]))
        await asyncio.wait(waiting, timeout=patience)

    def states(self) -> list[LinkState]:
        """Describe the links."""
        return [
            LinkState(session.gateway, session.wire is not None, session.stream.unconfirmed, session.resumed)
            for session in self._sessions.values()
        ]

    # --- sending ---------------------------------------------------------------------------------------

    def send(self, gateway: str, message: HostMessage) -> None:
        """Send a message with all others of this tick; nothing happens if the gateway is not linked."""
        if (session := self._sessions.get(gateway)) is not None:
            self._put(session, message)

    def _put(self, session: _Session, message: HostMessage) -> None:
        session.outgoing.append(message)
        self._dirty[session] = None
        # What is said while messages are handed over leaves right after.
        if self._flush is None and not self._handing:
            self._flush = self._loop.call_soon(self._flush_all)

    def _flush_all(self) -> None:
        if self._flush is not None:
            self._flush.cancel()
            self._flush = None
        while self._dirty:
            self._flush_one(self._dirty.popitem()[0])

    def _flush_one(self, session: _Session) -> None:
        if self._sessions.get(session.gateway) is not session:
            return
        messages, session.outgoing = session.outgoing, []
        stream = session.stream
        try:
            stream.put(messages, self._loop.time())
        except StreamError as error:
            logger.error("gateway given up: %s", error, extra={"gateway": session.gateway})
            self._give_up(session)
            return
        if session.wire is not None:
            session.wire.flush()
        if stream.unconfirmed > MAX_UNCONFIRMED:
            logger.warning("gateway given up: %d bytes wait for it", stream.unconfirmed, extra=_about(session))
            self._give_up(session)
        elif stream.unconfirmed > MAX_STALLED and session.stall is None:
            session.stall = self._loop.call_later(STALLED_AFTER, self._check_stall, session)

    def _check_stall(self, session: _Session) -> None:
        session.stall = None
        stream, now = session.stream, self._loop.time()
        if not self._serves():  # nothing is written, so nothing can be confirmed
            session.stall = self._loop.call_later(STALLED_AFTER, self._check_stall, session)
        elif stream.is_stuck(now):
            logger.warning("gateway given up: it takes nothing", extra=_about(session))
            self._give_up(session)
        elif stream.unconfirmed > MAX_STALLED:
            session.stall = self._loop.call_at(stream.progress + STALLED_AFTER, self._check_stall, session)

    # --- connections -----------------------------------------------------------------------------------

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        secure = request.secure
        ws = web.WebSocketResponse(
            compress=self._compression and secure, max_msg_size=MAX_MESSAGE, timeout=_LAST_WORDS, decode_text=False
        )
        try:
            await ws.prepare(request)
        except ConnectionError:
            return web.Response(status=503)  # it has ended: there is nobody to read this
        try:
            hello = await self._greet(ws)
            if hello is not None:
                await self._keep(ws, hello)
        except ConnectionError:
            pass  # it ended; a session has its grace
        return ws

    async def _greet(self, ws: web.WebSocketResponse[Any]) -> Hello | None:
        """Read the hello of a gateway; None if it is refused."""
        try:
            async with asyncio.timeout(_PATIENCE):
                hello = decode_hello(await ws.receive_bytes())
        except TimeoutError:
            self.refusals.add("no hello came", f"within {_PATIENCE:g} s")
        except (TypeError, msgspec.MsgspecError, UnicodeDecodeError) as error:
            self.refusals.add("the first message is no hello", error)
        else:
            lowest, highest = PROTOCOL_VERSIONS
            if hello.versions[0] <= highest and hello.versions[1] >= lowest:
                return hello
            detail = (
                f"{hello.sender} speaks {hello.versions[0]} to {hello.versions[1]}, this host {lowest} to {highest}"
            )
            self.refusals.add("no version in common", detail)
            await ws.send_bytes(encode_message(self._hello()))
        await ws.close(code=REFUSED, message=b"refused")
        return None

    def _hello(self, received: int = 0, resumes: str = "") -> Hello:
        epoch = 0 if self._epoch is None else self._epoch.number
        versions, incarnation = PROTOCOL_VERSIONS, self._incarnation
        return Hello(versions, __version__, self._member_id, incarnation, epoch, received=received, resumes=resumes)

    async def _keep(self, ws: web.WebSocketResponse[Any], hello: Hello) -> None:
        """Have a session go over this connection until it ends."""
        known = self._sessions.get(hello.sender)
        is_new = (hello.incarnation, hello.resumes) != (known and known.incarnation, self._incarnation)
        if known is not None and is_new and not self._serves():
            return  # no hook may run now to say goodbye to its sessions; the gateway comes again
        session = self._resume(hello)
        resumes = "" if session is None else self._incarnation
        if session is None:
            session = self._begin(hello)
        wire = session.wire = Wire(ws, session.stream, self._serves)
        if session.grace is not None:
            session.grace.cancel()
            session.grace = None
        try:
            await ws.send_bytes(encode_message(self._hello(session.stream.received, resumes)))
            if session.wire is wire:
                wire.open()
                await self._pump(session, wire)
        except (StreamError, WireError) as error:
            self.refusals.add("what came is no packet of this link", f"{hello.sender}: {error}")
        finally:
            await wire.close()
            if session.wire is wire:
                session.wire = None
                if ws.close_code == WSCloseCode.OK:  # it said goodbye, and does not come back
                    self._end_grace(session)
                else:
                    self._begin_grace(session)

    def _resume(self, hello: Hello) -> _Session | None:
        """Go on with the session of a gateway; None if there is none to go on with."""
        session = self._sessions.get(hello.sender)
        if session is None:
            return None
        if session.incarnation == hello.incarnation and hello.resumes == self._incarnation:
            # First, so that nothing that the old connection still holds is taken after the answer.
            if session.wire is not None:
                session.wire.abort()
                session.wire = None
            try:
                session.stream.resume(hello.received, self._loop.time())
            except StreamError as error:
                self.refusals.add("the link cannot be resumed", f"{hello.sender}: {error}")
            else:
                session.resumed += 1
                return session
        self._give_up(session)
        return None

    def _begin(self, hello: Hello) -> _Session:
        """Begin a session: its first packet tells what the gateway is to know before anything else."""
        now = self._loop.time()
        session = self._sessions[hello.sender] = _Session(hello.sender, hello.incarnation, now)
        session.lost = self._given_up.pop((hello.sender, hello.incarnation), [])
        if session.lost:
            session.outgoing.append(GivenUp(session.lost))
        if self._epoch is not None:
            session.outgoing.append(Announce(self._epoch))
        if (seconds := self._lease()) > 0:
            session.outgoing.append(Serving(seconds))
        # Also if there is nothing to tell: the gateway waits for it.
        self._flush_one(session)
        self._host.link(hello.sender, partial(self._put, session))
        return session

    async def _pump(self, session: _Session, wire: Wire) -> None:
        while session.wire is wire and (data := await wire.read()) is not None:
            if session.wire is not wire:
                return
            stream = session.stream
            session.incoming.extend(stream.take(data, self._loop.time()))
            if session.waiters:
                session.settle(stream.confirmed)
            if self._look is not None:
                self._hand_over_all()
            else:
                self._hand_over(session)
            wire.took()

    def _begin_grace(self, session: _Session) -> None:
        if session.grace is None and self._sessions.get(session.gateway) is session:
            session.grace = self._loop.call_later(self._grace, self._end_grace, session)

    def _end_grace(self, session: _Session) -> None:
        session.grace = None
        if self._serves():
            self._give_up(session)
        else:  # its rooms may have another owner by now, at which its connections live
            self._begin_grace(session)

    def _give_up(self, session: _Session, *, tell: bool = True) -> None:
        """End the session of a gateway; its incarnation is told so if it comes back, unless no hook has run for it."""
        if self._sessions.get(session.gateway) is not session:
            return
        del self._sessions[session.gateway]
        key = (session.gateway, session.incarnation)
        untold = session.lost if session.stream.confirmed == 0 else []
        session.end()
        rooms = self._host.unlink(session.gateway)
        level = logging.INFO if rooms else logging.DEBUG
        logger.log(level, "gateway %s is gone for %d rooms that were awake", session.gateway, len(rooms))
        if tell and (untold or rooms):
            self._given_up[key] = list(dict.fromkeys([*untold, *rooms]))
        while len(self._given_up) > _REMEMBERED:
            self._given_up.popitem(last=False)
        self._gave_up()
        if not self._handing:
            self._host.run()
            self._hand_over_all()

    # --- handing over ----------------------------------------------------------------------------------

    def _hand_over_all(self) -> None:
        if self._look is not None:
            self._look.cancel()
            self._look = None
        for session in tuple(self._sessions.values()):
            self._hand_over(session)

    def _hand_over(self, session: _Session) -> None:
        """Give the room host what a gateway has sent, as far as lease, epoch and backpressure allow."""
        if self._handing:
            return
        incoming = session.incoming
        while incoming and self._may_hand_over(incoming[0]):
            message = incoming.popleft()
            self._handing = True
            try:
                self._receive(session, message)
                self._host.run()
            except Exception:  # the socket pump: a defect met by one message must not end the link
                logger.exception("a message was not handled: %s", type(message).__name__, extra=_about(session))
            finally:
                self._handing = False
            self._flush_all()

    def _receive(self, session: _Session, message: GatewayMessage) -> None:
        match message:
            case Ask():
                self._ask(session.gateway, message)
            case Told():
                self._told(session.gateway, message)
            case _:
                self._host.receive(session.gateway, message)

    def _may_hand_over(self, message: GatewayMessage) -> bool:
        if not self._serves():
            return False
        if isinstance(message, InputBatch | Rebuild):
            if message.epoch > (0 if self._epoch is None else self._epoch.number):
                return False
            if self._is_ahead():
                # A confirmation ends it, or that none comes.
                if self._look is None:
                    self._look = self._loop.call_later(_PROGRESS, self._hand_over_all)
                return False
        return True

    def _is_ahead(self) -> bool:
        """True while a gateway that reads has much to read: more inputs would only make it more."""
        now = None
        for session in self._sessions.values():
            if session.stream.unconfirmed > MAX_AHEAD and session.wire is not None:
                now = self._loop.time() if now is None else now
                if now - session.stream.progress <= _PROGRESS:
                    return True
        return False


def _protect(path: str) -> None:
    Path(path).chmod(0o600)


def _about(session: _Session) -> dict[str, str]:
    return {"gateway": session.gateway}

"""Take links: the room host's end of what gateways in other processes say.

One session for each gateway, over however many connections. What the messages do is the room host's business, when
this process serves is the lease's, who is a member the registrar's.

Invariants:
- Nothing but confirmations is written, and nothing handed over, while `serves` says no.
- Messages are handed over in the order of their link; what was sent in a later epoch waits for its commit, and
  everything after it.
- A gateway whose connection has been gone for `grace` seconds, or that takes nothing while rooms wait for it, is given
  up: its sessions in the room host end, and it is told so should it come back. One that makes progress never is.
- A message that cannot be handled is tried again, as far as it was not taken; if that fails, too, its gateway is given
  up and told. So nothing of it is lost in silence.
- What one link does wrong ends that connection and nothing else.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from ssl import SSLContext
from typing import Any, Protocol

import msgspec
from aiohttp import WSCloseCode, web
from msgspec import Struct

from verani.errors import VeraniError
from verani.link.epoch import Epoch
from verani.link.messages import (
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
from verani.link.stream import MAX_STALLED, StreamError, host_stream
from verani.version import __version__

from ..upkeep.refusals import Refusals
from .flow import Flow
from .wire import LINK_PATH, MAX_MESSAGE, REFUSED, ServerSocket, Wire, WireError

__all__ = ["HostEnd", "LinkPortError", "LinkServer", "LinkState"]

logger = logging.getLogger(__name__)

# Seconds that a new connection may take to say hello.
_PATIENCE = 5.0

# Seconds that the last words of a connection may take.
_LAST_WORDS = 1.0

# A gateway is looked at so often, in seconds, while something waits for it. If it has taken nothing so many times in a
# row and much waits, or a room does, it is given up; also if each time a room had waited for its records for as long.
# (Looks, not seconds: this process may have been stopped itself.)
_LOOK = 1.0
_LOOKS = 5

# While this host does not serve, no more is read from a gateway of which so many bytes wait.
MAX_INCOMING = 8 << 20

# Gateways that were given up are remembered, the last so many.
_REMEMBERED = 64


class LinkPortError(VeraniError):
    """The links of other machines cannot be listened for: the port is in use, or the address not of this machine."""

    def __init__(self, host: str, port: int, error: OSError) -> None:
        super().__init__()
        self.host = host
        self.port = port
        self.error = error

    def __str__(self) -> str:
        # asyncio adds the address to the text, which the sentence already names.
        reason = os.strerror(self.error.errno).lower() if self.error.errno else str(self.error)
        return f"cannot listen on {self.host}:{self.port} (link_port): {reason}"


class HostEnd(Protocol):
    """A room host, as its links see it."""

    # Is told what leaves, and what gateways confirm.
    flow: Flow

    @property
    def wakes(self) -> int:
        """How often rooms woke."""

    def longest_wait(self, gateway: str) -> float:
        """Say for how many seconds a wake has waited for the records of a gateway; 0 if none does."""

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
        # Bytes of the packets that brought it, and what ends the wait of who reads no more of them.
        self.incoming_bytes = 0
        self.freed = asyncio.Event()
        # The message at the head of `incoming` failed before.
        self.failed = False
        # What the first packet says was lost, if anything.
        self.lost: GivenUp | None = None
        self.grace: asyncio.TimerHandle | None = None
        self.look: asyncio.TimerHandle | None = None
        # What was confirmed at the last look, how many looks ago that had changed, and for how many a wake waits.
        self.seen = 0
        self.quiet = 0
        self.mute = 0
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
        for timer in (self.grace, self.look):
            if timer is not None:
                timer.cancel()
        self.freed.set()
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
        # By incarnation, with what was lost by then, and how many wakes there had been.
        self._given_up: OrderedDict[tuple[str, str], tuple[GivenUp, int]] = OrderedDict()
        self._epoch: Epoch | None = None
        self._dirty: dict[_Session, None] = {}
        self._flush: asyncio.Handle | None = None
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
        self._runner = web.AppRunner(
            app,
            access_log=None,
            handle_signals=False,
            shutdown_timeout=_LAST_WORDS,
            # A link is no request with a body: none is inflated, nor read to its end.
            auto_decompress=False,
            lingering_time=0,
        )
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
            self._host.flow.lost(session.gateway)
            session.end()
        if self._flush is not None:
            self._flush.cancel()
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
        for session in self._sessions.values():
            session.freed.set()

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
        self._host.flow.sent(session.gateway, stream.numbered, messages)
        if session.wire is not None:
            session.wire.flush()
        if session.look is None and stream.unconfirmed:
            session.look = self._loop.call_later(_LOOK, self._look_at, session)

    def _look_at(self, session: _Session) -> None:
        """Give a gateway up that takes nothing, once somebody has to wait for it; look again while something waits."""
        session.look = None
        stream, gateway = session.stream, session.gateway
        wait = self._host.longest_wait(gateway)
        # A connection that is broken has its grace; and what is not written cannot be confirmed, or answered.
        lives = session.wire is not None and self._serves()
        session.quiet = session.quiet + 1 if lives and stream.confirmed == session.seen else 0
        session.mute = session.mute + 1 if lives and wait > _LOOK * _LOOKS else 0
        session.seen = stream.confirmed
        if session.quiet >= _LOOKS and (stream.unconfirmed > MAX_STALLED or wait or self._host.flow.holds(gateway)):
            logger.warning("gateway given up: it takes nothing", extra=_about(session))
            self._give_up(session)
        elif session.mute >= _LOOKS:
            logger.warning("gateway given up: rooms wait for their records", extra=_about(session))
            self._give_up(session)
        elif stream.unconfirmed or wait:
            session.look = self._loop.call_later(_LOOK, self._look_at, session)

    # --- connections -----------------------------------------------------------------------------------

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        secure = request.secure
        ws = ServerSocket(
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
                if hello.wanted in ("", self._incarnation):
                    return hello
                # It comes again to who it finds here: a session that it has left by then would be given up, with rooms.
                await ws.send_bytes(encode_message(self._hello()))
                await ws.close()
                return None
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
        if not self._serves() and self._replaces(hello):
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

    def _replaces(self, hello: Hello) -> bool:
        """Tell whether there is a session of this gateway which it does not go on with."""
        known = self._sessions.get(hello.sender)
        return known is not None and (hello.incarnation, hello.resumes) != (known.incarnation, self._incarnation)

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
                session.freed.set()
            try:
                session.stream.resume(hello.received, self._loop.time())
            except StreamError as error:
                self.refusals.add("the link cannot be resumed", f"{hello.sender}: {error}")
            else:
                session.resumed += 1
                self._confirmed(session)
                return session
        self._give_up(session)
        return None

    def _begin(self, hello: Hello) -> _Session:
        """Begin a session: its first packet tells what the gateway is to know before anything else."""
        now = self._loop.time()
        session = self._sessions[hello.sender] = _Session(hello.sender, hello.incarnation, now)
        if (lost := self._given_up.pop((hello.sender, hello.incarnation), None)) is not None:
            given_up, wakes = lost
            session.lost = GivenUp(given_up.rooms, given_up.others or self._host.wakes != wakes)
            if session.lost.rooms or session.lost.others:
                session.outgoing.append(session.lost)
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
            session.incoming.extend(session.stream.take(data, self._loop.time()))
            session.incoming_bytes += len(data)
            self._confirmed(session)
            self._hand_over(session)
            wire.took()
            while session.wire is wire and session.incoming_bytes > MAX_INCOMING and not self._serves():
                session.freed.clear()
                await session.freed.wait()

    def _confirmed(self, session: _Session) -> None:
        confirmed = session.stream.confirmed
        self._host.flow.confirmed(session.gateway, confirmed)
        if session.waiters:
            session.settle(confirmed)

    def _begin_grace(self, session: _Session) -> None:
        if session.grace is None and self._sessions.get(session.gateway) is session:
            session.grace = self._loop.call_later(self._grace, self._end_grace, session)

    def _end_grace(self, session: _Session) -> None:
        session.grace = None
        if self._serves():
            self._give_up(session)
        else:  # its rooms may have another owner by now, at which its connections live
            self._begin_grace(session)

    def _give_up(self, session: _Session, *, tell: bool = True, failed: Iterable[str] = ()) -> None:
        """End the session of a gateway; its incarnation is told so if it comes back, unless no hook has run for it.

        `failed` are rooms besides those in which its connections have ended.
        """
        if self._sessions.get(session.gateway) is not session:
            return
        del self._sessions[session.gateway]
        key = (session.gateway, session.incarnation)
        untold = session.lost if session.stream.confirmed == 0 else None
        session.end()
        self._host.flow.lost(session.gateway)
        wakes = self._host.wakes
        rooms = [*self._host.unlink(session.gateway), *failed]
        level = logging.INFO if rooms else logging.DEBUG
        logger.log(level, "gateway %s is gone for %d rooms that were awake", session.gateway, len(rooms))
        if tell:
            lost, others = ([], False) if untold is None else (untold.rooms, untold.others)
            self._given_up[key] = GivenUp(list(dict.fromkeys([*lost, *rooms])), others), wakes
        while len(self._given_up) > _REMEMBERED:
            self._given_up.popitem(last=False)
        self._gave_up()
        if not self._handing:
            self._host.run()
            self._hand_over_all()

    # --- handing over ----------------------------------------------------------------------------------

    def _hand_over_all(self) -> None:
        for session in tuple(self._sessions.values()):
            self._hand_over(session)

    def _hand_over(self, session: _Session) -> None:
        """Give the room host what a gateway has sent, as far as lease and epoch allow."""
        if self._handing:
            return
        incoming = session.incoming
        while incoming and self._may_hand_over(incoming[0]):
            message = incoming.popleft()
            self._handing = True
            try:
                is_done = self._try(session, message)
                self._host.run()
            except Exception:  # the socket pump: a defect met by one room must not end the link
                logger.exception("rooms did not run", extra=_about(session))
            finally:
                self._handing = False
            if not is_done:
                self._fail(session, message)
            self._flush_all()
        if not incoming:
            session.incoming_bytes = 0

    def _try(self, session: _Session, message: GatewayMessage) -> bool:
        """Hand a message over; False if that failed."""
        try:
            self._receive(session, message)
        except Exception:  # the socket pump: a defect met by one message must not end the link
            logger.exception("a message was not handled: %s", type(message).__name__, extra=_about(session))
            return False
        session.failed = False
        return True

    def _fail(self, session: _Session, message: GatewayMessage) -> None:
        """See to it that what could not be handled is not lost: by another try, or by telling the gateway."""
        if self._sessions.get(session.gateway) is not session or isinstance(message, Ask | Told):
            return  # it has ended; or an operator asks again
        if not session.failed and isinstance(message, InputBatch):
            session.failed = True
            session.incoming.appendleft(InputBatch(message.inputs, message.epoch, again=True))
            return
        logger.error("gateway given up: what it said cannot be handled", extra=_about(session))
        self._give_up(session, failed=_rooms_of(message))

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
            return message.epoch <= (0 if self._epoch is None else self._epoch.number)
        return True


def _protect(path: str) -> None:
    Path(path).chmod(0o600)


def _about(session: _Session) -> dict[str, str]:
    return {"gateway": session.gateway}


def _rooms_of(message: GatewayMessage) -> list[str]:
    """Name the rooms that a message is for."""
    match message:
        case InputBatch():
            return list(dict.fromkeys(arrival.room for arrival in message.inputs))
        case Ask() | Told():
            return []
        case _:
            return [message.room]

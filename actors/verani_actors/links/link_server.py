"""Take links: listen for gateways in other processes, exchange hellos, and read what their connections bring.

What is kept of a gateway over several connections is `LinkSessions`' business.

Invariant: what one link does wrong ends that connection and nothing else.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from pathlib import Path
from ssl import SSLContext
from typing import Any

from aiohttp import WSCloseCode, web

from verani.errors import VeraniError
from verani.link.messages import PROTOCOL_VERSIONS, Ask, Hello, Told, encode_message
from verani.link.stream import StreamError
from verani.version import __version__

from ..upkeep.refusals import Refusals
from .gateway_session import GatewaySession
from .link_sessions import HostEnd, LinkSessions
from .wire import (
    LAST_WORDS,
    LINK_PATH,
    MAX_MESSAGE,
    PATIENCE,
    REFUSED,
    ServerSocket,
    VersionError,
    Wire,
    WireError,
    receive_hello,
)

__all__ = ["LinkPortError", "LinkServer"]

logger = logging.getLogger(__name__)

# While this host does not serve, no more is read from a gateway of which so many bytes wait.
MAX_INCOMING = 8 << 20


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
        self.sessions = LinkSessions(
            host, grace=grace, serves=serves, ask=ask, told=told, given_up=given_up, lease=lease
        )
        self._member_id = member_id
        self._incarnation = incarnation
        self._compression = compression
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
            shutdown_timeout=LAST_WORDS,
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
        self.sessions.stop()
        if self._runner is not None:
            await self._runner.cleanup()

    # --- connections -----------------------------------------------------------------------------------

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        secure = request.secure
        ws = ServerSocket(
            compress=self._compression and secure, max_msg_size=MAX_MESSAGE, timeout=LAST_WORDS, decode_text=False
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
            async with asyncio.timeout(PATIENCE):
                hello = await receive_hello(ws, "host")
        except TimeoutError:
            self.refusals.add("no hello came", f"within {PATIENCE:g} s")
        except VersionError as error:
            self.refusals.add("no version in common", error)
            await ws.send_bytes(encode_message(self._hello()))
        except WireError as error:
            self.refusals.add("the first message is no hello", error)
        else:
            if hello.wanted in ("", self._incarnation):
                return hello
            # It comes again to who it finds here: a session that it has left by then would be given up, with rooms.
            await ws.send_bytes(encode_message(self._hello()))
            await ws.close()
            return None
        await ws.close(code=REFUSED, message=b"refused")
        return None

    def _hello(self, received: int = 0, resumes: str = "") -> Hello:
        epoch = 0 if self.sessions.epoch is None else self.sessions.epoch.number
        versions, incarnation = PROTOCOL_VERSIONS, self._incarnation
        return Hello(versions, __version__, self._member_id, incarnation, epoch, received=received, resumes=resumes)

    async def _keep(self, ws: web.WebSocketResponse[Any], hello: Hello) -> None:
        """Have a session go over this connection until it ends."""
        sessions = self.sessions
        if not sessions.serves() and sessions.is_replaced_by(hello, self._incarnation):
            return  # no hook may run now to say goodbye to its sessions; the gateway comes again
        session = self._resumed(hello)
        resumes = "" if session is None else self._incarnation
        if session is None:
            session = sessions.begin(hello)
        wire = session.wire = Wire(ws, session.stream, sessions.serves)
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
                    sessions.end_grace(session)
                else:
                    sessions.begin_grace(session)

    def _resumed(self, hello: Hello) -> GatewaySession | None:
        try:
            return self.sessions.go_on(hello, self._incarnation)
        except StreamError as error:
            self.refusals.add("the link cannot be resumed", f"{hello.sender}: {error}")
            return None

    async def _pump(self, session: GatewaySession, wire: Wire) -> None:
        while session.wire is wire and (data := await wire.read()) is not None:
            if session.wire is not wire:
                return
            self.sessions.take(session, data)
            wire.took()
            while session.wire is wire and session.incoming_bytes > MAX_INCOMING and not self.sessions.serves():
                session.freed.clear()
                await session.freed.wait()


def _protect(path: str) -> None:
    Path(path).chmod(0o600)

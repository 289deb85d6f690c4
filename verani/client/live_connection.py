"""Use one open WebSocket until it is over.

Invariants:
1. The end of a connection is noticed in one place, by the reader; the other tasks at most break the transport.
   Only a close frame, received or sent, carries a code; a lost connection is 1006, whatever aiohttp calls it.
2. The connection owns its writer, its keepalive and the renewal of the token; all have ended when `serve` returns.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from functools import partial

import aiohttp
from aiohttp import ClientWebSocketResponse, WSMsgType

from .causes import bare
from .codec import as_event, decode
from .exchange import Exchange
from .failures import Closing, ConnectFailed
from .keepalive import Keepalive
from .lifecycle import ClientLife
from .tokens import Token

__all__ = ["LiveConnection"]

logger = logging.getLogger("verani.client")

_NO_CODE, _LOST = 1005, 1006  # RFC 6455, 7.4.1: a close frame without a code, no close frame at all


class LiveConnection:
    """One WebSocket of a client, and the tasks that use it."""

    def __init__(
        self,
        ws: ClientWebSocketResponse,
        exchange: Exchange,
        life: ClientLife,
        token: Token,
        *,
        ping_interval: float,
        pong_timeout: float,
    ) -> None:
        self.ws = ws
        # aiohttp has no public way; None once it is released.
        held = ws._response.connection
        self.transport = None if held is None else held.transport
        self._exchange = exchange
        self._life = life
        self._token = token
        self._keepalive = Keepalive(
            ping_interval,
            pong_timeout,
            is_reading=lambda: not exchange.reading_stopped,
            abort=partial(_abort, self.transport),
        )
        self._renewal: asyncio.Task[None] | None = None
        self._goodbye = asyncio.Lock()
        # Whether the room has responded to a request.
        self.answered = False

    async def serve(self) -> Closing:
        """Use it until it is over; return how it ended."""
        ended = Closing(_LOST)
        ws = self.ws
        self._life.connected()
        tasks = {
            asyncio.create_task(self._write(), name="verani-client-writer"),
            asyncio.create_task(self._keepalive.run(ws), name="verani-client-pinger"),
        }
        try:
            # Whoever waited for the connection runs before the first frame is read, and can still listen for it.
            await asyncio.sleep(0)
            ended = await self._read()
            if self._life.closed is not None:
                await self.say_goodbye(*self._life.closed)
        finally:
            if ws.close_code in (None, _LOST):
                _abort(self.transport)
            self._keepalive.heard()
            if self._renewal is not None:
                tasks.add(self._renewal)
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            self._renewal = None
            await ws.close()  # gives the connection back, there is no handshake any more
            if (error := ws.exception()) is not None:  # aiohttp keeps it, and with it whatever frames it came from
                bare(error)
            if self._life.closed is not None:
                ended = Closing(*self._life.closed, by_client="the client was closed")
            self._life.disconnected(ended)
        return ended

    async def say_goodbye(self, code: int, reason: str) -> None:
        """Close it; wait for the closing handshake."""
        # aiohttp lets a second call return before the handshake is done, and `serve` must not cut it short.
        async with self._goodbye:
            await self.ws.close(code=code, message=reason.encode())

    async def _write(self) -> None:
        outbox, transport = self._exchange.outbox, self.transport
        with suppress(aiohttp.ClientError, ConnectionError):  # the reader notices too, and says how it ended
            while True:
                await outbox.ready()
                if self.ws.closed or transport is None or transport.is_closing():
                    break  # what waits is for the next connection
                await self.ws.send_frame(outbox.take().payload, WSMsgType.TEXT)
        outbox.disconnected()

    async def _read(self) -> Closing:
        while True:
            if await self._exchange.readable():
                self._keepalive.resume()
            message = await self.ws.receive()
            match message.type:
                case WSMsgType.TEXT:
                    self._keepalive.heard()
                    self._receive(message.data)
                case WSMsgType.BINARY:
                    self._exchange.ignore("a binary frame")
                case WSMsgType.CLOSE:
                    return Closing(message.data or _NO_CODE, message.extra or "")
                case WSMsgType.ERROR:
                    code = getattr(message.data, "code", _LOST)  # ours, for what the server did
                    return Closing(int(code), str(message.data), by_client="the server sent what no client takes")
                case _:
                    return Closing(_LOST, by_client=self._keepalive.silence)

    def _receive(self, text: str) -> None:
        try:
            frame = decode(text)
        except ValueError as exc:
            self._exchange.ignore(exc)
            return
        match frame.type:
            case "pong":
                pass
            case "ack" if type(frame.id) is int:
                self.answered = True
                self._exchange.respond(frame.id, frame)
            case "verani.expiring" if self._token.is_renewable:
                if self._renewal is None or self._renewal.done():
                    self._renewal = asyncio.create_task(self._renew(), name="verani-client-refresh")
            case "verani.refreshed" if self._token.is_renewable:
                logger.debug("the token was refreshed")
            case _:
                self._exchange.inbox.put(as_event(frame), len(text))

    async def _renew(self) -> None:
        with suppress(ConnectFailed):  # it is logged; the server closes with 4001, and the next handshake asks again
            self._exchange.emit("verani.refresh", {"token": await self._token.ask()})


def _abort(transport: asyncio.Transport | None) -> None:
    """End a connection without a closing handshake and without flushing: the peer may never read again."""
    if transport is not None:
        transport.abort()

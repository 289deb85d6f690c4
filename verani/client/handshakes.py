"""Open WebSockets to a server, and say why one did not come about.

URL queries are in no log line and in no exception, and so are no tokens.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from contextlib import suppress

import aiohttp
from aiohttp import ClientWebSocketResponse, ClientWSTimeout
from aiohttp.http import HttpProcessingError
from yarl import URL

from .causes import bare, cause_of, speaks_no_tls
from .destination import Destination
from .failures import (
    ConnectFailed,
    HandshakeRefused,
    NoWebSocketServer,
    address_of,
    told_in,
    without_secrets,
)
from .reconnection import parse_retry_after
from .tokens import Token

__all__ = ["Handshakes"]

_MAX_FRAME_BYTES = 4 * 1024 * 1024  # a room's frame has at most 1 MiB (design 7)
_MAX_REFUSAL_BYTES = 4096  # a refusal of ours has less than 100
_REFUSAL_SECONDS = 1.0  # for the body of a refusal, which comes with its status


class Handshakes:
    """The HTTP side of one client: where it connects to, who it says it is, and the session it does that with."""

    def __init__(
        self,
        destination: Destination,
        *,
        headers: Mapping[str, str],
        token: Token,
        session: aiohttp.ClientSession | None,
        timeout: float,
        close_timeout: float,
    ) -> None:
        self.destination = destination
        self._headers = dict(headers)
        self._token = token
        self._own_session = session is None
        self._session = session
        self._answers = _Answers()
        self._timeout = timeout
        self._close_timeout = close_timeout

    async def open(self) -> ClientWebSocketResponse:
        """Return an open connection; raise `ConnectFailed`."""
        if self._session is None:
            self._session = aiohttp.ClientSession(trace_configs=[self._answers.trace()])
            # Or each attempt would be two, one right after the other; aiohttp has no public way.
            self._session._retry_connection = False
        self._answers.body = b""
        awaited = "URL from its function"
        try:
            async with asyncio.timeout(self._timeout):
                url = await self.destination.ask()
                awaited = "token from its function"
                headers = self._headers
                if (token := await self._token.ask()) is not None:
                    headers = {**headers, "Authorization": f"Bearer {token}"}
                awaited = f"handshake with {address_of(url)}"
                return await self._session.ws_connect(
                    url,
                    headers=headers,
                    max_msg_size=_MAX_FRAME_BYTES,
                    timeout=ClientWSTimeout(ws_close=self._close_timeout),
                )
        except aiohttp.ClientResponseError as exc:
            raise self._refused(exc, url) from None  # its text has the query
        except UnicodeError:
            raise NoWebSocketServer(f"{address_of(url)} has no host name that there can be") from None
        except (aiohttp.InvalidURL, aiohttp.RedirectClientError):  # over a session that is not ours
            raise NoWebSocketServer("the server redirected to something that is no HTTP URL") from None
        except TimeoutError:
            raise ConnectFailed(f"no {awaited} within {self._timeout} s") from None
        except (aiohttp.ClientError, OSError) as exc:
            cause, why = cause_of(exc)
            exc.__traceback__ = None  # aiohttp keeps the exception in one of its frames, and so this one
            kind = NoWebSocketServer if speaks_no_tls(cause) else ConnectFailed
            raise kind(f"no connection to {address_of(url)}: {why}") from bare(cause)

    async def close(self) -> None:
        """Close the session, unless somebody else owns it."""
        if self._own_session and self._session is not None:
            await self._session.close()

    def _refused(self, error: aiohttp.ClientResponseError, url: URL) -> ConnectFailed:
        """Say what an answer means that is no 101 of a WebSocket server."""
        if isinstance(error.__cause__, HttpProcessingError):
            return NoWebSocketServer(f"{without_secrets(url)} is no WebSocket server: its answer is no HTTP")
        if error.status == 101:
            return NoWebSocketServer(f"{without_secrets(url)} is no WebSocket server: {error.message.lower()}")
        header = None if error.headers is None else error.headers.get("Retry-After")
        server_code, public = told_in(self._answers.body)
        return HandshakeRefused(
            error.history[0].status if error.history else error.status,  # redirected, over a session that is not ours
            url=without_secrets(url),
            server_code=server_code,
            public=public,
            retry_after=parse_retry_after(header, now=time.time()),
        )


class _Answers:
    """What only a trace sees of answers that are no 101: the body, and a redirect before it is followed."""

    def __init__(self) -> None:
        self.body = b""  # the beginning of that of the latest answer

    def trace(self) -> aiohttp.TraceConfig:
        trace = aiohttp.TraceConfig()
        trace.on_request_end.append(self._keep_body)
        trace.on_request_redirect.append(self._refuse_redirect)
        return trace

    async def _keep_body(self, session: object, context: object, params: aiohttp.TraceRequestEndParams) -> None:
        if params.response.status == 101:
            return
        with suppress(aiohttp.ClientError, OSError, TimeoutError):  # the status alone says enough
            async with asyncio.timeout(_REFUSAL_SECONDS):
                while len(self.body) < _MAX_REFUSAL_BYTES:
                    piece = await params.response.content.read(_MAX_REFUSAL_BYTES)
                    if not piece:
                        break
                    self.body += piece

    async def _refuse_redirect(
        self, session: object, context: object, params: aiohttp.TraceRequestRedirectParams
    ) -> None:
        params.response.close()
        raise HandshakeRefused(params.response.status, url=without_secrets(params.url))

"""A client for tests: it sends what it is told, and keeps what it hears until a test asks.

Invariant: an ack comes behind everything the room sent to this connection before, so `heard` is complete, and shows
what was *not* sent too.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from typing import Any

from aiohttp import ClientWebSocketResponse, WSMsgType

from tests.raw import PATIENCE
from verani.errors import error_for

__all__ = ["Guest"]

_ABSENT = object()


class Guest:
    """One WebSocket; nothing of it runs in the background, so nothing is answered that no test reads."""

    def __init__(self, ws: ClientWebSocketResponse) -> None:
        self.ws = ws
        self._events: deque[Any] = deque()
        self._acks: dict[int, Any] = {}
        self._number = 0

    async def send(self, event: str, data: Any = _ABSENT, **more: Any) -> None:
        """Send a frame."""
        await self.text({"type": event, **({} if data is _ABSENT else {"data": data}), **more})

    async def text(self, *frames: Any) -> None:
        """Send text frames: strings as they are, anything else as JSON."""
        for each in frames:
            await self.ws.send_str(each if isinstance(each, str) else json.dumps(each, ensure_ascii=False))

    async def ask(self, event: str, data: Any = _ABSENT) -> Any:
        """Send a request and return its answer; raises the `VeraniError` that the answer names."""
        return await self.answer(await self.request(event, data))

    async def request(self, event: str, data: Any = _ABSENT) -> int:
        """Send a request; `answer` waits for what it comes to."""
        self._number += 1
        await self.send(event, data, id=self._number)
        return self._number

    async def answer(self, number: int) -> Any:
        """Read on to the answer of a request."""
        while number not in self._acks:
            self._sort(await self.frame())
        ack = self._acks.pop(number)
        if "error" in ack:
            raise error_for(ack["error"]["code"], json.dumps(ack["error"]), path=ack["error"].get("path"))
        return ack["data"]

    async def next(self) -> Any:
        """Return the data of the next event."""
        while not self._events:
            self._sort(await self.frame())
        return self._events.popleft()

    async def heard(self) -> list[Any]:
        """Return the data of all events that the room has sent by now."""
        await self.ask("echo")
        heard = list(self._events)
        self._events.clear()
        return heard

    async def frame(self) -> Any:
        """Read one frame as it is."""
        return json.loads(await self.raw())

    async def raw(self) -> str:
        """Read the text of one frame."""
        async with asyncio.timeout(PATIENCE):
            message = await self.ws.receive()
        assert message.type is WSMsgType.TEXT, f"expected a text frame, got {message}"
        return str(message.data)

    def _sort(self, frame: Any) -> None:
        match frame:
            case {"type": "ack", "id": number}:
                self._acks[number] = frame
            case {"type": "event", "data": data}:
                self._events.append(data)
            case {"type": "pong"}:
                pass
            case _:
                raise AssertionError(f"expected an ack, an event or a pong, got {frame}")

    async def ping(self) -> None:
        """Send what the clients send to keep alive, and read on to the pong."""
        await self.text('{"type":"ping"}')
        while (text := await self.raw()) != '{"type":"pong"}':
            self._sort(json.loads(text))

    async def closed(self) -> tuple[int, str]:
        """Read on to the close frame; return its code and reason."""
        async with asyncio.timeout(PATIENCE):
            while (message := await self.ws.receive()).type is WSMsgType.TEXT:
                self._sort(json.loads(message.data))
        assert message.type is WSMsgType.CLOSE, f"expected a close frame, got {message}"
        return message.data, message.extra or ""

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Close the connection."""
        await self.ws.close(code=code, message=reason.encode())

    def lose(self) -> None:
        """Drop the connection without a close frame."""
        connection = self.ws._response.connection
        assert connection is not None
        assert connection.transport is not None
        connection.transport.abort()

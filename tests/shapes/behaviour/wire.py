"""A line between clients and a service that a test may cut, block and freeze."""

from __future__ import annotations

import asyncio
from contextlib import suppress

__all__ = ["Wire"]


class Wire:
    """Carries TCP connections from a free port of this machine to another address, as long as it is told to."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._flows = asyncio.Event()
        self._flows.set()
        self._is_blocked = False
        self._server: asyncio.Server | None = None
        self._pairs: set[asyncio.Task[None]] = set()

    @property
    def port(self) -> int:
        """Where it begins."""
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    async def start(self) -> None:
        """Take connections."""
        self._server = await asyncio.start_server(self._carry, "127.0.0.1", 0)

    async def stop(self) -> None:
        """End it with all that it carries."""
        assert self._server is not None
        self._server.close()
        self.cut()
        await asyncio.gather(*self._pairs, return_exceptions=True)

    def cut(self) -> None:
        """End all connections as a network does that is gone: without a word."""
        for pair in self._pairs:
            pair.cancel()

    def block(self) -> None:
        """Let no more connections through."""
        self._is_blocked = True

    def unblock(self) -> None:
        """Let connections through again."""
        self._is_blocked = False

    def freeze(self) -> None:
        """Carry nothing, and keep it."""
        self._flows.clear()

    def thaw(self) -> None:
        """Carry what was kept, and go on."""
        self._flows.set()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._is_blocked:
            writer.transport.abort()
            return
        task = asyncio.current_task()
        assert task is not None
        self._pairs.add(task)
        far: asyncio.StreamWriter | None = None
        try:
            answers, far = await asyncio.open_connection(*self._target)
            await asyncio.gather(self._pump(reader, far), self._pump(answers, writer))
        except (OSError, asyncio.CancelledError):
            pass  # an end of it has gone, or it was cut
        finally:
            self._pairs.discard(task)
            for end in (writer, far):
                if end is not None:
                    end.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            await self._flows.wait()
            writer.write(data)
            await writer.drain()
        with suppress(OSError):
            writer.write_eof()

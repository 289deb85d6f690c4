"""The thread that a client belongs to, and what the others are told to do instead."""

from __future__ import annotations

from ..threads import OwnThread

__all__ = ["ClientThread"]

_OTHER_THREADS = (
    "use loop.call_soon_threadsafe(client.emit, ...), or asyncio.run_coroutine_threadsafe(client.request(...), loop)"
)


class ClientThread(OwnThread):
    """Belongs to whoever uses the client, until `take`."""

    __slots__ = ()

    def check_call(self, method: str) -> None:
        """Raise `WrongThread` where another thread calls a method of the client."""
        self.check(f"VeraniClient.{method}", _OTHER_THREADS)

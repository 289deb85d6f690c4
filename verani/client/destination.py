"""The URL that a client connects to: fixed, or from a function of the application, which is asked for every attempt."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from yarl import URL

from .sources import ask

__all__ = ["Destination", "URLSource"]

# Returns the URL of the next attempt, at once or later.
URLSource = Callable[[], str | URL | Awaitable[str | URL]]


class Destination:
    """Where one client connects to; raises for what can never be a URL."""

    def __init__(self, source: str | URL | URLSource) -> None:
        self._source = source if callable(source) else None
        # That of the latest attempt, or what is fixed; None where no function was asked yet.
        self.latest = None if callable(source) else _checked(source)

    async def ask(self) -> URL:
        """Return the URL for now; raise `ConnectFailed` where its function fails."""
        if self._source is not None:
            self.latest = await ask(self._source, _checked, "URL")
        assert self.latest is not None
        return self.latest


def _checked(url: object) -> URL:
    if not isinstance(url, str | URL):
        raise TypeError(f"url: expected a string, a URL, or a function that returns one, got {type(url).__name__}")
    parsed = URL(url)
    if parsed.scheme not in ("ws", "wss", "http", "https") or not parsed.host:
        raise ValueError(f"expected a ws:// or wss:// URL with a host, got {str(parsed.with_query(None))!r}")
    return parsed

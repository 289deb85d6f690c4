"""The token that a client authenticates with: fixed, or fresh from a function of the application.

A token is in no log line and in no exception.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from .sources import ask

__all__ = ["Token", "TokenSource"]

# Returns a fresh token, at once or later.
TokenSource = Callable[[], str | Awaitable[str]]


class Token:
    """Where one client has its token from; raises for what can never be one."""

    def __init__(self, source: str | TokenSource | None) -> None:
        if isinstance(source, str):
            _check(source)
        elif not (source is None or callable(source)):
            raise TypeError(
                f"token: expected a string, a function that returns one, or None, got {type(source).__name__}"
            )
        self._source = source

    @property
    def is_renewable(self) -> bool:
        """Tell whether asking again returns a fresh one."""
        return callable(self._source)

    async def ask(self) -> str | None:
        """Return the token for now, None if there is none; raise `ConnectFailed` where the function fails."""
        source = self._source
        if source is None or isinstance(source, str):
            return source
        return await ask(source, _check, "token")


def _check(token: object) -> str:
    """Return a token; refuse what no header can carry, without showing it."""
    if not isinstance(token, str):
        raise TypeError(f"token: expected a string, got {type(token).__name__}")
    if not (token.isascii() and token.isprintable() and token) or " " in token:
        raise ValueError("token: expected visible ASCII characters, at least one, and no spaces or line ends")
    return token

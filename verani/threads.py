"""Keep what belongs to one event loop from being used by other threads, which would corrupt it in silence."""

from __future__ import annotations

from threading import get_ident

from .errors import WrongThread

__all__ = ["OwnThread"]


class OwnThread:
    """The thread that an object belongs to, from `take` on."""

    __slots__ = ("_ident",)

    def __init__(self) -> None:
        self._ident: int | None = None

    def take(self) -> None:
        """Belong to the thread that runs."""
        self._ident = get_ident()

    def check(self, call: str, way: str) -> None:
        """Raise `WrongThread` where another thread runs; `way` says what to do instead."""
        if self._ident is not None and self._ident != get_ident():
            raise WrongThread(f"{call} was called from another thread than that of its event loop: {way}")

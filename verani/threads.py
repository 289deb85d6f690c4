"""Keep what belongs to one event loop from being used by other threads, which would corrupt it in silence."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Future
from threading import get_ident
from typing import TypeVar

from .errors import DeadlineExceeded, RoomAsleep, WrongThread

__all__ = ["OwnThread", "run_on"]

T = TypeVar("T")

# How often a thread that waits for a loop looks whether that has ended.
_LOOK = 1.0


class OwnThread:
    """The thread that an object belongs to, from `take` on."""

    __slots__ = ("ident",)

    def __init__(self) -> None:
        # None before: then it belongs to whoever uses it.
        self.ident: int | None = None

    def take(self) -> None:
        """Belong to the thread that runs."""
        self.ident = get_ident()

    @property
    def runs(self) -> bool:
        """True where this is the thread that runs."""
        return self.ident == get_ident()

    def check(self, call: str, way: str) -> None:
        """Raise `WrongThread` where another thread runs; `way` says what to do instead."""
        if self.ident is not None and self.ident != get_ident():
            raise WrongThread(f"{call} was called from another thread than that of its event loop: {way}")


def run_on(loop: asyncio.AbstractEventLoop, work: Callable[[], T], patience: float) -> T:
    """Run `work` on the event loop of another thread; block until it has returned, and return or raise what it does.

    Raises `DeadlineExceeded` if the loop has not got to it within `patience` seconds, for example because it waits for
    this very thread, and `RoomAsleep` if the loop has ended; then it does not run any more.
    """
    result: Future[T] = Future()
    try:
        loop.call_soon_threadsafe(_run, work, result)
        until = time.monotonic() + patience
        while True:
            try:
                return result.result(min(_LOOK, patience))
            except TimeoutError:
                if result.done():  # in this moment, or it is a timeout of its own
                    return result.result()
            if loop.is_closed() and result.cancel():
                raise RoomAsleep("the event loop has ended")
            if time.monotonic() > until and result.cancel():
                raise DeadlineExceeded(f"the event loop was busy for {patience:g} s")
    except RuntimeError as error:
        if result.done() or not loop.is_closed():
            raise
        raise RoomAsleep("the event loop has ended") from error
    finally:
        del result  # an exception in it leads back here


def _run(work: Callable[[], T], result: Future[T]) -> None:
    if not result.set_running_or_notify_cancel():
        return
    try:
        result.set_result(work())
    except BaseException as error:  # all of it is for the thread that waits  # noqa: BLE001
        result.set_exception(error)
    finally:
        del work, result

"""Keep the callbacks of a client by the name of their event, and call them.

What waits to be told to them is `inbox.py`. One that raises is logged and told to those of `error`; the next one runs.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Callable
from typing import Any, TypeVar

from .client_thread import ClientThread

__all__ = ["Callbacks"]

logger = logging.getLogger("verani.client")

C = TypeVar("C", bound=Callable[..., Any])


class Callbacks:
    """The callbacks of one client, those of an event in order of registration."""

    def __init__(self, thread: ClientThread) -> None:
        self._thread = thread
        # True for those that are called once.
        self._by_event: dict[str, dict[Callable[..., Any], bool]] = {}

    def register(self, event: str, callback: C | None, *, once: bool) -> C | Callable[[C], C]:
        """Add a callback and return it; without one, return a decorator that does."""
        if not isinstance(event, str):
            raise TypeError(f'expected the name of an event, as in client.on("message"), got {event!r}')
        if callback is None:
            return lambda callback: self._add(event, callback, once)
        return self._add(event, callback, once)

    def _add(self, event: str, callback: C, once: bool) -> C:
        if not callable(callback):
            raise TypeError(f"expected a callable for {event!r}, got {callback!r}")
        self._thread.check_call("on")
        registered = self._by_event.setdefault(event, {})
        # A second registration changes nothing but may make a `once` permanent.
        registered[callback] = once and registered.get(callback, True)
        return callback

    def remove(self, event: str, callback: Callable[..., Any] | None) -> None:
        """Forget one callback of an event, or all of them; what is not registered is ignored."""
        registered = self._by_event.get(event, {})
        if callback is None:
            registered.clear()
        else:
            registered.pop(callback, None)
        if not registered:
            self._by_event.pop(event, None)

    def clear(self) -> None:
        """Forget all of them."""
        self._by_event.clear()

    async def call(self, event: str, *args: Any) -> None:
        """Call those of an event, one after the other."""
        for callback, once in list(self._by_event.get(event, {}).items()):
            if callback not in self._by_event.get(event, {}):
                continue  # an earlier callback of this round removed it
            if once:
                self.remove(event, callback)
            try:
                result = callback(*args)
                if inspect.isawaitable(result):
                    await result
            except asyncio.CancelledError as exc:
                task = asyncio.current_task()
                if task is None or task.cancelling():
                    raise
                # Nobody cancelled us: the callback awaited something that was cancelled.
                await self._failed(event, exc)
            except Exception as exc:  # noqa: BLE001 - logged with its traceback below
                # The hook runner: a user's exception must not end the client.
                await self._failed(event, exc)

    async def _failed(self, event: str, error: BaseException) -> None:
        logger.error("callback of %r raised", event, exc_info=error)
        if event != "error":  # an error listener that raises is not told about itself
            await self.call("error", error)

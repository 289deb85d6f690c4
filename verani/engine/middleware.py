"""Run the middleware of a definition around what it wraps, within the time of the whole."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, Generic

from ..room.context import Context
from ..room.meta import M
from ..room.operations import S
from .hook_run import running
from .hook_runner import HookAbandoned, Hooks

__all__ = ["Middleware"]


class Middleware(Generic[M, S]):
    """The middleware of a definition, in registration order, the first one outermost."""

    def __init__(self, functions: list[Callable[..., Any]], hooks: Hooks[M, S]) -> None:
        self.functions = functions
        self._hooks = hooks

    async def through(self, context: Context[M, S], innermost: Callable[[], Any]) -> Any:
        """Run `innermost` inside of all of it."""
        call_next = functools.partial(self.call, innermost)
        for middleware in reversed(self.functions):
            call_next = functools.partial(self.call, middleware, context, call_next)
        return await call_next()

    async def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call the next function of a hook run, unless the time of the whole is over."""
        run = running.get()
        if run is not None and not run.armed:
            raise HookAbandoned
        if run is not None and run.cancelled_at is not None:
            raise self._hooks.timeout(run)
        result = function(*arguments)
        return await result if inspect.isawaitable(result) else result

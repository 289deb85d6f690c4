"""Run the hooks of definitions that are of no room, `on_startup` and `on_shutdown`, in the process of the rooms."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Callable, Iterable
from typing import Any

from verani.room.definition import RoomDefinition

__all__ = ["StartedDefinitions"]

logger = logging.getLogger(__name__)


class StartedDefinitions:
    """The definitions whose `on_startup` has returned; each gets its `on_shutdown`, the last one first."""

    def __init__(self, timeout: float) -> None:
        """Give each `on_shutdown` so many seconds."""
        self._timeout = timeout
        self._started: list[RoomDefinition[Any, Any]] = []

    async def start(self, definitions: Iterable[RoomDefinition[Any, Any]]) -> None:
        """Run `on_startup`; raises what a hook raises, after the `on_shutdown` of the definitions that had started."""
        for definition in definitions:
            try:
                await _call(definition.hooks.get("on_startup"))
            except BaseException:
                await self.stop()
                raise
            self._started.append(definition)

    async def stop(self) -> None:
        """Run `on_shutdown`."""
        while self._started:
            definition = self._started.pop()
            try:
                async with asyncio.timeout(self._timeout):
                    await _call(definition.hooks.get("on_shutdown"))
            except (Exception, SystemExit, KeyboardInterrupt):  # a user's hook; the others still run
                logger.exception("on_shutdown of %s failed", definition.name)


async def _call(hook: Callable[[], Any] | None) -> None:
    if hook is not None:
        result = hook()
        if inspect.isawaitable(result):
            await result

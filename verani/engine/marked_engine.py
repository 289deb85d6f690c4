"""Run one room, and note which of its inputs is in hand while anything of it runs: its process may not survive that.

Not hooks alone: the application's code decodes payloads and encodes answers, too.
"""

from __future__ import annotations

import functools
from typing import Any

from .engine import Engine
from .hook_runner import Rest
from .marking import Marker, marked
from .room_events import Event

__all__ = ["MarkedEngine"]


class MarkedEngine(Engine[Any, Any]):
    """The life of one incarnation of one room, as `marker` is told of it."""

    def __init__(self, *arguments: Any, marker: Marker, **options: Any) -> None:
        super().__init__(*arguments, marker=marker, **options)
        self._marker = marker

    def start(self, event: Event, gateway: str = "") -> Rest[bool] | None:
        """Handle one event as far as it needs no task."""
        number: int = getattr(event, "number", 0)  # of an input; `isinstance` is slow for structs
        self._marker.enter(self.name, gateway, number)
        try:
            rest = super().start(event, gateway)
        finally:
            self._marker.leave()
        return None if rest is None else functools.partial(self._go_on, rest, gateway, number)

    async def _go_on(self, rest: Rest[bool], gateway: str, number: int) -> bool:
        enter = functools.partial(self._marker.enter, self.name, gateway, number)
        done: bool = await marked(rest(), enter, self._marker.leave)
        return done

"""Make the engines of a host's rooms, and hold their hooks to the time that they may take.

Invariant: an engine is looked at only while a hook of it awaits; one whose hook is abandoned goes on with what waits.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from verani.engine.engine import Engine
from verani.engine.hook_runner import Hooks
from verani.engine.marked_engine import MarkedEngine
from verani.engine.marking import Marker
from verani.engine.room_events import HookFailed
from verani.link.messages import Close
from verani.settings import Settings

from ..links.flow import MAX_AHEAD, Flow
from .hook_failures import HookFailures
from .hosted_room import HostedRoom
from .room_actor import Abandoned
from .shared import SharedParts

__all__ = ["LOOK", "Engines"]

# How often hooks are checked against their time budget, in seconds, at most.
LOOK: Final = 0.25


class Engines:
    """The engines of the rooms that are awake."""

    def __init__(
        self,
        parts: SharedParts,
        settings: Settings,
        *,
        limited: Counter[str],
        marker: Marker | None,
        hooks: type[Hooks[Any, Any]],
    ) -> None:
        """Make engines for rooms that `marker` is told of; `limited` counts what limits did.

        `hooks` is what runs the hooks of each.
        """
        self._parts = parts
        self._settings = settings
        self._limited = limited
        self._hooks = hooks
        self._make = Engine if marker is None else partial(MarkedEngine, marker=marker)
        # What their hooks raised last.
        self.failures = HookFailures()
        self._suspended: set[Engine[Any, Any]] = set()
        self._period = min(LOOK, settings.hook_timeout / 4)
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin to look at hooks that await."""
        self._look()

    def stop(self) -> None:
        """Look at them no more."""
        if self._timer is not None:
            self._timer.cancel()

    def make(self, room: HostedRoom, post: Callable[[HookFailed], None]) -> Engine[Any, Any]:
        """Give a room its engine, which knows of the closes that it will get."""
        engine = room.engine = self._make(
            room.definition,
            room.name.partition("/")[2],
            room,
            settings=self._settings,
            post=post,
            suspended=self._suspended,
            drowsy=self._parts.sleeping.drowsy,
            limited=self._limited,
            hooks=self._hooks,
            measures=self._parts.directory.hooks[room.definition.name],
            is_full=partial(_is_full, self._parts.flow, room.name),
            watch=partial(self.failures.note, room.name),
            clock=self._parts.clock,
        )
        for _, arrival in room.in_flight:
            if isinstance(arrival, Close):
                engine.note_close(arrival.connection)
        return engine

    def _look(self) -> None:
        # First, so that nothing that goes wrong below ends the budgets of all.
        self._timer = asyncio.get_running_loop().call_later(self._period, self._look)
        for engine in tuple(self._suspended):
            room = self._parts.directory.rooms.get(engine.name)
            if engine.expire() and room is not None and room.engine is engine:
                assert room.address is not None
                self._parts.actors.base.abandon(room.address)
                self._parts.actors.tell(room.address, Abandoned())


def _is_full(flow: Flow, room: str) -> bool:
    return flow.ahead(room) > MAX_AHEAD

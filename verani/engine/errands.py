"""Run functions of other threads on the event loop of a room."""

from __future__ import annotations

import contextvars
import functools
import inspect
from collections.abc import Callable
from typing import Any

from ..errors import RoomAsleep, WrongThread
from ..signatures import label_of
from ..threads import run_on
from .hook_run import HookRun, Turn, running
from .marking import Marker

__all__ = ["Errands"]


class Errands:
    """What threads ask of a room; each waits for its answer, as long as a hook may take."""

    def __init__(self, turn: Turn, marker: Marker | None, timeout: float) -> None:
        self._turn = turn
        self._marker = marker
        self._timeout = timeout

    def from_thread(self, function: Callable[..., Any], call: Callable[[], Any]) -> Any:
        """Run a function on the room's loop, for a thread that waits for it; see `Actor.from_thread`."""
        turn = self._turn
        if turn.thread.runs:
            raise WrongThread(f"{turn.name}: from_thread was called on the thread of the event loop: call it directly")
        if turn.loop is None or not turn.awake:
            raise RoomAsleep(f"{turn.name}: this handle outlived its room")
        # A thread without context variables is taken for one that the running hook waits for.
        run = running.get() or turn.current
        work = functools.partial(contextvars.copy_context().run, self._run, run, function, call)
        return run_on(turn.loop, work, self._timeout)

    def _run(self, run: HookRun | None, function: Callable[..., Any], call: Callable[[], Any]) -> Any:
        """Run it as code of the hook or task that started the thread, or of none if that is over."""
        running.set(None if run is not None and run.kept is not None else run)
        self._turn.check_awake()
        if self._marker is None:
            result = call()
        else:
            self._marker.enter(self._turn.name, "", 0)
            try:
                result = call()
            finally:
                self._marker.leave()
        if inspect.isawaitable(result):
            if inspect.iscoroutine(result):
                result.close()
            raise TypeError(f"from_thread: expected a plain function, got one to await: {label_of(function)}")
        return result

"""Run the tasks that a room has spawned, and know what keeps it awake although no hook runs.

Invariant: a task that is over, and one that was cancelled before its first step, keeps nothing of the room.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Coroutine
from types import CoroutineType
from typing import Any

from ..errors import VeraniError
from ..room.context import Context
from .hook_log import HookLog
from .hook_run import HookRun, Turn, running
from .listed import Listed
from .marking import Marker, marked
from .room_events import HookFailed

__all__ = ["Tasks"]


class Tasks:
    """The spawned tasks of a room, and its wishes to stay awake or to sleep."""

    def __init__(
        self,
        turn: Turn,
        *,
        post: Callable[[HookFailed], None],
        log: HookLog,
        drowsy: Listed,
        marker: Marker | None,
        clock: Callable[[], float],
    ) -> None:
        self._turn = turn
        self._post = post
        self._log = log
        self._drowsy = drowsy
        self._marker = marker
        self._clock = clock
        self._awake_until = 0.0
        # When each began, the oldest first.
        self._tasks: dict[asyncio.Task[Any], float] = {}

    def start(
        self, coroutine: CoroutineType[Any, Any, Any], context: Context[Any, Any], *, name: str = ""
    ) -> asyncio.Task[Any]:
        """Start a task whose operations are not the running hook's; its failure leads to `on_error`.

        `name` is that of the hook which starts it, as `HookFailed` has it.
        """
        run = HookRun(context, name=name, started=self._clock())
        work: Awaitable[Any] = coroutine
        if self._marker is not None:
            work = marked(coroutine, functools.partial(self._marker.enter, self._turn.name, "", 0), self._marker.leave)
        token = running.set(run)
        try:
            task = asyncio.get_running_loop().create_task(_without_exit(work), name=coroutine.__qualname__)
        finally:
            running.reset(token)
        self._tasks[task] = run.started
        task.add_done_callback(functools.partial(self._done, coroutine, run))
        return task

    def _done(self, coroutine: Coroutine[Any, Any, Any], run: HookRun, task: asyncio.Task[Any]) -> None:
        self._tasks.pop(task, None)
        context: Context[Any, Any] = run.context
        run.over()
        coroutine.close()  # a task that was cancelled before its first step has not touched it
        error = None if task.cancelled() else task.exception()
        if error is not None and self._turn.awake:
            self._post(HookFailed(error, context, run.name))
        elif error is not None:
            self._log.failed(error, context, run.name)

    def keep_awake(self, seconds: float) -> None:
        """Count as busy for some time."""
        self._turn.check_awake()
        if not seconds >= 0:
            raise ValueError(f"keep_awake: expected 0 seconds or more, got {seconds!r}")
        self._awake_until = self._clock() + seconds if seconds else 0.0
        self._drowsy.discard()

    def hibernate(self) -> None:
        """Ask to be put to sleep soon."""
        self._turn.check_awake()
        self._awake_until = 0.0
        self._drowsy.add()

    @property
    def busy(self) -> str | None:
        """Name what keeps the room awake, or None."""
        if self._tasks:
            return "spawned task"
        if self._awake_until and self._clock() < self._awake_until:
            return "keep_awake"
        return None

    @property
    def oldest(self) -> tuple[str, float] | None:
        """Name the oldest task and how many there are besides, and tell when it began."""
        for task, began in self._tasks.items():
            others = f" and {len(self._tasks) - 1} more" if len(self._tasks) > 1 else ""
            return f"{task.get_name()}{others}", began
        return None

    def cancel(self) -> None:
        """Cancel all tasks."""
        for task in self._tasks:
            task.cancel()

    async def stop(self, grace: float) -> None:
        """Cancel all tasks and give them so many seconds to end."""
        if self._tasks:
            self.cancel()
            await asyncio.wait(tuple(self._tasks), timeout=grace)

    def end(self) -> None:
        """Cancel all tasks, of a room that is over."""
        self._drowsy.discard()
        self.cancel()


async def _without_exit(work: Awaitable[Any]) -> Any:
    """Await a spawned coroutine; SystemExit fails its task, but would end the event loop of all rooms."""
    try:
        return await work
    except (SystemExit, KeyboardInterrupt) as error:
        raise VeraniError(f"a spawned task raised {type(error).__name__}") from error

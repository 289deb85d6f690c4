"""Run hooks, one at a time, each within its time and as one transaction.

Invariants:
- At most one transaction is open. It is committed after its hook returned, or rolled back, and closed with the run.
- What a hook raised stays in the log: `run` never raises but for the cancellation of its task by the shell, and for
  `HookAbandoned`.
- A hook that ignores its cancellation is abandoned by `expire`: its run is disarmed, and the coroutine that waits for
  it touches nothing more.
- An exception is no local variable of a function that its own traceback shows when that function returns.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
from bisect import bisect_left
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from contextvars import copy_context
from types import CoroutineType
from typing import Any, Generic, TypeAlias, TypeVar

from msgspec import Struct

from ..errors import HookTimeout
from ..histogram import BOUNDS
from ..link import messages
from ..room.context import Context
from ..room.meta import M
from ..room.operations import S
from .hook_measures import HookMeasures
from .hook_run import HookRun, running
from .incarnation import Incarnation
from .listed import Listed
from .room_events import HookFailed

__all__ = ["CANCEL_GRACE", "HookAbandoned", "Hooks", "Rest", "Returned"]

T = TypeVar("T")

# What is left to do of something that has begun; it waits, and so needs a task. No coroutine yet: a room that is torn
# down meanwhile has none to close.
Rest: TypeAlias = Callable[[], Coroutine[Any, Any, T]]

# How long a hook that was cancelled may take to end before it is abandoned, in seconds.
CANCEL_GRACE = 1.0


class HookAbandoned(BaseException):
    """Unwinds whatever ran a hook that was abandoned: the room went on without it."""


class Returned(Struct, frozen=True):
    """A hook's result, as opposed to its error."""

    value: Any


# Python 3.11 looks the method of an imported name up in each call.
_set_running = running.set

# What most hooks return.
_NOTHING = Returned(None)


class Hooks(Generic[M, S]):
    """The hooks of one incarnation."""

    __slots__ = (
        "__weakref__",
        "_clock",
        "_left",
        "_limited",
        "_post",
        "_room",
        "_suspended",
        "_timeout",
        "_turn",
        "measures",
    )

    def __init__(
        self,
        room: Incarnation[M, S],
        *,
        post: Callable[[HookFailed], None],
        suspended: Listed,
        limited: Counter[str],
        measures: HookMeasures,
        timeout: float,
        clock: Callable[[], float],
    ) -> None:
        self._room = room
        self._turn = room.turn
        self._post = post
        self._suspended = suspended
        self._limited = limited
        self.measures = measures
        self._timeout = timeout
        self._clock = clock
        # A run whose rest nobody has begun to await.
        self._left: HookRun | None = None

    def start(
        self,
        run: HookRun,
        hook: Callable[..., Any],
        arguments: tuple[Any, ...],
        variables: contextvars.Context | None = None,
    ) -> Returned | Rest[Returned | None]:
        """Call one hook as one transaction; returns its result, or the rest of it, which comes to what `run` does.

        The rest of a hook that awaits, or the report of one that has failed. The running context is the hook's if it is
        given as `variables`, and no task runs then; else it gets one, or all rooms would see what it sets.
        """
        task = asyncio.current_task(self._turn.loop) if variables is None else None
        requests = task.cancelling() if task is not None else 0
        measure = run.measure
        if measure is None:
            measure = run.measure = self.measures.of(run.hook)
        clock = self._clock
        run.started = clock()
        if variables is None:
            variables = copy_context()
            called = variables.run(self._call, run, hook, arguments)
        else:
            called = self._call(run, hook, arguments)
        if isinstance(called, Returned) and (task is None or task.cancelling() == requests):
            took = clock() - run.started
            measure.counts[bisect_left(BOUNDS, took)] += 1  # as `observe` does
            measure.seconds += took
            run.over()
            return called
        self._left = run
        return functools.partial(self._go_on, run, called, requests, variables)

    def begin(self, which: str, run: HookRun, *arguments: Any) -> Rest[Returned | None] | None:
        """Run a hook of the definition, by its name there, as far as it needs no task; returns the rest of it."""
        definition = self._room.definition
        hook = definition.hooks[which]
        if which in definition.async_hooks:
            return functools.partial(self.run, run, hook, *arguments)
        started = self.start(run, hook, arguments)
        return None if isinstance(started, Returned) else started

    def run(self, run: HookRun, hook: Callable[..., Any], *arguments: Any) -> Coroutine[Any, Any, Returned | None]:
        """Call one hook as one transaction, in the task that awaits the rest of it at once.

        None means that the hook failed, and that this has been dealt with.
        """
        task = asyncio.current_task(self._turn.loop)
        requests = task.cancelling() if task is not None else 0
        run.measure = run.measure or self.measures.of(run.hook)
        run.started = self._clock()
        return self._conclude(run, self._call(run, hook, arguments), task, requests)

    def failed(self, run: HookRun, error: BaseException) -> Rest[Returned | None]:
        """Return how to deal with an error before or after a hook as with one of the hook itself."""
        task = asyncio.current_task(self._turn.loop)
        run.error = error
        self._left = run
        return functools.partial(self._go_on, run, None, task.cancelling() if task is not None else 0)

    def _call(
        self, run: HookRun, hook: Callable[..., Any], arguments: tuple[Any, ...]
    ) -> Returned | Awaitable[Any] | None:
        """Call a hook, and close its transaction, unless it returned what is to be awaited; None: see `run.error`.

        The context that this is called in is the run's, until that is over.
        """
        turn = self._turn
        turn.current = run
        _set_running(run)
        waits = False
        try:
            result = hook(*arguments)
            if result is not None and (type(result) is CoroutineType or inspect.isawaitable(result)):
                waits = True
                return result
            if run.touched is not None:
                self._room.metas.commit(run)
            return Returned(result) if result is not None else _NOTHING
        except BaseException as error:  # SystemExit and KeyboardInterrupt of a hook must not end the process
            if not self._undo(run, error):
                raise
            run.error = error  # returned, it would be a local variable of all who called this
            return None
        finally:
            if not waits:
                turn.current = None
                if self._room.outputs.between:
                    self._room.outputs.flush()

    async def _await(self, run: HookRun, awaitable: Awaitable[Any], task: asyncio.Task[Any] | None) -> Returned | None:
        """Await the rest of a hook, and close its transaction; None: see `run.error`."""
        turn = self._turn
        run.task = task
        requests = task.cancelling() if task is not None else 0
        self._suspended.add()
        returned = None
        try:
            result = await awaitable
            if not run.armed:
                raise HookAbandoned
            if run.touched is not None:
                self._room.metas.commit(run)
            returned = Returned(result)
        except BaseException as error:
            if not self._undo(run, error):
                raise
            has_expired = run.cancelled_at is not None and isinstance(error, asyncio.CancelledError)
            run.error = self.timeout(run) if has_expired else error
        finally:
            if turn.current is run:
                turn.current = None
                self._suspended.discard()
        if task is not None and task.cancelling() > requests:
            await _absorb_cancellations(task, requests)
        if self._room.outputs.between:
            self._room.outputs.flush()
        return returned

    def _undo(self, run: HookRun, error: BaseException) -> bool:
        """Take back what a hook has changed that raised; False if the error is for whoever runs it."""
        if isinstance(error, HookAbandoned):
            return False
        if isinstance(error, GeneratorExit) and run.task is not None:
            return False  # the very coroutine that awaits the hook is being closed
        if not run.armed:
            raise HookAbandoned from None
        self._room.metas.roll_back(run)
        # The shell that tears a room down disarms it before it cancels.
        return self._turn.awake or not isinstance(error, asyncio.CancelledError)

    def _go_on(
        self,
        run: HookRun,
        called: Returned | Awaitable[Any] | None,
        requests: int,
        variables: contextvars.Context | None = None,
    ) -> Coroutine[Any, Any, Returned | None]:
        """Do what is left of a run that was started, in the task that awaits it; `variables` are what it has set."""
        self._left = None
        for variable, value in variables.items() if variables is not None else ():
            if variable.get(None) is not value:
                variable.set(value)
        return self._conclude(run, called, asyncio.current_task(self._turn.loop), requests)

    async def _conclude(
        self,
        run: HookRun,
        called: Returned | Awaitable[Any] | None,
        task: asyncio.Task[Any] | None,
        requests: int,
    ) -> Returned | None:
        """Do what is left of a run; the hook may have asked its own task to end, beyond so many `requests`."""
        try:
            if task is not None and task.cancelling() > requests:
                await _absorb_cancellations(task, requests)
            if called is not None and not isinstance(called, Returned):
                called = await self._await(run, called, task)
            if called is None:
                assert run.error is not None
                if run.fail is not None:
                    run.fail(run.error)
                await self.report(run.error, run.context, run.gateway, run.message, name=run.name)
            return called
        finally:
            running.set(None)
            self._observe(run)
            run.over()

    def _observe(self, run: HookRun) -> None:
        """Count how long a hook took, once."""
        measure, run.measure = run.measure, None
        if measure is not None:
            measure.observe(self._clock() - run.started)

    def timeout(self, run: HookRun) -> HookTimeout:
        """Count that a hook took too long, and say so."""
        self._limited["hook_timeout"] += 1
        event = messages.kind_of(run.message) if run.message is not None else "room event"
        return HookTimeout(f"a hook of {self._turn.name} ({event}) ran longer than {self._timeout:g} s")

    async def report(
        self,
        error: BaseException,
        context: Context[M, S],
        gateway: str = "",
        message: messages.Input | None = None,
        *,
        name: str = "",
    ) -> None:
        """Log an error of a hook and give it to `on_error`, whose own errors are only logged."""
        self._room.log.failed(error, context, name)
        hook = self._room.definition.hooks.get("on_error")
        if hook is None:
            return
        measure = self.measures.of("on_error")
        run = HookRun(context, gateway, message, role="report", measure=measure, started=self._clock())
        try:
            called = self._call(run, hook, (error, context))
            if called is not None and not isinstance(called, Returned):
                called = await self._await(run, called, asyncio.current_task(self._turn.loop))
            if run.error is not None:
                self._room.log.failed(run.error, context, "on_error")
        finally:
            running.set(None)
            self._observe(run)
            run.over()

    def expire(self) -> bool:
        """Cancel a hook that awaits beyond its time; True once if it has ignored that for a second and is abandoned."""
        run = self._turn.current
        if run is None or run.task is None:
            return False
        now = self._clock()
        if run.cancelled_at is None:
            if now - run.started > self._timeout:
                run.cancelled_at = now
                run.task.cancel()
            return False
        if now - run.cancelled_at <= CANCEL_GRACE:
            return False
        self._abandon(run)
        return True

    def _abandon(self, run: HookRun) -> None:
        run.armed = False
        self._turn.current = None
        self._suspended.discard()
        self._room.metas.roll_back(run)
        self._room.outputs.flush()
        self._observe(run)
        error = run.error = self.timeout(run)
        if run.fail is not None:
            run.fail(error)
        if run.message is not None:
            self._room.sink.processed(run.gateway, run.message.number)
        if run.role == "report":
            self._room.log.failed(error, run.context, "on_error")
        else:
            self._post(HookFailed(error, run.context, run.name))

    def end(self) -> None:
        """Be looked after no more."""
        self._suspended.discard()
        if self._left is not None:
            self._left.over()
            self._left = None


async def _absorb_cancellations(task: asyncio.Task[Any], requests: int) -> None:
    """Take back what a hook, or its time budget, asked of the room's task: the next hook is innocent.

    Before Python 3.13 a request that was not thrown yet outlives `uncancel`; it lands here.
    """
    while task.cancelling() > requests:
        task.uncancel()
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(0)

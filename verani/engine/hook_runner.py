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
import functools
import inspect
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from types import CoroutineType
from typing import Any, Generic, Literal

from msgspec import Struct

from ..errors import HookTimeout
from ..link import messages
from ..room.context import Context
from ..room.meta import M
from ..room.operations import S
from .hook_run import HookRun, running
from .incarnation import Incarnation
from .listed import Listed
from .marking import Marker, marked, noted
from .room_events import HookFailed

__all__ = ["CANCEL_GRACE", "HookAbandoned", "Hooks", "Returned"]

# How long a hook that was cancelled may take to end before it is abandoned, in seconds.
CANCEL_GRACE = 1.0


class HookAbandoned(BaseException):
    """Unwinds whatever ran a hook that was abandoned: the room went on without it."""


class Returned(Struct, frozen=True):
    """A hook's result, as opposed to its error."""

    value: Any


class Hooks(Generic[M, S]):
    """The hooks of one incarnation."""

    def __init__(
        self,
        room: Incarnation[M, S],
        *,
        post: Callable[[HookFailed], None],
        suspended: Listed,
        marker: Marker | None,
        limited: Counter[str],
        timeout: float,
        clock: Callable[[], float],
    ) -> None:
        self._room = room
        self._turn = room.turn
        self._post = post
        self._suspended = suspended
        self._marker = marker
        self._limited = limited
        self._timeout = timeout
        self._clock = clock

    async def run(
        self,
        context: Context[M, S],
        hook: Callable[..., Any],
        *arguments: Any,
        gateway: str = "",
        message: messages.Input | None = None,
        fail: Callable[[BaseException], None] | None = None,
        name: str = "",
        role: Literal["hook", "wake"] = "hook",
    ) -> Returned | None:
        """Run one hook as one transaction; None means that it failed and that this has been dealt with."""
        run = HookRun(context, self._clock(), gateway, message, fail, name, role)
        outcome: Returned | BaseException | None = None
        try:
            outcome = await self._attempt(run, hook, arguments)
            if isinstance(outcome, Returned):
                return outcome
            if fail is not None:
                fail(outcome)
            await self.report(outcome, context, gateway, message, name=name)
            return None
        finally:
            outcome = None
            run.over()

    async def _attempt(
        self, run: HookRun, hook: Callable[..., Any], arguments: tuple[Any, ...]
    ) -> Returned | BaseException:
        turn = self._turn
        task = asyncio.current_task()
        requests = task.cancelling() if task is not None else 0
        outcome: Returned | BaseException | None = None
        turn.current = run
        token = running.set(run)
        try:
            result = hook(*arguments) if self._marker is None else self._mark(run, self._marker, hook, arguments)
            if result is not None and (type(result) is CoroutineType or inspect.isawaitable(result)):
                run.task = task
                self._suspended.add()
                result = await result
                if not run.armed:
                    raise HookAbandoned
            if run.touched:
                self._room.metas.commit(run)
        except HookAbandoned:
            raise
        except BaseException as error:  # SystemExit and KeyboardInterrupt of a hook must not end the process
            if isinstance(error, GeneratorExit) and run.task is not None:
                raise  # this very coroutine is being closed
            if not run.armed:
                raise HookAbandoned from None
            self._room.metas.roll_back(run)
            if isinstance(error, asyncio.CancelledError):
                if not turn.awake:
                    raise  # the shell tears the room down: it disarms the room before it cancels
                if run.cancelled_at is not None:
                    error = self.timeout(run)
            outcome = error
        else:
            outcome = Returned(result)
        finally:
            running.reset(token)
            if turn.current is run:
                turn.current = None
                if run.task is not None:
                    self._suspended.discard()
        if task is not None and task.cancelling() > requests:
            await _absorb_cancellations(task, requests)
        if self._room.outputs.between:
            self._room.outputs.flush()
        try:
            return outcome
        finally:
            outcome = None

    def _mark(self, run: HookRun, marker: Marker, hook: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        """Call the hook, with the marker set whenever code of it runs."""
        number = run.message.number if run.message is not None else 0
        enter = functools.partial(marker.enter, self._turn.name, run.gateway, number)
        result = noted(enter, marker.leave, functools.partial(hook, *arguments))
        return marked(result, enter, marker.leave) if inspect.isawaitable(result) else result

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
        run = HookRun(context, self._clock(), gateway, message, role="report")
        outcome: Returned | BaseException | None = None
        try:
            outcome = await self._attempt(run, hook, (error, context))
            if isinstance(outcome, BaseException):
                self._room.log.failed(outcome, context)
        finally:
            outcome = None
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
        error = self.timeout(run)
        if run.fail is not None:
            run.fail(error)
        if run.message is not None:
            self._room.sink.processed(run.gateway, run.message.number)
        if run.role == "report":
            self._room.log.failed(error, run.context)
        else:
            self._post(HookFailed(error, run.context))

    def end(self) -> None:
        """Be looked after no more."""
        self._suspended.discard()


async def _absorb_cancellations(task: asyncio.Task[Any], requests: int) -> None:
    """Take back what a hook, or its time budget, asked of the room's task: the next hook is innocent.

    Before Python 3.13 a request that was not thrown yet outlives `uncancel`; it lands here.
    """
    while task.cancelling() > requests:
        task.uncancel()
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(0)

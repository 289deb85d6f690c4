"""Await what busy actors return, each in a drain task of its own, which goes on with the actor's mailbox.

Invariants:
- At most one drain task may touch an actor's mailbox: the one whose generation is the actor's. To release an actor
  raises its generation; the older task notices after its await and ends without a trace.
- A drain task handles at most `BATCH` messages between two visits to the loop.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import sys
import traceback
from collections.abc import Awaitable
from contextlib import suppress
from typing import Final, Protocol

from thespian.actors import ActorExitRequest

from .reference import ActorRef, Envelope

__all__ = ["BATCH", "BusyActors"]

logger = logging.getLogger(__name__)

# Messages handled before sockets and timers get their turn. The base's own part is about 1 us a message, so a
# batch is far below a millisecond and many messages share one pass of the loop.
BATCH: Final = 256


class MessageHandler(Protocol):
    """What a drain task does with the messages of its actor (`verani_actors.system.run_queue`)."""

    idle_waiters: list[asyncio.Future[None]]

    def handle(self, ref: ActorRef, envelope: Envelope) -> Awaitable[object] | None:
        """Run the actor on a message; returns what is left to await."""

    def fail(self, envelope: Envelope, details: str, *, may_retry: bool) -> None:
        """Do what follows a message on which the actor has failed."""

    def exit(self, ref: ActorRef, *, recursive: bool) -> None:
        """End the actor."""

    def rest(self) -> None:
        """Wake whoever waits for everybody to be idle, if that is so now."""


class BusyActors:
    """The actors that are `running` an awaitable, and tasks that were `abandoned` and have not ended."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.running: set[ActorRef] = set()
        self.abandoned: set[asyncio.Task[None]] = set()

    def start(
        self,
        handler: MessageHandler,
        ref: ActorRef,
        envelope: Envelope | None,
        awaitable: Awaitable[object] | None,
        *,
        eager: bool,
    ) -> None:
        """Await for an actor, which is busy then until its mailbox is empty; an eager start runs within this call."""
        if not ref.alive:  # its own handler shut the system down
            _close(awaitable)
            return
        self.running.add(ref)
        generation = ref.generation
        drain = self._drain(handler, ref, generation, envelope, awaitable)
        if sys.version_info >= (3, 12):
            task = asyncio.Task(drain, loop=self._loop, eager_start=eager)
        else:
            task = asyncio.Task(drain, loop=self._loop)
        if not task.done() and ref.generation == generation:
            ref.task = task

    def release(self, ref: ActorRef) -> None:
        """Take the mailbox from the drain task, which is kept until it has ended, and make the actor idle."""
        task = ref.task
        ref.generation += 1
        ref.task = ref.current = None
        self.running.discard(ref)
        if not ref.mailbox:
            ref.mailbox = None
        if task is not None and not task.done():
            self.abandoned.add(task)
            task.add_done_callback(self.abandoned.discard)

    def cancel_all(self) -> None:
        """Cancel every task, and make every actor idle."""
        for abandoned in self.abandoned:
            abandoned.cancel()
        for ref in tuple(self.running):
            awaiting, task = ref.current is not None, ref.task
            self.release(ref)
            # A drain task that has not run yet (Python 3.11) sees its generation and ends by itself. Cancelled
            # before its first step it could not even close its awaitable.
            if awaiting and task is not None:
                task.cancel()

    async def ended(self, timeout: float | None) -> int:
        """Wait until the last abandoned task has ended, or `timeout` seconds; returns how many are left."""
        deadline = None if timeout is None else self._loop.time() + timeout
        while self.abandoned:
            left = None if deadline is None else deadline - self._loop.time()
            if left is not None and left <= 0:
                break
            await asyncio.wait(self.abandoned, timeout=left)
        return len(self.abandoned)

    async def _drain(
        self,
        handler: MessageHandler,
        ref: ActorRef,
        generation: int,
        envelope: Envelope | None,
        awaitable: Awaitable[object] | None,
    ) -> None:
        task = asyncio.current_task()
        assert task is not None
        if ref.generation == generation:
            ref.task = task
        budget = BATCH
        while ref.generation == generation:
            if awaitable is not None and envelope is not None:
                ref.current = envelope
                details = await self._outcome(ref, generation, task, awaitable)
                awaitable = None
                if ref.generation != generation:
                    return
                ref.current = None
                if details is not None:
                    handler.fail(envelope, details, may_retry=False)
                if isinstance(envelope.message, ActorExitRequest):
                    handler.exit(ref, recursive=envelope.message.isRecursive)
            elif not ref.mailbox:
                ref.task = None  # this task, which ends here
                self.release(ref)
            elif budget == 0:
                # Nothing says whether the last awaitables really waited; the loop must see its sockets.
                budget = BATCH
                with suppress(asyncio.CancelledError):  # of a message that has ended
                    await asyncio.sleep(0)
                await _absorb_cancellation(task)
            else:
                budget -= 1
                envelope = ref.mailbox.popleft()
                awaitable = handler.handle(ref, envelope)
        if awaitable is not None:
            _close(awaitable)  # never awaited: the system was shut down before this task's first step
        if handler.idle_waiters:
            handler.rest()

    async def _outcome(
        self, ref: ActorRef, generation: int, task: asyncio.Task[None], awaitable: Awaitable[object]
    ) -> str | None:
        """Await, and return the traceback of what it raised, if anything."""
        details = None
        try:
            await awaitable
        except GeneratorExit:
            raise  # the loop died around this task, which may not await any more
        except BaseException:  # the actor mailbox; CancelledError fails the message, not the actor
            if ref.generation == generation:
                logger.error("actor failed: %s", ref.key, exc_info=True)
                details = traceback.format_exc()
            else:
                logger.debug("abandoned awaitable failed: %s", ref.key, exc_info=True)
        if task.cancelling():
            await _absorb_cancellation(task)
        return details


async def _absorb_cancellation(task: asyncio.Task[None]) -> None:
    # Before Python 3.13 a request that was not thrown yet outlives uncancel(). It lands here, not in the next
    # message.
    while task.cancelling():
        task.uncancel()
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(0)


def _close(awaitable: Awaitable[object] | None) -> None:
    if inspect.iscoroutine(awaitable):
        awaitable.close()

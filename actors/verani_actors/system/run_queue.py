"""Hand messages to actors: one run queue for all of them, and a mailbox for each that is busy.

Invariants:
- An actor's code starts at the bottom of the stack only: in the tick, or in that actor's own drain task. Nothing that
  is called from an actor runs another one's code: everything goes through the run queue. Hence an eager start (Python
  3.12) is safe; only the tick makes one.
- The run queue is one FIFO for all actors. The tick hands its front to an idle actor or moves it to the mailbox of a
  busy one, and an actor is idle only while its mailbox is empty. So messages of one sender to one receiver keep order.
- A tick handles at most `BATCH` messages.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import logging
import traceback
from collections import deque
from collections.abc import Awaitable
from datetime import timedelta
from typing import Final

from thespian.actors import ActorAddress, ActorExitRequest, ChildActorExited, PoisonMessage, WakeupMessage

from .actor_directory import ActorDirectory
from .busy_actors import BATCH, BusyActors
from .dead_letters import DeadLetters
from .reference import SYSTEM, ActorRef, Envelope
from .wakeups import Wakeups

__all__ = ["RunQueue"]

logger = logging.getLogger(__name__)

# How often simpleSystemBase runs a failing receiveMessage, and then a failing PoisonMessage.
ATTEMPTS: Final = 3
POISON_ATTEMPTS: Final = 2


class RunQueue:
    """The messages of the actors in `directory`, from when they are sent until they are handled or dropped."""

    def __init__(self, loop: asyncio.AbstractEventLoop, directory: ActorDirectory) -> None:
        self._loop = loop
        self._directory = directory
        # Ticks run in a context of their own, or actors would see the context variables of who sent first.
        self._context = contextvars.copy_context()
        self._next_tick: asyncio.Handle | None = None
        self.idle_waiters: list[asyncio.Future[None]] = []
        self.messages: deque[Envelope] = deque()
        self.busy = BusyActors(loop)
        self.dead_letters = DeadLetters()
        self.wakeups = Wakeups(loop, self._wake)
        self.closed = False

    def post(self, receiver: ActorAddress, sender: ActorAddress, message: object) -> None:
        """Send a message."""
        self.enqueue(Envelope(receiver, sender, message, ATTEMPTS))

    def enqueue(self, envelope: Envelope) -> None:
        """Put a message at the end of the run queue."""
        if self.closed:
            return  # what a cancelled awaitable still sends
        if self._next_tick is None:
            self._next_tick = self._loop.call_soon(self._tick, context=self._context)
        self.messages.append(envelope)

    def is_quiet(self, address: ActorAddress) -> bool:
        """Tell whether no message waits for its turn, and an actor lives and handles none."""
        ref = self._directory.live.get(address.actorAddressString)
        return not self.messages and ref is not None and ref.task is None

    def wake_after(self, ref: ActorRef, period: timedelta | float, payload: object) -> None:
        """Send an actor a wakeup once a period is over."""
        if ref.alive:
            self.wakeups.add(ref.key, period, payload)

    def _wake(self, key: str, period: timedelta | float, payload: object) -> None:
        address = self._directory.live[key].address
        self.post(address, address, WakeupMessage(period, payload))

    async def idle(self) -> None:
        """Wait until no message is queued and no actor busy."""
        while self.messages or self.busy.running:
            waiter: asyncio.Future[None] = self._loop.create_future()
            self.idle_waiters.append(waiter)
            await waiter

    def rest(self) -> None:
        """Wake whoever waits for `idle`, if there is nothing left to do."""
        if not self.messages and not self.busy.running:
            waiters, self.idle_waiters = self.idle_waiters, []
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(None)

    def close(self) -> None:
        """Drop every message and cancel every awaitable; nothing is handled any more."""
        self.closed = True
        dropped = len(self.messages) + sum(len(ref.mailbox or ()) for ref in self.busy.running)
        if dropped:
            logger.warning("messages dropped at shutdown: %s", dropped)
        self.busy.cancel_all()
        self.messages.clear()
        self.wakeups.clear()
        self.dead_letters.handlers.clear()
        self.rest()

    def abandon(self, ref: ActorRef) -> bool:
        """Give up the awaitable that runs for an actor; False if there is none."""
        if ref.current is None:
            return False
        message = ref.current.message
        self.busy.release(ref)
        logger.warning("awaitable abandoned: actor %s", ref.key)
        if isinstance(message, ActorExitRequest):
            self.exit(ref, recursive=message.isRecursive)
        elif ref.mailbox:
            self.busy.start(self, ref, None, None, eager=False)  # eager, it would run in the caller's stack
        self.rest()
        return True

    def exit(self, ref: ActorRef, *, recursive: bool) -> None:
        """End an actor: its parent is told and, if so, its children end; what waits for it becomes dead letters."""
        if not ref.alive:
            return
        mailbox = ref.mailbox
        self.busy.release(ref)
        children = self._directory.remove(ref)
        self.dead_letters.handlers.pop(ref.key, None)
        self.wakeups.drop(ref.key)
        if ref.parent is not None and ref.parent.alive:
            self.post(ref.parent.address, SYSTEM, ChildActorExited(ref.address))
        for child in children if recursive else ():
            self.post(child.address, SYSTEM, ActorExitRequest())
        # Handled by the tick, which finds no receiver: dead letter handlers must not run in this stack.
        for envelope in mailbox or ():
            self.enqueue(envelope)

    def run(self) -> None:
        """Handle what is queued now, not in the loop's next pass; for callbacks of the loop, never for actors."""
        if self._next_tick is not None:
            self._next_tick.cancel()
            self._context.run(self._tick)

    def _tick(self) -> None:
        queue, live = self.messages, self._directory.live
        try:
            for _ in range(BATCH):
                if not queue:
                    break
                envelope = queue.popleft()
                ref = live.get(envelope.receiver.actorAddressString)
                if ref is None:
                    for handler, letter in self.dead_letters.letters(envelope, ATTEMPTS):
                        self._deliver(handler, letter)
                else:
                    self._deliver(ref, envelope)
        finally:
            if queue:
                self._next_tick = self._loop.call_soon(self._tick, context=self._context)
            else:
                self._next_tick = None
                if self.idle_waiters:
                    self.rest()

    def _deliver(self, ref: ActorRef, envelope: Envelope) -> None:
        if ref.task is not None:
            if ref.mailbox is None:
                ref.mailbox = deque()
            ref.mailbox.append(envelope)
            return
        awaitable = self.handle(ref, envelope)
        if awaitable is not None:
            self.busy.start(self, ref, envelope, awaitable, eager=True)

    def handle(self, ref: ActorRef, envelope: Envelope) -> Awaitable[object] | None:
        """Run receiveMessage, and settle the message unless there is something left to await."""
        try:
            result = ref.instance._receive(envelope.message, envelope.sender)  # type: ignore[union-attr]
        except BaseException:  # the actor mailbox; SystemExit of one actor must not end the loop of all
            logger.error("actor failed: %s", ref.key, exc_info=True)
            self.fail(envelope, traceback.format_exc(), may_retry=True)
        else:
            if result is not None and inspect.isawaitable(result):
                return result
        if isinstance(envelope.message, ActorExitRequest):
            self.exit(ref, recursive=envelope.message.isRecursive)
        return None

    def fail(self, envelope: Envelope, details: str, *, may_retry: bool) -> None:
        """Retry a message, or else tell its sender."""
        message = envelope.message
        if isinstance(message, ActorExitRequest):
            return
        envelope.attempts -= 1
        if may_retry and envelope.attempts > 0:
            self.enqueue(envelope)
        elif not isinstance(message, PoisonMessage):
            poison = PoisonMessage(message, details)
            self.enqueue(Envelope(envelope.sender, envelope.receiver, poison, POISON_ATTEMPTS))

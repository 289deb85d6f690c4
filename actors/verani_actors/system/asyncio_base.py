"""Thespian's actor system on one asyncio event loop: `ActorSystem(systemBase=AsyncioSystemBase(),
transientUnique=True)`.

It carries messages between the actors of one process. It opens no socket, starts no thread and never
blocks; it loads no sources and joins no convention. It is not thread-safe: another thread goes through
`loop.call_soon_threadsafe`.

`receiveMessage` may return an awaitable. Then that actor's next message waits in its mailbox while other
actors go on.

Invariants:
1. An actor's code starts at the bottom of the stack only: in the tick, or in that actor's own drain task.
   Sending, creating, abandoning or exiting never runs another actor's code inside the caller's, whatever
   the Python version: everything goes through the run queue. Hence an eager start (Python 3.12) is safe;
   only the tick makes one.
2. The run queue is one FIFO for all actors. The tick hands its front to an idle actor or moves it to the
   mailbox of a busy one, and an actor is idle only while its mailbox is empty. So messages of one sender to
   one receiver keep order.
3. At most one drain task may touch an actor's mailbox: the one whose generation is the actor's. Abandoning,
   exiting and shutting down raise the generation; the older task notices after its await and ends without a
   trace.
4. A tick, and a drain task between two visits to the loop, handles at most `BATCH` messages.
5. Every operation is O(1) in the number of actors, children and names (a wakeup: O(log n) of the pending
   wakeups). An actor that is gone leaves no entry in any table; addresses are never used again.

Kept from Thespian's `simpleSystemBase` (tests run the same scripts on both): a `receiveMessage` that raises
runs three times in all, each retry at the end of the queue, then the sender gets a `PoisonMessage`, which
is tried twice and never answered by another; an exiting actor's parent gets `ChildActorExited`, then its
children get `ActorExitRequest`; a child that cannot be created shows as `ChildActorExited`;
`notifyOnSystemRegistrationChanges` is ignored, as there is no convention.

Different on purpose:
- A failed awaitable is not retried, since it may have had effects: its sender gets the `PoisonMessage` at
  once.
- `BaseException` counts as failure too. An actor must not be able to end the loop for all others.
- A raising `ActorExitRequest` handler is not retried: the actor is gone (the simple base makes a dead
  letter of it).
- `ActorExitRequest(recursive=False)` leaves the children alive, as Thespian documents (the simple base
  exits them).
- What waits for an exiting actor becomes a dead letter (the simple base drops what comes before its parent
  was told). Its wakeups are dropped (there: dead letters), and so is a `DeadEnvelope` to a dead address,
  which could run in circles.
- Every registered dead letter handler gets its own envelope, with the `ActorAddress` (there: the last one,
  a string).
- A top-level actor that refuses the capabilities raises `NoCompatibleSystemForActor`, as Thespian's
  multiprocess bases do (there: the address of an actor that swallows everything).
- `globalName` is "" without a name, as documented, and also set for children (there: None or AttributeError).
- `Thespian_StatusReq` is an ordinary message.
- `ask`, `listen` and `private` raise `UnsupportedCall`, because they would block the loop; see `request`.
  So does all source loading, and what only a convention can do.
- Capabilities belong to the base; pass `capabilities=base.capabilities` to `ActorSystem` to see the same
  mapping there.
"""

import asyncio
import contextvars
import functools
import inspect
import logging
import sys
import time
import traceback
from collections import deque
from collections.abc import Awaitable, Hashable, Mapping
from contextlib import suppress
from datetime import timedelta
from types import MethodType
from typing import Any, Final

from thespian.actors import (
    Actor,
    ActorAddress,
    ActorExitRequest,
    ActorSystemFailure,
    ChildActorExited,
    DeadEnvelope,
    InvalidActorAddress,
    NoCompatibleSystemForActor,
    PoisonMessage,
    ThespianGeneration,
    WakeupMessage,
)
from thespian.system.utilis import actualActorClass

from .reference import NO_SOURCES, ActorRef, Address, Envelope, UnsupportedCall
from .wakeups import Wakeups

__all__ = ["AsyncioSystemBase", "UnsupportedCall"]

logger = logging.getLogger(__name__)

# Messages handled before sockets and timers get their turn. The base's own part is about 1 us a message, so a
# batch is far below a millisecond and many messages share one pass of the loop.
BATCH: Final = 256
# How often simpleSystemBase runs a failing receiveMessage, and then a failing PoisonMessage.
ATTEMPTS: Final = 3
POISON_ATTEMPTS: Final = 2


class _Inbox(Actor):
    """The sender of a `request`: its first message is the answer."""

    def __init__(self, answer: asyncio.Future[Any]) -> None:
        self.answer = answer

    def receiveMessage(self, msg: Any, sender: ActorAddress) -> None:
        if not self.answer.done():
            self.answer.set_result(msg)

    def refuse(self) -> None:
        if not self.answer.done():
            self.answer.set_exception(ActorSystemFailure("the actor system was shut down"))


def _receive(actor: Actor, message: object, sender: ActorAddress) -> object:
    # Looked up at each call, as simpleSystemBase does, so that an actor may replace its receiveMessage.
    return actor.receiveMessage(message, sender)


@functools.lru_cache(maxsize=256)
def _init_arguments(actor_class: Hashable) -> frozenset[str]:
    # Cached: inspect.signature costs 20 times what the creation itself does.
    assert isinstance(actor_class, type)
    return frozenset(inspect.signature(actor_class).parameters) & {"capabilities", "requirements"}


class AsyncioSystemBase:
    """The base object for `ActorSystem`; every method is called on `loop` (default: the running one)."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop | None = None, *, capabilities: Mapping[str, Any] | None = None
    ) -> None:
        self._loop = loop or asyncio.get_running_loop()
        # Ticks run in a context of their own, or actors would see the context variables of who sent first.
        self._context = contextvars.copy_context()
        self._queue: deque[Envelope] = deque()
        self._next_tick: asyncio.Handle | None = None
        self._closed = False
        self._created = 0
        self._actors: dict[str, ActorRef] = {}
        self._names: dict[str, ActorRef] = {}
        self._dead_letter_handlers: dict[str, ActorRef] = {}
        self._busy: set[ActorRef] = set()
        self._abandoned: set[asyncio.Task[None]] = set()
        self._idle_waiters: list[asyncio.Future[None]] = []
        self._wakeups = Wakeups(self._loop, self._wake)
        self._system = Address("/ActorSys")
        self._external = Address("System:ExternalRequester")
        self.capabilities: dict[str, Any] = {
            **(capabilities or {}),
            "Python Version": tuple(sys.version_info),
            "Thespian Generation": ThespianGeneration,
            "Thespian Version": str(int(time.time() * 1000)),
            "Thespian ActorSystem Name": "asyncioSystem",
            "Thespian ActorSystem Version": 1,
            "Thespian Watch Supported": False,
            "AllowRemoteActorSources": "No",
        }

    def __len__(self) -> int:
        """Count the live actors."""
        return len(self._actors)

    # What ActorSystem calls

    def newPrimaryActor(
        self,
        actor_class: type[Actor] | str,
        requirements: Mapping[str, Any] | None = None,
        name: str | None = None,
        source_hash: str | None = None,
    ) -> ActorAddress:
        """Create a top-level actor, or return the live one of that name; raise what its `__init__` raises."""
        self._refuse_if_unable(source_hash)
        if name and (live := self._names.get(name)) is not None:
            return live.address
        ref = self._new_ref(None, name)
        try:
            self._enter(ref, self._instantiate(actor_class, requirements))
        except (SystemExit, KeyboardInterrupt, GeneratorExit) as exc:
            # Left as it is, it would end the loop of the caller.
            raise ActorSystemFailure(f"creating {actor_class} raised {exc!r}") from exc
        return ref.address

    def tell(self, address: ActorAddress, message: object) -> None:
        """Send from outside the system; what the actor sends back is dropped (see `request`)."""
        if self._closed:
            self._refuse_if_unable(None)
        self._enqueue(Envelope(address, self._external, message, ATTEMPTS))

    async def request(self, address: ActorAddress, message: object, timeout: float | None = 5.0) -> Any:
        """Send from an address of its own; return the first message sent there, be it a `PoisonMessage`.

        TimeoutError after `timeout` seconds; an answer that comes later becomes a dead letter.
        """
        self._refuse_if_unable(None)
        answer: asyncio.Future[Any] = self._loop.create_future()
        inbox = self._new_ref(None, None)
        self._enter(inbox, _Inbox(answer))
        try:
            self._post(address, inbox.address, message)
            async with asyncio.timeout(timeout):
                return await answer
        finally:
            self._exit(inbox, recursive=True)
            del answer  # it may hold an exception, whose traceback holds this frame

    def ask(self, address: ActorAddress, message: object, timeout: object = None) -> Any:
        raise UnsupportedCall("ask", "it would block the event loop; use `await base.request(address, message)`")

    def listen(self, timeout: object = None) -> Any:
        raise UnsupportedCall("listen", "it would block the event loop; use `await base.request(...)`, or an actor")

    def external_clone(self) -> Any:
        raise UnsupportedCall("private", "use `await base.request(...)`, whose every call has its own address")

    def updateCapability(self, name: str, value: object = None) -> None:
        """Set a capability, or remove it with None; it counts for actors created from now on."""
        if value is None:
            self.capabilities.pop(name, None)
        else:
            self.capabilities[name] = value

    def loadActorSource(self, fname: object) -> str:
        raise UnsupportedCall("loadActorSource", NO_SOURCES)

    def unloadActorSource(self, source_hash: str) -> None:
        raise UnsupportedCall("unloadActorSource", NO_SOURCES)

    def shutdown(self) -> None:
        """Stop at once: cancel every awaitable, drop every message and actor. No handler runs for it.

        For an orderly end send `ActorExitRequest` and await `idle()` first. Do call it before the loop ends:
        a task that only the loop cancels counts as one failed message. Cancelled awaitables end in later
        passes of the loop; `await closed()` waits for them.
        """
        if self._closed:
            return
        self._closed = True
        dropped = len(self._queue) + sum(len(ref.mailbox or ()) for ref in self._busy)
        if dropped:
            logger.warning("messages dropped at shutdown: %s", dropped)
        for abandoned in self._abandoned:
            abandoned.cancel()
        for ref in tuple(self._busy):
            awaiting, task = ref.current is not None, ref.task
            self._release(ref)
            # A drain task that has not run yet (Python 3.11) sees its generation and ends by itself. Cancelled
            # before its first step it could not even close its awaitable.
            if awaiting and task is not None:
                task.cancel()
        for ref in self._actors.values():
            if isinstance(ref.instance, _Inbox):
                ref.instance.refuse()
            self._unlink(ref)
        for table in (self._actors, self._names, self._dead_letter_handlers):
            table.clear()
        self._queue.clear()
        self._wakeups.clear()
        self._tell_idle_waiters()

    def _shutdown_soon(self) -> None:
        self._loop.call_soon(self.shutdown)  # not now: an actor asks for it, inside its own call

    def _handleDeadLetters(self, address: ActorAddress, enable: bool) -> None:
        ref = self._actors.get(address.actorAddressString)
        if ref is not None and enable:
            self._dead_letter_handlers[ref.key] = ref
        else:
            self._dead_letter_handlers.pop(address.actorAddressString, None)

    # Watching over actors

    def running_task(self, address: ActorAddress) -> asyncio.Task[None] | None:
        """Return the task that awaits for this actor now; to cancel it fails that one message, not the actor."""
        ref = self._actors.get(address.actorAddressString)
        return None if ref is None or ref.current is None else ref.task

    def abandon(self, address: ActorAddress) -> bool:
        """Give up the awaitable that runs for this actor, which goes on with its next message in a new task.

        The old task is left to end on its own; nobody learns its outcome. An abandoned `ActorExitRequest`
        counts as handled. Return False if nothing is awaited for this actor.
        """
        ref = self._actors.get(address.actorAddressString)
        if ref is None or ref.current is None:
            return False
        message = ref.current.message
        self._release(ref)
        logger.warning("awaitable abandoned: actor %s", ref.key)
        if isinstance(message, ActorExitRequest):
            self._exit(ref, recursive=message.isRecursive)
        elif ref.mailbox:
            self._start(ref, None, None, eager=False)  # eager, it would run in the caller's stack
        self._tell_idle_waiters()
        return True

    def kill(self, address: ActorAddress) -> None:
        """End an actor now: what is awaited for it is cancelled, what waits for it becomes dead letters.

        Its parent and its children are told as after an `ActorExitRequest`, which the actor itself does not see.
        """
        task = self.running_task(address)
        ref = self._actors.get(address.actorAddressString)
        if ref is not None:
            self._exit(ref, recursive=True)
        if task is not None:
            task.cancel()

    async def idle(self) -> None:
        """Wait until no message is queued and no actor busy; later wakeups and abandoned tasks do not count."""
        while self._queue or self._busy:
            waiter: asyncio.Future[None] = self._loop.create_future()
            self._idle_waiters.append(waiter)
            await waiter

    async def closed(self, timeout: float | None = None) -> int:
        """Wait, after `shutdown`, until the last cancelled or abandoned task has ended, or `timeout` seconds.

        Returns how many are left: those that ignore their cancellation.
        """
        deadline = None if timeout is None else self._loop.time() + timeout
        while self._abandoned:
            left = None if deadline is None else deadline - self._loop.time()
            if left is not None and left <= 0:
                break
            await asyncio.wait(self._abandoned, timeout=left)
        return len(self._abandoned)

    # Creation and exit

    def _refuse_if_unable(self, source_hash: str | None) -> None:
        if self._closed:
            raise ActorSystemFailure("the actor system is shut down")
        if source_hash is not None:
            raise UnsupportedCall("createActor with sourceHash", NO_SOURCES)

    def _new_ref(self, parent: ActorRef | None, name: str | None) -> ActorRef:
        self._created += 1
        return ActorRef(self, Address(f"/A~{self._created}"), parent, name or "")

    def _create_child(
        self,
        parent: ActorRef,
        actor_class: type[Actor] | str,
        requirements: Mapping[str, Any] | None,
        name: str | None,
        source_hash: str | None,
    ) -> ActorAddress:
        self._refuse_if_unable(source_hash)
        if name and (live := self._names.get(name)) is not None:
            return live.address
        if not parent.alive:
            raise InvalidActorAddress(parent.address, f"not alive and cannot create {actor_class}")
        ref = self._new_ref(parent, name)
        try:
            self._enter(ref, self._instantiate(actor_class, requirements))
        except ImportError:
            raise  # as simpleSystemBase: the creator learns at once that the class does not exist
        except BaseException:  # the class is the user's, and its creator learns it from the message
            logger.error("actor could not be created: %s", ref.key, exc_info=True)
            self._post(parent.address, self._system, ChildActorExited(ref.address))
        return ref.address

    def _instantiate(self, actor_class: type[Actor] | str, requirements: Mapping[str, Any] | None) -> Actor:
        cls: Any = actualActorClass(actor_class) if isinstance(actor_class, str) else actor_class
        check = getattr(cls, "actorSystemCapabilityCheck", None)
        if check is not None and not check(self.capabilities, requirements or {}):
            raise NoCompatibleSystemForActor(cls, "the capabilities of this system do not suffice")
        wanted = _init_arguments(cls)
        offered = {"capabilities": self.capabilities, "requirements": requirements}
        instance: Actor = cls(**{key: offered[key] for key in wanted})
        return instance

    def _enter(self, ref: ActorRef, instance: Actor) -> None:
        ref.instance = instance
        instance._myRef = ref
        instance._receive = MethodType(_receive, instance)  # type: ignore[attr-defined]  # a hook of simpleSystemBase
        ref.alive = True
        self._actors[ref.key] = ref
        if ref.globalName:
            self._names[ref.globalName] = ref
        if ref.parent is not None:
            if ref.parent.children is None:
                ref.parent.children = {}
            ref.parent.children[ref.key] = ref

    def _exit(self, ref: ActorRef, *, recursive: bool) -> None:
        if not ref.alive:
            return
        mailbox, children = ref.mailbox, ref.children
        self._release(ref)
        self._unlink(ref)
        del self._actors[ref.key]
        if self._names.get(ref.globalName) is ref:
            del self._names[ref.globalName]
        self._dead_letter_handlers.pop(ref.key, None)
        self._wakeups.drop(ref.key)
        parent = ref.parent
        if parent is not None:
            if parent.children is not None:
                parent.children.pop(ref.key, None)
            if parent.alive:
                self._post(parent.address, self._system, ChildActorExited(ref.address))
        for child in children.values() if children and recursive else ():
            self._post(child.address, self._system, ActorExitRequest())
        # Handled by the tick, which finds no receiver: dead letter handlers must not run in this stack.
        for envelope in mailbox or ():
            self._enqueue(envelope)

    def _unlink(self, ref: ActorRef) -> None:
        ref.alive = False
        # The hook is a bound method in its own instance: a cycle that would wait for the collector.
        if ref.instance is not None:
            vars(ref.instance).pop("_receive", None)
        ref.instance = None
        ref.mailbox = None
        ref.children = None

    # Messages

    def _post(self, receiver: ActorAddress, sender: ActorAddress, message: object) -> None:
        self._enqueue(Envelope(receiver, sender, message, ATTEMPTS))

    def _enqueue(self, envelope: Envelope) -> None:
        if self._closed:
            return  # what a cancelled awaitable still sends
        if self._next_tick is None:
            self._next_tick = self._loop.call_soon(self._tick, context=self._context)
        self._queue.append(envelope)

    def _wake_after(self, ref: ActorRef, period: timedelta | float, payload: object) -> None:
        if ref.alive:
            self._wakeups.add(ref.key, period, payload)

    def _wake(self, key: str, period: timedelta | float, payload: object) -> None:
        address = self._actors[key].address
        self._post(address, address, WakeupMessage(period, payload))

    def run(self) -> None:
        """Handle what is queued now, not in the loop's next pass; for callbacks of the loop, never for actors."""
        if self._next_tick is not None:
            self._next_tick.cancel()
            self._context.run(self._tick)

    def _tick(self) -> None:
        queue = self._queue
        try:
            for _ in range(min(len(queue), BATCH)):
                if not queue:
                    break  # an actor shut the system down
                envelope = queue.popleft()
                ref = self._actors.get(envelope.receiver.actorAddressString)
                if ref is None:
                    self._deliver_dead(envelope)
                else:
                    self._deliver(ref, envelope)
        finally:
            if queue:
                self._next_tick = self._loop.call_soon(self._tick, context=self._context)
            else:
                self._next_tick = None
                if self._idle_waiters:
                    self._tell_idle_waiters()

    def _deliver(self, ref: ActorRef, envelope: Envelope) -> None:
        if ref.task is not None:
            if ref.mailbox is None:
                ref.mailbox = deque()
            ref.mailbox.append(envelope)
            return
        awaitable = self._handle(ref, envelope)
        if awaitable is not None:
            self._start(ref, envelope, awaitable, eager=True)

    def _deliver_dead(self, envelope: Envelope) -> None:
        message, key = envelope.message, envelope.receiver.actorAddressString
        own_wakeup = isinstance(message, WakeupMessage) and envelope.sender is envelope.receiver
        if (
            own_wakeup
            or isinstance(message, ChildActorExited | DeadEnvelope)
            or key in (self._system.actorAddressString, self._external.actorAddressString)
        ):
            logger.debug("message without a receiver dropped: %s to %s", type(message).__name__, key)
            return
        letter = DeadEnvelope(envelope.receiver, message)
        for handler in tuple(self._dead_letter_handlers.values()):
            if handler.alive:  # an earlier handler may have shut the system down
                self._deliver(handler, Envelope(handler.address, envelope.sender, letter, ATTEMPTS))

    def _handle(self, ref: ActorRef, envelope: Envelope) -> Awaitable[object] | None:
        """Run receiveMessage, and settle the message unless there is something left to await."""
        try:
            result = ref.instance._receive(envelope.message, envelope.sender)  # type: ignore[union-attr]
        except BaseException:  # the actor mailbox; SystemExit of one actor must not end the loop of all
            logger.error("actor failed: %s", ref.key, exc_info=True)
            self._fail(envelope, traceback.format_exc(), may_retry=True)
        else:
            if result is not None and inspect.isawaitable(result):
                return result
        if isinstance(envelope.message, ActorExitRequest):
            self._exit(ref, recursive=envelope.message.isRecursive)
        return None

    def _fail(self, envelope: Envelope, details: str, *, may_retry: bool) -> None:
        message = envelope.message
        if isinstance(message, ActorExitRequest):
            return
        envelope.attempts -= 1
        if may_retry and envelope.attempts > 0:
            self._enqueue(envelope)
        elif not isinstance(message, PoisonMessage):
            poison = PoisonMessage(message, details)
            self._enqueue(Envelope(envelope.sender, envelope.receiver, poison, POISON_ATTEMPTS))

    # Awaiting

    def _start(
        self, ref: ActorRef, envelope: Envelope | None, awaitable: Awaitable[object] | None, *, eager: bool
    ) -> None:
        if not ref.alive:  # its own handler shut the system down
            _close(awaitable)
            return
        self._busy.add(ref)
        generation = ref.generation
        drain = self._drain(ref, generation, envelope, awaitable)
        if sys.version_info >= (3, 12):
            task = asyncio.Task(drain, loop=self._loop, eager_start=eager)
        else:
            task = asyncio.Task(drain, loop=self._loop)
        if not task.done() and ref.generation == generation:
            ref.task = task

    async def _drain(
        self, ref: ActorRef, generation: int, envelope: Envelope | None, awaitable: Awaitable[object] | None
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
                    self._fail(envelope, details, may_retry=False)
                if isinstance(envelope.message, ActorExitRequest):
                    self._exit(ref, recursive=envelope.message.isRecursive)
            elif not ref.mailbox:
                ref.task = None  # this task, which ends here
                self._release(ref)
            elif budget == 0:
                # Nothing says whether the last awaitables really waited; the loop must see its sockets.
                budget = BATCH
                with suppress(asyncio.CancelledError):  # of a message that has ended
                    await asyncio.sleep(0)
                await _absorb_cancellation(task)
            else:
                budget -= 1
                envelope = ref.mailbox.popleft()
                awaitable = self._handle(ref, envelope)
        if awaitable is not None:
            _close(awaitable)  # never awaited: the system was shut down before this task's first step
        if self._idle_waiters:
            self._tell_idle_waiters()

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

    def _release(self, ref: ActorRef) -> None:
        """Take the mailbox from the drain task, which is kept until it ends, and make the actor idle."""
        task = ref.task
        ref.generation += 1
        ref.task = ref.current = None
        self._busy.discard(ref)
        if not ref.mailbox:
            ref.mailbox = None
        if task is not None and not task.done():
            self._abandoned.add(task)
            task.add_done_callback(self._abandoned.discard)

    def _tell_idle_waiters(self) -> None:
        if not self._queue and not self._busy:
            waiters, self._idle_waiters = self._idle_waiters, []
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(None)


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

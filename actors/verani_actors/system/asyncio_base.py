"""Thespian's actor system on one asyncio event loop: `ActorSystem(systemBase=AsyncioSystemBase(),
transientUnique=True)`.

It carries messages between the actors of one process. It opens no socket, starts no thread and never
blocks; it loads no sources and joins no convention. It is not thread-safe: another thread goes through
`loop.call_soon_threadsafe`.

`receiveMessage` may return an awaitable. Then that actor's next message waits in its mailbox while other
actors go on.

Invariants (those of messages are in `run_queue`, those of awaitables in `busy_actors`): every operation is O(1) in the
number of actors, children and names (a wakeup: O(log n) of the pending wakeups); an actor that is gone leaves no entry
in any table.

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
import functools
import inspect
import logging
import sys
import time
from collections.abc import Hashable, Mapping
from datetime import timedelta
from typing import Any

from thespian.actors import (
    Actor,
    ActorAddress,
    ActorSystemFailure,
    ChildActorExited,
    InvalidActorAddress,
    NoCompatibleSystemForActor,
    ThespianGeneration,
)
from thespian.system.utilis import actualActorClass

from .actor_directory import ActorDirectory
from .reference import EXTERNAL, NO_SOURCES, SYSTEM, ActorRef, Envelope, UnsupportedCall
from .run_queue import ATTEMPTS, RunQueue

__all__ = ["AsyncioSystemBase", "UnsupportedCall"]

logger = logging.getLogger(__name__)


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
        self._directory = ActorDirectory()
        self._run_queue = RunQueue(self._loop, self._directory)
        # Its own: asked for every frame.
        self.is_quiet = self._run_queue.is_quiet
        # Handles what is queued now, not in the loop's next pass; for callbacks of the loop, never for actors. On the
        # way of every frame, hence not a method that calls this one.
        self.run = self._run_queue.run
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
        return len(self._directory.live)

    @property
    def has_nothing_to_do(self) -> bool:
        """Whether no message waits for its turn; an actor may still await something."""
        return not self._run_queue.messages

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
        if name and (live := self._directory.names.get(name)) is not None:
            return live.address
        ref = self._directory.reserve(self, None, name)
        try:
            self._directory.enter(ref, self._instantiate(actor_class, requirements))
        except (SystemExit, KeyboardInterrupt, GeneratorExit) as exc:
            # Left as it is, it would end the loop of the caller.
            raise ActorSystemFailure(f"creating {actor_class} raised {exc!r}") from exc
        return ref.address

    def tell(self, address: ActorAddress, message: object) -> None:
        """Send from outside the system; what the actor sends back is dropped (see `request`)."""
        if self._run_queue.closed:
            self._refuse_if_unable(None)
        self._run_queue.enqueue(Envelope(address, EXTERNAL, message, ATTEMPTS))

    async def request(self, address: ActorAddress, message: object, timeout: float | None = 5.0) -> Any:
        """Send from an address of its own; return the first message sent there, be it a `PoisonMessage`.

        TimeoutError after `timeout` seconds; an answer that comes later becomes a dead letter.
        """
        self._refuse_if_unable(None)
        answer: asyncio.Future[Any] = self._loop.create_future()
        inbox = self._directory.reserve(self, None, None)
        self._directory.enter(inbox, _Inbox(answer))
        try:
            self._run_queue.post(address, inbox.address, message)
            async with asyncio.timeout(timeout):
                return await answer
        finally:
            self._run_queue.exit(inbox, recursive=True)
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
        if self._run_queue.closed:
            return
        self._run_queue.close()
        for ref in self._directory.live.values():
            if isinstance(ref.instance, _Inbox):
                ref.instance.refuse()
        self._directory.clear()

    # What actors call, by way of their `ActorRef`

    def _post(self, receiver: ActorAddress, sender: ActorAddress, message: object) -> None:
        self._run_queue.post(receiver, sender, message)

    def _wake_after(self, ref: ActorRef, period: timedelta | float, payload: object) -> None:
        self._run_queue.wake_after(ref, period, payload)

    def _shutdown_soon(self) -> None:
        self._loop.call_soon(self.shutdown)  # not now: an actor asks for it, inside its own call

    def _handleDeadLetters(self, address: ActorAddress, enable: bool) -> None:
        ref = self._directory.find(address)
        if ref is not None and enable:
            self._run_queue.dead_letters.handlers[ref.key] = ref
        else:
            self._run_queue.dead_letters.handlers.pop(address.actorAddressString, None)

    def _create_child(
        self,
        parent: ActorRef,
        actor_class: type[Actor] | str,
        requirements: Mapping[str, Any] | None,
        name: str | None,
        source_hash: str | None,
    ) -> ActorAddress:
        self._refuse_if_unable(source_hash)
        if name and (live := self._directory.names.get(name)) is not None:
            return live.address
        if not parent.alive:
            raise InvalidActorAddress(parent.address, f"not alive and cannot create {actor_class}")
        ref = self._directory.reserve(self, parent, name)
        try:
            self._directory.enter(ref, self._instantiate(actor_class, requirements))
        except ImportError:
            raise  # as simpleSystemBase: the creator learns at once that the class does not exist
        except BaseException:  # the class is the user's, and its creator learns it from the message
            logger.error("actor could not be created: %s", ref.key, exc_info=True)
            self._run_queue.post(parent.address, SYSTEM, ChildActorExited(ref.address))
        return ref.address

    # Watching over actors

    def running_task(self, address: ActorAddress) -> asyncio.Task[None] | None:
        """Return the task that awaits for this actor now; to cancel it fails that one message, not the actor."""
        ref = self._directory.find(address)
        return None if ref is None or ref.current is None else ref.task

    def abandon(self, address: ActorAddress) -> bool:
        """Give up the awaitable that runs for this actor, which goes on with its next message in a new task.

        The old task is left to end on its own; nobody learns its outcome. An abandoned `ActorExitRequest`
        counts as handled. Return False if nothing is awaited for this actor.
        """
        ref = self._directory.find(address)
        return ref is not None and self._run_queue.abandon(ref)

    def kill(self, address: ActorAddress) -> None:
        """End an actor now: what is awaited for it is cancelled, what waits for it becomes dead letters.

        Its parent and its children are told as after an `ActorExitRequest`, which the actor itself does not see.
        """
        task = self.running_task(address)
        ref = self._directory.find(address)
        if ref is not None:
            self._run_queue.exit(ref, recursive=True)
        if task is not None:
            task.cancel()

    async def idle(self) -> None:
        """Wait until no message is queued and no actor busy; later wakeups and abandoned tasks do not count."""
        await self._run_queue.idle()

    async def closed(self, timeout: float | None = None) -> int:
        """Wait, after `shutdown`, until the last cancelled or abandoned task has ended, or `timeout` seconds.

        Returns how many are left: those that ignore their cancellation.
        """
        return await self._run_queue.busy.ended(timeout)

    # Creation

    def _refuse_if_unable(self, source_hash: str | None) -> None:
        if self._run_queue.closed:
            raise ActorSystemFailure("the actor system is shut down")
        if source_hash is not None:
            raise UnsupportedCall("createActor with sourceHash", NO_SOURCES)

    def _instantiate(self, actor_class: type[Actor] | str, requirements: Mapping[str, Any] | None) -> Actor:
        cls: Any = actualActorClass(actor_class) if isinstance(actor_class, str) else actor_class
        check = getattr(cls, "actorSystemCapabilityCheck", None)
        if check is not None and not check(self.capabilities, requirements or {}):
            raise NoCompatibleSystemForActor(cls, "the capabilities of this system do not suffice")
        wanted = _init_arguments(cls)
        offered = {"capabilities": self.capabilities, "requirements": requirements}
        instance: Actor = cls(**{key: offered[key] for key in wanted})
        return instance

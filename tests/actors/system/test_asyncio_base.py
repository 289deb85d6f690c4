"""The asyncio system base on its own: awaitables, abandoning, wakeups, refusals, and that nothing is left behind.

What it shares with Thespian's own base is in `test_system_parity.py`.
"""

import asyncio
import contextvars
import gc
import inspect
import itertools
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import closing
from datetime import timedelta
from typing import Any, TypeVarTuple

import pytest
from thespian.actors import (
    Actor,
    ActorAddress,
    ActorExitRequest,
    ActorSystem,
    ActorSystemFailure,
    ActorTypeDispatcher,
    ChildActorExited,
    DeadEnvelope,
    InvalidActorAddress,
    NoCompatibleSystemForActor,
    PoisonMessage,
    WakeupMessage,
    requireCapability,
)

from verani_actors.system.asyncio_base import AsyncioSystemBase, UnsupportedCall
from verani_actors.system.busy_actors import BATCH
from verani_actors.system.wakeups import SLACK, Wakeups


@pytest.fixture
async def base() -> AsyncIterator[AsyncioSystemBase]:
    before = asyncio.all_tasks()
    # What escapes to the loop is the base's own mistake, and asyncio would only log it.
    escaped: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: escaped.append(context))
    base = AsyncioSystemBase()
    yield base
    base.shutdown()
    await base.closed()
    assert escaped == []
    assert asyncio.all_tasks() - {asyncio.current_task()} <= before


Call = Callable[["Probe", ActorAddress], Any]
# What all actors of a test did, in order.
Log = list[str]


class Probe(Actor):
    """Runs `act` on each message, and returns what it returns; without it, records the message."""

    def __init__(self) -> None:
        self.seen: list[Any] = []
        self.act: Callable[[Any, ActorAddress], Any] = lambda msg, sender: self.seen.append(msg)

    def receiveMessage(self, msg: Any, sender: ActorAddress) -> Any:
        return self.act(msg, sender)


def probe(base: AsyncioSystemBase, name: str | None = None) -> tuple[ActorAddress, Probe]:
    address = base.newPrimaryActor(Probe, None, name)
    actor = base._directory.live[address.actorAddressString].instance
    assert isinstance(actor, Probe)
    return address, actor


def awaiting(base: AsyncioSystemBase, log: Log) -> tuple[ActorAddress, Probe]:
    """Create an actor that awaits the coroutine function it is sent and logs the name of anything else."""
    address, actor = probe(base)

    def act(msg: Any, sender: ActorAddress) -> Awaitable[object] | None:
        if inspect.iscoroutinefunction(msg):
            result: Awaitable[object] = msg()
            return result
        log.append(msg if isinstance(msg, str) else type(msg).__name__)
        return None

    actor.act = act
    return address, actor


async def passes(count: int = 3) -> None:
    """Let the loop run everything that is ready."""
    for _ in range(count):
        await asyncio.sleep(0)


# Awaitables


async def test_an_awaited_message_holds_back_its_own_actor_and_nobody_else(base: AsyncioSystemBase) -> None:
    log: Log = []
    opened = asyncio.Event()

    async def wait() -> None:
        log.append("begin")
        await opened.wait()
        log.append("end")

    slow, _ = awaiting(base, log)
    other, _ = awaiting(base, log)
    base.tell(slow, wait)
    base.tell(slow, "slow")
    base.tell(other, "other")
    await passes()
    assert log == ["begin", "other"] or log == ["other", "begin"]  # eager start: Python 3.12 only
    opened.set()
    await base.idle()
    assert log[2:] == ["end", "slow"]


@pytest.mark.parametrize("kind", ["coroutine", "future", "object"])
async def test_anything_awaitable_is_awaited(base: AsyncioSystemBase, kind: str) -> None:
    address, actor = probe(base)
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def coroutine() -> None:
        await future

    class Object:
        def __await__(self) -> Any:
            return future.__await__()

    results = {"coroutine": coroutine, "future": lambda: future, "object": Object}
    actor.act = lambda msg, sender: results[kind]() if msg == "wait" else actor.seen.append(msg)
    base.tell(address, "wait")
    base.tell(address, "next")
    await passes()
    assert actor.seen == []
    future.set_result(None)
    await base.idle()
    assert actor.seen == ["next"]


async def test_a_result_that_is_not_awaitable_is_ignored(base: AsyncioSystemBase) -> None:
    address, actor = probe(base)

    def act(msg: object, sender: ActorAddress) -> int:
        actor.seen.append(msg)
        return 17

    actor.act = act
    base.tell(address, 1)
    base.tell(address, 2)
    await base.idle()
    assert actor.seen == [1, 2]


async def test_messages_of_one_sender_keep_their_order_whether_awaited_or_not(base: AsyncioSystemBase) -> None:
    address, actor = probe(base)

    async def record(number: int) -> None:
        if number % 3 == 0:
            await asyncio.sleep(0)
        actor.seen.append(number)

    actor.act = lambda msg, sender: record(msg) if msg % 2 else actor.seen.append(msg)
    for number in range(3 * BATCH):
        base.tell(address, number)
        if number % 100 == 0:
            await asyncio.sleep(0)
    await base.idle()
    assert actor.seen == list(range(3 * BATCH))


async def test_an_actor_that_only_returns_none_costs_no_task(base: AsyncioSystemBase) -> None:
    address, actor = probe(base)
    tasks: list[set[asyncio.Task[Any]]] = []
    actor.act = lambda msg, sender: tasks.append(asyncio.all_tasks())
    base.tell(address, 1)
    await base.idle()
    assert tasks == [asyncio.all_tasks()]


async def test_one_task_serves_the_whole_mailbox_of_a_busy_actor(base: AsyncioSystemBase) -> None:
    address, actor = probe(base)

    async def record() -> None:
        actor.seen.append(asyncio.current_task())
        await asyncio.sleep(0)

    actor.act = lambda msg, sender: record()
    for number in range(5):
        base.tell(address, number)
    await base.idle()
    assert len(set(actor.seen)) == 1


async def test_sending_never_runs_the_receiver_inside_the_senders_call(base: AsyncioSystemBase) -> None:
    log: Log = []
    receiver, b = probe(base)

    async def receive() -> None:
        log.append("receiver")

    b.act = lambda msg, sender: receive()
    address, a = probe(base)

    async def send_in_task() -> None:
        a.send(receiver, 2)
        log.append("sent from the task")
        await asyncio.sleep(0)

    def send(msg: object, sender: ActorAddress) -> Awaitable[None]:
        a.send(receiver, 1)
        log.append("sent from the call")
        return send_in_task()

    a.act = send
    base.tell(address, "go")
    log.append("told")
    await base.idle()
    assert log[:2] == ["told", "sent from the call"]
    assert sorted(log[2:]) == ["receiver", "receiver", "sent from the task"]


@pytest.mark.skipif(sys.version_info < (3, 12), reason="asyncio.Task starts eagerly from Python 3.12 on")
async def test_a_message_to_an_idle_actor_starts_in_the_tick(base: AsyncioSystemBase) -> None:
    log: Log = []
    address, actor = probe(base)

    async def receive() -> None:
        log.append("receiver")

    actor.act = lambda msg, sender: receive()
    base.tell(address, 1)
    asyncio.get_running_loop().call_soon(log.append, "next callback")
    await base.idle()
    await passes()
    assert log == ["receiver", "next callback"]


async def test_a_flood_lets_the_loop_go_on(base: AsyncioSystemBase) -> None:
    """Neither a tick over idle actors nor a drain task over awaitables that never wait hogs the loop."""
    loop = asyncio.get_running_loop()
    sync_address, sync_actor = probe(base)
    async_address, async_actor = probe(base)

    async def record() -> None:
        async_actor.seen.append(None)

    seen: list[tuple[int, int]] = []

    def watch() -> None:
        seen.append((len(sync_actor.seen), len(async_actor.seen)))
        if base._run_queue.messages or base._run_queue.busy.running:
            loop.call_soon(watch)

    opened = asyncio.Event()
    async_actor.act = lambda msg, sender: opened.wait()
    base.tell(async_address, "fill the mailbox while this one waits")
    await passes()
    async_actor.act = lambda msg, sender: record()
    for _ in range(4 * BATCH):
        base.tell(async_address, None)
    await passes(10)
    assert async_actor.seen == []
    opened.set()
    for _ in range(4 * BATCH):
        base.tell(sync_address, None)
    watch()
    await base.idle()
    steps = [(b[0] - a[0], b[1] - a[1]) for a, b in itertools.pairwise(seen)]
    assert max(step[0] for step in steps) <= BATCH
    assert max(step[1] for step in steps) <= BATCH
    assert (len(sync_actor.seen), len(async_actor.seen)) == (4 * BATCH, 4 * BATCH)


async def test_actors_do_not_see_the_context_of_whoever_sent_first(base: AsyncioSystemBase) -> None:
    variable = contextvars.ContextVar("variable", default="none")
    address, actor = probe(base)
    actor.act = lambda msg, sender: actor.seen.append(variable.get())
    variable.set("teller")
    base.tell(address, 1)
    await base.idle()
    assert actor.seen == ["none"]


# Failure and cancellation


async def test_a_failing_awaitable_is_not_retried_and_its_sender_gets_the_poison(base: AsyncioSystemBase) -> None:
    log: Log = []

    async def fail() -> None:
        log.append("run")
        await asyncio.sleep(0)
        raise ValueError("broken")

    address, _ = awaiting(base, log)
    answer = await base.request(address, fail)
    assert isinstance(answer, PoisonMessage)
    assert answer.poisonMessage is fail
    assert answer.details is not None
    assert "ValueError: broken" in answer.details
    base.tell(address, "next")
    await base.idle()
    assert log == ["run", "next"]


@pytest.mark.parametrize("failure", [SystemExit, KeyboardInterrupt, asyncio.CancelledError, ValueError])
async def test_no_exception_of_an_actor_reaches_the_loop(base: AsyncioSystemBase, failure: type[BaseException]) -> None:
    log: Log = []
    address, actor = awaiting(base, log)

    async def fail() -> None:
        await asyncio.sleep(0)
        raise failure

    assert isinstance(await base.request(address, fail), PoisonMessage)
    plain = actor.act

    def fail_at_once(msg: object, sender: ActorAddress) -> None:
        log.append("run")
        raise failure

    actor.act = fail_at_once
    assert isinstance(await base.request(address, "x"), PoisonMessage)
    actor.act = plain
    base.tell(address, "next")
    await base.idle()
    assert log == ["run", "run", "run", "next"]


async def test_poison_that_fails_in_an_awaitable_is_not_answered_with_poison(base: AsyncioSystemBase) -> None:
    log: Log = []
    receiver, b = probe(base)
    address, a = probe(base)

    async def fail(who: str) -> None:
        log.append(who)
        raise ValueError

    b.act = lambda msg, sender: fail(f"b {type(msg).__name__}")
    a.act = lambda msg, sender: a.send(receiver, 1) if msg == "go" else fail(f"a {type(msg).__name__}")
    base.tell(address, "go")
    await base.idle()
    assert log == ["b int", "a PoisonMessage"]


async def test_cancelling_the_running_task_fails_one_message_only(base: AsyncioSystemBase) -> None:
    log: Log = []
    address, _ = awaiting(base, log)
    assert base.running_task(address) is None

    async def hang() -> None:
        await asyncio.Event().wait()

    answer = asyncio.ensure_future(base.request(address, hang))
    base_started = asyncio.Event()

    async def started() -> None:
        base_started.set()

    await passes()
    task = base.running_task(address)
    assert task is not None
    base.tell(address, started)
    base.tell(address, "next")
    task.cancel()
    assert isinstance(await answer, PoisonMessage)
    await base.idle()
    assert base_started.is_set()
    assert log == ["next"]
    assert task.cancelling() == 0
    assert not task.cancelled()


async def test_a_cancellation_that_comes_too_late_does_not_hit_the_next_message(base: AsyncioSystemBase) -> None:
    log: Log = []
    address, _ = awaiting(base, log)

    async def cancel_itself() -> None:
        task = base.running_task(address)
        assert task is asyncio.current_task()
        assert task is not None
        task.cancel()  # thrown at the next await, which this message no longer has

    async def next_message() -> None:
        await asyncio.sleep(0)
        log.append("next")

    base.tell(address, cancel_itself)
    base.tell(address, next_message)
    await base.idle()
    assert log == ["next"]


async def test_timeouts_inside_an_actor_work_as_anywhere(base: AsyncioSystemBase) -> None:
    log: Log = []
    address, _ = awaiting(base, log)

    async def time_out() -> None:
        try:
            async with asyncio.timeout(0):
                await asyncio.Event().wait()
        except TimeoutError:
            log.append("timed out")

    base.tell(address, time_out)
    await base.idle()
    assert log == ["timed out"]


# Abandoning


async def test_an_abandoned_awaitable_goes_on_alone_and_the_actor_with_its_mailbox(base: AsyncioSystemBase) -> None:
    log: Log = []
    opened = asyncio.Event()
    address, _ = awaiting(base, log)

    async def hang() -> None:
        await opened.wait()
        log.append("late")

    base.tell(address, hang)
    base.tell(address, "one")
    base.tell(address, "two")
    await passes()
    old = base.running_task(address)
    assert old is not None
    assert base.abandon(address) is True
    assert log == []  # not inside this call
    assert base.abandon(address) is False
    await base.idle()
    assert log == ["one", "two"]
    gc.collect()  # only the base holds the old task
    opened.set()
    await old
    assert log == ["one", "two", "late"]
    base.tell(address, "three")
    await base.idle()
    assert log[-1] == "three"
    assert not base._run_queue.busy.abandoned


async def test_an_abandoned_task_never_touches_the_mailbox_again(base: AsyncioSystemBase) -> None:
    log: Log = []
    first, second = asyncio.Event(), asyncio.Event()
    address, _ = awaiting(base, log)

    async def wait(event: asyncio.Event) -> None:
        await event.wait()

    async def wait_first() -> None:
        await wait(first)

    async def wait_second() -> None:
        await wait(second)

    base.tell(address, wait_first)
    await passes()
    old = base.running_task(address)
    assert old is not None
    base.abandon(address)
    base.tell(address, wait_second)
    base.tell(address, "after the second")
    await passes()
    first.set()
    await old
    await passes()
    assert log == []
    current = base.running_task(address)
    assert current is not None
    assert current is not old
    second.set()
    await base.idle()
    assert log == ["after the second"]


@pytest.mark.parametrize("failure", [ValueError, SystemExit, asyncio.CancelledError])
async def test_what_an_abandoned_awaitable_raises_is_nobodys_business(
    base: AsyncioSystemBase, failure: type[BaseException]
) -> None:
    opened = asyncio.Event()
    address, _ = awaiting(base, [])
    asker, a = probe(base)

    async def fail() -> None:
        await opened.wait()
        raise failure

    a.act = lambda msg, sender: a.send(address, fail) if msg == "go" else a.seen.append(msg)
    base.tell(asker, "go")
    await passes(5)
    old = base.running_task(address)
    assert old is not None
    base.abandon(address)
    opened.set()
    await old
    await base.idle()
    assert a.seen == []


async def test_there_is_nothing_to_abandon_for_an_idle_or_unknown_actor(base: AsyncioSystemBase) -> None:
    address, _ = probe(base)
    assert base.abandon(address) is False
    assert base.abandon(ActorAddress("elsewhere")) is False
    assert base.running_task(ActorAddress("elsewhere")) is None


async def test_an_actor_may_abandon_its_own_message(base: AsyncioSystemBase) -> None:
    log: Log = []
    address, _ = awaiting(base, log)

    async def give_up() -> None:
        assert base.abandon(address)
        await asyncio.sleep(0)
        log.append("old")

    base.tell(address, give_up)
    base.tell(address, "next")
    await passes(6)
    assert sorted(log) == ["next", "old"]


# Exit


async def test_an_exit_request_waits_for_the_message_before_it_and_may_itself_await(base: AsyncioSystemBase) -> None:
    log: Log = []
    opened, closing = asyncio.Event(), asyncio.Event()
    address, actor = probe(base, "room")
    letters, _ = dead_letters(base)

    async def wait(name: str, event: asyncio.Event) -> None:
        await event.wait()
        log.append(name)

    actor.act = lambda msg, sender: wait("exit", closing) if isinstance(msg, ActorExitRequest) else wait("work", opened)
    base.tell(address, "work")
    base.tell(address, ActorExitRequest())
    base.tell(address, "too late")
    await passes()
    assert base.newPrimaryActor(Probe, None, "room") == address
    opened.set()
    await passes(5)
    assert log == ["work"]
    assert address.actorAddressString in base._directory.live
    closing.set()
    await base.idle()
    assert log == ["work", "exit"]
    assert address.actorAddressString not in base._directory.live
    assert letters == ["too late"]


def dead_letters(base: AsyncioSystemBase) -> tuple[list[object], ActorAddress]:
    """Create a dead letter handler; return the list of the dead messages it gets."""
    address, actor = probe(base)
    letters: list[object] = []

    def act(msg: object, sender: ActorAddress) -> None:
        if isinstance(msg, DeadEnvelope):
            letters.append(msg.deadMessage)
        else:
            actor.handleDeadLetters(msg == "start")

    actor.act = act
    base.tell(address, "start")
    return letters, address


async def test_an_exit_request_whose_awaitable_is_abandoned_counts_as_handled(base: AsyncioSystemBase) -> None:
    address, actor = probe(base)
    letters, _ = dead_letters(base)

    async def hang() -> None:
        await asyncio.Event().wait()

    actor.act = lambda msg, sender: hang()
    base.tell(address, ActorExitRequest())
    base.tell(address, "left")
    await passes()
    assert base.abandon(address)
    await base.idle()
    assert address.actorAddressString not in base._directory.live
    assert letters == ["left"]


@pytest.mark.parametrize("awaited", [False, True])
async def test_an_exit_request_that_fails_is_not_retried_and_the_actor_is_gone(
    base: AsyncioSystemBase, awaited: bool
) -> None:
    address, actor = probe(base)
    letters, _ = dead_letters(base)

    async def fail() -> None:
        actor.seen.append("exit")
        raise ValueError

    def fail_at_once() -> None:
        actor.seen.append("exit")
        raise ValueError

    actor.act = lambda msg, sender: fail() if awaited else fail_at_once()
    base.tell(address, ActorExitRequest())
    await base.idle()
    assert actor.seen == ["exit"]
    assert address.actorAddressString not in base._directory.live
    assert letters == []


async def test_children_outlive_a_request_that_is_not_recursive(base: AsyncioSystemBase) -> None:
    address, parent = probe(base)
    parent.act = lambda msg, sender: parent.createActor(Probe) if msg == "create" else None
    base.tell(address, "create")
    await base.idle()
    assert len(base) == 2
    base.tell(address, ActorExitRequest(recursive=False))
    await base.idle()
    assert len(base) == 1


async def test_every_dead_letter_handler_gets_each_dead_letter(base: AsyncioSystemBase) -> None:
    first, first_address = dead_letters(base)
    second, second_address = dead_letters(base)
    gone = ActorAddress("gone")
    base.tell(gone, 1)
    await base.idle()
    base.tell(first_address, "stop")
    base.tell(gone, 2)
    await base.idle()
    base.tell(second_address, ActorExitRequest())
    base.tell(gone, 3)
    await base.idle()
    assert (first, second) == ([1], [1, 2])
    assert not base._run_queue.dead_letters.handlers


async def test_a_dead_letter_names_the_address_object(base: AsyncioSystemBase) -> None:
    address, actor = probe(base)
    actor.act = lambda msg, sender: actor.handleDeadLetters() if msg == "start" else actor.seen.append(msg)
    base.tell(address, "start")
    base.tell(ActorAddress("gone"), "x")
    await base.idle()
    assert actor.seen == [DeadEnvelope(ActorAddress("gone"), "x")]
    assert isinstance(actor.seen[0].deadAddress, ActorAddress)


async def test_dead_letters_about_dead_letters_do_not_run_in_circles(base: AsyncioSystemBase) -> None:
    address, actor = probe(base)
    gone = ActorAddress("gone")

    def act(msg: object, sender: ActorAddress) -> None:
        actor.seen.append(msg)
        if msg == "start":
            actor.handleDeadLetters()
        else:
            actor.send(gone, msg)

    actor.act = act
    base.tell(address, "start")
    base.tell(gone, "x")
    await base.idle()
    assert len(actor.seen) == 2


# Creation


class Refuses(Actor):
    def __init__(self) -> None:
        raise KeyboardInterrupt


@requireCapability("gpu")
class NeedsGpu(Actor):
    def __init__(self, capabilities: Any = None) -> None:
        self.offered = capabilities

    def receiveMessage(self, msg: Any, sender: ActorAddress) -> None:
        self.send(sender, self.offered["gpu"])


async def test_a_top_level_actor_without_its_capabilities_is_refused_aloud(base: AsyncioSystemBase) -> None:
    with pytest.raises(NoCompatibleSystemForActor):
        base.newPrimaryActor(NeedsGpu, None, "gpu")
    base.updateCapability("gpu", 3)
    address = base.newPrimaryActor(NeedsGpu, None, "gpu")
    assert await base.request(address, "?") == 3
    base.updateCapability("gpu")
    with pytest.raises(NoCompatibleSystemForActor):
        base.newPrimaryActor(NeedsGpu)


async def test_an_actor_that_ends_the_interpreter_in_its_init_only_fails(base: AsyncioSystemBase) -> None:
    with pytest.raises(ActorSystemFailure):
        base.newPrimaryActor(Refuses, None, "name")
    address, parent = probe(base)
    parent.act = lambda msg, sender: parent.createActor(Refuses) if msg == "go" else parent.seen.append(msg)
    base.tell(address, "go")
    await base.idle()
    assert [type(msg) for msg in parent.seen] == [ChildActorExited]
    assert len(base) == 1
    assert not base._directory.names


async def test_a_class_may_be_given_by_its_full_name(base: AsyncioSystemBase) -> None:
    address = base.newPrimaryActor("thespian.actors.ActorTypeDispatcher")
    assert type(base._directory.live[address.actorAddressString].instance) is ActorTypeDispatcher


async def test_a_dead_actor_cannot_create_or_be_woken(base: AsyncioSystemBase) -> None:
    address, actor = probe(base)
    base.tell(address, ActorExitRequest())
    await base.idle()
    with pytest.raises(InvalidActorAddress):
        actor.createActor(Probe)
    actor.wakeupAfter(0)
    actor.wakeupAfter(10)
    actor.handleDeadLetters()
    assert not base._run_queue.wakeups
    assert not base._run_queue.dead_letters.handlers
    assert not base._run_queue.messages


async def test_an_address_is_never_used_again(base: AsyncioSystemBase) -> None:
    first, _ = probe(base, "room")
    base.tell(first, ActorExitRequest())
    await base.idle()
    second, _ = probe(base, "room")
    assert first != second
    assert second == ActorAddress(second.addressDetails)


async def test_an_actor_knows_its_name_and_address(base: AsyncioSystemBase) -> None:
    address, named = probe(base, "room")
    _, nameless = probe(base)
    assert (named.globalName, nameless.globalName) == ("room", "")
    assert named.myAddress == address


# Wakeups


Ts = TypeVarTuple("Ts")


class FrozenLoop(asyncio.BaseEventLoop):
    """A loop whose clock stands until it is advanced, and which only keeps timers."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.timers: list[asyncio.TimerHandle] = []

    def time(self) -> float:
        return self.now

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        self.timers.remove(handle)

    def call_at(
        self,
        when: float,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        self.timers.append(handle)
        return handle

    def advance(self, seconds: float) -> None:
        self.now += seconds
        while due := [timer for timer in self.timers if timer.when() <= self.now]:
            self.timers = [timer for timer in self.timers if timer not in due]
            for timer in due:
                timer._run()


@pytest.fixture
def frozen_loop() -> Iterator[FrozenLoop]:
    with closing(FrozenLoop()) as loop:
        yield loop


async def test_wakeups_come_in_the_order_of_their_deadlines_then_of_their_requests(frozen_loop: FrozenLoop) -> None:
    loop = frozen_loop
    woken: list[object] = []
    wakeups = Wakeups(loop, lambda owner, period, payload: woken.append(payload))
    for number in range(50):
        wakeups.add("a", 5, number)
    wakeups.add("a", 1, "first")
    wakeups.add("a", timedelta(seconds=7), "last")
    wakeups.add("a", 0, "at once")
    assert woken == ["at once"]
    loop.advance(6)
    assert woken == ["at once", "first", *range(50)]
    loop.advance(1)
    assert woken[-1] == "last"
    assert not wakeups._owned
    assert not wakeups._heap
    assert loop.timers == []


async def test_dropped_wakeups_leave_a_bounded_heap(frozen_loop: FrozenLoop) -> None:
    loop = frozen_loop
    wakeups = Wakeups(loop, lambda owner, period, payload: None)
    for number in range(10_000):
        wakeups.add(f"owner {number}", 3600, "payload")
        wakeups.add(f"owner {number}", 60, "payload")
        wakeups.drop(f"owner {number}")
    assert len(wakeups) == 0
    assert not wakeups._owned
    assert len(wakeups._heap) <= SLACK + 2
    assert len(loop.timers) <= 2


async def test_a_period_that_is_not_a_time_is_refused_and_a_nan_does_no_harm(base: AsyncioSystemBase) -> None:
    _, actor = probe(base)
    with pytest.raises(TypeError):
        actor.wakeupAfter("soon")  # type: ignore[arg-type]  # the point of the test
    actor.wakeupAfter(float("nan"))
    actor.wakeupAfter(float("inf"))
    await base.idle()
    assert [type(msg) for msg in actor.seen] == [WakeupMessage]


async def test_an_actor_that_is_gone_is_not_woken(base: AsyncioSystemBase) -> None:
    letters, _ = dead_letters(base)
    address, actor = probe(base)
    done = asyncio.Event()
    _, other = probe(base)
    other.act = lambda msg, sender: done.set()
    actor.wakeupAfter(0.001)
    other.wakeupAfter(0.002)
    base.tell(address, ActorExitRequest())
    actor.wakeupAfter(0)  # queued behind the exit request
    await done.wait()
    await base.idle()
    assert letters == []
    assert [type(msg) for msg in actor.seen] == [ActorExitRequest]


# The calls of ActorSystem


async def test_actor_system_accepts_the_base_and_shares_its_capabilities(base: AsyncioSystemBase) -> None:
    system = ActorSystem(systemBase=base, capabilities=base.capabilities, transientUnique=True)
    address = system.createActor(Probe, globalName="room")
    assert system.createActor(Probe, globalName="room") == address
    system.updateCapability("colour", "red")
    assert base.capabilities["colour"] == "red"
    system.tell(address, "hello")
    await base.idle()
    actor = base._directory.live[address.actorAddressString].instance
    assert isinstance(actor, Probe)
    assert actor.seen == ["hello"]
    actor.updateCapability("colour", None)
    assert "colour" not in system.capabilities
    system.shutdown()
    assert len(base) == 0


async def test_what_would_block_or_cannot_be_done_says_so_by_name(base: AsyncioSystemBase) -> None:
    system = ActorSystem(systemBase=base, transientUnique=True)
    address, actor = probe(base)
    calls: dict[str, Callable[[], object]] = {
        "ask": lambda: system.ask(address, 1, 1),
        "listen": lambda: system.listen(1),
        "private": lambda: system.private().__enter__(),
        "loadActorSource": lambda: system.loadActorSource("x.zip"),
        "unloadActorSource": lambda: actor.unloadActorSource("hash"),
        "registerSourceAuthority": actor.registerSourceAuthority,
        "notifyOnSourceAvailability": actor.notifyOnSourceAvailability,
        "preRegisterRemoteSystem": lambda: actor.preRegisterRemoteSystem("a", {}),
        "deRegisterRemoteSystem": lambda: actor.deRegisterRemoteSystem("a"),
        "createActor with sourceHash": lambda: actor.createActor(Probe, sourceHash="hash"),
    }
    for name, call in calls.items():
        with pytest.raises(UnsupportedCall, match=name) as refused:
            call()
        assert refused.value.call == name
        assert refused.value.instead in str(refused.value)
    actor.notifyOnSystemRegistrationChanges()  # ignored, as simpleSystemBase ignores it


async def test_each_request_gets_its_own_answer(base: AsyncioSystemBase) -> None:
    address, actor = probe(base)

    async def answer(msg: int, sender: ActorAddress) -> None:
        await asyncio.sleep(0)
        actor.send(sender, msg * 2)

    actor.act = answer
    answers = await asyncio.gather(*(base.request(address, number) for number in range(20)))
    assert answers == [number * 2 for number in range(20)]
    assert len(base) == 1


async def test_an_answer_after_the_timeout_becomes_a_dead_letter(base: AsyncioSystemBase) -> None:
    letters, _ = dead_letters(base)
    address, actor = probe(base)
    senders: list[ActorAddress] = []
    actor.act = lambda msg, sender: senders.append(sender)
    with pytest.raises(TimeoutError):
        await base.request(address, "?", timeout=0.001)
    actor.send(senders[0], "late")
    await base.idle()
    assert letters == ["late"]


async def test_a_run_queueer_may_have_awaitable_methods(base: AsyncioSystemBase) -> None:
    class Dispatcher(ActorTypeDispatcher):
        async def receiveMsg_str(self, msg: str, sender: ActorAddress) -> None:
            await asyncio.sleep(0)
            self.send(sender, msg.upper())

    assert await base.request(base.newPrimaryActor(Dispatcher), "hello") == "HELLO"


# Shutdown


async def test_shutdown_cancels_what_is_awaited_or_abandoned_and_leaves_no_task() -> None:
    before = asyncio.all_tasks()
    base = AsyncioSystemBase()
    log: Log = []

    async def hang() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            log.append("cancelled")

    for _ in range(3):
        address, _ = awaiting(base, log)
        base.tell(address, hang)
        base.tell(address, "never")
    await passes()
    assert base.abandon(address)
    base.tell(address, hang)
    await passes()
    base.tell(awaiting(base, log)[0], hang)  # its task is at most created when the system ends
    request = asyncio.ensure_future(base.request(address, "never", None))
    await asyncio.sleep(0)
    base.shutdown()
    base.shutdown()
    await base.closed()
    assert asyncio.all_tasks() - {request} == before
    assert set(log) == {"never", "cancelled"}
    assert log.count("cancelled") >= 4
    assert not any((base._directory.live, base._run_queue.busy.running, base._run_queue.messages))
    with pytest.raises(ActorSystemFailure):
        await request
    with pytest.raises(ActorSystemFailure):
        base.tell(address, 1)
    with pytest.raises(ActorSystemFailure):
        base.newPrimaryActor(Probe)
    await base.idle()


async def test_a_coroutine_that_never_began_is_closed_at_shutdown() -> None:
    base = AsyncioSystemBase()
    address, actor = probe(base)

    async def begun() -> None:
        actor.seen.append("begun")
        await asyncio.Event().wait()

    actor.act = lambda msg, sender: begun()
    base.tell(address, 1)
    # Between the tick and the task's first step, where Python 3.11 leaves such a gap.
    asyncio.get_running_loop().call_soon(base.shutdown)
    await base.idle()
    await base.closed()
    assert len(actor.seen) == (1 if sys.version_info >= (3, 12) else 0)
    gc.collect()  # "never awaited" would be an error here


@pytest.mark.parametrize("awaited", [False, True])
async def test_an_actor_may_shut_the_system_down(base: AsyncioSystemBase, awaited: bool) -> None:
    address, actor = probe(base)
    other, bystander = probe(base)

    async def nothing() -> None:
        bystander.seen.append("awaited after the shutdown")

    def end_now(msg: object, sender: ActorAddress) -> Awaitable[None] | None:
        base.shutdown()
        return nothing() if awaited else None

    actor.act = end_now
    base.tell(address, 1)
    base.tell(other, 1)
    await passes()
    assert bystander.seen == []
    assert len(base) == 0


async def test_an_actor_may_request_the_shutdown_as_thespian_has_it(base: AsyncioSystemBase) -> None:
    address, actor = probe(base)
    actor.act = lambda msg, sender: actor.actorSystemShutdown()
    base.tell(address, 1)
    await passes()
    assert len(base) == 0


# Nothing is left


async def cycles(base: AsyncioSystemBase, count: int) -> None:
    """Create, name, tell (sync and awaited), wake and kill `count` actors with a child each."""

    async def nothing() -> None:
        pass

    def act_of(actor: Probe) -> Callable[[Any, ActorAddress], Any]:
        def act(msg: Any, sender: ActorAddress) -> Awaitable[None] | None:
            match msg:
                case "sync":
                    actor.createActor(Probe, globalName=f"child of {actor.globalName}")
                    actor.wakeupAfter(3600)
                    actor.handleDeadLetters()
                case "async":
                    return nothing()
            return None

        return act

    for number in range(count):
        address, actor = probe(base, f"room {number}")
        actor.act = act_of(actor)
        base.tell(address, "sync")
        base.tell(address, "async")
        base.tell(address, ActorExitRequest())
        if number % 10 == 0:
            await base.idle()
    await base.idle()


async def test_twenty_thousand_actors_leave_nothing_behind(base: AsyncioSystemBase) -> None:
    count = 10_000
    await cycles(base, count)
    gc.collect()
    before = sys.getallocatedblocks()
    await cycles(base, count)
    gc.collect()
    grown = sys.getallocatedblocks() - before
    for table in (
        base._directory.live,
        base._directory.names,
        base._run_queue.dead_letters.handlers,
        base._run_queue.busy.running,
        base._run_queue.busy.abandoned,
    ):
        assert not table
    assert len(base._run_queue.wakeups) == 0
    assert len(base._run_queue.wakeups._heap) <= SLACK + 2
    assert grown < count / 10, "one block per ten actors would be a leak"


async def test_a_parent_keeps_nothing_of_its_dead_children(base: AsyncioSystemBase) -> None:
    address, parent = probe(base)
    base.tell(address, "still here")
    for _ in range(100):
        base.tell(parent.createActor(Probe), ActorExitRequest())
    await base.idle()
    assert [type(msg) for msg in parent.seen[1:]] == [ChildActorExited] * 100
    assert not base._directory.live[address.actorAddressString].children


async def test_a_dead_actor_is_freed_without_the_collector(base: AsyncioSystemBase) -> None:
    await cycles(base, 100)
    gc.collect()
    gc.disable()
    try:
        freed: list[int] = []

        class Counted(Actor):
            def receiveMessage(self, msg: Any, sender: ActorAddress) -> None:
                self.send(sender, msg)

            def __del__(self) -> None:
                freed.append(1)

        address = base.newPrimaryActor(Counted, None, "counted")
        await base.request(address, 1)
        base.tell(address, ActorExitRequest())
        await base.idle()
        assert freed == [1]
    finally:
        gc.enable()

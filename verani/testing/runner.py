"""Run the engine of one room: its inputs in order, its clock, its sleep and waking.

Who connects and what a test sees of it are the harness's business.

Invariants:
- One event is handled after the other, as in a room host; only `_work` calls the engine.
- A room is torn down only when nothing waits and nothing runs, and wakes with the next input.
- The clock moves in `advance` only.
"""

from __future__ import annotations

import asyncio
import inspect
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Generic

import msgspec

from .. import frames
from ..engine.engine import CANCEL_GRACE, Engine, Event, HookFailed, Retire, Woken, reason_of
from ..errors import DeadlineExceeded, VeraniError
from ..frames import ScannedFrame
from ..link.messages import Close, Connect, Frame, Input, Invoke, Outcome, Reply, TakenCall
from ..room.context import Context, S
from ..room.definition import RoomDefinition
from ..room.meta import M
from ..room.methods import result_of
from ..settings import Settings
from .harness_client import HarnessClient
from .stand_in_gateway import StandInGateway

__all__ = ["RoomRunner"]

# Turns of the event loop without any effect after which what still runs is waiting for something outside.
_STILL_TURNS = 50

# How often the clock stops on its way while a hook awaits: a host checks time budgets about as often.
_TICK = 0.5

# Real seconds that hooks and tasks are given for what they do outside of the test; some never end.
_PATIENCE = 1.0


class _WatchedEngine(Engine[M, S]):
    """An engine that tells about every error besides logging it."""

    watch: Callable[[BaseException], None]

    def _log(self, error: BaseException, context: Context[M, S], name: str = "") -> None:
        self.watch(error)
        super()._log(error, context, name)


class RoomRunner(Generic[M, S]):
    """All incarnations of one room.

    `engine` is None while the room sleeps. `hibernates` is whether it sleeps by its own clock and wish.
    `failed` is told what hooks raised, `handles` each event before it is handled. `others` stands in for the other
    rooms: called with a room's name, a method and its arguments, it returns the result.
    """

    def __init__(
        self,
        definition: RoomDefinition[M, S],
        room_id: str,
        settings: Settings,
        *,
        failed: Callable[[BaseException], None],
        handles: Callable[[Event], None],
        others: Callable[[str, str, Any], Any] | None,
    ) -> None:
        self.name = f"{definition.name}/{room_id}"
        self.engine: Engine[M, S] | None = None
        self.gateway = StandInGateway(kicked=self.close, drain=self._drain, reply=self._reply, invoke=self._invoke)
        self.now = 0.0
        self.hibernates = True
        self._definition = definition
        self._room_id = room_id
        self._settings = settings
        self._failed = failed
        self._handles = handles
        self._others = others
        # Calls of the test and of the room to itself: who is answered, and when it is too late for that.
        self._calls: dict[int, tuple[Callable[[Outcome], None], float]] = {}
        self._carried: set[asyncio.Task[None]] = set()
        self._suspended: set[Engine[Any, Any]] = set()
        self._drowsy: set[Engine[Any, Any]] = set()
        self._mail: deque[Event] = deque()
        self._worker: asyncio.Task[None] | None = None
        self._abandoned: list[asyncio.Task[None]] = []
        self._retiring = False
        self._number = 0
        self._active_at = 0.0

    # --- inputs ----------------------------------------------------------------------------------------

    def connect(self, client: HarnessClient, attachment: bytes) -> None:
        """Let a connection in."""
        self.gateway.accept(client, attachment)
        self._put_input(Connect(self.name, self._next_number(), client.id, attachment))

    def frame(self, client: HarnessClient, frame: ScannedFrame) -> None:
        """Take a frame of a client."""
        data = None if frame.data is msgspec.UNSET else bytes(frame.data)
        number = self._next_number()
        self._put_input(Frame(self.name, number, client.id, frame.type, data, frame.channel, frame.id))

    def close(self, client: HarnessClient, code: int, reason: str) -> None:
        """End a connection, from either side; its close is the last input it has."""
        if client.closed is None:
            client._end(code, reason)
            self._put_input(Close(self.name, self._next_number(), client.id, code, reason))

    async def call(
        self, room: str, method: str, arguments: bytes, *, timeout: float | None, idempotency_key: str | None
    ) -> bytes:
        """Call a method of the room; see `verani.room.stub.Caller`. The deadline is one of the room's clock."""
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()

        def answer(outcome: Outcome) -> None:
            if not future.done():
                future.set_result(outcome)

        timeout = self._settings.rpc_timeout if timeout is None else timeout
        self._put_call(method, arguments, timeout, idempotency_key, (), answer)
        await self.finish()
        return result_of(await future, room, method)

    def _put_call(
        self,
        method: str,
        arguments: bytes,
        timeout: float,
        key: str | None,
        chain: tuple[str, ...],
        answer: Callable[[Outcome], None],
    ) -> None:
        number = self._next_number()
        expires = self.now + timeout
        self._calls[number] = answer, expires
        self._put_input(TakenCall(self.name, number, method, arguments, timeout, key, chain, expires=expires))

    def _reply(self, reply: Reply) -> None:
        if (call := self._calls.pop(reply.call, None)) is not None:
            call[0](reply.outcome)

    def _end_calls(self) -> None:
        """Answer the calls whose time is over."""
        for number, (answer, expires) in tuple(self._calls.items()):
            if self.now >= expires:
                del self._calls[number]
                answer(Outcome(code=DeadlineExceeded.code))

    def _invoke(self, invoke: Invoke) -> None:
        """Carry a call of the room: to itself, or to what stands in for the others."""
        engine = self.engine
        assert engine is not None

        def answer(outcome: Outcome) -> None:
            engine.replied(invoke.token, outcome)

        if invoke.target == self.name:
            self._put_call(invoke.method, invoke.arguments, invoke.timeout, invoke.key, invoke.chain, answer)
            return
        task = asyncio.get_running_loop().create_task(self._ask_others(invoke, answer))
        self._carried.add(task)
        task.add_done_callback(self._carried.discard)

    async def _ask_others(self, invoke: Invoke, answer: Callable[[Outcome], None]) -> None:
        if self._others is None:
            answer(Outcome(code="not_found", message="this harness has one room; give it calls= for the others"))
            return
        try:
            result = self._others(invoke.target, invoke.method, msgspec.json.decode(invoke.arguments))
            result = await result if inspect.isawaitable(result) else result
            outcome = Outcome(frames.encode(result))
        except VeraniError as error:
            outcome = Outcome(code=error.code, message=str(error), public=error.public)
        except Exception as error:  # what stands in for a hook of another room  # noqa: BLE001
            self._failed(error)
            outcome = Outcome(code="failed")
        answer(outcome)

    def _drain(self, token: int) -> None:
        """Answer at once: nothing here waits to be written."""
        if self.engine is not None:
            asyncio.get_running_loop().call_soon(self.engine.drained, token)

    def _next_number(self) -> int:
        self._number += 1
        return self._number

    def _put_input(self, input: Input) -> None:
        self.gateway.sent(input)
        if isinstance(input, Close) and self.engine is not None:
            self.engine.note_close(input.connection)
        self._put(input)

    # --- one event at a time ---------------------------------------------------------------------------

    def _put(self, event: Event) -> None:
        self._mail.append(event)
        if self._worker is None or self._worker.done():
            self._worker = asyncio.get_running_loop().create_task(self._work())

    async def _work(self) -> None:
        while self._mail:
            event = self._mail.popleft()
            if self.engine is None:
                if isinstance(event, HookFailed):  # of a task that outlived its room
                    self._failed(event.error)
                    continue
                self._mail.appendleft(event)
                self.engine = self._incarnate()
                for waiting in self._mail:
                    if isinstance(waiting, Close):
                        self.engine.note_close(waiting.connection)
                event = Woken(((StandInGateway.ID, self.gateway.records()),), reason_of(event))
            self._handles(event)
            self._retiring = isinstance(event, Retire)
            if not await self.engine.handle(event, StandInGateway.ID):
                return  # its hook was abandoned, and `_expire` has started another worker
            if self._retiring:
                self._retiring = False
                self._let_go()
            self._active_at = self.now

    def _incarnate(self) -> Engine[M, S]:
        engine = _WatchedEngine(
            self._definition,
            self._room_id,
            self.gateway,
            settings=self._settings,
            post=self._put,
            suspended=self._suspended,
            drowsy=self._drowsy,
            clock=lambda: self.now,
        )
        engine.watch = self._failed
        return engine

    def _let_go(self) -> None:
        engine, self.engine = self.engine, None
        if engine is not None:
            engine.end()
            engine.let_go()

    @property
    def is_quiet(self) -> bool:
        """True if no hook runs and no event waits."""
        return not self._mail and (self._worker is None or self._worker.done())

    def kept_awake_by(self) -> str | None:
        """Name what keeps the awake room from sleeping, or None."""
        if self.engine is not None and self.engine.busy is not None:
            return self.engine.busy
        return None if self.is_quiet else "queued events"

    async def settle(self) -> None:
        """Let happen what needs no real time; raises what only a bug of the engine raises."""
        still, before = 0, -1
        while still < _STILL_TURNS:
            effects = self.gateway.effects
            still = still + 1 if effects == before else 0
            before = effects
            await asyncio.sleep(0)
            if self.is_quiet and (self.engine is None or self.engine.busy in (None, "keep_awake")):
                break
        if self._worker is not None and self._worker.done():
            with suppress(asyncio.CancelledError):
                self._worker.result()

    async def finish(self) -> None:
        """Settle, then let the room sleep if it asked to."""
        await self.settle()
        if self.hibernates and self.engine in self._drowsy and self.kept_awake_by() is None:
            await self.tear_down()

    async def until_quiet(self, *, patience: float | None = None) -> None:
        """Wait in real time until no hook runs and no event waits; not longer than `patience`, if given."""
        with suppress(TimeoutError):
            async with asyncio.timeout(patience):
                while self._worker is not None and not self._worker.done():
                    await asyncio.wait((self._worker,))

    async def be_patient(self) -> None:
        """Settle, and give the hooks that wait for something real the time for it."""
        await self.settle()
        await self.until_quiet(patience=_PATIENCE)

    async def end(self) -> None:
        """Cancel everything; nobody is told."""
        if self.engine is not None:
            self.engine.end()
        for task in (self._worker, *self._abandoned, *self._carried):
            if task is not None:
                task.cancel()
                await asyncio.wait((task,), timeout=_PATIENCE)
        self._let_go()
        for answer, _ in self._calls.values():
            answer(Outcome(code="interrupted"))

    # --- time and sleep --------------------------------------------------------------------------------

    async def advance(self, seconds: float) -> None:
        """Move the clock, stopping wherever something is due."""
        await self.settle()  # what other tasks of the test have begun belongs to the time before
        until = self.now + seconds
        while self.now < until:
            self.now = min(until, self._next_stop())
            self._expire()
            self._end_calls()
            await self.settle()
            await self._sleep_if_due()

    async def tear_down(self, *, force: bool = False) -> None:
        """Put the room to sleep; `force` cancels the tasks it spawned.

        A room whose `on_hibernate` takes very long falls asleep later, at the latest when its time budget is over.
        """
        self._put(Retire(force))
        await self.settle()
        # Tasks may take a moment to end.
        await self.until_quiet(patience=_PATIENCE + (CANCEL_GRACE if force else 0.0))

    def _next_stop(self) -> float:
        if self._suspended:
            return self.now + _TICK
        stops = [expires for _, expires in self._calls.values()]
        if self._idle_at is not None:
            stops.append(self._idle_at)
        return min((stop for stop in stops if stop > self.now), default=float("inf"))

    @property
    def _idle_at(self) -> float | None:
        """When the idle room is to sleep; None for never."""
        own = self._definition.hibernate_after
        after = self._settings.hibernate_after if own is msgspec.UNSET else own
        if after is None or self.engine is None or not self.hibernates:
            return None
        return self._active_at + after

    async def _sleep_if_due(self) -> None:
        idle_at = self._idle_at
        if idle_at is None or self.now < idle_at:
            return
        if self.kept_awake_by() is None:
            await self.tear_down()
        else:
            self._active_at = self.now  # as a host does: it looks again an idle time later

    def _expire(self) -> None:
        """Enforce the time budget of the running hook, and go on without one that ignores it."""
        engine = self.engine
        if engine is None or engine not in self._suspended or not engine.expire():
            return
        assert self._worker is not None
        self._abandoned.append(self._worker)
        if self._retiring:
            self._retiring = False
            self._let_go()
        self._worker = asyncio.get_running_loop().create_task(self._work())

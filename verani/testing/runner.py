"""Run the engine of one room: its inputs in order, its clock, its sleep and waking.

Who connects and what a test sees of it are the harness's business.

Invariants:
- One event is handled after the other, as in a room host; only `_work` calls the engine.
- A room is torn down only when nothing waits and nothing runs, and wakes with the next input.
- The clock moves in `advance` only.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Generic

import msgspec

from ..context import Context, S
from ..engine import Engine, Event, HookFailed, Retire, Woken
from ..frames import ScannedFrame
from ..messages import Close, Connect, Frame, Input
from ..meta import M
from ..room import RoomDefinition
from ..settings import Settings
from .client import HarnessClient
from .gateway import StandInGateway

__all__ = ["RoomRunner"]

# Turns of the event loop without any effect after which what still runs is waiting for something outside.
_STILL_TURNS = 50

# How often the clock stops on its way while a hook awaits: a host checks time budgets about as often.
_TICK = 0.5

# Real seconds that tasks may take to end; some never do.
_END_GRACE = 1.0


class _WatchedEngine(Engine[M, S]):
    """An engine that tells about every error besides logging it."""

    watch: Callable[[BaseException], None]

    def _log(self, error: BaseException, context: Context[M, S]) -> None:
        self.watch(error)
        super()._log(error, context)


class RoomRunner(Generic[M, S]):
    """All incarnations of one room.

    `engine` is None while the room sleeps. `hibernates` is whether it sleeps by its own clock and wish.
    `failed` is told what hooks raised, `handles` each event before it is handled.
    """

    def __init__(
        self,
        definition: RoomDefinition[M, S],
        room_id: str,
        settings: Settings,
        *,
        failed: Callable[[BaseException], None],
        handles: Callable[[Event], None],
    ) -> None:
        self.name = f"{definition.name}/{room_id}"
        self.engine: Engine[M, S] | None = None
        self.gateway = StandInGateway(kicked=self.close, drain=self._drain)
        self.now = 0.0
        self.hibernates = True
        self._definition = definition
        self._room_id = room_id
        self._settings = settings
        self._failed = failed
        self._handles = handles
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
        channel = None if frame.channel is msgspec.UNSET else frame.channel
        request = None if frame.id is msgspec.UNSET else frame.id
        self._put_input(Frame(self.name, self._next_number(), client.id, frame.type, data, channel, request))

    def close(self, client: HarnessClient, code: int, reason: str) -> None:
        """End a connection, from either side; its close is the last input it has."""
        if client.closed is None:
            client._end(code, reason)
            self._put_input(Close(self.name, self._next_number(), client.id, code, reason))

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
                event = Woken(((StandInGateway.ID, self.gateway.records()),))
            self._handles(event)
            self._retiring = isinstance(event, Retire)
            if not await self.engine.handle(event, StandInGateway.ID):
                return  # its hook was abandoned, and `_expire` has started another worker
            if self._retiring:
                self.engine, self._retiring = None, False
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

    async def until_quiet(self) -> None:
        """Wait in real time until no hook runs and no event waits."""
        while self._worker is not None and not self._worker.done():
            await asyncio.wait((self._worker,))

    async def end(self) -> None:
        """Cancel everything; nobody is told."""
        if self.engine is not None:
            self.engine.end()
        for task in (self._worker, *self._abandoned):
            if task is not None:
                task.cancel()
                await asyncio.wait((task,), timeout=_END_GRACE)
        self.engine = None

    # --- time and sleep --------------------------------------------------------------------------------

    async def advance(self, seconds: float) -> None:
        """Move the clock, stopping wherever something is due."""
        await self.settle()  # what other tasks of the test have begun belongs to the time before
        until = self.now + seconds
        while self.now < until:
            self.now = min(until, self._next_stop())
            self._expire()
            await self.settle()
            await self._sleep_if_due()

    async def tear_down(self, *, force: bool = False) -> None:
        """Put the room to sleep; `force` cancels the tasks it spawned."""
        self._put(Retire(force))
        await self.settle()
        if force:
            await self.until_quiet()  # the tasks may take a moment to end

    def _next_stop(self) -> float:
        if self._suspended:
            return self.now + _TICK
        idle_at = self._idle_at
        return idle_at if idle_at is not None and idle_at > self.now else float("inf")

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
            engine.end()
            self.engine, self._retiring = None, False
        self._worker = asyncio.get_running_loop().create_task(self._work())

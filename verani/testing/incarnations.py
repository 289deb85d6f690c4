"""Run the engines of one room, one after the other: its events in order, its sleep and waking.

Invariants:
- One event is handled after the other, as in a room host; only `_handle` calls `Engine.handle`.
- A room is torn down only when nothing waits and nothing runs, and wakes with the next input.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, Generic

from ..engine.engine import Engine
from ..engine.hook_runner import CANCEL_GRACE
from ..engine.mailbox import Mailbox
from ..engine.room_events import Event, HookFailed, Retire, Woken, reason_of
from ..link.messages import Close
from ..room.context import S
from ..room.definition import RoomDefinition
from ..room.meta import M
from ..settings import Settings
from .stand_in_gateway import StandInGateway

__all__ = ["Incarnations"]

# Turns of the event loop without any effect after which what still runs is waiting for something outside.
_STILL_TURNS = 50

# Real seconds that hooks and tasks are given for what they do outside of the test; some never end.
_PATIENCE = 1.0


class Incarnations(Generic[M, S]):
    """All lives of one room; `engine` is None while it sleeps.

    `failed` gets what hooks raised, `handles` each event before it is handled; `clock` is the room's.
    """

    def __init__(
        self,
        definition: RoomDefinition[M, S],
        room_id: str,
        settings: Settings,
        gateway: StandInGateway,
        *,
        clock: Callable[[], float],
        failed: Callable[[BaseException], None],
        handles: Callable[[Event], None],
    ) -> None:
        self.engine: Engine[M, S] | None = None
        # When the last event was handled.
        self.active_at = 0.0
        self._definition = definition
        self._room_id = room_id
        self._settings = settings
        self._gateway = gateway
        self._clock = clock
        self._failed = failed
        self._handles = handles
        self._suspended: set[Engine[Any, Any]] = set()
        self._drowsy: set[Engine[Any, Any]] = set()
        self._mail: Mailbox[Event] = Mailbox(self._handle)
        self._retiring = False

    def put(self, event: Event) -> None:
        """Queue an event; it wakes the room where that sleeps."""
        if isinstance(event, Close) and self.engine is not None:
            self.engine.note_close(event.connection)
        self._mail.put(event)

    async def _handle(self, event: Event) -> bool:
        if self.engine is None:
            if isinstance(event, HookFailed):  # of a task that outlived its room
                self._failed(event.error)
                return True
            self._mail.put_back(event)
            self.engine = self._incarnate()
            for waiting in self._mail:
                if isinstance(waiting, Close):
                    self.engine.note_close(waiting.connection)
            event = Woken(((StandInGateway.ID, self._gateway.records()),), reason_of(event))
        self._handles(event)
        self._retiring = isinstance(event, Retire)
        if not await self.engine.handle(event, StandInGateway.ID):
            return False
        if self._retiring:
            self._retiring = False
            self._let_go()
        self.active_at = self._clock()
        return True

    def _incarnate(self) -> Engine[M, S]:
        failed = self._failed

        def watch(error: BaseException, _: str) -> None:
            failed(error)

        return Engine(
            self._definition,
            self._room_id,
            self._gateway,
            settings=self._settings,
            post=self.put,
            suspended=self._suspended,
            drowsy=self._drowsy,
            watch=watch,
            clock=self._clock,
        )

    def _let_go(self) -> None:
        engine, self.engine = self.engine, None
        if engine is not None:
            engine.end()
            engine.let_go()

    @property
    def has_suspended(self) -> bool:
        """True while a hook awaits something."""
        return bool(self._suspended)

    @property
    def wants_sleep(self) -> bool:
        """True if the room has asked for its sleep, and nothing keeps it awake."""
        return self.engine in self._drowsy and self.kept_awake_by() is None

    @property
    def is_quiet(self) -> bool:
        """True if no hook runs and no event waits."""
        return self._mail.is_quiet

    def kept_awake_by(self) -> str | None:
        """Name what keeps the awake room from sleeping, or None."""
        if self.engine is not None and self.engine.busy is not None:
            return self.engine.busy
        return None if self.is_quiet else "queued events"

    async def settle(self) -> None:
        """Let happen what needs no real time; raises what only a bug of the engine raises."""
        still, before = 0, -1
        while still < _STILL_TURNS:
            effects = self._gateway.effects
            still = still + 1 if effects == before else 0
            before = effects
            await asyncio.sleep(0)
            if self.is_quiet and (self.engine is None or self.engine.busy in (None, "keep_awake")):
                break
        with suppress(asyncio.CancelledError):
            self._mail.check()

    async def until_quiet(self, *, patience: float | None = None) -> None:
        """Wait in real time until no hook runs and no event waits; not longer than `patience`, if given."""
        await self._mail.until_quiet(patience=patience)

    async def be_patient(self) -> None:
        """Settle, and give the hooks that wait for something real the time for it."""
        await self.settle()
        await self.until_quiet(patience=_PATIENCE)

    async def tear_down(self, *, force: bool = False) -> None:
        """Put the room to sleep; `force` cancels the tasks it spawned.

        A room whose `on_hibernate` takes very long falls asleep later, at the latest when its time budget is over.
        """
        self.put(Retire(force))
        await self.settle()
        # Tasks may take a moment to end.
        await self.until_quiet(patience=_PATIENCE + (CANCEL_GRACE if force else 0.0))

    def expire(self) -> None:
        """Enforce the time budget of the running hook, and go on without one that ignores it."""
        engine = self.engine
        if engine is None or engine not in self._suspended or not engine.expire():
            return
        if self._retiring:
            self._retiring = False
            self._let_go()
        self._mail.resume()

    async def end(self, carried: Iterable[asyncio.Task[None]]) -> None:
        """Cancel what runs, and the calls that are carried for the room; nobody is told."""
        if self.engine is not None:
            self.engine.end()
        await self._mail.end(patience=_PATIENCE)
        for task in carried:
            task.cancel()
            await asyncio.wait((task,), timeout=_PATIENCE)
        self._let_go()

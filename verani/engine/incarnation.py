"""Be what the handles of a room work with, from one waking to the next sleep.

An incarnation has its parts side by side, each with its own invariant, and runs nothing itself. What handles can do
besides (storage, alarms, ...) becomes a part here and a property of `verani.room.operations.Operations`.

Invariant: after `let_go` no cycle of objects leads through it; a handle that the application has kept keeps a name.
"""

from __future__ import annotations

import asyncio
import inspect
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any, Generic

from ..errors import VeraniError
from ..room.checked_actor import CheckedActor
from ..room.context import Actor, Context
from ..room.definition import RoomDefinition
from ..room.meta import M
from ..room.operations import S, WakeReason
from ..settings import Settings
from .audience import Membership
from .drains import Drains
from .errands import Errands
from .hook_log import HookLog
from .hook_run import Turn, running
from .listed import Listed
from .marking import Marker
from .outgoing_calls import OutgoingCalls
from .outputs import Outputs
from .room_events import HookFailed
from .roster import Roster
from .sink import Sink
from .tasks import Tasks
from .transactions import Transactions

__all__ = ["Incarnation"]


class Incarnation(Generic[M, S]):
    """The parts of one room that is awake."""

    __slots__ = (
        "__weakref__",
        "_hook_timeout",
        "_marker",
        "_state",
        "actor",
        "calls",
        "definition",
        "drains",
        "log",
        "members",
        "metas",
        "name",
        "outputs",
        "roster",
        "sink",
        "tasks",
        "turn",
        "wake_reason",
    )

    def __init__(
        self,
        definition: RoomDefinition[M, S],
        name: str,
        sink: Sink,
        *,
        settings: Settings,
        post: Callable[[HookFailed], None],
        log: HookLog,
        drowsy: Listed,
        marker: Marker | None,
        limited: Counter[str],
        is_full: Callable[[], bool] | None,
        clock: Callable[[], float],
    ) -> None:
        self.name = name
        self.definition = definition
        self.wake_reason: WakeReason = "frame"
        self.sink = sink
        self.turn = Turn(name)
        self.members: Membership[M] = Membership()
        self.outputs = Outputs(self.turn, self.members, sink, is_full)
        self.roster = Roster(self.turn, self.members, self.outputs)
        self.metas = Transactions(self.turn, self.members, definition.codec(settings.max_meta_bytes), sink, limited)
        self.tasks = Tasks(self.turn, post=post, log=log, drowsy=drowsy, marker=marker, clock=clock)
        self.calls = OutgoingCalls(self.turn, sink, settings.rpc_timeout)
        self.drains = Drains(self.turn, self.roster, self.outputs)
        self.log = log
        self.actor: Actor[M, S] = CheckedActor(self) if definition.events.are_checked else Actor(self)
        self._state: tuple[S] | None = None
        self._marker = marker
        self._hook_timeout = settings.hook_timeout

    def make_state(self) -> None:
        """Call the factory of the state; it is the user's code."""
        self._state = (self.definition.state(),)

    @property
    def state(self) -> S:
        """The room's own state; raises `VeraniError` if its factory failed when the room woke."""
        if self._state is None:
            raise VeraniError(f"{self.name}: its state could not be made, see the log")
        return self._state[0]

    @property
    def errands(self) -> Errands:
        """What other threads want done here."""
        return Errands(self.turn, self._marker, self._hook_timeout)

    def check_awake(self) -> None:
        """Raise `RoomAsleep` if the room slept or the calling hook was abandoned, `WrongThread` in another thread."""
        self.turn.check_awake()

    def spawn(self, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Start a task with the context of the hook or task that spawns it."""
        if not inspect.iscoroutine(coroutine):
            raise TypeError(f"spawn: expected a coroutine, got {type(coroutine).__name__}")
        try:
            self.turn.check_awake()
        except VeraniError:
            coroutine.close()
            raise
        run = running.get()
        context = run.context_of_tasks() if run is not None else None
        return self.tasks.start(coroutine, context or Context(self, None), name=run.name if run is not None else "")

    def end(self) -> None:
        """Disarm all handles and cancel what the room still runs."""
        self.turn.awake = False
        self.tasks.end()
        self.drains.end()
        self.calls.end()

    def let_go(self) -> None:
        """Drop everything that the room was; after `end`, when nobody asks about it any more."""
        self._state = None
        self.roster.clear()
        self.outputs.clear()
        del self.actor

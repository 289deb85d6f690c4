"""Follow one run of a hook, and know for all code of a room whether it is its turn.

Invariants:
- At most one run is current in a room. Code belongs to the run in whose context variables it runs, or to a spawned
  task, which has a run of its own that is never current.
- A run that is disarmed, because its hook was abandoned, can do nothing more.
- A run that is over keeps nothing of what its hook worked with: timers and tasks that the hook has started keep the
  run, by their context variables.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable
from contextvars import ContextVar
from threading import get_ident
from typing import Any, Literal

from msgspec import Struct

from ..errors import RoomAsleep
from ..link import messages
from ..room.session import Session
from ..threads import OwnThread
from .hook_measures import HookMeasure

__all__ = ["HookRun", "Turn", "running"]

# What a call from another thread is told.
_OTHER_THREADS = "let ctx.actor.from_thread(function, *args) run it there"


class HookRun(Struct, eq=False, weakref=True):
    """One run of a hook, from its start to its end: where operations come from.

    `fail` is what the failure of this hook means to its client, done before `on_error` hears of it. Besides the hook of
    an event there may be two more: `on_wake` before it, and `on_error` after it, whose failure is logged and never
    reported again. `calls` counts those to other rooms, `output` bytes. `touched` is the open transaction: the sessions
    whose metas may have changed. `error` is what it failed with, until that is reported. `measure` counts how long it
    took, by default that of its name; None where no hook was run. `started` is when the hook was called.
    """

    context: Any
    gateway: str = ""
    message: messages.Input | None = None
    fail: Callable[[BaseException], None] | None = None
    name: str = ""
    role: Literal["hook", "wake", "report"] = "hook"
    measure: HookMeasure | None = None
    started: float = 0.0
    cancelled_at: float | None = None
    task: asyncio.Task[Any] | None = None
    error: BaseException | None = None
    armed: bool = True
    output: int = 0
    calls: int = 0
    touched: dict[str, Session[Any]] | None = None
    kept: Callable[[], Any] | None = None

    def over(self) -> None:
        """Let go of what the hook worked with."""
        self.kept = weakref.ref(self.context)
        self.context = self.message = None
        # To set a field of a struct costs more than a look.
        if self.fail is not None or self.task is not None or self.error is not None or self.touched is not None:
            self.fail = self.task = self.error = self.touched = None

    def context_of_tasks(self) -> Any:
        """Return what the hook was given; None once it is over and nobody has kept that."""
        return self.kept() if self.kept is not None else self.context

    @property
    def hook(self) -> str:
        """Name the hook as the room's definition knows it: by its event, its method or its own name."""
        if self.role == "report":
            return "on_error"
        if self.name:
            return self.name
        match self.message:
            case messages.FrameInput() as frame:
                return frame.event
            case messages.CallInput() as call:
                return call.method
            case messages.Connect():
                return "on_connect"
            case messages.Close():
                return "on_disconnect"
            case _:
                return "hook"


# Which hook run, or which spawned task of it, the running code belongs to.
running: ContextVar[HookRun | None] = ContextVar("verani_running", default=None)


class Turn:
    """Whose turn it is in a room: the current run, if any, on the thread of the room, while that is awake."""

    __slots__ = ("awake", "current", "loop", "name", "thread")

    def __init__(self, name: str) -> None:
        self.name = name
        self.awake = True
        self.current: HookRun | None = None
        self.thread = OwnThread()
        self.loop: asyncio.AbstractEventLoop | None = None

    def begin(self) -> None:
        """Belong to the running event loop and its thread."""
        self.thread.take()
        self.loop = asyncio.get_running_loop()

    def check_thread(self) -> None:
        """Raise `WrongThread` in any thread but that of the room's event loop."""
        self.thread.check(self.name, _OTHER_THREADS)

    def check_awake(self) -> None:
        """Raise `RoomAsleep` if the room slept or the calling hook was abandoned, `WrongThread` in another thread."""
        if self.thread.ident != get_ident():
            self.check_thread()
        run = running.get()
        if not self.awake or (run is not None and not run.armed):
            raise RoomAsleep(f"{self.name}: this handle outlived its room or its hook")

    @property
    def is_callers(self) -> bool:
        """True if the running code belongs to the current run."""
        return self.current is not None and self.current is running.get()

"""Run one room: events in, effects out, one hook at a time.

The engine awaits the user's hooks and does nothing else that touches the world: clock and sink are
arguments, and whoever calls `handle` brings the next event only when it has returned.

Invariants:
- Every input is marked processed exactly once, after everything it caused, however its hook ended.
- `handle` never raises but for the cancellation of its task by the shell, and no exception of a hook reaches
  a client: the text stays in the log.
- An input that an earlier owner had visibly begun (`InterruptedInput`) is not run: its client is answered, and
  `on_error` runs.
- Nothing waits for the garbage collector: after `let_go` no cycle leads through an engine.
"""

from __future__ import annotations

import functools
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, Generic

from ..link import messages
from ..room.context import Actor, Context
from ..room.definition import RoomDefinition
from ..room.meta import M
from ..room.operations import S
from ..settings import Settings
from .door import Door
from .frame_dispatch import FrameDispatch
from .hook_log import HookLog
from .hook_measures import HookMeasures
from .hook_run import HookRun
from .hook_runner import CANCEL_GRACE, HookAbandoned, Hooks, Rest
from .incarnation import Incarnation
from .incoming_calls import IncomingCalls
from .interruptions import Interruptions
from .listed import Listed
from .marking import Marker
from .middleware import Middleware
from .room_events import Attached, Event, HookFailed, Retire, Woken
from .sink import Sink
from .waking import Waking

__all__ = ["Engine"]


class Engine(Generic[M, S]):
    """The life of one incarnation of one room."""

    __slots__ = (
        "__weakref__",
        "_calls",
        "_clock",
        "_dispatch",
        "_door",
        "_hooks",
        "_middleware",
        "_sink",
        "_turn",
        "_waking",
        "name",
        "room",
        "start_frame",
    )

    def __init__(
        self,
        definition: RoomDefinition[M, S],
        room_id: str,
        sink: Sink,
        *,
        settings: Settings,
        post: Callable[[HookFailed], None],
        suspended: set[Engine[Any, Any]] | None = None,
        drowsy: set[Engine[Any, Any]] | None = None,
        marker: Marker | None = None,
        limited: Counter[str] | None = None,
        measures: HookMeasures | None = None,
        hooks: type[Hooks[M, S]] = Hooks,
        is_full: Callable[[], bool] | None = None,
        watch: Callable[[BaseException, str], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare a room that is not awake yet: `Woken` must be its first event.

        `post` brings an event back to `handle` in its turn; it is called from the loop the room runs on. The engine
        is in `suspended` while a hook of it awaits: those are the engines to call `expire` of. It puts itself into
        `drowsy` when the application wants the room to sleep. `limited` counts what limits did, by setting, and
        `measures` how the hooks of the definition do.
        While `is_full` says so, what spawned tasks send is refused: nothing else paces them. `watch` gets every
        error that hooks raise, besides the log, and the name of the hook.
        """
        limited = limited if limited is not None else Counter()
        measures = measures if measures is not None else HookMeasures(definition)
        self.name = f"{definition.name}/{room_id}"
        self.room = room = Incarnation(
            definition,
            self.name,
            sink,
            settings=settings,
            post=post,
            log=HookLog(self.name, measures, watch),
            drowsy=Listed(self, drowsy),
            marker=marker,
            limited=limited,
            is_full=is_full,
            clock=clock,
        )
        self._sink = sink
        self._turn = room.turn
        self._hooks = running = hooks(
            room,
            post=post,
            suspended=Listed(self, suspended),
            limited=limited,
            measures=measures,
            timeout=settings.hook_timeout,
            clock=clock,
        )
        self._middleware = Middleware(definition.middleware, running)
        self._waking = Waking(room, running)
        self._door = Door(room, running)
        self._dispatch = FrameDispatch(room, running, self._middleware, measures)
        # Handles a frame as `start` does, where `takes_at_once` said so; who calls this knows when it is processed.
        self.start_frame = self._dispatch.received
        # Made with the first call: most rooms never get one.
        self._calls: IncomingCalls[M, S] | None = None
        self._clock = clock

    # --- events in -------------------------------------------------------------------------------------

    async def handle(self, event: Event, gateway: str = "") -> bool:
        """Handle one event to its end; inputs need the id of the gateway they came from.

        False means that `expire` abandoned the hook meanwhile, or `end` was called: the room has gone on, this caller
        is to stop.
        """
        rest = self.start(event, gateway)
        return rest is None or await rest()

    def start(self, event: Event, gateway: str = "") -> Rest[bool] | None:
        """Handle one event as far as it needs no task; returns the rest of it, which comes to what `handle` returns."""
        if type(event) is not messages.FrameInput or not self._turn.awake or not self._waking.is_ready:
            return self._start_other(event, gateway)
        try:
            rest = self._dispatch.received(gateway, event)
        except BaseException:
            self._sink.processed(gateway, event.number)  # as in `_finish`
            raise
        if rest is not None:
            return functools.partial(self._finish, gateway, event.number, rest)
        self._sink.processed(gateway, event.number)
        return None

    def rest_of(self, frame: messages.FrameInput, gateway: str, rest: Rest[object]) -> Rest[bool]:
        """Make the rest of a frame, which `start_frame` has left, one of those that `start` leaves."""
        return functools.partial(self._finish, gateway, frame.number, rest)

    def _start_other(self, event: Event, gateway: str) -> Rest[bool] | None:
        """Start anything, as `start` does: what most inputs are has a shorter way."""
        number: int | None = getattr(event, "number", None)  # of what arrives; `isinstance` is slow for structs
        if number is not None and not self._turn.awake:
            return _stop  # a hook has outlived its room: what waited behind it is the next incarnation's
        rest: Rest[object] | None = None
        is_done = False
        try:
            if type(event) is messages.Connect and self._waking.is_ready:
                rest = self._door.connected(gateway, event)
            else:
                rest = self._take(gateway, event)
            is_done = rest is None
        except BaseException:
            is_done = self._turn.awake  # as in `_finish`
            raise
        finally:
            if is_done and number is not None:
                self._sink.processed(gateway, number)
        return None if rest is None else functools.partial(self._finish, gateway, number, rest)

    async def _finish(self, gateway: str, number: int | None, rest: Rest[object]) -> bool:
        """Do the rest of an event; an input has a number."""
        if number is not None and not self._turn.awake:
            return False  # as in `_start_other`
        finished = False
        try:
            await rest()
            finished = True
        except HookAbandoned:
            return False
        except BaseException as error:
            # Our own bug, which the actor logs and the gateway must not wait for, or the end of this room.
            finished = self._turn.awake and not isinstance(error, GeneratorExit)
            raise
        finally:
            if finished and number is not None:
                self._sink.processed(gateway, number)
        return True

    def _take(self, gateway: str, event: Event) -> Rest[object] | None:
        if not self._waking.is_ready and isinstance(event, messages.Input):
            return functools.partial(self._take_after_waking, gateway, event)
        match event:
            case messages.Connect():  # first: of all that comes here, most
                return self._door.connected(gateway, event)
            case messages.FrameInput():
                return self._dispatch.received(gateway, event)
            case messages.Close():
                return self._door.closed(gateway, event)
            case messages.CallInput():
                self._calls = self._calls or IncomingCalls(self.room, self._hooks, self._middleware, self._clock)
                return functools.partial(self._calls.called, gateway, event)
            case messages.InterruptedInput():
                return functools.partial(Interruptions(self.room, self._hooks).conclude, gateway, event.input)
            case Woken():
                return self._woken(event)
            case Attached():
                self._door.restore(event.gateway, event.records)
                self.room.members.sort()
                return None
            case HookFailed():
                return functools.partial(self._hooks.report, event.error, event.context, name=event.name)
            case Retire():
                return functools.partial(self._retire, event.force)

    async def _take_after_waking(self, gateway: str, event: messages.Input) -> None:
        if await self._waking.wake_for(gateway, event) and (rest := self._take(gateway, event)) is not None:
            await rest()

    def _woken(self, event: Woken) -> Rest[object] | None:
        self._turn.begin()
        self.room.wake_reason = event.reason
        for gateway, records in event.records:
            self._door.restore(gateway, records)
        if len(event.records) > 1:
            self.room.members.sort()
        return self._waking.start()

    async def _retire(self, force: bool) -> None:
        if force:
            await self.room.tasks.stop(CANCEL_GRACE)
        hook = self.room.definition.hooks.get("on_hibernate")
        if hook is not None and self._waking.is_ready:  # what was never loaded must not be saved
            await self._hooks.run(HookRun(Context(self.room, None), name="on_hibernate"), hook, self.room.actor)
        self.end()

    # --- its end ---------------------------------------------------------------------------------------

    def expire(self) -> bool:
        """Enforce the time budget; call it now and then, at least once a second.

        Cancels a hook that awaits beyond its budget. Returns True once if the hook ignored that for a second and was
        abandoned: then the task that runs `handle` is not coming back, and the next event may be handled.
        """
        return self._hooks.expire()

    def end(self) -> None:
        """Disarm all handles and cancel what the room still runs: the incarnation is over."""
        self._hooks.end()
        self.room.end()

    def let_go(self) -> None:
        """Drop everything that the room was; after `end`, when nobody asks about it any more.

        Handles that the application has kept, and hooks that do not end, keep a name and nothing else.
        """
        self._calls = None
        self.room.let_go()

    # --- what its host asks and tells ------------------------------------------------------------------

    @property
    def actor(self) -> Actor[M, S]:
        """The room for its own hooks; gone after `let_go`."""
        return self.room.actor

    @property
    def busy(self) -> str | None:
        """Name what keeps the room awake although no event waits, or None."""
        if self._turn.current is not None:
            return "RPC" if isinstance(self._turn.current.message, messages.CallInput) else "running hook"
        return self.room.tasks.busy

    def takes_at_once(self, event: str | None) -> bool:
        """Tell whether it would handle a frame of this event now, and its handler needs no task, as it is written.

        None is for a connection of which no hook hears.
        """
        turn, definition = self._turn, self.room.definition
        if turn.current is not None or not turn.awake or not self._waking.is_ready:
            return False
        if event is None:
            return "on_connect" not in definition.hooks
        return event in definition.handlers.plain and not definition.middleware

    @property
    def doing(self) -> tuple[str, float] | None:
        """Name the hook that runs, or else the oldest spawned task, and tell when it began."""
        run = self._turn.current
        return (run.hook, run.started) if run is not None else self.room.tasks.oldest

    @property
    def connections(self) -> int:
        """How many connections the room has, with those that were told to close."""
        return len(self.room.roster)

    @property
    def gateways(self) -> Counter[str]:
        """How many of these connections are at each gateway."""
        return self.room.roster.by_gateway()

    def hibernate(self) -> None:
        """Ask to be put to sleep soon, as a hook may."""
        self.room.tasks.hibernate()

    def connections_of(self, gateway: str) -> list[str]:
        """Name the connections at one gateway."""
        return [session.id for session in self.room.roster if session.gateway == gateway]

    def note_close(self, connection: str) -> None:
        """Learn that the close of this connection has arrived and waits for its turn."""
        self.room.roster.note_close(connection)

    def drained(self, token: int) -> None:
        """Take the answer to a `Drain`."""
        self.room.drains.drained(token)

    def lost(self, gateway: str) -> None:
        """Learn that a gateway is gone, which answers no `Drain` any more."""
        self.room.drains.lost(gateway)

    def replied(self, token: int, outcome: messages.Outcome) -> None:
        """Take the answer to an `Invoke`."""
        self.room.calls.replied(token, outcome)


async def _stop() -> bool:
    return False

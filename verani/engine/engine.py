"""Run one room: events in, effects out, one hook at a time.

The engine awaits the user's hooks and does nothing else that touches the world: clock and sink are
arguments, and whoever calls `handle` brings the next event only when it has returned.

Invariants:
- At most one transaction is open. Outputs of the running hook are written to the sink as they occur; outputs
  of anything else (spawned tasks) wait in `_between` until no hook runs.
- A hook's meta changes are committed, all together, after it returned, or rolled back: the committed
  attachment is the only truth. Equal encodings mean an unchanged meta.
- Every input is marked processed exactly once, after everything it caused, however its hook ended.
- `handle` never raises but for the cancellation of its task by the shell, and no exception of a hook reaches
  a client: the text stays in the log.
- A call is a hook run like any other, and its reply the last thing it causes. What it calls itself is carried and
  answered outside of the order of inputs.
- An input that an earlier owner had visibly begun (`Interrupted`) is not run: its client and `on_error` are told.
- A hook that ignores its cancellation is abandoned by `expire`: its origin is disarmed, so it can do nothing
  more, and the coroutine that waits for it in `handle` returns without touching anything.
- Nothing waits for the garbage collector: after `let_go` no cycle leads through an engine, and timers and tasks, which
  keep the context variables of the hook that started them, keep nothing else of it once it is over. An exception is
  no local variable of a function that its own traceback shows when that function returns.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
import itertools
import logging
import time
import weakref
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextlib import suppress
from contextvars import ContextVar
from threading import get_ident
from types import CoroutineType, coroutine
from typing import Any, Generic, Literal, Protocol, TypeAlias

import msgspec
from msgspec import Struct

from .. import frames
from ..errors import (
    CallCycle,
    Conflict,
    DeadlineExceeded,
    HookInterrupted,
    HookTimeout,
    InvalidArguments,
    RateLimited,
    RoomAsleep,
    RoomBusy,
    TooLarge,
    VeraniError,
    WrongThread,
    is_refusal,
)
from ..frames import Frame, InvalidFrame
from ..link import messages
from ..names import MAX_REASON_BYTES, RESERVED_PREFIX, well_formed
from ..room.context import Actor, Context, S, WakeReason
from ..room.definition import Handler, RoomDefinition
from ..room.meta import AttachmentError, M
from ..room.methods import Answers, Call, result_of
from ..room.session import Session
from ..settings import Settings
from ..signatures import label_of
from ..threads import OwnThread, run_on
from .audience import Audience, Membership

__all__ = [
    "MAX_HOOK_OUTPUT",
    "MAX_OUTPUT_FRAME",
    "Attached",
    "Engine",
    "Event",
    "HookFailed",
    "Marker",
    "Retire",
    "Sink",
    "Woken",
    "reason_of",
]

logger = logging.getLogger(__name__)

# Section 7 of the design: what one hook may output, and what one frame may hold.
MAX_HOOK_OUTPUT = 16 << 20
MAX_OUTPUT_FRAME = 1 << 20

# What the shortest frame counts as: who sends it, and to whom, is kept, too.
_LEAST = 32

# How long a hook that was cancelled may take to end before it is abandoned.
CANCEL_GRACE = 1.0

# Never used twice in a process, so a late answer cannot mean a later question of the room's next incarnation.
_tokens = itertools.count(1)

# Refusals that invite to try again: answered from memory, they would never pass.
_PASSING = frozenset({RoomBusy.code, RateLimited.code})

_REPLACED = "another connection has this client id"

# Codes an application may close with: those of protocol 15 and the ranges RFC 6455 7.4.2 leaves to applications.
_CLOSE_CODES = frozenset({1000, 1008, 1011, 1012, 1013, *range(3000, 5000)})


class Woken(Struct, frozen=True):
    """The room wakes with these records of each gateway; the first event of every incarnation."""

    records: tuple[tuple[str, tuple[messages.Record, ...]], ...] = ()
    reason: WakeReason = "frame"


class Attached(Struct, frozen=True):
    """A gateway whose records came late, or that linked later; its connections join without `on_connect`."""

    gateway: str
    records: tuple[messages.Record, ...]


class Retire(Struct, frozen=True):
    """The room goes to sleep: the last event of an incarnation. `force` cancels the tasks it spawned."""

    force: bool = False


class HookFailed(Struct, frozen=True):
    """Something outside the order of inputs failed: a spawned task, an abandoned hook. Leads to `on_error`."""

    error: BaseException
    context: Any


Event: TypeAlias = messages.Arrival | Woken | Attached | Retire | HookFailed


def reason_of(event: Event) -> WakeReason:
    """Say what woke a room that this event woke."""
    match event:
        case messages.Connect():
            return "connect"
        case messages.Close():
            return "close"
        case messages.Call():
            return "call"
        case messages.Interrupted():
            return "crash"
        case _:
            return "frame"


class Sink(Protocol):
    """Where effects go, as they occur."""

    def output(self, gateway: str, output: messages.Output, cause: int | None) -> None:
        """Take one output for a gateway; `cause` is the number of the input being handled, if any."""

    def attach(self, gateway: str, attach: messages.Attach | messages.Seat, cause: int | None) -> None:
        """Take one committed attachment, or the place of a new session; `cause` is None where a repeat does no harm."""

    def invoke(self, invoke: messages.Invoke) -> None:
        """Carry a call to another room; `Engine.replied` takes the outcome."""

    def processed(self, gateway: str, number: int) -> None:
        """Take the acknowledgement of an input: all it caused has been written before."""


class Marker(Protocol):
    """Where a room host notes whose code runs at this moment, should it not survive it."""

    def enter(self, room: str, gateway: str, number: int) -> None:
        """Note that a hook runs for this input; an empty gateway and 0 where it is for none."""

    def leave(self) -> None:
        """Note that no hook runs."""


class _Origin(Struct, eq=False, weakref=True):
    """The hook run that an operation comes from.

    `fail` is what the failure of this hook means to its client, done before `on_error` hears of it. Besides the hook of
    an event there may be two more: `on_wake` before it, and `on_error` after it, whose failure is logged and never
    reported again. `calls` counts those to other rooms, `output` bytes.
    """

    context: Any
    started: float
    gateway: str = ""
    message: messages.Input | None = None
    fail: Callable[[BaseException], None] | None = None
    name: str = ""
    role: Literal["hook", "wake", "report"] = "hook"
    cancelled_at: float | None = None
    task: asyncio.Task[Any] | None = None
    armed: bool = True
    output: int = 0
    calls: int = 0
    touched: dict[str, Session[Any]] = msgspec.field(default_factory=dict)
    kept: Callable[[], Any] | None = None

    def over(self) -> None:
        """Let go of what the hook worked with: the timers and tasks that it has started keep this object."""
        self.kept = weakref.ref(self.context)
        self.context = self.message = self.fail = self.task = None
        self.touched = {}

    def context_of_tasks(self) -> Any:
        """Return what the hook was given; None once it is over and nobody has kept that."""
        return self.kept() if self.kept is not None else self.context


class _Abandoned(BaseException):
    """Unwinds `handle` after its hook was abandoned and the room went on without it."""


# What a call from another thread is told.
_OTHER_THREADS = "let ctx.actor.from_thread(function, *args) run it there"

# Which hook run, or which spawned task of it, the running code belongs to.
_origin: ContextVar[_Origin | None] = ContextVar("verani_origin", default=None)


class Engine(Generic[M, S]):
    """One incarnation of one room."""

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
        is_full: Callable[[], bool] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare a room that is not awake yet: `Woken` must be its first event.

        `post` brings an event back to `handle` in its turn; it is called from the loop the room runs on. The engine
        is in `suspended` while a hook of it awaits: those are the engines to call `expire` of. It puts itself into
        `drowsy` when the application wants the room to sleep. `limited` counts what limits did, by setting.
        While `is_full` says so, what spawned tasks send is refused: nothing else paces them.
        """
        self.definition = definition
        self.name = f"{definition.name}/{room_id}"
        self.members: Membership[M] = Membership()
        self.wake_reason: WakeReason = "frame"
        self._state: tuple[S] | None = None
        self.actor: Actor[M, S] = Actor(self)
        self._sink = sink
        self._post = post
        self._suspended = suspended if suspended is not None else set()
        self._drowsy = drowsy if drowsy is not None else set()
        self._marker = marker
        self._is_full = is_full
        self._limited = limited if limited is not None else Counter()
        self._awake_until = 0.0
        self._clock = clock
        self._hook_timeout = settings.hook_timeout
        self._codec = definition.codec(settings.max_meta_bytes)
        self._leaving: dict[str, Session[M]] = {}
        self._close_queued: set[str] = set()
        self._current: _Origin | None = None
        self._awake = True
        self._thread = OwnThread()
        self._loop: asyncio.AbstractEventLoop | None = None
        # False until `on_wake` has returned: no other hook runs before that.
        self._is_ready = "on_wake" not in definition.hooks
        # What the input is refused with that woke the room, if `on_wake` failed.
        self._unwoken: messages.Outcome | None = None
        self._between: list[tuple[str, messages.Output]] = []
        self._between_bytes = 0
        # When each spawned task began, the oldest first.
        self._tasks: dict[asyncio.Task[Any], float] = {}
        # With the gateway that is asked.
        self._drains: dict[int, tuple[str, asyncio.Future[None]]] = {}
        self._invoked: dict[int, asyncio.Future[messages.Outcome]] = {}
        # Made with the first call that has a key: most rooms never get one.
        self._answers: Answers | None = None
        # The place of the session that came last.
        self._seat = 0
        self._rpc_timeout = settings.rpc_timeout

    # --- events in -------------------------------------------------------------------------------------

    async def handle(self, event: Event, gateway: str = "") -> bool:
        """Handle one event to its end; inputs need the id of the gateway they came from.

        False means that `expire` abandoned the hook meanwhile, or `end` was called: the room has gone on, this caller
        is to stop.
        """
        if not self._awake and isinstance(event, messages.Arrival):
            return False  # a hook has outlived its room: what waited behind it is the next incarnation's
        finished = False
        try:
            if self._is_ready or not isinstance(event, messages.Input) or await self._wake_for(gateway, event):
                if type(event) is messages.Frame:
                    await self._received(gateway, event)
                else:
                    await self._take(gateway, event)
            finished = True
        except _Abandoned:
            return False
        except BaseException as error:
            # Our own bug, which the actor logs and the gateway must not wait for, or the end of this room.
            finished = self._awake and not isinstance(error, GeneratorExit)
            raise
        finally:
            if finished and isinstance(event, messages.Arrival):
                self._sink.processed(gateway, event.number)
        return True

    async def _take(self, gateway: str, event: Event) -> None:
        match event:
            case messages.Frame():
                await self._received(gateway, event)
            case messages.Connect():
                await self._connected(gateway, event)
            case messages.Close():
                await self._closed(gateway, event)
            case messages.Call():
                await self._called(gateway, event)
            case messages.Interrupted():
                await self._interrupted(gateway, event.input)
            case Woken():
                await self._woken(event)
            case Attached():
                for record in event.records:
                    self._restore(event.gateway, record)
                self.members.sort()
            case HookFailed():
                await self._report(event.error, event.context)
            case Retire():
                await self._retire(event.force)

    # --- waking up -------------------------------------------------------------------------------------

    async def _woken(self, event: Woken) -> None:
        self._thread.take()
        self._loop = asyncio.get_running_loop()
        self.wake_reason = event.reason
        for gateway, records in event.records:
            for record in records:
                self._restore(gateway, record)
        if len(event.records) > 1:
            self.members.sort()
        await self._wake()

    async def _wake(self, gateway: str = "", event: messages.Input | None = None) -> bool:
        """Make the state and run the hooks of a wake; False if `event`, which it is tried again for, was refused."""
        context = Context(self, None)
        wake = functools.partial(_Origin, context, self._clock(), gateway, event, role="wake")
        await self._run(wake(name="state"), self._make_state)
        hook = self.definition.hooks.get("on_wake")
        if hook is not None:
            self._is_ready = (
                await self._run(wake(name="on_wake", fail=self._failing_to_wake(gateway, event)), hook, self.actor)
                is not None
            )
        hook = self.definition.hooks.get("on_hibernation_restore")
        if hook is None or not self._is_ready or not self.members.sessions:
            return self._is_ready
        fail = None if event is None else self._failing_to_wake(gateway, event)
        return await self._run(wake(name="on_hibernation_restore", fail=fail), hook, self.actor) is not None

    def _failing_to_wake(self, gateway: str, event: messages.Input | None) -> Callable[[BaseException], None]:
        def fail(error: BaseException) -> None:
            for task in self._tasks:
                task.cancel()  # what the hook has started, it starts again
            outcome = _outcome_of(error) if is_refusal(error) else messages.Outcome(code=RoomBusy.code)
            if event is None:
                self._unwoken = outcome
            else:
                self._turn_down(gateway, event, outcome)

        return fail

    async def _wake_for(self, gateway: str, event: messages.Input) -> bool:
        """Try again to wake, for any but the input that the last attempt was for; False if this one is refused."""
        outcome, self._unwoken = self._unwoken, None
        if outcome is not None and self.wake_reason not in ("crash", "moved"):  # which need no input to wake
            self._turn_down(gateway, event, outcome)
            return False
        return await self._wake(gateway, event)

    def _turn_down(self, gateway: str, event: messages.Input, outcome: messages.Outcome) -> None:
        """Refuse an input of a room that could not wake; no hook runs for it."""
        match event:
            case messages.Frame():
                self._refuse(gateway, event, outcome)
            case messages.Connect():
                code = outcome.code or RoomBusy.code
                self._turn_away(gateway, event, *((1013, "") if code in _PASSING else _stay_away(code)))
            case messages.Close():
                self._forget(event.connection)
            case messages.Call():
                self._sink.output(gateway, messages.Reply(event.number, outcome), event.number)

    def _make_state(self) -> None:
        self._state = (self.definition.state(),)

    @property
    def state(self) -> S:
        """The room's own state; raises `VeraniError` if its factory failed when the room woke."""
        if self._state is None:
            raise VeraniError(f"{self.name}: its state could not be made, see the log")
        return self._state[0]

    def _restore(self, gateway: str, record: messages.Record) -> None:
        if record.connection in self.members.sessions or record.connection in self._leaving:
            return  # a gateway that linked again tells of connections that never went away
        try:
            meta = self._codec.decode(record.attachment)
        except AttachmentError as error:
            logger.error("connection closed: %s", error, extra=self._extra(record.connection))
            self._sink.output(
                gateway, messages.Kick(record.connection, 1011, "attachment unreadable", refused=True), None
            )
            return
        session = Session(self, gateway, record.connection, meta, record.attachment, record.order)
        self._seat = max(self._seat, record.order)
        if record.closing:
            self._leaving[session.id] = session
            return
        holder = self.members.holder_of(session.client_id)
        if holder is not None:
            # While the records of one gateway were late, the client came back through another: its last one stays.
            older, session = sorted((holder, session), key=lambda each: each.order)
            self._dismiss(older)
            self._sink.output(older.gateway, messages.Kick(older.id, 4009, _REPLACED), None)
        if session is not holder:
            self.members.add(session)

    async def _connected(self, gateway: str, event: messages.Connect) -> None:
        try:
            meta = self._codec.decode(event.attachment)
        except AttachmentError as error:
            logger.error("connection closed: %s", error, extra=self._extra(event.connection))
            self._turn_away(gateway, event, 1011, "attachment unreadable")
            return
        holder = self.members.holder_of(meta.client_id)
        if holder is not None:
            # Never two sessions under one client id (protocol 15). A gateway refuses the second one before the
            # upgrade where the definition rejects it; here it came through another gateway.
            if self.definition.same_client == "reject":
                self._turn_away(gateway, event, 4009, _REPLACED)
                return
            self._dismiss(holder)
            self._sink.output(holder.gateway, messages.Kick(holder.id, 4009, _REPLACED), event.number)
        # Above all that were given before, also by incarnations whose records a slow gateway still has.
        self._seat = max(self._seat + 1, time.time_ns() // 1000)
        session = Session(self, gateway, event.connection, meta, event.attachment, self._seat)
        self.members.add(session)
        self._sink.attach(gateway, messages.Seat(session.id, self._seat), None)
        hook = self.definition.hooks.get("on_connect")
        if hook is None:
            return

        def discard(error: BaseException) -> None:
            self.members.remove(session)
            self._leaving.pop(session.id, None)
            self._turn_away(gateway, event, *_closing_of(error))

        context = Context(self, session)
        await self._run(_Origin(context, self._clock(), gateway, event, discard), hook, context)

    def _turn_away(self, gateway: str, event: messages.Connect, code: int, reason: str = "") -> None:
        """Close a connection that becomes no session: it never gets an `on_disconnect`."""
        self._sink.output(gateway, messages.Kick(event.connection, code, reason, refused=True), event.number)

    async def _received(self, gateway: str, event: messages.Frame) -> None:
        session = self.members.sessions.get(event.connection)
        if session is None:
            return  # kicked, refused by on_connect or already gone: its queued frames are dropped
        handlers = self.definition.dispatch.get(event.event) or self.definition.handlers_of(event.event)
        on_message = None if handlers else self.definition.hooks.get("on_message")
        if event.event.startswith(RESERVED_PREFIX) or (not handlers and on_message is None):
            logger.debug("no handler for event %r", event.event, extra=self._extra(session.id))
            self._refuse(gateway, event, messages.Outcome(code="not_found"))
            return
        try:
            data = frames.decode_data(event.data)
            if len(handlers) == 1 and handlers[0].decoder is None:
                payloads = [data]
            else:
                payloads = [frames.decode_data(event.data, h.decoder) if h.decoder else data for h in handlers]
        except msgspec.ValidationError as error:
            logger.debug("payload of %r does not fit: %s", event.event, error, extra=self._extra(session.id))
            self._refuse(gateway, event, messages.Outcome(code="invalid", path=frames.path_of(error)))
            return
        except InvalidFrame as error:
            logger.debug("invalid frame: %s", error, extra=self._extra(session.id))
            self._refuse(gateway, event, messages.Outcome(code="invalid", path=error.path))
            if event.request is None:  # who is answered knows, and has not sent garbage
                self._sink.output(gateway, messages.Invalid(session.id), event.number)
            return
        except BaseException as error:  # a __post_init__ of a payload type is the user's code, too  # noqa: BLE001
            self._refuse(gateway, event, _outcome_of(error))
            await self._report(error, Context(self, session), gateway, event)
            return
        context = Context(self, session, Frame(event.event, data, event.channel))
        origin = _Origin(context, self._clock(), gateway, event)
        if event.request is not None:
            origin.fail = lambda error: self._refuse(gateway, event, _outcome_of(error))
        if self.definition.middleware:
            dispatch = functools.partial(self._dispatch, context, handlers, payloads, on_message)
            outcome = await self._run(origin, self._through_middleware, context, dispatch)
        elif len(handlers) == 1:
            outcome = await self._run(origin, handlers[0].function, context, payloads[0])
        else:
            outcome = await self._run(origin, self._dispatch, context, handlers, payloads, on_message)
        if outcome is not None and event.request is not None:
            await self._answer(gateway, event, context, outcome.value)

    async def _dispatch(
        self, context: Context[M, S], handlers: tuple[Handler, ...], payloads: list[Any], on_message: Any
    ) -> Any:
        """Run the handlers in order; the first result that is not None is the answer."""
        if on_message is not None:
            return await self._call(on_message, context, context.frame)
        answer = None
        for handler, payload in zip(handlers, payloads, strict=True):
            result = await self._call(handler.function, context, payload)
            answer = result if answer is None else answer
        return answer

    async def _through_middleware(self, context: Context[M, S], innermost: Callable[[], Any]) -> Any:
        call_next = functools.partial(self._call, innermost)
        for middleware in reversed(self.definition.middleware):
            call_next = functools.partial(self._call, middleware, context, call_next)
        return await call_next()

    async def _call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call the next function of a dispatch, unless the time of the whole is over."""
        origin = _origin.get()
        if origin is not None and not origin.armed:
            raise _Abandoned
        if origin is not None and origin.cancelled_at is not None:
            raise self._timeout(origin)
        result = function(*arguments)
        return await result if inspect.isawaitable(result) else result

    async def _answer(self, gateway: str, event: messages.Frame, context: Context[M, S], result: Any) -> None:
        assert event.request is not None
        try:
            payload = frames.ack_frame(event.request, result)
            if len(payload) > MAX_OUTPUT_FRAME:
                raise TooLarge(
                    f"answer to {event.event!r}: expected at most {MAX_OUTPUT_FRAME} bytes, got {len(payload)}"
                )
        except Exception as error:  # whatever an object's own encoding raises  # noqa: BLE001
            self._refuse(gateway, event, _outcome_of(error))
            await self._report(error, context, gateway, event)
            return
        self._sink.output(gateway, messages.Deliver((event.connection,), payload), event.number)

    def _refuse(self, gateway: str, event: messages.Frame, outcome: messages.Outcome) -> None:
        """Answer a request with an error; a frame that asked for no answer gets none."""
        if event.request is not None:
            payload = frames.error_ack_frame(event.request, outcome.code or "failed", outcome.path, outcome.public)
            self._sink.output(gateway, messages.Deliver((event.connection,), payload), event.number)

    async def _called(self, gateway: str, event: messages.Call) -> None:
        def reply(outcome: messages.Outcome) -> None:
            self._sink.output(gateway, messages.Reply(event.number, outcome), event.number)

        def conclude(outcome: messages.Outcome) -> None:
            if event.key is not None and outcome.code not in _PASSING:
                self._answers = self._answers or Answers()
                self._answers.remember(event.key, event.method, event.arguments, outcome)
            reply(outcome)

        method = self.definition.methods.get(event.method)
        if method is None:
            reply(messages.Outcome(code="not_found"))
            return
        if isinstance(event, messages.TakenCall) and self._clock() >= event.expires:
            reply(messages.Outcome(code="deadline"))
            return
        try:
            if event.key is not None and self._answers is not None:
                remembered = self._answers.get(event.key, event.method, event.arguments)
                if remembered is not None:
                    reply(remembered)
                    return
            arguments = method.decode(event.arguments)
        except (Conflict, InvalidArguments) as error:
            reply(messages.Outcome(code=error.code, path=getattr(error, "path", None), message=str(error)))
            return
        except BaseException as error:  # a __post_init__ of an argument's type is the user's code, too  # noqa: BLE001
            conclude(_outcome_of(error))
            await self._report(error, Context(self, None), gateway, event)
            return
        context = Context(self, None, call=Call(method.name, arguments))
        origin = _Origin(context, self._clock(), gateway, event, lambda error: conclude(_outcome_of(error)))
        run: Callable[[], Any] = functools.partial(method.function, self.actor, **arguments)
        if self.definition.middleware:
            run = functools.partial(self._through_middleware, context, run)
        outcome = await self._run(origin, run)
        if outcome is None:
            return
        try:
            result = method.encode(outcome.value)
            if len(result) > MAX_OUTPUT_FRAME:
                raise TooLarge(f"result of {method.name}: expected at most {MAX_OUTPUT_FRAME} bytes, got {len(result)}")
        except Exception as error:  # whatever an object's own encoding raises  # noqa: BLE001
            conclude(_outcome_of(error))
            await self._report(error, context, gateway, event)
            return
        conclude(messages.Outcome(result))

    async def _closed(self, gateway: str, event: messages.Close) -> None:
        session = self._forget(event.connection)
        if session is None:
            return  # on_connect refused it
        hook = self.definition.hooks.get("on_disconnect")
        if hook is not None:
            context = Context(self, session, close_code=event.code, close_reason=event.reason)
            await self._run(_Origin(context, self._clock(), gateway, event), hook, context)

    def _forget(self, connection: str) -> Session[M] | None:
        """Take out the session of a connection that is gone, and return it."""
        self._close_queued.discard(connection)
        session = self._leaving.pop(connection, None) or self.members.sessions.get(connection)
        if session is not None:
            self.members.remove(session)
        return session

    async def _interrupted(self, gateway: str, event: messages.Input) -> None:
        """Tell about an input whose hook began elsewhere and ended with its host."""
        context: Context[M, S]
        match event:
            case messages.Frame():
                session = self.members.sessions.get(event.connection)
                if session is None:
                    return  # kicked meanwhile: nobody waits for the answer
                self._refuse(gateway, event, messages.Outcome(code=HookInterrupted.code))
                try:
                    data = frames.decode_data(event.data)
                except InvalidFrame:
                    data = None
                context = Context(self, session, Frame(event.event, data, event.channel))
            case messages.Connect():
                self._turn_away(gateway, event, 1011)
                try:
                    meta = self._codec.decode(event.attachment)
                except AttachmentError:
                    context = Context(self, None)
                else:
                    context = Context(self, Session(self, gateway, event.connection, meta, event.attachment))
            case messages.Close():
                session = self._forget(event.connection)
                if session is None:
                    return
                context = Context(self, session, close_code=event.code, close_reason=event.reason)
            case messages.Call():
                outcome = messages.Outcome(code=HookInterrupted.code)
                self._sink.output(gateway, messages.Reply(event.number, outcome), event.number)
                method = self.definition.methods.get(event.method)
                try:
                    arguments = method.decode(event.arguments) if method is not None else {}
                except BaseException:  # a __post_init__ of the user's, or a type that is another one by now  # noqa: BLE001
                    arguments = {}
                context = Context(self, None, call=Call(event.method, arguments))
        kind = messages.kind_of(event)
        error = HookInterrupted(f"a hook of {self.name} ({kind}) had begun when the host of the room died")
        await self._report(error, context, gateway, event)

    async def _retire(self, force: bool) -> None:
        if force and self._tasks:
            for task in self._tasks:
                task.cancel()
            await asyncio.wait(tuple(self._tasks), timeout=CANCEL_GRACE)
        hook = self.definition.hooks.get("on_hibernate")
        if hook is not None and self._is_ready:  # what was never loaded must not be saved
            origin = _Origin(Context(self, None), self._clock(), name="on_hibernate")
            await self._run(origin, hook, self.actor)
        self.end()

    def end(self) -> None:
        """Disarm all handles and cancel what the room still runs: the incarnation is over."""
        self._awake = False
        self._suspended.discard(self)
        self._drowsy.discard(self)
        for task in self._tasks:
            task.cancel()
        for _, future in self._drains.values():
            if not future.done():
                future.set_result(None)
        self._drains.clear()
        for call in self._invoked.values():
            if not call.done():
                call.set_result(messages.Outcome(code="interrupted"))
        self._invoked.clear()

    def let_go(self) -> None:
        """Drop everything that the room was; after `end`, when nobody asks about it any more.

        Handles that the application has kept, and hooks that do not end, keep a name and nothing else.
        """
        self._state = self._answers = None
        self.members = Membership()
        self._leaving.clear()
        self._between.clear()
        self._close_queued.clear()
        del self.actor

    @property
    def busy(self) -> str | None:
        """Name what keeps the room awake although no event waits, or None."""
        if self._current is not None:
            return "RPC" if isinstance(self._current.message, messages.Call) else "running hook"
        if self._tasks:
            return "spawned task"
        if self._awake_until and self._clock() < self._awake_until:
            return "keep_awake"
        return None

    @property
    def doing(self) -> tuple[str, float] | None:
        """Name the hook that runs, or else the oldest spawned task, and tell when it began."""
        if self._current is not None:
            return _hook_of(self._current), self._current.started
        for task, began in self._tasks.items():
            others = f" and {len(self._tasks) - 1} more" if len(self._tasks) > 1 else ""
            return f"{task.get_name()}{others}", began
        return None

    def keep_awake(self, seconds: float) -> None:
        """Count as busy for some time."""
        self.check_awake()
        if not seconds >= 0:
            raise ValueError(f"keep_awake: expected 0 seconds or more, got {seconds!r}")
        self._awake_until = self._clock() + seconds if seconds else 0.0
        self._drowsy.discard(self)

    def hibernate(self) -> None:
        """Ask to be retired soon."""
        self.check_awake()
        self._awake_until = 0.0
        self._drowsy.add(self)

    @property
    def connections(self) -> int:
        """How many connections the room has, with those that were told to close."""
        return len(self.members.sessions) + len(self._leaving)

    @property
    def gateways(self) -> Counter[str]:
        """How many of these connections are at each gateway."""
        return Counter(s.gateway for s in (*self.members.sessions.values(), *self._leaving.values()))

    def connections_of(self, gateway: str) -> list[str]:
        """Name the connections at one gateway."""
        sessions = (*self.members.sessions.values(), *self._leaving.values())
        return [session.id for session in sessions if session.gateway == gateway]

    # --- one hook at a time ----------------------------------------------------------------------------

    async def _run(self, origin: _Origin, hook: Callable[..., Any], *arguments: Any) -> _Returned | None:
        """Run one hook as one transaction; None means that it failed and that this has been dealt with."""
        outcome: _Returned | BaseException | None = None
        try:
            outcome = await self._attempt(origin, hook, arguments)
            if isinstance(outcome, _Returned):
                return outcome
            if origin.fail is not None:
                origin.fail(outcome)
            await self._report(outcome, origin.context, origin.gateway, origin.message, name=origin.name)
            return None
        finally:
            outcome = None
            origin.over()

    async def _attempt(
        self, origin: _Origin, hook: Callable[..., Any], arguments: tuple[Any, ...]
    ) -> _Returned | BaseException:
        task = asyncio.current_task()
        requests = task.cancelling() if task is not None else 0
        outcome: _Returned | BaseException | None = None
        self._current = origin
        token = _origin.set(origin)
        try:
            result = hook(*arguments) if self._marker is None else self._mark(origin, hook, arguments)
            if result is not None and (type(result) is CoroutineType or inspect.isawaitable(result)):
                origin.task = task
                self._suspended.add(self)
                result = await result
                if not origin.armed:
                    raise _Abandoned
            if origin.touched:
                self._commit(origin)
        except _Abandoned:
            raise
        except BaseException as error:  # SystemExit and KeyboardInterrupt of a hook must not end the process
            if isinstance(error, GeneratorExit) and origin.task is not None:
                raise  # this very coroutine is being closed
            if not origin.armed:
                raise _Abandoned from None
            self._roll_back(origin)
            if isinstance(error, asyncio.CancelledError):
                if not self._awake:
                    raise  # the shell tears the room down: it disarms the room before it cancels
                if origin.cancelled_at is not None:
                    error = self._timeout(origin)
            outcome = error
        else:
            outcome = _Returned(result)
        finally:
            _origin.reset(token)
            if self._current is origin:
                self._current = None
                self._suspended.discard(self)
        if task is not None and task.cancelling() > requests:
            await _absorb_cancellations(task, requests)
        if self._between:
            self._flush_between()
        try:
            return outcome
        finally:
            outcome = None

    def _mark(self, origin: _Origin, hook: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        """Call the hook, with the marker set whenever code of it runs."""
        assert self._marker is not None
        number = origin.message.number if origin.message is not None else 0
        enter = functools.partial(self._marker.enter, self.name, origin.gateway, number)
        result = _noted(enter, self._marker.leave, functools.partial(hook, *arguments))
        return _marked(result, enter, self._marker.leave) if inspect.isawaitable(result) else result

    def _timeout(self, origin: _Origin) -> HookTimeout:
        self._limited["hook_timeout"] += 1
        event = messages.kind_of(origin.message) if origin.message is not None else "room event"
        return HookTimeout(f"a hook of {self.name} ({event}) ran longer than {self._hook_timeout:g} s")

    async def _report(
        self,
        error: BaseException,
        context: Context[M, S],
        gateway: str = "",
        message: messages.Input | None = None,
        *,
        name: str = "",
    ) -> None:
        """Log an error of a hook and give it to `on_error`, whose own errors are only logged."""
        self._log(error, context, name)
        hook = self.definition.hooks.get("on_error")
        if hook is None:
            return
        origin = _Origin(context, self._clock(), gateway, message, role="report")
        outcome: _Returned | BaseException | None = None
        try:
            outcome = await self._attempt(origin, hook, (error, context))
            if isinstance(outcome, BaseException):
                self._log(outcome, context)
        finally:
            outcome = None
            origin.over()

    def _log(self, error: BaseException, context: Context[M, S], name: str = "") -> None:
        extra = self._extra(context._session.id if context._session is not None else None)
        extra["hook"] = name or context.hook
        if is_refusal(error):
            # Said on purpose, to a client that can make the hook say it as often as it likes.
            logger.debug("a hook refused: %s: %s", type(error).__name__, error, extra=extra)
        else:
            logger.error("a hook of %s failed: %s", self.name, type(error).__name__, exc_info=error, extra=extra)

    def _extra(self, connection: str | None) -> dict[str, Any]:
        return {"room": self.name, "connection": connection}

    def expire(self) -> bool:
        """Enforce the time budget; call it now and then, at least once a second.

        Cancels a hook that awaits beyond its budget. Returns True once if the hook ignored that for a second and was
        abandoned: then the task that runs `handle` is not coming back, and the next event may be handled.
        """
        origin = self._current
        if origin is None or origin.task is None:
            return False
        now = self._clock()
        if origin.cancelled_at is None:
            if now - origin.started > self._hook_timeout:
                origin.cancelled_at = now
                origin.task.cancel()
            return False
        if now - origin.cancelled_at <= CANCEL_GRACE:
            return False
        self._abandon(origin)
        return True

    def _abandon(self, origin: _Origin) -> None:
        origin.armed = False
        self._current = None
        self._suspended.discard(self)
        self._roll_back(origin)
        self._flush_between()
        error = self._timeout(origin)
        if origin.fail is not None:
            origin.fail(error)
        if origin.message is not None:
            self._sink.processed(origin.gateway, origin.message.number)
        if origin.role == "report":
            self._log(error, origin.context)
        else:
            self._post(HookFailed(error, origin.context))

    # --- the transaction -------------------------------------------------------------------------------

    def touch(self, session: Session[Any]) -> None:
        """Make a session part of the running transaction."""
        self.check_awake()
        if self.in_hook:
            assert self._current is not None
            self._current.touched[session.id] = session
        elif self._current is not None and session.id in self._current.touched:
            raise RoomBusy(f"{session!r} belongs to the running hook; change it when that has returned")

    def moved(self, session: Session[Any], before: tuple[str, ...]) -> None:
        """Follow a change of a session's channels."""
        self.members.move(session, before, session.channels)

    def copy_meta(self, meta: Any) -> Any:
        """Copy a meta for somebody who may do with it what he likes."""
        return self._codec.copy(meta)

    def settle(self, session: Session[Any]) -> None:
        """Outside of hooks (spawned tasks), every change is a transaction of its own."""
        if not self.in_hook:
            transaction = _Origin(None, 0.0)
            transaction.touched[session.id] = session
            try:
                self._commit(transaction)
            except BaseException:
                self._roll_back(transaction)
                raise

    @property
    def in_hook(self) -> bool:
        """True if the running code belongs to the hook whose transaction is open."""
        return self._current is not None and self._current is _origin.get()

    def _commit(self, origin: _Origin) -> None:
        """Check all changed metas, then store all: one that does not fit fails the hook."""
        changed: list[tuple[Session[M], bytes, M]] = []
        for session in origin.touched.values():
            attachment = self._codec.encode(session.live_meta)
            if attachment != session.attachment:
                changed.append((session, attachment, self._check(attachment)))
        for session, attachment, meta in changed:
            session.attachment = attachment
            session.live_meta = meta  # what a wake would give: nothing of it is shared with the hook any more
            cause = origin.message.number if origin.message is not None else None
            self._sink.attach(session.gateway, messages.Attach(session.id, attachment), cause)

    def _check(self, attachment: bytes) -> M:
        try:
            return self._codec.check(attachment)
        except TooLarge:
            self._limited["max_meta_bytes"] += 1
            raise

    def _roll_back(self, origin: _Origin) -> None:
        for session in origin.touched.values():
            before = session.channels
            session.live_meta = self._codec.decode(session.attachment)
            self.members.move(session, before, session.channels)

    # --- effects out -----------------------------------------------------------------------------------

    def check_thread(self) -> None:
        """Raise `WrongThread` in any thread but that of the room's event loop."""
        self._thread.check(self.name, _OTHER_THREADS)

    def check_awake(self) -> None:
        """Raise `RoomAsleep` if the room slept or the calling hook was abandoned, `WrongThread` in another thread."""
        if self._thread.ident != get_ident():
            self.check_thread()
        origin = _origin.get()
        if not self._awake or (origin is not None and not origin.armed):
            raise RoomAsleep(f"{self.name}: this handle outlived its room or its hook")

    def send_to_all(self, frame: bytes) -> int:
        """Write a frame to everybody."""
        self.check_awake()
        return self.send(self.members.everybody(), frame)

    def send_to_channel(self, channel: str, frame: bytes, exclude: tuple[str, ...]) -> int:
        """Write a frame to everybody in a channel but the excluded; the audience object is reused while it lasts."""
        self.check_awake()
        audience = self.members.channel(channel)
        absent = self.members.count_in(channel, exclude) if exclude else 0
        self.send(audience, frame, exclude if absent else ())
        return audience.count - absent

    def send_to_session(self, session: Session[M], frame: bytes) -> int:
        """Write a frame to one connection; 0 if it has left."""
        self._charge(frame)
        if session.id not in self.members.sessions:
            return 0
        self._output(session.gateway, messages.Deliver((session.id,), frame))
        return 1

    def send(self, audience: Audience, frame: bytes, exclude: tuple[str, ...] = ()) -> int:
        """Write a frame to an audience and return its count; raises `TooLarge` over the limits."""
        self._charge(frame)
        for gateway, connections in audience.targets:
            self._output(gateway, messages.Deliver(connections, frame, exclude))
        return audience.count

    def _charge(self, frame: bytes) -> None:
        """Check that the caller may send this frame, and count it."""
        self.check_awake()
        size = len(frame)
        if size > MAX_OUTPUT_FRAME:
            raise TooLarge(f"expected a frame of at most {MAX_OUTPUT_FRAME} bytes, got {size}")
        current = self._current
        of_hook = current is not None and current is _origin.get()
        if not of_hook and self._is_full is not None and self._is_full():
            raise RoomBusy(f"{self.name}: its gateways are far behind what it has sent; wait before a task sends more")
        if current is None:
            return
        total = (current.output if of_hook else self._between_bytes) + max(size, _LEAST)
        if total > MAX_HOOK_OUTPUT:  # what is refused here was not output and does not count
            raise TooLarge(f"{self.name}: expected at most {MAX_HOOK_OUTPUT} bytes of output in one hook")
        if of_hook:
            current.output = total
        else:
            self._between_bytes = total

    def _output(self, gateway: str, output: messages.Output) -> None:
        """Write now if this is the running hook or none runs; queue the outputs of spawned tasks otherwise."""
        current = self._current
        if current is None:
            self._sink.output(gateway, output, None)
        elif current is _origin.get():
            self._sink.output(gateway, output, current.message.number if current.message is not None else None)
        else:
            self._between.append((gateway, output))

    def _flush_between(self) -> None:
        queued, self._between = self._between, []
        self._between_bytes = 0
        for gateway, output in queued:
            self._sink.output(gateway, output, None)

    def kick(self, connection: str, code: int, reason: str) -> bool:
        """Close a connection and take it out of the audience; False if it is not here."""
        self.check_awake()
        if type(code) is not int or code not in _CLOSE_CODES:
            raise ValueError(f"close: expected code 1000, 1008, 1011 to 1013 or 3000 to 4999, got {code!r}")
        reason = well_formed(reason)
        if len(reason.encode()) > MAX_REASON_BYTES:
            raise ValueError(f"close: expected a reason of at most {MAX_REASON_BYTES} bytes")
        session = self.members.sessions.get(connection)
        if session is None:
            return False
        self._dismiss(session)
        self._output(session.gateway, messages.Kick(connection, code, reason))
        return True

    def _dismiss(self, session: Session[M]) -> None:
        """Take a session out of the audience and keep it for its `on_disconnect`."""
        self.members.remove(session)
        self._leaving[session.id] = session

    def note_close(self, connection: str) -> None:
        """Learn that the close of this connection has arrived and waits for its turn."""
        self._close_queued.add(connection)

    def cleanup(self) -> int:
        """Take out the sessions whose close waits for its turn, and count them."""
        self.check_awake()
        stale = [session for session in self.members.sessions.values() if session.id in self._close_queued]
        for session in stale:
            self._dismiss(session)
        return len(stale)

    async def drain(self, session: Session[M]) -> None:
        """Wait for the gateway's word that nothing of what was written to a connection is left to send."""
        self.check_awake()
        if session.id not in self.members.sessions and session.id not in self._leaving:
            return
        token = next(_tokens)
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._drains[token] = (session.gateway, future)
        try:
            self._output(session.gateway, messages.Drain(session.id, token))
            await future
        finally:
            self._drains.pop(token, None)

    def drained(self, token: int) -> None:
        """Resolve a `drain`."""
        _, future = self._drains.get(token, (None, None))
        if future is not None and not future.done():
            future.set_result(None)

    def lost(self, gateway: str) -> None:
        """Resolve every `drain` that a gateway, which is gone, will not answer."""
        for token, (asked, _) in tuple(self._drains.items()):
            if asked == gateway:
                self.drained(token)

    # --- calls to other rooms --------------------------------------------------------------------------

    async def call(
        self, room: str, method: str, arguments: bytes, *, timeout: float | None, idempotency_key: str | None
    ) -> bytes:
        """Call a method of another room; see `verani.room.stub.Caller`.

        A call of a running hook holds this room: the chain says so, and a repeated run of the same input repeats its
        calls under the same keys.
        """
        self.check_awake()
        origin = _origin.get()
        chain: tuple[str, ...] = ()
        if origin is not None and origin is self._current:
            message = origin.message
            chain = (*(message.chain if isinstance(message, messages.Call) else ()), self.name)
            origin.calls += 1
            if idempotency_key is None and message is not None:
                call = origin.calls if origin.role == "hook" else f"{origin.role} {origin.calls}"
                idempotency_key = f"{self.name} {origin.gateway} {message.number} {call}"
        if room in chain:
            raise CallCycle(f"{room} waits for this very call")
        timeout = self._rpc_timeout if timeout is None else timeout
        token = next(_tokens)
        future = self._invoked[token] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(timeout):
                self._sink.invoke(
                    messages.Invoke(self.name, token, room, method, arguments, timeout, idempotency_key, chain)
                )
                outcome = await future
        except TimeoutError:
            raise DeadlineExceeded(f"{room}: {method} did not answer within {timeout:g} s") from None
        finally:
            self._invoked.pop(token, None)
        return result_of(outcome, room, method)

    def replied(self, token: int, outcome: messages.Outcome) -> None:
        """Resolve a `call`."""
        future = self._invoked.get(token)
        if future is not None and not future.done():
            future.set_result(outcome)

    # --- other threads ---------------------------------------------------------------------------------

    def from_thread(self, function: Callable[..., Any], call: Callable[[], Any]) -> Any:
        """Run a function on the room's loop, for a thread that waits for it; see `Actor.from_thread`."""
        if self._thread.runs:
            raise WrongThread(f"{self.name}: from_thread was called on the thread of the event loop: call it directly")
        if self._loop is None or not self._awake:
            raise RoomAsleep(f"{self.name}: this handle outlived its room")
        # A thread without context variables is taken for one that the running hook waits for.
        origin = _origin.get() or self._current
        work = functools.partial(contextvars.copy_context().run, self._run_errand, origin, function, call)
        return run_on(self._loop, work, self._hook_timeout)

    def _run_errand(self, origin: _Origin | None, function: Callable[..., Any], call: Callable[[], Any]) -> Any:
        """Run a thread's function as code of the hook or task that started the thread, or of none if that is over."""
        if origin is not None and origin.kept is not None:
            origin = None
        _origin.set(origin)
        self.check_awake()
        if self._marker is None:
            result = call()
        else:
            result = _noted(functools.partial(self._marker.enter, self.name, "", 0), self._marker.leave, call)
        if inspect.isawaitable(result):
            if inspect.iscoroutine(result):
                result.close()
            raise TypeError(f"from_thread: expected a plain function, got one to await: {label_of(function)}")
        return result

    # --- tasks of the room -----------------------------------------------------------------------------

    def spawn(self, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Start a task whose operations are not the running hook's."""
        if not inspect.iscoroutine(coroutine):
            raise TypeError(f"spawn: expected a coroutine, got {type(coroutine).__name__}")
        try:
            self.check_awake()
        except VeraniError:
            coroutine.close()
            raise
        current = _origin.get()
        context = current.context_of_tasks() if current is not None else None
        origin = _Origin(context or Context(self, None), self._clock())
        token = _origin.set(origin)
        try:
            task = asyncio.get_running_loop().create_task(_without_exit(coroutine), name=coroutine.__qualname__)
        finally:
            _origin.reset(token)
        self._tasks[task] = origin.started
        task.add_done_callback(functools.partial(self._spawned_done, coroutine, origin))
        return task

    def _spawned_done(self, coroutine: Coroutine[Any, Any, Any], origin: _Origin, task: asyncio.Task[Any]) -> None:
        self._tasks.pop(task, None)
        context: Context[M, S] = origin.context
        origin.over()
        coroutine.close()  # a task that was cancelled before its first step has not touched it
        error = None if task.cancelled() else task.exception()
        if error is not None and self._awake:
            self._post(HookFailed(error, context))
        elif error is not None:
            self._log(error, context)


async def _absorb_cancellations(task: asyncio.Task[Any], requests: int) -> None:
    """Take back what a hook, or its time budget, asked of the room's task: the next hook is innocent.

    Before Python 3.13 a request that was not thrown yet outlives `uncancel`; it lands here.
    """
    while task.cancelling() > requests:
        task.uncancel()
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(0)


def _noted(enter: Callable[[], None], leave: Callable[[], None], call: Callable[[], Any]) -> Any:
    enter()
    try:
        return call()
    finally:
        leave()


@coroutine
def _marked(hook: Awaitable[Any], enter: Callable[[], None], leave: Callable[[], None]) -> Generator[Any, Any, Any]:
    """Await a hook step by step; other rooms run between the steps."""
    steps = hook.__await__()
    thrown: BaseException | None = None
    while True:
        enter()
        try:
            step = next(steps) if thrown is None else steps.throw(thrown)
        except StopIteration as end:
            return end.value
        finally:
            thrown = None
            leave()
        try:
            yield step
        except GeneratorExit:
            steps.close()
            raise
        except BaseException as error:  # the task's cancellation, for the hook to deal with  # noqa: BLE001
            thrown = error


class _Returned(msgspec.Struct, frozen=True):
    """A hook's result, as opposed to its error."""

    value: Any


async def _without_exit(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Await a spawned coroutine; SystemExit fails its task, but would end the event loop of all rooms."""
    try:
        return await coroutine
    except (SystemExit, KeyboardInterrupt) as error:
        raise VeraniError(f"a spawned task raised {type(error).__name__}") from error


def _hook_of(origin: _Origin) -> str:
    """Name the hook that is run, as the room's definition knows it: by its event, its method or its own name."""
    if origin.role == "report":
        return "on_error"
    if origin.name:
        return origin.name
    match origin.message:
        case messages.Frame() as frame:
            return frame.event
        case messages.Call() as call:
            return call.method
        case messages.Connect():
            return "on_connect"
        case messages.Close():
            return "on_disconnect"
        case _:
            return "hook"


def _closing_of(error: BaseException) -> tuple[int, str]:
    """Choose how a connection is closed that `on_connect` failed for: whom it refused is to stay away."""
    if isinstance(error, VeraniError) and is_refusal(error):
        return _stay_away(error.code)
    return 1011, ""


def _stay_away(code: str) -> tuple[int, str]:
    return 1000, code.encode()[:MAX_REASON_BYTES].decode(errors="ignore")


def _outcome_of(error: BaseException) -> messages.Outcome:
    """Choose what a client or caller hears; only errors made for them have a code, a path and a text of their own."""
    if not isinstance(error, VeraniError) or error.is_of_call:
        return messages.Outcome(code="failed")
    path = error.path if isinstance(error, InvalidArguments) else None
    return messages.Outcome(code=error.code, path=path, public=error.public)

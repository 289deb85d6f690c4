"""Be the Thespian actor of one awake room: carry events to its engine, one at a time.

Everything a room does is the engine's; this actor only owns the order. Inputs wait in `_inputs`, not in the
mailbox, so that a task whose hook was abandoned can stop and the next one can go on with the rest.
Nothing leaves `receiveMessage`: Thespian would run the message again.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from functools import partial
from time import monotonic
from typing import Any

from msgspec import Struct
from thespian.actors import Actor, ActorAddress, ActorExitRequest

from verani.engine.engine import Engine
from verani.engine.hook_runner import Rest
from verani.engine.room_events import Attached, HookFailed, Retire, Woken
from verani.link.messages import Arrival

from ..links.flow import Flow

__all__ = ["Abandoned", "GoOn", "HandleInputs", "Open", "Post", "RoomActor", "Slept", "Sleep", "Stayed"]

logger = logging.getLogger(__name__)

# Seconds that hooks which do not wait may keep sockets and other rooms waiting; then those have their turn.
_TURN = 0.005


class Open(Struct, frozen=True):
    """Wake the room; its first message.

    `start` makes the engine, `done` is called when the room is awake; `flow` is asked what is to be awaited before the
    next input.
    """

    start: Callable[[], Engine[Any, Any]]
    woken: Woken
    done: Callable[[], None]
    flow: Flow


class HandleInputs(Struct, frozen=True):
    """Handle these inputs, in order; each with its gateway."""

    inputs: list[tuple[str, Arrival]]


class GoOn(Struct, frozen=True):
    """Do the rest of an input that has begun elsewhere, then what waits."""

    rest: Rest[bool]


class Post(Struct, frozen=True):
    """Handle an event that is no input: a failure outside the order of inputs, or records that came late."""

    event: HookFailed | Attached


class Abandoned(Struct, frozen=True):
    """The running hook was abandoned; go on with what waits."""


class Sleep(Struct, frozen=True):
    """Go to sleep if nothing is going on; answered with `Slept` or `Stayed`. `force`: spawned tasks do not count."""

    force: bool = False


class Slept(Struct, frozen=True):
    """The room is asleep: nothing of it is left but its records."""

    room: str


class Stayed(Struct, frozen=True):
    """The room has something to do and stays awake."""

    room: str


class RoomActor(Actor):
    """One room, from `Open` to its exit."""

    def __init__(self) -> None:
        self._engine: Engine[Any, Any] | None = None
        self._inputs: deque[tuple[str, Arrival]] = deque()
        self._retiring_for: ActorAddress | None = None
        self._opening: Callable[[], None] | None = None
        self._flow: Flow | None = None
        # Since when this room has kept others waiting.
        self._since = 0.0

    def receiveMessage(self, message: Any, sender: ActorAddress) -> Awaitable[None] | None:
        """Answer with an awaitable, so that the next message waits, while other rooms go on."""
        match message:
            case HandleInputs():
                self._inputs.extend(message.inputs)
                self._since = monotonic()
                rest = self._advance()
                return None if rest is None else self._go_on(rest)
            case GoOn():
                return self._go_on(message.rest)
            case Open():
                return self._open(message)
            case Post():
                return self._post(message.event)
            case Sleep():
                return self._sleep(sender, message.force)
            case Abandoned():
                return self._resume()
            case ActorExitRequest():
                if self._engine is not None:
                    self._engine.end()
                return None
            case _:
                logger.warning("unexpected message %s for a room", type(message).__name__)
                return None

    def _open(self, message: Open) -> Awaitable[None] | None:
        self._opening = message.done
        self._flow = message.flow
        try:
            self._engine = message.start()
            rest = self._engine.start(message.woken)
        except BaseException as error:  # nothing leaves `receiveMessage`  # noqa: BLE001
            return _fail(error)
        if rest is not None:
            return self._open_when(rest)
        self._opened()
        return None

    async def _open_when(self, rest: Rest[bool]) -> None:
        if await rest():
            self._opened()

    def _opened(self) -> None:
        if self._opening is not None:
            self._opening()
            self._opening = None

    async def _work(self) -> None:
        """Handle the inputs that wait."""
        self._since = monotonic()
        await self._go_on(self._advance())

    async def _go_on(self, rest: Rest[bool] | None) -> None:
        self._since = monotonic()  # others had their turn between the making of a task and its first step
        while rest is not None:
            try:
                if not await rest():
                    return
            except Exception:  # a bug of ours  # noqa: BLE001
                self._log_bug()
            rest = self._advance()

    def _advance(self) -> Rest[bool] | None:
        """Handle inputs up to the first that has to wait; `_go_on` is for what is left."""
        engine, flow, inputs = self._engine, self._flow, self._inputs
        assert engine is not None, "Open is a room's first message"
        assert flow is not None
        while inputs:
            if monotonic() - self._since > _TURN:
                return partial(self._wait, partial(asyncio.sleep, 0))
            if flow.far and flow.is_held(engine.name):
                return partial(self._wait, partial(flow.wait, engine.name))
            gateway, input = inputs.popleft()
            try:
                rest = engine.start(input, gateway)
            except BaseException:  # nothing leaves `receiveMessage`  # noqa: BLE001
                self._log_bug()
                continue
            if rest is not None:
                return rest
        return None

    async def _wait(self, wait: Rest[object]) -> bool:
        await wait()
        self._since = monotonic()
        return True

    def _log_bug(self) -> None:
        """Say that an input was lost; the mailbox's last line: the room goes on with its next one."""
        assert self._engine is not None
        logger.exception("an input of room %s could not be handled", self._engine.name)

    async def _post(self, event: HookFailed | Attached) -> None:
        assert self._engine is not None
        if await self._engine.handle(event):
            await self._work()

    async def _resume(self) -> None:
        self._opened()  # if it was the hook of a wake that was abandoned
        if self._retiring_for is not None:
            self._finish_retiring(self._retiring_for)
        else:
            await self._work()

    async def _sleep(self, manager: ActorAddress, force: bool) -> None:
        engine = self._engine
        assert engine is not None
        if engine.busy is not None and not force:  # with inputs in hand, it would not have been asked
            self.send(manager, Stayed(engine.name))
            return
        self._retiring_for = manager
        if await engine.handle(Retire(force)):
            self._finish_retiring(manager)

    def _finish_retiring(self, manager: ActorAddress) -> None:
        assert self._engine is not None
        self._engine.end()
        self.send(manager, Slept(self._engine.name))


async def _fail(error: BaseException) -> None:
    """Fail the message at once: what is raised here, Thespian does not run again."""
    raise error

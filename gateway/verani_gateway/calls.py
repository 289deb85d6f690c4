"""Carry calls to rooms: give each a number among its room's inputs, and its caller the outcome or the deadline.

Whether a caller may call is decided before; what a method does, in the room.

Invariants:
- A caller is answered exactly once: with the outcome, at its deadline, or when the gateway stops.
- What is refused here has surely not run, and wakes no room.
- Outstanding calls are bounded in number here, and in bytes with all other inputs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

from verani.errors import (
    CallCycle,
    DeadlineExceeded,
    Interrupted,
    InvalidArguments,
    NotFound,
    RoomBusy,
    TooLarge,
    VeraniError,
)
from verani.link.messages import Invoke, Outcome, Reply
from verani.names import ROOM_ID, room_id_of
from verani.room.definition import RoomDefinition
from verani.room.methods import MAX_TIMEOUT, result_of
from verani.settings import Settings
from verani.threads import OwnThread

from .config import suggest
from .inputs.ingress import Ingress
from .inputs.metrics import Metrics

__all__ = ["Calls"]

_Done = Callable[[Outcome], None]


class Calls:
    """The calls that this gateway waits for; the `verani.room.stub.Caller` of stubs in this process."""

    def __init__(
        self,
        definitions: Iterable[RoomDefinition[Any, Any]],
        ingress: Ingress,
        metrics: Metrics,
    ) -> None:
        self._definitions = {definition.name: definition for definition in definitions}
        self._ingress = ingress
        self._metrics = metrics
        self._settings = Settings()
        self._waiting: dict[int, tuple[_Done, asyncio.TimerHandle]] = {}
        self._open = False
        self._thread = OwnThread()

    def __len__(self) -> int:
        return len(self._waiting)

    async def call(
        self, room: str, method: str, arguments: bytes, *, timeout: float | None, idempotency_key: str | None
    ) -> bytes:
        """Call a method; see `verani.room.stub.Caller`. A caller that is cancelled is forgotten, the call runs on."""
        self._thread.check(f"the stub of {room}", "await it on the loop of the application, or use verani.connect_sync")
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()

        def done(outcome: Outcome) -> None:
            if not future.done():
                future.set_result(outcome)

        timeout = self._settings.rpc_timeout if timeout is None else timeout
        number = self._start(room, method, arguments, timeout, idempotency_key, done)
        try:
            return result_of(await future, room, method)
        finally:
            self._forget(number)  # of a caller that was cancelled

    def invoke(self, invoke: Invoke, done: _Done) -> None:
        """Carry a call of one room to another; `done` is called with the outcome, maybe before this returns."""
        try:
            self._start(
                invoke.target,
                invoke.method,
                invoke.arguments,
                invoke.timeout,
                invoke.key,
                done,
                chain=invoke.chain,
                trace=invoke.trace,
            )
        except VeraniError as error:
            done(Outcome(code=error.code, message=str(error), public=error.public))

    def replied(self, reply: Reply) -> None:
        """Pass an outcome to its caller; an outcome after the deadline is dropped."""
        self._end(reply.call, reply.outcome)

    def left(self, number: int) -> float:
        """Say how many seconds a call has left, 0 if its caller does not wait any more."""
        _, timer = self._waiting.get(number, (None, None))
        return 0.0 if timer is None else max(0.0, timer.when() - asyncio.get_running_loop().time())

    def open(self, settings: Settings) -> None:
        """Take calls from now on: the link is there, and the settings are those of the service."""
        self._settings = settings
        self._thread.take()
        self._open = True

    def stop(self) -> None:
        """Answer everybody who still waits."""
        self._open = False
        for number in tuple(self._waiting):
            self._end(number, Outcome(code=Interrupted.code))

    def _start(
        self,
        room: str,
        method: str,
        arguments: bytes,
        timeout: float,
        key: str | None,
        done: _Done,
        *,
        chain: tuple[str, ...] = (),
        trace: str | None = None,
    ) -> int:
        """Put the call among the inputs of its room; raises the `VeraniError` it is refused with."""
        try:
            room = self._check(room, method, arguments, timeout, chain)
        except VeraniError as error:
            self._metrics.called(error.code)
            raise
        number = self._ingress.call(room, method, arguments, timeout, key, chain, trace)
        timer = asyncio.get_running_loop().call_later(timeout, self._expire, number)
        self._waiting[number] = done, timer
        return number

    def _check(self, room: str, method: str, arguments: bytes, timeout: float, chain: tuple[str, ...]) -> str:
        """Return the room's name in its one spelling; raises the `VeraniError` that the call is refused with."""
        settings = self._settings
        if not 0 < timeout <= MAX_TIMEOUT:
            raise InvalidArguments(f"timeout: expected more than 0, at most {MAX_TIMEOUT:g} seconds, got {timeout!r}")
        name, _, asked = room.partition("/")
        definition = self._definitions.get(name)
        if definition is None:
            raise NotFound(f"{room!r}: expected a room of {', '.join(sorted(self._definitions))}")
        room_id = room_id_of(asked)
        if room_id is None:
            raise NotFound(f"{room!a}: expected {ROOM_ID}")
        room = f"{name}/{room_id}"
        if method not in definition.methods:
            raise NotFound(f"{name} has no method {method!r}{suggest(method, definition.methods)}")
        if len(arguments) > settings.max_rpc_bytes:
            self._metrics.limited["max_rpc_bytes"] += 1
            raise TooLarge(f"expected at most {settings.max_rpc_bytes} bytes of arguments, got {len(arguments)}")
        if room in chain:
            raise CallCycle(f"{room} waits for this very call")
        if len(self._waiting) >= settings.max_rpc_calls:
            self._metrics.limited["max_rpc_calls"] += 1
            raise RoomBusy("as many calls wait as may")
        if not self._open or self._ingress.congestion.holds_up(room):
            raise RoomBusy(f"{room} takes no further call now")
        return room

    def _end(self, number: int, outcome: Outcome) -> None:
        """Answer a caller, if it still waits."""
        done = self._forget(number)
        if done is not None:
            self._metrics.called(outcome.code or "ok")
            done(outcome)

    def _expire(self, number: int) -> None:
        self._metrics.limited["rpc_timeout"] += 1
        self._end(number, Outcome(code=DeadlineExceeded.code))

    def _forget(self, number: int) -> _Done | None:
        done, timer = self._waiting.pop(number, (None, None))
        if timer is not None:
            timer.cancel()
        return done

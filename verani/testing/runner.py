"""Run the engine of one room: its inputs in order, its clock, its sleep and waking.

Who connects and what a test sees of it are the harness's business.

What runs the engine is `incarnations.py`. The clock moves in `advance` only.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Generic

import msgspec

from ..engine.engine import Engine
from ..engine.room_events import Event
from ..frames import ScannedFrame
from ..link.messages import Close, Connect, FrameInput, Input, Invoke, Outcome, TakenCall
from ..room.context import S
from ..room.definition import RoomDefinition
from ..room.meta import M
from ..room.methods import result_of
from ..settings import Settings
from .harness_calls import HarnessCalls
from .harness_client import HarnessClient
from .incarnations import Incarnations
from .stand_in_gateway import StandInGateway

__all__ = ["RoomRunner"]

# How often the clock stops on its way while a hook awaits: a host checks time budgets about as often.
_TICK = 0.5


class RoomRunner(Generic[M, S]):
    """One room, its inputs and its clock.

    `hibernates` is whether it sleeps by its own clock and wish. `failed` gets what hooks raised, `handles` each event
    before it is handled. `others` stands in for the other rooms: called with a room's name, a method and its arguments,
    it returns the result.
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
        self.now = 0.0
        self.hibernates = True
        self._calls = HarnessCalls(others, failed)
        self.gateway = StandInGateway(
            kicked=self.close, drain=self._drain, reply=self._calls.reply, invoke=self._invoke
        )
        self.lives = Incarnations(
            definition, room_id, settings, self.gateway, clock=lambda: self.now, failed=failed, handles=handles
        )
        self._rpc_timeout = settings.rpc_timeout
        own = definition.hibernate_after
        self._hibernate_after = settings.hibernate_after if own is msgspec.UNSET else own
        self._number = 0

    @property
    def engine(self) -> Engine[M, S] | None:
        """The engine of the room, None while it sleeps."""
        return self.lives.engine

    # --- inputs ----------------------------------------------------------------------------------------

    def connect(self, client: HarnessClient, attachment: bytes) -> None:
        """Let a connection in."""
        self.gateway.accept(client, attachment)
        self._put_input(Connect(self.name, self._next_number(), client.id, attachment))

    def frame(self, client: HarnessClient, frame: ScannedFrame) -> None:
        """Take a frame of a client."""
        data = None if frame.data is msgspec.UNSET else bytes(frame.data)
        number = self._next_number()
        self._put_input(FrameInput(self.name, number, client.id, frame.type, data, frame.channel, frame.id))

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

        timeout = self._rpc_timeout if timeout is None else timeout
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
        self._calls.add(number, answer, expires)
        self._put_input(TakenCall(self.name, number, method, arguments, timeout, key, chain, expires=expires))

    def _invoke(self, invoke: Invoke) -> None:
        """Carry a call of the room: to itself, or to what stands in for the others."""
        engine = self.engine
        assert engine is not None

        def answer(outcome: Outcome) -> None:
            engine.replied(invoke.token, outcome)

        if invoke.target == self.name:
            self._put_call(invoke.method, invoke.arguments, invoke.timeout, invoke.key, invoke.chain, answer)
        else:
            self._calls.carry(invoke, answer)

    def _drain(self, token: int) -> None:
        """Answer at once: nothing here waits to be written."""
        if self.engine is not None:
            asyncio.get_running_loop().call_soon(self.engine.drained, token)

    def _next_number(self) -> int:
        self._number += 1
        return self._number

    def _put_input(self, input: Input) -> None:
        self.gateway.sent(input)
        self.lives.put(input)

    # --- time and sleep --------------------------------------------------------------------------------

    async def finish(self) -> None:
        """Let happen what needs no real time, then let the room sleep if it asked to."""
        await self.lives.settle()
        if self.hibernates and self.lives.wants_sleep:
            await self.lives.tear_down()

    async def end(self) -> None:
        """Cancel everything; nobody is told."""
        await self.lives.end(self._calls.carried)
        self._calls.interrupt()

    async def advance(self, seconds: float) -> None:
        """Move the clock, stopping wherever something is due."""
        await self.lives.settle()  # what other tasks of the test have begun belongs to the time before
        until = self.now + seconds
        while self.now < until:
            self.now = min(until, self._next_stop())
            self.lives.expire()
            self._calls.expire(self.now)
            await self.lives.settle()
            await self._sleep_if_due()

    def _next_stop(self) -> float:
        if self.lives.has_suspended:
            return self.now + _TICK
        stops = list(self._calls.deadlines())
        if self._idle_at is not None:
            stops.append(self._idle_at)
        return min((stop for stop in stops if stop > self.now), default=float("inf"))

    @property
    def _idle_at(self) -> float | None:
        """When the idle room is to sleep; None for never."""
        if self._hibernate_after is None or self.engine is None or not self.hibernates:
            return None
        return self.lives.active_at + self._hibernate_after

    async def _sleep_if_due(self) -> None:
        idle_at = self._idle_at
        if idle_at is None or self.now < idle_at:
            return
        if self.lives.kept_awake_by() is None:
            await self.lives.tear_down()
        else:
            self.lives.active_at = self.now  # as a host does: it looks again an idle time later

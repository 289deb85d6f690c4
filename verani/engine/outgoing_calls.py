"""Call methods of other rooms: carried and answered outside of the order of inputs."""

from __future__ import annotations

import asyncio
import itertools

from ..errors import CallCycle, DeadlineExceeded
from ..link import messages
from ..room.methods import result_of
from .hook_run import HookRun, Turn, running
from .sink import Sink

__all__ = ["OutgoingCalls"]

# Never used twice in a process, so a late answer cannot mean a later call of the room's next incarnation.
_tokens = itertools.count(1)


class OutgoingCalls:
    """The calls of a room that are not answered yet; a `verani.room.stub.Caller`."""

    def __init__(self, turn: Turn, sink: Sink, rpc_timeout: float) -> None:
        self._turn = turn
        self._sink = sink
        self._rpc_timeout = rpc_timeout
        self._waiting: dict[int, asyncio.Future[messages.Outcome]] = {}

    async def call(
        self, room: str, method: str, arguments: bytes, *, timeout: float | None, idempotency_key: str | None
    ) -> bytes:
        """Call a method of another room; see `verani.room.stub.Caller`.

        A call of a running hook holds this room: the chain says so, and a repeated run of the same input repeats its
        calls under the same keys.
        """
        self._turn.check_awake()
        run = running.get()
        chain: tuple[str, ...] = ()
        if run is not None and run is self._turn.current:
            chain = self._chain(run)
            run.calls += 1
            idempotency_key = self._key(run) if idempotency_key is None else idempotency_key
        if room in chain:
            raise CallCycle(f"{room} waits for this very call")
        timeout = self._rpc_timeout if timeout is None else timeout
        token = next(_tokens)
        future = self._waiting[token] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(timeout):
                self._sink.invoke(
                    messages.Invoke(self._turn.name, token, room, method, arguments, timeout, idempotency_key, chain)
                )
                outcome = await future
        except TimeoutError:
            raise DeadlineExceeded(f"{room}: {method} did not answer within {timeout:g} s") from None
        finally:
            self._waiting.pop(token, None)
        return result_of(outcome, room, method)

    def _chain(self, run: HookRun) -> tuple[str, ...]:
        """Name the rooms that wait for what this hook calls."""
        message = run.message
        return (*(message.chain if isinstance(message, messages.CallInput) else ()), self._turn.name)

    def _key(self, run: HookRun) -> str | None:
        """Name the call of a hook by its input and its place among the calls of that hook."""
        if run.message is None:
            return None
        call = run.calls if run.role == "hook" else f"{run.role} {run.calls}"
        return f"{self._turn.name} {run.gateway} {run.message.number} {call}"

    def replied(self, token: int, outcome: messages.Outcome) -> None:
        """Take the outcome of a call."""
        future = self._waiting.get(token)
        if future is not None and not future.done():
            future.set_result(outcome)

    def end(self) -> None:
        """Interrupt every call."""
        for token in tuple(self._waiting):
            self.replied(token, messages.Outcome(code="interrupted"))
        self._waiting.clear()

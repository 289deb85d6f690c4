"""Keep the calls of a test, and of the room it tests, until they are answered."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

import msgspec

from .. import frames
from ..errors import DeadlineExceeded, VeraniError
from ..link.messages import Invoke, Outcome, Reply

__all__ = ["HarnessCalls"]

Answer: TypeAlias = Callable[[Outcome], None]


class HarnessCalls:
    """The calls in flight; `others` stands in for the other rooms, and `failed` gets what it raises."""

    def __init__(self, others: Callable[[str, str, Any], Any] | None, failed: Callable[[BaseException], None]) -> None:
        self._others = others
        self._failed = failed
        # By the number of the input: who is answered, and when it is too late for that.
        self._waiting: dict[int, tuple[Answer, float]] = {}
        # Those on their way to what stands in for the others.
        self.carried: set[asyncio.Task[None]] = set()

    def add(self, number: int, answer: Answer, expires: float) -> None:
        """Remember who is answered."""
        self._waiting[number] = answer, expires

    def reply(self, reply: Reply) -> None:
        """Answer a call, unless that has happened."""
        if (call := self._waiting.pop(reply.call, None)) is not None:
            call[0](reply.outcome)

    def deadlines(self) -> Iterable[float]:
        """List when calls expire."""
        return (expires for _, expires in self._waiting.values())

    def expire(self, now: float) -> None:
        """Answer the calls whose time is over."""
        for number, (answer, expires) in tuple(self._waiting.items()):
            if now >= expires:
                del self._waiting[number]
                answer(Outcome(code=DeadlineExceeded.code))

    def carry(self, invoke: Invoke, answer: Answer) -> None:
        """Bring a call to what stands in for the others."""
        task = asyncio.get_running_loop().create_task(self._ask_others(invoke, answer))
        self.carried.add(task)
        task.add_done_callback(self.carried.discard)

    def interrupt(self) -> None:
        """Answer every call that it may have run."""
        for answer, _ in self._waiting.values():
            answer(Outcome(code="interrupted"))

    async def _ask_others(self, invoke: Invoke, answer: Answer) -> None:
        if self._others is None:
            answer(Outcome(code="not_found", message="this harness has one room; give it calls= for the others"))
            return
        try:
            result = self._others(invoke.target, invoke.method, msgspec.json.decode(invoke.arguments))
            result = await result if inspect.isawaitable(result) else result
            outcome = Outcome(frames.encode(result))
        except VeraniError as error:
            outcome = Outcome(code=error.code, message=str(error), public=error.public)
        except Exception as error:  # what stands in for a hook of another room  # noqa: BLE001
            self._failed(error)
            outcome = Outcome(code="failed")
        answer(outcome)

"""Note whose code runs at this moment, step by step, in case the process does not survive it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from types import coroutine
from typing import Any, Protocol

__all__ = ["Marker", "marked"]


class Marker(Protocol):
    """Where a room host notes whose code runs."""

    def enter(self, room: str, gateway: str, number: int) -> None:
        """Note that code of a room runs for this input; an empty gateway and 0 where it is for none."""

    def leave(self) -> None:
        """Note that no code of a room runs."""


@coroutine
def marked(hook: Awaitable[Any], enter: Callable[[], None], leave: Callable[[], None]) -> Generator[Any, Any, Any]:
    """Await a hook or a spawned coroutine, each step between `enter` and `leave`; other rooms run between the steps."""
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

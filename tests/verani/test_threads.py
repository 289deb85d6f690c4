"""What a thread gets from the event loop of another one."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future

import pytest

from verani import threads


class _JustInTime(Future[str]):
    """Is done in the moment in which the first wait for it has ended."""

    waits = 0

    def result(self, timeout: float | None = None) -> str:
        self.waits += 1
        if self.waits == 1:
            self.exception()
            raise TimeoutError
        return super().result(timeout)


async def test_what_is_done_as_a_wait_for_it_ends_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "Future", _JustInTime)
    loop = asyncio.get_running_loop()
    assert await asyncio.to_thread(threads.run_on, loop, lambda: "done", 10.0) == "done"


async def test_a_timeout_of_the_work_itself_is_raised() -> None:
    def work() -> None:
        raise TimeoutError("its own")

    with pytest.raises(TimeoutError, match="its own"):
        await asyncio.to_thread(threads.run_on, asyncio.get_running_loop(), work, 10.0)

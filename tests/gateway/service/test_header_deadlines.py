"""One timer closes all connections whose first header does not come in time."""

from __future__ import annotations

import asyncio

from verani_gateway.service.header_deadlines import HeaderDeadlines


class Silent:
    """A connection that says nothing."""

    def __init__(self, told: list[Silent]) -> None:
        self.told = told
        self.late = asyncio.Event()

    def is_late(self) -> None:
        self.told.append(self)
        self.late.set()


async def test_those_that_are_late_are_closed_one_after_the_other_and_nobody_else() -> None:
    deadlines, told = HeaderDeadlines(0.01), list[Silent]()
    first, heard, second = (Silent(told) for _ in range(3))
    deadlines.add(first)
    deadlines.add(heard)
    deadlines.discard(heard)
    await first.late.wait()
    deadlines.add(second)
    await second.late.wait()
    assert told == [first, second]


async def test_whoever_comes_between_has_the_same_time_and_who_is_late_may_be_discarded_again() -> None:
    deadlines, told = HeaderDeadlines(0.01), list[Silent]()
    silent = [Silent(told) for _ in range(3)]
    for each in silent:
        deadlines.add(each)
        await asyncio.sleep(0)
    deadlines.discard(silent[0])
    await silent[2].late.wait()
    for each in silent:
        deadlines.discard(each)
    assert told == silent[1:]


async def test_there_is_a_timer_only_while_somebody_is_waited_for() -> None:
    loop = asyncio.get_running_loop()
    deadlines, told = HeaderDeadlines(1000.0), list[Silent]()
    first, second = Silent(told), Silent(told)
    timers = len(loop._scheduled)  # type: ignore[attr-defined]
    deadlines.add(first)
    deadlines.add(second)
    assert len(loop._scheduled) == timers + 1  # type: ignore[attr-defined]
    deadlines.discard(first)
    deadlines.discard(second)
    assert all(timer.cancelled() for timer in loop._scheduled[timers:])  # type: ignore[attr-defined]

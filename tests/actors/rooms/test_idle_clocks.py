"""Idle rooms are found without looking at the others."""

from __future__ import annotations

import tracemalloc
from itertools import islice

from verani_actors.rooms.idle_clocks import IdleRooms

TIMEOUTS = (1.0, 60.0, 3600.0)


def _rooms(count: int) -> IdleRooms:
    rooms = IdleRooms()
    for n in range(count):
        rooms.mark(f"chat/{n}", TIMEOUTS[n % len(TIMEOUTS)], float(n))
    return rooms


def test_the_oldest_come_first_whatever_their_time_outs() -> None:
    rooms = _rooms(9)
    rooms.mark("chat/0", 1.0, 10.0)
    rooms.forget("chat/3")
    assert list(rooms.oldest()) == [f"chat/{n}" for n in (1, 2, 4, 5, 6, 7, 8, 0)]


def test_the_oldest_few_of_many_rooms_are_named_without_a_look_at_the_rest() -> None:
    rooms = _rooms(50_000)
    tracemalloc.start()
    try:
        found = list(islice(rooms.oldest(), 10))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert found == [f"chat/{n}" for n in range(10)]
    assert peak < 20_000, "a list of all rooms is a hundred times as large"

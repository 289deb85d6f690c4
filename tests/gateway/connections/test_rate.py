"""Meters of one connection, on a clock of their own."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from verani_gateway.connections.rate import INVALID_WINDOW, InvalidFrames, Meter, SharedBuckets, TokenBucket, Turns


def test_a_burst_passes_at_once_and_then_the_rate_holds() -> None:
    bucket = TokenBucket(10.0, 3, now=100.0)
    assert [bucket.take(100.0) for _ in range(3)] == [0.0, 0.0, 0.0]
    assert bucket.take(100.0) == pytest.approx(0.1)
    assert bucket.take(100.05) == pytest.approx(0.05)
    assert bucket.take(100.11) == 0.0
    assert bucket.take(100.11) > 0.0


def test_a_refused_take_costs_nothing() -> None:
    bucket = TokenBucket(1.0, 1, now=0.0)
    assert bucket.take(0.0) == 0.0
    for _ in range(1000):
        assert bucket.take(0.5) == pytest.approx(0.5)
    assert bucket.take(1.0) == 0.0


def test_silence_saves_up_one_burst_and_no_more() -> None:
    bucket = TokenBucket(5.0, 2, now=0.0)
    assert [bucket.take(1e6) == 0.0 for _ in range(3)] == [True, True, False]


def test_who_waits_as_long_as_told_gets_a_token() -> None:
    bucket = TokenBucket(200.0, 400, now=0.0)
    now = 0.0
    for _ in range(400):
        bucket.take(now)
    waits = 0
    while missing := bucket.take(now):
        now += missing
        waits += 1
    assert waits <= 2, "rounding may ask for a second, tiny wait"


@given(st.lists(st.floats(min_value=0, max_value=2), max_size=200))
def test_never_more_than_burst_and_rate_together_pass(steps: list[float]) -> None:
    bucket = TokenBucket(7.0, 5, now=0.0)
    now, passed = 0.0, 0
    for step in steps:
        now += step
        passed += bucket.take(now) == 0.0
    assert passed <= 5 + 7.0 * now + 1e-6


def test_the_limit_of_invalid_frames_counts_within_the_window() -> None:
    invalid = InvalidFrames(3)
    assert [invalid.add(now) for now in (0.0, 1.0)] == [False, False]
    assert not invalid.add(INVALID_WINDOW + 0.5), "the first one has left the window"
    assert invalid.add(INVALID_WINDOW + 0.9), "the second one has not"


def test_the_window_is_a_minute_and_its_edge_counts() -> None:
    invalid = InvalidFrames(2)
    assert INVALID_WINDOW == 60.0
    assert not invalid.add(0.0)
    assert invalid.add(60.0)


def test_one_may_be_enough_and_zero_is_never() -> None:
    assert InvalidFrames(1).add(0.0)
    never = InvalidFrames(0)
    assert not any(never.add(0.0) for _ in range(1000))


# --- buckets together ----------------------------------------------------------------------------------


def test_reservations_of_one_bucket_come_one_after_the_other() -> None:
    bucket = TokenBucket(10.0, 2, now=0.0)
    assert [bucket.reserve(0.0) for _ in range(5)] == pytest.approx([0.0, 0.0, 0.1, 0.2, 0.3])
    assert bucket.reserve(0.4) == pytest.approx(0.0)


def test_a_meter_takes_of_every_bucket_or_of_none() -> None:
    own, shared = TokenBucket(1.0, 5, now=0.0), TokenBucket(1.0, 2, now=0.0)
    meter = Meter([("rate_limit", own, False), ("rate_limit_per_user", shared, False)])
    assert [meter.take(0.0) for _ in range(4)] == [None, None, "rate_limit_per_user", "rate_limit_per_user"]
    assert [own.take(0.0) for _ in range(4)] == [0.0, 0.0, 0.0, pytest.approx(1.0)]


def test_a_meter_without_buckets_lets_everything_pass() -> None:
    assert Meter([]).take(0.0) is None


def test_a_reservation_is_as_late_as_the_slowest_bucket() -> None:
    meter = Meter([("a", TokenBucket(10.0, 1, now=0.0), False), ("b", TokenBucket(1.0, 1, now=0.0), False)])
    assert meter.take(0.0) is None
    assert meter.reserve(0.0) == pytest.approx(1.0)


def test_coming_back_does_not_fill_a_shared_bucket() -> None:
    buckets = SharedBuckets(1.0, 2)
    first = buckets.acquire("ada", 0.0)
    assert [first.take(0.0) for _ in range(2)] == [0.0, 0.0]
    buckets.release("ada")
    buckets.sweep(0.5)
    assert buckets.acquire("ada", 0.5) is first
    assert first.take(0.5) > 0


def test_buckets_that_nobody_uses_are_forgotten_once_they_are_full() -> None:
    buckets = SharedBuckets(1.0, 2)
    for number in range(1000):
        buckets.acquire(f"user {number}", 0.0).take(0.0)
        buckets.acquire(f"user {number}", 0.0)
        buckets.release(f"user {number}")
    buckets.sweep(10.0)
    assert len(buckets) == 1000, "all are in use"
    for number in range(1000):
        buckets.release(f"user {number}")
    buckets.sweep(0.5)
    assert len(buckets) == 1000, "none is full"
    buckets.sweep(10.0)
    assert len(buckets) == 0


# --- turns ---------------------------------------------------------------------------------------------


async def passes(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_a_few_have_their_turn_in_each_pass_of_the_loop_in_the_order_of_asking() -> None:
    turns = Turns(asyncio.get_running_loop(), 2)
    had: list[int] = []

    async def take(number: int) -> None:
        await turns.take()
        had.append(number)

    tasks = [asyncio.create_task(take(number)) for number in range(7)]
    seen = []
    for _ in range(12):
        await asyncio.sleep(0)
        seen.append(len(had))
    assert had == list(range(7))
    assert max(after - before for before, after in zip([0, *seen], seen, strict=False)) <= 2
    await asyncio.gather(*tasks)


async def test_who_asks_alone_has_its_turn_at_once() -> None:
    turns = Turns(asyncio.get_running_loop(), 2)
    for _ in range(3):
        turn = turns.take()
        with pytest.raises(StopIteration):
            turn.send(None)
        await passes(2)


async def test_a_turn_of_somebody_who_left_goes_to_the_next() -> None:
    turns = Turns(asyncio.get_running_loop(), 1)
    await turns.take()
    first, left, stays = (asyncio.create_task(turns.take()) for _ in range(3))
    await passes(1)
    left.cancel()
    await asyncio.wait_for(asyncio.gather(first, stays), 5)
    with pytest.raises(asyncio.CancelledError):
        await left
    await passes(5)
    await asyncio.wait_for(turns.take(), 5)


def test_the_meter_knows_how_much_of_its_buckets_is_used() -> None:
    own, shared = TokenBucket(10.0, 20, now=0.0), TokenBucket(10.0, 20, now=0.0)
    meter = Meter([("rate_limit", own, False), ("rate_limit_per_user", shared, False)])
    assert (meter.used, Meter([]).used) == (0.0, 0.0)
    for _ in range(3):
        meter.take(0.0)
    shared.take(0.0)
    assert meter.used == 4.0
    assert meter.span(0.2) == pytest.approx(0.2)
    assert meter.span(60.0) == pytest.approx(1.0), "no more than half a burst"


# --- bytes -----------------------------------------------------------------------------------------------------------


def test_what_is_larger_than_a_burst_passes_when_the_bucket_is_full_and_is_paid_for_afterwards() -> None:
    bucket = TokenBucket(100.0, 200, now=0.0)
    assert bucket.take(0.0, 1000) == 0.0
    assert bucket.take(0.0, 1) == pytest.approx(8.01)
    assert bucket.take(9.0, 1000) == pytest.approx(1.0)
    assert bucket.take(10.0, 1000) == 0.0


@given(st.lists(st.tuples(st.floats(min_value=0, max_value=2), st.integers(0, 3000)), max_size=200))
def test_never_more_bytes_than_burst_rate_and_one_frame_pass(steps: list[tuple[float, int]]) -> None:
    bucket = TokenBucket(700.0, 1400, now=0.0)
    now, passed = 0.0, 0
    for step, size in steps:
        now += step
        passed += size if bucket.take(now, size) == 0.0 else 0
    assert passed <= 1400 + 700.0 * now + 3000 + 1e-6


def test_a_meter_takes_bytes_of_some_buckets_and_frames_of_others_and_of_all_or_none() -> None:
    frames, sized = TokenBucket(1.0, 3, now=0.0), TokenBucket(100.0, 100, now=0.0)
    meter = Meter([("rate_limit", frames, False), ("rate_limit_bytes", sized, True)])
    assert [meter.take(0.0, size) for size in (60, 60, 40, 0, 0)] == [
        None,
        "rate_limit_bytes",
        None,
        None,
        "rate_limit",
    ]
    assert meter.used == 3.0, "a frame is used by its number, not by its size"
    assert meter.reserve(0.0, 500) == pytest.approx(5.0)
    meter.give_back(500)
    assert sized.take(1.0, 100) == 0.0

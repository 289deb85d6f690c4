"""Delays between attempts grow, end at the longest, and are spread by chance."""

from __future__ import annotations

from verani.backoff import Backoff

BACKOFF = Backoff(first=0.5, longest=3.0)


def test_the_ceiling_doubles_until_the_longest() -> None:
    assert [BACKOFF.ceiling(retry) for retry in range(5)] == [0.5, 1.0, 2.0, 3.0, 3.0]


def test_the_factor_says_how_fast_delays_grow() -> None:
    assert [Backoff(1.0, 30.0, 1.5).ceiling(retry) for retry in range(3)] == [1.0, 1.5, 2.25]


def test_a_retry_that_no_float_can_count_waits_the_longest() -> None:
    assert BACKOFF.ceiling(1_000_000) == 3.0


def test_jitter_is_a_part_of_the_ceiling() -> None:
    assert [BACKOFF.jittered(2, chance) for chance in (0.0, 0.25, 0.75)] == [0.0, 0.5, 1.5]


def test_each_delay_follows_the_one_before() -> None:
    delays = [BACKOFF.after(0.0)]
    for _ in range(4):
        delays.append(BACKOFF.after(delays[-1]))
    assert delays == [0.5, 1.0, 2.0, 3.0, 3.0]

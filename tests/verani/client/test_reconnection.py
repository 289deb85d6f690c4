"""When a client comes back, in numbers: delays, counts, proofs and what is final."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from verani.client.reconnection import Attempts, Reconnection, is_final, parse_retry_after

TEN_MINUTES = 600.0
FOR_EVER = Reconnection(max_attempts=None)


@pytest.mark.threat(74)
def test_the_delay_is_jittered_over_the_whole_exponential_ceiling() -> None:
    plan = Reconnection(initial_delay=1.0, max_delay=30.0, backoff_multiplier=1.5)
    assert [plan.delay(n, 0.0) for n in range(3)] == [0, 0, 0]
    assert [plan.delay(n, 1.0) for n in range(4)] == [1.0, 1.5, 2.25, 3.375]
    assert plan.delay(2, 0.5) == 1.125
    assert plan.delay(9, 1.0) == 30.0
    assert plan.delay(10**6, 1.0) == 30.0


def test_attempts_are_counted_or_not() -> None:
    assert Reconnection(max_attempts=2).allows(1)
    assert not Reconnection(max_attempts=2).allows(2)
    assert Reconnection(max_attempts=None).allows(10**9)
    assert not Reconnection(enabled=False).allows(0)


@pytest.mark.parametrize(
    "options",
    [{"max_attempts": 0}, {"initial_delay": -1}, {"initial_delay": 31}, {"backoff_multiplier": 0.5}],
)
def test_a_plan_that_makes_no_sense_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        Reconnection(**options)


def connections_within(seconds: float, attempts: Attempts, chances: Random | float, code: int = 1011) -> int:
    """Count how often a client connects to a server that accepts and closes at once."""
    now, count = 0.0, 0
    while now < seconds:
        count += 1
        attempts.ended(code, lasted=0.0, answered=False)
        now += attempts.next_delay(chances if isinstance(chances, float) else chances.random())
    return count


@pytest.mark.parametrize("chances", [0.0, 0.5, 0.999, *(pytest.param(Random(n), id=f"seed {n}") for n in range(20))])
def test_a_server_that_accepts_and_closes_sees_less_than_thirty_connections_in_ten_minutes(
    chances: Random | float,
) -> None:
    assert 15 < connections_within(TEN_MINUTES, Attempts(FOR_EVER), chances) < 30


def test_the_delay_grows_from_one_connection_that_does_not_last_to_the_next() -> None:
    attempts, delays = Attempts(FOR_EVER), []
    for _ in range(12):
        attempts.ended(1011, lasted=0.1, answered=False)
        delays.append(attempts.next_delay(0.0))
    assert delays[:5] == [0.0, 0.75, 1.125, 1.6875, 3.0625]
    assert delays == sorted(delays)
    assert delays[-1] == 28.0


def test_a_delay_is_never_longer_than_its_ceiling() -> None:
    attempts, chances = Attempts(FOR_EVER), Random(1)
    for _ in range(100):
        attempts.ended(1013, lasted=0.0, answered=False)
        assert attempts.next_delay(chances.random()) <= 30.0


@pytest.mark.parametrize(
    ("lasted", "answered", "code", "is_proved"),
    [
        (0.1, False, 1006, False),
        (4.9, False, 1012, False),
        (5.0, False, 1011, True),
        (5.0, False, 4009, True),
        (0.1, True, 1006, True),
        (0.1, True, 1012, True),
        (4.9, True, 4009, False),
        (0.1, True, 1008, False),
        (0.1, True, 4100, False),
    ],
)
def test_a_connection_proves_itself_by_time_or_by_an_answer(
    lasted: float, answered: bool, code: int, is_proved: bool
) -> None:
    attempts = Attempts(FOR_EVER)
    for _ in range(3):
        attempts.failed()
        attempts.next_delay(0.0)
    attempts.ended(code, lasted=lasted, answered=answered)
    assert attempts.failures == (0 if is_proved else 4)
    assert attempts.next_delay(0.999) == pytest.approx(1.0 if is_proved else 3.375, rel=0.01)


def test_a_connection_has_to_last_as_long_as_the_delay_before_it() -> None:
    attempts = Attempts(FOR_EVER)
    for _ in range(20):
        attempts.failed()
        delay = attempts.next_delay(0.999)
    assert delay > 29
    attempts.ended(1006, lasted=29.0, answered=False)
    assert attempts.failures == 21
    attempts.next_delay(0.999)
    attempts.ended(1006, lasted=30.0, answered=False)
    assert attempts.failures == 0


@pytest.mark.parametrize("kind", ["accepts and closes", "refuses", "both in turn"])
def test_every_kind_of_failure_counts_towards_the_limit(kind: str) -> None:
    attempts = Attempts(Reconnection(max_attempts=10))
    for number in range(10):
        assert attempts.may_go_on
        if kind == "refuses" or (kind == "both in turn" and number % 2):
            attempts.failed()
        else:
            attempts.ended(1011, lasted=0.1, answered=False)
        attempts.next_delay(0.5)
    assert not attempts.may_go_on


def test_every_answer_is_final_but_those_that_may_heal() -> None:
    healing = {408, 409, 425, 429, *range(500, 600)}
    assert {s for s in range(100, 700) if not is_final(s)} == healing


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, 0),
        ("", 0),
        ("7", 7),
        (" 7 ", 7),
        ("-7", 0),
        ("1.5", 0),
        ("²", 0),
        ("soon", 0),
        ("Thu, 01 Jan 1970 00:01:40 GMT", 90),
        ("Thu, 01 Jan 1970 00:00:05 GMT", 0),
        ("999999999999", 86_400),
        ("9" * 400, 86_400),
        ("Thu, 01 Jan 2970 00:00:05 GMT", 86_400),
        ("Thu, 01 Jan 99999 00:00:05 GMT", 0),
    ],
)
def test_retry_after_is_seconds_or_a_date(value: str | None, seconds: float) -> None:
    assert parse_retry_after(value, now=10.0) == seconds

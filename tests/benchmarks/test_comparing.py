"""What several runs say together."""

from __future__ import annotations

import math

import pytest

from benchmarks.comparing import median_ratio, quantile


@pytest.mark.parametrize(("part", "value"), [(0.5, 50), (0.99, 99), (1.0, 100), (0.0, 1)])
def test_a_quantile_is_a_value_that_was_measured(part: float, value: int) -> None:
    assert quantile([*range(100, 0, -1)], part) == value


def test_the_quantile_of_one_value_is_that_and_of_none_is_nothing() -> None:
    assert quantile([7.0], 0.99) == 7.0
    assert quantile([], 0.99) == 0.0


def test_a_slow_round_does_not_change_the_ratio() -> None:
    assert median_ratio([10, 40, 10], [20, 80, 20]) == 0.5


def test_the_ratio_is_the_median_of_pairs_and_not_that_of_medians() -> None:
    assert median_ratio([1, 2, 30], [1, 4, 10]) == 1.0


def test_a_peer_that_cost_nothing_was_not_measured() -> None:
    assert median_ratio([1], [0]) == math.inf


def test_runs_without_a_partner_are_an_error() -> None:
    with pytest.raises(ValueError, match="zip"):
        median_ratio([1, 2], [1])

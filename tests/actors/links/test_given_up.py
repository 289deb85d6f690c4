"""What a gateway has lost that was given up is remembered until it is told, within bounds."""

from __future__ import annotations

import pytest

from verani.link.messages import GivenUp
from verani_actors.links import given_up
from verani_actors.links.given_up import GivenUpGateways


def test_what_was_not_told_is_told_with_what_comes_later_and_what_is_lost_is_no_longer_unheard() -> None:
    gateways = GivenUpGateways()
    untold = GivenUp(["a"], unheard={"b": 1, "c": 5})
    gateways.remember("g", "1", GivenUp(["b"], unheard={"a": 3, "c": 4, "d": 0}), untold=untold, wakes=5)
    assert gateways.recall("g", "1", 5) == GivenUp(["a", "b"], unheard={"c": 5, "d": 0})
    assert gateways.recall("g", "1", 5) is None


def test_whoever_has_not_heard_the_last_of_too_many_rooms_may_have_missed_something_in_any(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(given_up, "UNHEARD", 2)
    gateways = GivenUpGateways()
    for incarnation, rooms in (("few", 2), ("many", 4)):
        lost = GivenUp(["lost"], unheard={f"{number}": number for number in range(rooms)})
        gateways.remember("g", incarnation, lost, untold=None, wakes=0)
    assert gateways.recall("g", "few", 0) == GivenUp(["lost"], unheard={"0": 0, "1": 1})
    assert gateways.recall("g", "many", 0) == GivenUp(["lost"], others=True, unheard={"1": 1, "2": 2})

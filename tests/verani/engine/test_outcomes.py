from __future__ import annotations

import pytest

from verani.engine.outcomes import Outcomes
from verani.errors import Conflict
from verani.link.messages import Outcome


def remember(outcomes: Outcomes, key: str, result: bytes) -> None:
    outcomes.remember(key, "method", b"{}", Outcome(result))


def is_remembered(outcomes: Outcomes, key: str) -> bool:
    return outcomes.get(key, "method", b"{}") is not None


def test_what_is_remembered_of_calls_is_bounded_in_number_and_size() -> None:
    outcomes = Outcomes()
    for number in range(300):
        remember(outcomes, f"small {number}", b"1")
    assert [is_remembered(outcomes, f"small {number}") for number in (43, 44)] == [False, True]
    for number in range(10):
        remember(outcomes, f"large {number}", b"1" * 100_000)
    assert [number for number in range(10) if is_remembered(outcomes, f"large {number}")] == [8, 9]
    remember(outcomes, "huge", b"1" * 1_000_000)
    assert is_remembered(outcomes, "huge")
    assert not is_remembered(outcomes, "large 9")


def test_a_key_of_another_call_is_a_conflict() -> None:
    outcomes = Outcomes()
    outcomes.remember("key", "method", b"[1]", Outcome(b"1"))
    assert outcomes.get("key", "method", b"[1]") == Outcome(b"1")
    for method, arguments in (("method", b"[2]"), ("other", b"[1]")):
        with pytest.raises(Conflict):
            outcomes.get("key", method, arguments)

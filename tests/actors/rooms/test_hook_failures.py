"""What hooks raised last is remembered, whatever it is and however much of it there is."""

from __future__ import annotations

import gc
import itertools
import weakref

import msgspec

from verani.errors import CallFailed, Forbidden
from verani_actors.rooms.hook_failures import MAX_FAILURES, MAX_NEW, HookFailure, HookFailures, put_together


def raised(error: BaseException, depth: int = 0) -> BaseException:
    try:
        if depth:
            raised(error, depth - 1)
        raise error
    except BaseException as caught:  # noqa: BLE001
        return caught


def test_the_latest_failure_comes_first_and_says_where_it_was_raised() -> None:
    failures = HookFailures()
    failures.note("chat/a", raised(ValueError("one")), "on_connect")
    failures.note("chat/b", raised(KeyError("two")), "say")
    second, first = failures.listed()
    assert (first.room, first.hook, first.type, first.text, first.count) == (
        "chat/a",
        "on_connect",
        "ValueError",
        "one",
        1,
    )
    assert (second.type, second.text) == ("KeyError", "'two'")
    assert "in raised\n    raise error" in first.traceback
    assert first.traceback.endswith("ValueError: one\n")


def test_failures_that_are_alike_are_one_with_a_count() -> None:
    failures = HookFailures()
    for _ in range(3):
        failures.note("chat/a", raised(ValueError("one")), "say")
        failures.note("chat/a", raised(ValueError("other")), "say")
    assert [(each.text, each.count) for each in failures.listed()] == [("other", 3), ("one", 3)]
    assert failures.count == 6
    for each in failures.listed():
        assert each.last >= each.first


def test_what_processes_remember_that_is_alike_is_one() -> None:
    def failure(last: float, *, count: int, host: str | None = None) -> HookFailure:
        return HookFailure(
            room="chat",
            hook="extract_meta",
            type="LookupError",
            text="no such user",
            traceback=f"at {last}",
            first=last - 1,
            last=last,
            count=count,
            host=host,
        )

    listed = put_together(
        [failure(5, count=1), failure(9, count=2), failure(4, count=4), failure(7, count=8, host="h-0")]
    )
    assert [(each.first, each.last, each.count, each.host) for each in listed] == [(3, 9, 7, None), (6, 7, 8, "h-0")]
    assert listed[0].traceback == "at 9"


def test_refusals_are_no_failures_unless_they_came_from_a_call() -> None:
    failures = HookFailures()
    failures.note("chat/a", raised(Forbidden("not for you")), "say")
    assert failures.listed() == []
    of_a_call = Forbidden("said another room")
    of_a_call.is_of_call = True
    failures.note("chat/a", raised(of_a_call), "say")
    failures.note("chat/a", raised(CallFailed("said another room")), "say")
    assert failures.count == 2


def test_what_fails_in_another_way_each_time_costs_little_and_hides_nothing_else() -> None:
    now = 0.0
    failures = HookFailures(lambda: now)
    for hook in ("on_connect", "join"):
        failures.note("chat/a", raised(ValueError("of its own")), hook)
    for n in range(10 * MAX_FAILURES):
        failures.note(f"chat/{n}", raised(KeyError(n)), "say")
    assert len(failures.listed()) == MAX_NEW
    assert failures.count == 2 + 10 * MAX_FAILURES
    for n in range(3 * MAX_FAILURES):
        now += 1
        failures.note(f"chat/{n}", raised(KeyError(-n)), "say")
    listed = failures.listed()
    assert len(listed) == MAX_FAILURES
    assert [each.hook for each in listed if each.text == "of its own"] == ["join", "on_connect"]
    assert listed[0].text == str(1 - 3 * MAX_FAILURES)


def test_what_is_known_is_counted_however_often_it_comes() -> None:
    failures = HookFailures(lambda: 0.0)
    for _ in range(10 * MAX_NEW):
        failures.note("chat/a", raised(KeyError("one")), "say")
    assert [each.count for each in failures.listed()] == [10 * MAX_NEW]


def test_memory_is_bounded_whatever_is_raised() -> None:
    seconds = itertools.count()
    failures = HookFailures(lambda: next(seconds))
    for n in range(3 * MAX_FAILURES):
        failures.note("chat/a", raised(ValueError(f"{n} " + "x" * 1_000_000)), "say")
    failures.note("chat/a", raised(RecursionError("deep"), 500), "say")
    listed = failures.listed()
    assert len(listed) == MAX_FAILURES
    assert listed[0].text == "deep"
    assert listed[1].text.startswith(f"{3 * MAX_FAILURES - 1} x")
    assert len(msgspec.json.encode(listed)) < 200_000


def test_what_has_no_text_that_can_be_encoded_is_told_all_the_same() -> None:
    class Odd(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no text")

    failures = HookFailures()
    failures.note("chat/a", raised(Odd()), "say")
    failures.note("chat/a", raised(ValueError("\ud800 alone")), "say")
    failures.note("chat/a", raised(SystemExit()), "say")
    texts = [each["text"] for each in msgspec.json.decode(msgspec.json.encode(failures.listed()))]
    assert texts == ["", "\ufffd alone", "its text could not be made"]


def test_no_exception_is_kept_alive() -> None:
    class Held(Exception):
        pass

    failures = HookFailures()
    error = raised(Held("gone"))
    reference = weakref.ref(error)
    gc.disable()
    try:
        failures.note("chat/a", error, "say")
        error.__traceback__ = None
        del error
        assert reference() is None
    finally:
        gc.enable()

"""Floods of log lines are cut, and nothing new is hidden by them."""

from __future__ import annotations

import gc
import logging
import sys
import weakref

import pytest

from verani_actors.upkeep.repeats import ALIKE, PERIOD, SAME, Repeats


class Log:
    """What is shown of the records that are put, on a clock of its own."""

    def __init__(self) -> None:
        self.now = 0.0
        self.repeats = Repeats(lambda: self.now)

    def put(
        self,
        message: object,
        *arguments: object,
        level: int = logging.WARNING,
        name: str = "verani.test",
        error: BaseException | None = None,
        **extra: object,
    ) -> list[str]:
        info = None if error is None else (type(error), error, error.__traceback__)
        record = logging.LogRecord(name, level, __file__, 1, message, arguments, info)
        vars(record).update(extra)
        return [each.getMessage() for each in self.repeats.admit(record)]

    def later(self) -> None:
        self.now += PERIOD


@pytest.fixture
def log() -> Log:
    return Log()


def _raised(error: Exception) -> Exception:
    try:
        raise error
    except Exception as raised:  # noqa: BLE001
        return raised


def test_the_same_warning_is_shown_a_few_times_and_then_counted(log: Log) -> None:
    shown = [line for _ in range(100) for line in log.put("it is full")]
    assert shown[:-1] == ["it is full"] * (SAME - 1)
    assert shown[-1] == "it is full (more like this within 60 s is only counted)"
    log.later()
    assert log.put("another") == ["it is full … repeated 95 times", "another"]
    assert log.put("it is full") == ["it is full"]


def test_what_was_counted_is_said_at_the_end_and_only_once(log: Log) -> None:
    for _ in range(SAME + 2):
        log.put("it is full")
    assert [each.getMessage() for each in log.repeats.end()] == ["it is full … repeated 2 times"]
    assert log.repeats.end() == []


def test_what_did_not_repeat_leaves_no_line(log: Log) -> None:
    for _ in range(SAME):
        log.put("it is full")
    log.later()
    assert log.put("another") == ["another"]


@pytest.mark.parametrize("level", [logging.DEBUG, logging.INFO])
def test_what_is_no_warning_is_always_shown(log: Log, level: int) -> None:
    assert [log.put("started", level=level) for _ in range(100)] == [["started"]] * 100


def test_names_that_clients_choose_make_no_kinds_of_their_own(log: Log) -> None:
    error = _raised(ValueError("x"))
    shown = [
        line
        for number in range(1000)
        for line in log.put("a hook of %s failed", f"chat/{number}", level=logging.ERROR, error=error, user=number)
    ]
    assert len(shown) == ALIKE
    log.later()
    assert log.put("next") == [f"a hook of chat/999 failed … and {1000 - ALIKE} more like it", "next"]


def test_an_application_may_say_similar_things_as_often_as_it_likes(log: Log) -> None:
    shown = [line for number in range(500) for line in log.put("order %d is late", number, name="shop")]
    assert len(shown) == 500


def test_the_first_error_of_a_kind_is_shown_however_many_others_there_are(log: Log) -> None:
    def first() -> Exception:
        return _raised(ValueError("x"))

    def elsewhere() -> Exception:
        try:
            raise ValueError("x")
        except ValueError as error:
            return error

    def fail(error: BaseException, **more: str) -> list[str]:
        return log.put("a hook of %s failed: %s", "chat/a", "Error", level=logging.ERROR, error=error, **more)

    for number in range(1000):
        fail(first(), room=f"chat/{number}")
    assert fail(first(), room="chat/another") == []
    assert fail(_raised(KeyError("x"))), "another type"
    assert fail(elsewhere()), "another place"
    caused = elsewhere()
    caused.__cause__ = _raised(OSError())
    assert fail(caused), "another cause"
    assert fail(ExceptionGroup("many", [_raised(RuntimeError())])), "another member of a group"
    assert fail(first(), hook="on_connect"), "another hook"
    assert log.put("something else", level=logging.ERROR, error=first()), "another message"
    assert log.put("a hook of %s failed: %s", "a", "b", level=logging.CRITICAL, error=first()), "another level"
    assert log.put("a hook of %s failed: %s", "a", "b", level=logging.ERROR, error=first(), name="shop")


def test_another_text_of_an_error_is_shown_beside_one_that_floods(log: Log) -> None:
    for _ in range(1000):
        log.put("failed", level=logging.ERROR, error=_raised(ValueError("a")))
    assert log.put("failed", level=logging.ERROR, error=_raised(ValueError("b")))


@pytest.mark.parametrize("template", ["%s", "%s: %d", "%(a)s"])
def test_a_template_without_words_makes_no_kind_of_what_differs(log: Log, template: str) -> None:
    def arguments(word: str) -> tuple[object, ...]:
        return ({"a": word},) if "(" in template else (word, 1)[: template.count("%")]

    for number in range(200):
        log.put(template, *arguments(f"reason {number}"), level=logging.ERROR)
    assert log.put(template, *arguments("a new reason"), level=logging.ERROR)


def test_errors_that_are_named_in_the_message_make_kinds_by_their_type(log: Log) -> None:
    for number in range(200):
        log.put("given up: %s", ValueError(number), level=logging.ERROR)
    assert log.put("given up: %s", ValueError("x"), level=logging.ERROR) == []
    assert log.put("given up: %s", KeyError("x"), level=logging.ERROR)


def test_how_deep_a_recursion_was_makes_no_new_kind(log: Log) -> None:
    def dive(depth: int) -> None:
        if depth:
            dive(depth - 1)
        raise ValueError("bottom")

    shown = 0
    for depth in range(1, 200):
        try:
            dive(depth)
        except ValueError as error:
            shown += len(log.put("failed at %d", depth, level=logging.ERROR, error=error))
    assert shown == ALIKE


def test_what_is_counted_stays_small_and_keeps_no_error(log: Log) -> None:
    class Held(Exception):
        pass

    error = Held()
    gone = weakref.ref(error)
    for _ in range(SAME + 1):
        log.put("failed", level=logging.ERROR, error=error, user="u" * 100_000)
    del error
    assert gone() is None
    for number in range(5000):
        log.put(f"{number}" + "x" * 10_000, name="shop", level=logging.ERROR)
    sizes = {id(each): sys.getsizeof(each) for each in gc.get_referents(log.repeats._kinds)}
    assert len(log.repeats._kinds) == 1000
    assert sum(sizes.values()) < 200_000


def test_what_is_forgotten_early_is_said_then(log: Log) -> None:
    for _ in range(SAME + 3):
        log.put("it is full", name="shop")
    said = [line for number in range(1000) for line in log.put("line %d", number, name="shop")]
    assert "it is full … repeated 3 times" in said


def test_objects_that_fail_to_say_what_they_are_cost_no_line(log: Log) -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no text")

    assert log.put("failed", level=logging.ERROR, error=_raised(Mute())) == ["failed"]
    assert log.put("failed", level=logging.ERROR, error=_raised(Mute())) == ["failed"]

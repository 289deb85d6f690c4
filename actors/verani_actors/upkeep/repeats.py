"""Count log records that only repeat others, so that no flood of them fills a disk or hides what is new.

Only warnings and errors are limited, and never the first ones of a kind. Two limits hold within a minute:

- the same line (logger, level, text, whom it is about, error and its text) is shown `SAME` times,
- lines of this project that are alike (logger, level, the text without what was filled in, the types and places of
  their errors) are shown `ALIKE` times, whatever names clients choose.

Places are those in the code, each once: how deep a recursion was makes no new kind. What was not shown is said in one
line when its minute is over, with the next record or at the end of the process; no thread and no timer waits for that.
"""

from __future__ import annotations

import logging
import re
from collections import OrderedDict
from collections.abc import Callable, Iterator
from copy import copy
from typing import Any, Final

from .log_lines import OURS, about

__all__ = ["ALIKE", "PERIOD", "SAME", "Repeats"]

SAME: Final = 5
ALIKE: Final = 50
# Seconds for which a limit counts, from the first record on.
PERIOD: Final = 60.0

# Kinds that are counted at once; the oldest goes first, and then counts anew.
_KINDS: Final = 1000
# Characters of a line, and of each of its fields, that are kept to say later what was not shown.
_KEPT: Final = 300
# Errors that one record may hold: causes, contexts and members of groups.
_ERRORS: Final = 32

# Whose lines come from what clients do, and not from what an application has to say.
_SERVERS: Final = OURS | {"aiohttp", "asyncio", "thespian"}
_PLACEHOLDER: Final = re.compile(r"%(\([^)]*\))?[^a-zA-Z%]*[a-zA-Z]")


class _Shown:
    """How often records of one kind were shown and counted since the first of them."""

    __slots__ = ("hidden", "last", "shown", "since", "words")

    def __init__(self, since: float, words: str) -> None:
        self.since = since
        self.words = words
        self.shown = 0
        self.hidden = 0
        self.last: logging.LogRecord | None = None

    def hide(self, record: logging.LogRecord, text: str) -> None:
        # Not the record: it holds an error, and with that whatever its frames hold.
        self.hidden += 1
        self.last = _without_error(record, text)

    def summary(self) -> Iterator[logging.LogRecord]:
        """Give the record that says what was not shown, if anything."""
        if self.last is not None:
            self.last.msg += self.words.format(self.hidden)
            yield self.last


class Repeats:
    """The kinds of records of one process in the last minute; `clock` counts seconds.

    The caller sees to it that one thread uses it at a time.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        # By what makes a kind, as a hash: what was logged is not kept for it. The oldest first.
        self._kinds: OrderedDict[int, _Shown] = OrderedDict()

    def admit(self, record: logging.LogRecord) -> list[logging.LogRecord]:
        """Give the records that are to be written now: what was counted and is due, and this one if it is shown."""
        now = self._clock()
        due = [each for shown in self._over(now) for each in shown.summary()]
        if record.levelno < logging.WARNING:
            return [*due, record]
        text = _text(record)
        same = hash((record.name, record.levelno, text, tuple(about(record).items()), _error_text(record)))
        limits = [(same, SAME, " … repeated {} times")]
        if record.name.partition(".")[0] in _SERVERS:
            limits.append((_kind(record, text), ALIKE, " … and {} more like it"))
        for key, most, _ in limits:
            if (shown := self._kinds.get(key)) is not None and shown.shown >= most:
                shown.hide(record, text)
                return due
        is_last = False
        for key, most, words in limits:
            is_last |= self._count(key, now, words, due) == most
        return [*due, _last_shown(record) if is_last else record]

    def end(self) -> list[logging.LogRecord]:
        """Give the records that say what was counted so far, and forget all."""
        left = [each for shown in self._kinds.values() for each in shown.summary()]
        self._kinds.clear()
        return left

    def _over(self, now: float) -> Iterator[_Shown]:
        while self._kinds and now - next(iter(self._kinds.values())).since >= PERIOD:
            yield self._kinds.popitem(last=False)[1]

    def _count(self, key: int, now: float, words: str, due: list[logging.LogRecord]) -> int:
        if key not in self._kinds:
            if len(self._kinds) >= _KINDS:
                due += self._kinds.popitem(last=False)[1].summary()
            self._kinds[key] = _Shown(now, words)
        self._kinds[key].shown += 1
        return self._kinds[key].shown


def _last_shown(record: logging.LogRecord) -> logging.LogRecord:
    told = copy(record)  # others write the same record
    told.msg, told.args = f"{_text(record)} (more like this within {PERIOD:g} s is only counted)", None
    return told


def _without_error(record: logging.LogRecord, text: str) -> logging.LogRecord:
    """Make a record about the same, without an error."""
    cut = text if len(text) <= _KEPT else text[:_KEPT] + "..."
    made = logging.LogRecord(record.name, record.levelno, record.pathname, record.lineno, cut, None, None)
    vars(made).update({name: value[:_KEPT] for name, value in about(record).items()})
    return made


def _text(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception:  # arguments that do not fit; whoever writes the record says so  # noqa: BLE001
        return str(record.msg)


def _error_of(record: logging.LogRecord) -> BaseException | None:
    return record.exc_info[1] if record.exc_info else None


def _error_text(record: logging.LogRecord) -> tuple[Any, ...]:
    try:
        return _origin(_error_of(record)), str(_error_of(record))
    except Exception:  # `__str__` is the application's code  # noqa: BLE001
        return (_origin(_error_of(record)),)


def _kind(record: logging.LogRecord, text: str) -> int:
    """Tell kinds apart by what the code says, not by what it was given; a template without words says nothing."""
    template = record.msg if isinstance(record.msg, str) else ""
    says = template if re.search(r"[^\W\d_]", _PLACEHOLDER.sub("", template)) else text
    arguments = record.args if isinstance(record.args, tuple) else ()
    types = tuple(type(each) for each in arguments if isinstance(each, BaseException))
    hook = about(record).get("hook")
    return hash((record.name, record.levelno, says, types, hook, _origin(_error_of(record))))


def _origin(error: BaseException | None) -> frozenset[Any]:
    """Give the types of an error and of all that led to it, and the places in the code that they went through."""
    found: set[Any] = set()
    seen: set[int] = set()
    left = [error]
    while left and len(seen) < _ERRORS:
        each = left.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        found.add(type(each))
        trace = each.__traceback__
        while trace is not None:
            found.add((trace.tb_frame.f_code.co_filename, trace.tb_lineno))
            trace = trace.tb_next
        left += [each.__cause__, each.__context__]
        if isinstance(each, BaseExceptionGroup):
            left += each.exceptions
    return frozenset(found)

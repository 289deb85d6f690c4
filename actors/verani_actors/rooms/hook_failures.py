"""Remember what the hooks of a process raised last, so that an operator can ask without reading logs.

Invariants:
- There are `MAX_FAILURES` at most, each of a bounded size; one that is like another only raises its count.
- A client that has a hook fail in another way each time has no more than `MAX_NEW` written down in a second, and pushes
  out none that another hook has raised, unless there are too many of them.
- What is kept is text: no exception, and so no frame of a hook, is kept alive.
"""

from __future__ import annotations

import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable
from traceback import TracebackException
from typing import Final

import msgspec
from msgspec import Struct

from verani.errors import is_refusal
from verani.names import well_formed

__all__ = ["MAX_FAILURES", "MAX_NEW", "HookFailure", "HookFailures", "put_together"]

# Failures that differ, of one process.
MAX_FAILURES: Final = 50

# Failures like no other that are written down in a second; a traceback takes a third of a millisecond.
MAX_NEW: Final = 20

# Characters of the text of an exception, and of a traceback, of which the end is kept.
_MAX_TEXT: Final = 300
_MAX_TRACEBACK: Final = 2000

# Stack frames of a traceback, those next to where it was raised.
_FRAMES: Final = 6


class HookFailure(Struct, frozen=True, kw_only=True):
    """What a hook of a room has raised, `count` times since `first`; times are seconds of the wall clock.

    `room` is the definition's name alone where the hook decides who may connect. `type` is the name of the exception's
    class. `host` is where hosts are processes of their own.
    """

    room: str
    hook: str
    type: str
    text: str
    traceback: str
    first: float
    last: float
    count: int = 1
    host: str | None = None


class HookFailures:
    """The last failures of one process; the one that happened last comes last. `clock` counts seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        # When the second began that `_new` are counted in.
        self._since = clock()
        self._new = 0
        self._found: OrderedDict[tuple[str, str, str, str], HookFailure] = OrderedDict()
        # All there ever were, those that are like others included.
        self.count = 0

    def note(self, room: str, error: BaseException, hook: str) -> None:
        """Take what a hook raised, unless it was to refuse a client."""
        if is_refusal(error):
            return
        self.count += 1
        now, text = time.time(), _text_of(error)
        key = room, hook, type(error).__name__, text
        known = self._found.get(key)
        if known is not None:
            self._found[key] = msgspec.structs.replace(known, last=now, count=known.count + 1)
            self._found.move_to_end(key)
            return
        if not self._may_take():
            return
        self._found[key] = HookFailure(
            room=room,
            hook=hook,
            type=type(error).__name__,
            text=text,
            traceback=_traceback_of(error),
            first=now,
            last=now,
        )
        if len(self._found) > MAX_FAILURES:
            self._drop_one()

    def _may_take(self) -> bool:
        now = self._clock()
        if now - self._since >= 1:
            self._since, self._new = now, 0
        self._new += 1
        return self._new <= MAX_NEW

    def _drop_one(self) -> None:
        """Forget the oldest of those that there are the most of."""
        kinds = Counter((hook, kind) for _, hook, kind, _ in self._found)
        ((most, _),) = kinds.most_common(1)
        del self._found[next(key for key in self._found if (key[1], key[2]) == most)]

    def listed(self) -> list[HookFailure]:
        """List them, the latest first."""
        return [*reversed(self._found.values())]


def put_together(failures: Iterable[HookFailure]) -> list[HookFailure]:
    """List what several processes remember, the latest first; what is alike is one here, too."""
    found: dict[tuple[str | None, ...], HookFailure] = {}
    for each in failures:
        key = each.host, each.room, each.hook, each.type, each.text
        known = found.get(key)
        found[key] = each if known is None else _sum(known, each)
    return sorted(found.values(), key=lambda failure: failure.last, reverse=True)


def _sum(one: HookFailure, other: HookFailure) -> HookFailure:
    later = max(one, other, key=lambda failure: failure.last)
    return msgspec.structs.replace(later, first=min(one.first, other.first), count=one.count + other.count)


def _text_of(error: BaseException) -> str:
    try:
        return well_formed(str(error)[:_MAX_TEXT])
    except Exception:  # an application's exception may have a text that fails  # noqa: BLE001
        return "its text could not be made"


def _traceback_of(error: BaseException) -> str:
    lines = TracebackException(type(error), error, error.__traceback__, limit=-_FRAMES, compact=True).format()
    return well_formed("".join(lines)[-_MAX_TRACEBACK:])

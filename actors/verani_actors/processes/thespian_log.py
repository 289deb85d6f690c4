"""Bring Thespian's own log lines into ours: few of them, and none at a level that they do not deserve."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable
from typing import Final

from .seal import Rejected

__all__ = ["ThespianLog"]

# Lines of Thespian's own log within so many seconds; the rest is counted.
_LINES: Final = 20
_LINES_PERIOD: Final = 60.0
_PEER_IS_GONE: Final = ("Socket error sending", "Socket connect failure", "Socket Error waiting", "Remote %s closed")


class ThespianLog:
    """Take the place of `thesplog`: Thespian's own log lines, to our handlers, at most so many a minute."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._begun = clock()
        self._lines = 0
        # Not known to any manager: Thespian replaces them, and its forwarder must never get these lines.
        self._logger = logging.Logger("thespian", logging.root.level)
        self._logger.handlers = logging.getLogger().handlers

    def __call__(self, text: str, *args: object, level: int = logging.INFO, **_: object) -> None:
        if level < logging.WARNING or isinstance(sys.exc_info()[1], Rejected):  # the transport counts what is refused
            return
        # Processes end and machines go; what that means is said by those who know. The rest is no error of ours.
        is_news = level > logging.WARNING and not text.startswith(_PEER_IS_GONE)
        level = logging.WARNING if is_news else logging.DEBUG
        if not self._logger.isEnabledFor(level):
            return
        now = self._clock()
        if now - self._begun >= _LINES_PERIOD:
            if self._lines > _LINES:
                self._logger.warning("%d lines of Thespian's log were left out", self._lines - _LINES)
            self._begun, self._lines = now, 0
        self._lines += 1
        if self._lines <= _LINES:
            self._logger.log(level, text, *args)

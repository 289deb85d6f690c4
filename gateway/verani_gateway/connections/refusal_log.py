"""Log refused handshakes and their reasons, which browsers hide: a page sees nothing but 1006.

Whatever clients do, the log grows by no more than `_SHOWN` lines a minute for each definition and error code.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from verani.errors import VeraniError
from verani_actors.upkeep.log_lines import printable

from ..inputs.metrics import error_label

__all__ = ["RefusalLog"]

logger = logging.getLogger(__name__)

# Lines for each kind within a period, in seconds; further ones are counted.
_SHOWN: Final = 10
_PERIOD: Final = 60.0

# Characters of a path or a reason, which may hold what a client sent.
_LONGEST: Final = 300


def _shown(text: str) -> str:
    """Cut what is long, and escape what could forge a line: the log may be one of the application's own."""
    return printable(text if len(text) <= _LONGEST else text[:_LONGEST] + "...")


class _Kind:
    """RefusalLog of one thing with one error code."""

    __slots__ = ("hidden", "shown", "since")

    def __init__(self, now: float) -> None:
        self.since = now
        self.shown = 0
        self.hidden = 0


class RefusalLog:
    """The refused handshakes of one gateway; `clock` counts seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._kinds: dict[tuple[str, str], _Kind] = {}
        self._has_warned = False

    def log(self, what: str, error: VeraniError, *, path: str, remote: str | None, room: str = "") -> None:
        """Log that something was refused; `path` is without its query string, `room` empty where it has no name yet.

        `what` is one of a few: its refusals with one error code are of one kind.
        """
        level, more = self._level(what, error.code)
        logger.log(
            level,
            "refused %s at %s from %s with %d: %s%s",
            _shown(f"{what}/{room}" if room else what),
            _shown(path),
            remote or "a client that is gone",
            error.status,
            _shown(str(error) or type(error).__name__),
            f" ({more} more like it were not shown)" if more else "",
        )

    def _level(self, what: str, code: str) -> tuple[int, int]:
        """Give the level of the next line, and how many of its kind were not shown before it."""
        now = self._clock()
        kind = self._kinds.setdefault((what, error_label(code)), _Kind(now))
        hidden = 0
        if now - kind.since >= _PERIOD:
            hidden, kind.since, kind.shown, kind.hidden = kind.hidden, now, 0, 0
        if kind.shown >= _SHOWN:
            kind.hidden += 1
            return logging.DEBUG, 0
        kind.shown += 1
        return logging.INFO, hidden

    def warn_of_forwarding(self, peer: str | None) -> None:
        """Warn once that a peer speaks for others which is not trusted to: mostly a proxy that was not configured."""
        if not self._has_warned:
            self._has_warned = True
            logger.warning(
                "%s sends X-Forwarded-* or Forwarded headers, which are ignored because trusted_proxies does not name"
                " it: if that is your proxy, pages behind it are refused with 403, and all their clients have one"
                " address",
                peer or "a client that is gone",
            )

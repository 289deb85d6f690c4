"""Count what was refused, by reason, and log each reason at most once a minute: a flood of it fills no disk."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable

__all__ = ["INTERVAL", "Refusals"]

# Seconds between two lines of the log about one reason.
INTERVAL = 60.0


class Refusals:
    """The refusals of one listener; `counts` is for the operator, `what` is refused."""

    def __init__(
        self, logger: logging.Logger, *, what: str = "link", clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.counts: Counter[str] = Counter()
        self._logger = logger
        self._what = what
        self._clock = clock
        self._logged: dict[str, float] = {}

    def add(self, reason: str, detail: object) -> None:
        """Count one refusal; `reason` is one of few constant texts, `detail` what the log adds."""
        self.counts[reason] += 1
        now = self._clock()
        last = self._logged.get(reason)
        if last is None or now - last >= INTERVAL:
            self._logged[reason] = now
            self._logger.warning("%s refused: %s (%s); %d so far", self._what, reason, detail, self.counts[reason])

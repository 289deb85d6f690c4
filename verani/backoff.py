"""Space the attempts at what may work later: each delay is a multiple of the one before, up to the longest.

Pure arithmetic: it does not wait, read a clock or draw random numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Backoff"]


@dataclass(frozen=True, slots=True)
class Backoff:
    """Delays in seconds: `first`, then `factor` times as long each, never longer than `longest`."""

    first: float
    longest: float
    factor: float = 2.0

    def ceiling(self, retry: int) -> float:
        """Return the longest that retry number `retry` (from 0) waits."""
        try:
            return min(self.longest, self.first * float(self.factor) ** retry)
        except OverflowError:  # who tries for ever gets here after some thousand retries
            return self.longest

    def jittered(self, retry: int, chance: float) -> float:
        """Return a delay with full jitter, uniform below the ceiling; `chance` is in [0, 1).

        So those who lost the same server do not come back in step.
        """
        return chance * self.ceiling(retry)

    def after(self, delay: float) -> float:
        """Return the delay that follows `delay`, without jitter; the first one follows 0."""
        return min(max(self.first, delay * self.factor), self.longest)

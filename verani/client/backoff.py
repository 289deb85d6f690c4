"""Decide when a client that has no connection tries again, and when it gives up.

Pure arithmetic: it does not wait, read a clock, or draw random numbers; all three are passed in.
"""

from __future__ import annotations

from dataclasses import dataclass
from email.utils import parsedate_to_datetime

__all__ = ["Reconnection", "is_final", "parse_retry_after"]

# Refusals of the 4xx family that may heal by themselves: request timeout, another connection holds the
# client id, too early, too many requests. Every other 4xx says the request itself is wrong.
_HEALING = frozenset({408, 409, 425, 429})


@dataclass(frozen=True, slots=True, kw_only=True)
class Reconnection:
    """Say how often and how fast to come back; delays are in seconds.

    `max_attempts` counts failed attempts in a row, one for each refused handshake, the first connection
    included; every successful open starts the count again. `None` means for ever.
    """

    enabled: bool = True
    max_attempts: int | None = 10
    initial_delay: float = 1.0
    max_delay: float = 30.0
    backoff_multiplier: float = 1.5

    def __post_init__(self) -> None:
        if self.max_attempts is not None and self.max_attempts < 1:
            raise ValueError(
                f"max_attempts must be at least 1, or None for ever, not {self.max_attempts!r} "
                "(to never try again, use enabled=False)"
            )
        if not 0 <= self.initial_delay <= self.max_delay:
            raise ValueError(
                f"expected 0 <= initial_delay <= max_delay, got {self.initial_delay!r} and {self.max_delay!r}"
            )
        if self.backoff_multiplier < 1:
            raise ValueError(f"backoff_multiplier must be at least 1, not {self.backoff_multiplier!r}")

    def allows(self, failures: int) -> bool:
        """Tell whether to try again after this many failed attempts in a row."""
        return self.enabled and (self.max_attempts is None or failures < self.max_attempts)

    def delay(self, retry: int, chance: float) -> float:
        """Return the seconds to wait before retry number `retry` (from 0); `chance` is in [0, 1).

        Full jitter: uniform between nothing and the exponential ceiling, so that the clients of a server that
        restarts do not come back in step.
        """
        try:
            ceiling = self.initial_delay * float(self.backoff_multiplier) ** retry
        except OverflowError:  # a client that tries for ever gets here after some thousand retries
            ceiling = self.max_delay
        return chance * min(self.max_delay, ceiling)


def is_final(status: int) -> bool:
    """Tell whether a handshake refused with this HTTP status would be refused again."""
    return 400 <= status < 500 and status not in _HEALING


def parse_retry_after(value: str | None, *, now: float) -> float:
    """Return the seconds a `Retry-After` header asks for (RFC 9110, 10.2.3), 0.0 if there is none that makes sense.

    `now` is the wall-clock time in seconds since the epoch, for the form that is a date.
    """
    text = (value or "").strip()
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - now)
    except ValueError:
        return 0.0

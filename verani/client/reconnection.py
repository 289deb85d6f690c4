"""Decide when a client that has no connection tries again, and when it gives up.

Pure arithmetic: it does not wait, read a clock, or draw random numbers; all three are passed in.

A server that accepts a connection and ends it again has not healed, whatever it said: a room whose `on_connect` fails,
one that has no capacity (1013), another client that fights for the same client id (4009). So a connection has to prove
itself before the delay starts anew. Nothing on the wire says that `on_connect` is done, and what it sends looks like
any other event, so there are two proofs: time, and the room's answer to a request, which only comes after `on_connect`.
The answer does not count where the server gave a reason of its own to end the connection: whoever fights or floods
gets answers, too.
"""

from __future__ import annotations

from dataclasses import dataclass
from email.utils import parsedate_to_datetime

from ..backoff import Backoff

__all__ = ["Attempts", "Reconnection", "is_final", "parse_retry_after"]

# Refusals that may heal by themselves: request timeout, another connection holds the client id, too early, too many
# requests, and 5xx, where the server is at fault. Every other 4xx says that the request itself is wrong, and every
# other status that this is no WebSocket server.
_HEALING = frozenset({408, 409, 425, 429, *range(500, 600)})

# Seconds that a connection has to last to have proved itself, at least; longer where the delay before it was longer.
_PROOF = 5.0

# Ends that are nobody's verdict on this connection: lost, and the service restarts.
_INNOCENT = frozenset({1006, 1012})

# A day: no header may send a client away for longer.
_LONGEST_WAIT = 86_400.0

# The last seconds of a delay that are left to chance where the server takes connections and ends them again.
_SPREAD = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Reconnection:
    """Say how often and how fast to come back; delays are in seconds.

    `max_attempts` counts failed attempts in a row, the first connection included: refused handshakes, and connections
    that ended before they had proved themselves. A connection has when it has lasted for as long as the delay before
    it, at least 5 s, or when a request was answered over it and it was then lost or closed with 1012; it starts count
    and delay again. `None` means for ever.
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

    def delay(self, retry: int, chance: float, *, spread: float | None = None) -> float:
        """Return the seconds to wait before retry number `retry` (from 0); `chance` is in [0, 1).

        Full jitter: uniform between nothing and the exponential ceiling, so that the clients of a server that
        restarts do not come back in step. With a `spread` only so many seconds before the ceiling, at most half of it.
        """
        ceiling = Backoff(self.initial_delay, self.max_delay, self.backoff_multiplier).ceiling(retry)
        spread = ceiling if spread is None else min(spread, ceiling / 2)
        return ceiling - spread + chance * spread


class Attempts:
    """Count the attempts in a row that came to nothing, and choose the delay before the next one."""

    def __init__(self, plan: Reconnection) -> None:
        self._plan = plan
        self._delay = 0.0
        self._was_open = False
        # In a row: attempts that came to nothing, and waits.
        self.failures = 0
        self.retries = 0

    @property
    def may_go_on(self) -> bool:
        """Tell whether the plan allows another attempt."""
        return self._plan.allows(self.failures)

    def failed(self) -> None:
        """Count a handshake that was refused, or did not come about."""
        self._was_open = False
        self.failures += 1

    def ended(self, code: int, *, lasted: float, answered: bool) -> None:
        """Judge a connection that was open for `lasted` seconds; `answered` says whether a request was."""
        self._was_open = True
        if lasted >= max(_PROOF, self._delay) or (answered and code in _INNOCENT):
            self.failures = self.retries = 0
        else:
            self.failures += 1

    def next_delay(self, chance: float) -> float:
        """Return the seconds to wait now; `chance` is in [0, 1).

        A server that has ended more than one connection in a row at once is there, so no crowd waits for it: it is
        left alone for nearly the whole ceiling. The first time may be a restart.
        """
        spread = _SPREAD if self._was_open and self.failures > 1 else None
        self._delay = self._plan.delay(self.retries, chance, spread=spread)
        self.retries += 1
        return self._delay


def is_final(status: int) -> bool:
    """Tell whether a handshake answered with this HTTP status would be answered so again."""
    return status not in _HEALING


def parse_retry_after(value: str | None, *, now: float) -> float:
    """Return the seconds a `Retry-After` header asks for (RFC 9110, 10.2.3), 0.0 if there is none that makes sense.

    At most a day.
    `now` is the wall-clock time in seconds since the epoch, for the form that is a date.
    """
    text = (value or "").strip()
    if text.isascii() and text.isdigit():
        return min(float(text), _LONGEST_WAIT)
    try:
        return min(max(0.0, parsedate_to_datetime(text).timestamp() - now), _LONGEST_WAIT)
    except (ValueError, OverflowError):
        return 0.0

"""Remember what calls came to, for callers that ask again with the same key."""

from __future__ import annotations

from collections import OrderedDict

from ..errors import Conflict
from ..link.messages import Outcome

__all__ = ["Outcomes"]

# What one awake room remembers, so that a repeated call is not run again.
_MAX_OUTCOMES = 256
_MAX_BYTES = 256 << 10


class Outcomes:
    """The outcomes of the calls that came with a key, the latest ones; bounded in number and size."""

    def __init__(self) -> None:
        # With what tells one call from another, so that a key used twice answers nobody with what was not asked.
        self._outcomes: OrderedDict[str, tuple[int, Outcome]] = OrderedDict()
        self._bytes = 0

    def get(self, key: str, method: str, arguments: bytes) -> Outcome | None:
        """Return what this call with this key came to, if that is remembered; raises `Conflict` for another call."""
        call, outcome = self._outcomes.get(key, (None, None))
        if call is not None and call != hash((method, arguments)):
            raise Conflict("this idempotency key is that of another call")
        return outcome

    def remember(self, key: str, method: str, arguments: bytes, outcome: Outcome) -> None:
        """Keep an outcome; the oldest ones make room."""
        self._outcomes[key] = hash((method, arguments)), outcome
        self._bytes += len(outcome.result or b"")
        while len(self._outcomes) > _MAX_OUTCOMES or (self._bytes > _MAX_BYTES and len(self._outcomes) > 1):
            _, (_, oldest) = self._outcomes.popitem(last=False)
            self._bytes -= len(oldest.result or b"")

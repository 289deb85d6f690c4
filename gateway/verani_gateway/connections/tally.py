"""Count things that come and go."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from typing import TypeVar

__all__ = ["Tally"]

_Key = TypeVar("_Key", bound=Hashable)


class Tally(Counter[_Key]):
    """Counts that are dropped at nothing, so that no table outgrows what it counts."""

    def lower(self, key: _Key) -> None:
        """Take one off a count."""
        self[key] -= 1
        if not self[key]:
            del self[key]

"""Let the host of an engine find it in a set, and keep it by that set alone."""

from __future__ import annotations

import weakref
from typing import Any

__all__ = ["Listed"]


class Listed:
    """Whether an object is in a set of its host; what decides that does not keep the object."""

    __slots__ = ("_among", "_ref")

    def __init__(self, thing: object, among: set[Any] | None) -> None:
        self._ref = weakref.ref(thing)
        self._among = among

    def add(self) -> None:
        """Be in the set."""
        thing = self._ref()
        if self._among is not None and thing is not None:
            self._among.add(thing)

    def discard(self) -> None:
        """Be in it no more."""
        if self._among is not None:
            self._among.discard(self._ref())

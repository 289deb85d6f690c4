"""An event loop whose clock a test moves: nothing waits, and timers fire in order.

Where nothing else is left to do, the clock jumps to the next timer.
"""

from __future__ import annotations

import asyncio
import selectors

__all__ = ["VirtualTimeLoop"]


class _Jump(selectors.SelectSelector):
    """Poll, and let time pass instead of sleeping."""

    def __init__(self, patience: float) -> None:
        super().__init__()
        self.now = 1000.0
        self._patience = patience

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("nothing will ever happen: no timer is armed and nothing is ready")
        if timeout > 0 and self._patience:
            ready = super().select(self._patience)
            if ready:
                return ready
        self.now += max(timeout, 0.0)
        return super().select(0)


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """Run callbacks at once and timers when `now` gets there.

    `patience`: the real seconds for which the clock stands still while bytes may be on their way between sockets of
    this loop.
    """

    def __init__(self, patience: float = 0.0) -> None:
        self._jump = _Jump(patience)
        super().__init__(self._jump)

    def time(self) -> float:
        return self._jump.now

    def pass_time(self, seconds: float) -> None:
        """Move the clock on; what is due runs when the loop does."""
        self._jump.now += seconds

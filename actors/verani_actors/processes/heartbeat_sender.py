"""Send the heartbeats of a host, also while a hook blocks its loop.

Invariant: they are sent in order, whichever thread sends them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import msgspec

from ..membership.control import REGISTRAR, Beat, Control

__all__ = ["HeartbeatSender"]


class HeartbeatSender:
    """The last heartbeat of a host; `post` takes messages from any thread, `clock` is that of its lease."""

    def __init__(self, post: Callable[[str, Control], None], clock: Callable[[], float]) -> None:
        self._post = post
        self._clock = clock
        self._last: Beat | None = None
        self._sending = threading.Lock()

    def send(self, beat: Beat) -> None:
        """Send a heartbeat; called in the loop's thread."""
        with self._sending:
            self._last = beat
            self._post(REGISTRAR, beat)

    def repeat(self) -> None:
        """Say that this process lives while a hook blocks its loop; called in the watchdog's thread.

        Else its rooms would move, and the hook would block the next host, before the watchdog knows what to blame. A
        loop that is blocked neither prepares nor vouches, so the last beat is true still; should it go on in this very
        moment, its own next beat comes after this one.
        """
        with self._sending:
            if self._last is not None:
                self._post(REGISTRAR, msgspec.structs.replace(self._last, sent=self._clock()))

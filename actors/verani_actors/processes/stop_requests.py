"""Count the signals that ask a process to stop, and give what ends its time until somebody asks once more."""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Collection

__all__ = ["Grace", "StopRequests"]


class StopRequests:
    """The signals SIGTERM and SIGHUP; `descriptor` is readable after one, for whoever waits in a system call."""

    def __init__(self) -> None:
        self.count = 0
        self._bell, self._ringer = socket.socketpair()
        self._bell.setblocking(False)
        self._ringer.setblocking(False)
        self.descriptor = self._bell.fileno()

    def take(self) -> None:
        """Take the signals from now on; what was forked before does not inherit it."""
        signal.set_wakeup_fd(self._ringer.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGTERM, self._asked)
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as nohup does
            signal.signal(signal.SIGHUP, self._asked)

    def look(self, ready: Collection[int]) -> None:
        """Make the descriptor unreadable again."""
        if self.descriptor in ready:
            self._bell.recv(4096)

    def _asked(self, *_: object) -> None:
        self.count += 1


class Grace:
    """So many seconds for what is to end."""

    def __init__(self, requests: StopRequests, seconds: float) -> None:
        self._requests = requests
        self._asked = requests.count
        self._deadline = time.monotonic() + seconds

    @property
    def seconds(self) -> float:
        """What is left of it."""
        return self._deadline - time.monotonic()

    @property
    def wait(self) -> float:
        """For how long to wait still; 0 once it is over, or somebody has asked again and so is in a hurry."""
        return max(0.0, self.seconds) if self._requests.count == self._asked else 0.0

    def extend(self, seconds: float) -> None:
        """Let it last so many seconds more at least."""
        self._deadline = max(self._deadline, time.monotonic() + seconds)

"""Know every process below the launcher, from its fork to its end, and kill those that hang.

A process hangs if it has not answered its probes for too long. What counts is how often it was probed, as the launcher
may have been stopped itself. What the processes are for is told by their names only.
"""

from __future__ import annotations

import logging
import select
import time
from collections.abc import Iterable, Iterator
from typing import Final

from ..upkeep.lifeline import Announcements, ChildProcess

__all__ = ["ADMIN", "Children"]

logger = logging.getLogger(__name__)

ADMIN: Final = "the Admin of the actor system"
# With so many probes unanswered, the Admin is to blame for what it did not create.
_SURELY: Final = 3
# Seconds in which the Admin says how a process has ended; it is told by a signal.
_REAPED: Final = 1.0


class Children:
    """The processes of the actor system; the first that is forked is its Admin. Each is probed once a `period`."""

    def __init__(self, announcements: Announcements, period: float) -> None:
        self._announcements = announcements
        self.period = period
        self._running: dict[int, ChildProcess] = {}
        # Names that were given up before a process had claimed them.
        self._unwanted: set[str] = set()
        self.admin: ChildProcess | None = None

    def __len__(self) -> int:
        return len(self._running)

    @property
    def descriptors(self) -> list[int]:
        """What to watch: one is readable once there is a new process, the others once theirs have ended."""
        return [self._announcements.descriptor, *self._running]

    def named(self, name: str) -> ChildProcess | None:
        """Find the process that has claimed this name last."""
        return next((each for each in reversed(self._running.values()) if each.name == name), None)

    def take_announced(self) -> None:
        """Take in what new processes have announced."""
        for child in self._announcements.take():
            # A process without a name has just been forked, whoever had its pid before.
            known = next((each for each in self._running.values() if each.pid == child.pid), None)
            if child.exit_code is not None:
                if known is not None:
                    known.exit_code = child.exit_code
            elif child.name and known is not None:
                known.name = child.name
                child.close()
            elif child.is_watched:
                self._running[child.descriptor] = child
                self.admin = self.admin or child
            else:
                # Its end would go unnoticed, and another of its name be started beside it.
                logger.error("process %d cannot be watched, as too many files are open: killing it", child.pid)
                child.kill()
            if child.name in self._unwanted:
                (known or child).kill()

    def ended(self, ready: Iterable[int]) -> Iterator[ChildProcess]:
        """Yield the processes that have ended, by the descriptors that are readable."""
        # Announcements first: a process may have said its name and died since.
        self.take_announced()
        for descriptor in ready:
            if (process := self._running.get(descriptor)) is not None:
                self._learn_exit_code(process)
                del self._running[descriptor]
                process.close()
                yield process

    def _learn_exit_code(self, process: ChildProcess) -> None:
        """Wait a moment until the Admin has reaped a process, unless it has ended itself."""
        if self.admin is None or self.admin not in self._running.values():
            return
        deadline, watched = time.monotonic() + _REAPED, (self._announcements.descriptor, self.admin.descriptor)
        while process.exit_code is None and (left := deadline - time.monotonic()) > 0:
            if self._announcements.descriptor not in select.select(watched, (), (), left)[0]:
                return
            self.take_announced()

    def give_up(self, name: str) -> None:
        """Kill the process of this name, should it ever claim it."""
        self._unwanted.add(name)

    def probed(self, process: ChildProcess, what: str, patience: float) -> None:
        """Count a probe that is sent; kill the process first if those of so many seconds were not answered."""
        if process.unanswered * self.period >= patience:
            self._kill_hung(process, what)
        process.unanswered += 1

    def answered(self, name: str) -> None:
        """Take note that the process of this name has answered a probe."""
        for process in self._running.values():
            if process.name == name:
                process.unanswered = 0

    def blame_admin(self) -> None:
        """Kill the Admin, which has created nothing when asked, if it leaves its probes unanswered, too."""
        if self.admin is not None and self.admin.unanswered > _SURELY:
            self._kill_hung(self.admin, ADMIN)

    def kill_all(self, patience: float) -> None:
        """Kill whatever runs, and wait at most so many seconds until it has ended."""
        self.take_announced()
        waiting = select.poll()
        for descriptor, process in self._running.items():
            process.kill()
            waiting.register(descriptor, select.POLLIN)
        deadline = time.monotonic() + patience
        while self._running and (left := deadline - time.monotonic()) > 0:
            for descriptor, _ in waiting.poll(left * 1000):
                waiting.unregister(descriptor)
                self._running.pop(descriptor).close()

    def _kill_hung(self, process: ChildProcess, what: str) -> None:
        logger.error("%s, process %d, hangs: killing it", what, process.pid)
        process.unanswered = 0
        process.kill()

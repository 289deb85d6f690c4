"""Speak with the process that has started this one, over standard input, and know when it is gone."""

from __future__ import annotations

import os
import stat
from collections.abc import Collection
from contextlib import suppress
from typing import Final

__all__ = ["ALIVE", "ENDED", "ENDING", "Starter"]

# What a process says to its starter: that it does something, and that it will end.
ALIVE: Final = b"alive\n"
ENDING: Final = b"ending\n"
# Exit code of one that ends because the whole service does: it is not to be started again.
ENDED: Final = 3


class Starter:
    """The other end of standard input, if that is a pipe or a socket: it ends when the process that has it does."""

    def __init__(self) -> None:
        self.descriptors = [0] if _is_pipe(0) else []
        self.is_gone = False
        for descriptor in self.descriptors:
            os.set_blocking(descriptor, False)

    def look(self, ready: Collection[int]) -> None:
        """Read what has come, if it is readable; only its end means anything."""
        for descriptor in self.descriptors:
            if descriptor in ready and not os.read(descriptor, 4096):
                self.is_gone = True
        if self.is_gone:
            self.descriptors = []

    def tell(self, line: bytes) -> None:
        """Write a line; where nobody reads, it is lost."""
        for descriptor in self.descriptors:
            with suppress(OSError):  # it does not read, or gave us a pipe that cannot be written
                os.write(descriptor, line)


def _is_pipe(descriptor: int) -> bool:
    try:
        mode = os.fstat(descriptor).st_mode
    except OSError:
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)

"""Keep file descriptors free for what a gateway cannot do without: its links to room hosts, its files, its operators.

Every connection counts from the moment it is accepted, whether it ever becomes a WebSocket or sends nothing at all.

Invariants:
- Clients never hold the last descriptors of the process, however many come and whatever they do not say.
- Nor do they hold those by which the internal listener is reached.
"""

from __future__ import annotations

import fcntl
import os
import resource
from contextlib import suppress
from pathlib import Path
from typing import Final

__all__ = ["Descriptors"]

# Kept for everything that is not a client's WebSocket; half of all where there are few.
_SPARE: Final = 64

# There is room for so many at once, however many there may be: 512 KiB of the kernel's memory.
_ROOM: Final = 1 << 16


class Descriptors:
    """How many file descriptors this process may open, and how many its HTTP connections use."""

    def __init__(self) -> None:
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._all = None if soft == resource.RLIM_INFINITY else soft
        self._spare = min(_SPARE, soft // 2)
        self._taken = 0

    @property
    def websockets(self) -> int | None:
        """How many WebSockets they suffice for; None for any number."""
        return None if self._all is None else max(1, self._all - self._spare)

    def make_room(self, websockets: int | None) -> None:
        """Have a table that so many WebSockets fit into, or None for any number, before they come.

        A table that is full is doubled, for which Linux stops a process that has threads for 10 ms and more each time
        (`synchronize_rcu` in `expand_fdtable`); and a process with a watchdog has threads.
        """
        most = _ROOM if websockets is None else websockets + self._spare
        last = min(most, _ROOM, self._all or _ROOM) - 1
        # Without it the table grows when it has to.
        with suppress(OSError), Path(os.devnull).open("rb") as file:
            os.close(fcntl.fcntl(file, fcntl.F_DUPFD_CLOEXEC, last))

    def take(self, *, internal: bool) -> bool:
        """Count a connection; False if it has to be closed at once. Either way `give_back` follows when it is.

        A quarter of the reserve is for clients whose refusal is answered, another quarter for the internal listener.
        """
        self._taken += 1
        kept = self._spare // 2 if internal else self._spare * 3 // 4
        return self._all is None or self._taken <= self._all - kept

    def give_back(self) -> None:
        """Take note that a connection is closed."""
        self._taken -= 1

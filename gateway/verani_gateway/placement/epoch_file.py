"""Watch the epoch that the launcher of this machine publishes, for a gateway that no host can tell of it yet.

Invariant: what was published is read in the end, however often that fails: files may be short for a while.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

import msgspec

from verani.link.epoch import Epoch
from verani_actors.upkeep.runtime import Runtime

__all__ = ["EpochFile"]

logger = logging.getLogger(__name__)

# How often the file is looked at, in seconds.
_PERIOD: Final = 0.1


class EpochFile:
    """The published epoch of one runtime folder."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        # Of the file that was read last.
        self._seen: tuple[int, int] | None = None
        self._failing = False
        self._timer: asyncio.TimerHandle | None = None

    def start(self, commit: Callable[[Epoch], None]) -> None:
        """Call `commit` with the epoch that is there, and with every one that replaces it."""
        # First, so that nothing that goes wrong below ends the watch.
        self._timer = asyncio.get_running_loop().call_later(_PERIOD, self.start, commit)
        try:
            status = self._runtime.epoch_file.stat()
            # A file that is replaced whole has another inode, though maybe one that was used before.
            seen = status.st_mtime_ns, status.st_ino
            if seen == self._seen:
                return
            epoch = self._runtime.read_epoch()
        except FileNotFoundError:
            return  # none was published yet, or the service is about to end
        except (OSError, msgspec.MsgspecError) as error:
            if not self._failing:
                logger.error("the published epoch cannot be read yet: %s", error)
            self._failing = True
            return
        self._failing = False
        if epoch.number:  # else it was removed since it was looked at
            self._seen = seen
            commit(epoch)

    def stop(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()

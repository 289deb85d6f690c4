"""Write epochs down for the gateways of this machine."""

from __future__ import annotations

import logging
from contextlib import suppress

import msgspec

from verani.link.epoch import Epoch

from ..upkeep.runtime import Runtime

__all__ = ["PublishedEpoch"]

logger = logging.getLogger(__name__)


class PublishedEpoch:
    """The epoch that was written down last."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._cannot_write = False
        self.epoch = runtime.read_epoch()

    @property
    def incarnations(self) -> set[str]:
        """The processes that are its members."""
        return {member.incarnation for member in self.epoch.members}

    def look(self) -> None:
        """Read what the registrar of this machine may have written, and not said yet."""
        with suppress(OSError, msgspec.MsgspecError):  # then it is read with the next one
            self.epoch = self._runtime.read_epoch()

    def publish(self, epoch: Epoch) -> None:
        """Write an epoch down; where that fails, the log says so once, and the next try is the caller's."""
        try:
            self.epoch = self._runtime.read_epoch()
            # The registrar of the same machine writes it, too, and before anything of it is sent.
            if epoch.number > self.epoch.number:
                self._runtime.write_epoch(epoch)
                self.epoch = epoch
        except (OSError, msgspec.MsgspecError) as error:
            if not self._cannot_write:
                logger.error("epoch %d cannot be written down for the gateways: %s", epoch.number, error)
            self._cannot_write = True
        else:
            self._cannot_write = False

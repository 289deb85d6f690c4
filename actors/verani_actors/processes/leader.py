"""Know the address of the leader: the machine that runs the registrar, by the name that `verani join` was given.

The leader may come back with another address under the same name.

Nothing is sent here.
"""

from __future__ import annotations

import logging
import threading
from contextlib import suppress
from typing import Final

from .admin_port import AdminPortError, resolve

__all__ = ["Leader"]

logger = logging.getLogger(__name__)

# A name is looked up once in so many seconds.
_PERIOD: Final = 5.0


class Leader:
    """The leader as it was given, HOST:PORT; raises `AdminPortError` where the name leads nowhere at first."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._host, _, port = text.rpartition(":")
        self.port = int(port)
        self.address = resolve(self._host)
        self._looked = float("-inf")
        self._looking: threading.Thread | None = None

    def __str__(self) -> str:
        return self._text

    def look_again(self, now: float) -> None:
        """Look the name up again, unless that was done of late; `address` changes when there is an answer.

        In a thread, as it takes many seconds where no name server answers, and the launcher has processes to watch.
        """
        if now - self._looked < _PERIOD or (self._looking is not None and self._looking.is_alive()):
            return
        self._looked = now
        self._looking = threading.Thread(target=self._look, name="verani-leader", daemon=True)
        self._looking.start()

    def wait(self) -> None:
        """Wait for the look-up that is under way."""
        if self._looking is not None:
            self._looking.join()

    def _look(self) -> None:
        with suppress(AdminPortError):
            address = resolve(self._host)
            if address != self.address:
                logger.info("the leader %s is at %s now", self._host, address)
            self.address = address

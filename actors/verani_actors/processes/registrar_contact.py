"""Keep in touch with the registrar: know where it is and whether it answers, and repeat what it has to know.

Messages may be lost, and a registrar may be replaced by another one that knows nothing.
"""

from __future__ import annotations

import logging
import time
from typing import Final

from thespian.actors import ActorAddress

from ..membership.control import Control, Gone, Offer
from .control_plane import ControlPlane
from .leader import Leader

__all__ = ["OFFER_PERIOD", "RegistrarContact"]

logger = logging.getLogger(__name__)

# Seconds between two offers of a launcher.
OFFER_PERIOD: Final = 1.0
# How long a death is told again.
_TELL_DEATHS: Final = 5.0
# A registrar that does not answer for so long may have another address by now.
_LOST: Final = 5.0
# A machine that is refused for so many seconds before it was ever let in gives up.
_REFUSED: Final = 5.0
# A registrar that does not answer for so long is reported, and again each time that so much more has passed.
_SILENCE: Final = 3.0
_MORE_SILENCE: Final = 15.0


class RegistrarContact:
    """The registrar as one launcher knows it; `address` is None while it does not know where it is.

    `leader` is None on the machine that runs the registrar.
    """

    def __init__(self, plane: ControlPlane, lease: float, leader: Leader | None) -> None:
        self._plane = plane
        self._patience = max(lease, 2 * OFFER_PERIOD)
        self._leader = leader
        self.address: ActorAddress | None = None
        # When it was heard last, and when the log said last that it is silent, if that was since.
        self._heard = self._reported = time.monotonic()
        self._refused_since: float | None = None
        self._deaths: list[tuple[float, Gone]] = []

    def answers(self, now: float) -> bool:
        """Tell whether it was heard of late; it answers every offer."""
        return self.address is not None and now - self._heard <= self._patience

    def met(self, address: ActorAddress) -> bool:
        """Take its welcome in; True if it is another one than before."""
        now = self._heard = self._reported = time.monotonic()
        self._refused_since = None
        if self.address == address:
            return False
        self.address = address
        self._deaths = [(now, gone) for _, gone in self._deaths]
        return True

    def refused(self, reason: str) -> bool:
        """Take a refusal in, and log the first; True if the machine is not let in for long: a name may be free soon."""
        now = self._heard = self._reported = time.monotonic()
        if self._refused_since is None:
            self._refused_since = now
            logger.error("the registrar refuses this machine: %s", reason)
        return now - self._refused_since > _REFUSED and self.address is None

    def send(self, message: Control) -> None:
        """Send a message, if it is known where to."""
        if self.address is not None:
            self._plane.send_with_address(self.address, message)

    def tell(self, gone: Gone) -> None:
        """Tell of a process that has ended, and go on telling for a while."""
        self._deaths.append((time.monotonic(), gone))
        self.send(gone)

    def offer(self, offer: Offer, now: float) -> None:
        """Offer to run hosts, and repeat what has ended; called every second."""
        if self._leader is None:
            self.send(offer)
        else:
            # The one address of the leader's machine that stays is its Admin's.
            if now - self._heard > _LOST:
                self._leader.look_again(now)
            self._plane.send_to_admin(self._leader.address, self._leader.port, offer)
            self._report_silence(self._leader, now)
        if now - self._heard < _TELL_DEATHS:
            self._deaths = [(told, gone) for told, gone in self._deaths if now - told < _TELL_DEATHS]
        for _, gone in self._deaths:
            self.send(gone)

    def _report_silence(self, leader: Leader, now: float) -> None:
        patience = _SILENCE if self._reported == self._heard else _MORE_SILENCE
        if now - self._reported > patience:
            self._reported = now
            logger.warning(
                "the registrar at %s does not answer: is it there, and is the cluster secret the same?", leader
            )

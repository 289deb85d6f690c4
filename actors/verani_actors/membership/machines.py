"""Know which machines belong to the service: who may join, how many hosts each runs, and when each is to end.

Pure, on a given clock. Whether a machine's hosts are members is decided elsewhere.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from .control import Offer
from .heartbeats import drop_older

__all__ = ["Machines", "machine_of"]

logger = logging.getLogger(__name__)

# A launcher offers every second; one that was silent for so long has ended.
_OFFERS_STOPPED = 3.0
# A machine that was silent for so long does not come back under its name: pods get new ones.
_MEMORY = 600.0


@dataclass(slots=True)
class _Machine:
    address: str
    service: str
    hosts: int
    heard: float


def machine_of(id: str) -> str:
    """Name the machine of a host."""
    return id.rpartition("-")[0]


class Machines:
    """The machines that have offered to run hosts; `own` is the registrar's.

    A name stays its machine's for one `lease` of silence. `definitions` are those that this service serves.
    """

    def __init__(self, own: str, lease: float, definitions: Iterable[str]) -> None:
        self._own = own
        self._lease = lease
        self._definitions = frozenset(definitions)
        self._known: dict[str, _Machine] = {}
        # Machines and addresses that the log has named, and when they last asked.
        self._refused: dict[tuple[str, str], float] = {}
        # Whether somebody has ended the whole service, and which machines were told to end.
        self._ending = False
        self._ended: set[str] = set()

    def __contains__(self, machine: str) -> bool:
        return machine in self._known

    @property
    def names(self) -> list[str]:
        """Names of all machines, the registrar's own first."""
        return list(dict.fromkeys([self._own, *self._known]))

    def refusal(self, offer: Offer, now: float) -> str | None:
        """Say why a machine is not let in, None if it is; the log says it once."""
        reason = None
        known = self._known.get(offer.machine)
        if known is not None and known.address != offer.address and now - known.heard <= self._lease:
            reason = f"{known.address} has the name {offer.machine}; --machine gives another one"
        elif self._definitions and offer.definitions and self._definitions.isdisjoint(offer.definitions):
            reason = f"it serves {', '.join(offer.definitions)}, this service {', '.join(sorted(self._definitions))}"
        if reason is not None:
            if (offer.machine, offer.address) not in self._refused:
                logger.warning("machine %s at %s is refused: %s", offer.machine, offer.address, reason)
            self._refused[offer.machine, offer.address] = now
        return reason

    def note(self, offer: Offer, now: float) -> bool:
        """Take an offer in; True if it is the first of another life of a machine that was here before."""
        known = self._known.get(offer.machine)
        self._known[offer.machine] = _Machine(offer.address, offer.service, offer.hosts, now)
        return known is not None and (known.address, known.service) != (offer.address, offer.service)

    def hosts(self, machine: str) -> list[str]:
        """List the ids of the hosts that a machine runs."""
        known = self._known.get(machine)
        return [f"{machine}-{number}" for number in range(known.hosts)] if known is not None else []

    def excuse(self, now: float) -> None:
        """Count every machine's silence anew: nobody was listening."""
        for known in self._known.values():
            known.heard = now

    def end(self) -> None:
        """Have all machines end, once no host is left."""
        self._ending = True

    def is_to_end(self, machine: str, now: float) -> bool:
        """Tell whether a machine is to end now that no host is left; the registrar's own goes last."""
        if not self._ending:
            return False
        present = {name for name, known in self._known.items() if now - known.heard <= _OFFERS_STOPPED}
        if machine == self._own and present - self._ended - {machine}:
            return False
        self._ended.add(machine)
        return True

    def forget(self, kept: Collection[str], now: float) -> list[str]:
        """Forget, and return, machines that were silent for long, unless processes of theirs are heard still."""
        drop_older(self._refused, now - _MEMORY)
        gone = [name for name, known in self._known.items() if now - known.heard > _MEMORY and name not in kept]
        for name in gone:
            del self._known[name]
            self._ended.discard(name)
        return gone

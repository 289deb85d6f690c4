"""Draft epochs: each with a number that was never used, and with the deaths of late that gateways are to know of.

Invariant: a number is above all that this service, and any that was there before, may have used.
"""

from __future__ import annotations

from collections.abc import Iterable

from verani.link.epoch import Death, Epoch, Member

__all__ = ["DEATHS_KEPT", "Drafts"]

# Seconds for which gateways are told of a death, and so many at once.
_DEATH_MEMORY = 60.0
DEATHS_KEPT = 32
# Numbers of one registrar process; far more than one prepares between two commits.
_GENERATION = 1000


class Drafts:
    """The epochs of the registrar on `machine`, which come after `number`."""

    def __init__(self, machine: str, number: int) -> None:
        self._machine = machine
        self._highest = number
        self._deaths: list[tuple[float, Death]] = []

    def next(self, members: Iterable[Member]) -> Epoch:
        """Draft the next epoch."""
        self._highest += 1
        ordered = tuple(sorted(members, key=lambda member: member.id))
        return Epoch(self._highest, self._machine, ordered, tuple(death for _, death in self._deaths))

    def pass_number(self, number: int) -> None:
        """Go on above a number that was used."""
        self._highest = max(self._highest, number)

    def pass_generation(self, number: int) -> None:
        """Go on above whatever a registrar may have used that had come to this number."""
        self.pass_number((number // _GENERATION + 1) * _GENERATION - 1)

    def begin_generation(self) -> None:
        """Go on above whatever the registrar before this one may have used."""
        self.pass_generation(self._highest)

    def tell(self, death: Death, now: float) -> None:
        """Have the next epochs tell of a death."""
        self._deaths = [*self._deaths, (now, death)][-DEATHS_KEPT:]

    def forget(self, now: float) -> None:
        """Forget the deaths that gateways know of."""
        self._deaths = [(at, death) for at, death in self._deaths if now - at < _DEATH_MEMORY]

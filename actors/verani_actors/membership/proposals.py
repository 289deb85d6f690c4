"""Judge an epoch that is proposed: who has to prepare it, whether it is still wanted, and when it may be committed.

Pure, on a given clock. The rules are those that `verani_actors.membership.lease` proves to be enough.

Invariant: joins and drains (every member prepares) are never in one epoch with evictions (a majority of machines does).
"""

from __future__ import annotations

import logging
from enum import Enum
from urllib.parse import urlsplit

from verani.link.epoch import Epoch, Member

from .heartbeats import Heartbeat, Heartbeats
from .lease import MARGIN

__all__ = ["Change", "Proposal"]

logger = logging.getLogger(__name__)


class Change(Enum):
    """What a proposed epoch is for, hence whose answers it needs."""

    PLANNED = "planned"
    EVICTION = "eviction"


class Proposal:
    """The change from the epoch `before` to another one; nobody acts on it before the commit."""

    def __init__(self, change: Change, before: Epoch, epoch: Epoch, heartbeats: Heartbeats, *, slow_at: float) -> None:
        self.change = change
        self.epoch = epoch
        self._before = before
        self._heartbeats = heartbeats
        # When the log is to say that it takes long.
        self._slow_at = slow_at
        # Processes that have answered `Prepared`.
        self._answered: set[str] = set()

    def asked(self) -> list[Member]:
        """List who is to prepare: every member that is not evicted, and who joins."""
        then = self.epoch.members
        if self.change is Change.EVICTION:
            return [*then, *(each.member for each in self._successors())]
        return [*self._before.members, *(member for member in then if member not in self._before.members)]

    def waits_for(self) -> list[Member]:
        """List who is to prepare and has not answered."""
        return [member for member in self.asked() if member.incarnation not in self._answered]

    def warn_if_slow(self, now: float) -> None:
        """Say once that the change waits for hosts that beat but do not answer, or for a majority."""
        if now > self._slow_at:
            self._slow_at = float("inf")
            waiting = [member.id for member in self.waits_for()]
            logger.warning("epoch %s (%s) waits for %s", self.epoch.number, self.change.value, waiting)

    def prepared(self, incarnation: str) -> Member | None:
        """Take the answer of a process in; return the member whose death this proves, if any."""
        self._answered.add(incarnation)
        for successor in self._successors():
            if successor.member.incarnation == incarnation:
                return next(each for each in self._before.members if each.id == successor.member.id)
        return None

    def is_wanted(self, now: float) -> bool:
        """Tell whether what is proposed is still what heartbeats ask for."""
        silent = self._heartbeats.silent(self._before.members, now)
        proposed = _incarnations(self.epoch)
        if self.change is Change.EVICTION:
            return silent == _incarnations(self._before) - proposed
        return not silent and proposed <= {member.incarnation for member in self._heartbeats.beating(now)}

    def is_agreed(self, now: float, quiet_until: float) -> bool:
        """Tell whether the epoch may be committed; an eviction not before the time until which vouches may hold."""
        if self.change is Change.PLANNED:
            return _incarnations(self._before) <= self._answered
        voted = self._voted()
        return 2 * len(voted) >= len(self._before.machines) and now >= max(quiet_until, self._leases_end(voted))

    def _successors(self) -> list[Heartbeat]:
        """Find processes that have the id of one that is being evicted: such a one's answer proves the other's death.

        A launcher runs one process of an id at a time, also after its own restart. The evicted one was alive before
        this number was proposed, and who prepared it after, so the latter is the later one. Another machine of the same
        name proves nothing.
        """
        if self.change is not Change.EVICTION:
            return []
        places = {_place(member) for member in self._before.members if member not in self.epoch.members}
        members = _incarnations(self._before)
        return [
            each
            for each in self._heartbeats
            if each.member.incarnation not in members and _place(each.member) in places
        ]

    def _voted(self) -> set[str]:
        """Find machines that will not vouch for the evicted: all their members prepared, and said so in a Beat.

        That Beat tells of the last vouch before. Our own machine's vote is ours: nobody counts vouches from it.
        """
        against = {
            member.machine
            for member in self._before.members
            if self._heartbeats[member.incarnation].prepared < self.epoch.number
        }
        return (set(self._before.machines) - against) | {self.epoch.registrar}

    def _leases_end(self, voted: set[str]) -> float:
        """Find the time at which no evicted host can have a lease any more, from us or by vouches."""
        times = []
        for member in self._before.members:
            latest = self._heartbeats[member.incarnation]
            if member not in self.epoch.members:
                times.append(latest.heard + self._heartbeats.lease + MARGIN)
            elif member.machine in voted:
                times.append(latest.vouches_end)
        return max(times)


def _incarnations(epoch: Epoch) -> set[str]:
    return {member.incarnation for member in epoch.members}


def _place(member: Member) -> tuple[str, str, str | None]:
    return member.id, member.machine, urlsplit(member.url).hostname

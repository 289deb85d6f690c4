"""Remember the heartbeats of host processes, and which processes have died or were removed; pure, on a given clock.

Invariant: a process that has died or was removed is never counted among the newcomers again.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from verani.link.epoch import Member

from .control import Beat
from .lease import MARGIN

__all__ = ["Heartbeats", "Heartbeat", "drop_older"]

# Seconds for which a death is remembered; what the dead had sent has arrived by then.
_DEATH_MEMORY = 60.0
# Seconds after which a process that was removed, and has been silent since, does not come back.
_REMOVAL_MEMORY = 600.0

_Key = TypeVar("_Key")


@dataclass(slots=True)
class Heartbeat:
    """A process that sends heartbeats, or that is a member and should."""

    member: Member
    # When it was last heard, or began to be counted.
    heard: float
    first: float
    # Its own clock in its last Beat; None where this registrar has heard none.
    sent: float | None = None
    prepared: int = 0
    # The epoch it is in; 0 until it is a member.
    epoch: int = 0
    # When every vouch it has reported has surely ended.
    vouches_end: float = float("-inf")
    # Gateways it was linked to at its last Beat.
    gateways: frozenset[str] = frozenset()


class Heartbeats:
    """The processes of all hosts, by incarnation; one that was silent for a whole `lease` counts as silent."""

    def __init__(self, lease: float) -> None:
        self.lease = lease
        self._latest: dict[str, Heartbeat] = {}
        self._dead: dict[str, float] = {}
        # Processes that were members, and when they were removed or last heard; they are stopped wherever they show up.
        self._removed: dict[str, float] = {}

    def __getitem__(self, incarnation: str) -> Heartbeat:
        return self._latest[incarnation]

    def __iter__(self) -> Iterator[Heartbeat]:
        return iter(self._latest.values())

    @property
    def ids(self) -> set[str]:
        """Ids of the hosts that any process has or had."""
        return {each.member.id for each in self}

    def expect(self, members: Iterable[Member], now: float) -> None:
        """Count the silence of members from now on, unless they were heard before."""
        for member in members:
            self._latest.setdefault(member.incarnation, Heartbeat(member, now, now))

    def note(self, beat: Beat, now: float) -> None:
        """Take a heartbeat in."""
        latest = self._latest.setdefault(beat.member.incarnation, Heartbeat(beat.member, now, now))
        latest.heard = now
        latest.sent = beat.sent if latest.sent is None else max(latest.sent, beat.sent)
        latest.prepared = max(latest.prepared, beat.prepared)
        latest.epoch = max(latest.epoch, beat.epoch.number)
        latest.gateways = frozenset(beat.gateways)
        if beat.vouched is not None:
            latest.vouches_end = max(latest.vouches_end, now - beat.vouched + self.lease + MARGIN)

    def excuse(self, now: float) -> None:
        """Count everybody's silence anew: nobody was listening."""
        for each in self:
            each.heard = now

    def is_silent(self, heartbeat: Heartbeat, now: float) -> bool:
        """Tell whether a process was silent for so long that it may have ended."""
        return now - heartbeat.heard > self.lease

    def beating(self, now: float) -> list[Member]:
        """List the processes that are not silent."""
        return [each.member for each in self if not self.is_silent(each, now)]

    def silent(self, members: Iterable[Member], now: float) -> set[str]:
        """Find those of the members that are silent."""
        return {each.incarnation for each in members if self.is_silent(self._latest[each.incarnation], now)}

    def gateways(self, members: Iterable[Member]) -> tuple[str, ...]:
        """Name the gateways that any of the members is linked to, as far as they were heard."""
        heard = (self._latest[each.incarnation] for each in members if each.incarnation in self._latest)
        return tuple(sorted(frozenset[str]().union(*(each.gateways for each in heard))))

    def newcomers(self, taken: Collection[str], now: float) -> list[Heartbeat]:
        """Find processes that want to be members and whose id is not taken; the youngest of each id."""
        found: dict[str, Heartbeat] = {}
        for each in self:
            member = each.member
            wants = each.sent is not None and each.epoch == 0 and member.incarnation not in self._removed
            if not wants or self.is_silent(each, now) or member.id in taken:
                continue
            if member.id not in found or found[member.id].first < each.first:
                found[member.id] = each
        return list(found.values())

    def die(self, incarnation: str, now: float) -> bool:
        """Take note that a process has ended; False if that is known."""
        if incarnation in self._dead:
            return False
        self._dead[incarnation] = now
        self._latest.pop(incarnation, None)
        self._removed.pop(incarnation, None)
        return True

    def is_dead(self, incarnation: str) -> bool:
        """Tell whether a process is known to have ended."""
        return incarnation in self._dead

    def remove(self, incarnation: str, now: float) -> None:
        """Take note that a process is no member any more, or shows up though it is none."""
        self._removed[incarnation] = now

    def was_removed(self, incarnation: str) -> bool:
        """Tell whether a process was a member and is to be stopped."""
        return incarnation in self._removed

    def forget(self, members: Iterable[Member], now: float) -> None:
        """Forget processes that are silent, those of the members excepted, and what happened long ago."""
        kept = {member.incarnation for member in members}
        for incarnation, each in list(self._latest.items()):
            if incarnation not in kept and self.is_silent(each, now):
                del self._latest[incarnation]
        drop_older(self._dead, now - _DEATH_MEMORY)
        drop_older(self._removed, now - _REMOVAL_MEMORY)


def drop_older(times: dict[_Key, float], moment: float) -> None:
    """Drop what was last noted before a moment."""
    for key in [key for key, at in times.items() if at < moment]:
        del times[key]

"""Decide which hosts are to be started, and when again after a death; pure, on a given clock.

A host that is drained stays away, unless it is to be started anew once its process has ended.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from verani.backoff import Backoff

from .control import Letters, StartHost, launcher_name
from .heartbeats import Heartbeats
from .machines import Machines, machine_of

__all__ = ["Starts"]

# A host that died is started again at once, unless it died within this time before; then after these delays.
_MEMORY = 60.0
_BACKOFF = Backoff(first=0.1, longest=10.0)


@dataclass(slots=True)
class _Restart:
    at: float
    died: float
    delay: float = 0.0
    asked: bool = False


class Starts:
    """The hosts that machines offer to run, by id: which of them are drained, and which have died."""

    def __init__(self, machines: Machines, heartbeats: Heartbeats) -> None:
        self._machines = machines
        self._heartbeats = heartbeats
        self._drained: set[str] = set()
        # Those of the drained that are to be started anew once their process has ended.
        self._returning: set[str] = set()
        self._restarts: dict[str, _Restart] = {}

    @property
    def drained(self) -> frozenset[str]:
        """Hosts that are to give up their rooms, or have done so."""
        return frozenset(self._drained)

    def drain(self, ids: Iterable[str]) -> None:
        """Have hosts give up their rooms for good."""
        self._drained.update(ids)
        self._returning.difference_update(ids)

    def drain_all(self) -> None:
        """Have every host that there is, or could be, give up its rooms for good."""
        offered = {id for machine in self._machines.names for id in self._machines.hosts(machine)}
        self.drain(offered | self._heartbeats.ids)

    def renew(self, id: str) -> None:
        """Have a host give up its rooms and be started anew; one that is drained for good stays so."""
        if id not in self._drained:
            self._drained.add(id)
            self._returning.add(id)

    def died(self, id: str, now: float) -> None:
        """Plan the next start of a host whose process has ended, unless another process has taken its place."""
        if id in self._returning:
            self._returning.discard(id)
            self._drained.discard(id)
            self._restarts[id] = _Restart(now, now)
        elif id not in self._heartbeats.ids:
            self._restarts[id] = _after(self._restarts.get(id), now)

    def missing(self, machine: str, now: float) -> list[str]:
        """List the hosts of a machine that are to run, and of which no process is heard."""
        beating = {member.id for member in self._heartbeats.beating(now)}
        return [id for id in self._machines.hosts(machine) if id not in beating and self._is_due(id, now)]

    def due(self, now: float) -> Letters:
        """Start again what has died, when its delay is over; the next Offers repeat it until the host beats."""
        letters: Letters = []
        for id, restart in self._restarts.items():
            machine = machine_of(id)
            if not restart.asked and restart.at <= now and machine in self._machines:
                restart.asked = True
                if id in self.missing(machine, now):
                    letters.append((launcher_name(machine), StartHost(id)))
        return letters

    def _is_due(self, id: str, now: float) -> bool:
        return id not in self._drained and (id not in self._restarts or self._restarts[id].at <= now)

    def forget_drains(self, machine: str) -> None:
        """Forget what was drained on a machine: it has ended since."""
        self._drained -= {id for id in self._drained if machine_of(id) == machine}
        self._returning &= self._drained

    def forget(self, now: float) -> None:
        """Forget deaths of long ago: the next one is followed by a start at once, as if it were the first."""
        for id, restart in list(self._restarts.items()):
            if now - max(restart.died, restart.at) > _MEMORY:
                del self._restarts[id]


def _after(last: _Restart | None, now: float) -> _Restart:
    if last is None or now - last.died > _MEMORY:
        return _Restart(now, now)
    delay = _BACKOFF.after(last.delay)
    return _Restart(now + delay, now, delay)

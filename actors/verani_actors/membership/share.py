"""Know which rooms are this host's, now and in the epochs before.

Invariants:
- A room that the host does not own in the committed epoch, or loses in any that it prepared since, is not its own:
  what was given up is not taken back before a commit says so.
- `since` is never later than the epoch with which the present spell of ownership began; after a spell that the host
  knows to have ended, it is later than all of that spell. (A host that is a member prepares every epoch in which it
  loses a room, so it knows of every end.)
"""

from __future__ import annotations

from collections import deque
from typing import Final

from verani.link.epoch import Epoch

__all__ = ["Ownership", "Share"]

# Epochs that are remembered: no input is in flight for longer than so many changes take.
_HISTORY: Final = 64


class Ownership:
    """The ownership of a host that is alone: every room is its own."""

    # Number of the committed epoch.
    epoch = 0

    def owns(self, room: str) -> bool:
        """Tell whether the host may serve this room."""
        return True

    def since(self, room: str) -> int:
        """Say from which epoch on inputs for this room are for the present spell of ownership."""
        return 0


class Share(Ownership):
    """The ownership of a member: its share of the rooms, by rendezvous hashing."""

    def __init__(self, incarnation: str) -> None:
        self.committed = Epoch()
        # Whether the host is a member of that.
        self.is_member = False
        self._incarnation = incarnation
        # Prepared epochs that are newer than the committed one, in order.
        self._prepared: list[Epoch] = []
        self._history: deque[Epoch] = deque(maxlen=_HISTORY)
        # Results of `since`, which hashes once for each epoch; every change clears them.
        self._since: dict[str, int] = {}

    @property
    def prepared(self) -> int:
        """Number of the highest epoch that was prepared or committed."""
        return self._prepared[-1].number if self._prepared else self.committed.number

    def prepare(self, epoch: Epoch) -> bool:
        """Give up what is lost in this epoch; False if it is not newer than all before."""
        if epoch.number <= self.prepared:
            return False
        self._prepared.append(epoch)
        self._remember(epoch)
        return True

    def commit(self, epoch: Epoch) -> bool:
        """Put this epoch in force; False if it is not newer than the one that is."""
        if epoch.number <= self.committed.number:
            return False
        self._prepared = [prepared for prepared in self._prepared if prepared.number > epoch.number]
        self.committed = epoch
        self.epoch = epoch.number
        self.is_member = any(member.incarnation == self._incarnation for member in epoch.members)
        self._remember(epoch)
        return True

    def owns(self, room: str) -> bool:
        """Tell whether the host may serve this room."""
        return all(epoch.owns(self._incarnation, room) for epoch in (self.committed, *self._prepared))

    def since(self, room: str) -> int:
        """Say from which epoch on inputs for this room are for the present spell of ownership."""
        if room not in self._since:
            others = (epoch.number for epoch in self._history if not epoch.owns(self._incarnation, room))
            self._since[room] = max(others, default=-1) + 1
        return self._since[room]

    def _remember(self, epoch: Epoch) -> None:
        self._history.append(epoch)
        self._since.clear()

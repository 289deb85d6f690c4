"""Remember the gateways that were given up, so that those which come back learn what they have lost there: pure.

Invariant: what was told to nobody is told at the next time. The last `REMEMBERED` incarnations are remembered.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

from verani.link.messages import GivenUp

__all__ = ["REMEMBERED", "GivenUpGateways"]

REMEMBERED = 64


class GivenUpGateways:
    """By gateway and its incarnation, the rooms in which its connections have ended."""

    def __init__(self) -> None:
        # With how many wakes there had been: in rooms that woke later its connections may be missing, too.
        self._lost: OrderedDict[tuple[str, str], tuple[GivenUp, int]] = OrderedDict()

    def remember(
        self, gateway: str, incarnation: str, rooms: Iterable[str], *, untold: GivenUp | None, wakes: int
    ) -> None:
        """Note the rooms that are lost now, and what the last session did not get round to tell."""
        lost, others = ((), False) if untold is None else (untold.rooms, untold.others)
        self._lost[gateway, incarnation] = GivenUp(list(dict.fromkeys([*lost, *rooms])), others), wakes
        while len(self._lost) > REMEMBERED:
            self._lost.popitem(last=False)

    def recall(self, gateway: str, incarnation: str, wakes: int) -> GivenUp | None:
        """Return what to tell a gateway that comes back, None if it was not given up; once."""
        found = self._lost.pop((gateway, incarnation), None)
        return None if found is None else GivenUp(found[0].rooms, found[0].others or found[1] != wakes)

"""Remember the gateways that were given up, so that those which come back learn what they have lost there: pure.

Invariant: what was told to nobody is told at the next time. The last `REMEMBERED` incarnations are remembered, and of
each at most `UNHEARD` rooms of which it has not heard the last: where there are more, it may have missed something in
any, and those are remembered that were through with something.
"""

from __future__ import annotations

from collections import OrderedDict
from itertools import islice

from verani.link.messages import GivenUp

__all__ = ["REMEMBERED", "UNHEARD", "GivenUpGateways"]

REMEMBERED = 64
UNHEARD = 10_000


class GivenUpGateways:
    """By gateway and its incarnation, what it has lost."""

    def __init__(self) -> None:
        # With how many wakes there had been: in rooms that woke later its connections may be missing, too.
        self._lost: OrderedDict[tuple[str, str], tuple[GivenUp, int]] = OrderedDict()

    def remember(self, gateway: str, incarnation: str, lost: GivenUp, *, untold: GivenUp | None, wakes: int) -> None:
        """Note what is lost now, and what the last session did not get round to tell."""
        before = untold if untold is not None else GivenUp([])
        rooms = dict.fromkeys([*before.rooms, *lost.rooms])
        unheard = dict(before.unheard)
        for room, number in lost.unheard.items():
            unheard[room] = max(number, unheard.get(room, 0))
        for room in rooms:
            unheard.pop(room, None)
        others = before.others
        if len(unheard) > UNHEARD:
            others = True
            unheard = dict(islice(((room, number) for room, number in unheard.items() if number), UNHEARD))
        found = GivenUp(list(rooms), others, unheard)
        self._lost[gateway, incarnation] = found, wakes
        while len(self._lost) > REMEMBERED:
            self._lost.popitem(last=False)

    def recall(self, gateway: str, incarnation: str, wakes: int) -> GivenUp | None:
        """Return what to tell a gateway that comes back, None if it was not given up; once."""
        found = self._lost.pop((gateway, incarnation), None)
        if found is None:
            return None
        lost, then = found
        return GivenUp(lost.rooms, lost.others or then != wakes, lost.unheard)

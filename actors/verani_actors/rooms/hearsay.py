"""Find out, from what gateways have heard of a room, which of them missed what its last owner said: pure.

A host that dies has perhaps written what a room said to some gateways and not to the others. So each entry names what
other gateways must have by then (`Said`, of the room's `Reach`), each gateway keeps that of the last one (`Heard`), and
the next owner of the room compares them, before it says anything itself. Effects of an input which no other gateway has
seen need not be there: the input is sent again.
"""

from __future__ import annotations

from collections.abc import Mapping

from verani.link.messages import Heard, Said

__all__ = ["Reach", "seen_of", "who_missed"]


class Reach:
    """What one incarnation of a room has said to each gateway, as far as others must know of it."""

    __slots__ = ("owed", "shared", "told")

    def __init__(self) -> None:
        # The last entry of each gateway.
        self.told: dict[str, int] = {}
        # The last entries of gateways that say more than what their own inputs alone led to.
        self.owed: dict[str, int] = {}
        # The last inputs of gateways of which others have seen something.
        self.shared: dict[str, int] = {}

    def note(self, gateway: str, seq: int, cause: int | None, origin: str | None) -> None:
        """Note an entry that says what its gateway cannot get again by sending its own inputs once more.

        `cause` is the input that led to it, and `origin` the gateway that the input is of; None for what none led to.
        """
        if gateway != origin:
            self.owed[gateway] = seq
            if origin is not None and cause is not None and self.shared.get(origin) != cause:
                self.shared[origin] = cause
                if origin in self.told:
                    self.owed[origin] = self.told[origin]
        elif self.shared.get(gateway) == cause:
            self.owed[gateway] = seq

    def said_to_others(self, gateway: str) -> tuple[Said, ...]:
        """List what all gateways but this one must have."""
        others = {**self.owed, **self.shared}
        others.pop(gateway, None)
        return tuple([Said(other, self.owed.get(other, 0), self.shared.get(other, 0)) for other in others])

    def lose(self, gateway: str) -> None:
        """Forget a gateway that is gone."""
        for table in (self.told, self.owed, self.shared):
            table.pop(gateway, None)


def who_missed(heard: Mapping[str, Heard]) -> set[str]:
    """Name the gateways that have missed something.

    A gateway that knows nothing of the room misses nothing: whoever is there now came later.
    """
    return {
        said.gateway
        for each in heard.values()
        for said in each.others
        if said.seq and (own := heard.get(said.gateway)) is not None and _is_behind(own, each, said)
    }


def _is_behind(own: Heard, other: Heard, said: Said) -> bool:
    # Entries of an owner are numbered; a later owner has looked at all that was said before.
    return own.seq < said.seq if own.owner == other.owner else own.epoch < other.epoch


def seen_of(heard: Mapping[str, Heard]) -> dict[str, int]:
    """Tell the last input of each gateway of which others have seen something."""
    seen: dict[str, int] = {}
    for each in heard.values():
        for said in each.others:
            seen[said.gateway] = max(said.shown, seen.get(said.gateway, 0))
    return seen

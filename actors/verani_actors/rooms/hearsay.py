"""Find out, from what gateways have heard of a room, which of them missed what its last owner said: pure.

A host that dies has perhaps written what a room said to some gateways and not to the others. So each entry names the
gateways that are in the room and what they must have by then (`Said`, of the room's `Reach`), each gateway keeps that
of the last one (`Heard`), and the next owner of the room compares, before it says anything itself.

Invariants:
- The last word about a room names everybody whose connections may go on: who is not named, or has less, missed
  something.
- An input of which others have seen something is not handled again, however many owners die: each hands on what it
  knows.
- Effects of an input which no other gateway has seen need not be there: the input is sent again.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Final

from verani.link.messages import Heard, Said

__all__ = ["Reach", "seen_of", "who_missed"]

# More than any gateway has: for those that were given up, and have missed what was said since.
_ALL: Final = 1 << 62

# Of so many gateways that were given up it is kept which of their inputs others have seen, or may see.
_GONE: Final = 8


class Reach:
    """What one incarnation of a room has said to each gateway, as far as others must know of it."""

    __slots__ = ("owed", "processed", "shared", "told", "unprompted")

    def __init__(self) -> None:
        # The last entry of each gateway.
        self.told: dict[str, int] = {}
        # The gateways that are in, and their last entries that say more than what their own inputs alone led to.
        self.owed: dict[str, int] = {}
        # The last inputs of gateways of which others have seen something.
        self.shared: dict[str, int] = {}
        # The last inputs of gateways that were processed.
        self.processed: dict[str, int] = {}
        # Whether something was said in this tick that no input in hand led to: any before it may have.
        self.unprompted = False

    def begin(self, gateways: Iterable[str], seen: Mapping[str, int]) -> None:
        """Begin with the gateways that have records, and with what is known of their inputs."""
        self.owed = dict.fromkeys(gateways, 0)
        self.shared = {gateway: number for gateway, number in seen.items() if number}

    def note(self, gateway: str, seq: int, cause: int | None, origin: str | None) -> None:
        """Note an entry that says what its gateway cannot get again by sending its own inputs once more.

        `cause` is the input that led to it, and `origin` the gateway that the input is of; None for what none led to.
        The ends of sessions of a gateway that was given up have no number, as it did not send them.
        """
        self.unprompted |= cause is None
        if gateway != origin:
            self.owed[gateway] = seq
            if origin is not None and cause and cause > self.shared.get(origin, 0):
                self.shared[origin] = cause
                if origin in self.told:
                    self.owed[origin] = self.told[origin]
        elif self.shared.get(gateway) == cause:
            self.owed[gateway] = seq

    def said(self) -> tuple[Said, ...]:
        """List what all gateways must have by the end of this tick."""
        if self.unprompted:
            self.unprompted = False
            for gateway, number in self.processed.items():
                if number > self.shared.get(gateway, 0):
                    self.shared[gateway] = number
                    if gateway in self.told:
                        self.owed[gateway] = self.told[gateway]
        named = {**self.owed, **self.shared}
        return tuple([Said(each, self.owed.get(each, _ALL), self.shared.get(each, 0)) for each in named])

    def lose(self, gateway: str, linked: Collection[str]) -> None:
        """Note that a gateway was given up; what is known of its inputs stays, as it may send them to another owner."""
        for table in (self.told, self.owed):
            table.pop(gateway, None)
        for known in (self.shared, self.processed):
            if gateway in known:
                known[gateway] = known.pop(gateway)  # in the order in which they were lost
            for gone in [each for each in known if each not in linked][:-_GONE]:
                del known[gone]


def who_missed(heard: Mapping[str, Heard]) -> set[str]:
    """Name the gateways that have missed something: those that the last word does not name, or that have less of it."""
    latest = max(heard.values(), key=lambda each: each.epoch, default=None)
    if latest is None:
        return set()
    last = max((each for each in heard.values() if each.owner == latest.owner), key=lambda each: each.seq)
    if last.others is None:  # of a host of an earlier version
        return set()
    due = {said.gateway: said.seq for said in last.others}
    return {
        gateway
        for gateway, own in heard.items()
        if own is not last and (own.seq if own.owner == last.owner else 0) < due.get(gateway, _ALL)
    }


def seen_of(heard: Mapping[str, Heard]) -> dict[str, int]:
    """Tell the last input of each gateway of which others have seen something."""
    seen: dict[str, int] = {}
    for each in heard.values():
        for said in each.others or ():
            seen[said.gateway] = max(said.shown, seen.get(said.gateway, 0))
    return seen

"""Find out, from what gateways have heard of a room, which of them missed what its last owner said.

A host that dies has perhaps written what a room said to some gateways and not to the others. So each entry names what
other gateways must have by then (`Said`), each gateway keeps that of the last one (`Heard`), and whoever has the room
next compares them, before it says anything itself. What inputs led to of which no other gateway has seen anything need
not be there: those are sent again.
"""

from __future__ import annotations

from collections.abc import Mapping

from verani.link.messages import Heard, Said

__all__ = ["seen_of", "who_missed"]


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

"""Name what a room host tells a gateway about who serves which rooms."""

from __future__ import annotations

from msgspec import Struct

from .epoch import Epoch

__all__ = [
    "Announce",
    "GivenUp",
    "Serving",
]


class Announce(Struct, frozen=True, array_like=True, tag="announce"):
    """Tell a gateway the epoch that is committed; it forwards rooms to their owners in it from now on."""

    epoch: Epoch


class GivenUp(Struct, frozen=True, array_like=True, tag="given_up"):
    """Tell a gateway that came back too late: in these rooms its connections got their `on_disconnect`.

    `others`: other rooms may have woken without its records, too, and its connections there have missed outputs.
    """

    rooms: list[str]
    others: bool = False


class Serving(Struct, frozen=True, array_like=True, tag="serving"):
    """Tell a gateway that this host may serve its rooms for so many seconds from now; said again long before."""

    seconds: float

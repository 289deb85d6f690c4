"""Name what there is to measure of a room host, and write measures down in Prometheus' text format 0.0.4.

What gateways measure is named in `verani_gateway.inputs.metrics`; a metric that both have is named here, once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from ..rooms.host import RoomHost

__all__ = ["Family", "host_families", "labelled", "room_states", "rooms_family", "written"]


class Family(NamedTuple):
    """A metric with its samples, by label text; the name goes without the prefix."""

    name: str
    kind: str
    text: str
    samples: Mapping[str, float]


def labelled(label: str, counts: Mapping[str, int]) -> dict[str, int]:
    """Label counts; the values are codes, states and settings of bounded sets, never anything that a client chose."""
    return {f'{{{label}="{value}"}}': counts[value] for value in sorted(counts)}


def rooms_family(states: Mapping[str, int]) -> Family:
    """Describe rooms that were counted by state."""
    text = "rooms that are awake, or sleep with connections, by state"
    return Family("rooms", "gauge", text, labelled("state", states))


def room_states(host: RoomHost) -> Counter[str]:
    """Count the rooms of a host by state."""
    return Counter(host.rooms().values()) + Counter(asleep=host.sleeping_count)


def host_families(host: RoomHost) -> Iterator[Family]:
    """Yield how the rooms of a host woke and slept; how many there are is `rooms_family`."""
    yield Family("wakes_total", "counter", "rooms woken", {"": host.wakes})
    yield Family("sleeps_total", "counter", "rooms fallen asleep", {"": host.sleeps})
    limits = labelled("setting", host.limited)
    yield Family("room_limited_total", "counter", "what limits of rooms did, by setting", limits)
    yield Family("awake_excess", "gauge", "rooms awake above max_awake_rooms", {"": host.excess})


def written(families: Iterable[Family]) -> str:
    """Write families down."""
    return "".join(line for family in families for line in _lines(family))


def _lines(family: Family) -> Iterator[str]:
    name = f"verani_{family.name}"
    yield f"# HELP {name} {family.text}\n# TYPE {name} {family.kind}\n"
    for labels, value in family.samples.items():
        yield f"{name}{labels} {value}\n"

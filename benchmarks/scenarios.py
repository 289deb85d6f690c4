"""What is measured: the rows of the table, the points of the curves, and what is left of them on a small machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal, TypeAlias

from .load import Scenario
from .measuring import Crowd

__all__ = ["CURVES", "ROWS", "SMOKE", "Curve", "Figure", "Load", "Row", "capped", "curve_points", "lighter"]

Load: TypeAlias = Scenario | Crowd
Figure: TypeAlias = Literal["cpu", "p50", "p99", "memory", "per_second"]

# Files of a server beside its connections, with room to spare.
_OTHER_FILES: Final = 200

ECHO: Final = Scenario("echo, 50 connections, window 16", "echo", 50, 1, 1, 1000, 16)
ROOMS: Final = Scenario("1,000 rooms of 2, both send", "cast", 1000, 2, 2, 20, 1)
FAN_OUT: Final = Scenario("fan-out 1 x 1,000, window 8", "cast", 1, 1000, 1, 400, 8)
ROUND_TRIP: Final = Scenario("round trip, one connection", "echo", 1, 1, 1, 3000, 1)
# A thousand frames a second over a hundred rooms of ten.
STEADY: Final = Scenario("10,000 deliveries a second", "cast", 100, 10, 1, 50, 0, rate=1000)
IDLE: Final = Crowd("2,000 idle connections", 2000)


@dataclass(frozen=True)
class Row:
    """One line of the table: a load, and the figure of it in which servers are compared.

    Ratios are ours / peer, so that less is better for us; of what is better when there is more, peer / ours.
    """

    name: str
    load: Load
    figure: Figure
    unit: str

    @property
    def more_is_better(self) -> bool:
        return self.figure == "per_second"


ROWS: Final = (
    Row(f"{ECHO.name}: CPU", ECHO, "cpu", "us a delivery"),
    Row(f"{ROOMS.name}: CPU", ROOMS, "cpu", "us a delivery"),
    Row(f"{FAN_OUT.name}: CPU", FAN_OUT, "cpu", "us a delivery"),
    Row(f"{ROUND_TRIP.name}: p50", ROUND_TRIP, "p50", "us"),
    Row(f"{STEADY.name}: p99", STEADY, "p99", "us"),
    Row("memory of an idle connection", IDLE, "memory", "bytes"),
    Row("CPU of a connect", IDLE, "cpu", "us"),
    Row("connects a second (peer / ours)", IDLE, "per_second", "a second"),
)

# Half a second of load each: enough for a ratio that is 30 % off to show.
SMOKE: Final = (
    replace(ECHO, messages=200),
    replace(ROOMS, messages=4),
    replace(FAN_OUT, messages=100),
)


def lighter(load: Load, share: float) -> Load:
    """Return the same load, for a part of the time."""
    if isinstance(load, Crowd):
        return load
    return replace(load, messages=max(2, round(load.messages * share)))


@dataclass(frozen=True)
class Curve:
    """One load at several values of `axis`; the figure is the processor time of a delivery."""

    file: str
    title: str
    axis: str
    values: tuple[int, ...]
    # How many connections one more of `axis` is.
    connections: int = 0

    def at(self, value: int) -> Scenario:
        name = f"{self.axis}: {value:,}"
        match self.file:
            case "sizes":
                return Scenario(name, "echo", 50, 1, 1, 200, 4, size=value)
            case "connections":
                return Scenario(name, "cast", 1, value, 1, max(10, 200_000 // value), 8)
            case _:
                return Scenario(name, "cast", value, 2, 2, max(2, 10_000 // value), 1)


CURVES: Final = (
    Curve("sizes", "Echo, 50 connections, window 4", "bytes in a frame", (16, 64, 256, 1024, 4096, 16384, 65536)),
    Curve(
        "connections", "One room, one sender, window 8", "connections in the room", (100, 300, 1000, 3000, 10_000), 1
    ),
    Curve("rooms", "Rooms of 2, both send", "rooms", (10, 100, 1000, 10_000, 100_000), 2),
)


def capped(values: Sequence[int], connections: int, files: int) -> list[int]:
    """Return the values that fit under a limit of open files, and what fits instead of the first that does not."""
    most = (files - _OTHER_FILES) // connections if connections else max(values)
    fitting = [value for value in values if value <= most]
    return fitting if len(fitting) == len(values) or most in fitting else [*fitting, most]


def curve_points(curve: Curve, files: int) -> tuple[list[int], str]:
    """Return the values to measure, and a line that says what was left out, if anything was."""
    values = capped(curve.values, curve.connections, files)
    if values == list(curve.values):
        return values, ""
    return values, f"{curve.axis}: {values[-1]:,} at most, because {files:,} files may be open (RLIMIT_NOFILE)"

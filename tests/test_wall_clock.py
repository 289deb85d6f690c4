"""Nothing that the service does depends on the wall clock, but for the few places where that is what is asked for."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = (ROOT / "verani", ROOT / "actors" / "verani_actors", ROOT / "gateway" / "verani_gateway")

# Whatever tells the time of day.
TELLS = {
    "time.time",
    "time.time_ns",
    "time.CLOCK_REALTIME",
    "time.localtime",
    "time.gmtime",
    "datetime.now",
    "datetime.utcnow",
    "datetime.today",
    "date.today",
}

# Who may look at it, and why nothing goes wrong when it jumps.
ALLOWED = {
    # Tokens expire at a time of day.
    "verani_gateway.connections.renewal.Renewal": {"time.time"},
    "verani_gateway.endpoint.Endpoint": {"time.time"},
    # Sessions are in the order in which they came, also across hosts; a step back is made up for.
    "verani.engine.roster.Roster": {"time.time_ns"},
    # `Retry-After` may be a date.
    "verani.client.handshakes.Handshakes": {"time.time"},
    # Shown to the operator only: what hooks raised and when, for how long an identity is good, when an input was set
    # aside, the times of charts, and when a process and Thespian's system began.
    "verani_gateway.inspector.room": {"time.time"},
    "verani_actors.operating.measures": {"time.time"},
    "verani_actors.rooms.hook_failures.HookFailures": {"time.time"},
    "verani_gateway.operating.sessions": {"time.time"},
    "verani_gateway.placement.hosts.Cluster": {"time.time"},
    "verani_gateway.cli.rooms": {"time.localtime"},
    "verani_actors.system.asyncio_base.AsyncioSystemBase": {"time.time"},
}


def looks(module: str, text: str) -> Iterator[tuple[str, str]]:
    """Yield the class, else the module, of each look at the wall clock in a source, and how it looks."""
    for top in ast.parse(text).body:
        place = f"{module}.{top.name}" if isinstance(top, ast.ClassDef) else module
        for node in ast.walk(top):
            match node:
                case ast.Attribute(value=ast.Name(id=owner) | ast.Attribute(attr=owner), attr=name):
                    found = [f"{owner}.{name}"]
                case ast.ImportFrom(module="time", names=names):
                    found = [f"time.{each.name}" for each in names]
                case _:
                    continue
            yield from ((place, each) for each in found if each in TELLS)


@pytest.mark.threat(71)
def test_only_token_expiry_the_order_of_sessions_and_what_is_shown_look_at_the_wall_clock() -> None:
    found: dict[str, set[str]] = {}
    for source in SOURCES:
        for path in source.rglob("*.py"):
            module = ".".join(path.relative_to(source.parent).with_suffix("").parts)
            for place, how in looks(module, path.read_text(encoding="utf-8")):
                found.setdefault(place, set()).add(how)
    assert found == ALLOWED


def test_the_scan_finds_looks_of_every_kind() -> None:
    text = "from time import time_ns\nclass A:\n    now = datetime.datetime.now(), time.time\ntime.monotonic()\n"
    assert sorted(looks("m", text)) == [("m", "time.time_ns"), ("m.A", "datetime.now"), ("m.A", "time.time")]

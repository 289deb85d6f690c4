"""What a comparison found: all measurements of all rounds, on which machine, and the medians and ratios of them."""

from __future__ import annotations

import datetime
import os
import platform
import shutil
import statistics
import subprocess
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

import msgspec

from .comparing import median_ratio
from .measuring import Measurement
from .peers.catalogue import BUN, OURS, event_loop
from .scenarios import Figure, Row

__all__ = ["Machine", "Results", "lines_of", "load_lines", "table"]

_PACKAGES: Final = ("aiohttp", "picows", "python-socketio", "uvloop")
_COLUMNS: Final = {
    "cpu": "CPU us",
    "per_second": "a second",
    "p50": "p50 us",
    "p99": "p99 us",
    "memory": "bytes",
    "server_share": "server",
    "load_share": "load",
}
_MODULES: Final = Path(__file__).parent / "peers" / "node_modules"


class Machine(msgspec.Struct, frozen=True):
    """Where and with what was measured."""

    date: str
    processor: str
    cores: int
    system: str
    versions: dict[str, str]

    @classmethod
    def this(cls) -> Machine:
        return cls(
            datetime.datetime.now(datetime.UTC).date().isoformat(),
            _processor(),
            os.cpu_count() or 1,
            f"{platform.system()} {platform.release().partition('-')[0]}",
            _versions(),
        )

    def __str__(self) -> str:
        versions = ", ".join(f"{name} {number}" for name, number in self.versions.items())
        return f"{self.date}, {self.processor}, {self.cores} cores, {self.system}; {versions}"


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _versions() -> dict[str, str]:
    found = {"Python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    if event_loop() == "asyncio":
        found["event loop"] = "asyncio"
    for package in ("bun", "socket.io", "ws"):
        if (file := _MODULES / package / "package.json").exists():
            found[package] = msgspec.json.decode(file.read_bytes())["version"]
    if shutil.which("node"):
        answer = subprocess.run(["node", "--version"], capture_output=True, text=True, check=False)
        found["Node"] = answer.stdout.strip().lstrip("v")
    return found


class Results(msgspec.Struct):
    """All that was measured."""

    machine: Machine
    measurements: list[Measurement] = []
    notes: list[str] = []

    def servers(self, load: str) -> list[str]:
        """Name the servers that were measured under a load, in the order in which they were."""
        return list(dict.fromkeys(each.server for each in self.measurements if each.scenario == load))

    def drop(self, load: str, server: str) -> None:
        """Forget what was measured of a server that did not bear a load to the end."""
        self.measurements = [each for each in self.measurements if (each.scenario, each.server) != (load, server)]

    def values(self, load: str, server: str, figure: str) -> list[float]:
        """List what each round gave."""
        return [getattr(each, figure) for each in self.measurements if (each.scenario, each.server) == (load, server)]

    def median(self, load: str, server: str, figure: str) -> float:
        return statistics.median(self.values(load, server, figure))

    def ratio(self, load: str, peer: str, figure: Figure) -> float:
        """Return ours / peer; of what is better when there is more, peer / ours."""
        ours, theirs = self.values(load, OURS.name, figure), self.values(load, peer, figure)
        return median_ratio(theirs, ours) if figure == "per_second" else median_ratio(ours, theirs)

    def broken(self) -> list[str]:
        """Say where a delivery was lost, came twice or out of order."""
        return [
            f"{each.server}, {each.scenario}: {each.lost} lost or doubled, {each.out_of_order} out of order"
            for each in self.measurements
            if not each.as_promised
        ]


def lines_of(results: Results, load: str) -> str:
    """Return what all servers took under one load, with the ratio of processor time where ours is among them."""
    there = results.servers(load)
    lines = [f"\n{load}", f"  {'':<20} {'ours/peer':>9}" + "".join(f"{title:>13}" for title in _COLUMNS.values())]
    for server in there:
        compared = OURS.name in there and server != OURS.name
        ratio = f"{results.ratio(load, server, 'cpu'):.2f}" if compared else ""
        figures = [(figure, results.median(load, server, figure)) for figure in _COLUMNS]
        cells = [f"{value:>13.0%}" if "share" in figure else f"{value:>13,.1f}" for figure, value in figures]
        lines.append(f"  {server:<20} {ratio:>9}{''.join(cells)}")
    return "\n".join(lines)


def table(results: Results, rows: Iterable[Row]) -> str:
    """Return the ratios of all rows as a table in Markdown: ours as it is, and ours / peer for each peer."""
    rows = [row for row in rows if OURS.name in results.servers(row.load.name)]
    peers = list(dict.fromkeys(name for row in rows for name in results.servers(row.load.name) if name != OURS.name))
    lines = [_line(["ours / peer", *peers, OURS.name]), "|---|" + "---:|" * (len(peers) + 1)]
    for row in rows:
        there = results.servers(row.load.name)
        ratios = [_ratio(results.ratio(row.load.name, peer, row.figure)) if peer in there else "" for peer in peers]
        lines.append(_line([row.name, *ratios, f"{_ours(results, row)} {row.unit}"]))
    return "\n".join(lines)


def _ours(results: Results, row: Row) -> str:
    value = results.median(row.load.name, OURS.name, row.figure)
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def _ratio(ratio: float) -> str:
    return f"{ratio:.1f}" if ratio >= 10 else f"{ratio:.2f}"


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def load_lines(results: Results, loads: Iterable[str]) -> list[str]:
    """Say for each load how much the load generator works beside ours and beside Bun, the cheapest to serve.

    Below 1 the server is the first to have no time left; above, it waits for the load. Shares of cores would not say
    it on a machine that has other work: both are small then.
    """
    lines = []
    for load in loads:
        works = [
            f"{_works(results, load, server):.2f} s beside {server}"
            for server in (OURS.name, BUN.name)
            if server in results.servers(load)
        ]
        if works:
            lines.append(f"{load}: for a second of the server's the load works {', '.join(works)}")
    return lines


def _works(results: Results, load: str, server: str) -> float:
    return median_ratio(results.values(load, server, "load_share"), results.values(load, server, "server_share"))

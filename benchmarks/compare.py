"""Compare Verani with other servers: the same load on each, one after the other, in one run.

    python -m benchmarks.compare [--quick] [--rounds 3] [--only WORD] [--json FILE] [--svg FOLDER]

The server has one core and the load another. Figures are medians of all rounds; a ratio is the median of what each
round gave, because what slows down the machine for a while slows down both. `--quick` is the table with a fifth of the
load, in a few minutes; the full form goes on to wakes, hosts and curves. A peer whose runtime is not there is left out.

Exits with 1 if any server lost a delivery, doubled it, or sent it out of order.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from . import hibernation, hosts
from .charts import draw
from .measuring import Crowd, Measurement, measure, measure_crowd
from .peers.catalogue import OURS, PLAIN, SERVERS, Server, event_loop
from .processes import Cores, file_limit
from .results import Machine, Results, lines_of, load_lines, table
from .scenarios import CURVES, ROWS, Curve, Load, curve_points, lighter
from .servers import new_loop

QUICK_SHARE = 0.2
# Of the servers in curves; the slowest one takes hours and shows nothing else.
LEFT_OUT_OF_CURVES = {"python-socketio"}


def run(server: Server, load: Load, cores: Cores) -> Measurement:
    """Measure in a loop of its own, of which nothing is left for the next one."""
    with asyncio.Runner(loop_factory=lambda: new_loop(event_loop())) as runner:
        match load:
            case Crowd():
                return runner.run(measure_crowd(server, load, cores))
            case _:
                return runner.run(measure(server, load, cores))


@dataclass(frozen=True)
class Comparison:
    """Servers that take turns; what is found is written after every load, because the next one may not end well."""

    servers: list[Server]
    cores: Cores
    rounds: int
    file: Path | None
    results: Results

    def alternate(self, servers: Iterable[Server], load: Load) -> None:
        """Measure every server once in each round; a peer that cannot bear a load is left out of it."""
        left = list(servers)
        for _ in range(self.rounds):
            for server in tuple(left):
                try:
                    self.results.measurements.append(run(server, load, self.cores))
                except OSError as error:  # it did not start, let nobody in, or closed
                    if server is OURS:
                        raise
                    left.remove(server)
                    self.results.drop(load.name, server.name)
                    self.results.notes.append(f"{server.name} is left out of {load.name}: {error!r}")
        print(lines_of(self.results, load.name), flush=True)
        self.save()

    def save(self) -> None:
        if self.file is not None:
            self.file.write_bytes(msgspec.json.format(msgspec.json.encode(self.results)) + b"\n")

    def wakes(self) -> None:
        """Note how long rooms take to wake; nothing else that is measured here sleeps."""
        for members in (2, 1000):
            p50, p99, _ = asyncio.run(hibernation.latency(members, 400))
            self.results.notes.append(f"waking a room of {members:,}: p50 {p50:.2f} ms, p99 {p99:.2f} ms")

    def through_hosts(self) -> None:
        """Measure ours in one process, and with one and two hosts, and aiohttp by hand beside it."""
        for scenario in hosts.SCENARIOS[:2]:
            for _ in range(self.rounds):
                self.results.measurements.append(run(PLAIN, scenario, self.cores))
                for count in (0, 1, 2):
                    measured = asyncio.run(hosts.measure_pinned(count, scenario, self.cores))
                    self.results.measurements.append(measured)
            print(lines_of(self.results, scenario.name), flush=True)
            self.save()

    def curve(self, curve: Curve) -> str:
        """Measure every point of a curve; return its drawing."""
        values, note = curve_points(curve, file_limit())
        self.results.notes += [note] if note else []
        shown = [server for server in self.servers if server.name not in LEFT_OUT_OF_CURVES]
        for value in values:
            self.alternate(shown, curve.at(value))
        lines = {server.name: self._points(curve, values, server.name) for server in shown}
        return draw(curve.title, curve.axis, "CPU of the server for a delivery, us", lines)

    def _points(self, curve: Curve, values: list[int], server: str) -> list[tuple[float, float]]:
        loads = {value: curve.at(value).name for value in values}
        return [
            (value, self.results.median(load, server, "cpu"))
            for value, load in loads.items()
            if server in self.results.servers(load)
        ]


def available(word: str) -> list[Server]:
    """List the servers that can be measured here, ours first; say which cannot."""
    for server in SERVERS:
        if server.missing:
            print(f"{server.name} is left out: {server.missing} is not there")
    return [each for each in SERVERS if not each.missing and (each is OURS or word in each.name.lower())]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the table alone, with a fifth of the load")
    parser.add_argument("--rounds", type=int, default=3, help="how often each server is measured (default: 3)")
    parser.add_argument("--only", default="", metavar="WORD", help="only loads and curves whose names have this word")
    parser.add_argument("--peer", default="", metavar="WORD", help="only peers whose names have this word")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all measurements")
    parser.add_argument("--svg", type=Path, metavar="FOLDER", help="write the curves")
    return parser.parse_args()


def compare(comparison: Comparison, options: argparse.Namespace) -> None:
    """Measure the rows of the table, and in the full form what the table has no room for."""
    for load in {row.load.name: row.load for row in ROWS if options.only in row.load.name}.values():
        comparison.alternate(comparison.servers, lighter(load, QUICK_SHARE) if options.quick else load)
    if options.quick:
        return
    if not options.only:
        comparison.wakes()
        comparison.through_hosts()
    for curve in CURVES:
        if options.only in curve.file:
            drawing = comparison.curve(curve)
            if options.svg:
                options.svg.mkdir(parents=True, exist_ok=True)
                (options.svg / f"{curve.file}.svg").write_text(drawing)


def main() -> int:
    options = parse()
    cores = Cores.choose()
    cores.pin_load()
    file_limit()
    results = Results(Machine.this())
    print(results.machine)
    if cores.shared:
        print("one core for server and load: waits say little here, the CPU of a delivery is what it is")
    comparison = Comparison(available(options.peer.lower()), cores, options.rounds, options.json, results)
    compare(comparison, options)
    comparison.save()
    print(f"\n{table(results, ROWS)}\n")
    print("\n".join([*load_lines(results, dict.fromkeys(row.load.name for row in ROWS)), *results.notes]))
    broken = results.broken()
    print("\n".join(["FAILED", *broken]) if broken else "every delivery arrived, once, in order")
    return int(bool(broken))


if __name__ == "__main__":
    sys.exit(main())

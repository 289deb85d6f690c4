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
from pathlib import Path

import msgspec

from . import hibernation, hosts
from .charts import draw
from .measuring import Crowd, Measurement, measure, measure_crowd
from .peers.catalogue import OURS, PLAIN, SERVERS, Server, event_loop
from .processes import Cores, file_limit
from .results import Machine, Results, load_lines, table
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


def alternate(results: Results, servers: Iterable[Server], load: Load, cores: Cores, rounds: int) -> None:
    """Measure every server once in each round; a peer that cannot bear a load is left out of it."""
    left = list(servers)
    for _ in range(rounds):
        for server in tuple(left):
            try:
                results.measurements.append(run(server, load, cores))
            except OSError as error:  # it did not start, let nobody in, or closed
                if server is OURS:
                    raise
                left.remove(server)
                results.drop(load.name, server.name)
                results.notes.append(f"{server.name} is left out of {load.name}: {error!r}")
    print_load(results, load.name)


def print_load(results: Results, load: str) -> None:
    print(f"\n{load}")
    print(f"  {'':<20} {'CPU us':>9} {'ours/peer':>9} {'a second':>10} {'p50 us':>9} {'p99 us':>9} {'bytes':>8} "
          f"{'server':>7} {'load':>5}")  # fmt: skip
    for server in results.servers(load):
        cpu, rate, p50, p99, memory, busy, load_busy = (
            results.median(load, server, figure)
            for figure in ("cpu", "per_second", "p50", "p99", "memory", "server_share", "load_share")
        )
        ratio = f"{results.ratio(load, server, 'cpu'):.2f}" if server != OURS.name else ""
        print(f"  {server:<20} {cpu:>9.2f} {ratio:>9} {rate:>10,.0f} {p50:>9,.0f} {p99:>9,.0f} {memory:>8,.0f} "
              f"{busy:>7.0%} {load_busy:>5.0%}", flush=True)  # fmt: skip


def measure_wakes(results: Results) -> None:
    """Note how long rooms take to wake; nothing that is measured here sleeps but ours."""
    for members in (2, 1000):
        p50, p99, _ = asyncio.run(hibernation.latency(members, 400))
        results.notes.append(f"waking a room of {members:,}: p50 {p50:.2f} ms, p99 {p99:.2f} ms")


def measure_hosts(results: Results, cores: Cores, rounds: int) -> None:
    """Measure ours in one process, and with one and two hosts, and aiohttp by hand beside it."""
    for scenario in hosts.SCENARIOS[:2]:
        for _ in range(rounds):
            results.measurements.append(run(PLAIN, scenario, cores))
            for count in (0, 1, 2):
                results.measurements.append(asyncio.run(hosts.measure_pinned(count, scenario, cores)))
        base = results.median(scenario.name, PLAIN.name, "cpu")
        print(f"\n{scenario.name}, through hosts: CPU of all processes for a frame (aiohttp by hand: {base:.1f} us)")
        for server in results.servers(scenario.name)[1:]:
            cpu, p50 = (results.median(scenario.name, server, figure) for figure in ("cpu", "p50"))
            print(f"  {server:<20} {cpu:>9.2f} us, p50 {p50:>7,.0f} us", flush=True)


def measure_curve(results: Results, curve: Curve, servers: Iterable[Server], cores: Cores, rounds: int) -> str:
    """Measure every point of a curve; return its drawing."""
    values, note = curve_points(curve, file_limit())
    results.notes += [note] if note else []
    for value in values:
        alternate(results, servers, curve.at(value), cores, rounds)
    lines = {
        server.name: [
            (value, results.median(curve.at(value).name, server.name, "cpu"))
            for value in values
            if server.name in results.servers(curve.at(value).name)
        ]
        for server in servers
    }
    return draw(curve.title, curve.axis, "CPU of the server for a delivery, us", lines)


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


def main() -> int:
    options = parse()
    cores = Cores.choose()
    cores.pin_load()
    file_limit()
    results = Results(Machine.this())
    print(results.machine)
    if cores.shared:
        print("one core for server and load: waits say little here, the CPU of a delivery is what it is")
    servers = available(options.peer.lower())
    loads = {row.load.name: row.load for row in ROWS if options.only in row.load.name}
    for load in loads.values():
        alternate(results, servers, lighter(load, QUICK_SHARE) if options.quick else load, cores, options.rounds)
    if not options.quick:
        go_on(results, servers, cores, options)
    print(f"\n{table(results, ROWS)}\n")
    print("\n".join([*load_lines(results, loads), *results.notes]))
    if options.json:
        options.json.write_bytes(msgspec.json.format(msgspec.json.encode(results)) + b"\n")
    broken = results.broken()
    print("\n".join(["FAILED", *broken]) if broken else "every delivery arrived, once, in order")
    return int(bool(broken))


def go_on(results: Results, servers: list[Server], cores: Cores, options: argparse.Namespace) -> None:
    """Measure what the table has no room for."""
    if not options.only:
        measure_wakes(results)
        measure_hosts(results, cores, options.rounds)
    shown = [server for server in servers if server.name not in LEFT_OUT_OF_CURVES]
    for curve in CURVES:
        if options.only in curve.file:
            drawing = measure_curve(results, curve, shown, cores, options.rounds)
            if options.svg:
                options.svg.mkdir(parents=True, exist_ok=True)
                (options.svg / f"{curve.file}.svg").write_text(drawing)


if __name__ == "__main__":
    sys.exit(main())

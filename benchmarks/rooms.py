"""Print what rooms cost: fan-out, many small rooms, echo, against plain aiohttp in the same run.

Run as `python -m benchmarks.rooms [--quick] [--loop uvloop]`. Exits with 1 if a delivery of ours is lost,
doubled or out of order. The figure to compare is the server's CPU time per 1,000 deliveries and its ratio to plain
aiohttp; wall-clock figures depend on the machine and on the load generator, which has the other core.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import subprocess
import sys
import time

from .load import Report, Scenario, run_scenario
from .processes import cpu_seconds

FULL = (
    Scenario("fan-out: 1 room of 1,000, window 8", "cast", 1, 1000, 1, 400, 8),
    Scenario("1 room of 1,000, 50 senders", "cast", 1, 1000, 50, 8, 1),
    Scenario("1,000 rooms of 2, both send", "cast", 1000, 2, 2, 20, 1),
    Scenario("echo: 50 connections, window 16", "echo", 50, 1, 1, 1000, 16),
    Scenario("echo async: 50 connections, window 16", "echo-async", 50, 1, 1, 1000, 16),
    Scenario("round trip: 1 connection, window 1", "echo", 1, 1, 1, 3000, 1),
)
QUICK = (
    Scenario("fan-out: 1 room of 1,000, window 8", "cast", 1, 1000, 1, 40, 8),
    Scenario("1,000 rooms of 2, both send", "cast", 1000, 2, 2, 2, 1),
    Scenario("echo: 50 connections, window 16", "echo", 50, 1, 1, 100, 16),
)


async def measure(kind: str, loop: str, scenario: Scenario) -> tuple[Report, float, float]:
    """Return the report, the server's CPU seconds and the wall seconds of one scenario."""
    server = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.servers", kind, loop], stdout=subprocess.PIPE, text=True
    )
    try:
        assert server.stdout is not None
        port = int(await asyncio.to_thread(server.stdout.readline))
        started = asyncio.Event()
        running = asyncio.create_task(run_scenario(port, scenario, started))
        await started.wait()
        cpu, wall = cpu_seconds(server.pid), time.perf_counter()
        report = await running
        return report, cpu_seconds(server.pid) - cpu, time.perf_counter() - wall
    finally:
        server.terminate()
        await asyncio.to_thread(server.wait, 30)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the load")
    parser.add_argument("--loop", choices=("asyncio", "uvloop"), default="asyncio", help="event loop of both servers")
    options = parser.parse_args()
    failed = False
    print(f"{'scenario':<40} {'server':<8} {'delivered':>10} {'lost':>5} {'order':>5} "
          f"{'CPU ms/1000':>11} {'per s':>9} {'p50 us':>7} {'p99 us':>8}")  # fmt: skip
    for scenario in QUICK if options.quick else FULL:
        costs = {}
        for kind in ("plain", "verani"):
            report, cpu, wall = asyncio.run(measure(kind, options.loop, scenario))
            costs[kind] = cost = 1e6 * cpu / max(1, report.delivered)
            lost = scenario.deliveries - report.delivered
            if kind == "verani":
                failed |= bool(lost or report.out_of_order)
            latencies = statistics.quantiles(report.latencies, n=100) if len(report.latencies) > 1 else [0.0] * 99
            print(f"{scenario.name:<40} {kind:<8} {report.delivered:>10,} {lost:>5} {report.out_of_order:>5} "
                  f"{cost:>11.2f} {report.delivered / wall:>9,.0f} {latencies[49] * 1e6:>7.0f} "
                  f"{latencies[98] * 1e6:>8.0f}", flush=True)  # fmt: skip
        print(f"{'':<40} ratio of CPU to plain aiohttp: {costs['verani'] / max(costs['plain'], 1e-9):.2f}")
    print("FAILED: deliveries lost, doubled or out of order" if failed else "every delivery arrived, once, in order")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())

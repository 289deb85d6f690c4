"""Print what rooms in processes of their own cost: round trips, CPU per frame and process, start and stop.

Run as `python -m benchmarks.hosts [--quick]`: embedded, then with 1, 2 and 4 room hosts, one gateway. Exits with 1 if
a delivery is lost, doubled or out of order, the round trip through a host takes more than `MAX_RATIO` times that of
the embedded shape in the same run, start or stop with many rooms take longer than `MAX_START` and `MAX_STOP`, or a
process is left after it. On a machine of two cores nothing here says how throughput grows with hosts.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import time

import aiohttp

from .cluster import Cluster
from .comparing import quantile
from .load import Report, Scenario, run_scenario
from .marked import marked
from .measuring import Measurement
from .processes import Cores, cpu_seconds

SHAPES = (0, 1, 2, 4)
MAX_RATIO = 4.0
AWAKE = 10_000
MAX_START = 3.0
MAX_STOP = 5.0

ROUND_TRIP = Scenario("round trip: 1 connection, window 1", "echo", 1, 1, 1, 3000, 1)
SCENARIOS = (
    ROUND_TRIP,
    Scenario("echo: 50 rooms of 1, window 16", "echo", 50, 1, 1, 1000, 16),
    Scenario("1,000 rooms of 2, both send", "cast", 1000, 2, 2, 20, 1),
)
QUICK = (
    Scenario(ROUND_TRIP.name, "echo", 1, 1, 1, 300, 1),
    Scenario("echo: 50 rooms of 1, window 16", "echo", 50, 1, 1, 100, 16),
)

# Long enough that nothing sleeps while it is measured.
OPTIONS = ("--max-connections", "0", "--hibernate-after", "never")


async def pids(cluster: Cluster) -> tuple[list[int], list[int]]:
    """Return the process ids of gateways and hosts."""
    status = await cluster.status()
    return [gateway.pid for gateway in status.gateways], [host.pid for host in status.members]


async def measure(hosts: int, scenario: Scenario, cores: Cores | None = None) -> tuple[Report, float, float]:
    """Return the report, and the CPU seconds of the gateway and of all hosts, in one scenario.

    With `cores`, all of them share the one that servers have.
    """
    async with Cluster.serve("benchmarks.servers:bench", *OPTIONS, hosts=hosts) as cluster:
        gateways, members = await pids(cluster)
        if cores is not None:
            cores.pin_servers([*gateways, *members])
        started = asyncio.Event()
        running = asyncio.create_task(run_scenario(int(cluster.url.rpartition(":")[2]), scenario, started))
        await started.wait()
        before = [sum(map(cpu_seconds, group)) for group in (gateways, members)]
        report = await running
        after = [sum(map(cpu_seconds, group)) for group in (gateways, members)]
        return report, after[0] - before[0], after[1] - before[1]


async def measure_pinned(hosts: int, scenario: Scenario, cores: Cores) -> Measurement:
    """Return the CPU of gateway and hosts together, on one core, for a frame."""
    report, gateway, host = await measure(hosts, scenario, cores)
    frames = max(1, report.delivered)
    return Measurement(
        scenario=scenario.name,
        server=f"{hosts} host{'s' * (hosts > 1)}" if hosts else "one process",
        cpu=1e6 * (gateway + host) / frames,
        per_second=0.0,
        p50=1e6 * quantile(report.latencies, 0.50),
        p99=1e6 * quantile(report.latencies, 0.99),
        delivered=report.delivered,
        lost=abs(scenario.deliveries - report.delivered),
        out_of_order=report.out_of_order,
    )


async def wake(cluster: Cluster, rooms: int) -> list[int]:
    """Wake rooms and return how many are awake on each host."""
    async with aiohttp.ClientSession() as session:
        for first in range(0, rooms, 100):
            calls = [
                session.post(f"{cluster.internal}/rpc/bench/r{number}/get_session_count", json={})
                for number in range(first, min(first + 100, rooms))
            ]
            for response in await asyncio.gather(*calls):
                response.raise_for_status()
                response.release()
    return [host.rooms.get("awake", 0) for host in (await cluster.status()).members]


async def start_and_stop(rooms: int) -> bool:
    """Wake rooms over two hosts; print how long start and stop take with them, and say whether all is as promised."""
    with marked() as processes:
        begun = time.perf_counter()
        async with Cluster.serve("benchmarks.servers:bench", *OPTIONS, hosts=2) as cluster:
            started = time.perf_counter() - begun
            awake = await wake(cluster, rooms)
            number = len(processes.pids())
            begun = time.perf_counter()
        stopped = time.perf_counter() - begun
        left = processes.pids()
    print(f"{sum(awake):,} rooms awake on hosts with {awake}; start to ready {started:.2f} s (at most {MAX_START:g}), "
          f"stop {stopped:.2f} s (at most {MAX_STOP:g}); {len(left)} of {number} processes left")  # fmt: skip
    return sum(awake) == rooms and started <= MAX_START and stopped <= MAX_STOP and not left


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of the load")
    quick = parser.parse_args().quick
    failed = False
    print(f"{'scenario':<36} {'hosts':>5} {'delivered':>10} {'lost':>5} {'p50 us':>7} {'p99 us':>8} "
          f"{'gateway':>9} {'hosts':>9}  CPU us/frame")  # fmt: skip
    for scenario in QUICK if quick else SCENARIOS:
        embedded = 0.0
        for hosts in SHAPES:
            report, gateway, host = asyncio.run(measure(hosts, scenario))
            lost = scenario.deliveries - report.delivered
            cuts = statistics.quantiles(report.latencies, n=100) if len(report.latencies) > 1 else [0.0] * 99
            p50, p99 = cuts[49] * 1e6, cuts[98] * 1e6
            frames = max(1, len(report.latencies))
            note = ""
            if scenario.name == ROUND_TRIP.name:
                embedded = embedded or p50
                note = f"{p50 / embedded:.2f} of embedded"
                failed |= p50 > MAX_RATIO * embedded
            failed |= bool(lost or report.out_of_order)
            print(f"{scenario.name:<36} {hosts:>5} {report.delivered:>10,} {lost:>5} {p50:>7.0f} {p99:>8.0f} "
                  f"{gateway * 1e6 / frames:>9.1f} {host * 1e6 / frames:>9.1f}  {note}", flush=True)  # fmt: skip
    failed |= not asyncio.run(start_and_stop(AWAKE // 10 if quick else AWAKE))
    print("FAILED" if failed else "every delivery arrived, once, in order")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())

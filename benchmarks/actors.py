"""What creating, telling and killing an actor costs with few and with many live named actors, and what is left after.

    python -m benchmarks.actors [--quick]

Times are CPU time of this process, the best of several repetitions, in microseconds an operation. `tell` includes
the receiver's (empty) receiveMessage, `kill` the tell of its ActorExitRequest. Killed actors are replaced.

Exit code 1 if an operation on our base costs more than `MAX_RATIO` times as much with the most actors as with the
fewest, or if creating and killing left more than `MAX_GROWTH` behind.
"""

import argparse
import asyncio
import gc
import logging
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from thespian.actors import Actor, ActorAddress, ActorExitRequest, ActorSystem

from verani_actors.system.asyncio_base import AsyncioSystemBase

MAX_RATIO = 3.0
MAX_GROWTH = 1024 * 1024
# Operations timed in one repetition, and repetitions, of which the best counts.
BATCH = 1000
REPETITIONS = 7
# simpleSystemBase needs milliseconds for a kill among 20,000.
SIMPLE_BATCH = 40
SIMPLE_REPETITIONS = 2
OPERATIONS = ("create", "tell", "kill")


class Idle(Actor):
    """An actor that does nothing, so that only the system base is measured."""

    def receiveMessage(self, msg: Any, sender: ActorAddress) -> None:
        pass


def timed(run: Callable[[], object], count: int) -> float:
    """Return the CPU microseconds an operation of `run`, which does `count` of them, took."""
    began = time.process_time()
    run()
    return (time.process_time() - began) / count * 1e6


def measure(
    system: ActorSystem, run_all: Callable[[], object], live: int, batch: int, repetitions: int
) -> dict[str, float]:
    """Time each operation in a system of `live` named actors; `run_all` handles what was sent."""
    names = [f"room {number}" for number in range(live)]
    addresses = [system.createActor(Idle, globalName=name) for name in names]
    run_all()
    best = dict.fromkeys(OPERATIONS, float("inf"))
    # Spread over all actors: the oldest name is the cheapest to find for a base that scans.
    chosen = range(0, live, max(1, live // batch))[:batch]

    def send_all(message: object) -> None:
        for index in chosen:
            system.tell(addresses[index], message)
        run_all()

    def create_all() -> None:
        for index in chosen:
            addresses[index] = system.createActor(Idle, globalName=names[index])

    for _ in range(repetitions):
        best["tell"] = min(best["tell"], timed(lambda: send_all("hello"), len(chosen)))
        best["kill"] = min(best["kill"], timed(lambda: send_all(ActorExitRequest()), len(chosen)))
        best["create"] = min(best["create"], timed(create_all, len(chosen)))
    return best


def measure_ours(live: int) -> dict[str, float]:
    with asyncio.Runner() as runner:
        base = AsyncioSystemBase(runner.get_loop())
        system = ActorSystem(systemBase=base, transientUnique=True)
        try:
            return measure(system, lambda: runner.run(base.idle()), live, BATCH, REPETITIONS)
        finally:
            system.shutdown()


def measure_simple(live: int) -> dict[str, float]:
    system = ActorSystem("simpleSystemBase", logDefs=False, transientUnique=True)
    try:
        # Its tell runs everything itself.
        return measure(system, lambda: None, live, SIMPLE_BATCH, SIMPLE_REPETITIONS)
    finally:
        system.shutdown()


async def churn(base: AsyncioSystemBase, count: int) -> None:
    """Create, name, tell and kill `count` actors."""
    for number in range(count):
        address = base.newPrimaryActor(Idle, None, f"room {number}")
        base.tell(address, "hello")
        base.tell(address, ActorExitRequest())
        if number % 100 == 0:
            await base.idle()
    await base.idle()


def resident_bytes() -> int:
    """Return the resident memory of this process (Linux; 0 elsewhere)."""
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if statm.exists() else 0


async def measure_growth(cycles: int) -> tuple[int, int]:
    """Return resident bytes and allocated blocks that `cycles` creations and kills added, after as many to warm up."""
    base = AsyncioSystemBase()
    await churn(base, cycles)
    gc.collect()
    resident, blocks = resident_bytes(), sys.getallocatedblocks()
    await churn(base, cycles)
    gc.collect()
    growth = resident_bytes() - resident, sys.getallocatedblocks() - blocks
    base.shutdown()
    return growth


def print_times(title: str, times: dict[str, float]) -> None:
    print(f"{title:<34}" + "".join(f"{times[name]:>12.2f}" for name in OPERATIONS))


def main() -> int:
    parser = argparse.ArgumentParser(description="The cost of our actor system base, beside Thespian's own.")
    parser.add_argument("--quick", action="store_true", help="fewer actors and cycles; for a smoke test")
    quick: bool = parser.parse_args().quick
    few, many, simple_many, cycles = (1000, 20_000, 2000, 10_000) if quick else (1000, 100_000, 20_000, 100_000)
    # simpleSystemBase logs each creation.
    logging.disable(logging.INFO)

    print(f"{'CPU us an operation':<34}" + "".join(f"{name:>12}" for name in OPERATIONS))
    ours_few, ours_many = measure_ours(few), measure_ours(many)
    print_times(f"AsyncioSystemBase, {few:,} actors", ours_few)
    print_times(f"AsyncioSystemBase, {many:,} actors", ours_many)
    ratios = {name: ours_many[name] / ours_few[name] for name in OPERATIONS}
    print_times("  ratio", ratios)
    simple_few, simple_all = measure_simple(few), measure_simple(simple_many)
    print_times(f"simpleSystemBase, {few:,} actors", simple_few)
    print_times(f"simpleSystemBase, {simple_many:,} actors", simple_all)
    print_times("  ratio", {name: simple_all[name] / simple_few[name] for name in OPERATIONS})

    resident, blocks = asyncio.run(measure_growth(cycles))
    print(f"\nafter {cycles:,} more creations and kills: {resident / 1024:+,.0f} KiB resident, {blocks:+,} blocks")

    failures = [f"{name} costs {ratio:.1f} times as much" for name, ratio in ratios.items() if ratio > MAX_RATIO]
    if resident > MAX_GROWTH:
        failures.append(f"memory grew by {resident / 1024:,.0f} KiB")
    for failure in failures:
        print(f"FAILED: {failure}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())

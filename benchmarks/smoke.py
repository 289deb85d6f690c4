"""Fail if a frame has become dearer: in calls of our own code, or beside plain aiohttp in the same run.

    python -m benchmarks.smoke [--record]

Calls are counted (`benchmarks.calls`), so they are the same on every machine. Processor time is not, but its ratio to
what aiohttp by hand takes next to it nearly is: exits with 1 if the median of three is worse than `WORSE` times what
`smoke.json` has, twice in a row. `--record` writes what this machine gives there.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path
from typing import Final

import msgspec

from . import calls
from .comparing import median_ratio
from .load import Scenario
from .measuring import Measurement, measure
from .peers.catalogue import OURS, PLAIN, Server, event_loop
from .processes import Cores
from .scenarios import SMOKE
from .servers import new_loop

WORSE: Final = 1.3
ROUNDS: Final = 3
RECORD: Final = Path(__file__).with_name("smoke.json")


class DeliveryBroken(Exception):
    """A delivery was lost, came twice or out of order: nobody needs to know what it cost."""


def one(server: Server, scenario: Scenario, cores: Cores) -> Measurement:
    with asyncio.Runner(loop_factory=lambda: new_loop(event_loop())) as runner:
        measurement = runner.run(measure(server, scenario, cores))
    if not measurement.as_promised:
        raise DeliveryBroken(measurement)
    return measurement


def ratio(scenario: Scenario, cores: Cores) -> float:
    """Return what a delivery costs the server, ours / aiohttp by hand."""
    pairs = [(one(OURS, scenario, cores).cpu, one(PLAIN, scenario, cores).cpu) for _ in range(ROUNDS)]
    ours, theirs = zip(*pairs, strict=True)
    return median_ratio(ours, theirs)


def too_dear(scenario: Scenario, cores: Cores, recorded: float) -> bool:
    """Measure, and once more if it was too dear: a machine may have had something else to do."""
    for _ in range(2):
        found = ratio(scenario, cores)
        print(f"{scenario.name}: {found:.2f} of plain aiohttp (at most {WORSE * recorded:.2f})", flush=True)
        if found <= WORSE * recorded:
            return False
    return True


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", action="store_true", help="write what is measured to smoke.json")
    options = parser.parse_args()
    failed = calls.check()
    cores = Cores.choose()
    cores.pin_load()
    if options.record:
        found = {scenario.name: round(ratio(scenario, cores), 2) for scenario in SMOKE}
        RECORD.write_bytes(msgspec.json.format(msgspec.json.encode(found)) + b"\n")
        print(found)
        return int(failed)
    recorded = msgspec.json.decode(RECORD.read_bytes(), type=dict[str, float])
    dear = [scenario.name for scenario in SMOKE if too_dear(scenario, cores, recorded[scenario.name])]
    print(f"FAILED: {', '.join(dear)}" if dear else "beside plain aiohttp, a delivery costs what it did")
    return int(failed or bool(dear))


if __name__ == "__main__":
    sys.exit(main())

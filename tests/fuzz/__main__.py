"""Fuzz every decoder that strangers' bytes reach: `python -m tests.fuzz [--examples N] [--seconds S]`.

Each target gets the examples in rounds, of which the time limit may cut the last ones. Then some thousand of the
payloads come again and again, and must leave nothing behind: no memory, no objects. Exits with 1 if a promise is
broken; the payload is printed.

The decoders are C, which a coverage-guided fuzzer of Python (atheris) does not see; so Hypothesis it is.
"""

from __future__ import annotations

import argparse
import gc
import os
import secrets
import sys
import time
import traceback
from pathlib import Path

from hypothesis import HealthCheck, given, seed, settings

from .targets import TARGETS, Target, check

EXAMPLES = 50_000
SECONDS = 300.0
ROUND = 2_500
# Payloads of each round that come again in the end, how often, and what may be left of all of it.
KEPT = 250
REPETITIONS = 20
MAX_BLOCKS = 500
MAX_BYTES = 1 << 20


def run_round(target: Target, number: int, kept: list[bytes]) -> int:
    """Run one round; return how many payloads were accepted."""
    accepted = 0
    newest: list[bytes] = []

    # Without a database every run tries something else; the seed is printed where it matters.
    @seed(number)
    @settings(max_examples=ROUND, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(target.payloads)
    def run(payload: bytes) -> None:
        nonlocal accepted
        if len(newest) < KEPT:
            newest.append(payload)
        accepted += check(target, payload)

    run()
    kept += newest
    return accepted


def memory() -> tuple[int, int]:
    """Return live blocks, and resident bytes where the system tells."""
    gc.collect()
    statm = Path("/proc/self/statm")
    resident = int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if statm.exists() else 0
    return sys.getallocatedblocks(), resident


def leak(target: Target, kept: list[bytes]) -> tuple[int, int]:
    """Return blocks and bytes that repeating payloads adds, once everything has been there twice."""

    def repeat(times: int) -> None:
        for _ in range(times):
            for payload in kept:
                target.accepts(payload)

    repeat(2)
    blocks, resident = memory()
    repeat(REPETITIONS)
    blocks_after, resident_after = memory()
    return blocks_after - blocks, resident_after - resident


def fuzz(target: Target, examples: int, until: float) -> bool:
    """Fuzz one target and print what came of it; False if a promise was broken."""
    began = time.monotonic()
    first = secrets.randbits(32)
    kept: list[bytes] = []
    done = accepted = 0
    while done < examples and time.monotonic() < until:
        try:
            accepted += run_round(target, first + done, kept)
        except Exception:  # whatever a decoder raises is the finding  # noqa: BLE001
            traceback.print_exc()
            say(f"{target.name}: FAILED in the round of seed {first + done}")
            return False
        done += ROUND
    blocks, grown = leak(target, kept)
    fine = blocks <= MAX_BLOCKS and grown <= MAX_BYTES
    say(
        f"{target.name:<12} {done:>8,} payloads, {accepted:>7,} accepted, {time.monotonic() - began:5.0f} s; "
        f"{len(kept) * REPETITIONS:,} more left {blocks:+,} blocks, {grown / 1024:+,.0f} KiB"
        + ("" if done >= examples else "; stopped by the time limit")
        + ("" if fine else ": FAILED")
    )
    return fine


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> int:
    parser = argparse.ArgumentParser(description="Fuzz every decoder that strangers' bytes reach.")
    parser.add_argument("--examples", type=int, default=EXAMPLES, help="payloads for each target")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="time limit for all of it")
    options = parser.parse_args()
    began = time.monotonic()
    results = []
    for number, target in enumerate(TARGETS, 1):
        results.append(fuzz(target, options.examples, began + options.seconds * number / len(TARGETS)))
    return int(not all(results))


if __name__ == "__main__":
    sys.exit(main())

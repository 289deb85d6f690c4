"""Print how many Python calls of our own code an echoed frame takes, with one frame under way and with sixteen.

Run as `python -m benchmarks.calls [--list]`. One connection, one room in the same process; a profile function counts
the calls of functions in `verani`, `verani_actors` and `verani_gateway`, from the parsed message to the write. Unlike
times, counts are the same on every machine. `--list` names the functions. Exits with 1 above `LIMITS`.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections import Counter
from pathlib import Path
from types import CodeType, FrameType

from aiohttp import web

import verani
import verani_actors
import verani_gateway

from .load import Report, Scenario, open_clients
from .servers import verani_app

# Calls for each frame, by window.
LIMITS = {1: 42, 16: 29}

WARM_UP, COUNTED = 320, 1600

_OURS = tuple(str(Path(package.__path__[0])) for package in (verani, verani_actors, verani_gateway))


async def count_calls(window: int) -> Counter[CodeType]:
    """Count the calls of `COUNTED` echoed frames, after some that are not counted."""
    runner = web.AppRunner(verani_app(), access_log=None, shutdown_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    calls: Counter[CodeType] = Counter()
    ours: dict[CodeType, bool] = {}

    def note(frame: FrameType, event: str, argument: object) -> None:
        code = frame.f_code
        if event == "call" and (is_ours := ours.get(code)) is not False:
            if is_ours is None:
                is_ours = ours[code] = code.co_filename.startswith(_OURS)
            if is_ours:
                calls[code] += 1

    port = runner.addresses[0][1]
    for count in (WARM_UP, COUNTED):
        scenario = Scenario("echo", "echo", 1, 1, 1, count, window)
        report, done = Report(expected=count), asyncio.Event()
        (client,) = await open_clients(port, scenario, report, done)
        sys.setprofile(note if count == COUNTED else None)
        client.start(count)
        await done.wait()
        sys.setprofile(None)
        client.transport.close()
        assert report.delivered == count
        assert not report.out_of_order
    await runner.cleanup()
    return calls


def check(*, show: bool = False) -> bool:
    """Print the counts, and the functions on demand; say whether there are too many."""
    failed = False
    for window, limit in LIMITS.items():
        calls = asyncio.run(count_calls(window))
        each = calls.total() / COUNTED
        failed |= each > limit
        print(f"window {window:>2}: {each:6.1f} calls of our own code for each echoed frame (at most {limit})")
        for code, count in calls.most_common() if show else ():
            if count * 20 > COUNTED:
                print(f"{count / COUNTED:9.2f} {Path(code.co_filename).name}:{code.co_firstlineno} {code.co_qualname}")
    return failed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--list", action="store_true", help="name the functions, those called most often first")
    return int(check(show=parser.parse_args().list))


if __name__ == "__main__":
    sys.exit(main())

"""The thread that looks whether the loop is blocked."""

from __future__ import annotations

import signal
import threading
from pathlib import Path

from tests.raw import until
from verani_actors.upkeep.watchdog import Watchdog


def _blocked_by(thread: threading.Thread) -> int:
    status = Path(f"/proc/self/task/{thread.native_id}/status").read_text()
    return int(status.partition("SigBlk:")[2].split()[0], 16)


async def test_it_takes_no_signal_from_the_thread_that_alone_can_handle_it() -> None:
    watchdog = Watchdog(60.0)
    watchdog.start()
    try:
        (thread,) = (each for each in threading.enumerate() if each.name == "verani-watchdog")
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            await until(lambda number=number: _blocked_by(thread) & 1 << number - 1)  # type: ignore[misc]
    finally:
        watchdog.stop()

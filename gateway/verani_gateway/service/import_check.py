"""Have the first gateway process import what a service is to serve, before anything else of the service starts.

It goes on as a gateway if all is well.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Sequence
from typing import Final

import msgspec

from verani.errors import SettingsError

from .banner import Served
from .keeper import Keeper, ending

__all__ = ["check_imports", "command"]

# Seconds that importing the targets may take.
_IMPORT_PATIENCE: Final = 30.0

_decode_served = msgspec.json.Decoder(list[Served]).decode


async def check_imports(
    targets: Sequence[str], process: Keeper, running: asyncio.Task[int]
) -> tuple[int, list[Served]]:
    """Return an exit code, 0 if all is well, and what is served; unless all is well, the process has ended then."""
    answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
    heard = process.heard

    def hear(line: bytes) -> None:
        process.heard = heard
        process.said = b""  # as long as it starts, nobody waits for its next word
        answer.set_result(line)

    process.heard, process.is_trial = hear, True
    try:
        await asyncio.wait((running, answer), timeout=_IMPORT_PATIENCE, return_when=asyncio.FIRST_COMPLETED)
        if answer.done():
            return 0, _decode_served(answer.result())
        if not running.done():
            raise SettingsError(f"importing {', '.join(targets)} did not end within {_IMPORT_PATIENCE:g} s")
        if running.result() in (1, 2):  # it has said why
            return running.result(), []
        raise SettingsError(f"importing {', '.join(targets)} ended with {ending(running.result())}")
    finally:
        process.is_trial = False
        if not answer.done():
            process.send(signal.SIGKILL)
            await running


def command(*words: str) -> list[str]:
    """Give the command line of this program with these words."""
    return [sys.executable, "-m", "verani_gateway", *words]

"""Have what a service is to serve imported once, in a process of its own, before anything of the service starts."""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import PIPE
from collections.abc import Sequence
from typing import Final

import msgspec

from verani.errors import SettingsError
from verani.settings import Settings

from .banner import Served
from .keeper import ending

__all__ = ["check_imports", "command"]

# Seconds that importing the targets may take.
_IMPORT_PATIENCE: Final = 30.0

_decode_served = msgspec.json.Decoder(list[Served]).decode


async def check_imports(targets: Sequence[str], settings: Settings) -> tuple[int, list[Served]]:
    """Have the targets imported elsewhere; returns an exit code, 0 if all is well, and what they serve."""
    process = await asyncio.create_subprocess_exec(
        *command("definitions", "--log", settings.log_level, settings.log_format, *targets),
        stdout=PIPE,
        stdin=asyncio.subprocess.DEVNULL,
        process_group=0,
    )
    try:
        async with asyncio.timeout(_IMPORT_PATIENCE):
            output, _ = await process.communicate()
    except TimeoutError:
        raise SettingsError(f"importing {', '.join(targets)} did not end within {_IMPORT_PATIENCE:g} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode in (1, 2):  # it has said why
        return process.returncode, []
    if process.returncode != 0:
        raise SettingsError(f"importing {', '.join(targets)} ended with {ending(process.returncode or 0)}")
    return 0, _decode_served(output)


def command(*words: str) -> list[str]:
    """Give the command line of this program with these words."""
    return [sys.executable, "-m", "verani_gateway", *words]

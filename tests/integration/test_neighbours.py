"""Several services run on one machine and share nothing: not a port, not a folder, not a name."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.neighbours import pair

TIMES = int(os.environ.get("VERANI_SOAK_PAIRS", "1"))


@pytest.fixture
def folder() -> Iterator[Path]:
    """Make a folder for runtime folders, whose path is short enough for sockets in them."""
    made = Path(tempfile.mkdtemp(prefix="vn"))
    yield made
    shutil.rmtree(made)


async def test_two_services_start_at_the_same_moment_and_leave_nothing(folder: Path) -> None:
    for _ in range(TIMES):
        async with asyncio.timeout(120):
            await pair(folder)

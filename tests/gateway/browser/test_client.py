"""Run the tests of the client for browsers that are written in its own language."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Final

from tests.node_packages import node

HERE: Final = Path(__file__).parent
BROWSER: Final = HERE.parents[2] / "gateway/verani_gateway/browser"


async def test_time_sockets_and_listeners() -> None:
    process = await asyncio.create_subprocess_exec(
        *(node(), "--expose-gc", "--test", "--test-reporter=spec", str(HERE / "client.test.mjs")),
        env={**os.environ, "VERANI_JS": (BROWSER / "verani.js").as_uri()},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    assert b"tests 0" not in output

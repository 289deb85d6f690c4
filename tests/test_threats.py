"""Every row of the list of bad input, attacks and faults has a test that is marked with its number.

Rows 1 to 22 are about bytes on the wire, 23 to 36 about frames, 37 to 43 about names, rooms, channels and attachments,
44 to 52 about tokens, calls and operators, 53 to 75 about processes, hosts and networks that fail.
`pytest tests -m threat` runs them all.
"""

from __future__ import annotations

import asyncio
import json
import sys
from asyncio.subprocess import DEVNULL, PIPE
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent

ROWS = range(1, 76)

# Rows that no test here can show, and why.
NOT_HERE: dict[int, str] = {}

# A run of its own, where this one was told to collect less.
_COLLECT = """
import json, sys, pytest

class Rows:
    def pytest_collection_finish(self, session):
        rows = [[mark.args[0], item.nodeid] for item in session.items for mark in item.iter_markers("threat")]
        print("ROWS" + json.dumps(rows))

sys.exit(pytest.main(["--collect-only", "-q", "-p", "no:cacheprovider", sys.argv[1]], plugins=[Rows()]))
"""


async def collect(session: pytest.Session) -> list[tuple[int, str]]:
    """Return the row and the name of every test of this folder that is marked with one."""
    if session.config.args == ["tests"] and not (session.config.option.keyword or session.config.option.markexpr):
        return [(mark.args[0], item.nodeid) for item in session.items for mark in item.iter_markers("threat")]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", _COLLECT, str(FOLDER)), cwd=FOLDER.parent, stdout=PIPE, stderr=DEVNULL
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    line = next(line for line in output.decode().splitlines() if line.startswith("ROWS"))
    return [(row, name) for row, name in json.loads(line.removeprefix("ROWS"))]


async def test_every_row_of_the_list_has_a_test(request: pytest.FixtureRequest) -> None:
    marked = await collect(request.session)
    covered = {row for row, _ in marked}
    assert covered <= set(ROWS), "no such row"
    assert set(ROWS) - covered == set(NOT_HERE)
    assert len({name for _, name in marked}) >= 100

"""What `docs/testing.md` shows works as it stands there: its files are taken out of it and run with pytest."""

from __future__ import annotations

import asyncio
import re
import sys
from asyncio.subprocess import PIPE, STDOUT
from pathlib import Path

import pytest

GUIDE = (Path(__file__).parents[2] / "docs" / "testing.md").read_text()
PATIENCE = 60


def blocks(language: str) -> list[str]:
    """Return the blocks of a language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", GUIDE, flags=re.DOTALL | re.MULTILINE)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Save the blocks under the names that their first lines give them."""
    (options,) = blocks("toml")
    (tmp_path / "pyproject.toml").write_text(options + 'pythonpath = ["."]\nfilterwarnings = ["error"]\n')
    for block in blocks("python"):
        name = block.partition("\n")[0].removeprefix("# ")
        assert name.endswith(".py")
        (tmp_path / name).write_text(block)
    return tmp_path


async def pytest_in(project: Path, *options: str) -> tuple[int | None, str]:
    """Run pytest as a user would; return its exit code and what it printed."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "pytest", "-q", *options, cwd=project, stdout=PIPE, stderr=STDOUT
    )
    async with asyncio.timeout(PATIENCE):
        output, _ = await process.communicate()
    return process.returncode, output.decode()


async def test_the_tests_of_the_guide_pass(project: Path) -> None:
    code, output = await pytest_in(project, "--ignore=test_counter.py")
    assert code == 0, output
    assert "6 passed" in output


async def test_the_room_that_counts_fails_with_the_diff_that_the_guide_shows(project: Path) -> None:
    code, output = await pytest_in(project, "test_counter.py")
    assert code == 1, output
    (diff,) = blocks("text")
    printed = [line.removeprefix("E").strip() for line in output.splitlines()]
    assert [line for line in diff.splitlines() if not any(line.strip() in each for each in printed)] == []

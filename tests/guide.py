"""Take the code out of a document and run it as a reader would."""

from __future__ import annotations

import asyncio
import re
import sys
from asyncio.subprocess import PIPE, STDOUT
from pathlib import Path

__all__ = ["Guide", "run_python"]

ROOT = Path(__file__).parents[1]
PATIENCE = 60

OPTIONS = """\
[tool.pytest.ini_options]
asyncio_mode = "auto"
asyncio_default_fixture_loop_scope = "function"
pythonpath = ["."]
filterwarnings = ["error"]
"""


class Guide:
    """One document."""

    def __init__(self, path: str) -> None:
        self.text = (ROOT / path).read_text()

    def blocks(self, language: str) -> list[str]:
        """Return the blocks of a language, in order."""
        return re.findall(rf"^```{language}\n(.*?)^```$", self.text, flags=re.DOTALL | re.MULTILINE)

    def save(self, directory: Path, options: str = OPTIONS) -> None:
        """Save the Python blocks under the names that their first lines give them, and options for pytest."""
        (directory / "pyproject.toml").write_text(options)
        for block in self.blocks("python"):
            name = block.partition("\n")[0].removeprefix("# ")
            assert name.endswith(".py")
            (directory / name).write_text(block)


async def run_python(directory: Path, *arguments: str, patience: float = PATIENCE) -> tuple[int | None, str]:
    """Run Python in a directory; return its exit code and all that it printed."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, *arguments, cwd=directory, stdout=PIPE, stderr=STDOUT
    )
    async with asyncio.timeout(patience):
        output, _ = await process.communicate()
    return process.returncode, output.decode()

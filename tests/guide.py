"""Read documents: their prose, links and code; save their code as a reader would, and run it."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from asyncio.subprocess import PIPE, STDOUT
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["DOCUMENTS", "ROOT", "Block", "Guide", "own_files", "run_python"]

ROOT = Path(__file__).parents[1]
PATIENCE = 60

# What is installed, built, or made by a test; hidden folders are not ours either.
_NOT_OURS = {"node_modules", "site", "build", "dist", "artifacts", "__pycache__"}


def own_files(folder: Path = ROOT) -> Iterator[Path]:
    """List the files of the project below a folder."""
    for path, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name not in _NOT_OURS and not name.startswith(".")]
        yield from (Path(path) / name for name in names)


# What people read.
DOCUMENTS = sorted(path.relative_to(ROOT).as_posix() for path in own_files() if path.suffix == ".md")

OPTIONS = """\
[tool.pytest.ini_options]
asyncio_mode = "auto"
asyncio_default_fixture_loop_scope = "function"
pythonpath = ["."]
filterwarnings = ["error"]
"""

# A reader's pytest has pytest-asyncio; ours would import five times as much for plugins that no page speaks of.
_PLUGINS = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_PLUGINS": "pytest_asyncio.plugin"}

_BLOCK = re.compile(
    r"(?:^<!-- not run: (?P<reason>[^\n]+) -->\n+)?"
    r"^```(?P<language>[^\n]*)\n(?P<text>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)
# The first line of a file says its name, as a comment of its language.
_NAME = re.compile(r"^(?:#|//|<!--) ([\w./-]+\.\w+)(?: -->)?$")


@dataclass(frozen=True, slots=True)
class Block:
    """One block of code in a document."""

    page: str
    line: int
    language: str
    text: str
    reason: str  # why it is not run, as a comment before it says; mostly empty

    @property
    def name(self) -> str:
        """The file that it is; empty for what is none."""
        named = _NAME.match(self.text.partition("\n")[0])
        return named[1] if named else ""

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


class Guide:
    """One document."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.text = (ROOT / path).read_text()
        # The blocks of code, in order.
        self.all_blocks = [
            Block(
                page=path,
                line=self.text.count("\n", 0, found.start("language")) + 1,
                language=found["language"],
                text=found["text"],
                reason=found["reason"] or "",
            )
            for found in _BLOCK.finditer(self.text)
        ]

    @property
    def prose(self) -> str:
        """The document without its blocks of code."""
        return _BLOCK.sub("", self.text)

    @property
    def spans(self) -> list[str]:
        """What the prose shows as code."""
        return [span.strip() for span in re.findall(r"`([^`\n]+)`", self.prose)]

    def blocks(self, language: str) -> list[str]:
        """Return the texts of the blocks of a language that can be run, in order."""
        return [block.text for block in self.all_blocks if block.language == language and not block.reason]

    def files(self) -> dict[str, Block]:
        """Return the blocks that are files, by their names."""
        return {block.name: block for block in self.all_blocks if block.name and not block.reason}

    def save(self, directory: Path, options: str = OPTIONS) -> None:
        """Save the files of the document, and options for pytest."""
        (directory / "pyproject.toml").write_text(options)
        for name, block in self.files().items():
            (directory / name).write_text(block.text)


async def run_python(directory: Path, *arguments: str, patience: float = PATIENCE) -> tuple[int | None, str]:
    """Run Python in a directory; return its exit code and all that it printed."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, *arguments, cwd=directory, env=os.environ | _PLUGINS, stdout=PIPE, stderr=STDOUT
    )
    async with asyncio.timeout(patience):
        output, _ = await process.communicate()
    return process.returncode, output.decode()

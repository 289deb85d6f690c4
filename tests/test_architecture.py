"""What docs/internals.md says of floors and modules is so, and a process imports no more than it needs."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = {
    path.name: path for path in (ROOT / "verani", ROOT / "actors/verani_actors", ROOT / "gateway/verani_gateway")
}


def rows() -> Iterator[tuple[Path, str, str]]:
    """Yield the package, the floor and the text of each row of the map."""
    text = (ROOT / "docs/internals.md").read_text(encoding="utf-8").partition("| floor | holds |\n|---|---|\n")[2]
    package = ROOT
    for row in text.partition("\n\n")[0].splitlines():
        floor, holds = row.strip("| ").split(" | ") if not row.endswith("| |") else (row.strip("| "), "")
        if floor.startswith("**"):
            package = PACKAGES[floor.strip("*`/")]
        else:
            yield package, floor, holds


def test_every_floor_is_in_the_map() -> None:
    named = {package / folder for package, floor, _ in rows() for folder in re.findall(r"`(\w+)/`", floor)}
    folders = {path.parent for package in PACKAGES.values() for path in package.glob("*/__init__.py")}
    assert named == folders


def test_what_the_map_names_is_where_it_says() -> None:
    missing = []
    for package, floor, holds in rows():
        folders = [package / folder for folder in re.findall(r"`(\w+)/`", floor)] or [package]
        for name in re.findall(r"`(\w+)`", holds):
            if not any((folder / f"{name}.py").exists() for folder in folders):
                missing.append(f"{floor}: {name}")
    assert missing == []


def test_what_defines_rooms_and_what_supervises_needs_no_aiohttp() -> None:
    program = "import sys, verani, verani_gateway.cli.main, verani_gateway.service.supervisor"
    subprocess.run([sys.executable, "-c", f"{program}; assert 'aiohttp' not in sys.modules"], check=True)

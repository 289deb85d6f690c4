"""Find Node and what `tests/node/package.json` asks for: checkers of the browser's side, which no Python package is."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import NoReturn

import pytest

__all__ = ["PACKAGES", "node", "node_package"]

PACKAGES = Path(__file__).parent / "node" / "node_modules"


def node() -> str:
    """Give the path of Node, or skip the test; with VERANI_TEST_TOOLS=required, fail it."""
    found = shutil.which("node")
    if found is None:
        _missing("node is not installed")
    return found


def node_package(path: str) -> Path:
    """Give a file of an installed package, such as `axe-core/axe.min.js` or `.bin/tsc`; without it, as `node` does."""
    node()
    found = PACKAGES / path
    if not found.exists():
        _missing(f"{path} is not there: npm ci --prefix tests/node")
    return found


def _missing(reason: str) -> NoReturn:
    if os.environ.get("VERANI_TEST_TOOLS") == "required":
        pytest.fail(reason)
    pytest.skip(reason)

"""Find the tools that know the formats of deploy/, and say so where one is missing."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

from tests.deploy.files import Tool
from tests.integration.conftest import serve

__all__ = ["serve", "tool"]

# Python's tools are beside the interpreter; nginx is where only root looks.
_SEARCHED = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath), "/usr/sbin"])


@pytest.fixture
def tool() -> Tool:
    """Give the path of a program, or skip the test; with VERANI_TEST_TOOLS=required, fail it."""

    def find(name: str, *, package: str) -> str:
        if found := shutil.which(name, path=_SEARCHED):
            return found
        reason = f"{name} is not installed ({package})"
        if os.environ.get("VERANI_TEST_TOOLS") == "required":
            pytest.fail(reason)
        pytest.skip(reason)

    return find

"""What people see of the Makefile before anything else."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from verani_gateway.cli.new import make_project

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("target", ["serve", "test"])
@pytest.mark.parametrize("is_new_project", [False, True])
def test_setting_up_says_what_takes_so_long_before_it_begins(tmp_path: Path, target: str, is_new_project: bool) -> None:
    folder = make_project("hello", tmp_path) if is_new_project else ROOT
    # Nobody's environment: one is to be made.
    variables = ["HAS_VERANI=", f"VENV={tmp_path}/none"]
    plan = subprocess.run(
        ["make", "--dry-run", *variables, target], cwd=folder, capture_output=True, text=True, check=True
    )
    said, waits = plan.stdout.find("it takes about a minute"), plan.stdout.find("-m venv")
    assert 0 <= said < waits

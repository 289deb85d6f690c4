"""What CONTRIBUTING.md names is there: files, folders, tests, targets and variables."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "CONTRIBUTING.md").read_text()
SPANS = re.findall(r"`([^`\n]+)`", TEXT)

TREES = ("verani/", "actors/", "gateway/", "tests/", "docs/", "deploy/")
PATHS = sorted({word.strip('"') for span in SPANS for word in span.split() if word.strip('"').startswith(TREES)})


@pytest.mark.parametrize("name", PATHS)
def test_a_file_a_folder_or_a_test_that_it_names_is_there(name: str) -> None:
    path, _, test = name.partition("::")
    folder = ROOT / path.partition("<floor>")[0]
    assert folder.exists()
    if test:
        assert f"def {test.partition('[')[0]}(" in folder.read_text()


def test_a_target_of_make_that_it_names_is_there() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = {word for span in SPANS if span.startswith("make ") for word in span.split()[1:] if word.isalpha()}
    assert targets >= {"test", "check", "format", "bench", "fuzz", "soak"}
    assert [target for target in targets if f"\n{target}:" not in makefile] == []


def test_a_module_that_it_runs_is_there() -> None:
    modules = [span.split(" -m ")[1].split()[0] for span in SPANS if " -m " in span]
    own = [module for module in modules if module != "pytest"]
    assert own
    assert [module for module in own if not (ROOT / f"{module.replace('.', '/')}.py").exists()] == []


def test_a_link_leads_somewhere() -> None:
    links = re.findall(r"\]\(([^)#]+)", TEXT)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []

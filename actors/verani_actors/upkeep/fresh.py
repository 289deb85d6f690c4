"""Import the modules of users from their source, never from what was compiled before.

Python takes a compiled file for that of any source of the same size and the same second: after a quick edit it would
run the code of before.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from importlib.abc import PathEntryFinder
from importlib.machinery import (
    EXTENSION_SUFFIXES,
    SOURCE_SUFFIXES,
    ExtensionFileLoader,
    FileFinder,
    SourceFileLoader,
)
from pathlib import Path
from typing import Any

__all__ = ["import_from_source"]


class _FreshLoader(SourceFileLoader):
    """Neither reads nor writes compiled files."""

    def path_stats(self, path: str) -> Mapping[str, Any]:
        raise OSError("whether a compiled file is of this version is not asked")


def import_from_source(directory: str) -> None:
    """Have modules below a directory compiled anew from now on, but not what is installed there."""
    finder = FileFinder.path_hook((ExtensionFileLoader, EXTENSION_SUFFIXES), (_FreshLoader, SOURCE_SUFFIXES))
    sys.path_hooks.insert(0, _only_below(Path(directory), finder))
    sys.path_importer_cache.clear()
    importlib.invalidate_caches()


def _only_below(directory: Path, finder: Callable[[str], PathEntryFinder]) -> Callable[[str], PathEntryFinder]:
    def find(entry: str) -> PathEntryFinder:
        path = Path(entry or directory)
        if not path.is_relative_to(directory) or "site-packages" in path.parts:
            raise ImportError("not what the user writes")
        return finder(entry or str(directory))

    return find

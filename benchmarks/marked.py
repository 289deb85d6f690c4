"""Find every process that was started in a span of time, whatever has become of its parents, session and group.

A process is known by a variable of its environment, which all of its descendants inherit.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["Marked", "marked"]

_VARIABLE = "BENCHMARK_MARK"


class Marked:
    """The processes with one mark."""

    def __init__(self, mark: str) -> None:
        self._entry = f"{_VARIABLE}={mark}".encode()
        self._seen: set[int] = set()

    def pids(self) -> list[int]:
        """List those that are there, also what was seen before and is a zombie now."""
        running = {int(entry.name) for entry in Path("/proc").glob("[0-9]*") if self._entry in _environment(entry)}
        # A zombie has no environment any more.
        self._seen = running | {pid for pid in self._seen if Path(f"/proc/{pid}").exists()}
        return sorted(self._seen)


@contextmanager
def marked() -> Iterator[Marked]:
    """Mark all that this process starts meanwhile."""
    mark = secrets.token_hex(8)
    os.environ[_VARIABLE] = mark
    try:
        yield Marked(mark)
    finally:
        del os.environ[_VARIABLE]


def _environment(process: Path) -> list[bytes]:
    try:
        return (process / "environ").read_bytes().split(b"\0")
    except OSError:  # it has just ended, or is somebody else's
        return []

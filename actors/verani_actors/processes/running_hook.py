"""Keep in a file which hook a host runs at this moment, so that whoever finds it dead knows what it died of.

The file is mapped into memory: writing costs no system call, and what was written outlives the process. Whether a hook
killed the host at all is said by the death note (see `verani_actors.upkeep.runtime`), not here.

Invariant: a reader sees the last complete mark or none; the length, which is written last, is 0 while a mark changes.
"""

from __future__ import annotations

import mmap
import os
from pathlib import Path
from typing import Final

import msgspec

from verani.link.epoch import Death

__all__ = ["RunningHook", "read_running_hook"]

# A room's name (128 bytes for its id, 128 for its definition at most) and a gateway's id fit.
_SIZE: Final = 512
_LENGTH: Final = 2

_encode = msgspec.msgpack.Encoder().encode


class RunningHook:
    """The mark of one host process; written by its loop's thread only."""

    def __init__(self, path: Path, incarnation: str) -> None:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            os.ftruncate(descriptor, _SIZE)
            self._memory = mmap.mmap(descriptor, _SIZE)
        finally:
            os.close(descriptor)
        self._incarnation = incarnation
        self._empty = bytes(_LENGTH)

    def enter(self, room: str, gateway: str, number: int) -> None:
        """Note that code of this room runs now, for this input; an empty gateway and 0 where it is for none."""
        mark = _encode(Death(self._incarnation, room, gateway, number))
        self._memory[:_LENGTH] = self._empty
        if len(mark) <= _SIZE - _LENGTH:
            self._memory[_LENGTH : _LENGTH + len(mark)] = mark
            self._memory[:_LENGTH] = len(mark).to_bytes(_LENGTH)

    def leave(self) -> None:
        """Note that no room's code runs."""
        self._memory[:_LENGTH] = self._empty

    def close(self) -> None:
        """Unmap the file; it stays."""
        self._memory.close()


def read_running_hook(path: Path) -> Death | None:
    """Read what a dead host was doing, None for nothing; a file that is missing or damaged is nothing, too."""
    try:
        content = path.read_bytes()
        return msgspec.msgpack.decode(content[_LENGTH : _LENGTH + int.from_bytes(content[:_LENGTH])], type=Death)
    except (OSError, msgspec.DecodeError):
        return None

"""Keep in a file which hook a host runs at this moment, so that whoever finds it dead knows what it died of.

The file is mapped into memory: writing costs no system call, and what was written outlives the process. Whether a hook
killed the host at all is said by the death note (see `verani_actors.upkeep.runtime`) and its exit code, not here.

The file begins with a word of memory: the number of the input, and 1, or 0 while no hook runs. The rest changes less
often: the length and the text that say in which room, and for which gateway.

Invariant: a reader sees the last complete mark or none; the first word is written last, and is 0 while a mark changes.
"""

from __future__ import annotations

import mmap
import os
import sys
from pathlib import Path
from typing import Final

import msgspec

from verani.link.epoch import Death

__all__ = ["RunningHook", "read_running_hook"]

# A room's name (128 bytes for its id, 128 for its definition at most) and a gateway's id fit.
_SIZE: Final = 512
_WORD: Final = 8
_TEXT: Final = _WORD + 2

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
        self._words = memoryview(self._memory).cast("Q")
        self._incarnation = incarnation
        # What the text says.
        self._room = self._gateway = ""
        self._fits = False

    def enter(self, room: str, gateway: str, number: int) -> None:
        """Note that code of this room runs now, for this input; an empty gateway and 0 where it is for none."""
        if room != self._room or gateway != self._gateway:
            self._write(room, gateway)
        if self._fits:
            self._words[0] = number + 1

    def _write(self, room: str, gateway: str) -> None:
        self.leave()
        self._room, self._gateway = room, gateway
        text = _encode(Death(self._incarnation, room, gateway))
        self._fits = len(text) <= _SIZE - _TEXT
        if self._fits:
            self._memory[_WORD : _TEXT + len(text)] = len(text).to_bytes(_TEXT - _WORD) + text

    def leave(self) -> None:
        """Note that no room's code runs."""
        self._words[0] = 0

    def close(self) -> None:
        """Unmap the file; it stays."""
        self._words.release()
        self._memory.close()


def read_running_hook(path: Path) -> Death | None:
    """Read what a dead host was doing, None for nothing; a file that is missing or damaged is nothing, too."""
    try:
        content = path.read_bytes()
        running = int.from_bytes(content[:_WORD], sys.byteorder)
        if not running:
            return None
        size = int.from_bytes(content[_WORD:_TEXT])
        death = msgspec.msgpack.decode(content[_TEXT : _TEXT + size], type=Death)
        return msgspec.structs.replace(death, number=running - 1)
    except (OSError, msgspec.DecodeError):
        return None

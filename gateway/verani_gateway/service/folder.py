"""Make the runtime folder of a service, and remove those of services that were killed.

The folder above may be shared with other users, who can put anything there under any name. So nothing below it is
opened before it is known to be this user's, and nothing in a way that could block.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final

from verani_actors.upkeep.runtime import Runtime

__all__ = ["runtime_folder", "sweep"]

_LOCK: Final = "lock"

# A FIFO is not waited for, nor who holds a lease on a file, and a link is not followed.
_WARILY: Final = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@contextmanager
def runtime_folder() -> Iterator[Runtime]:
    """Make the runtime folder and remove it at the end, and those of services that were killed."""
    runtime = Runtime.create()
    try:
        # Complete before it has its name, so that nobody takes the folder for abandoned.
        new = runtime.folder / f"{_LOCK}.new"
        with new.open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            new.rename(runtime.folder / _LOCK)
            sweep(runtime.folder.parent)
            yield runtime
    finally:
        shutil.rmtree(runtime.folder, ignore_errors=True)


def sweep(base: Path) -> None:
    """Remove this user's runtime folders whose service is gone: nobody holds their lock."""
    for folder in base.glob("verani-*"):
        # Not ours, none at all, or one whose service runs.
        with suppress(OSError), ExitStack() as opened:
            _check_own(folder.lstat(), stat.S_IFDIR)
            directory = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | _WARILY)
            opened.callback(os.close, directory)
            _check_own(os.fstat(directory), stat.S_IFDIR)
            _check_own(os.stat(_LOCK, dir_fd=directory, follow_symlinks=False), stat.S_IFREG)
            lock = os.open(_LOCK, os.O_RDWR | _WARILY, dir_fd=directory)
            opened.callback(os.close, lock)
            _check_own(os.fstat(lock), stat.S_IFREG)
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)


def _check_own(status: os.stat_result, kind: int) -> None:
    if status.st_uid != os.getuid() or stat.S_IFMT(status.st_mode) != kind:
        raise PermissionError("it is not ours")

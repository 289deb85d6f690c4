"""Make sure that no descendant outlives the process which answers for it.

How a process dies with its parent is in `verani_actors.upkeep.lifeline`. Linux only.
"""

from __future__ import annotations

import ctypes
import os
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

__all__ = ["adopt_orphans", "kill_children", "reap"]

# linux/prctl.h
_PR_SET_CHILD_SUBREAPER: Final = 36

# Seconds that killed processes may take to be gone: one that is in the kernel ends when that returns.
_PATIENCE: Final = 2.0
_LOOK: Final = 0.005

_libc: Final = ctypes.CDLL(None, use_errno=True)


def adopt_orphans() -> None:
    """Become the parent of whatever descendants leave behind, as process 1 would."""
    if _libc.prctl(_PR_SET_CHILD_SUBREAPER, ctypes.c_ulong(1), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER) failed")


def reap() -> None:
    """Let go of adopted children that have ended; those that asyncio started are its own to wait for."""
    for pid in _children():
        if _is_orphan(pid):
            with suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)


def kill_children() -> None:
    """Kill all children, and theirs as they become this process's own, until none is left."""
    until = time.monotonic() + _PATIENCE
    while (pids := _children()) and time.monotonic() < until:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            with suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
        time.sleep(_LOOK)


def _children() -> list[int]:
    with suppress(OSError):
        return [int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]
    return []


def _is_orphan(pid: int) -> bool:
    """Tell an adopted child from one that was started with a process group of its own in this session."""
    with suppress(ProcessLookupError):
        return os.getsid(pid) != os.getsid(0) or os.getpgid(pid) != pid
    return False

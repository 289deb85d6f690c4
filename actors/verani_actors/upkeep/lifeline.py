"""Tie child processes to their parents: the kernel kills each with its parent, and the launcher knows all of them.

Every process that is forked below the launcher asks the kernel to be killed with its parent, and sends the launcher
its pidfd. That is done in the child, before any other code of it runs. Whoever reaps it tells the launcher how it
ended. Linux only; it knows nothing of Thespian.

Invariants: a process that the launcher was not told of does not run any further than its fork; a pidfd means the one
process for ever, so nothing that took over a pid is ever signalled, but for a process that has just been announced
where no more files could be opened. A process that has claimed its name is no longer
of this kind: what it forks or executes is its own business.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
from contextlib import suppress
from typing import Final

__all__ = ["Announcements", "ChildProcess", "claim", "die_with_parent", "tell_of_end", "tie_children"]

# prctl(2)
_PR_SET_PDEATHSIG: Final = 1
_LONGEST_NAME: Final = 256
# Where the pidfd could not be received: too many files are open here.
_NONE: Final = -1

_libc: Final = ctypes.CDLL(None, use_errno=True)


class ChildProcess:
    """A process that was forked below the launcher; it has a name once it has claimed one."""

    def __init__(self, pid: int, descriptor: int, name: str) -> None:
        self.pid = pid
        self.descriptor = descriptor
        self.name = name
        # How often it was asked since it answered last.
        self.unanswered = 0
        # What it exited with, or less than 0 where a signal ended it; None before its parent has said so.
        self.exit_code: int | None = None

    @property
    def is_watched(self) -> bool:
        """False where its end would go unnoticed, as no more files could be opened."""
        return self.descriptor != _NONE

    def kill(self) -> None:
        """Kill the process, if it still runs."""
        with suppress(ProcessLookupError):
            if self.is_watched:
                signal.pidfd_send_signal(self.descriptor, signal.SIGKILL)
            else:
                os.kill(self.pid, signal.SIGKILL)

    def close(self) -> None:
        """Forget the process."""
        if self.is_watched:
            os.close(self.descriptor)


class _Tie:
    """What a process of the actor system inherits: where to announce itself, and who forked it."""

    def __init__(self, reader: socket.socket, writer: socket.socket) -> None:
        self.reader = reader
        self.writer = writer
        self.parent = os.getpid()


_tie: _Tie | None = None


class Announcements:
    """What processes below the launcher say of themselves; `descriptor` is readable when there is something."""

    def __init__(self, reader: socket.socket) -> None:
        self._reader = reader
        self.descriptor = reader.fileno()

    def take(self) -> list[ChildProcess]:
        """Return what has come; a process comes when it is forked, when it claims its name and when it was reaped."""
        announcements: list[ChildProcess] = []
        while True:
            try:
                content, descriptors, _, _ = socket.recv_fds(self._reader, _LONGEST_NAME, 1)
            except BlockingIOError:
                return announcements
            pid, name, *exit_code = content.decode().split(" ")
            child = ChildProcess(int(pid), descriptors[0] if descriptors else _NONE, name)
            child.exit_code = int(exit_code[0]) if exit_code else None
            announcements.append(child)


def tie_children() -> Announcements:
    """Tie every process that is forked from now on, in this process and below."""
    global _tie
    reader, writer = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    reader.setblocking(False)
    _tie = _Tie(reader, writer)
    os.register_at_fork(before=_before_fork, after_in_child=_after_fork)
    return Announcements(reader)


def claim(name: str) -> None:
    """Tell the launcher under which name this process is known; what it forks is not tied any more."""
    global _tie
    if _tie is not None:
        _announce(_tie, name)
        _tie.writer.close()
        _tie = None


def tell_of_end(pid: int, exit_code: int) -> None:
    """Tell the launcher how a child of this process has ended, as `multiprocessing` has it."""
    if _tie is not None:
        _tie.writer.send(f"{pid}  {exit_code}".encode())


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent ends, even by SIGKILL; at once if it has ended already.

    It is the thread that started this process whose end counts.
    """
    if _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent:
        os._exit(1)


def _before_fork() -> None:
    if _tie is not None:
        _tie.parent = os.getpid()


def _after_fork() -> None:
    if _tie is None:
        return
    die_with_parent(_tie.parent)
    _tie.reader.close()
    _announce(_tie, "")
    # Standard input may be the pipe by which the launcher's starter knows that it lives.
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)


def _announce(tie: _Tie, name: str) -> None:
    descriptor = os.pidfd_open(os.getpid())
    socket.send_fds(tie.writer, [f"{os.getpid()} {name}".encode()], [descriptor])
    os.close(descriptor)

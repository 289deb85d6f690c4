"""Obey the signals that stop a process before it can do anything else, even import.

SIGINT is obeyed also where it is inherited as ignored, as from a script that has said `&`. SIGHUP, which a terminal
sends when it is closed, stays ignored where it was: that is what `nohup` is for.
"""

from __future__ import annotations

import os
import signal
from types import FrameType

__all__ = ["exit_at_once", "stop_signals"]


def stop_signals() -> tuple[signal.Signals, ...]:
    """List the signals that stop this process."""
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        return signal.SIGINT, signal.SIGTERM
    return signal.SIGINT, signal.SIGTERM, signal.SIGHUP


def exit_at_once() -> None:
    """End the process at the first stop signal, with 0 as any stop does: there is nothing to stop yet."""
    process = os.getpid()

    def end(number: int, _: FrameType | None) -> None:
        if os.getpid() == process:
            os._exit(0)
        # What a module of the user's has forked while it was imported is not ours.
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    for number in stop_signals():
        signal.signal(number, end)

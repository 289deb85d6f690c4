"""Make the suite independent of who started it.

A script that runs `make test &` leaves SIGINT ignored, `nohup` does so with SIGHUP, and a supervisor may have closed
standard input: children inherit all of it, and tests that send signals would wait for ever.
"""

from __future__ import annotations

import gc
import os
import signal

__all__ = ["pytest_collection_finish", "pytest_configure"]

# Those that tests send, and SIGCHLD, without which nobody could wait for a child.
_SIGNALS = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGCHLD,
    signal.SIGUSR1,
    signal.SIGALRM,
)


def pytest_configure() -> None:
    """Give every signal the disposition that a process in the foreground has, and every standard stream a file."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    for number in _SIGNALS:
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            # The lowest one that is free is this one.
            os.open(os.devnull, os.O_RDWR)


def pytest_collection_finish() -> None:
    """Spare the collections at the end of tests what was imported and collected: it stays until the end."""
    gc.collect()
    gc.freeze()

"""Restart the server whenever its source files change, for development.

The supervisor never imports the user's code: the server is a child process, so a file that does not
even parse only ends that child, and the next change starts another.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from watchfiles import Change, DefaultFilter, awatch

from verani.settings import Settings

from .early import stop_signals

__all__ = ["supervise"]

logger = logging.getLogger(__name__)

_SUFFIXES: Final = (".py", ".html", ".toml")

# How much longer than its drain a child may take to stop before it is killed: its code may hang.
_STOP_GRACE: Final = 12.0


class _Sources(DefaultFilter):
    """Pass what the server is made of; the folders of editors, caches and installed packages never are."""

    ignore_dirs = (*DefaultFilter.ignore_dirs, "site-packages", "venv", ".ruff_cache")

    def __call__(self, change: Change, path: str) -> bool:
        return path.endswith(_SUFFIXES) and super().__call__(change, path)


def supervise(arguments: Sequence[str], settings: Settings) -> int:
    """Run the server with these command line arguments until SIGINT, SIGTERM or SIGHUP; return the exit code."""
    # watchfiles logs every change at INFO too.
    logging.getLogger("watchfiles").setLevel(logging.WARNING)
    command = [sys.executable, "-m", "verani_gateway", *(word for word in arguments if word != "--reload")]
    return asyncio.run(_Reloader([*command, "--until-eof"], settings.drain_seconds + _STOP_GRACE).run())


class _Reloader:
    """One child at a time, from one change to the next."""

    def __init__(self, command: Sequence[str], patience: float) -> None:
        self._command = command
        self._patience = patience
        self._changed = asyncio.Event()
        self._stopped = asyncio.Event()
        self._child: Process | None = None

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        for number in stop_signals():
            loop.add_signal_handler(number, self._on_signal, number)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._watch())
            # One turn of the loop opens the watch, so that no change after the first start is missed.
            await asyncio.sleep(0)
            while not self._stopped.is_set():
                self._changed.clear()
                await self._run_child()
        return 0

    def _on_signal(self, number: signal.Signals) -> None:
        """Stop at the first signal; hand a second one to the child, which then ends at once."""
        if self._stopped.is_set() and self._child is not None and self._child.returncode is None:
            self._child.send_signal(number)
        self._stopped.set()

    async def _watch(self) -> None:
        async for changes in awatch(
            Path.cwd(), watch_filter=_Sources(), stop_event=self._stopped, ignore_permission_denied=True
        ):
            logger.info("changed: %s", _named(changes))
            self._changed.set()

    async def _run_child(self) -> None:
        """Start a child and return once it has ended and there is a reason to go on: a change or a stop."""
        # A process group of its own keeps the terminal's Ctrl-C from it: it would count as the first signal
        # and the supervisor's SIGTERM as the second. The pipe tells it when this process is gone, however
        # that happens.
        self._child = child = await asyncio.create_subprocess_exec(
            *self._command,
            stdin=PIPE,
            process_group=0,
            # Two saves of one size within a second would look alike to Python's bytecode cache.
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        )
        ended = asyncio.create_task(child.wait())
        reason = asyncio.create_task(self._reason())
        await asyncio.wait((ended, reason), return_when=asyncio.FIRST_COMPLETED)
        if ended.done() and not reason.done():
            logger.warning("the server ended with exit code %s; waiting for a change", child.returncode)
        await reason
        await self._stop(child)
        await ended

    async def _reason(self) -> None:
        waits = [asyncio.create_task(event.wait()) for event in (self._changed, self._stopped)]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()

    async def _stop(self, child: Process) -> None:
        if child.returncode is not None:
            return
        with suppress(ProcessLookupError):  # it may end by itself at this very moment
            child.terminate()
        try:
            await asyncio.wait_for(child.wait(), self._patience)
        except TimeoutError:
            logger.warning("the server did not stop in %g s: killing it", self._patience)
            child.kill()


def _named(changes: set[tuple[Change, str]]) -> str:
    return ", ".join(sorted({os.path.relpath(path) for _, path in changes}))

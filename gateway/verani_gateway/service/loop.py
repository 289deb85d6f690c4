"""Run the event loop of a process to its end, whatever the application has left in it."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Callable, Coroutine
from typing import Any, Final

__all__ = ["at_end_of_input", "fastest_loop", "run_loop"]

logger = logging.getLogger(__name__)

# What tasks and threads that outlived the stop get to end.
_LAST_WAIT: Final = 1.0


def run_loop(main: Coroutine[Any, Any, int], loop_factory: Callable[[], asyncio.AbstractEventLoop]) -> int:
    """Run what serves in an event loop of its own and return its exit code."""
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        code = runner.run(main)
        if left := runner.run(_end_leftovers()):
            # A hook or a task of the application that ignores its cancellation, or a thread that looks up a name; the
            # runner would wait for it for ever. Everything that has to be done is done.
            logger.warning("%s, leaving that behind", left)
            logging.shutdown()
            os._exit(code)
    return code


def fastest_loop() -> asyncio.AbstractEventLoop:
    """Make a loop of uvloop's where it is installed."""
    try:
        from uvloop import new_event_loop  # an extra
    except ImportError:
        return asyncio.new_event_loop()
    return new_event_loop()


def at_end_of_input(stop: Callable[[], object], heard: Callable[[bytes], object] = bytes) -> None:
    """Call `stop` when standard input ends, and `heard` with what comes before that."""
    loop, descriptor = asyncio.get_running_loop(), sys.stdin.fileno()

    def readable() -> None:
        if words := os.read(descriptor, 4096):
            heard(words)
        else:
            loop.remove_reader(descriptor)
            stop()

    loop.add_reader(descriptor, readable)


async def _end_leftovers() -> str:
    """Cancel what still runs, and say what does not end within a moment."""
    loop = asyncio.get_running_loop()
    until = loop.time() + _LAST_WAIT
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    if tasks:
        _, tasks = await asyncio.wait(tasks, timeout=_LAST_WAIT / 2)
    threads = asyncio.create_task(loop.shutdown_default_executor())
    await asyncio.wait({threads, *tasks}, timeout=until - loop.time())
    if tasks := {task for task in tasks if not task.done()}:
        return f"{len(tasks)} tasks ignore their cancellation"
    return "" if threads.done() else "threads of the loop do not end"

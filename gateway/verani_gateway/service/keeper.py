"""Keep one process running, and speak with it.

Invariant: a process knows when this one is gone, however it ended: its standard input ends.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import time
from asyncio.subprocess import Process
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Final

from verani.backoff import Backoff
from verani_actors.processes.starter import ENDING

__all__ = [
    "ASIDE",
    "BEATS",
    "DRAINED",
    "LEAVE",
    "NO",
    "READY",
    "RESTART",
    "STOP",
    "WAITING",
    "YES",
    "Keeper",
    "ending",
]

logger = logging.getLogger(__name__)

# What a gateway says on its standard input, which is a socket, again and again: that it takes connections and serves
# them, that it takes them but they would have to wait, that it takes none; and once, that all are to stop.
READY: Final = b"ready\n"
WAITING: Final = b"waiting\n"
ASIDE: Final = b"aside\n"
STOP: Final = b"stop\n"
# That another one is to take its place.
RESTART: Final = b"restart\n"
# What it is told there: whether all are ready, and that another one has its place; anything else is why none has.
YES: Final = b"yes\n"
NO: Final = b"no\n"
LEAVE: Final = b"leave\n"

# Exit code of a gateway that an operator has drained: it is not to be started again, as any other is that ends.
DRAINED: Final = 3

# Delays before a process that goes on ending is started again; one that ran for a while begins anew.
_BACKOFF: Final = Backoff(first=0.1, longest=10.0)
_RAN_WELL: Final = 60.0

# Looks at the processes in one lease; one that has said nothing at so many of them is not ready.
BEATS: Final = 6
# The longest line of a process, in bytes: what is served, with a name and paths for each definition.
_MAX_LINE: Final = 4 << 20
# More than a process that hangs may leave unread, in bytes.
_UNREAD: Final = 1024


class Keeper:
    """Keeps one process running: whenever it ends unasked it is started again, at once and then more and more slowly.

    `heard` is called with each line that the process writes to its standard input, a socket pair, whose end tells it
    that this process is gone. An operator may ask it to end: with the exit code `last` it is not started again. A new
    process is told `greeting` first.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        environ: Mapping[str, str],
        *,
        heard: Callable[[bytes], None],
        last: int | None = None,
        greeting: Callable[[], bytes] = bytes,
        inherited: Sequence[int] = (),
        is_trial: bool = False,
    ) -> None:
        """Prepare to run a command, which inherits file descriptors; a trial that never was ready is not repeated."""
        self.name = name
        self._inherited = inherited
        self.is_trial = is_trial
        self._is_let_go = False
        # What the process of now said last, and how often it was looked at since.
        self.said = b""
        self.misses = 0
        self._greeting = greeting
        self._writer: asyncio.StreamWriter | None = None
        self._last = last
        # Set by whoever knows; an ending before it is not retried where the exit code says that it told why.
        self.was_ready = False
        self._command = command
        self._environ = environ
        self.heard = heard
        self._process: Process | None = None
        self._pid = 0
        self._stopping = asyncio.Event()

    @property
    def pid(self) -> int | None:
        """Id of the process that runs now."""
        return self._process.pid if self._process is not None and self._process.returncode is None else None

    async def run(self) -> int:
        """Return the exit code of a process that is not started again."""
        delay = 0.0
        while True:
            began = time.monotonic()
            try:
                code = await self._run_once()
            except OSError as error:  # no more processes, memory or files
                if self._stopping.is_set():
                    return 0 if self._is_let_go else 1
                delay = _BACKOFF.after(delay)
                logger.error("%s cannot be started: %s; trying again in %g s", self.name, error, delay)
                if await self._stops_within(delay):
                    return 0 if self._is_let_go else 1
                continue
            if code == self._last or self._is_let_go:
                return 0
            if self._stopping.is_set():
                return code
            # With these codes, it has written a sentence that says why it cannot run.
            if not self.was_ready and (self.is_trial or code in (1, 2)):
                return code
            delay = 0.0 if time.monotonic() - began > _RAN_WELL else delay
            after = f" in {delay:g} s" if delay else ""
            logger.error("%s (pid %d) ended with %s: starting it again%s", self.name, self._pid, ending(code), after)
            if delay and await self._stops_within(delay):
                return 0 if self._is_let_go else code
            delay = _BACKOFF.after(delay)

    async def _stops_within(self, seconds: float) -> bool:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)
        return self._stopping.is_set()

    async def _run_once(self) -> int:
        ours, theirs = socket.socketpair()
        try:
            # A process group of its own keeps the terminal's Ctrl-C from it.
            self._process = process = await asyncio.create_subprocess_exec(
                *self._command, stdin=theirs.fileno(), env=self._environ, process_group=0, pass_fds=self._inherited
            )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        self._pid = process.pid
        if self._stopping.is_set():  # since it was decided to start it
            self.send(signal.SIGTERM)
        reader, writer = await asyncio.open_unix_connection(sock=ours, limit=_MAX_LINE)
        self._writer = writer
        self.tell(self._greeting())
        listening = asyncio.create_task(self._listen(reader))
        try:
            return await process.wait()
        finally:
            listening.cancel()
            writer.close()
            self._writer = None
            self.said = b""

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        with suppress(ConnectionError, ValueError):  # a line without end: nobody of ours
            async for line in reader:
                self.said, self.misses = line, 0
                self.heard(line)

    def tell(self, word: bytes) -> None:
        """Say something to the process, unless it reads nothing."""
        if self._writer is not None and self._writer.transport.get_write_buffer_size() < _UNREAD:
            self._writer.write(word)

    def let_go(self) -> None:
        """Tell the process to leave, and start it no more."""
        self._is_let_go = True
        self._stopping.set()
        self.tell(LEAVE)

    def look(self, patience: float) -> None:
        """Kill the process if it was looked at so often since it said something; who says nothing at all may go on."""
        if not self.said or self.said == ENDING or self._stopping.is_set():
            return
        self.misses += 1
        if self.misses > patience and self._process is not None and self._process.returncode is None:
            logger.error("%s (pid %d) hangs: killing it", self.name, self._pid)
            self.misses = 0
            self._process.kill()

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the process, if it runs, and start it no more."""
        self._stopping.set()
        if self._process is not None and self._process.returncode is None:
            with suppress(ProcessLookupError):
                self._process.send_signal(number)


def ending(code: int) -> str:
    if code == 0:
        return "exit code 0, though nobody of this service has asked it to"
    return f"exit code {code}" if code >= 0 else signal.Signals(-code).name

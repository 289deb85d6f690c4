"""Run a room host as an actor: one process whose main thread is Thespian's, and whose second thread runs the loop.

The two threads share a queue each way and nothing else: towards the loop by `call_soon_threadsafe`, from the loop
through a queue and a socket pair that Thespian watches. A third, the watchdog's, takes the loop's place at the queue
while a hook blocks it. No method of the actor is called on these but `_post`, whose queue and socket are made for that.
"""

from __future__ import annotations

import asyncio
import faulthandler
import logging
import os
import queue
import socket
import sys
import threading
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from importlib.util import find_spec
from typing import Any, Final

from thespian.actors import ActorAddress, ActorExitRequest, ThespianWatch

from verani.errors import VeraniError

from ..membership.control import REGISTRAR, Control, StopHost, host_name, launcher_name
from ..upkeep.ending import EXIT_GRACE, START_GRACE, end_in
from ..upkeep.runtime import Runtime
from . import hardened
from .control_actor import ControlActor
from .host_process import HostProcess
from .parcel import Parcel

__all__ = ["RoomHostActor"]

logger = logging.getLogger(__name__)

# Seconds that a thread of the user's has after all else has ended.
_LINGER: Final = 1.0


class RoomHostActor(ControlActor):
    """The shell of a room host; the loop starts with the first parcel of the launcher."""

    def __init__(self, requirements: Mapping[str, Any]) -> None:
        super().__init__(requirements)
        self._id: str = requirements["id"]
        self._incarnation: str = requirements["incarnation"]
        self._name = host_name(self._incarnation)
        # Whether its end was asked for by the service, or is due as its loop has ended.
        self._is_told_to_stop = self._is_over = False
        self._runtime = runtime = Runtime(requirements["folder"])
        self._plan = runtime.read_plan()
        self._note = os.open(runtime.death_note(self._incarnation), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        faulthandler.enable(self._note)
        # What the user's modules expect: the same as in an embedded gateway.
        os.chdir(self._plan.directory)
        sys.path[0] = self._plan.directory
        self._addresses: dict[str, ActorAddress] = {}
        self._outbox: queue.SimpleQueue[tuple[str, Control] | None] = queue.SimpleQueue()
        self._bell, self._ringer = socket.socketpair()
        self._bell.setblocking(False)
        self._ringer.setblocking(False)
        self._host = HostProcess(
            self._plan, runtime, self._id, self._incarnation, hardened.cluster_secret(), self._post
        )
        self._loop = _new_loop()
        self._thread: threading.Thread | None = None

    def received(self, parcel: Parcel, message: Control, sender: ActorAddress) -> None:
        self._addresses.update(parcel.addresses)
        if parcel.sender == REGISTRAR or parcel.sender.startswith(host_name("")):
            self._addresses[parcel.sender] = sender
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="verani-host", daemon=True)
            self._thread.start()
        if isinstance(message, StopHost):
            self._is_told_to_stop = True
            self._stop()
        elif not parcel.sender.startswith(launcher_name("")):
            self._call(self._host.receive, parcel.sender, message)

    def readable(self) -> None:
        with suppress(BlockingIOError):
            self._bell.recv(4096)
        while not self._outbox.empty():
            match self._outbox.get():
                case None:
                    self._is_over = True
                    self.send(self.myAddress, ActorExitRequest())
                case destination, message if destination in self._addresses:
                    self.send(self._addresses[destination], Parcel(self._name, message))
                case _:
                    pass  # not known yet; it is said again

    def exiting(self) -> None:
        # A thread of the user's that does not end must not keep the process.
        end_in(EXIT_GRACE + _LINGER, 1)
        if not self._is_told_to_stop and not self._is_over:
            logger.warning("host %s was told to end, though nobody has drained it", self._id)
            with suppress(OSError):
                self._runtime.farewell(self._incarnation).touch()
        if self._thread is not None and self._thread.is_alive():
            self._stop()
            self._thread.join(EXIT_GRACE)

    def _stop(self) -> None:
        self._call(self._host.stop)
        if not self._host.has_started:  # a module or a hook may block, and nobody is served
            end_in(START_GRACE, 0)

    def watched(self) -> ThespianWatch:
        return ThespianWatch([self._bell.fileno()])

    def _post(self, destination: str, message: Control) -> None:
        """Send a control message; called on the loop's thread, and on the watchdog's while a hook blocks the loop."""
        self._outbox.put((destination, message))
        self._ring()

    def _ring(self) -> None:
        with suppress(BlockingIOError):  # it rings already
            self._ringer.send(b"\0")

    def _call(self, function: Callable[..., object], *args: object) -> None:
        with suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(function, *args)

    def _run(self) -> None:
        """Run the loop; a None in the outbox tells the other thread that it is over."""
        try:
            _run(self._loop, self._host.run())
        except VeraniError as error:
            logger.error("host %s cannot run: %s", self._id, error)
        except Exception:  # the bottom of a thread: it ends the process, and is told why
            logger.exception("host %s has failed", self._id)
        finally:
            self._outbox.put(None)
            self._ring()


def _run(loop: asyncio.AbstractEventLoop, main: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(main)


def _new_loop() -> asyncio.AbstractEventLoop:
    if find_spec("uvloop") is None:
        return asyncio.new_event_loop()
    import uvloop

    return uvloop.new_event_loop()

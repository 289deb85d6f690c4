"""Be an actor of the control plane: a Thespian actor in a process of its own that takes and sends parcels.

Thespian runs a `receiveMessage` that raises a second time and then sends the traceback to the other side, and it
replaces logging and every signal handler of the process. All of that is put right here.
"""

from __future__ import annotations

import logging
import signal
from collections.abc import Mapping
from typing import Any

import msgspec
from thespian.actors import Actor, ActorAddress, ActorExitRequest, ThespianWatch, WakeupMessage, WatchMessage

from ..membership.control import Control
from ..upkeep.lifeline import claim
from ..upkeep.logs import name_process
from ..upkeep.refusals import Refusals
from .parcel import Parcel, Probe

__all__ = ["ControlActor"]

logger = logging.getLogger(__name__)

# Modules keep the loggers of the manager that was there when they were imported.
_manager = logging.Logger.manager


class ControlActor(Actor):
    """Base of the registrar's and the hosts' actors; `requirements` is what the launcher gave at creation."""

    def __init__(self, requirements: Mapping[str, Any]) -> None:
        claim(requirements["name"])
        self._refusals = Refusals(logger, what="control message")
        logging.Logger.manager = _manager
        logging.root = logging.Logger.root = _manager.root
        name_process(f"host:{requirements['id']}" if "id" in requirements else requirements["name"])
        # The terminal's Ctrl-C is for the supervisor.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.getsignal(signal.SIGTERM))
        # Thespian's handlers would let the faulting instruction run again, for ever.
        for fatal in (signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGABRT):
            signal.signal(fatal, signal.SIG_DFL)

    def receiveMessage(self, msg: Any, sender: ActorAddress) -> ThespianWatch | None:
        try:
            match msg:
                case Parcel():
                    self._open(msg, sender)
                case Probe():
                    self.send(sender, msg)
                case WakeupMessage():
                    self.woken()
                case WatchMessage():
                    self.readable()
                case ActorExitRequest():
                    self.exiting()
                case _:
                    pass  # Thespian's own news
        except Exception:  # an actor's mailbox: nothing may leave it
            logger.exception("a control message could not be handled")
        return self.watched()

    def _open(self, parcel: Parcel, sender: ActorAddress) -> None:
        try:
            message = parcel.open()
        except msgspec.MsgspecError as error:
            self._refusals.add("of another version", error)
        else:
            self.received(parcel, message, sender)

    def received(self, parcel: Parcel, message: Control, sender: ActorAddress) -> None:
        """Handle a control message."""
        raise NotImplementedError

    def woken(self) -> None:
        """Handle a `wakeupAfter` that is over."""

    def readable(self) -> None:
        """Handle that a watched descriptor is readable."""

    def exiting(self) -> None:
        """Do what has to be done before the process ends, right after this."""

    def watched(self) -> ThespianWatch | None:
        """Say which descriptors to watch until the next message."""
        return None

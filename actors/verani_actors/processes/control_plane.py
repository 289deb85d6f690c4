"""Be the launcher's end of the actor system: create actors, send them control messages and probes, take what comes.

Imported only once the environment of Thespian is set (`verani_actors.processes.environment`).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from thespian.actors import ActorAddress, ActorSystem, ActorSystemException

from ..membership.control import Control
from .children import Children
from .hardened import HardenedBase, actor_address
from .parcel import Parcel, Probe

__all__ = ["ControlPlane"]

logger = logging.getLogger(__name__)


class ControlPlane:
    """The actor system, seen by the launcher of this `name`; actors find the files of the machine in `folder`."""

    def __init__(self, base: HardenedBase, system: ActorSystem, children: Children, name: str, folder: Path) -> None:
        self._base = base
        self._system = system
        self._children = children
        self._name = name
        self._folder = str(folder)

    @property
    def admin(self) -> ActorAddress:
        """Where the Admin of this machine is."""
        return self._base.adminAddr

    def create(self, actor: str, requirements: Mapping[str, Any]) -> ActorAddress | None:
        """Create an actor in a process of its own; None, and a line in the log, if that fails."""
        try:
            return self._system.createActor(actor, {**requirements, "folder": self._folder})
        except (ActorSystemException, ImportError) as error:
            logger.error("the actor system created no %s: %s", actor.rpartition(".")[2], error)
            self._children.blame_admin()
            return None

    def send(
        self, to: ActorAddress, message: Control, addresses: Mapping[str, ActorAddress] | None = None, *, name: str = ""
    ) -> None:
        """Send without waiting; it is lost if it cannot be delivered. `addresses` tells where others are."""
        self._base.post(to, Parcel(name or self._name, message, addresses))

    def send_with_address(self, to: ActorAddress, message: Control) -> None:
        """Send so that the receiver can answer, whoever passes the message on."""
        self.send(to, message, {self._name: self._base.address})

    def send_to_admin(self, host: str, port: int, message: Control) -> None:
        """Send to the Admin of another machine, which passes the message on to the registrar there."""
        self.send_with_address(actor_address(host, port), message)

    def probe(self, to: ActorAddress, name: str) -> None:
        """Ask the process of this name whether it does anything at all."""
        self._base.post(to, Probe(name))

    def receive(self, descriptors: list[int], seconds: float) -> tuple[object, ActorAddress] | list[int] | None:
        """Return what comes first: a message and its sender, descriptors that are readable, or None after the time."""
        self._base.watch(descriptors)
        return self._base.receive(seconds)

    def begin_shutdown(self) -> None:
        """Ask the Admin to end every actor and itself."""
        self._base.begin_shutdown()

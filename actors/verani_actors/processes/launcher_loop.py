"""Run the actor system of one machine: keep its registrar and its hosts, offer them, and end them all.

Each process is probed all the time, and one that hangs is killed and treated as one that died. The launcher's own
starter hears from it in the same way.
"""

from __future__ import annotations

import logging
import time
from typing import Final

import msgspec
from thespian.actors import ActorAddress

from ..membership.control import (
    REGISTRAR,
    Control,
    DrainHost,
    EndMachine,
    Offer,
    Publish,
    Refused,
    StartHost,
    StopHost,
    Welcome,
    launcher_name,
)
from ..upkeep.ending import EXIT_GRACE
from ..upkeep.lifeline import ChildProcess
from ..upkeep.refusals import Refusals
from ..upkeep.runtime import Plan, Runtime
from .children import ADMIN, Children
from .control_plane import ControlPlane
from .leader import Leader
from .local_hosts import LocalHosts
from .parcel import Parcel, Probe
from .published import PublishedEpoch
from .registrar_contact import OFFER_PERIOD, RegistrarContact
from .starter import ALIVE, ENDED, ENDING, Starter
from .stop_requests import Grace, StopRequests

__all__ = ["Launcher"]

logger = logging.getLogger(__name__)

# The registrar is replaced while the leases that it gave last still hold: two thirds of one, and not less than this.
_REGISTRAR_HANGS: Final = 1.0
# All hosts end with the Admin, and go on without it.
_ADMIN_HANGS: Final = 10.0
# What a drain leaves to hosts at least; shorter than what the supervisor adds to the drain.
_STOP: Final = 5.0

_REGISTRAR_ACTOR: Final = "verani_actors.processes.registrar_actor.RegistrarActor"


class Launcher:
    """The one thread of a launcher: it waits for what comes, and does what is due in between."""

    def __init__(
        self, runtime: Runtime, plan: Plan, plane: ControlPlane, children: Children, port: int, leader: Leader | None
    ) -> None:
        self._plan = plan
        self._folder = runtime.folder.name
        self._admin_port = port
        self._plane = plane
        self._children = children
        self._published = PublishedEpoch(runtime)
        self._registrar = RegistrarContact(plane, plan.settings.lease, leader)
        self._hosts = LocalHosts(plan, runtime, plane, children, self._published, self._registrar)
        self._starter = Starter()
        self._requests = StopRequests()
        self._refusals = Refusals(logger, what="control message")
        self._created_registrar = float("-inf")
        self._next_offer = self._next_probe = 0.0
        self._stopping = False
        self._ended = False
        self._failed = False

    def run(self) -> int:
        """Serve until told to stop; returns the exit code."""
        self._requests.take()
        self._children.take_announced()
        while not (self._requests.count or self._starter.is_gone or self._has_failed or self._ended):
            now = time.monotonic()
            if now >= self._next_probe:
                self._next_probe = now + self._children.period
                self._starter.tell(ALIVE)
                self._probe_all()
            if now >= self._next_offer:
                self._next_offer = now + OFFER_PERIOD
                self._say_all(now)
            self._hosts.kill_overdue(now)
            self._step(max(0.0, min(self._next_offer, self._next_probe) - now))
        self._stop()
        if self._has_failed:
            return 1
        return ENDED if self._ended else 0

    @property
    def _has_failed(self) -> bool:
        return self._failed or self._hosts.have_failed

    # --- what comes ---------------------------------------------------------------------------------------

    def _step(self, seconds: float) -> None:
        descriptors = [self._requests.descriptor, *self._starter.descriptors, *self._children.descriptors]
        match self._plane.receive(descriptors, seconds):
            case list() as ready:
                self._requests.look(ready)
                self._starter.look(ready)
                for process in self._children.ended(ready):
                    self._died(process)
            case (Parcel() as parcel, sender):
                self._open(parcel, sender)
            case (Probe() as probe, _):
                self._children.answered(probe.name)
            case _:
                pass  # nothing, or Thespian's own news

    def _died(self, process: ChildProcess) -> None:
        if process is self._children.admin:
            logger.error("the actor system has lost its Admin, process %d", process.pid)
            self._failed = True
        elif process.name == REGISTRAR and self._children.named(REGISTRAR) is None:
            logger.warning("the registrar, process %d, has died", process.pid)
            self._registrar.address = None
            self._next_offer = 0.0
        else:
            self._hosts.died(process)

    def _open(self, parcel: Parcel, sender: ActorAddress) -> None:
        try:
            message = parcel.open()
        except msgspec.MsgspecError as error:
            self._refusals.add("of another version", error)
        else:
            self._obey(message, sender)

    def _obey(self, message: Control, sender: ActorAddress) -> None:
        match message:
            case Welcome():
                if self._registrar.met(sender):
                    self._hosts.introduce_registrar()
            case StartHost(id):
                if not self._stopping:
                    self._hosts.start(id)
            case StopHost(id, incarnation):
                self._hosts.stop_process(id, incarnation)
            case Publish(epoch):
                # Where that fails, it is tried again with the answer to the next offer.
                self._published.publish(epoch)
                self._hosts.note_served()
            case Refused(reason):
                self._failed = self._registrar.refused(reason) or self._failed
            case EndMachine():
                self._ended = True
            case _:
                logger.error("expected a message for a launcher, got %s", type(message).__name__)

    # --- what is said again and again ---------------------------------------------------------------------

    def _probe_all(self) -> None:
        """Ask every process whether it does anything, and kill those that hang."""
        if self._children.admin is not None:
            self._children.probed(self._children.admin, ADMIN, _ADMIN_HANGS)
            self._plane.probe(self._plane.admin, self._children.admin.name)
        registrar = self._children.named(REGISTRAR)
        if registrar is not None and self._registrar.address is not None:
            patience = max(_REGISTRAR_HANGS, self._plan.settings.lease * 2 / 3)
            self._children.probed(registrar, "the registrar", patience)
            self._plane.probe(self._registrar.address, REGISTRAR)
        self._hosts.probe()

    def _say_all(self, now: float) -> None:
        if not self._plan.leader:
            self._keep_registrar(now)
        self._registrar.offer(self._offer(), now)
        self._hosts.tell_of_predecessors()
        self._hosts.introduce_registrar()

    def _offer(self) -> Offer:
        plan, address = self._plan, f"{self._plan.address}:{self._admin_port}"
        epoch = self._published.epoch
        return Offer(plan.machine, address, plan.settings.hosts, self._folder, epoch, plan.definitions)

    def _keep_registrar(self, now: float) -> None:
        # Its claim comes a moment later; one that never comes must not make a second registrar at once.
        patience = OFFER_PERIOD if self._registrar.address is None else 5 * OFFER_PERIOD
        if self._children.named(REGISTRAR) is None and now - self._created_registrar >= patience:
            self._created_registrar = now
            self._registrar.address = self._plane.create(_REGISTRAR_ACTOR, {"name": REGISTRAR})
        if self._registrar.address is not None:
            name = launcher_name("")
            self._plane.send(self._registrar.address, Welcome(self._plan.machine), {name: self._plane.admin}, name=name)

    # --- the end ------------------------------------------------------------------------------------------

    def _stop(self) -> None:
        """End every process: hosts in their own time, then the actor system, then what is left."""
        self._stopping = True
        self._starter.tell(ENDING)
        if not self._has_failed:
            self._stop_hosts()
            self._plane.begin_shutdown()
            grace = Grace(self._requests, EXIT_GRACE)
            while self._children and not self._has_failed and (left := grace.seconds) > 0:
                self._step_quietly(left)
        self._children.kill_all(EXIT_GRACE)

    def _stop_hosts(self) -> None:
        orphaned = self._starter.is_gone
        grace = Grace(self._requests, EXIT_GRACE if orphaned else max(EXIT_GRACE, self._plan.settings.drain_seconds))
        if self._plan.leader and not orphaned:
            self._drain(grace)
            grace.extend(_STOP)
        for host in self._hosts.staying():
            self._hosts.stop(host, grace.seconds)
        while self._hosts and grace.wait > 0:
            self._step(grace.wait)

    def _drain(self, grace: Grace) -> None:
        """Have the rooms go on elsewhere: the registrar, if it is there, takes them over and then stops each host."""
        while self._hosts.staying() and grace.wait > 0 and self._registrar.answers(now := time.monotonic()):
            self._say_all(now)
            members = self._published.incarnations
            for host in self._hosts.staying():
                if host.incarnation in members:
                    self._registrar.send(DrainHost(host.id))
                else:  # it has no room to hand over, and may be waiting in a start-up hook
                    self._hosts.stop(host, grace.seconds)
            while self._hosts.staying() and (left := min(grace.wait, now + OFFER_PERIOD - time.monotonic())) > 0:
                self._step(left)

    def _step_quietly(self, seconds: float) -> None:
        """Wait for processes that are meant to end."""
        ready = self._plane.receive(self._children.descriptors, seconds)
        if isinstance(ready, list):
            for _ in self._children.ended(ready):
                pass

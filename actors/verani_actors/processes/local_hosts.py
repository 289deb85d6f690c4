"""Start and end the room hosts of one machine as the registrar says, and tell it which have ended and how."""

from __future__ import annotations

import logging
import os
import secrets
import select
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

from thespian.actors import ActorAddress

from verani.link.epoch import Death

from ..membership.control import REGISTRAR, Gone, StopHost, Welcome
from ..membership.lease import MARGIN
from ..upkeep.lifeline import ChildProcess
from ..upkeep.runtime import Plan, Runtime
from .children import Children
from .control_plane import ControlPlane
from .published import PublishedEpoch
from .registrar_contact import RegistrarContact
from .running_hook import read_running_hook

__all__ = ["LocalHost", "LocalHosts"]

logger = logging.getLogger(__name__)

_ACTOR: Final = "verani_actors.processes.host_actor.RoomHostActor"
# Seconds in which a new process claims its name.
_UNCLAIMED: Final = 10.0
# So many hosts that die before any has come to serve are no accident.
_FUTILE: Final = 3
# A host that is no member yet may be importing what holds up all of its threads.
_START_HANGS: Final = 60.0


class LocalHost:
    """A host of this machine; its process has claimed the incarnation as its name, or will."""

    def __init__(self, id: str, incarnation: str, address: ActorAddress) -> None:
        self.id = id
        self.incarnation = incarnation
        self.address = address
        self.created = time.monotonic()
        # When it is killed, once it was told to stop.
        self.kill_at: float | None = None
        # Whether it has ever been in a published epoch.
        self.has_served = False


class LocalHosts:
    """The hosts that this launcher has started and that have not ended, by id; `have_failed` if none ever serves."""

    def __init__(
        self,
        plan: Plan,
        runtime: Runtime,
        plane: ControlPlane,
        children: Children,
        published: PublishedEpoch,
        registrar: RegistrarContact,
    ) -> None:
        self._plan = plan
        self._runtime = runtime
        self._plane = plane
        self._children = children
        self._published = published
        self._registrar = registrar
        self._running: dict[str, LocalHost] = {}
        # Hosts of a launcher that was here before: they were killed with it, and nobody told the registrar.
        self._predecessors = [each for each in published.epoch.members if each.machine == plan.machine]
        # Whether any has ever been in a published epoch, and how many have died before one was.
        self._has_served = False
        self._futile = 0
        self.have_failed = False

    def __len__(self) -> int:
        return len(self._running)

    def staying(self) -> list[LocalHost]:
        """List those that were not told to stop."""
        return [host for host in self._running.values() if host.kill_at is None]

    def start(self, id: str) -> None:
        """Start a host, unless it runs."""
        if id in self._running:
            return
        incarnation = secrets.token_hex(8)
        address = self._plane.create(_ACTOR, {"name": incarnation, "id": id, "incarnation": incarnation})
        if address is None:
            self._children.give_up(incarnation)
        else:
            host = self._running[id] = LocalHost(id, incarnation, address)
            self._children.take_announced()
            self._introduce(host)

    def stop_process(self, id: str, incarnation: str) -> None:
        """Stop a host whose rooms are elsewhere, if it is still this process."""
        host = self._running.get(id)
        if host is not None and host.incarnation == incarnation and host.kill_at is None:
            self.stop(host, self._plan.settings.drain_seconds)

    def stop(self, host: LocalHost, seconds: float) -> None:
        """Tell a host to stop; it is killed if it has not ended after so many seconds."""
        host.kill_at = time.monotonic() + seconds
        self._plane.send(host.address, StopHost(host.id, host.incarnation))

    def introduce_registrar(self) -> None:
        """Tell each host where the registrar is; the first time, this lets it begin."""
        for host in self._running.values():
            self._introduce(host)

    def note_served(self) -> None:
        """Note which are in the published epoch."""
        members = self._published.incarnations
        for host in self._running.values():
            host.has_served = host.has_served or host.incarnation in members
            self._has_served = self._has_served or host.has_served

    def probe(self) -> None:
        """Ask each whether it does anything, and kill those that hang.

        Those that were told to stop have a deadline already, and say nothing on their way.
        """
        lease = self._plan.settings.lease
        for host in self.staying():
            if (process := self._children.named(host.incarnation)) is not None:
                self._children.probed(process, f"host {host.id}", lease + MARGIN if host.has_served else _START_HANGS)
                self._plane.probe(host.address, host.incarnation)

    def kill_overdue(self, now: float) -> None:
        """Kill those that had their time to stop, and give up those whose process never said its name."""
        for host in list(self._running.values()):
            process = self._children.named(host.incarnation)
            if process is None and now - host.created > _UNCLAIMED:
                # It has died before it could say its name, hence before it could beat: nobody knows of it.
                del self._running[host.id]
                self._children.give_up(host.incarnation)
            elif process is not None and host.kill_at is not None and now >= host.kill_at:
                process.kill()

    def died(self, process: ChildProcess) -> None:
        """Take note that a process has ended, if it was a host's."""
        host = next((each for each in self._running.values() if each.incarnation == process.name), None)
        if host is None:
            return
        if not self._has_served:  # the registrar writes an epoch down before this launcher hears of it
            self._published.look()
            self.note_served()
        del self._running[host.id]
        has_left = self._runtime.farewell(host.incarnation).exists()
        was_told = has_left or host.kill_at is not None
        has_exited = process.exit_code is not None and process.exit_code >= 0
        death = _read_death(self._runtime, host.incarnation, has_exited=has_exited and not was_told)
        if host.kill_at is None:
            how = "has ended without having been drained" if has_left else f"has died{_by(death)}"
            logger.warning("host %s, process %d, %s", host.id, process.pid, how)
            self._futile += 1
            if self._futile == _FUTILE and not self._has_served:
                logger.error("the room hosts of this machine do not start: see above")
                self.have_failed = True
        self._registrar.tell(Gone(host.id, host.incarnation, death))

    def tell_of_predecessors(self) -> None:
        """Tell the registrar of hosts of an earlier launcher that have ended by now."""
        for member in [each for each in self._predecessors if _has_ended(each.pid)]:
            self._predecessors.remove(member)
            self._registrar.tell(Gone(member.id, member.incarnation, _read_death(self._runtime, member.incarnation)))

    def _introduce(self, host: LocalHost) -> None:
        if self._registrar.address is not None:
            self._plane.send(host.address, Welcome(self._plan.machine), {REGISTRAR: self._registrar.address})


def _read_death(runtime: Runtime, incarnation: str, *, has_exited: bool = False) -> Death | None:
    """Read what a dead host was doing, if it died of that, and remove its files.

    It did if it left a note, or if it has exited though nobody had asked it to.
    """
    note, running_hook = runtime.death_note(incarnation), runtime.running_hook(incarnation)
    try:
        death = read_running_hook(running_hook) if has_exited or note.stat().st_size > 0 else None
    except OSError:
        death = None
    for path in (note, running_hook, Path(runtime.socket(incarnation)), runtime.farewell(incarnation)):
        with suppress(OSError):
            path.unlink()
    return death


def _has_ended(pid: int) -> bool:
    """Tell whether no process has this pid, or only what is left of one that nobody waited for."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    except OSError:  # too many files are open: asked again
        return False
    try:
        return bool(select.select([descriptor], [], [], 0)[0])
    finally:
        os.close(descriptor)


def _by(death: Death | None) -> str:
    return "" if death is None else f" in a hook of {death.room}"

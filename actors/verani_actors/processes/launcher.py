"""Start the actor system of one machine and its hosts: `python -m verani_actors.processes.launcher RUNTIME_FOLDER`.

The launcher is one thread that never imports what users write; one beside it looks up the leader's name. It starts
Thespian's Admin, on the leader's machine the registrar, creates and ends hosts as the registrar says, tells it which of
them have died and how, and writes epochs down for the gateways. Where rooms go is none of its business.

Each process is asked all the time whether it does anything: one that hangs is killed, and treated as one that died. Its
own starter hears from it in the same way. What counts is how often somebody was asked, as the launcher may have been
stopped itself.

Nothing it has started outlives it: the kernel kills its processes with it (`verani_actors.upkeep.lifeline`), and it
ends when its starter does. It exits with 0 after SIGTERM or the end of its standard input, with 3 when the registrar
has ended the whole service, and with 1 when the actor system cannot start or has lost its Admin: whoever started it may
start it again.
"""

from __future__ import annotations

import logging
import os
import secrets
import select
import signal
import socket
import stat
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from verani.errors import VeraniError
from verani.link.epoch import Death, Epoch

from ..membership.control import (
    Control,
    DrainHost,
    EndMachine,
    Gone,
    Offer,
    Publish,
    Refused,
    StartHost,
    StopHost,
    Welcome,
)
from ..membership.lease import MARGIN
from ..upkeep.lifeline import Announcements, Birth, die_with_parent, tie_children
from ..upkeep.logs import log_to_stderr
from ..upkeep.refusals import Refusals
from ..upkeep.runtime import Plan, Runtime
from .admin_port import hold_port, resolve
from .environment import prepare
from .leader import Leader
from .slot import read_slot

if TYPE_CHECKING:
    from thespian.actors import ActorAddress, ActorSystem

    from .hardened import HardenedBase
    from .parcel import Parcel

__all__ = ["ALIVE", "ENDED", "ENDING", "SECRET", "main"]

logger = logging.getLogger("verani_actors.processes.launcher")  # not __main__, as which it runs

SECRET: Final = "VERANI_CLUSTER_SECRET"
# Exit code of a launcher that ended because the whole service does: it is not to be started again.
ENDED: Final = 3
# What it says to its starter, where its standard input is a socket: that it does something, and that it will end.
ALIVE: Final = b"alive\n"
ENDING: Final = b"ending\n"

_OFFER_PERIOD: Final = 1.0
# How long a death is told again, as messages may be lost.
_TELL_DEATHS: Final = 5.0
_UNCLAIMED: Final = 10.0
# So many hosts that die before any has come to serve are no accident.
_FUTILE: Final = 3
# A registrar that does not answer for so long may have another address by now.
_LOST: Final = 5.0
# A machine that is refused for so many seconds before it was ever let in gives up.
_REFUSED: Final = 5.0
# One that does not answer for so long is told of, and again each time that so much more has passed.
_SILENCE: Final = 3.0
_MORE_SILENCE: Final = 15.0
# How often in a lease each process is asked whether it does anything.
_ASKS: Final = 6
# The registrar is replaced while the leases that it gave last still hold: two thirds of one, and not less than this.
_REGISTRAR_HANGS: Final = 1.0
# All hosts end with the Admin, and go on without it.
_ADMIN_HANGS: Final = 10.0
# With so many questions unanswered, the Admin is to blame for what it did not create.
_SURELY: Final = 3
# A host that is no member yet may be importing what holds up all of its threads.
_START_HANGS: Final = 60.0
# What a drain leaves to hosts at least; shorter than what the supervisor adds to the drain.
_STOP: Final = 5.0
# For hosts when nobody waits any more, and for Admin and registrar, which have nothing to finish.
_GRACE: Final = 2.0

_HOST: Final = "verani_actors.processes.host_actor.RoomHostActor"
_REGISTRAR: Final = "verani_actors.processes.registrar_actor.RegistrarActor"


class _Host:
    """A host process of this machine."""

    def __init__(self, id: str, incarnation: str, address: ActorAddress) -> None:
        self.id = id
        self.incarnation = incarnation
        self.address = address
        self.process: Birth | None = None
        self.created = time.monotonic()
        self.kill_at: float | None = None
        # Whether it has ever been in a published epoch.
        self.has_served = False


class Launcher:
    """What one launcher knows: its processes, and where the registrar is."""

    def __init__(
        self,
        runtime: Runtime,
        plan: Plan,
        base: HardenedBase,
        system: ActorSystem,
        births: Announcements,
        port: int,
        leader: Leader | None,
    ) -> None:
        from . import hardened, parcel

        self._parcel = parcel.Parcel
        self._question = parcel.Question
        self._actor_address = hardened.actor_address
        self._runtime = runtime
        self._plan = plan
        self._base = base
        self._system = system
        self._births = births
        self._name = f"launcher:{plan.machine}"
        self._admin_port = port
        # None on the leader's own machine.
        self._leader = leader
        self._processes: dict[int, Birth] = {}
        self._hosts: dict[str, _Host] = {}
        self._registrar: ActorAddress | None = None
        self._own_registrar: Birth | None = None
        self._created_registrar = float("-inf")
        self._next_offer = 0.0
        self._next_question = 0.0
        self._period = plan.settings.lease / _ASKS
        # When the registrar was last heard, and when its silence was last told of, if that was since.
        self._heard = self._silent = time.monotonic()
        self._refused_since: float | None = None
        self._ended = False
        self._deaths: list[tuple[float, Gone]] = []
        # Incarnations that were given up before they had claimed their name.
        self._abandoned: set[str] = set()
        # Hosts of a launcher that was here before: they were killed with it, and nobody told the registrar.
        self._published = runtime.read_epoch()
        self._predecessors = [each for each in self._published.members if each.machine == plan.machine]
        self._cannot_publish = False
        # Whether a host of this launcher has ever been in a published epoch, and how many have died before one was.
        self._has_served = False
        self._futile = 0
        self._refusals = Refusals(logger, what="control message")
        self._admin: Birth | None = None
        self._stops = 0
        self._stopping = False
        self._orphaned = False
        self._failed = False
        self._bell, self._ringer = socket.socketpair()
        self._lifeline = _pipe_of_starter()
        if self._lifeline is not None:
            os.set_blocking(self._lifeline, False)

    def run(self) -> int:
        """Serve until told to stop; returns the exit code."""
        self._take_signals()
        self._take_births()
        if self._admin is None:
            self._admin = next(iter(self._processes.values()))
        while not (self._stops or self._orphaned or self._failed or self._ended):
            now = time.monotonic()
            if now >= self._next_question:
                self._next_question = now + self._period
                self._tell_starter(ALIVE)
                self._ask_all()
            if now >= self._next_offer:
                self._next_offer = now + _OFFER_PERIOD
                self._say_all(now)
            self._kill_overdue(now)
            self._step(max(0.0, min(self._next_offer, self._next_question) - now))
        self._stop()
        if self._failed:
            return 1
        return ENDED if self._ended else 0

    # --- what comes ---------------------------------------------------------------------------------------

    def _step(self, seconds: float) -> None:
        self._base.watch(self._descriptors())
        match self._base.receive(seconds):
            case list() as ready:
                self._look_at(ready)
            case (self._parcel() as parcel, sender):
                self._open(parcel, sender)
            case (self._question() as question, _):
                self._answered(question.name)
            case _:
                pass  # nothing, or Thespian's own news

    def _descriptors(self) -> list[int]:
        own = [self._bell.fileno(), self._births.descriptor, *self._processes]
        return own if self._lifeline is None else [*own, self._lifeline]

    def _look_at(self, ready: list[int]) -> None:
        if self._bell.fileno() in ready:
            self._bell.recv(4096)
        if self._lifeline in ready and self._lifeline is not None and not os.read(self._lifeline, 4096):
            self._lifeline = None
            self._orphaned = True
        # Births first: a process may have said its name and died since.
        self._take_births()
        for descriptor in ready:
            if (process := self._processes.pop(descriptor, None)) is not None:
                self._died(process)

    def _take_births(self) -> None:
        for birth in self._births.take():
            # A process without a name has just been forked, whoever had its pid before.
            known = next((each for each in self._processes.values() if each.pid == birth.pid), None)
            if birth.name and known is not None:
                known.name = birth.name
                birth.close()
                birth = known
            elif not birth.is_watched:
                # Its end would go unnoticed, and another of its name be started beside it.
                logger.error("process %d cannot be watched, as too many files are open: killing it", birth.pid)
                birth.kill()
                continue
            else:
                self._processes[birth.descriptor] = birth
            if birth.name in self._abandoned:
                birth.kill()
            if birth.name == "registrar":
                self._own_registrar = birth
            for host in self._hosts.values():
                if birth.name == host.incarnation:
                    host.process = birth

    def _died(self, process: Birth) -> None:
        process.close()
        if process is self._admin:
            logger.error("the actor system has lost its Admin, process %d", process.pid)
            self._failed = True
        elif process is self._own_registrar:
            logger.warning("the registrar, process %d, has died", process.pid)
            self._own_registrar = None
            self._registrar = None
            self._next_offer = 0.0
        elif (host := next((each for each in self._hosts.values() if each.process is process), None)) is not None:
            self._gone(host, process.pid)

    def _gone(self, host: _Host, pid: int) -> None:
        self._note_service()
        del self._hosts[host.id]
        has_left = self._runtime.farewell(host.incarnation).exists()
        death = _read_death(self._runtime, host.incarnation)
        if host.kill_at is None:
            how = "has ended without having been drained" if has_left else f"has died{_by(death)}"
            logger.warning("host %s, process %d, %s", host.id, pid, how)
            self._futile += 1
            if self._futile == _FUTILE and not self._has_served:
                logger.error("the room hosts of this machine do not start: see above")
                self._failed = True
        self._tell_death(Gone(host.id, host.incarnation, death))

    def _note_service(self) -> None:
        """Note that a host of this launcher is in the published epoch; those of one before it do not count."""
        members = {each.incarnation for each in self._published.members}
        for host in self._hosts.values():
            host.has_served = host.has_served or host.incarnation in members
        self._has_served = self._has_served or any(host.has_served for host in self._hosts.values())

    def _tell_death(self, gone: Gone) -> None:
        self._deaths.append((time.monotonic(), gone))
        self._tell_registrar(gone)

    # --- what the registrar says --------------------------------------------------------------------------

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
                self._meet(sender)
            case StartHost(id):
                if id not in self._hosts and not self._stopping:
                    self._start_host(id)
            case StopHost(id, incarnation):
                host = self._hosts.get(id)
                if host is not None and host.incarnation == incarnation and host.kill_at is None:
                    self._stop_host(host, self._plan.settings.drain_seconds)
            case Publish(epoch):
                self._publish(epoch)
            case Refused(reason):
                self._take_refusal(reason)
            case EndMachine():
                self._ended = True
            case _:
                logger.error("expected a message for a launcher, got %s", type(message).__name__)

    def _take_refusal(self, reason: str) -> None:
        """Say once why this machine is not let in, and end if that stays so: a name may be free again soon."""
        now = self._heard = self._silent = time.monotonic()
        if self._refused_since is None:
            self._refused_since = now
            logger.error("the registrar refuses this machine: %s", reason)
        elif now - self._refused_since > _REFUSED and self._registrar is None:
            self._failed = True

    def _publish(self, epoch: Epoch) -> None:
        """Write an epoch down; where that fails, it is tried again with the answer to the next offer."""
        try:
            self._published = self._runtime.read_epoch()
            # The registrar of the same machine writes it, too, and before anything of it is sent.
            if epoch.number > self._published.number:
                self._runtime.write_epoch(epoch)
                self._published = epoch
        except (OSError, msgspec.MsgspecError) as error:
            if not self._cannot_publish:
                logger.error("epoch %d cannot be written down for the gateways: %s", epoch.number, error)
            self._cannot_publish = True
        else:
            self._cannot_publish = False
        self._note_service()

    def _meet(self, registrar: ActorAddress) -> None:
        now = self._heard = self._silent = time.monotonic()
        self._refused_since = None
        if self._registrar != registrar:
            self._registrar = registrar
            self._deaths = [(now, gone) for _, gone in self._deaths]
            for host in self._hosts.values():
                self._introduce(host)

    def _introduce(self, host: _Host) -> None:
        """Tell a host where the registrar is; the first time, this lets it begin."""
        if self._registrar is not None:
            addresses = {"registrar": self._registrar}
            self._base.post(host.address, self._parcel(self._name, Welcome(self._plan.machine), addresses))

    def _start_host(self, id: str) -> None:
        incarnation = secrets.token_hex(8)
        address = self._create(_HOST, {"name": incarnation, "id": id, "incarnation": incarnation})
        if address is None:
            self._abandoned.add(incarnation)
        else:
            host = self._hosts[id] = _Host(id, incarnation, address)
            self._take_births()
            host.process = next((each for each in self._processes.values() if each.name == incarnation), None)
            self._introduce(host)

    def _stop_host(self, host: _Host, seconds: float) -> None:
        host.kill_at = time.monotonic() + seconds
        self._base.post(host.address, self._parcel(self._name, StopHost(host.id, host.incarnation)))

    def _create(self, actor: str, requirements: dict[str, Any]) -> ActorAddress | None:
        from thespian.actors import ActorSystemException

        try:
            return self._system.createActor(actor, {**requirements, "folder": str(self._runtime.folder)})
        except (ActorSystemException, ImportError) as error:
            logger.error("the actor system created no %s: %s", actor.rpartition(".")[2], error)
            if self._admin is not None and self._admin.unanswered > _SURELY:
                self._kill_hung(self._admin, "the Admin of the actor system")
            return None

    # --- who hangs ----------------------------------------------------------------------------------------

    def _ask_all(self) -> None:
        """Ask every process whether it does anything, and kill those that have not answered for too long."""
        lease = self._plan.settings.lease
        if self._admin is not None:
            self._ask(self._admin, "the Admin of the actor system", self._base.adminAddr, _ADMIN_HANGS)
        if self._own_registrar is not None and self._registrar is not None:
            patience = max(_REGISTRAR_HANGS, lease * 2 / 3)
            self._ask(self._own_registrar, "the registrar", self._registrar, patience)
        # Those that were told to stop have a deadline already, and say nothing on their way.
        for host in self._staying():
            if host.process is not None:
                patience = lease + MARGIN if host.has_served else _START_HANGS
                self._ask(host.process, f"host {host.id}", host.address, patience)

    def _ask(self, process: Birth, name: str, address: ActorAddress, patience: float) -> None:
        if process.unanswered * self._period >= patience:
            self._kill_hung(process, name)
        process.unanswered += 1
        self._base.post(address, self._question(process.name))

    def _kill_hung(self, process: Birth, name: str) -> None:
        logger.error("%s, process %d, hangs: killing it", name, process.pid)
        process.unanswered = 0
        process.kill()

    def _answered(self, name: str) -> None:
        """Take note that a process does something."""
        for process in self._processes.values():
            if process.name == name:
                process.unanswered = 0

    def _tell_starter(self, line: bytes) -> None:
        if self._lifeline is not None:
            with suppress(OSError):  # it does not read, or gave us a pipe that cannot be written
                os.write(self._lifeline, line)

    # --- what is said every second ------------------------------------------------------------------------

    def _say_all(self, now: float) -> None:
        if self._leader is None:
            self._keep_registrar(now)
            self._tell_registrar(self._offer())
        else:
            # The one address of the leader's machine that stays; its Admin passes the offer on.
            addresses = {self._name: self._base.address}
            self._base.post(self._admin_of(self._leader, now), self._parcel(self._name, self._offer(), addresses))
        if now - self._heard < _TELL_DEATHS:
            self._deaths = [(told, gone) for told, gone in self._deaths if now - told < _TELL_DEATHS]
        self._tell_of_silence(now)
        for _, gone in self._deaths:
            self._tell_registrar(gone)
        for member in [each for each in self._predecessors if _has_ended(each.pid)]:
            self._predecessors.remove(member)
            self._tell_death(Gone(member.id, member.incarnation, _read_death(self._runtime, member.incarnation)))
        for host in self._hosts.values():
            self._introduce(host)

    def _tell_of_silence(self, now: float) -> None:
        patience = _SILENCE if self._silent == self._heard else _MORE_SILENCE
        if self._plan.leader and now - self._silent > patience:
            self._silent = now
            logger.warning(
                "the registrar at %s does not answer: is it there, and is the cluster secret the same?",
                self._plan.leader,
            )

    def _admin_of(self, leader: Leader, now: float) -> ActorAddress:
        if now - self._heard > _LOST:
            leader.look_again(now)
        return self._actor_address(leader.address, leader.port)

    def _offer(self) -> Offer:
        plan, runtime = self._plan, self._runtime
        address = f"{plan.address}:{self._admin_port}"
        return Offer(plan.machine, address, plan.settings.hosts, runtime.folder.name, self._published, plan.definitions)

    def _keep_registrar(self, now: float) -> None:
        # Its claim comes a moment later; one that never comes must not make a second registrar at once.
        patience = _OFFER_PERIOD if self._registrar is None else 5 * _OFFER_PERIOD
        if self._own_registrar is None and now - self._created_registrar >= patience:
            self._created_registrar = now
            self._registrar = self._create(_REGISTRAR, {"name": "registrar"})
        if self._registrar is not None:
            addresses = {"launcher:": self._base.adminAddr}
            self._base.post(self._registrar, self._parcel("launcher:", Welcome(self._plan.machine), addresses))

    def _tell_registrar(self, message: Control) -> None:
        if self._registrar is not None:
            addresses = {self._name: self._base.address}
            self._base.post(self._registrar, self._parcel(self._name, message, addresses))

    def _kill_overdue(self, now: float) -> None:
        for host in list(self._hosts.values()):
            if host.process is None and now - host.created > _UNCLAIMED:
                # It has died before it could say its name, hence before it could beat: nobody knows of it.
                del self._hosts[host.id]
                self._abandoned.add(host.incarnation)
            elif host.process is not None and host.kill_at is not None and now >= host.kill_at:
                host.process.kill()

    # --- the end ------------------------------------------------------------------------------------------

    def _take_signals(self) -> None:
        # Only now: what was forked before must not inherit the handler.
        self._bell.setblocking(False)
        self._ringer.setblocking(False)
        signal.set_wakeup_fd(self._ringer.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGTERM, self._told_to_stop)
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as nohup does
            signal.signal(signal.SIGHUP, self._told_to_stop)

    def _told_to_stop(self, *_: object) -> None:
        self._stops += 1

    def _stop(self) -> None:
        """End every process: hosts in their own time, then the actor system, then what is left."""
        self._stopping = True
        self._tell_starter(ENDING)
        if not self._failed:
            grace = _GRACE if self._orphaned else max(_GRACE, self._plan.settings.drain_seconds)
            told, deadline = self._stops, time.monotonic() + grace
            if self._plan.leader and not self._orphaned:
                self._drain(told, deadline)
                deadline = max(deadline, time.monotonic() + _STOP)
            for host in self._staying():
                self._stop_host(host, deadline - time.monotonic())
            self._step_while(lambda: bool(self._hosts), told, deadline)
            self._base.begin_shutdown()
            deadline = time.monotonic() + _GRACE
            while self._processes and not self._failed and (left := deadline - time.monotonic()) > 0:
                self._step_quietly(left)
        self._take_births()
        for process in self._processes.values():
            process.kill()
        waiting = select.poll()
        for descriptor in self._processes:
            waiting.register(descriptor, select.POLLIN)
        deadline = time.monotonic() + _GRACE
        while self._processes and (left := deadline - time.monotonic()) > 0:
            for descriptor, _ in waiting.poll(left * 1000):
                waiting.unregister(descriptor)
                self._processes.pop(descriptor).close()

    def _drain(self, told: int, deadline: float) -> None:
        """Have the rooms go on elsewhere: the registrar, if it is there, takes them over and then stops each host."""
        while self._staying() and self._stops == told and (now := time.monotonic()) < deadline and self._is_led(now):
            self._say_all(now)
            members = {each.incarnation for each in self._published.members}
            for host in self._staying():
                if host.incarnation in members:
                    self._tell_registrar(DrainHost(host.id))
                else:  # it has no room to hand over, and may be waiting in a start-up hook
                    self._stop_host(host, deadline - now)
            self._step_while(lambda: bool(self._staying()), told, min(deadline, now + _OFFER_PERIOD))

    def _staying(self) -> list[_Host]:
        return [host for host in self._hosts.values() if host.kill_at is None]

    def _is_led(self, now: float) -> bool:
        """Tell whether the registrar, which answers every offer, was heard of late."""
        patience = max(self._plan.settings.lease, 2 * _OFFER_PERIOD)
        return self._registrar is not None and now - self._heard <= patience

    def _step_while(self, needed: Callable[[], bool], told: int, deadline: float) -> None:
        """Go on for as long as that is needed, nobody is in a hurry, and there is time."""
        while needed() and self._stops == told and (left := deadline - time.monotonic()) > 0:
            self._step(left)

    def _step_quietly(self, seconds: float) -> None:
        """Wait for processes that are meant to end."""
        self._base.watch([self._births.descriptor, *self._processes])
        ready = self._base.receive(seconds)
        if isinstance(ready, list):
            self._take_births()
            for descriptor in ready:
                if (process := self._processes.pop(descriptor, None)) is not None:
                    process.close()


def _read_death(runtime: Runtime, incarnation: str) -> Death | None:
    """Read what a dead host was doing, if it died of that, and remove its files."""
    note, slot = runtime.death_note(incarnation), runtime.slot(incarnation)
    try:
        death = read_slot(slot) if note.stat().st_size > 0 else None
    except OSError:
        death = None
    for path in (note, slot, Path(runtime.socket(incarnation)), runtime.farewell(incarnation)):
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


def _pipe_of_starter() -> int | None:
    """Return standard input if it is a pipe or a socket: it ends when the process that started this one does."""
    try:
        mode = os.fstat(0).st_mode
    except OSError:
        return None
    return 0 if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) else None


def main(arguments: list[str]) -> int:
    """Run a launcher for this runtime folder; whatever prevents it is told in one sentence."""
    starter = os.getppid()
    if len(arguments) != 1:
        print("usage: python -m verani_actors.processes.launcher RUNTIME_FOLDER", file=sys.stderr)  # noqa: T201
        return 2
    # Before anything of the user's can run, and before anything is forked.
    secret = os.environ.pop(SECRET, "")
    runtime = Runtime(arguments[0])
    try:
        plan = runtime.read_plan()
    except OSError as error:
        print(f"no plan in {arguments[0]}: {error.strerror}", file=sys.stderr)  # noqa: T201
        return 1
    log_to_stderr(plan.settings.log_level)
    # The terminal's Ctrl-C is for the supervisor.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    die_with_parent(starter)
    try:
        return _launch(runtime, plan, secret.encode())
    except VeraniError as error:
        logger.error("%s", error)
        return 1


def _launch(runtime: Runtime, plan: Plan, secret: bytes) -> int:
    if sys.platform != "linux":
        raise VeraniError(f"several processes (hosts) need Linux, this is {sys.platform}")
    if not secret:
        raise VeraniError(f"expected a cluster secret in {SECRET}")
    address = resolve(plan.address)
    held = hold_port(address, plan.admin_port)
    port = int(held.getsockname()[1])
    os.register_at_fork(after_in_child=held.close)
    prepare(address)
    # Only now, because Thespian reads the environment when it is imported. The rest is imported for the hosts: they
    # are forked with it.
    from thespian.actors import ActorSystemException

    from . import hardened, host_actor, registrar_actor  # noqa: F401

    hardened.harden(secret)
    births = tie_children()
    capabilities = {"Admin Port": port, "Verani Machine": plan.machine}
    leader = Leader(plan.leader) if plan.leader else None
    if leader is not None:
        capabilities["Convention Address.IPv4"] = f"{leader.address}:{leader.port}"
    try:
        base, system = hardened.start(capabilities, plan.settings.log_level)
    except ActorSystemException as error:
        raise VeraniError(f"the actor system did not start at {address}:{port}: {error}") from error
    held.close()
    return Launcher(runtime, plan, base, system, births, port, leader).run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

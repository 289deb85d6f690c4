"""A service of simulated machines: the real registrar and leases, and hosts, launchers and a network that are models.

Everything happens on a virtual clock, in an order that a seed decides. After every event that may let a process serve
more, it is compared with all others: at most one process serves a room.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Iterator

from verani.link.epoch import Epoch, Member
from verani_actors.membership.control import (
    Beat,
    Beaten,
    Commit,
    Control,
    DrainHost,
    Gone,
    Knock,
    Offer,
    Prepare,
    Prepared,
    Publish,
    StartHost,
    StopHost,
    Vouch,
)
from verani_actors.membership.lease import Lease
from verani_actors.membership.registrar import Registrar

__all__ = ["LEASE", "REGISTRAR", "ROOMS", "Cluster", "TwoOwners"]

LEASE = 3.0
ROOMS = [f"chat/{n}" for n in range(48)]
TICK = 0.1
REGISTRAR = "registrar"


class TwoOwners(AssertionError):
    """Two processes serve one room."""


class Process:
    """Something that runs on a machine, may be stopped, and may die."""

    def __init__(self, cluster: Cluster, key: str, machine: str) -> None:
        self.cluster = cluster
        self.key = key
        self.machine = machine
        self.alive = True
        self.backlog: list[Callable[[], None]] | None = None
        # Monotonic clocks begin anywhere and are not exact.
        self._offset = cluster.chance.uniform(0, 1e4)
        self._rate = cluster.chance.uniform(0.999, 1.001)

    def clock(self) -> float:
        return self._offset + self.cluster.now * self._rate

    def run(self, work: Callable[[], None]) -> None:
        """Do this now, after being continued, or never."""
        if not self.alive:
            return
        if self.backlog is not None:
            self.backlog.append(work)
            return
        work()

    def after(self, seconds: float, work: Callable[[], None]) -> None:
        self.cluster.at(self.cluster.now + seconds, lambda: self.run(work))

    def every(self, seconds: float, work: Callable[[], None]) -> None:
        def again() -> None:
            work()
            self.after(seconds, again)

        self.after(self.cluster.chance.uniform(0, seconds), again)

    def stop(self) -> None:
        if self.alive and self.backlog is None:
            self.backlog = []

    def go_on(self) -> None:
        if self.alive and self.backlog is not None:
            backlog, self.backlog = self.backlog, None
            for work in backlog:
                self.run(work)

    def hear(self, sender: str, message: Control) -> None:
        raise NotImplementedError


class HostProcess(Process):
    """The model of a room host: what it does with epochs, without rooms.

    It serves what it owns in the epoch it committed and in every newer one that it was asked to prepare: what was given
    up once stays given up until that epoch or a newer one is committed.
    """

    def __init__(self, cluster: Cluster, id: str, machine: str, incarnation: str) -> None:
        super().__init__(cluster, f"host:{incarnation}", machine)
        self.member = Member(id, incarnation, machine, 1, "")
        self.lease = Lease(machine, LEASE, self.clock)
        self.committed = Epoch()
        self.preparing: list[Epoch] = []
        self.ready = 0
        self.every(LEASE / 6, self.beat)

    def beat(self) -> None:
        self.say(REGISTRAR, Beat(self.member, self.clock(), self.committed, self.prepared, self.lease.vouched_ago))
        if self.lease.lost_registrar and self.committed.number:
            others = {member.machine: member for member in self.cluster.shuffled(self.committed.members)}
            for machine, member in others.items():
                if machine != self.machine:
                    knock = Knock(self.machine, self.clock(), self.committed.number)
                    self.say(f"host:{member.incarnation}", knock)

    @property
    def prepared(self) -> int:
        return self.preparing[-1].number if self.preparing else self.committed.number

    def say(self, to: str, message: Control) -> None:
        self.cluster.send(self, to, message)

    def hear(self, sender: str, message: Control) -> None:
        match message:
            case Beaten(sent):
                self.lease.beaten(sent)
            case Prepare(epoch):
                self.prepare(epoch)
            case Commit(epoch):
                if epoch.number > self.committed.number:
                    self.committed = epoch
                    self.preparing = [newer for newer in self.preparing if newer.number > epoch.number]
                    self.lease.until(epoch)
            case Knock(_, sent, number):
                if self.lease.may_vouch(number, self.prepared):
                    self.say(sender, Vouch(self.machine, sent))
            case Vouch(machine, sent):
                self.lease.vouched(machine, sent)
            case _:
                raise AssertionError(message)
        self.cluster.check(self)

    def prepare(self, epoch: Epoch) -> None:
        if epoch.number > self.prepared:
            self.lease.voted(epoch.number)
            self.preparing.append(epoch)
            self.after(self.cluster.chance.choice([0.0, 0.05, 0.4]), lambda: self.done(epoch.number))
        elif epoch.number == self.ready:
            self.say(REGISTRAR, Prepared(self.member.id, self.member.incarnation, epoch.number))

    def done(self, number: int) -> None:
        if number == self.prepared and self.preparing:
            self.ready = number
            self.say(REGISTRAR, Prepared(self.member.id, self.member.incarnation, number))

    def serving(self) -> frozenset[str]:
        if not self.alive or self.backlog is not None or not self.lease.serves(self.committed):
            return frozenset()
        owned = self.cluster.owned(self.committed, self.member)
        for epoch in self.preparing:
            owned &= self.cluster.owned(epoch, self.member)
        return owned


class LauncherProcess(Process):
    """The model of a launcher: starts hosts, and tells of their end."""

    def __init__(self, cluster: Cluster, machine: str, hosts: int) -> None:
        super().__init__(cluster, f"launcher:{machine}", machine)
        self.hosts = hosts
        # What the gateways of the machine hold.
        self.epoch = Epoch()
        self.running: dict[str, HostProcess] = {}
        self.every(1.0, self.offer)

    def offer(self) -> None:
        self.cluster.send(self, REGISTRAR, Offer(self.machine, f"{self.machine}:1900", self.hosts, "", self.epoch))

    def hear(self, sender: str, message: Control) -> None:
        match message:
            case StartHost(id):
                if id not in self.running:
                    self.running[id] = self.cluster.start_host(id, self.machine)
            case StopHost(id, incarnation):
                host = self.running.get(id)
                if host is not None and host.member.incarnation == incarnation:
                    self.cluster.kill(host)
            case Publish(epoch):
                if epoch.number > self.epoch.number:
                    self.epoch = epoch
            case _:
                raise AssertionError(message)

    def bury(self, host: HostProcess) -> None:
        if self.running.get(host.member.id) is host:
            del self.running[host.member.id]
            self.cluster.send(self, REGISTRAR, Gone(host.member.id, host.member.incarnation))


class RegistrarProcess(Process):
    """The shell of the real registrar; it writes down what its own machine is to publish before it sends the rest."""

    def __init__(self, cluster: Cluster, machine: str) -> None:
        super().__init__(cluster, f"registrar:{cluster.number()}", machine)
        self.registrar = Registrar(machine, LEASE, 30.0, now=self.clock(), known=cluster.known)
        self.every(TICK, lambda: self.carry(self.registrar.tick(self.clock())))

    def hear(self, sender: str, message: Control) -> None:
        self.carry(self.registrar.receive(sender, message, self.clock()))

    def carry(self, letters: list[tuple[str, Control]]) -> None:
        for to, message in letters:
            if isinstance(message, Publish) and to == f"launcher:{self.machine}":
                self.cluster.known = message.epoch
            self.cluster.send(self, to, message)


class Cluster:
    """All processes, the network between them, and the invariant."""

    def __init__(self, machines: dict[str, int], seed: int, *, check: bool = True) -> None:
        self.chance = random.Random(seed)
        self.now = 0.0
        self.checking = check
        self.known: Epoch | None = None
        self.leader = next(iter(machines))
        self.hosts_of = machines
        self.processes: dict[str, Process] = {}
        self.cuts: set[tuple[str, str]] = set()
        self.loss = 0.0
        self.slow = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._counter = 0
        self._rooms: dict[tuple[int, str], frozenset[str]] = {}
        for machine in machines:
            self.start_machine(machine)

    # Time.

    def number(self) -> int:
        self._counter += 1
        return self._counter

    def at(self, when: float, work: Callable[[], None]) -> None:
        heapq.heappush(self._events, (when, self.number(), work))

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while self._events and self._events[0][0] <= end:
            when, _, work = heapq.heappop(self._events)
            self.now = when
            work()
        self.now = end

    def run_until(self, condition: Callable[[], bool], most: float) -> float:
        begin = self.now
        while not condition():
            assert self.now - begin < most, f"did not happen within {most} s"
            self.run(0.01)
        return self.now - begin

    # Processes.

    def start_machine(self, machine: str) -> None:
        self.add(LauncherProcess(self, machine, self.hosts_of[machine]))
        if machine == self.leader:
            self.start_registrar()

    def start_registrar(self) -> None:
        if not any(isinstance(process, RegistrarProcess) for process in self.living()):
            self.processes[REGISTRAR] = self.add(RegistrarProcess(self, self.leader))

    def start_host(self, id: str, machine: str) -> HostProcess:
        host = HostProcess(self, id, machine, f"{self.number():x}")
        self.add(host)
        return host

    def add(self, process: Process) -> Process:
        self.processes[process.key] = process
        return process

    def living(self) -> Iterator[Process]:
        return (process for process in list(self.processes.values()) if process.alive)

    def hosts(self) -> list[HostProcess]:
        return [process for process in self.living() if isinstance(process, HostProcess)]

    def host(self, id: str) -> HostProcess:
        return [host for host in self.hosts() if host.member.id == id][-1]

    @property
    def registrar(self) -> RegistrarProcess:
        process = self.processes[REGISTRAR]
        assert isinstance(process, RegistrarProcess)
        return process

    def launcher(self, machine: str) -> LauncherProcess | None:
        process = self.processes.get(f"launcher:{machine}")
        return process if isinstance(process, LauncherProcess) and process.alive else None

    def kill(self, process: Process) -> None:
        process.alive = False
        for key in [key for key, value in self.processes.items() if value is process]:
            del self.processes[key]
        if isinstance(process, HostProcess):
            launcher = self.launcher(process.machine)
            if launcher is not None:
                launcher.after(0.05, lambda: launcher.bury(process))

    def kill_machine(self, machine: str) -> None:
        for process in list(self.living()):
            if process.machine == machine:
                process.alive = False
        self.processes = {key: process for key, process in self.processes.items() if process.alive}

    # The network.

    def send(self, sender: Process, to: str, message: Control) -> None:
        receiver = self.processes.get(to)
        if receiver is None or self.is_cut(sender, receiver):
            return
        for _ in range(1 + (self.chance.random() < self.loss / 2)):
            if self.chance.random() < self.loss:
                continue
            delay = self.chance.uniform(0.0005, 0.02)
            if self.chance.random() < self.slow:
                delay += self.chance.expovariate(0.5)
            self.at(self.now + delay, lambda: self.arrive(sender, receiver, message))

    def arrive(self, sender: Process, receiver: Process, message: Control) -> None:
        if not self.is_cut(sender, receiver):
            receiver.run(lambda: receiver.hear(sender.key, message))

    def is_cut(self, one: Process, other: Process) -> bool:
        if not self.cuts:
            return False
        return any((a, b) in self.cuts for a in self.names(one) for b in self.names(other))

    def names(self, process: Process) -> tuple[str, ...]:
        """Cuts are between machines, ids of hosts and the registrar."""
        if isinstance(process, HostProcess):
            return (process.machine, process.member.id)
        return (process.machine, REGISTRAR) if isinstance(process, RegistrarProcess) else (process.machine,)

    def cut(self, one: str, other: str, *, one_way: bool = False) -> None:
        self.cuts.add((one, other))
        if not one_way:
            self.cuts.add((other, one))

    def shuffled(self, members: tuple[Member, ...]) -> list[Member]:
        return self.chance.sample(members, len(members))

    # What is asked of it.

    def drain(self, id: str) -> None:
        letters = self.registrar.registrar.receive("host:x", DrainHost(id), self.registrar.clock())
        self.registrar.run(lambda: self.registrar.carry(letters))

    def owned(self, epoch: Epoch, member: Member) -> frozenset[str]:
        key = (epoch.number, member.incarnation)
        if key not in self._rooms:
            self._rooms[key] = frozenset(room for room in ROOMS if epoch.owns(member.incarnation, room))
        return self._rooms[key]

    def check(self, host: HostProcess) -> None:
        if not self.checking:
            return
        mine = host.serving()
        if not mine:
            return
        for other in self.hosts():
            if other is not host and (both := mine & other.serving()):
                raise TwoOwners(f"at {self.now:.3f} {min(both)}: {self.tell(host)} and {self.tell(other)}")

    def check_all(self) -> None:
        for host in self.hosts():
            self.check(host)

    def tell(self, host: HostProcess) -> str:
        member, clock = host.member, host.clock()
        left = host.lease.until(host.committed) - clock
        return f"{member.id}/{member.incarnation} in {host.committed.number}/{host.prepared}, {left:.2f} s left"

    def heal(self) -> None:
        self.cuts.clear()
        self.loss = self.slow = 0.0
        for process in list(self.living()):
            process.go_on()
        for machine in self.hosts_of:
            if self.launcher(machine) is None:
                self.start_machine(machine)
        self.start_registrar()
        self.check_all()

    def served(self) -> frozenset[str]:
        return frozenset(room for host in self.hosts() for room in host.serving())

    @property
    def members(self) -> set[str]:
        return {member.id for member in self.registrar.registrar.committed.members}

    def wanted(self) -> set[str]:
        ids = {f"{machine}-{n}" for machine, hosts in self.hosts_of.items() for n in range(hosts)}
        return ids - self.registrar.registrar.draining

    def is_whole(self) -> bool:
        """Tell whether all hosts that should be are members and all rooms are served."""
        living = {host.member.incarnation for host in self.hosts()}
        members = {member.incarnation for member in self.registrar.registrar.committed.members}
        served = self.served() == frozenset(ROOMS) or not self.wanted()
        return self.members == self.wanted() and members <= living and served

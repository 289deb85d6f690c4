"""Decide who is a member, and from which epoch on: the registrar's core.

Messages and the time go in, messages come out; it sends nothing itself, reads no clock and knows no actor. Its shell
(`verani_actors.processes.registrar_actor`) calls `tick` every 50 ms and carries the rest.

Senders and destinations are `host:<incarnation>` and `launcher:<machine>`.

Invariants, which `verani_actors.membership.lease` proves to be enough for one owner of a room at a time:

- Numbers are used once. A new registrar begins a new thousand, above whatever its predecessor may have said. So does
  one that finds, at a machine that offers, an epoch of a service that was there before.
- What is committed is known to the next registrar. So the first message of a commit is `Publish` to the own machine;
  the shell writes it down before it sends anything that follows, and hands it to the next one as `known`.
- There is one registrar process at a time.
- Who loses a room in an epoch has prepared it, is known to be dead, or has no lease any more when it is committed.
- Only members get `Beaten`; who was removed never becomes a member again, but is stopped and started anew.
- Joins and drains (every member prepares) are never in one epoch with evictions (a majority of machines does).
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import TypeVar
from urllib.parse import urlsplit

from verani.link.epoch import Death, Epoch, Member

from .control import (
    Beat,
    Beaten,
    Commit,
    Control,
    DrainHost,
    EndMachine,
    Gone,
    Offer,
    Prepare,
    Prepared,
    Publish,
    StartHost,
    StopHost,
)

__all__ = ["Registrar"]

logger = logging.getLogger(__name__)

# Between the end of a lease and the commit that counts on it: clocks drift, and a check is followed by a write.
MARGIN = 1.0
# Joins that come within this time are one change.
JOIN_TOGETHER = 0.1
# How long the first epoch waits for hosts that are slow to start.
FIRST_PATIENCE = 2.0
# A restart follows at once, unless the same id died within this time; then after these delays.
RESTART_MEMORY = 60.0
RESTART_FIRST = 0.1
RESTART_LONGEST = 10.0
# A launcher offers every second; one that was silent for so long has ended.
OFFERS_STOPPED = 3.0
DEATH_MEMORY = 60.0
DEATHS_KEPT = 32
# A machine, or a process that was removed, of which nothing was heard for so long does not come back under that name:
# pods get new ones.
ABSENCE_MEMORY = 600.0
# Numbers of one registrar process; far more than one prepares between two commits.
GENERATION = 1000

Letters = list[tuple[str, Control]]
_Key = TypeVar("_Key")


class Change(Enum):
    """What a proposed epoch is for, hence whose answers it needs."""

    PLANNED = "planned"
    EVICTION = "eviction"


@dataclass(slots=True)
class _Host:
    """A process that beats, or that is a member and should."""

    member: Member
    # When it was last heard, or began to be counted.
    heard: float
    first: float
    # Its own clock in its last Beat; None where this registrar has heard none.
    sent: float | None = None
    prepared: int = 0
    # The epoch it is in; 0 until it is a member.
    epoch: int = 0
    # When every vouch it has told of has surely ended.
    vouches_end: float = float("-inf")
    # Those it was linked to at its last Beat.
    gateways: frozenset[str] = frozenset()


@dataclass(slots=True)
class _Proposal:
    """An epoch on its way, and who has answered; nobody acts on it before the commit."""

    change: Change
    epoch: Epoch
    since: float
    answered: set[str] = field(default_factory=set)
    # Whether the log knows that it takes long.
    warned: bool = False


@dataclass(slots=True)
class _Launcher:
    address: str
    service: str
    hosts: int
    heard: float


@dataclass(slots=True)
class _Restart:
    at: float
    died: float
    delay: float = 0.0
    asked: bool = False


class Registrar:
    """The one registrar of a service, on `machine`; `known` is the last epoch that was published there.

    Without one, this may be a service that was started anew while hosts of other machines go on: it listens for them
    for `patience` seconds before its first epoch.
    """

    def __init__(
        self,
        machine: str,
        lease: float,
        drain_seconds: float,
        *,
        now: float,
        known: Epoch | None = None,
        patience: float = 0.0,
        definitions: Iterable[str] = (),
    ) -> None:
        self.machine = machine
        self.lease = lease
        self.drain_seconds = drain_seconds
        known = known if known is not None and known.number > 0 else None
        self.committed = known or Epoch(registrar=machine)
        self._top = self.committed.number
        self._began = now
        self._patience = patience
        self._called = now
        # No eviction before: vouches of those who left, or that an earlier registrar knew of, end by then.
        self._quiet = now + lease + MARGIN
        # Until when a new registrar listens for what the last one knew; None once it has published itself.
        self._collecting: float | None = now + lease if known else None
        # Whether `committed` is surely the last one: only then are leases given while collecting.
        self._sure = known is not None
        self._hosts: dict[str, _Host] = {}
        self._gone: dict[str, float] = {}
        # Processes that were members, and when they were removed or last heard; they are stopped wherever they show up.
        self._outcasts: dict[str, float] = {}
        # What the members were linked to, as long as there were any.
        self._gateways: tuple[str, ...] = ()
        self._launchers: dict[str, _Launcher] = {}
        # Machines and addresses that the log has named, and when they last asked.
        self._refused: dict[tuple[str, str], float] = {}
        self._definitions = frozenset(definitions)
        # Whether somebody has ended the whole service, and which machines were told so.
        self._ending = False
        self._told_to_end: set[str] = set()
        self._restarts: dict[str, _Restart] = {}
        self._drained: set[str] = set()
        # Those of them that are to be started anew once their process has ended.
        self._returning: set[str] = set()
        self._deaths: list[tuple[float, Death]] = []
        self._proposal: _Proposal | None = None
        self._expect(self.committed.members, now)

    @property
    def draining(self) -> frozenset[str]:
        """Ids that are to give up their rooms, or have done so."""
        return frozenset(self._drained)

    def receive(self, sender: str, message: Control, now: float) -> Letters:
        """Take one message; answer with what is to be sent, in this order."""
        self._notice_gap(now)
        match message:
            case Offer():
                return self._offered(message, now)
            case Beat() if sender == _to(message.member):
                return self._beat(message, now)
            case Prepared():
                return self._prepared(message, now)
            case Gone():
                return self._ended(message, now)
            case DrainHost(again=True):
                return self._restart(sender, message.id, now)
            case DrainHost(id):
                self._ending |= not id
                gone = {id} if id else self._ids()
                self._drained |= gone
                self._returning -= gone
                return self._advance(now)
            case _:
                logger.warning("registrar ignores %s from %s", type(message).__name__, sender)
                return []

    def tick(self, now: float) -> Letters:
        """Do what has become due."""
        self._notice_gap(now)
        return [*self._start_due(now), *self._advance(now)]

    # What comes in.

    def _forget_drains(self, machine: str) -> None:
        self._drained -= {id for id in self._drained if _machine_of(id) == machine}
        self._returning &= self._drained

    def _restart(self, sender: str, id: str, now: float) -> Letters:
        """Drain a host that is to come back; what a member of an earlier life has said does not count."""
        if id not in self._drained and any(sender == _to(member) for member in self.committed.members):
            self._drained.add(id)
            self._returning.add(id)
        return self._advance(now)

    def _notice_gap(self, now: float) -> None:
        """Count silence anew after a pause of our own: what the hosts said meanwhile lies unread."""
        if now - self._called > self.lease / 6:
            for host in self._hosts.values():
                host.heard = now
            for launcher in self._launchers.values():
                launcher.heard = now
        self._called = now

    def _offered(self, offer: Offer, now: float) -> Letters:
        if self.refusal(offer, now) is not None:
            return []
        launcher = self._launchers.get(offer.machine)
        if launcher is not None and (launcher.address, launcher.service) != (offer.address, offer.service):
            # The machine has come back; what was drained there was drained in its former life.
            self._forget_drains(offer.machine)
        self._launchers[offer.machine] = _Launcher(offer.address, offer.service, offer.hosts, now)
        to = f"launcher:{offer.machine}"
        letters: Letters = [(to, Publish(self.committed))] if self.committed.number else []
        letters += self._outrun(offer.epoch, now)
        if self._ends(offer.machine, now):
            letters.append((to, EndMachine()))
        return [*letters, *((to, StartHost(id)) for id in self._missing(offer.machine, now)), *self._advance(now)]

    def _outrun(self, epoch: Epoch, now: float) -> Letters:
        """Go on above what gateways hold of a service that was there before: they would ignore a lower number.

        One of the same number is ours if its processes are. What else it says is not compared, as an older version may
        not have kept it.
        """
        if epoch.number == 0 or epoch.number < self.committed.number:
            return []
        if epoch.number == self.committed.number and _processes(epoch) == _processes(self.committed):
            return []
        self._top = max(self._top, _thousand_after(epoch.number))
        if self.committed.number == 0 or self._collecting is not None:
            return []  # what is committed next is above it
        return self._commit(self._next(self.committed.members, now), now)

    def refusal(self, offer: Offer, now: float) -> str | None:
        """Say why a machine is not let in, None if it is; such an offer is not to be answered with a welcome."""
        reason = None
        launcher = self._launchers.get(offer.machine)
        if launcher is not None and launcher.address != offer.address and now - launcher.heard <= self.lease:
            reason = f"{launcher.address} has the name {offer.machine}; --machine gives another one"
        elif self._definitions and offer.definitions and self._definitions.isdisjoint(offer.definitions):
            reason = f"it serves {', '.join(offer.definitions)}, this service {', '.join(sorted(self._definitions))}"
        if reason is not None:
            if (offer.machine, offer.address) not in self._refused:
                logger.warning("machine %s at %s is refused: %s", offer.machine, offer.address, reason)
            self._refused[offer.machine, offer.address] = now
        return reason

    def _ends(self, machine: str, now: float) -> bool:
        """Tell whether the service has ended for this machine; the registrar's own goes last."""
        if not self._ending or self.committed.members:
            return False
        lively = {name for name, launcher in self._launchers.items() if now - launcher.heard <= OFFERS_STOPPED}
        if machine == self.machine and lively - self._told_to_end - {machine}:
            return False
        self._told_to_end.add(machine)
        return True

    def _beat(self, beat: Beat, now: float) -> Letters:
        incarnation = beat.member.incarnation
        if incarnation in self._gone:
            return []
        self._note(beat, now)
        if beat.epoch.number > self.committed.number:
            self._adopt(beat.epoch, now)
        # First: a proposal to remove who is heard again is taken back before there is a new lease.
        letters = self._advance(now)
        if self._is_member(incarnation):
            self._note_gateways()
            if self._sure:
                letters.append((_to(beat.member), Beaten(beat.sent)))
            if beat.epoch.number < self.committed.number:
                letters.append((_to(beat.member), self._commitment()))
        elif self._is_outcast(beat):
            self._outcasts[incarnation] = now
            # Never Beaten: it would serve by its old epoch if the commit were lost.
            letters.append((_to(beat.member), Commit(self.committed)))
            letters.append((f"launcher:{beat.member.machine}", StopHost(beat.member.id, incarnation)))
        return [*letters, *self._ask_again(beat.member)]

    def _note(self, beat: Beat, now: float) -> None:
        host = self._hosts.setdefault(beat.member.incarnation, _Host(beat.member, now, now))
        host.heard = now
        host.sent = beat.sent if host.sent is None else max(host.sent, beat.sent)
        host.prepared = max(host.prepared, beat.prepared)
        host.epoch = max(host.epoch, beat.epoch.number)
        host.gateways = frozenset(beat.gateways)
        if beat.vouched is not None:
            host.vouches_end = max(host.vouches_end, now - beat.vouched + self.lease + MARGIN)
        self._top = max(self._top, beat.epoch.number, beat.prepared)

    def _prepared(self, answer: Prepared, now: float) -> Letters:
        proposal = self._proposal
        if proposal is None or answer.number != proposal.epoch.number:
            return self._advance(now)
        proposal.answered.add(answer.incarnation)
        for host in self._successors(proposal):
            if host.member.incarnation == answer.incarnation:
                (dead,) = (member.incarnation for member in self.committed.members if member.id == answer.id)
                return self._ended(Gone(answer.id, dead), now)
        return self._advance(now)

    def _ended(self, gone: Gone, now: float) -> Letters:
        if gone.incarnation in self._gone:
            return []
        self._gone[gone.incarnation] = now
        self._hosts.pop(gone.incarnation, None)
        self._outcasts.pop(gone.incarnation, None)
        if gone.death is not None:
            self._deaths = [*self._deaths, (now, gone.death)][-DEATHS_KEPT:]
        if gone.id in self._returning:
            self._returning.discard(gone.id)
            self._drained.discard(gone.id)
            self._restarts[gone.id] = _Restart(now, now)
        elif all(host.member.id != gone.id for host in self._hosts.values()):
            self._plan_restart(gone.id, now)
        letters: Letters = []
        if self._is_member(gone.incarnation):
            left = (member for member in self.committed.members if member.incarnation != gone.incarnation)
            self._keep_quiet(now)
            # A proposal under way goes on for who is left, under a newer number.
            letters = self._commit(self._next(left, now), now)
        return [*letters, *self._start_due(now), *self._advance(now)]

    # Processes.

    def _ids(self) -> set[str]:
        offered = {id for machine in self._launchers for id in self._offered_ids(machine)}
        return offered | {host.member.id for host in self._hosts.values()}

    def _offered_ids(self, machine: str) -> Iterator[str]:
        return (f"{machine}-{n}" for n in range(self._launchers[machine].hosts))

    def _missing(self, machine: str, now: float) -> list[str]:
        """Find offered ids that no process beats for. The launcher ignores those that run, so asking twice is free."""
        beating = {host.member.id for host in self._hosts.values() if not self._is_silent(host, now)}
        return [
            id
            for id in self._offered_ids(machine)
            if id not in beating
            and id not in self._drained
            and (id not in self._restarts or self._restarts[id].at <= now)
        ]

    def _plan_restart(self, id: str, now: float) -> None:
        last = self._restarts.get(id)
        if last is None or now - last.died > RESTART_MEMORY:
            self._restarts[id] = _Restart(now, now)
        else:
            delay = min(max(RESTART_FIRST, last.delay * 2), RESTART_LONGEST)
            self._restarts[id] = _Restart(now + delay, now, delay)

    def _start_due(self, now: float) -> Letters:
        """Start again what died, when its delay is over; the machine's next Offers repeat it until the host beats."""
        letters: Letters = []
        for id, restart in self._restarts.items():
            machine = _machine_of(id)
            if restart.asked or restart.at > now or machine not in self._launchers:
                continue
            restart.asked = True
            if id in self._missing(machine, now):
                letters.append((f"launcher:{machine}", StartHost(id)))
        return letters

    # Membership.

    def _expect(self, members: Iterable[Member], now: float) -> None:
        for member in members:
            self._hosts.setdefault(member.incarnation, _Host(member, now, now))

    def _is_member(self, incarnation: str) -> bool:
        return any(member.incarnation == incarnation for member in self.committed.members)

    def _is_silent(self, host: _Host, now: float) -> bool:
        return now - host.heard > self.lease

    def _is_outcast(self, beat: Beat) -> bool:
        """Tell whether this process was a member and is none any more: evicted, drained, or of another service."""
        known = beat.member.incarnation in self._outcasts or beat.epoch.number > 0
        return known and self._collecting is None

    def _keep_quiet(self, now: float) -> None:
        # With one or two machines nobody can serve by vouches.
        if len(self.committed.machines) > 2:
            self._quiet = now + self.lease + MARGIN

    def _adopt(self, epoch: Epoch, now: float) -> None:
        """Take over what a host has committed and we did not know: our memory is lost, so listen for a whole lease."""
        self.committed = epoch
        self._sure = False
        self._collecting = now + self.lease
        self._quiet = now + self.lease + MARGIN
        self._proposal = None
        self._expect(epoch.members, now)

    def _advance(self, now: float) -> Letters:
        self._forget(now)
        if self._collecting is not None:
            return self._collect(now)
        if self.committed.number == 0:
            return self._first(now)
        if self._proposal is not None and self._holds(self._proposal, now):
            self._warn_of_slow(self._proposal, now)
            return self._commit(self._proposal.epoch, now) if self._is_agreed(self._proposal, now) else []
        return self._propose(now)

    def _forget(self, now: float) -> None:
        self._deaths = [(at, death) for at, death in self._deaths if now - at < DEATH_MEMORY]
        members = {member.incarnation for member in self.committed.members}
        for incarnation in [key for key, host in self._hosts.items() if key not in members]:
            if self._is_silent(self._hosts[incarnation], now):
                del self._hosts[incarnation]
        _drop_older(self._gone, now - RESTART_MEMORY)
        _drop_older(self._outcasts, now - ABSENCE_MEMORY)
        _drop_older(self._refused, now - ABSENCE_MEMORY)
        # What died so long ago is started again at once, as if for the first time.
        for id in [id for id, each in self._restarts.items() if now - max(each.died, each.at) > RESTART_MEMORY]:
            del self._restarts[id]
        for machine in [name for name, each in self._launchers.items() if now - each.heard > ABSENCE_MEMORY]:
            self._forget_machine(machine)

    def _forget_machine(self, machine: str) -> None:
        """Forget a machine that is gone, unless hosts of it are heard still."""
        if all(host.member.machine != machine for host in self._hosts.values()):
            del self._launchers[machine]
            self._told_to_end.discard(machine)
            self._forget_drains(machine)

    def _collect(self, now: float) -> Letters:
        assert self._collecting is not None
        heard = all(self._hosts[member.incarnation].sent is not None for member in self.committed.members)
        early = heard and (self._sure or self.committed.machines == {self.machine})
        if not early and now < self._collecting:
            return []
        self._collecting = None
        self._sure = True
        self._top = _thousand_after(self._top)
        return self._commit(self._next(self.committed.members, now), now)

    def _first(self, now: float) -> Letters:
        joining = self._joining(now)
        own = self._launchers.get(self.machine)
        wanted = set(self._offered_ids(self.machine)) - self._drained if own is not None else set()
        complete = bool(wanted) and wanted <= {member.id for member in joining}
        if not joining or now - self._began < self._patience:
            return []
        if not complete and now - self._began < FIRST_PATIENCE:
            return []
        self._sure = True
        return self._commit(self._next(joining, now), now)

    def _joining(self, now: float) -> list[Member]:
        """Find processes that want to be members and whose id no member has; the youngest of each id."""
        taken = {member.id for member in self.committed.members} | self._drained
        found: dict[str, _Host] = {}
        for host in self._hosts.values():
            wants = host.sent is not None and host.epoch == 0 and host.member.incarnation not in self._outcasts
            if not wants or self._is_silent(host, now) or host.member.id in taken:
                continue
            if host.member.id not in found or found[host.member.id].first < host.first:
                found[host.member.id] = host
        return [host.member for host in found.values()]

    def _silent(self, now: float) -> set[str]:
        members = (self._hosts[member.incarnation] for member in self.committed.members)
        return {host.member.incarnation for host in members if self._is_silent(host, now)}

    def _holds(self, proposal: _Proposal, now: float) -> bool:
        """Tell whether what is proposed is still what is wanted."""
        silent = self._silent(now)
        proposed = {member.incarnation for member in proposal.epoch.members}
        if proposal.change is Change.EVICTION:
            return silent == {member.incarnation for member in self.committed.members} - proposed
        lively = {host.member.incarnation for host in self._hosts.values() if not self._is_silent(host, now)}
        return not silent and proposed <= lively

    def _propose(self, now: float) -> Letters:
        members = self.committed.members
        silent = self._silent(now)
        if silent:
            change = Change.EVICTION
            wanted = [member for member in members if member.incarnation not in silent]
        else:
            change = Change.PLANNED
            wanted = [member for member in members if member.id not in self._drained]
            joining = self._joining(now)
            first = min((self._hosts[member.incarnation].first for member in joining), default=now)
            if now - first >= JOIN_TOGETHER:
                wanted += joining
        if wanted == list(members):
            if self._proposal is None:
                return []
            # Who prepared what is off needs a newer epoch, to serve what it gave up and to vouch again.
            return self._commit(self._next(members, now), now)
        self._proposal = _Proposal(change, self._next(wanted, now), now)
        letters: Letters = [(_to(member), Prepare(self._proposal.epoch)) for member in self._asked()]
        return [*letters, *(self._commit(self._proposal.epoch, now) if self._is_agreed(self._proposal, now) else [])]

    def _warn_of_slow(self, proposal: _Proposal, now: float) -> None:
        """Say once that a change waits for hosts that beat but do not answer, or for a majority."""
        if proposal.warned or now - proposal.since <= self.drain_seconds + self.lease:
            return
        proposal.warned = True
        waiting = [member.id for member in self._asked() if member.incarnation not in proposal.answered]
        logger.warning("epoch %s (%s) waits for %s", proposal.epoch.number, proposal.change.value, waiting)

    def _asked(self) -> list[Member]:
        """List who is to prepare: every member that is not evicted, and who joins."""
        assert self._proposal is not None
        then = self._proposal.epoch.members
        if self._proposal.change is Change.EVICTION:
            return [*then, *(host.member for host in self._successors(self._proposal))]
        return [*self.committed.members, *(member for member in then if member not in self.committed.members)]

    def _successors(self, proposal: _Proposal) -> list[_Host]:
        """Find processes that have the id of one that is being evicted: such a one's answer proves the other's death.

        A launcher runs one process of an id at a time, also after its own restart. The evicted one was alive before
        this number was proposed, and who prepared it after, so the latter is the later one. Another machine of the same
        name proves nothing.
        """
        if proposal.change is not Change.EVICTION:
            return []
        places = {_place(member) for member in self.committed.members if member not in proposal.epoch.members}
        members = {member.incarnation for member in self.committed.members}
        return [host for key, host in self._hosts.items() if key not in members and _place(host.member) in places]

    def _ask_again(self, member: Member) -> Letters:
        proposal = self._proposal
        if proposal is None or member.incarnation in proposal.answered or member not in self._asked():
            return []
        return [(_to(member), Prepare(proposal.epoch))]

    def _is_agreed(self, proposal: _Proposal, now: float) -> bool:
        if proposal.change is Change.PLANNED:
            return {member.incarnation for member in self.committed.members} <= proposal.answered
        voted = self._voted(proposal)
        if 2 * len(voted) < len(self.committed.machines):
            return False
        return now >= self._evictable(proposal, voted)

    def _voted(self, proposal: _Proposal) -> set[str]:
        """Find machines that will not vouch for the evicted: all their members prepared, and said so in a Beat.

        That Beat tells of the last vouch before. Our own machine's vote is ours: nobody counts vouches from it.
        """
        number = proposal.epoch.number
        against = {
            member.machine for member in self.committed.members if self._hosts[member.incarnation].prepared < number
        }
        return (set(self.committed.machines) - against) | {self.machine}

    def _evictable(self, proposal: _Proposal, voted: set[str]) -> float:
        """Find the time at which no evicted host can have a lease any more, from us or by vouches."""
        times = [self._quiet]
        for member in self.committed.members:
            host = self._hosts[member.incarnation]
            if member not in proposal.epoch.members:
                times.append(host.heard + self.lease + MARGIN)
            elif member.machine in voted:
                times.append(host.vouches_end)
        return max(times)

    def _next(self, members: Iterable[Member], now: float) -> Epoch:
        self._top += 1
        ordered = tuple(sorted(members, key=lambda member: member.id))
        return Epoch(self._top, self.machine, ordered, tuple(death for _, death in self._deaths))

    def _commit(self, epoch: Epoch, now: float) -> Letters:
        before = self.committed
        if self._proposal is not None and self._proposal.change is Change.PLANNED:
            self._keep_quiet(now)
        elif self._proposal is not None and self._proposal.epoch.number == epoch.number:
            silent = [member.id for member in before.members if member not in epoch.members]
            logger.warning("nothing was heard of %s for %g s: their rooms move", ", ".join(silent), self.lease + MARGIN)
        self.committed = epoch
        self._proposal = None
        stay = {member.incarnation for member in epoch.members}
        left = [member for member in before.members if member.incarnation not in {*stay, *self._gone}]
        self._outcasts |= dict.fromkeys((member.incarnation for member in left), now)
        launchers = dict.fromkeys([self.machine, *self._launchers])
        letters: Letters = [(f"launcher:{machine}", Publish(epoch)) for machine in launchers]
        letters += [(_to(member), self._commitment()) for member in [*epoch.members, *left]]
        drained = [member for member in left if member.id in self._drained]
        letters += [(f"launcher:{member.machine}", StopHost(member.id, member.incarnation)) for member in drained]
        return [*letters, *self._first_leases(before)]

    def _commitment(self) -> Commit:
        """Tell of the committed epoch, and of the gateways that a new member is to wait for."""
        return Commit(self.committed, self._gateways)

    def _note_gateways(self) -> None:
        members = [self._hosts[each.incarnation] for each in self.committed.members if each.incarnation in self._hosts]
        self._gateways = tuple(sorted(frozenset[str]().union(*(host.gateways for host in members))))

    def _first_leases(self, before: Epoch) -> Letters:
        """Answer the last Beats of those who have become members, so that they serve at once."""
        joined = (self._hosts[member.incarnation] for member in self.committed.members if member not in before.members)
        return [(_to(host.member), Beaten(host.sent)) for host in joined if host.sent is not None and self._sure]


def _to(member: Member) -> str:
    return f"host:{member.incarnation}"


def _machine_of(id: str) -> str:
    """Name the machine of a host."""
    return id.rpartition("-")[0]


def _drop_older(times: dict[_Key, float], moment: float) -> None:
    """Drop what was last noted before a moment."""
    for key in [key for key, at in times.items() if at < moment]:
        del times[key]


def _thousand_after(number: int) -> int:
    """Find the number before the next thousand."""
    return (number // GENERATION + 1) * GENERATION - 1


def _processes(epoch: Epoch) -> set[str]:
    return {member.incarnation for member in epoch.members}


def _place(member: Member) -> tuple[str, str, str | None]:
    return member.id, member.machine, urlsplit(member.url).hostname

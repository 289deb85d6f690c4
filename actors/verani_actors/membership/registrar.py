"""Decide who is a member, and from which epoch on: the registrar's core.

Messages and the time go in, messages come out; it sends nothing itself, reads no clock and knows no actor. Its shell
(`verani_actors.processes.registrar_actor`) calls `tick` every 0.1 s and carries the rest. What was heard of hosts is in
`heartbeats`, what of machines in `machines`; `starts` says which hosts are to run, `proposals` when a change is agreed.

Invariants, which `verani_actors.membership.lease` proves to be enough for one owner of a room at a time:

- Numbers are used once. A new registrar begins a new thousand, above whatever its predecessor may have said. So does
  one that finds, at a machine that offers, an epoch of a service that was there before.
- What is committed is known to the next registrar. So the first message of a commit is `Publish` to the own machine;
  the shell writes it down before it sends anything that follows, and hands it to the next one as `known`.
- There is one registrar process at a time.
- Who loses a room in an epoch has prepared it, is known to be dead, or has no lease any more when it is committed.
- Only members get `Beaten`; who was removed never becomes a member again, but is stopped and started anew.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from verani.link.epoch import Epoch, Member

from .control import (
    Beat,
    Beaten,
    Commit,
    Control,
    DrainHost,
    EndMachine,
    Gone,
    Letters,
    Offer,
    Prepare,
    Prepared,
    Publish,
    StartHost,
    StopHost,
    host_name,
    launcher_name,
)
from .drafts import Drafts
from .heartbeats import Heartbeats
from .lease import MARGIN
from .machines import Machines
from .proposals import Change, Proposal
from .starts import Starts

__all__ = ["Registrar"]

logger = logging.getLogger(__name__)

# Joins that come within this time are one change.
JOIN_TOGETHER = 0.1
# How long the first epoch waits for hosts that are slow to start.
FIRST_PATIENCE = 2.0


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
        known = known if known is not None and known.number > 0 else None
        self.committed = known or Epoch(registrar=machine)
        self._heartbeats = Heartbeats(lease)
        self._heartbeats.expect(self.committed.members, now)
        self._machines = Machines(machine, lease, definitions)
        self._starts = Starts(self._machines, self._heartbeats)
        self._drafts = Drafts(machine, self.committed.number)
        self._proposal: Proposal | None = None
        # A change that takes longer than a drain, and a lease besides, is slow.
        self._patience = drain_seconds + lease
        self._first_at = now + patience
        self._latest_first = now + FIRST_PATIENCE
        self._called = now
        # No eviction before: vouches of those who left, or that an earlier registrar knew of, end by then.
        self._quiet_until = now + lease + MARGIN
        # Until when a new registrar listens for what the last one knew; None once it has published itself.
        self._collecting: float | None = now + lease if known else None
        # Whether `committed` is surely the last one: only then are leases given while collecting.
        self._sure = known is not None
        # Gateways that members were linked to, as long as there were members.
        self._gateways: tuple[str, ...] = ()

    @property
    def draining(self) -> frozenset[str]:
        """Ids that are to give up their rooms, or have done so."""
        return self._starts.drained

    def receive(self, sender: str, message: Control, now: float) -> Letters:
        """Take one message; answer with what is to be sent, in this order."""
        self._notice_gap(now)
        match message:
            case Offer():
                return self._offered(message, now)
            case Beat() if sender == host_name(message.member.incarnation):
                return self._beat(message, now)
            case Prepared():
                return self._prepared(message, now)
            case Gone():
                return self._died(message, now)
            case DrainHost():
                self._drain(sender, message)
                return self._advance(now)
            case _:
                logger.warning("registrar ignores %s from %s", type(message).__name__, sender)
                return []

    def tick(self, now: float) -> Letters:
        """Do what has become due."""
        self._notice_gap(now)
        return [*self._starts.due(now), *self._advance(now)]

    def refusal(self, offer: Offer, now: float) -> str | None:
        """Say why a machine is not let in, None if it is; such an offer is not to be answered with a welcome."""
        return self._machines.refusal(offer, now)

    # What comes in.

    def _notice_gap(self, now: float) -> None:
        """Count silence anew after a pause of our own: what the hosts said meanwhile lies unread."""
        if now - self._called > self.lease / 6:
            self._heartbeats.excuse(now)
            self._machines.excuse(now)
        self._called = now

    def _offered(self, offer: Offer, now: float) -> Letters:
        if self.refusal(offer, now) is not None:
            return []
        if self._machines.note(offer, now):
            # What was drained there was drained in its former life.
            self._starts.forget_drains(offer.machine)
        to = launcher_name(offer.machine)
        letters: Letters = [(to, Publish(self.committed))] if self.committed.number else []
        letters += self._outrun(offer.epoch, now)
        if not self.committed.members and self._machines.is_to_end(offer.machine, now):
            letters.append((to, EndMachine()))
        # The launcher ignores those that run, so asking again is free.
        letters += [(to, StartHost(id)) for id in self._starts.missing(offer.machine, now)]
        return [*letters, *self._advance(now)]

    def _outrun(self, epoch: Epoch, now: float) -> Letters:
        """Go on above what gateways hold of a service that was there before: they would ignore a lower number.

        One of the same number is ours if its processes are. What else it says is not compared, as an older version may
        not have kept it.
        """
        if epoch.number == 0 or epoch.number < self.committed.number:
            return []
        if epoch.number == self.committed.number and _processes(epoch) == _processes(self.committed):
            return []
        self._drafts.pass_generation(epoch.number)
        if self.committed.number == 0 or self._collecting is not None:
            return []  # what is committed next is above it
        return self._commit(self._drafts.next(self.committed.members), now)

    def _drain(self, sender: str, drain: DrainHost) -> None:
        if drain.again:
            # What a member of an earlier life has said does not count.
            if any(sender == host_name(member.incarnation) for member in self.committed.members):
                self._starts.renew(drain.id)
        elif drain.id:
            self._starts.drain({drain.id})
        else:
            self._machines.end()
            self._starts.drain_all()

    def _beat(self, beat: Beat, now: float) -> Letters:
        incarnation = beat.member.incarnation
        if self._heartbeats.is_dead(incarnation):
            return []
        self._heartbeats.note(beat, now)
        self._drafts.pass_number(max(beat.epoch.number, beat.prepared))
        if beat.epoch.number > self.committed.number:
            self._adopt(beat.epoch, now)
        # First: a proposal to remove who is heard again is taken back before there is a new lease.
        letters = self._advance(now)
        to = host_name(incarnation)
        if incarnation in _processes(self.committed):
            self._gateways = self._heartbeats.gateways(self.committed.members)
            if self._sure:
                letters.append((to, Beaten(beat.sent)))
            if beat.epoch.number < self.committed.number:
                letters.append((to, Commit(self.committed, self._gateways)))
        elif self._was_member(beat):
            self._heartbeats.remove(incarnation, now)
            # Never Beaten: it would serve by its old epoch if the commit were lost.
            letters.append((to, Commit(self.committed)))
            letters.append((launcher_name(beat.member.machine), StopHost(beat.member.id, incarnation)))
        if self._proposal is not None and beat.member in self._proposal.waits_for():
            letters.append((to, Prepare(self._proposal.epoch)))
        return letters

    def _was_member(self, beat: Beat) -> bool:
        """Tell whether this process was a member and is none any more: evicted, drained, or of another service."""
        known = self._heartbeats.was_removed(beat.member.incarnation) or beat.epoch.number > 0
        return known and self._collecting is None

    def _prepared(self, answer: Prepared, now: float) -> Letters:
        if self._proposal is not None and answer.number == self._proposal.epoch.number:
            dead = self._proposal.prepared(answer.incarnation)
            if dead is not None:
                return self._died(Gone(dead.id, dead.incarnation), now)
        return self._advance(now)

    def _died(self, gone: Gone, now: float) -> Letters:
        if not self._heartbeats.die(gone.incarnation, now):
            return []
        if gone.death is not None:
            self._drafts.tell(gone.death, now)
        self._starts.died(gone.id, now)
        letters: Letters = []
        if gone.incarnation in _processes(self.committed):
            left = (member for member in self.committed.members if member.incarnation != gone.incarnation)
            self._keep_quiet(now)
            # A proposal under way goes on for who is left, under a newer number.
            letters = self._commit(self._drafts.next(left), now)
        return [*letters, *self._starts.due(now), *self._advance(now)]

    # Who is a member.

    def _keep_quiet(self, now: float) -> None:
        # With one or two machines nobody can serve by vouches.
        if len(self.committed.machines) > 2:
            self._quiet_until = now + self.lease + MARGIN

    def _adopt(self, epoch: Epoch, now: float) -> None:
        """Take over what a host has committed and we did not know: our memory is lost, so listen for a whole lease."""
        self.committed = epoch
        self._sure = False
        self._collecting = now + self.lease
        self._quiet_until = now + self.lease + MARGIN
        self._proposal = None
        self._heartbeats.expect(epoch.members, now)

    def _advance(self, now: float) -> Letters:
        self._forget(now)
        if self._collecting is not None:
            return self._collect(self._collecting, now)
        if self.committed.number == 0:
            return self._first(now)
        if self._proposal is not None and self._proposal.is_wanted(now):
            self._proposal.warn_if_slow(now)
            return self._commit_agreed(self._proposal, now)
        return self._propose(now)

    def _forget(self, now: float) -> None:
        self._drafts.forget(now)
        self._heartbeats.forget(self.committed.members, now)
        self._starts.forget(now)
        for machine in self._machines.forget({each.member.machine for each in self._heartbeats}, now):
            self._starts.forget_drains(machine)

    def _collect(self, until: float, now: float) -> Letters:
        """Begin, with the members that there were, once all of them were heard or a lease has passed."""
        all_heard = all(self._heartbeats[each.incarnation].sent is not None for each in self.committed.members)
        has_all = all_heard and (self._sure or self.committed.machines == {self.machine})
        if not has_all and now < until:
            return []
        self._collecting = None
        self._sure = True
        self._drafts.begin_generation()
        return self._commit(self._drafts.next(self.committed.members), now)

    def _first(self, now: float) -> Letters:
        joining = self._joining(now)
        wanted = set(self._machines.hosts(self.machine)) - self._starts.drained
        complete = bool(wanted) and wanted <= {member.id for member in joining}
        if not joining or now < self._first_at or not (complete or now >= self._latest_first):
            return []
        self._sure = True
        return self._commit(self._drafts.next(joining), now)

    def _joining(self, now: float, *, together: float = 0.0) -> list[Member]:
        """List processes that are to become members, once the first of them has waited for so long."""
        taken = self._starts.drained.union(member.id for member in self.committed.members)
        newcomers = self._heartbeats.newcomers(taken, now)
        if now - min((each.first for each in newcomers), default=now) < together:
            return []
        return [each.member for each in newcomers]

    def _propose(self, now: float) -> Letters:
        members = self.committed.members
        silent = self._heartbeats.silent(members, now)
        if silent:
            change = Change.EVICTION
            wanted = [member for member in members if member.incarnation not in silent]
        else:
            change = Change.PLANNED
            wanted = [member for member in members if member.id not in self._starts.drained]
            wanted += self._joining(now, together=JOIN_TOGETHER)
        if wanted == list(members):
            if self._proposal is None:
                return []
            # Who prepared what is off needs a newer epoch, to serve what it gave up and to vouch again.
            return self._commit(self._drafts.next(members), now)
        epoch = self._drafts.next(wanted)
        self._proposal = proposal = Proposal(
            change, self.committed, epoch, self._heartbeats, slow_at=now + self._patience
        )
        letters: Letters = [(host_name(each.incarnation), Prepare(proposal.epoch)) for each in proposal.asked()]
        return [*letters, *self._commit_agreed(proposal, now)]

    def _commit_agreed(self, proposal: Proposal, now: float) -> Letters:
        return self._commit(proposal.epoch, now) if proposal.is_agreed(now, self._quiet_until) else []

    def _commit(self, epoch: Epoch, now: float) -> Letters:
        before, proposal = self.committed, self._proposal
        if proposal is not None and proposal.change is Change.PLANNED:
            self._keep_quiet(now)
        elif proposal is not None and proposal.epoch.number == epoch.number:
            silent = [member.id for member in before.members if member not in epoch.members]
            logger.warning("nothing was heard of %s for %g s: their rooms move", ", ".join(silent), self.lease + MARGIN)
        self.committed = epoch
        self._proposal = None
        stay = _processes(epoch)
        left = [
            member
            for member in before.members
            if member.incarnation not in stay and not self._heartbeats.is_dead(member.incarnation)
        ]
        for member in left:
            self._heartbeats.remove(member.incarnation, now)
        letters: Letters = [(launcher_name(machine), Publish(epoch)) for machine in self._machines.names]
        commit = Commit(epoch, self._gateways)
        letters += [(host_name(member.incarnation), commit) for member in [*epoch.members, *left]]
        drained = [member for member in left if member.id in self._starts.drained]
        letters += [(launcher_name(each.machine), StopHost(each.id, each.incarnation)) for each in drained]
        return [*letters, *self._first_leases(before)]

    def _first_leases(self, before: Epoch) -> Letters:
        """Answer the last Beats of those who have become members, so that they serve at once."""
        if not self._sure:
            return []
        joined = [member.incarnation for member in self.committed.members if member not in before.members]
        sent = [(incarnation, self._heartbeats[incarnation].sent) for incarnation in joined]
        return [(host_name(incarnation), Beaten(at)) for incarnation, at in sent if at is not None]


def _processes(epoch: Epoch) -> set[str]:
    return {member.incarnation for member in epoch.members}

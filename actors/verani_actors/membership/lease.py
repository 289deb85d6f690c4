"""Keep the time until which the room host of this process may serve: its lease.

A lease is checked, never waited for: whoever is about to write asks `serves` first, so a process that was stopped
finds its lease ended when it runs on. The clock must run on while the process is stopped, and should while the machine
sleeps (`CLOCK_BOOTTIME`). Nothing here sends; the messages are those of `verani_actors.membership.control`.

Why no two members serve a room. "When the registrar (R) commits an epoch k without an unreachable host H, H serves no
more." R's memory survives it (see `verani_actors.membership.registrar`) and clocks run equally fast but for R's margin.

1. H serves by R's word until `sent + lease` of a Beat that R answered. R answers members only, and heard that Beat no
   earlier than it was sent, so this ends by (last Beat answered) + lease; R waits longer. A delayed or doubled answer
   carries its old `sent`. A new R counts from its own start, which is later than its predecessor's last answer.
2. H serves by the word of others only with V, more than half of the machines of H's own epoch e. The registrar's
   machine is never in V: that vote is R's own. R commits k only with M, its own machine and at least half of all in
   all, where *every* member of such a machine prepared k, and none is among the removed. Whoever prepared k vouches
   for no epoch below k, not for itself either (`voted`), and then tells in a Beat when it vouched last; R waits until
   those vouches have ended.
3. V and M share a machine x other than R's, so V cannot hold. Between e and R's epoch before k (a) known deaths may
   have taken machines away: the dead do not vouch, and the rest of V is more than half of the fewer machines too;
   (b) a planned change has been prepared by every member, so nobody vouches for e; (c) after an eviction 2. holds
   already, for everybody who stayed behind it. After (a) and (b) R evicts nobody until vouches given before have ended.
4. Vouches come from members of e alone, since a host knocks at nobody else, and count for the epoch they were asked
   for in alone: a new epoch forgets them.

That R cannot be reached by H while others reach both (a partial partition) changes nothing in this, because who
vouches is told by what was prepared, not by who hears whom; that a voucher must itself have lost R only keeps an H
that nobody but R misses from delaying its own eviction.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from verani.link.epoch import Epoch

__all__ = ["MARGIN", "Lease"]

# Seconds between the end of a lease and the commit that counts on it: clocks drift, and a check is followed by a write.
MARGIN: Final = 1.0


class Lease:
    """The lease of one host on `machine`, `duration` seconds at a time."""

    def __init__(self, machine: str, duration: float, clock: Callable[[], float]) -> None:
        self.machine = machine
        self.duration = duration
        self.clock = clock
        self.vouched_at: float | None = None
        # As if it had been heard at the start: a host that has just started is not lost.
        self._heard = clock()
        self._beaten = float("-inf")
        self._vouches: dict[str, float] = {}
        self._number = -1
        self._voted = 0
        self._since = float("-inf")

    def beaten(self, sent: float) -> None:
        """Note that the registrar answered the Beat sent at this time."""
        self._beaten = max(self._beaten, sent)
        self._heard = max(self._heard, sent)

    def vouched(self, machine: str, sent: float) -> None:
        """Note that a member of another machine answered the Knock sent at this time."""
        if sent >= self._since:
            self._vouches[machine] = max(sent, self._vouches.get(machine, sent))

    def voted(self, number: int) -> None:
        """Note that the host begins to prepare this epoch: it does not even vouch for itself in an older one."""
        self._voted = max(self._voted, number)

    def serves(self, epoch: Epoch) -> bool:
        """Tell whether the host may serve now what it owns in `epoch`, the one it committed."""
        self._enter(epoch.number)
        now = self.clock()
        # Asked for every packet: others have a word only where the registrar has not.
        return now < self._beaten + self.duration or now < self.until(epoch)

    def until(self, epoch: Epoch) -> float:
        """Tell when the lease ends as things stand, by the clock; a time past where it has."""
        self._enter(epoch.number)
        return max(self._beaten, self._majority(epoch)) + self.duration

    @property
    def lost_registrar(self) -> bool:
        """Whether the registrar answered nothing of the last half of a lease: time to knock."""
        return self.clock() - self._heard > self.duration / 2

    def may_vouch(self, epoch_number: int, prepared: int) -> bool:
        """Decide on a Knock from that epoch; True is remembered as given, for `vouched_ago`.

        `prepared` is the highest number that this host has begun to prepare or has committed.
        """
        if not self.lost_registrar or prepared > epoch_number:
            return False
        self.vouched_at = self.clock()
        return True

    @property
    def vouched_ago(self) -> float | None:
        """Seconds since this host vouched last, for its Beats; None where it never did.

        A Beat must take this and the prepared number in one step: that pair is what the registrar counts on.
        """
        return None if self.vouched_at is None else self.clock() - self.vouched_at

    def _enter(self, number: int) -> None:
        """Forget the vouches of another epoch."""
        if number != self._number:
            self._number = number
            self._since = self.clock()
            self._vouches.clear()

    def _majority(self, epoch: Epoch) -> float:
        """Find the time of the Knock with which a majority of the epoch's machines agrees; own machine included."""
        if self._voted > epoch.number:
            return float("-inf")
        others = epoch.machines - {self.machine, epoch.registrar}
        times = sorted((self._vouches[machine] for machine in others if machine in self._vouches), reverse=True)
        own = self.machine != epoch.registrar and self.machine in epoch.machines
        needed = len(epoch.machines) // 2 + 1 - own
        # A host never serves by its own word alone.
        return times[needed - 1] if 0 < needed <= len(times) else float("-inf")

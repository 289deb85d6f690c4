"""Know what a host may do now: which rooms are its own, and until when it may serve them; pure, on a given clock."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from verani.link.epoch import Epoch, Member

from .control import Beat, Knock
from .lease import Lease
from .share import Share

__all__ = ["Standing"]


class Standing:
    """The share of rooms and the lease of one host process on `machine`."""

    def __init__(self, machine: str, incarnation: str, lease: float, clock: Callable[[], float]) -> None:
        self.share = Share(incarnation)
        self.lease = Lease(machine, lease, clock)

    @property
    def epoch(self) -> Epoch:
        """The epoch that it committed last."""
        return self.share.committed

    @property
    def is_member(self) -> bool:
        """Whether it is a member of its epoch."""
        return self.share.is_member

    def serves(self) -> bool:
        """Tell whether it may process and send now: as a member with a lease."""
        return self.lease.serves(self.share.committed) and self.share.is_member

    def seconds_left(self) -> float:
        """Say for how many seconds it serves at least; 0 where it does not."""
        return self.lease.until(self.epoch) - self.lease.clock() if self.serves() else 0.0

    def prepare(self, epoch: Epoch) -> bool:
        """Give up what is lost in an epoch; False if it is not newer than all before."""
        if not self.share.prepare(epoch):
            return False
        self.lease.voted(epoch.number)
        return True

    def may_vouch(self, knock: Knock) -> bool:
        """Decide on a Knock; True counts as a vouch that was given."""
        return self.lease.may_vouch(knock.epoch, self.share.prepared)

    def beat(self, member: Member, gateways: Iterable[str]) -> Beat:
        """Say, in one step, what the registrar counts on; `gateways` are those that the host is linked to."""
        lease = self.lease
        return Beat(member, lease.clock(), self.epoch, self.share.prepared, lease.vouched_ago, tuple(gateways))

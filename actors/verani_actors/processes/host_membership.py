"""Have a host take part in the membership: send heartbeats, prepare and commit epochs, and vouch for other hosts.

Which epochs there are is the registrar's decision.

Invariants:
- `Prepared` is said when no room that is lost is left, and every gateway has what they last said.
- A room that the committed epoch gives to another host is gone before anything else is done in that epoch.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable, Sequence
from typing import Final

from verani.link.epoch import Epoch, Member

from ..links.link_server import LinkServer
from ..membership.control import (
    REGISTRAR,
    Beaten,
    Commit,
    Control,
    DrainHost,
    Knock,
    Prepare,
    Prepared,
    Vouch,
    host_name,
)
from ..membership.standing import Standing
from ..rooms.host import RoomHost
from ..upkeep.runtime import Plan
from .heartbeat_sender import HeartbeatSender

__all__ = ["BEATS", "HostMembership"]

logger = logging.getLogger(__name__)

# Heartbeats in one lease: two may be lost and the third late.
BEATS: Final = 6

# Seconds that a new member's rooms wait for gateways that other members have been linked to, at most; and those where
# nothing is known of any.
_SETTLE_KNOWN: Final = 5.0
_SETTLE: Final = 0.5


class HostMembership:
    """The part that the host process `member` takes; every method is called in the loop's thread.

    `post` takes messages for the registrar and for other hosts, `heartbeats` sends those of this host.
    """

    def __init__(
        self,
        plan: Plan,
        member: Member,
        standing: Standing,
        host: RoomHost,
        links: LinkServer,
        post: Callable[[str, Control], None],
        heartbeats: HeartbeatSender,
    ) -> None:
        self._plan = plan
        self._member = member
        self._standing = standing
        self._host = host
        self._links = links
        self._post = post
        self._heartbeats = heartbeats
        self._preparations: asyncio.Queue[Epoch] = asyncio.Queue()
        # The highest epoch of which `Prepared` was said.
        self._said = 0
        self._served = False
        self._knocks = itertools.count()
        self._timer: asyncio.TimerHandle | None = None
        # Whether the host gives up its rooms to be started anew.
        self.is_restarting = False

    async def run(self) -> None:
        """Send heartbeats, and prepare epochs one after the other, until cancelled."""
        self._beat(asyncio.get_running_loop())
        try:
            while True:
                epoch = await self._preparations.get()
                await self._host.moving.release(self._plan.settings.drain_seconds)
                await self._links.sessions.confirmed(self._plan.settings.link_grace)
                self._said = epoch.number
                self._say_prepared()
        finally:
            if self._timer is not None:
                self._timer.cancel()

    def restart(self) -> None:
        """Ask the registrar, until it has heard it, to have the host give up its rooms and be started anew."""
        self.is_restarting = True
        self._post(REGISTRAR, DrainHost(self._member.id, again=True))

    def receive(self, sender: str, message: Control) -> None:
        """Take a control message; `sender` is where an answer goes."""
        match message:
            case Beaten():
                self._standing.lease.beaten(message.sent)
                self._look_at_lease()
            case Prepare():
                if self._standing.prepare(message.epoch):
                    self._preparations.put_nowait(message.epoch)
                elif message.epoch.number == self._said:  # the registrar has not heard it
                    self._say_prepared()
            case Commit():
                self._commit(message.epoch, message.gateways)
            case Knock() if self._standing.may_vouch(message):
                self._post(sender, Vouch(self._plan.machine, message.sent))
            case Vouch():
                self._standing.lease.vouched(message.machine, message.sent)
                self._look_at_lease()
            case _:
                pass  # a knock that is not answered, or what is for others

    def _beat(self, loop: asyncio.AbstractEventLoop) -> None:
        # First, so that nothing that goes wrong below ends it.
        self._timer = loop.call_later(self._plan.settings.lease / BEATS, self._beat, loop)
        self._heartbeats.send(self._standing.beat(self._member, self._host.gateways))
        if self.is_restarting:  # a message may be lost, and a registrar replaced
            self.restart()
        if self._standing.lease.lost_registrar:
            self._knock(self._standing.epoch)
        self._look_at_lease()
        self._links.sessions.tell_lease()

    def _knock(self, epoch: Epoch) -> None:
        """Knock at one host of every other machine, another one each time."""
        turn, now = next(self._knocks), self._standing.lease.clock()
        for machine in epoch.machines - {self._plan.machine}:
            there = [member for member in epoch.members if member.machine == machine]
            if there:
                host = there[turn % len(there)]
                self._post(host_name(host.incarnation), Knock(self._plan.machine, now, epoch.number))

    def _look_at_lease(self) -> None:
        serves = self._standing.serves()
        if serves and not self._served:
            self._links.sessions.resume()
            self._links.sessions.tell_lease()
        elif self._served and not serves and self._standing.is_member:
            logger.warning("host %s has lost its lease and waits", self._member.id)
        self._served = serves

    def _say_prepared(self) -> None:
        self._post(REGISTRAR, Prepared(self._member.id, self._member.incarnation, self._said))

    def _commit(self, epoch: Epoch, gateways: Sequence[str]) -> None:
        was_member = self._standing.is_member
        if not self._standing.share.commit(epoch):
            return
        logger.debug("epoch %d is committed, with %d hosts", epoch.number, len(epoch.members))
        self._host.moving.abandon()
        self._host.moving.keep()
        if self._standing.is_member and not was_member:
            self._settle(gateways)
        if not self._standing.is_member:
            self._links.sessions.forget()
        self._links.sessions.announce(epoch)
        self._look_at_lease()

    def _settle(self, known: Sequence[str]) -> None:
        """Have rooms wait for every gateway that members knew; where none did, for those that this machine should have.

        One that has died meanwhile holds them up for all of that time.
        """
        plan, linked = self._plan, self._host.gateways
        if known:
            self._host.settle(lambda: linked.keys() >= set(known), max(_SETTLE_KNOWN, plan.settings.link_grace))
        elif plan.spans_machines:
            self._host.settle(lambda: False, _SETTLE)
        else:
            number = plan.settings.gateways
            self._host.settle(lambda: len(linked) >= number, max(_SETTLE, plan.settings.link_grace))

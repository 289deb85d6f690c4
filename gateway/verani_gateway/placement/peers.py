"""Keep a link to every room host that is a member of the epoch in force."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection
from ssl import SSLContext
from typing import Protocol

from verani.link.epoch import Epoch, Member
from verani.link.messages import Ask, HostMessage

from .link import Link
from .placement import GatewaySide
from .remote_link import RemoteLink

__all__ = ["OpenLink", "Peer", "Peers", "remote_links"]

logger = logging.getLogger(__name__)


class OpenLink(Protocol):
    """Make the link to a member; `receive` gets what the host says, `opened` whether a session was resumed."""

    def __call__(
        self,
        gateway: GatewaySide,
        member: Member,
        receive: Callable[[Link, HostMessage], None],
        opened: Callable[[Link, bool], None],
        /,
    ) -> Link: ...


def remote_links(machine: str, ssl: SSLContext | None = None) -> OpenLink:
    """Make links over WebSockets, for a gateway on this machine; `ssl` is for hosts on others."""

    def open_link(
        gateway: GatewaySide,
        member: Member,
        receive: Callable[[Link, HostMessage], None],
        opened: Callable[[Link, bool], None],
    ) -> Link:
        compression = gateway.settings.link_compression
        return RemoteLink(
            gateway.id,
            gateway.incarnation,
            member,
            machine,
            receive=receive,
            opened=opened,
            compression=compression,
            ssl=ssl,
        )

    return open_link


class Peer:
    """A member of the epoch."""

    __slots__ = ("link", "opened", "serves_until")

    def __init__(self, link: Link) -> None:
        self.link = link
        # Whether it was ever reached.
        self.opened = False
        # By its own word, on this loop's clock.
        self.serves_until = float("-inf")


class Peers:
    """The members of the epoch in force, and the links to them."""

    def __init__(self, open_link: OpenLink) -> None:
        self.epoch = Epoch()
        self._open_link = open_link
        self._peers: dict[str, Peer] = {}
        self._ending: set[asyncio.Task[None]] = set()

    def __contains__(self, incarnation: str) -> bool:
        return incarnation in self._peers

    def start(
        self,
        gateway: GatewaySide,
        receive: Callable[[Link, HostMessage], None],
        opened: Callable[[Link, bool], None],
    ) -> None:
        """Open links of this gateway from now on; the rest is as for `OpenLink`."""
        self._gateway = gateway
        self._receive = receive
        self._opened = opened
        self._now = asyncio.get_running_loop().time

    @property
    def links(self) -> list[Link]:
        """List the links to the members of the epoch."""
        return [peer.link for peer in self._peers.values()]

    @property
    def are_reached(self) -> bool:
        """Whether there are members, and each was reached at least once."""
        return bool(self._peers) and all(peer.opened for peer in self._peers.values())

    @property
    def has_hosts(self) -> bool:
        """Whether a member of the epoch is linked."""
        return any(link.state == "linked" for link in self.links)

    @property
    def serves(self) -> bool:
        """Whether every member of the epoch is linked and has a lease, so that no room has to wait for its host."""
        now = self._now()
        peers = self._peers.values()
        return bool(peers) and all(peer.link.state == "linked" and now < peer.serves_until for peer in peers)

    def ask(self, member: Member, ask: Ask) -> bool:
        """Send a question to a host; False where it cannot be reached now."""
        peer = self._peers.get(member.incarnation)
        if peer is None or peer.link.state != "linked":
            return False
        peer.link.send(ask)
        return True

    def at(self, link: Link) -> Peer | None:
        """Find the member at the other end; None for a link that is closed."""
        peer = self._peers.get(link.member.incarnation)
        return peer if peer is not None and peer.link is link else None

    def owner(self, room: str) -> Link | None:
        """Find the link to the owner of a room, None if it cannot take inputs yet."""
        member = self.epoch.owner(room)
        peer = self._peers.get(member.incarnation) if member is not None else None
        return peer.link if peer is not None and peer.opened else None

    def commit(self, epoch: Epoch) -> Collection[Member]:
        """Have links to the members of this epoch and to no others; return those that are no members any more."""
        self.epoch = epoch
        members = {member.incarnation: member for member in epoch.members}
        gone = [self._peers.pop(incarnation).link for incarnation in self._peers.keys() - members.keys()]
        for link in gone:
            link.close_now()
            self._end(link)
        for link in self.links:
            link.epoch = epoch.number
        for incarnation in members.keys() - self._peers.keys():
            link = self._open_link(self._gateway, members[incarnation], self._receive, self._opened)
            link.epoch = epoch.number
            self._peers[incarnation] = Peer(link)
            link.start()
        return [link.member for link in gone]

    def _end(self, link: Link) -> None:
        """Wait, in the background, for what a closed link leaves behind."""
        task = asyncio.create_task(link.close())
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def stop(self, grace: float) -> None:
        """Close the links, those that take longer than `grace` seconds at once."""
        links = self.links
        self._peers.clear()
        try:
            async with asyncio.timeout(grace):
                await asyncio.gather(*self._ending, *(link.close() for link in links))
        except TimeoutError:
            logger.warning("some room hosts did not take their leave within %g s", grace)
            for link in links:
                link.close_now()

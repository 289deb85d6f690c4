"""Lead a gateway to room hosts in other processes: links to the members of the epoch, and rooms to their owners.

Which hosts there are is the registrar's business; connections under a link are
`verani_gateway.placement.remote_link`'s.

Invariants:
- Only an epoch moves a room. A broken link is waited for, and what is to be sent over it waits, too.
- What a host says of a room counts only while it is the owner: its link is closed before another gets the inputs.
- It counts only from the pull on with which a new owner begins: whoever had the room before may still be heard.
- A room's inputs are sent in order, each to one owner at a time; one that the room had visibly begun is not run again.
- Inputs for a room whose owner cannot be reached yet stay in the attachments.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from operator import attrgetter
from typing import Protocol

from verani.errors import Interrupted as InterruptedError
from verani.link.epoch import Epoch, Member
from verani.link.messages import (
    Announce,
    Ask,
    Entry,
    EntryBatch,
    GatewayMessage,
    GivenUp,
    Heard,
    HostMessage,
    Input,
    Invoke,
    Outcome,
    Pull,
    Replied,
    Serving,
    Told,
)
from verani_actors.operating.measures import Measure, counter, gauge, gauges
from verani_actors.rooms.room_status import RoomStatus

from .epoch_file import EpochFile
from .handing_over import Owners
from .link import LINK_STATES, Link
from .peers import OpenLink, Peers
from .placed_rooms import PlacedRoom, PlacedRooms
from .placement import GatewaySide
from .suspects import Suspects

__all__ = ["Answering", "Cluster"]

logger = logging.getLogger(__name__)

# The host ran `on_disconnect` for the connections of a gateway that it heard nothing from.
_GIVEN_UP = 1012, "the room has lost this connection"


class Answering(Protocol):
    """What is given the questions and answers of hosts about the service; see `verani_gateway.operating.inquiry`."""

    def asked(self, ask: Ask) -> Told:
        """Answer a question."""

    def told(self, told: Told) -> None:
        """Take an answer."""

    def lost(self, host: str) -> None:
        """Take note that a host is a member no more."""


class Cluster:
    """The room hosts of a service, as one gateway sees them; see `verani_gateway.placement.placement.Placement`."""

    put: Callable[[Input], None]

    def __init__(self, open_link: OpenLink, *, epochs: EpochFile | None = None) -> None:
        """Take epochs from hosts, from `epochs`, and from whoever calls `commit`."""
        # Who answers hosts about this gateway, and takes their answers.
        self.inquiry: Answering | None = None
        self._epochs = epochs
        self._peers = Peers(open_link)
        # Those of an epoch that is not committed here.
        self._pulls: list[tuple[Link, Pull]] = []
        self._ready = False
        self._stopped = False
        self._counts: Counter[str] = Counter()

    async def start(self, gateway: GatewaySide) -> None:
        """Wait for epochs; the gateway takes connections when all hosts of one have been reached."""
        self._gateway = gateway
        self._attachments = gateway.attachments
        self._rooms = PlacedRooms(gateway.attachments)
        self._now = asyncio.get_running_loop().time
        self.suspects = Suspects(gateway.id, clock=self._now, wall_clock=time.time)
        self._peers.start(gateway, self._receive, self._opened)
        self._owners = Owners(gateway, self._rooms, self._peers, self.suspects, self._counts)
        # The owners' own: every input passes here.
        self.put = self._owners.put
        if self._epochs is not None:
            self._epochs.start(self.commit)

    async def stop(self, grace: float) -> None:
        """Close the links, those that take longer than `grace` seconds at once."""
        self._stopped = True
        if self._epochs is not None:
            self._epochs.stop()
        for room in self._rooms.every():
            room.owner = None
        await self._peers.stop(grace)

    @property
    def epoch(self) -> Epoch:
        """Give the epoch in force."""
        return self._peers.epoch

    @property
    def links(self) -> list[Link]:
        """List the links to the members of the epoch."""
        return self._peers.links

    @property
    def has_hosts(self) -> bool:
        """Whether a member of the epoch is linked."""
        return self._peers.has_hosts

    @property
    def serves(self) -> bool:
        """Whether no room has to wait for its host."""
        return self._peers.serves

    def ask(self, member: Member, ask: Ask) -> bool:
        """Send a question to a host; False where it cannot be reached now."""
        return self._peers.ask(member, ask)

    # --- epochs ----------------------------------------------------------------------------------------

    def commit(self, epoch: Epoch) -> None:
        """Act on an epoch from now on, unless it is older than the one that is in force."""
        if epoch.number <= self.epoch.number or self._stopped:
            return
        logger.info("epoch %d: room hosts %s", epoch.number, ", ".join(each.id for each in epoch.members) or "none")
        before = self.epoch
        for member in self._peers.commit(epoch):
            if self.inquiry is not None:
                self.inquiry.lost(member.id)
        if before.number:
            for death in epoch.deaths:
                self._owners.judge(death)
        else:
            self.suspects.ignore(epoch.deaths)
        joined = {member.id for member in epoch.members} - {member.id for member in before.members}
        # A host that has prepared an epoch which then was not committed has let go of rooms that it keeps.
        skipped = 0 < before.number < epoch.number - 1
        # Without a new member, rooms whose owner is still there stay with it.
        rooms = self._rooms.every()
        everything = skipped or bool(joined)
        self._owners.place(
            (room for room in rooms if everything or room.owner is None or self._peers.at(room.owner) is None),
            before=before.number,
            again=skipped,
        )
        pulls, self._pulls = self._pulls, []
        for link, pull in pulls:
            if self._peers.at(link) is not None:
                self._pull(link, pull)
        self._look_ready()

    def _look_ready(self) -> None:
        if not self._ready and self._peers.are_reached:
            self._ready = True
            self._gateway.opened()

    # --- what hosts say --------------------------------------------------------------------------------

    def _opened(self, link: Link, resumed: bool) -> None:
        peer = self._peers.at(link)
        if peer is None:
            return
        if resumed:
            self._counts["resumed"] += 1
        elif not peer.opened:
            peer.opened = True
            self._owners.place(room for room in self._rooms.every() if room.owner is None)
            self._look_ready()
        else:  # what was under way is lost
            self._pulls = [(other, pull) for other, pull in self._pulls if other is not link]
            self._owners.send_again((room, 0) for room in self._rooms.every() if room.owner is link)

    def _receive(self, link: Link, message: HostMessage) -> None:
        peer = self._peers.at(link)
        if peer is None:
            return
        match message:
            case EntryBatch():
                try:
                    self._apply(link, message.entries)
                except Exception:
                    self._disown(message.entries)
                    raise
            case Pull():
                self._pull(link, message)
            case Invoke():
                self._gateway.calls.invoke(message, partial(self._replied, link, message))
            case Announce():
                self.commit(message.epoch)
            case GivenUp():
                self._give_up(link, message)
            case Serving(seconds):
                peer.serves_until = self._now() + seconds
            case Ask():
                if self.inquiry is not None:
                    link.send(self.inquiry.asked(message))
            case Told():
                if self.inquiry is not None:
                    self.inquiry.told(message)

    def _give_up(self, link: Link, given_up: GivenUp) -> None:
        """End the connections for which the host has run `on_disconnect`, and those that may have missed something.

        What may be done, though nobody heard of it, is not sent again.
        """
        host = link.member.incarnation
        for name, processed in given_up.unheard.items():
            if (unheard := self._rooms.find(name)) is None:
                continue
            if unheard.last_owner == host:
                self._gateway.delivery.miss(unheard.inputs, processed, *_GIVEN_UP)
                self._owners.settle(unheard, processed)
            else:
                self._gateway.delivery.close_room(unheard.inputs, *_GIVEN_UP)
        if given_up.others:
            lost = frozenset(given_up.rooms)
            for other in self._rooms.every():
                if other.last_owner == host and other.name not in lost:
                    self._gateway.delivery.close_room(other.inputs, *_GIVEN_UP)
        for name in given_up.rooms:
            room = self._rooms.find(name)
            if room is None:
                continue
            logger.warning("a room host had given up the connections of a room", extra={"room": name})
            if room.last_owner == host:
                self.suspects.forget(name)
                self._gateway.delivery.forget(room.inputs, *_GIVEN_UP, InterruptedError.code)
            else:  # it has moved since, and its owner of now knows nothing of it
                self._gateway.delivery.close_room(room.inputs, *_GIVEN_UP)

    def _apply(self, link: Link, entries: list[Entry]) -> None:
        applied: list[Entry] = []
        acknowledged: list[tuple[PlacedRoom, int]] = []
        for entry in entries:
            room = self._rooms.find(entry.room)
            if room is None:
                continue
            # What turns inputs away, without a number, does so without a pull.
            if room.owner is not link or (room.pull_after is not None and entry.seq):
                self._counts["foreign"] += 1
                continue
            if entry.begun is not None:
                room.begun = entry.begun
            if entry.seq:
                room.heard = Heard(link.member.incarnation, self.epoch.number, entry.seq, entry.others)
            room.awake = not entry.asleep
            applied.append(entry)
            if room.waits_after is not None and entry.processed is not None:
                acknowledged.append((room, entry.processed))
        self._gateway.delivery.apply(applied)
        for room, processed in acknowledged:
            self._owners.settle(room, processed)

    def _disown(self, entries: list[Entry]) -> None:
        """End the connections of rooms whose entries were applied in part, or not: what they were is not known."""
        for name in dict.fromkeys(entry.room for entry in entries):
            if (disowned := self._rooms.find(name)) is not None:
                self._gateway.delivery.forget(disowned.inputs, *_GIVEN_UP, InterruptedError.code)

    def _pull(self, link: Link, pull: Pull) -> None:
        if pull.epoch > self.epoch.number:
            self._pulls.append((link, pull))
            return
        room = self._rooms.find(pull.room)
        owner = room.owner if room is not None and room.owner is not None else self._peers.owner(pull.room)
        if owner is not link:
            return
        if room is not None:
            if room.pull_after is not None and pull.epoch <= room.pull_after:
                return
            room.pull_after = None
            room.awake = True
        for snapshot in self._attachments.snapshots(pull.room, pull.incarnation, self._rooms.heard_of(pull.room)):
            link.send(snapshot)

    def answering(self, room: str) -> Callable[[GatewayMessage], None]:
        """Answer the owner of now, as long as its link lives."""
        owner = self._rooms[room].owner
        assert owner is not None, "only owners ask"
        return partial(self._answer, owner)

    def _replied(self, link: Link, invoke: Invoke, outcome: Outcome) -> None:
        self._answer(link, Replied(invoke.room, invoke.token, outcome))

    def _answer(self, link: Link, message: GatewayMessage) -> None:
        if self._peers.at(link) is not None:
            link.send(message)

    # --- what there is to know -------------------------------------------------------------------------

    def known_rooms(self) -> list[str]:
        """Name the rooms of this gateway that are awake."""
        return [room.name for room in self._rooms.every() if room.awake]

    def room_states(self) -> Counter[str]:
        """Count the rooms of this gateway by what it knows of them."""
        awake = sum(map(attrgetter("awake"), self._rooms.values()))
        return Counter(awake=awake, asleep=len(self._attachments.rooms) - awake) + Counter()

    def status(self, name: str, connections: int) -> RoomStatus | None:
        """Say what this gateway knows of a room; its owner knows more."""
        room = self._rooms.find(name)
        if room is None:
            return None
        return RoomStatus(name, name.partition("/")[0], "awake" if room.awake else "asleep", connections)

    def measures(self) -> Iterator[Measure]:
        """Yield how the links are, and what became of rooms and inputs that changed their host."""
        links, counts = self.links, self._counts
        states: Counter[str] = Counter(dict.fromkeys(LINK_STATES, 0))
        states.update(link.state for link in links)
        unconfirmed = sum(link.unconfirmed for link in links)
        yield gauges("gateway_rooms", "Rooms that a gateway has connections of, by state.", "state", self.room_states())
        yield gauge("epoch", "Number of the epoch that is committed here.", self.epoch.number)
        yield gauges("links", "Links to room hosts, by state.", "state", states)
        yield counter("links_resumed", "Broken links that were resumed.", counts["resumed"])
        yield gauge("link_unconfirmed_bytes", "Bytes that no room host has confirmed.", unconfirmed)
        yield counter("moved_rooms", "Rooms that went to another room host.", counts["moved"])
        yield counter("replayed_inputs", "Inputs sent again or late.", counts["replayed"])
        yield counter("interrupted_inputs", "Inputs that had begun when their room host died.", counts["interrupted"])
        yield counter("quarantined_inputs", "Inputs kept from rooms: they have killed.", self.suspects.quarantined)
        yield counter("foreign_entries", "Entries dropped, of room hosts that are not the owner.", counts["foreign"])

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
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from ssl import SSLContext
from typing import Protocol

import msgspec

from verani.errors import CallFailed
from verani.errors import Interrupted as InterruptedError
from verani.link.epoch import Death, Epoch, Member
from verani.link.messages import (
    Announce,
    Arrival,
    Ask,
    Call,
    Entry,
    EntryBatch,
    GatewayMessage,
    GivenUp,
    Heard,
    HostMessage,
    Input,
    InputBatch,
    Interrupted,
    Invoke,
    Outcome,
    Pull,
    Rebuild,
    Replied,
    Serving,
    Told,
)
from verani_actors.operating.measures import Metric, counter, gauge, gauges
from verani_actors.rooms.life import RoomStatus

from .epoch_file import EpochFile
from .link import Link
from .placed_rooms import PlacedRoom, PlacedRooms
from .placement import GatewaySide
from .remote_link import RemoteLink
from .suspects import Suspects

__all__ = ["Answering", "Cluster", "OpenLink", "remote_links"]

logger = logging.getLogger(__name__)

# Bytes of the inputs that are sent again in one message, unless one input alone has more.
_BATCH = 1 << 20

# The host ran `on_disconnect` for the connections of a gateway that it heard nothing from.
_GIVEN_UP = 1012, "the room has lost this connection"
_FAILED = 1011, "the room has failed"


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


class Answering(Protocol):
    """What is given the questions and answers of hosts about the service; see `verani_gateway.operating.overview`."""

    def asked(self, ask: Ask) -> Told:
        """Answer a question."""

    def told(self, told: Told) -> None:
        """Take an answer."""

    def lost(self, host: str) -> None:
        """Take note that a host is a member no more."""


class _Peer:
    """A member of the epoch."""

    __slots__ = ("link", "opened", "serves_until")

    def __init__(self, link: Link) -> None:
        self.link = link
        # Whether it was ever reached.
        self.opened = False
        # By its own word, on this loop's clock.
        self.serves_until = float("-inf")


class Cluster:
    """The room hosts of a service, as one gateway sees them; see `verani_gateway.placement.placement.Placement`."""

    def __init__(self, open_link: OpenLink, *, epochs: EpochFile | None = None) -> None:
        """Take epochs from hosts, from `epochs`, and from whoever calls `commit`."""
        self.epoch = Epoch()
        # Who answers hosts about this gateway, and takes their answers.
        self.overview: Answering | None = None
        self._open_link = open_link
        self._epochs = epochs
        self._peers: dict[str, _Peer] = {}
        # Those of an epoch that is not committed here.
        self._pulls: list[tuple[Link, Pull]] = []
        self._ending: set[asyncio.Task[None]] = set()
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
        if self._epochs is not None:
            self._epochs.start(self.commit)

    async def stop(self, grace: float) -> None:
        """Close the links, those that take longer than `grace` seconds at once."""
        self._stopped = True
        if self._epochs is not None:
            self._epochs.stop()
        links = self.links
        self._peers.clear()
        for room in self._rooms.every():
            room.owner = None
        try:
            async with asyncio.timeout(grace):
                await asyncio.gather(*self._ending, *(link.close() for link in links))
        except TimeoutError:
            logger.warning("some room hosts did not take their leave within %g s", grace)
            for link in links:
                link.close_now()

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

    @property
    def links(self) -> list[Link]:
        """List the links to the members of the epoch."""
        return [peer.link for peer in self._peers.values()]

    # --- epochs ----------------------------------------------------------------------------------------

    def commit(self, epoch: Epoch) -> None:
        """Act on an epoch from now on, unless it is older than the one that is in force."""
        if epoch.number <= self.epoch.number or self._stopped:
            return
        logger.info("epoch %d: room hosts %s", epoch.number, ", ".join(each.id for each in epoch.members) or "none")
        before, self.epoch = self.epoch, epoch
        self._relink()
        if before.number:
            for death in epoch.deaths:
                self._judge(death)
        else:
            self.suspects.ignore(epoch.deaths)
        joined = {member.id for member in epoch.members} - {member.id for member in before.members}
        # A host that has prepared an epoch which then was not committed has let go of rooms that it keeps.
        skipped = 0 < before.number < epoch.number - 1
        # Without a new member, rooms whose owner is still there stay with it.
        rooms = self._rooms.every()
        everything = skipped or bool(joined)
        self._place(
            (room for room in rooms if everything or room.owner is None or self._peer(room.owner) is None),
            before=before.number,
            again=skipped,
        )
        pulls, self._pulls = self._pulls, []
        for link, pull in pulls:
            if self._peer(link) is not None:
                self._pull(link, pull)
        self._look_ready()

    def _relink(self) -> None:
        members = {member.incarnation: member for member in self.epoch.members}
        for incarnation in self._peers.keys() - members.keys():
            link = self._peers.pop(incarnation).link
            link.close_now()
            self._end(link)
            if self.overview is not None:
                self.overview.lost(link.member.id)
        for link in self.links:
            link.epoch = self.epoch.number
        for incarnation in members.keys() - self._peers.keys():
            link = self._open_link(self._gateway, members[incarnation], self._receive, self._opened)
            link.epoch = self.epoch.number
            self._peers[incarnation] = _Peer(link)
            link.start()

    def _end(self, link: Link) -> None:
        """Wait, in the background, for what a closed link leaves behind."""
        task = asyncio.create_task(link.close())
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    def _place(self, rooms: Iterable[PlacedRoom], *, before: int | None = None, again: bool = False) -> None:
        """Give rooms to their owners, as far as these can be reached, with all their unprocessed inputs.

        In the epoch `before`, those that move were not theirs; None for owners that have only now been reached. Those
        that stay with their owner are given to it only with `again`.
        """
        placed: list[PlacedRoom] = []
        for room in rooms:
            owner = self._link_to(room.name)
            if owner is room.owner and not again:
                continue
            if owner is not room.owner:
                # An owner may have had the room once before, and left words of that time on their way.
                room.pull_after = before
            room.owner = owner
            if owner is not None:
                self._hand_over(room, owner)
                placed.append(room)
        self._send_again((room, 0) for room in placed)

    def _hand_over(self, room: PlacedRoom, owner: Link) -> None:
        """Have a room that was awake at its last owner wake at this one."""
        last, room.last_owner = room.last_owner, owner.member.incarnation
        if last not in ("", room.last_owner):
            self._counts["moved"] += 1
        if last and room.awake:
            owner.send(Rebuild(room.name, "moved" if last in self._peers else "crash", self.epoch.number))

    def _link_to(self, room: str) -> Link | None:
        """Find the link to the owner of a room, None if it cannot take inputs yet."""
        member = self.epoch.owner(room)
        peer = self._peers.get(member.incarnation) if member is not None else None
        return peer.link if peer is not None and peer.opened else None

    def _peer(self, link: Link) -> _Peer | None:
        """Find the member at the other end; None for a link that is closed."""
        peer = self._peers.get(link.member.incarnation)
        return peer if peer is not None and peer.link is link else None

    def _look_ready(self) -> None:
        if not self._ready and self._peers and all(peer.opened for peer in self._peers.values()):
            self._ready = True
            self._gateway.opened()

    # --- inputs ----------------------------------------------------------------------------------------

    def put(self, input: Input) -> None:
        """Send an input to the owner of its room, in its turn."""
        room = self._rooms[input.room]
        owner = room.owner
        if owner is None:
            owner = self._link_to(room.name)
            if owner is None:
                return
            # It is new: what had to wait for its owner was given to it as soon as that was there.
            room.owner, room.last_owner = owner, owner.member.incarnation
        if room.waits_after is None:
            owner.put(input)

    def _send_again(self, rooms: Iterable[tuple[PlacedRoom, int]]) -> None:
        """Send what is unprocessed of each room after a number, though its owner may have some of it."""
        batches: dict[Link, list[Arrival]] = {}
        sizes: Counter[Link] = Counter()
        for room, number in rooms:
            link = room.owner
            if link is None:
                continue
            for arrival, size in self._due(room, number):
                sizes[link] += size
                if sizes[link] > _BATCH and link in batches:
                    self._send_batch(link, batches.pop(link))
                    sizes[link] = size
                batches.setdefault(link, []).append(arrival)
        for link, batch in batches.items():
            self._send_batch(link, batch)

    def _send_batch(self, link: Link, batch: list[Arrival]) -> None:
        self._counts["replayed"] += len(batch)
        link.send(InputBatch(batch, self.epoch.number, again=True))

    def _due(self, room: PlacedRoom, number: int) -> Iterator[tuple[Arrival, int]]:
        """Yield, with their sizes, what is unprocessed after a number, but nothing after an input that goes alone."""
        alone = self.suspects.of(room.name)
        room.waits_after = None
        for input, size in room.inputs.unprocessed:
            if input.number <= number:
                continue
            if type(input) is Call:
                input = msgspec.structs.replace(input, timeout=self._gateway.calls.left(input.number))
            if input.number == room.begun:
                self._counts["interrupted"] += 1
                yield Interrupted(input), size
            else:
                yield input, size
            if input.number in alone:
                room.waits_after = input.number
                return

    # --- suspects --------------------------------------------------------------------------------------

    def _judge(self, death: Death) -> None:
        """Do what a death demands, before the room goes to its next owner."""
        verdict = self.suspects.judge(death)
        room = self._rooms.find(death.room)
        if room is None or all(input.number != death.number for input, _ in room.inputs.unprocessed):
            self.suspects.settle(death.room, death.number)  # it was processed and is past
        match verdict:
            case "failed" if room is not None:
                self._gateway.delivery.forget(room.inputs, *_FAILED, CallFailed.code)
            case "quarantine" if room is not None:
                if (kept := self._gateway.delivery.set_aside(room.inputs, death.number)) is not None:
                    self.suspects.keep(*kept)

    def _settle(self, room: PlacedRoom, processed: int) -> None:
        """Let the inputs go that waited for one that is processed."""
        for number in tuple(self.suspects.of(room.name)):
            if number <= processed:
                self.suspects.settle(room.name, number)
        if room.waits_after is not None and room.waits_after <= processed and room.owner is not None:
            self._send_again([(room, room.waits_after)])

    # --- what hosts say --------------------------------------------------------------------------------

    def _opened(self, link: Link, resumed: bool) -> None:
        peer = self._peer(link)
        if peer is None:
            return
        if resumed:
            self._counts["resumed"] += 1
        elif not peer.opened:
            peer.opened = True
            self._place(room for room in self._rooms.every() if room.owner is None)
            self._look_ready()
        else:  # what was under way is lost
            self._pulls = [(other, pull) for other, pull in self._pulls if other is not link]
            self._send_again((room, 0) for room in self._rooms.every() if room.owner is link)

    def _receive(self, link: Link, message: HostMessage) -> None:
        peer = self._peer(link)
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
                if self.overview is not None:
                    link.send(self.overview.asked(message))
            case Told():
                if self.overview is not None:
                    self.overview.told(message)

    def _give_up(self, link: Link, given_up: GivenUp) -> None:
        """End the connections for which the host has run `on_disconnect`, and those that may have missed something."""
        host = link.member.incarnation
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
            self._settle(room, processed)

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
        owner = room.owner if room is not None and room.owner is not None else self._link_to(pull.room)
        if owner is not link:
            return
        heard = None
        if room is not None:
            if room.pull_after is not None and pull.epoch <= room.pull_after:
                return
            room.pull_after = None
            room.awake = True
            heard = room.heard
        for snapshot in self._attachments.snapshots(pull.room, pull.incarnation, heard):
            link.send(snapshot)

    def answering(self, room: str) -> Callable[[GatewayMessage], None]:
        """Answer the owner of now, as long as its link lives."""
        owner = self._rooms[room].owner
        assert owner is not None, "only owners ask"
        return partial(self._answer, owner)

    def _replied(self, link: Link, invoke: Invoke, outcome: Outcome) -> None:
        self._answer(link, Replied(invoke.room, invoke.token, outcome))

    def _answer(self, link: Link, message: GatewayMessage) -> None:
        if self._peer(link) is not None:
            link.send(message)

    # --- what there is to know -------------------------------------------------------------------------

    def known_rooms(self) -> list[str]:
        """Name the rooms of this gateway that are awake."""
        return [room.name for room in self._rooms.every() if room.awake]

    def room_states(self) -> Counter[str]:
        """Count the rooms of this gateway by what it knows of them."""
        return Counter("awake" if room.awake else "asleep" for room in self._rooms.every())

    def status(self, name: str, connections: int) -> RoomStatus | None:
        """Say what this gateway knows of a room; its owner knows more."""
        room = self._rooms.find(name)
        if room is None:
            return None
        return RoomStatus(name, name.partition("/")[0], "awake" if room.awake else "asleep", connections)

    def measures(self) -> Iterator[Metric]:
        """Yield how the links are, and what became of rooms and inputs that changed their host."""
        links, counts = self.links, self._counts
        states = Counter(link.state for link in links)
        unconfirmed = sum(link.unconfirmed for link in links)
        yield gauge("epoch", "number of the epoch that is committed here", self.epoch.number)
        yield gauges("links", "links to room hosts, by state", "state", states)
        yield counter("links_resumed", "broken links that were resumed", counts["resumed"])
        yield gauge("link_unconfirmed_bytes", "bytes that no host has confirmed", unconfirmed)
        yield counter("moved_rooms", "rooms that went to another host", counts["moved"])
        yield counter("replayed_inputs", "inputs sent again or late", counts["replayed"])
        yield counter("interrupted_inputs", "inputs that hosts began", counts["interrupted"])
        yield counter("quarantined_inputs", "deadly inputs", self.suspects.quarantined)
        yield counter("foreign_entries", "entries of hosts not the owner", counts["foreign"])

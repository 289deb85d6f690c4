"""Say entries shorter on a link between processes: audiences by name, and long entries in parts.

The host's end is `Shorthand`, the gateway's `Longhand`; each lives as long as the link session, and what they write and
read is in the one ordered stream of its packets. What is written is read as what it was: nobody else sees groups.

Invariants:
- A name means the same connections at both ends, from its `Group` on until an `Ungroup` has it. Only the host names.
- An audience is written out once, as what differs from one that is known; from then on it costs its name.
- Named are, between batches, at most `MAX_NAMED` memberships, or one audience: which was not used for the longest time
  is forgotten. When an incarnation of a room is over, so are the names of its audiences.
- An entry that was cut is given out whole, or never.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from itertools import islice

from ..errors import VeraniError
from .messages import Cast, Deliver, Ended, Entry, EntryBatch, Group, HostMessage, Output, Ungroup

__all__ = ["MAX_NAMED", "Longhand", "Shorthand", "ShorthandError", "halves_of", "members_of"]

# Memberships in named audiences, of one link: a pointer each at both ends.
MAX_NAMED = 1 << 20

# Smaller audiences are written out each time.
_SMALLEST = 4

# A new audience is compared with so many of its room, those used last, and with the largest.
_COMPARED = 4

# Excluded members are looked for one by one, unless they are more.
_FEW = 4


class ShorthandError(VeraniError):
    """What was read cannot have been written: a name that means nothing, or a part without its rest."""


class _Named:
    __slots__ = ("members", "name", "order", "room")

    def __init__(self, name: int, room: str, members: tuple[str, ...], order: tuple[str, ...]) -> None:
        self.name = name
        self.room = room
        self.members = members
        # The same in the order in which the other end has them: the places of members are counted in it.
        self.order = order


class Shorthand:
    """The writing end."""

    def __init__(self) -> None:
        # By name, the one used last at the end; by the identity of its members, which it holds; and by their value.
        self._named: OrderedDict[int, _Named] = OrderedDict()
        self._by_id: dict[int, _Named] = {}
        self._by_members: dict[tuple[str, ...], _Named] = {}
        # Those of each room, in the same order.
        self._rooms: dict[str, OrderedDict[int, _Named]] = {}
        # Of each room the largest one since there was another.
        self._largest: dict[str, _Named] = {}
        self._last = 0
        # Memberships that are named.
        self.size = 0

    def write(self, messages: Iterable[HostMessage]) -> list[HostMessage]:
        """Rewrite the messages of one tick."""
        written: list[HostMessage] = []
        for message in messages:
            if type(message) is EntryBatch:
                entries = [self._entry(entry, written) for entry in message.entries]
                written.append(EntryBatch(entries))
                self._make_room(written)  # only now: the batch has needed all that it names
            elif type(message) is Ended:
                for room in message.rooms:
                    self._end(room, written)
            else:
                written.append(message)
        return written

    def _entry(self, entry: Entry, written: list[HostMessage]) -> Entry:
        outputs: list[Output] | None = None
        for place, output in enumerate(entry.outputs):
            if type(output) is Deliver and len(output.connections) >= _SMALLEST:
                if outputs is None:
                    outputs = list(entry.outputs)
                outputs[place] = self._cast(entry.room, output, written)
        if outputs is None:
            return entry
        return Entry(
            entry.room,
            entry.processed,
            entry.begun,
            outputs,
            entry.attachments,
            entry.seq,
            entry.asleep,
            entry.more,
            entry.others,
            entry.traces,
        )

    def _cast(self, room: str, output: Deliver, written: list[HostMessage]) -> Cast:
        members = output.connections
        named = self._by_id.get(id(members)) or self._by_members.get(members)
        if named is None:
            named = self._name(room, members, written)
        else:
            self._named.move_to_end(named.name)
            self._rooms[named.room].move_to_end(named.name)
        return Cast(named.name, output.payload, _places(named.order, output.exclude) if output.exclude else ())

    def _name(self, room: str, members: tuple[str, ...], written: list[HostMessage]) -> _Named:
        known = self._rooms.get(room)
        if known is None:
            known = self._rooms[room] = OrderedDict()
        base = self._nearest(room, known, members)
        self._last += 1
        if base is None:
            group, order = Group(self._last, 0, (), members), members
        else:
            kept, added = _difference(base.order, members)
            group = Group(self._last, base.name, kept, added)
            order = members_of(group, base.order)
        written.append(group)
        # One object for both, unless sessions have changed their places.
        named = _Named(self._last, room, members, members if order == members else order)
        known[named.name] = self._named[named.name] = named
        largest = self._largest.get(room)
        if largest is None or len(members) >= len(largest.members):
            self._largest[room] = named
        self._by_id[id(members)] = self._by_members[members] = named
        self.size += len(members)
        return named

    def _nearest(self, room: str, known: OrderedDict[int, _Named], members: tuple[str, ...]) -> _Named | None:
        """Choose the one that has most members in common, if that is worth it."""
        wanted = set(members)
        nearest, most = None, len(members) // 2
        candidates = list(islice(reversed(known.values()), _COMPARED))
        if (largest := self._largest.get(room)) is not None:
            candidates.append(largest)
        for named in candidates:
            # Many that are not wanted cost, too.
            common = len(wanted.intersection(named.members))
            worth = common - (len(named.members) - common) // 4
            if worth > most:
                nearest, most = named, worth
        return nearest

    def _make_room(self, written: list[HostMessage]) -> None:
        forgotten: list[int] = []
        while self.size > MAX_NAMED and len(self._named) > 1:
            named = next(iter(self._named.values()))
            self._forget(named)
            forgotten.append(named.name)
        if forgotten:
            written.append(Ungroup(forgotten))

    def _end(self, room: str, written: list[HostMessage]) -> None:
        if known := self._rooms.get(room):
            written.append(Ungroup(list(known)))
            for named in tuple(known.values()):
                self._forget(named)

    def _forget(self, named: _Named) -> None:
        del self._named[named.name], self._by_id[id(named.members)], self._by_members[named.members]
        of_room = self._rooms[named.room]
        del of_room[named.name]
        if not of_room:
            del self._rooms[named.room]
        if self._largest.get(named.room) is named:
            del self._largest[named.room]
        self.size -= len(named.members)


class Longhand:
    """The reading end."""

    def __init__(self) -> None:
        self._groups: dict[int, tuple[str, ...]] = {}
        # What has come of an entry whose rest follows.
        self._begun: Entry | None = None

    @property
    def size(self) -> int:
        """Memberships that are named."""
        return sum(map(len, self._groups.values()))

    def read(self, messages: Sequence[HostMessage]) -> list[HostMessage]:
        """Give out what was written; raises ShorthandError for what cannot have been."""
        read: list[HostMessage] = []
        for message in messages:
            match message:
                case EntryBatch():
                    if entries := [whole for entry in message.entries if (whole := self._whole(entry)) is not None]:
                        read.append(EntryBatch(entries))
                case Group():
                    self._groups[message.name] = self._members(message)
                case Ungroup():
                    for name in message.names:
                        self._groups.pop(name, None)
                case Ended():
                    pass  # no host sends it
                case _:
                    read.append(message)
        return read

    def _whole(self, entry: Entry) -> Entry | None:
        """Put an entry together; None while more of it is to come."""
        for place, output in enumerate(entry.outputs):
            if type(output) is Cast:
                entry.outputs[place] = self._deliver(output)
        begun, self._begun = self._begun, None
        if begun is not None:
            if begun.room != entry.room:
                raise ShorthandError(f"an entry of {begun.room} is not whole")
            begun.outputs.extend(entry.outputs)
            begun.attachments.extend(entry.attachments)
            entry.outputs, entry.attachments = begun.outputs, begun.attachments
        if entry.more:
            self._begun = entry
            return None
        return entry

    def _deliver(self, cast: Cast) -> Deliver:
        try:
            members = self._groups[cast.group]
            return Deliver(members, cast.payload, tuple([members[place] for place in cast.exclude]))
        except LookupError:
            raise ShorthandError(f"group {cast.group} is not known, or has no such member") from None

    def _members(self, group: Group) -> tuple[str, ...]:
        if not group.base:
            return group.added
        try:
            return members_of(group, self._groups[group.base])
        except KeyError:
            raise ShorthandError(f"group {group.base} is not known") from None


def members_of(group: Group, base: tuple[str, ...]) -> tuple[str, ...]:
    """List the members of a group, given those of its base."""
    kept: list[str] = []
    place = 0
    for turn, count in enumerate(group.kept):
        if not 0 <= count <= len(base) - place:
            raise ShorthandError(f"group {group.base} has no more than {len(base)} members")
        if turn % 2 == 0:
            kept += base[place : place + count]
        place += count
    return (*kept, *group.added)


def _places(members: tuple[str, ...], excluded: tuple[str, ...]) -> tuple[int, ...]:
    """Find the excluded among the members; those of other gateways are not there."""
    if len(excluded) <= _FEW:
        return tuple([members.index(each) for each in excluded if each in members])
    places = {member: place for place, member in enumerate(members)}
    return tuple([places[each] for each in excluded if each in places])


def _difference(base: tuple[str, ...], members: tuple[str, ...]) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Tell which of the base are members, as `Group.kept` counts them, and who is a member besides.

    Who gets a broadcast counts, not in which order.
    """
    if members[: len(base)] == base:
        return (len(base),), members[len(base) :]
    wanted = set(members)
    kept: list[int] = []
    taking, count = True, 0
    for member in base:
        if (member in wanted) is taking:
            count += 1
        else:
            kept.append(count)
            taking, count = not taking, 1
    if taking:
        kept.append(count)
    known = set(base)
    return tuple(kept), tuple([member for member in members if member not in known])


def halves_of(entry: Entry) -> tuple[Entry, Entry] | None:
    """Cut an entry in two parts; None for one that has not two things to say."""
    outputs, attachments = entry.outputs, entry.attachments
    if len(outputs) + len(attachments) < 2:
        return None
    half, rest = (len(outputs) + 1) // 2, len(attachments) // 2
    first = Entry(entry.room, None, None, outputs[:half], attachments[:rest], entry.seq, more=True)
    outputs, attachments = outputs[half:], attachments[rest:]
    return first, Entry(
        entry.room,
        entry.processed,
        entry.begun,
        outputs,
        attachments,
        entry.seq,
        entry.asleep,
        entry.more,
        entry.others,
        entry.traces,
    )

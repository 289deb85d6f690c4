"""Keep what must outlive a room actor: the attachment of every connection and the inputs not yet processed.

Invariants:
- A record exists from the connect input until its close input was processed, however long the socket lived.
- A snapshot is the state as of the last processed input: it holds the records whose connect was processed and
  not refused, with the last committed attachment. Unprocessed inputs follow it, in order.
- Input numbers rise within a room. They are drawn from one counter of the gateway, so a room that was
  forgotten and comes back never uses a number twice.
- A room without records and unprocessed inputs is forgotten.
- What every input below the first unprocessed one was for is done, or given up: no host is to handle it any more.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import count

from verani.link.messages import (
    Attach,
    CallInput,
    Close,
    Connect,
    Entry,
    FrameInput,
    Heard,
    Input,
    Kick,
    Record,
    Seat,
    Snapshot,
)

__all__ = ["Attachments", "RoomInputs", "SNAPSHOT_CHUNK", "size_of"]

# Larger snapshots travel in chunks (design section 6).
SNAPSHOT_CHUNK = 1 << 20

# What an input without its payload is taken to weigh, so that empty frames count too.
_INPUT_OVERHEAD = 128


def size_of(input: Input) -> int:
    """Weigh an input for the in-flight limits, in bytes."""
    weight = _INPUT_OVERHEAD
    if type(input) is FrameInput:
        weight += len(input.event) + len(input.data or b"")
    elif type(input) is Connect:
        weight += len(input.attachment)
    elif type(input) is CallInput:
        weight += len(input.method) + len(input.arguments)
    return weight


def _number_of(held: tuple[Input, int]) -> int:
    return held[0].number


class _HeldConnection:
    __slots__ = ("attachment", "closing", "connected", "order", "refused")

    def __init__(self, attachment: bytes) -> None:
        self.attachment = attachment
        self.connected = False
        self.closing = False
        self.refused = False
        self.order = 0


class RoomInputs:
    """One room as its gateway sees it."""

    __slots__ = ("in_flight", "name", "records", "unprocessed")

    def __init__(self, name: str) -> None:
        self.name = name
        self.records: dict[str, _HeldConnection] = {}
        # With what `size_of` weighs each at. A list: mostly all are processed at once, and an empty one is small.
        self.unprocessed: list[tuple[Input, int]] = []
        # Bytes of the unprocessed inputs, as `size_of` weighs them.
        self.in_flight = 0


class Attachments:
    """The rooms that have connections at this gateway."""

    def __init__(self) -> None:
        self.rooms: dict[str, RoomInputs] = {}
        # Draws the number of the next input, which is to be added at once, or is handled at once.
        self.next_number = count(1).__next__
        self._number = 0
        # Bytes of all unprocessed inputs, and how many there are.
        self.in_flight = 0
        self.unprocessed = 0
        self._forgotten: list[Callable[[str], None]] = []

    def when_forgotten(self, forget: Callable[[str], None]) -> None:
        """Call `forget` with the name of each room that is forgotten here."""
        self._forgotten.append(forget)

    def __len__(self) -> int:
        return sum(len(room.records) for room in self.rooms.values())

    def add(self, input: Input, *, first: bool = False) -> int:
        """Keep an input until it is processed and return its size; a connect also starts its record.

        `first` is for one that has begun, and whose hook may have brought about others.
        """
        room = self.rooms.get(input.room)
        if room is None:
            room = self.rooms[input.room] = RoomInputs(input.room)
        if type(input) is Connect:
            room.records[input.connection] = _HeldConnection(input.attachment)
        size = size_of(input)
        if first:
            room.unprocessed.insert(0, (input, size))
        else:
            self._number = input.number
            room.unprocessed.append((input, size))
        room.in_flight += size
        self.in_flight += size
        self.unprocessed += 1
        return size

    def admit(self, name: str, connection: str, attachment: bytes) -> RoomInputs:
        """Start the record of a connection whose connect was processed before it could be kept; return its room."""
        room = self.rooms.get(name)
        if room is None:
            room = self.rooms[name] = RoomInputs(name)
        held = room.records[connection] = _HeldConnection(attachment)
        held.connected = True
        return room

    def attach(self, room: RoomInputs, attach: Attach | Seat) -> None:
        """Replace an attachment with a newly committed one, or note the place of a session."""
        held = room.records.get(attach.connection)
        if held is None:
            return
        if isinstance(attach, Seat):
            held.order = attach.order
        else:
            held.attachment = attach.attachment

    def note_kick(self, room: RoomInputs, kick: Kick) -> None:
        """Remember that the room told this connection to close, and whether it ever let it in."""
        held = room.records.get(kick.connection)
        if held is not None:
            held.closing = True
            held.refused = kick.refused

    def acknowledge(self, room: RoomInputs, entry: Entry) -> Sequence[tuple[Input, int]]:
        """Settle the records of the inputs that an entry says are processed; return those with their sizes."""
        if entry.processed is None:
            return ()
        settled, weight = room.unprocessed, 0
        if settled and settled[-1][0].number > entry.processed:  # only then is there anything to look for
            number = bisect_right(settled, entry.processed, key=_number_of)
            settled = settled[:number]
            del room.unprocessed[:number]
        else:
            room.unprocessed = []
        for input, size in settled:
            weight += size
            if type(input) is Connect:
                room.records[input.connection].connected = True
            elif type(input) is Close:
                room.records.pop(input.connection, None)
        room.in_flight -= weight
        self.in_flight -= weight
        self.unprocessed -= len(settled)
        if not room.records and not room.unprocessed:
            self._remove(room)
        return settled

    def set_aside(self, room: RoomInputs, number: int) -> list[tuple[Input, int]]:
        """Take an input from those that are to be processed, and return it with its size, nothing if it is not there.

        Of a connect, all later inputs of its connection follow, and of a close, its record goes too: what they were
        about is over.
        """
        taken: list[tuple[Input, int]] = []
        left: list[tuple[Input, int]] = []
        lost: str | None = None
        for input, size in room.unprocessed:
            if input.number == number or (
                lost is not None and not isinstance(input, CallInput) and input.connection == lost
            ):
                taken.append((input, size))
                if isinstance(input, Connect):
                    lost = input.connection
                if isinstance(input, Connect | Close):
                    room.records.pop(input.connection, None)
            else:
                left.append((input, size))
        self._leave(room, taken, left)
        return taken

    def pass_over(self, room: RoomInputs, processed: int) -> list[tuple[Input, int]]:
        """Take the inputs up to a number from those that are to be processed, and return them with their sizes.

        A connect stays, unless its connection has closed since: whether it was let in nobody here has heard.
        """
        end = bisect_right(room.unprocessed, processed, key=_number_of)
        closed = {input.connection for input, _ in room.unprocessed[:end] if type(input) is Close}
        taken: list[tuple[Input, int]] = []
        left: list[tuple[Input, int]] = []
        for held in room.unprocessed[:end]:
            stays = type(held[0]) is Connect and held[0].connection not in closed
            (left if stays else taken).append(held)
        for connection in closed:
            room.records.pop(connection, None)
        self._leave(room, taken, left + room.unprocessed[end:])
        return taken

    def forget(self, room: RoomInputs) -> list[tuple[Input, int]]:
        """Drop all records and inputs of a room, and return the inputs with their sizes."""
        dropped = list(room.unprocessed)
        self._drop(room, dropped)
        room.unprocessed.clear()
        room.records.clear()
        self._remove(room)
        return dropped

    def _leave(self, room: RoomInputs, taken: list[tuple[Input, int]], left: list[tuple[Input, int]]) -> None:
        """Have a room without what was taken of its inputs."""
        self._drop(room, taken)
        room.unprocessed = left
        if not room.records and not left:
            self._remove(room)

    def _remove(self, room: RoomInputs) -> None:
        self.rooms.pop(room.name, None)
        for forget in self._forgotten:
            forget(room.name)

    def _drop(self, room: RoomInputs, inputs: list[tuple[Input, int]]) -> None:
        size = sum(size for _, size in inputs)
        room.in_flight -= size
        self.in_flight -= size
        self.unprocessed -= len(inputs)

    def snapshots(self, name: str, incarnation: int, heard: Heard | None = None) -> Iterator[Snapshot]:
        """Yield the records of a room in chunks; the last one is marked, and says what was heard of its owners."""
        room = self.rooms.get(name)
        processed = room.unprocessed[0][0].number - 1 if room is not None and room.unprocessed else self._number
        chunk: list[Record] = []
        size = 0
        for connection, held in room.records.items() if room is not None else ():
            if not held.connected or held.refused:
                continue
            if chunk and size + len(held.attachment) > SNAPSHOT_CHUNK:
                yield Snapshot(name, incarnation, chunk, last=False, processed=processed)
                chunk, size = [], 0
            chunk.append(Record(connection, held.attachment, held.closing, held.order))
            size += len(held.attachment) + len(connection)
        yield Snapshot(name, incarnation, chunk, processed=processed, heard=heard)

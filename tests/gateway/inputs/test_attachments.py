"""What outlives a room actor: records as of the last processed input, and the inputs that follow."""

from __future__ import annotations

from typing import TypeVar

from hypothesis import given
from hypothesis import strategies as st

from verani.link.messages import Attach, CallInput, Close, Connect, Entry, FrameInput, Input, Kick, Record
from verani_gateway.inputs.attachments import SNAPSHOT_CHUNK, Attachments, size_of

ROOM = "chat/a"

AnInput = TypeVar("AnInput", Connect, FrameInput, Close, CallInput)


class Desk:
    """Attachments, and the inputs of one room put into them."""

    def __init__(self) -> None:
        self.attachments = Attachments()

    def connect(self, connection: str, attachment: bytes = b"first", room: str = ROOM) -> Connect:
        return self._add(Connect(room, self.attachments.next_number(), connection, attachment))

    def frame(self, connection: str, data: bytes | None = b"1") -> FrameInput:
        return self._add(FrameInput(ROOM, self.attachments.next_number(), connection, "n", data))

    def close(self, connection: str, room: str = ROOM) -> Close:
        return self._add(Close(room, self.attachments.next_number(), connection, 1000))

    def call(self) -> CallInput:
        return self._add(CallInput(ROOM, self.attachments.next_number(), "m", b"[]", 1.0))

    def _add(self, input: AnInput) -> AnInput:
        self.attachments.add(input)
        return input

    def acknowledge(self, number: int | None, room: str = ROOM) -> list[Input]:
        settled = list(self.attachments.acknowledge(self.attachments.rooms[room], Entry(room, processed=number)))
        assert all(size == size_of(input) for input, size in settled)
        return [input for input, _ in settled]

    def attach(self, connection: str, attachment: bytes) -> None:
        self.attachments.attach(self.attachments.rooms[ROOM], Attach(connection, attachment))

    def records(self, room: str = ROOM) -> list[Record]:
        return [record for chunk in self.attachments.snapshots(room, 7) for record in chunk.records]


class Looked(int):
    """The number of an input, which counts how often it is looked at."""

    looks = 0

    def _count(self) -> int:
        Looked.looks += 1
        return int(self)

    def __le__(self, other: int) -> bool:
        return self._count() <= other

    def __gt__(self, other: int) -> bool:
        return self._count() > other

    __hash__ = int.__hash__


def test_to_acknowledge_one_input_does_not_look_at_all_that_wait_behind_it() -> None:
    desk, waiting = Desk(), 1000
    inputs = [desk._add(FrameInput(ROOM, Looked(number), "c1", "n")) for number in range(1, waiting + 1)]
    assert desk.acknowledge(1) == inputs[:1]
    assert desk.acknowledge(3) == inputs[1:3]
    assert 0 < Looked.looks < waiting / 10


def test_a_snapshot_is_the_state_as_of_the_last_processed_input() -> None:
    desk = Desk()
    first, second = desk.connect("c1", b"one"), desk.connect("c2", b"two")
    assert desk.records() == []
    assert desk.acknowledge(first.number) == [first]
    assert desk.records() == [Record("c1", b"one")]
    closed = desk.close("c1")
    desk.acknowledge(second.number)
    assert desk.records() == [Record("c1", b"one"), Record("c2", b"two")], "a record outlives its socket"
    desk.acknowledge(closed.number)
    assert desk.records() == [Record("c2", b"two")]


def test_a_snapshot_has_the_attachment_last_committed_and_who_was_told_to_close() -> None:
    desk = Desk()
    connect = desk.connect("c1", b"one")
    desk.attach("c1", b"committed before the connect was acknowledged")
    desk.acknowledge(connect.number)
    desk.attach("c1", b"two")
    desk.attach("unknown", b"x")
    room = desk.attachments.rooms[ROOM]
    desk.attachments.note_kick(room, Kick("c1", 1000))
    desk.attachments.note_kick(room, Kick("unknown", 1000))
    assert desk.records() == [Record("c1", b"two", closing=True)]


def test_a_snapshot_leaves_out_whom_the_room_refused_although_the_close_is_still_to_come() -> None:
    desk = Desk()
    connect = desk.connect("c1")
    room = desk.attachments.rooms[ROOM]
    desk.attachments.note_kick(room, Kick("c1", 1011, refused=True))
    desk.acknowledge(connect.number)
    assert desk.records() == []
    desk.acknowledge(desk.close("c1").number)
    assert desk.attachments.rooms == {}


def test_inputs_are_kept_in_order_until_they_are_acknowledged() -> None:
    desk = Desk()
    inputs: list[Input] = [desk.connect("c1"), desk.frame("c1"), desk.frame("c1"), desk.close("c1")]
    room = desk.attachments.rooms[ROOM]
    assert [input for input, _ in room.unprocessed] == inputs
    assert desk.acknowledge(None) == []
    assert desk.acknowledge(inputs[1].number) == inputs[:2]
    assert desk.acknowledge(inputs[1].number) == [], "an acknowledgement that comes again means nothing"
    assert [input for input, _ in room.unprocessed] == inputs[2:]


def test_large_snapshots_come_in_chunks_of_which_the_last_is_marked() -> None:
    desk = Desk()
    for n in range(10):
        desk.acknowledge(desk.connect(f"c{n}", bytes([n]) * (SNAPSHOT_CHUNK // 3)).number)
    chunks = list(desk.attachments.snapshots(ROOM, 7))
    assert [chunk.last for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert {(chunk.room, chunk.incarnation) for chunk in chunks} == {(ROOM, 7)}
    assert all(sum(len(r.attachment) for r in chunk.records) <= SNAPSHOT_CHUNK for chunk in chunks)
    assert len(chunks) > 1
    assert [r.connection for chunk in chunks for r in chunk.records] == [f"c{n}" for n in range(10)]


def test_a_record_larger_than_a_chunk_travels_alone() -> None:
    desk = Desk()
    for n in range(2):
        desk.acknowledge(desk.connect(f"c{n}", b"x" * (SNAPSHOT_CHUNK + 1)).number)
    assert [len(chunk.records) for chunk in desk.attachments.snapshots(ROOM, 1)] == [1, 1]


def test_an_unknown_room_has_one_empty_last_chunk() -> None:
    (chunk,) = Attachments().snapshots("chat/none", 3)
    assert (chunk.records, chunk.last, chunk.incarnation) == ([], True, 3)


def test_a_room_is_forgotten_with_its_last_record_and_its_numbers_never_come_back() -> None:
    desk = Desk()
    desk.connect("c1")
    close = desk.close("c1")
    desk.acknowledge(close.number)
    assert desk.attachments.rooms == {}
    assert len(desk.attachments) == 0
    assert desk.connect("c2").number > close.number
    assert len(desk.attachments) == 1


def test_a_room_with_unprocessed_inputs_is_kept_although_nobody_is_there() -> None:
    desk = Desk()
    connect = desk.connect("c1")
    desk.close("c1")
    desk.acknowledge(connect.number)
    assert ROOM in desk.attachments.rooms


def test_the_weight_of_inputs_is_what_their_payloads_hold_and_something_for_themselves() -> None:
    small = size_of(FrameInput(ROOM, 1, "c", "", None))
    assert small > 0, "empty frames count too"
    assert size_of(FrameInput(ROOM, 1, "c", "n" * 10, b"x" * 90)) == small + 100
    assert size_of(Connect(ROOM, 1, "c", b"x" * 100)) == small + 100
    assert size_of(Close(ROOM, 1, "c", 1000)) == small


def test_a_snapshot_says_up_to_which_number_nothing_is_left_to_handle() -> None:
    desk = Desk()
    first, second = desk.connect("c1"), desk.connect("c2", room="chat/b")
    third = desk.frame("c1")

    def processed(room: str = ROOM) -> set[int]:
        return {chunk.processed for chunk in desk.attachments.snapshots(room, 1)}

    assert processed() == {first.number - 1}
    desk.acknowledge(first.number)
    assert processed() == {third.number - 1}, "numbers between are of other rooms"
    assert processed("chat/b") == {second.number - 1}
    desk.acknowledge(third.number)
    assert processed() == {third.number}
    assert processed("chat/none") == {third.number}, "whatever was there is done, or given up"


def test_an_input_that_is_set_aside_leaves_the_others_in_order() -> None:
    desk = Desk()
    connect, frame, call, close = desk.connect("c1"), desk.frame("c1"), desk.call(), desk.close("c1")
    room = desk.attachments.rooms[ROOM]
    assert desk.attachments.set_aside(room, frame.number) == [(frame, size_of(frame))]
    assert desk.attachments.set_aside(room, frame.number) == []
    assert [input for input, _ in room.unprocessed] == [connect, call, close]
    assert room.in_flight == desk.attachments.in_flight == size_of(connect) + size_of(call) + size_of(close)
    assert [input for input, _ in desk.attachments.set_aside(room, connect.number)] == [connect, close]
    assert room.records == {}
    assert [input for input, _ in room.unprocessed] == [call]
    assert [input for input, _ in desk.attachments.set_aside(room, call.number)] == [call]
    assert desk.attachments.rooms == {}
    assert desk.attachments.in_flight == 0


def test_a_close_that_is_set_aside_ends_its_record() -> None:
    desk = Desk()
    desk.acknowledge(desk.connect("c1").number)
    desk.acknowledge(desk.connect("c2").number)
    desk.attachments.set_aside(desk.attachments.rooms[ROOM], desk.close("c1").number)
    assert [record.connection for record in desk.records()] == ["c2"]


def test_a_room_that_is_forgotten_leaves_no_record_and_no_weight() -> None:
    desk = Desk()
    desk.acknowledge(desk.connect("c1").number)
    frame, other = desk.frame("c1"), desk.connect("c2", room="chat/b")
    room = desk.attachments.rooms[ROOM]
    assert desk.attachments.forget(room) == [(frame, size_of(frame))]
    assert (room.in_flight, room.records, list(room.unprocessed)) == (0, {}, [])
    assert list(desk.attachments.rooms) == ["chat/b"]
    assert desk.attachments.in_flight == size_of(other)


@given(st.lists(st.tuples(st.sampled_from(["connect", "frame", "close", "ack"]), st.integers(0, 5)), max_size=60))
def test_the_weights_always_add_up_and_end_at_nothing(steps: list[tuple[str, int]]) -> None:
    desk = Desk()
    present: dict[int, str] = {}
    last = 0
    for step, which in steps:
        if step == "connect" and which not in present:
            present[which] = f"c{last}"  # the id of a connection never comes back
            last = desk.connect(present[which], b"x" * which).number
        elif step == "frame" and which in present:
            last = desk.frame(present[which], b"y" * which).number
        elif step == "close" and which in present:
            last = desk.close(present.pop(which)).number
        elif step == "ack" and ROOM in desk.attachments.rooms:
            desk.acknowledge(last - which)
        held = desk.attachments.rooms.get(ROOM)
        weight = sum(size_of(input) for input, _ in held.unprocessed) if held is not None else 0
        assert desk.attachments.in_flight == weight
        assert desk.attachments.unprocessed == sum(len(room.unprocessed) for room in desk.attachments.rooms.values())
        assert held is None or held.in_flight == weight
    if ROOM in desk.attachments.rooms:
        desk.acknowledge(last)
    assert desk.attachments.in_flight == 0
    assert {record.connection for record in desk.records()} == set(present.values())


def test_an_acknowledgement_is_whole_before_anybody_hears_of_it() -> None:
    desk = Desk()
    inputs: list[Input] = [desk.connect("c1", b"one"), desk.call(), desk.close("c1")]
    settled = desk.attachments.acknowledge(desk.attachments.rooms[ROOM], Entry(ROOM, processed=inputs[-1].number))
    assert (desk.attachments.rooms, desk.attachments.in_flight, desk.attachments.unprocessed) == ({}, 0, 0)
    again = desk.connect("c2", b"two")  # whoever is told of the first input may put the next
    assert [input for input, _ in settled] == inputs
    assert [input for input, _ in desk.attachments.rooms[ROOM].unprocessed] == [again]

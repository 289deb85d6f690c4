"""What a link carries of a room: audiences by name, whatever becomes of them, and entries in parts."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from verani.link import shorthand
from verani.link.messages import (
    Attach,
    Cast,
    Deliver,
    Ended,
    Entry,
    EntryBatch,
    Group,
    HostMessage,
    HostPacket,
    Output,
    Pull,
    Said,
    Seat,
    Ungroup,
    encode_message,
)
from verani.link.shorthand import Longhand, Shorthand
from verani.link.stream import LONG_PACKET, StreamError, gateway_stream, host_stream

ROOM = "chat/lobby"


def connections(count: int, first: int = 0) -> tuple[str, ...]:
    return tuple(f"0123abcd-{number:x}" for number in range(first, first + count))


class Link:
    """Both ends, and what was between them."""

    def __init__(self) -> None:
        self.host = host_stream(0.0)
        self.gateway = gateway_stream(0.0)
        self.bytes = 0

    def carry(self, *messages: HostMessage) -> list[HostMessage]:
        """Have messages go over the link as those of one tick; `bytes` is what they took."""
        self.host.put(list(messages), 0.0)
        self.bytes = 0
        taken: list[HostMessage] = []
        while (data := self.host.next()) is not None:
            self.bytes += len(data)
            taken += self.gateway.take(data, 0.0)
            self.host.take(self.gateway.confirmation(), 0.0)
        return taken

    def output(self, *outputs: Output, room: str = ROOM) -> list[Output]:
        """Carry the outputs of one entry."""
        (batch,) = self.carry(EntryBatch([Entry(room, 1, outputs=list(outputs))]))
        assert isinstance(batch, EntryBatch)
        return batch.entries[0].outputs

    @property
    def sizes(self) -> tuple[int, int]:
        """Memberships that are named at either end."""
        written, read = self.host._write.__self__, self.gateway._read.__self__  # type: ignore[union-attr]
        return written.size, read.size


@pytest.fixture
def link() -> Link:
    return Link()


def test_a_broadcast_to_three_thousand_costs_its_payload_and_a_few_bytes_once_they_are_known(link: Link) -> None:
    members = connections(3000)
    link.output(Deliver(members, bytes(25)))
    for exclude in ((), (members[0],), (members[1500],), members[:4]):
        assert link.output(Deliver(members, bytes(25), exclude)) == [Deliver(members, bytes(25), exclude)]
        assert link.bytes <= 100


def test_one_who_comes_or_goes_costs_a_name_however_many_there_are(link: Link) -> None:
    members = connections(3000)
    link.output(Deliver(members, b"{}"))
    for change in (
        (*members, "0123abcd-new"),
        members,
        members[1:],
        members[:1000] + members[1001:],
        (*members[:2999], "0123abcd-newer"),
    ):
        assert _sets(link.output(Deliver(change, b"{}"))) == _sets([Deliver(change, b"{}")])
        assert link.bytes <= 120


def test_everybody_who_comes_is_written_out_once(link: Link) -> None:
    everybody, total = connections(1000), 0
    for count in range(4, 1001):
        link.output(Deliver(everybody[:count], b"{}"))
        total += link.bytes
    assert total < 1000 * 120


def test_audiences_picked_anew_for_each_output_are_written_as_parts_of_the_room(link: Link) -> None:
    chance, members = random.Random(1), connections(3000)
    link.output(Deliver(members, b"{}"))
    for _ in range(20):
        some = tuple(member for member in members if chance.random() < 0.9)
        assert _sets(link.output(Deliver(some, b"{}"))) == _sets([Deliver(some, b"{}")])
        assert link.bytes < 2000
        link.output(Deliver(tuple(some), b"{}"))
        assert link.bytes <= 100, "an equal one is the same"


def test_who_is_excluded_but_not_in_the_part_of_this_gateway_is_not_said(link: Link) -> None:
    members = connections(10)
    for exclude in ((members[3], "elsewhere"), ("elsewhere",), (*members[2:9], "elsewhere", "e2")):
        here = tuple(each for each in exclude if each in members)
        assert link.output(Deliver(members, b"", exclude)) == [Deliver(members, b"", here)]


def test_sessions_that_changed_their_places_are_still_the_ones_that_are_excluded(link: Link) -> None:
    members = connections(12)
    link.output(Deliver(members, b""))
    for order in (tuple(reversed(members)), (members[5], *members[:5], *members[6:], "late")):
        for excluded in order:
            (output,) = link.output(Deliver(order, b"", (excluded,)))
            assert isinstance(output, Deliver)
            assert (frozenset(output.connections), output.exclude) == (frozenset(order), (excluded,))


def test_the_same_audience_is_the_same_object_at_the_gateway(link: Link) -> None:
    members = connections(5)
    first, second = link.output(Deliver(members, b"1"), Deliver(members, b"2", members[:1]))
    assert isinstance(first, Deliver)
    assert isinstance(second, Deliver)
    assert first.connections is second.connections


def test_names_are_forgotten_with_the_incarnation_of_their_room(link: Link) -> None:
    link.output(Deliver(connections(10), b""))
    link.output(Deliver(connections(10, 100), b""), room="chat/other")
    assert link.sizes == (20, 20)
    assert link.carry(Ended([ROOM, "chat/unknown"])) == []
    assert link.sizes == (10, 10)
    assert link.output(Deliver(connections(10), b"")) == [Deliver(connections(10), b"")]
    link.carry(Ended([ROOM, "chat/other"]))
    assert link.sizes == (0, 0)
    shorthand = link.host._write.__self__  # type: ignore[union-attr]
    assert not any(vars(shorthand)[name] for name in ("_named", "_by_id", "_by_members", "_rooms", "_largest"))


def test_the_audience_that_was_not_used_for_the_longest_time_is_forgotten(
    link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shorthand, "MAX_NAMED", 250)
    first, second = connections(100), connections(100, 100)
    link.output(Deliver(first, b""), Deliver(second, b""))
    link.output(Deliver(first, b""))
    for number in range(100):
        link.output(Deliver(connections(50, 1000 * number + 1000), b""))
        link.output(Deliver(first, b""))
        assert link.bytes < 100
        assert link.sizes[0] == link.sizes[1] <= 250
    large = connections(1000, 10**6)
    assert link.output(Deliver(large, b"")) == [Deliver(large, b"")]
    assert link.sizes == (1000, 1000), "one is always known"


def test_no_audience_is_forgotten_before_all_that_is_said_to_it_at_once(
    link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shorthand, "MAX_NAMED", 250)
    said = [Deliver(connections(100, 1000 * number), b"") for number in range(5)]
    assert link.output(*said) == said
    assert link.sizes == (200, 200)


def test_names_of_a_session_that_was_reset_mean_nothing_in_the_next(link: Link) -> None:
    members = connections(10)
    link.output(Deliver(members, b""))
    again = Link()
    assert again.output(Deliver(members, b"")) == [Deliver(members, b"")]


def test_packets_that_are_sent_again_are_read_once() -> None:
    host, gateway = host_stream(0.0), gateway_stream(0.0)
    members = connections(10)
    for count in range(4, 11):
        host.put([EntryBatch([Entry(ROOM, count, outputs=[Deliver(members[:count], b"")])])], 0.0)
    sent = []
    while (data := host.next()) is not None:
        sent.append(data)
    taken = [message for data in sent[:4] for message in gateway.take(data, 0.0)]
    host.resume(2, 0.0)
    while (data := host.next()) is not None:
        taken += gateway.take(data, 0.0)
    audiences = [output.connections for batch in taken for output in batch.entries[0].outputs]  # type: ignore[union-attr]
    assert audiences == [members[:count] for count in range(4, 11)]


@pytest.mark.parametrize(
    "messages",
    [
        [EntryBatch([Entry(ROOM, outputs=[Cast(1, b"")])])],
        [Group(1, 0, (), ("a", "b")), EntryBatch([Entry(ROOM, outputs=[Cast(1, b"", (2,))])])],
        [Group(1, 0, (), ("a", "b")), Ungroup([1]), EntryBatch([Entry(ROOM, outputs=[Cast(1, b"")])])],
        [Group(2, 1, (1,), ())],
        [Group(1, 0, (), ("a", "b")), Group(2, 1, (3,), ())],
        [Group(1, 0, (), ("a", "b")), Group(2, 1, (-1,), ())],
        [EntryBatch([Entry(ROOM, more=True), Entry("chat/other")])],
    ],
)
def test_what_no_host_writes_is_an_error_of_the_stream(messages: list[HostMessage]) -> None:
    with pytest.raises(StreamError):
        gateway_stream(0.0).take(encode_message(HostPacket(1, 0, messages)), 0.0)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_whatever_is_sent_to_whomever_arrives_as_it_was(data: st.DataObject) -> None:
    link = Link()
    rooms = {f"chat/{n}": list(connections(data.draw(st.integers(0, 40)), 1000 * n)) for n in range(2)}
    for step in range(data.draw(st.integers(1, 12))):
        room = data.draw(st.sampled_from(sorted(rooms)))
        members = rooms[room]
        match data.draw(st.sampled_from(("come", "go", "shuffle", "end", "send"))):
            case "come":
                members += connections(data.draw(st.integers(1, 9)), 10_000 * (step + 1))
            case "go" if members:
                members.pop(data.draw(st.integers(0, len(members) - 1)))
            case "shuffle":
                data.draw(st.randoms()).shuffle(members)
            case "end":
                assert link.carry(Ended([room])) == []
        picked = members if data.draw(st.booleans()) else [each for each in members if data.draw(st.booleans())]
        exclude = tuple(data.draw(st.lists(st.sampled_from(members), max_size=6, unique=True))) if members else ()
        said = Deliver(tuple(picked), b"x", exclude)
        (heard,) = link.output(said, room=room)
        assert isinstance(heard, Deliver)
        assert _reached(heard) == _reached(said)
        assert link.sizes[0] == link.sizes[1]


def test_an_entry_that_is_too_long_for_a_packet_is_sent_in_parts_and_given_out_whole(link: Link) -> None:
    attachments: list[Attach | Seat] = [Attach(f"c{n}", bytes(16_000)) for n in range(5500)]
    outputs: list[Output] = [Deliver(connections(3000), bytes(1000)) for _ in range(200)]
    entry = Entry(ROOM, 7, 8, outputs, [*attachments, Seat("c", 3)], 9, True, others=(Said("g2", 8, 3),))
    before, after = Entry("chat/before", 1), Entry("chat/after", 2)
    (*pieces,) = _entries(link.carry(EntryBatch([before, entry, after]), Pull(ROOM, 2)))
    assert link.bytes > 80 << 20
    assert pieces == [before, entry, after]


def test_nothing_of_an_entry_is_given_out_before_its_last_part(link: Link) -> None:
    outputs: list[Output] = [Deliver(("c",), bytes(LONG_PACKET // 2)) for _ in range(5)]
    link.host.put([EntryBatch([Entry(ROOM, 7, outputs=outputs)])], 0.0)
    packets = []
    while (data := link.host.next()) is not None:
        packets.append(data)
    assert len(packets) > 2
    assert [_entries(link.gateway.take(data, 0.0)) for data in packets[:-1]] == [[]] * (len(packets) - 1)
    assert _entries(link.gateway.take(packets[-1], 0.0)) == [Entry(ROOM, 7, outputs=outputs)]


def test_longhand_of_a_host_that_names_nothing_is_the_same() -> None:
    batch: list[Any] = [EntryBatch([Entry(ROOM, 1, outputs=[Deliver(("a",), b"x")])]), Pull(ROOM, 1)]
    assert Longhand().read(Shorthand().write(batch)) == batch


def _entries(messages: Any) -> list[Entry]:
    return [entry for message in messages if isinstance(message, EntryBatch) for entry in message.entries]


def _sets(outputs: list[Output]) -> list[frozenset[str]]:
    return [frozenset(output.connections) for output in outputs if isinstance(output, Deliver)]


def _reached(output: Deliver) -> frozenset[str]:
    return frozenset(output.connections) - frozenset(output.exclude)

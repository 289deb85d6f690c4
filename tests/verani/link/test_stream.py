"""The two halves of a link session: every message arrives once and in order, however its connections are cut."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from verani.link.messages import (
    CallInput,
    Close,
    Deliver,
    Drained,
    Entry,
    EntryBatch,
    GatewayMessage,
    GatewayPacket,
    HostMessage,
    InputBatch,
    Pull,
    decode_gateway_packet,
    encode_message,
)
from verani.link.stream import (
    CONFIRM_AFTER,
    CONFIRM_PACKETS,
    LONG_PACKET,
    MAX_PACKET,
    MAX_STALLED,
    STALLED_AFTER,
    Stream,
    StreamError,
    gateway_stream,
    host_stream,
)


def said(*numbers: int) -> list[GatewayMessage]:
    return [Drained("chat/a", number) for number in numbers]


def answered(*numbers: int) -> list[HostMessage]:
    return [Pull("chat/a", number) for number in numbers]


def everything(stream: Stream[Any, Any]) -> list[bytes]:
    packets = []
    while (data := stream.next()) is not None:
        packets.append(data)
    return packets


class Cuts(RuleBasedStateMachine):
    """Two ends, a connection that carries packets in order, and cuts that lose what is in flight, each way."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.gateway = gateway_stream(self.now)
        self.host = host_stream(self.now)
        self.to_host: deque[bytes] = deque()
        self.to_gateway: deque[bytes] = deque()
        self.connected = True
        self.put_by_gateway: list[int] = []
        self.put_by_host: list[int] = []
        self.taken_by_host: list[int] = []
        self.taken_by_gateway: list[int] = []

    @rule(count=st.integers(1, 3))
    def gateway_speaks(self, count: int) -> None:
        numbers = [len(self.put_by_gateway) + n for n in range(count)]
        self.gateway.put(said(*numbers), self.now)
        self.put_by_gateway += numbers

    @rule(count=st.integers(1, 3))
    def host_speaks(self, count: int) -> None:
        numbers = [len(self.put_by_host) + n for n in range(count)]
        self.host.put(answered(*numbers), self.now)
        self.put_by_host += numbers

    @rule(count=st.integers(1, 4))
    def gateway_writes(self, count: int) -> None:
        self._write(self.gateway, self.to_host, count)

    @rule(count=st.integers(1, 4))
    def host_writes(self, count: int) -> None:
        self._write(self.host, self.to_gateway, count)

    def _write(self, stream: Stream[Any, Any], wire: deque[bytes], count: int) -> None:
        for _ in range(count if self.connected else 0):
            if (data := stream.next()) is not None:
                wire.append(data)

    @rule()
    def both_confirm(self) -> None:
        if self.connected:
            self.to_host.append(self.gateway.confirmation())
            self.to_gateway.append(self.host.confirmation())

    @rule(count=st.integers(1, 4))
    def host_reads(self, count: int) -> None:
        for _ in range(min(count, len(self.to_host))):
            for message in self.host.take(self.to_host.popleft(), self.now):
                assert isinstance(message, Drained)
                self.taken_by_host.append(message.token)

    @rule(count=st.integers(1, 4))
    def gateway_reads(self, count: int) -> None:
        for _ in range(min(count, len(self.to_gateway))):
            for message in self.gateway.take(self.to_gateway.popleft(), self.now):
                assert isinstance(message, Pull)
                self.taken_by_gateway.append(message.incarnation)

    @rule(lost_to_host=st.integers(0, 10), lost_to_gateway=st.integers(0, 10))
    def cut(self, lost_to_host: int, lost_to_gateway: int) -> None:
        """Lose a suffix each way; what is left is still read, as from a socket's buffer."""
        for wire, lost in ((self.to_host, lost_to_host), (self.to_gateway, lost_to_gateway)):
            for _ in range(min(lost, len(wire))):
                wire.pop()
        self.connected = False

    @rule()
    def resume(self) -> None:
        """The old connection is dropped, then each end says what it has received."""
        self.to_host.clear()
        self.to_gateway.clear()
        gateway_has, host_has = self.gateway.received, self.host.received
        self.host.resume(gateway_has, self.now)
        self.gateway.resume(host_has, self.now)
        self.connected = True

    @invariant()
    def what_was_taken_is_what_was_put(self) -> None:
        assert self.taken_by_host == self.put_by_gateway[: len(self.taken_by_host)]
        assert self.taken_by_gateway == self.put_by_host[: len(self.taken_by_gateway)]

    def teardown(self) -> None:
        self.resume()
        self._write(self.gateway, self.to_host, 1000)
        self._write(self.host, self.to_gateway, 1000)
        self.host_reads(1000)
        self.gateway_reads(1000)
        self.both_confirm()
        self.host_reads(1000)
        self.gateway_reads(1000)
        assert self.taken_by_host == self.put_by_gateway
        assert self.taken_by_gateway == self.put_by_host
        assert self.gateway.unconfirmed == self.host.unconfirmed == 0
        assert not self.gateway._sent
        assert not self.host._sent


TestCuts = Cuts.TestCase
TestCuts.settings = settings(max_examples=200, stateful_step_count=60, deadline=None)


def test_the_messages_of_a_tick_are_one_packet() -> None:
    stream = gateway_stream(0.0)
    stream.put(said(*range(50)), 0.0)
    (data,) = everything(stream)
    assert decode_gateway_packet(data) == GatewayPacket(1, 0, said(*range(50)))


def test_a_packet_that_was_taken_before_is_dropped() -> None:
    gateway, host = gateway_stream(0.0), host_stream(0.0)
    gateway.put(said(1), 0.0)
    (data,) = everything(gateway)
    assert host.take(data, 0.0) == said(1)
    assert not host.take(data, 0.0)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(encode_message(GatewayPacket(2, 0, said(1))), id="a gap"),
        pytest.param(encode_message(GatewayPacket(-1, 0, [])), id="a number below zero"),
        pytest.param(encode_message(GatewayPacket(1, 1, [])), id="confirms what was not sent"),
        pytest.param(encode_message(GatewayPacket(0, 0, said(1))), id="messages without a number"),
        pytest.param(b"", id="nothing"),
        pytest.param(b"\xc1", id="no msgpack"),
        pytest.param(encode_message([1, 0, [["unknown", 1]]]), id="an unknown message"),
        pytest.param(encode_message([1, 0, [["drained", b"\xff", 1]]]), id="bytes for text"),
        pytest.param(b"\x93\x01\x00\x91\x93\xa7drained\xa1\xff\x01", id="text that is not UTF-8"),
        pytest.param(b"\x91" * 100_000, id="nested without end"),
        pytest.param(encode_message([1, 0, answered(1)]), id="the other direction"),
    ],
)
def test_what_breaks_the_rules_is_an_error(data: bytes) -> None:
    with pytest.raises(StreamError):
        host_stream(0.0).take(data, 0.0)


@given(st.binary(max_size=200))
def test_garbage_is_never_anything_else_than_an_error(data: bytes) -> None:
    with suppress(StreamError):
        host_stream(0.0).take(data, 0.0)


@pytest.mark.parametrize("received", [1, 3])
def test_nobody_resumes_from_what_was_confirmed_or_never_sent(received: int) -> None:
    gateway, host = gateway_stream(0.0), host_stream(0.0)
    gateway.put(said(1), 0.0)
    gateway.put(said(2), 0.0)
    for data in everything(gateway):
        host.take(data, 0.0)
    gateway.take(host.confirmation(), 0.0)
    with pytest.raises(StreamError):
        gateway.resume(received, 0.0)


def test_a_confirmation_is_due_after_a_while_or_after_many_packets() -> None:
    gateway, host = gateway_stream(0.0), host_stream(0.0)
    assert host.confirm_at is None
    for number in range(CONFIRM_PACKETS):
        gateway.put(said(number), 0.0)
    packets = everything(gateway)
    host.take(packets[0], 5.0)
    assert host.confirm_at == 5.0 + CONFIRM_AFTER
    for data in packets[1:]:
        host.take(data, 5.01)
    assert host.confirm_at == 5.0
    gateway.take(host.confirmation(), 6.0)
    assert host.confirm_at is None
    assert gateway.unconfirmed == 0


def test_a_packet_confirms_only_once_it_is_written_and_only_what_it_knew() -> None:
    gateway, host = gateway_stream(0.0), host_stream(0.0)
    gateway.put(said(1), 0.0)
    gateway.put(said(2), 0.0)
    first, second = everything(gateway)
    host.take(first, 0.0)
    host.put(answered(1), 0.0)
    host.take(second, 0.0)
    (data,) = everything(host)
    assert host.confirm_at is not None
    gateway.take(data, 0.0)
    assert gateway.confirmed == 1


def test_what_waits_is_stuck_if_it_is_much_and_nothing_is_confirmed() -> None:
    gateway, host = gateway_stream(0.0), host_stream(0.0)
    gateway.put(said(1), 0.0)
    assert not gateway.is_stuck(1000.0)
    call: list[GatewayMessage] = [InputBatch([CallInput("chat/a", 1, "m", bytes(MAX_STALLED), 5.0)])]
    gateway.put(call, 1000.0)
    (small, _) = everything(gateway)
    host.take(small, 1000.0)
    gateway.take(host.confirmation(), 1000.0)
    assert not gateway.is_stuck(1000.0 + STALLED_AFTER / 2)
    assert gateway.is_stuck(1000.0 + STALLED_AFTER)


def batch_of_inputs(size: int) -> GatewayMessage:
    return InputBatch([CallInput("chat/a", number, "m", bytes(size), 5.0) for number in range(6)], 3)


def batch_of_entries(size: int) -> HostMessage:
    return EntryBatch([Entry(f"chat/{n}", outputs=[Deliver(("c",), bytes(size))]) for n in range(6)])


@pytest.mark.parametrize(
    ("stream", "other", "batch"),
    [
        (gateway_stream, host_stream, batch_of_inputs),
        (host_stream, gateway_stream, batch_of_entries),
    ],
)
def test_what_is_long_is_sent_in_several_packets(
    stream: Callable[[float], Stream[Any, Any]],
    other: Callable[[float], Stream[Any, Any]],
    batch: Callable[[int], GatewayMessage | HostMessage],
) -> None:
    sender, taker = stream(0.0), other(0.0)
    long = batch(LONG_PACKET // 2)
    sender.put([long, long], 0.0)
    packets = everything(sender)
    assert len(packets) == 12
    assert max(map(len, packets)) <= LONG_PACKET
    taken: list[Any] = [message for data in packets for message in taker.take(data, 0.0)]
    assert _pieces(taken) == _pieces([long, long])


def _pieces(messages: Sequence[Any]) -> list[Any]:
    return [
        encode_message(piece)
        for message in messages
        for piece in (message.inputs if isinstance(message, InputBatch) else message.entries)
    ]


def test_a_message_that_no_end_would_read_is_not_sent() -> None:
    stream = gateway_stream(0.0)
    with pytest.raises(StreamError):
        stream.put([InputBatch([CallInput("chat/a", 1, "m", bytes(MAX_PACKET), 5.0)])], 0.0)
    stream.put([InputBatch([Close("chat/a", 1, "c", 1000)])], 0.0)
    (data,) = everything(stream)
    assert host_stream(0.0).take(data, 0.0)

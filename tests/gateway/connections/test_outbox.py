"""What is put leaves in that order, at the end of the tick, and an unread connection is noticed."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from functools import partial
from typing import Any

import pytest

from tests.raw import until
from verani_gateway.connections import outbox as outbox_module
from verani_gateway.connections.outbox import (
    MAX_RUN,
    MAX_WAITING,
    Outbox,
    Run,
    Writer,
    close_frame,
    control_frame,
    text_frame,
)
from verani_gateway.inputs.metrics import Metrics


class FakeTransport(asyncio.WriteTransport):
    """Take what is written; what the kernel would not take at once stays in a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self.stuck = False
        self.buffered = 0
        self.closing = False

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        self.writes.append(bytes(data))
        if self.stuck:
            self.buffered += len(data)

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview[Any]]) -> None:
        self.write(b"".join(list_of_data))

    def get_write_buffer_size(self) -> int:
        return self.buffered

    def is_closing(self) -> bool:
        return self.closing


class Line:
    """One outbox and what became of it."""

    def __init__(self, writer: Writer, limit: int = 1000) -> None:
        self.transport = FakeTransport()
        self.slow = 0
        self.outbox = Outbox(writer, self.transport, limit, lambda: self)

    def too_slow(self) -> None:
        self.slow += 1
        self.outbox.seal(b"<slow>")

    @property
    def written(self) -> bytes:
        return b"".join(self.transport.writes)

    @property
    def said(self) -> bytes:
        """What was written, without the headers of frames of one byte."""
        return self.written.replace(b"\x81\x01", b"")


@pytest.fixture
async def writer() -> Writer:
    return Writer(asyncio.get_running_loop(), Metrics())


@pytest.mark.parametrize(
    ("size", "head"),
    [
        (0, b"\x81\x00"),
        (1, b"\x81\x01"),
        (125, b"\x81\x7d"),
        (126, b"\x81\x7e\x00\x7e"),
        (65535, b"\x81\x7e\xff\xff"),
        (65536, b"\x81\x7f\x00\x00\x00\x00\x00\x01\x00\x00"),
        (1 << 20, b"\x81\x7f\x00\x00\x00\x00\x00\x10\x00\x00"),
    ],
)
def test_a_text_frame_has_the_shortest_header_for_its_length(size: int, head: bytes) -> None:
    assert text_frame(b"x" * size) == head + b"x" * size


def test_control_and_close_frames_have_their_exact_bytes() -> None:
    assert control_frame(9, b"") == b"\x89\x00"
    assert control_frame(10, b"x" * 125) == b"\x8a\x7d" + b"x" * 125
    assert close_frame(None) == b"\x88\x00"
    assert close_frame(1000) == b"\x88\x02\x03\xe8"
    assert close_frame(4001, "bye") == b"\x88\x05\x0f\xa1bye"


def test_a_close_reason_is_cut_to_what_fits_and_stays_utf8() -> None:
    assert close_frame(1000, "x" * 200) == b"\x88\x7d\x03\xe8" + b"x" * 123
    cut = close_frame(1000, "a" + "ü" * 100)
    assert cut[1] == len(cut) - 2 <= 125
    assert cut[4:].decode() == "a" + "ü" * 61


async def test_what_is_put_in_one_tick_leaves_in_one_write_in_order(writer: Writer) -> None:
    line = Line(writer)
    for part in (b"a", b"b", b"c"):
        line.outbox.put(part)
    assert (line.transport.writes, line.outbox.pending, line.outbox.unsent) == ([], 3, 3)
    await asyncio.sleep(0)
    assert (line.transport.writes, line.outbox.pending) == ([b"abc"], 0)
    line.outbox.put(b"d")
    await asyncio.sleep(0)
    assert line.transport.writes == [b"abc", b"d"]


async def test_what_is_written_at_once_keeps_its_place_and_the_limit(writer: Writer) -> None:
    line = Line(writer)
    line.outbox.write(b"1")
    assert line.transport.writes == [b"1"]
    line.outbox.put(b"2")
    line.outbox.write(b"3")
    assert line.transport.writes == [b"1"]
    writer.flush()
    assert line.transport.writes == [b"1", b"23"]
    assert writer.metrics.sent_bytes == 3
    line.transport.stuck = True
    line.outbox.write(b"x" * 1000)  # as much as the limit
    line.outbox.write(b"4")
    assert line.outbox.pending == 1
    line.transport.buffered = 0
    writer.flush()
    line.outbox.seal(b"5")
    line.outbox.write(b"6")
    writer.flush()
    assert line.written[-2:] == b"45"


async def test_what_is_written_at_once_to_a_closing_transport_is_dropped(writer: Writer) -> None:
    line = Line(writer)
    line.transport.closing = True
    line.outbox.write(b"1")
    writer.flush()
    assert (line.written, line.outbox.pending) == (b"", 0)


async def test_what_waits_in_outboxes_is_counted_once_until_it_is_written(writer: Writer) -> None:
    now, later, both = Line(writer), Line(writer), Line(writer)
    now.outbox.put(b"a")
    later.outbox.put(b"bc", patient=True)
    both.outbox.put(b"def", patient=True)
    both.outbox.put(b"g")
    assert writer.waiting_bytes == 7
    writer.flush()
    assert writer.waiting_bytes == 2
    await until(lambda: later.written == b"bc")
    assert writer.waiting_bytes == 0
    assert writer.metrics.sent_bytes == 7


async def test_nothing_follows_the_frame_that_seals(writer: Writer) -> None:
    line = Line(writer)
    line.outbox.put(b"before")
    line.outbox.seal(b"<close>")
    line.outbox.put(b"after")
    line.outbox.seal(b"<again>")
    writer.flush()
    assert line.transport.writes == [b"before<close>"]


async def test_what_is_put_for_a_closing_transport_is_dropped(writer: Writer) -> None:
    line = Line(writer)
    line.outbox.put(b"a")
    line.transport.closing = True
    writer.flush()
    assert (line.transport.writes, line.outbox.pending) == ([], 0)


async def test_a_client_that_does_not_read_is_slow_and_what_waited_is_dropped(writer: Writer) -> None:
    line = Line(writer)
    line.transport.stuck = True
    for part in (b"x" * 1000, b"y", b"z"):
        line.outbox.put(part)
    writer.flush()
    assert (line.slow, line.written) == (0, b"x" * 1000), "it may yet read"
    await until(lambda: line.slow)
    line.outbox.put(b"z")
    await asyncio.sleep(0)
    assert (line.slow, line.written) == (1, b"x" * 1000 + b"<slow>")
    assert line.outbox.pending == 0


async def test_a_burst_leaves_as_the_client_reads_it_and_in_order(writer: Writer) -> None:
    line = Line(writer)
    line.transport.stuck = True
    parts = [bytes([65 + n]) * 300 for n in range(20)]
    for part in parts:
        line.outbox.put(part)
    writer.flush()
    assert line.written == b"".join(parts[:4]), "the transport holds the limit and one part at most"
    while line.outbox.pending:
        line.transport.buffered = 0
        line.outbox.judge()
    assert (line.slow, line.written) == (0, b"".join(parts))
    writer.close()


async def test_a_single_part_above_the_limit_that_is_not_read_is_slow_too(writer: Writer) -> None:
    line = Line(writer)
    line.transport.stuck = True
    line.outbox.put(b"x" * 1001)
    writer.flush()
    await until(lambda: line.slow)


async def test_what_may_wait_for_a_client_is_limited(writer: Writer) -> None:
    line, part = Line(writer), b"x" * (1 << 20)
    line.transport.stuck = True
    for _ in range(MAX_WAITING >> 20):
        line.outbox.put(part)
    assert line.slow == 0
    line.outbox.put(part)
    assert line.slow == 1
    await asyncio.sleep(0)
    assert line.written == b"<slow>"


async def test_a_sealed_outbox_is_never_slow(writer: Writer) -> None:
    line = Line(writer)
    line.transport.stuck = True
    line.outbox.put(b"x" * 5000)
    line.outbox.seal(b"<close>")
    writer.flush()
    line.outbox.judge()
    assert (line.slow, line.written) == (0, b"x" * 5000 + b"<close>")
    writer.close()


async def test_closing_the_writer_writes_what_is_left(writer: Writer) -> None:
    line = Line(writer)
    line.outbox.put(b"last")
    writer.close()
    assert line.transport.writes == [b"last"]
    await asyncio.sleep(0)
    assert line.transport.writes == [b"last"]


async def test_a_run_is_one_buffer_for_all_members_but_the_excluded(writer: Writer) -> None:
    lines = {name: Line(writer) for name in "abc"}
    run = Run(("a", "b", "gone", "c"), ("b",))
    run.add(b"1")
    run.add(b"2")
    lines["a"].outbox.put(b"0")
    run.put({name: line.outbox for name, line in lines.items()})
    lines["a"].outbox.put(b"3")
    writer.flush()
    both = text_frame(b"1") + text_frame(b"2")
    assert [line.written for line in lines.values()] == [b"0" + both + b"3", b"", both]
    assert run.size == 2


def test_a_run_takes_only_the_same_audience_and_the_same_exclusion() -> None:
    members = ("a", "b")
    run = Run(members, ())
    assert run.takes(members, (), 10)
    assert run.takes(("a", *members[1:]), (), 10), "an equal audience came over a link that decodes"
    assert not run.takes(("a",), (), 10)
    assert not run.takes(members, ("a",), 10)


def test_a_run_ends_at_256_kib() -> None:
    assert MAX_RUN == 256 << 10
    run = Run(("a", "b"), ())
    run.add(b"x" * (MAX_RUN - 10))
    assert run.takes(("a", "b"), (), 10)
    assert not run.takes(("a", "b"), (), 11)


# --- slices --------------------------------------------------------------------------------------------------


def crowd(writer: Writer, count: int = 200) -> dict[str, Line]:
    return {f"c{number}": Line(writer) for number in range(count)}


def broadcast(lines: dict[str, Line], frame: bytes, exclude: tuple[str, ...] = ()) -> None:
    run = Run(tuple(lines), exclude)
    run.add(frame)
    run.put({name: line.outbox for name, line in lines.items()})


async def test_what_is_for_many_leaves_in_slices_and_what_is_for_few_before_it(
    writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox_module, "SLICE", 0.0)
    lines, other = crowd(writer), Line(writer)
    broadcast(lines, b"1")
    other.outbox.put(b"answer")
    writer.flush()
    assert other.written == b"answer"
    assert [line.written for line in lines.values()] == [b""] * 200
    passes = 0
    while not all(line.written for line in lines.values()):
        await asyncio.sleep(0)
        passes += 1
    assert passes > 100, "one at a time"
    assert {line.said for line in lines.values()} == {b"1"}


async def test_an_answer_takes_what_waits_for_its_client_along_in_order(
    writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox_module, "SLICE", 0.0)
    lines = crowd(writer)
    broadcast(lines, b"1")
    lines["c150"].outbox.put(b"2")
    broadcast(lines, b"3", ("c0",))
    writer.flush()
    assert lines["c150"].said == b"123"
    broadcast(lines, b"4")
    lines["c7"].outbox.seal(b"5")
    writer.flush()
    assert lines["c7"].said == b"1345"
    await until(lambda: not writer._patient)
    assert lines["c0"].said == b"14"
    assert lines["c150"].said == b"1234"
    assert lines["c199"].said == b"134"


async def test_a_slice_is_longer_the_more_waits(writer: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(outbox_module, "CALM", 1000)
    monkeypatch.setattr(writer._loop, "time", lambda: now[0])
    lines = crowd(writer)

    def write(line: Line, data: bytes) -> None:
        now[0] += outbox_module.SLICE / 10
        type(line.transport).write(line.transport, data)

    for line in lines.values():
        line.transport.write = partial(write, line)  # type: ignore[method-assign]
    broadcast(lines, b"x")
    writer._write_slice()
    assert sum(bool(line.written) for line in lines.values()) in (10, 11)
    broadcast(lines, bytes(99))  # to some who have the first, to others who have not
    writer._write_slice()
    assert sum(bool(line.written) for line in lines.values()) > 190


async def test_closing_the_writer_writes_what_is_for_many_too(writer: Writer) -> None:
    lines = crowd(writer)
    broadcast(lines, b"1")
    writer.close()
    assert {line.said for line in lines.values()} == {b"1"}
    assert writer._slice is not None
    assert writer._slice.cancelled()

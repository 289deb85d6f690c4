"""Rooms in hosts of other processes: only epochs move them, no input is lost or handled twice, whatever dies.

The hosts are real and live in this loop, each behind a link of its own that can be cut, delayed and lost.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import random
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest

from tests.measured import measured
from tests.raw import until
from verani import CallFailed, HookInterrupted, Interrupted, define_room
from verani.link.epoch import Death, Epoch, Member
from verani.link.messages import (
    Announce,
    Ask,
    CallInput,
    Deliver,
    Entry,
    EntryBatch,
    GivenUp,
    InputBatch,
    Invoke,
    Pull,
    Seat,
    Serving,
    Snapshot,
    Told,
)
from verani_actors.upkeep.runtime import Runtime
from verani_gateway.operating.exposition import exposition
from verani_gateway.placement.epoch_file import EpochFile

if TYPE_CHECKING:
    pass

from tests.gateway.placement.cabled import Cable, Diary, Guest, Service, cluster, drowsy, started

# --- epochs --------------------------------------------------------------------------------------------


async def test_each_room_is_at_its_owner_and_answers_from_there(service: Service, diary: Diary) -> None:
    gateway = await started(service, "m-0", "m-1", "m-2")
    guests = [Guest(gateway, diary.room, f"chat/{n}") for n in range(30)]
    for n, guest in enumerate(guests):
        guest.send("say", n)
    await until(lambda: all(guest.heard for guest in guests))
    assert [guest.heard for guest in guests] == [[n] for n in range(30)]
    for process in service.processes.values():
        rooms = process.host.rooms()
        assert rooms
        assert all(service.owner(name) is process for name in rooms)
    assert gateway.room_states() == {"awake": 30}
    status = gateway.room("chat/3")
    assert status is not None
    assert (status.state, status.connections, gateway.room("chat/none")) == ("awake", 1, None)
    assert sorted(gateway.room_names()) == sorted(f"chat/{n}" for n in range(30))
    assert len(gateway.rooms()) == 30


async def test_a_gateway_is_ready_once_it_has_reached_all_hosts_of_an_epoch_that_has_some(service: Service) -> None:
    await service.join("m-0", "m-1")
    gateway = await service.gateway()
    cluster(gateway).commit(Epoch(1, "m"))
    service.epoch = Epoch(1, "m")
    assert not gateway.accepting
    service.processes["m-1"].alive = False
    service.publish()
    await until(lambda: service.cable(gateway, "m-0").state == "linked")
    assert not gateway.accepting
    service.processes["m-1"].alive = True
    service.cable(gateway, "m-1").pump()
    assert gateway.accepting


async def test_a_gateway_that_stops_never_becomes_ready(service: Service) -> None:
    await service.join("m-0")
    gateway = await service.gateway()
    gateway.stop_accepting()
    service.publish()
    await until(lambda: service.cable(gateway, "m-0").state == "linked")
    assert not gateway.accepting


async def test_epochs_that_are_not_newer_mean_nothing(service: Service) -> None:
    gateway = await started(service, "m-0")
    epoch = cluster(gateway).epoch
    cluster(gateway).commit(Epoch(1, "m"))
    cluster(gateway).commit(Epoch(0, "m"))
    assert cluster(gateway).epoch is epoch
    assert len(cluster(gateway).links) == 1


async def test_a_gateway_learns_of_an_epoch_from_any_host(service: Service, diary: Diary) -> None:
    gateway = await started(service, "m-0")
    await service.join("m-1")
    epoch = service.next()
    for process in service.processes.values():
        process.commit(epoch)
    service.processes["m-0"].host.gateways[gateway.id](Announce(epoch))
    await until(lambda: cluster(gateway).epoch == epoch and len(cluster(gateway).links) == 2)


async def test_the_published_file_is_followed(tmp_path: Path) -> None:
    runtime, committed = Runtime(tmp_path), list[Epoch]()
    watch = EpochFile(runtime)
    watch.start(committed.append)
    assert committed == []
    for number in (1, 2):
        runtime.write_epoch(Epoch(number, "m"))
        await until(lambda number=number: [epoch.number for epoch in committed] == list(range(1, number + 1)))  # type: ignore[misc]
    watch.stop()


@contextmanager
def no_more_files() -> Iterator[None]:
    """Have every attempt to open a file fail with EMFILE."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_a_published_file_that_could_not_be_opened_is_read_once_there_are_descriptors(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    runtime, committed = Runtime(tmp_path), list[Epoch]()
    runtime.write_epoch(Epoch(5, "m"))
    watch = EpochFile(runtime)
    with no_more_files():
        watch.start(committed.append)
    assert committed == []
    assert "Too many open files" in caplog.text
    await until(lambda: committed)
    watch.stop()
    assert [epoch.number for epoch in committed] == [5]
    caplog.clear()


async def test_a_published_file_of_which_half_was_there_is_read_when_the_rest_is(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever the file looks like from outside: the rest may come within one tick of the file system's clock."""
    runtime, committed = Runtime(tmp_path), list[Epoch]()
    runtime.write_epoch(Epoch(5, "m"))
    whole, times = runtime.epoch_file.read_bytes(), runtime.epoch_file.stat()
    watch = EpochFile(runtime)
    for content in (whole[:-1], b"?", whole):
        runtime.epoch_file.write_bytes(content)
        os.utime(runtime.epoch_file, ns=(times.st_atime_ns, times.st_mtime_ns))
        if not caplog.records:
            watch.start(committed.append)
            assert len(caplog.records) == 1
    await until(lambda: committed)
    watch.stop()
    assert len(caplog.records) == 1  # however often it was tried
    caplog.clear()


# --- rooms that move -----------------------------------------------------------------------------------


async def test_a_dead_hosts_rooms_move_with_every_input_it_has_not_processed(service: Service, diary: Diary) -> None:
    gateway = await started(service, "m-0")
    guest = Guest(gateway, diary.room, "chat/a")
    guest.send("say", 1)
    await until(lambda: guest.heard == [1])
    guest.send("wait", 2)
    guest.send("say", 3)
    await until(lambda: ("waits", 2) in diary.seen)
    service.kill("m-0")
    await service.join("m-1")
    diary.let_new_ones_pass()
    guest.send("say", 4)
    service.publish()
    guest.send("say", 5)
    await until(lambda: guest.heard == [1, 2, 3, 4, 5])
    assert diary.seen == [
        ("connect", "ada"),
        1,
        ("waits", 2),
        ("restore", 1, "crash"),
        ("waits", 2),
        3,
        4,
        5,
    ], "what had shown no effect is run again, and nobody connects anew"
    assert guest.in_flight.count == 0
    assert gateway.in_flight == 0


async def test_an_input_that_had_visibly_begun_is_not_run_again_and_the_room_is_told(
    service: Service, diary: Diary
) -> None:
    gateway = await started(service, "m-0")
    guest = Guest(gateway, diary.room, "chat/a")
    guest.send("begin", 1, request=9)
    guest.send("say", 2, request=10)
    await until(lambda: guest.heard == [1])
    service.kill("m-0")
    await service.join("m-1")
    service.publish()
    await until(lambda: 10 in guest.acks)
    assert guest.acks[9]["error"]["code"] == "interrupted"
    assert ("error", HookInterrupted, 1) in diary.seen
    assert diary.seen.count(("begins", 1)) == 1
    assert guest.heard == [1, 2]


async def test_a_room_that_was_awake_wakes_at_its_new_owner_though_nothing_is_there_for_it(
    service: Service, diary: Diary
) -> None:
    gateway = await started(service, "m-0")
    guest = Guest(gateway, diary.room, "chat/a")
    guest.send("say", 1)
    await until(lambda: guest.heard)
    service.kill("m-0")
    service.publish()  # nobody is there
    assert cluster(gateway).links == []
    assert gateway.room_states() == {"awake": 1}
    await service.join("m-0")
    service.publish()
    await until(lambda: ("restore", 1, "crash") in diary.seen)


async def test_a_room_that_slept_sleeps_on_at_its_new_owner(service: Service) -> None:
    naps = define_room("chat", hibernate_after=0.01)
    seen: list[Any] = []
    naps.on("say")(lambda ctx, data: ctx.emit("said", data))
    naps.on_hibernation_restore(lambda actor: seen.append(actor.wake_reason))
    service.room = naps
    gateway = await started(service, "m-0")
    guest = Guest(gateway, naps, "chat/a")
    guest.send("say", 1)
    await until(lambda: guest.heard == [1] and gateway.room_states() == {"asleep": 1})
    service.kill("m-0")
    await service.join("m-1")
    service.publish()
    guest.send("say", 2)
    await until(lambda: guest.heard == [1, 2])
    assert seen == ["frame"]


async def test_a_planned_change_moves_only_the_newcomers_share_and_its_rooms_notice_only_that(
    service: Service, diary: Diary
) -> None:
    gateway = await started(service, "m-0", "m-1")
    guests = [Guest(gateway, diary.room, f"chat/{n}") for n in range(20)]
    for guest in guests:
        guest.send("say", 1)
    await until(lambda: all(guest.heard for guest in guests))
    before = {guest.room: service.owner(guest.room) for guest in guests}
    await service.join("m-2")
    await service.move()
    moved = [guest.room for guest in guests if service.owner(guest.room) is not before[guest.room]]
    assert 0 < len(moved) < 20
    for guest in guests:
        guest.send("say", 2)
    await until(lambda: all(guest.heard == [1, 2] for guest in guests))
    await until(lambda: diary.seen.count(("restore", 1, "moved")) == len(moved))
    assert not any(guest.kicked for guest in guests)
    assert len(service.processes["m-2"].host.rooms()) == len(moved)


async def test_a_room_that_its_host_had_let_go_for_an_epoch_that_never_came_gets_its_inputs_again(
    service: Service, diary: Diary
) -> None:
    gateway = await started(service, "m-0")
    guest = Guest(gateway, diary.room, "chat/a")
    guest.send("say", 1)
    await until(lambda: guest.heard == [1])
    process = service.processes["m-0"]
    assert process.share.prepare(Epoch(2, "m", (Member("m-9", "x", "m", 0, ""),)))
    await process.host.moving.release(1.0)
    guest.send("say", 2)
    await until(lambda: not service.cable(gateway, "m-0").unconfirmed)
    assert process.host.rooms() == {}
    service.publish(skip=1)
    await until(lambda: guest.heard == [1, 2])
    assert ("restore", 1, "moved") in diary.seen


async def test_inputs_wait_in_order_while_no_host_is_there(service: Service, diary: Diary) -> None:
    gateway = await started(service, "m-0")
    service.kill("m-0")
    service.publish()
    guest = Guest(gateway, diary.room, "chat/a")
    for n in range(5):
        guest.send("say", n)
    call = asyncio.create_task(gateway.stub(diary.room, "a").call("count"))
    await until(lambda: len(gateway.calls) == 1)
    await service.join("m-0")
    service.publish()
    await until(lambda: guest.heard == [0, 1, 2, 3, 4])
    assert await call == 1
    assert gateway.in_flight == 0


async def test_a_call_that_is_sent_again_has_only_the_time_that_is_left(service: Service, diary: Diary) -> None:
    gateway = await started(service, "m-0")
    call = asyncio.create_task(gateway.stub(diary.room, "a").call("stay", timeout=5.0))
    await until(lambda: "stays" in diary.seen)
    service.kill("m-0")
    await service.join("m-1")
    diary.let_new_ones_pass()
    service.publish()
    await call
    (again,) = [
        input
        for message in service.cable(gateway, "m-1").said
        if isinstance(message, InputBatch) and message.again
        for input in message.inputs
        if isinstance(input, CallInput)
    ]
    assert 0 < again.timeout < 5.0


# --- links ---------------------------------------------------------------------------------------------


async def test_a_broken_link_is_waited_for(service: Service, diary: Diary) -> None:
    gateway = await started(service, "m-0", "m-1")
    guest = Guest(gateway, diary.room, "chat/a")
    cable = service.cable(gateway, service.owner("chat/a").member.id)
    cable.cut()
    guest.send("say", 1)
    await asyncio.sleep(0)
    assert guest.heard == []
    cable.mend()
    await until(lambda: guest.heard == [1])


async def test_what_a_host_says_of_rooms_that_it_does_not_own_is_dropped(service: Service, diary: Diary) -> None:
    gateway = await started(service, "m-0", "m-1")
    guest = Guest(gateway, diary.room, "chat/a")
    guest.send("say", 1)
    await until(lambda: guest.heard == [1])
    stranger = next(process for process in service.processes.values() if process is not service.owner("chat/a"))
    say = stranger.host.gateways[gateway.id]
    say(EntryBatch([Entry("chat/a", processed=10**6, outputs=[Deliver((guest.id,), b'{"type":"x","data":"lie"}')])]))
    say(Pull("chat/a", 1, service.epoch.number))
    guest.send("say", 2)
    await until(lambda: guest.heard == [1, 2])
    cable = service.cable(gateway, stranger.member.id)
    assert not any(isinstance(message, Snapshot) for message in cable.said)
    assert measured(exposition(gateway))["foreign_entries_total"] == 1


async def test_a_pull_is_answered_once_the_gateway_is_in_its_epoch(service: Service, diary: Diary) -> None:
    gateway = await started(service, "m-0")
    cable = service.cable(gateway, "m-0")
    guest = Guest(gateway, diary.room, "chat/a")
    guest.send("say", 1)
    await until(lambda: guest.heard == [1])

    def snapshots() -> list[Snapshot]:
        return [message for message in cable.said if isinstance(message, Snapshot) and message.incarnation == 99]

    service.processes["m-0"].host.gateways[gateway.id](Pull("chat/a", 99, 2))
    await until(lambda: not cable._back)
    assert snapshots() == []
    service.publish()
    await until(snapshots)
    assert [len(snapshot.records) for snapshot in snapshots()] == [1]
    assert snapshots()[0].processed >= 2


async def test_a_gateway_that_was_given_up_closes_the_rooms_that_may_have_woken_without_it_and_says_goodbye_there(
    service: Service, diary: Diary
) -> None:
    gateway = await started(service, "m-0")
    named, other = Guest(gateway, diary.room, "chat/a"), Guest(gateway, diary.room, "chat/b")
    named.send("say", 1)
    other.send("say", 2)
    await until(lambda: (named.heard, other.heard) == ([1], [2]))
    cable = service.cable(gateway, "m-0")
    cable._receive(cable, GivenUp(["chat/a"], others=True))
    assert [code for code, _ in named.kicked] == [1012]
    assert [code for code, _ in other.kicked] == [1012]
    assert list(gateway.attachments.rooms) == ["chat/b"], "its room learns of the close, as of any other"
    other.go()
    await until(lambda: ("disconnect", "ada") in diary.seen)
    await until(lambda: gateway.attachments.rooms == {})


async def test_a_room_whose_entry_cannot_be_applied_loses_its_connections_not_some_of_its_frames(
    service: Service, diary: Diary, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = await started(service, "m-0")
    guest, other = Guest(gateway, diary.room, "chat/a"), Guest(gateway, diary.room, "chat/b")
    guest.send("say", 1)
    await until(lambda: guest.heard == [1])
    cable = service.cable(gateway, "m-0")
    monkeypatch.setattr(gateway.attachments, "attach", lambda room, attach: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        cable._receive(cable, EntryBatch([Entry("chat/a", 99, attachments=[Seat("c", 1)], seq=99)]))
    assert [code for code, _ in guest.kicked] == [1012]
    assert list(gateway.attachments.rooms) == ["chat/b"]
    assert other.kicked == []


async def test_a_host_that_had_given_the_gateway_up_costs_the_connections_of_the_rooms_it_names(
    service: Service, diary: Diary
) -> None:
    gateway = await started(service, "m-0")
    guest = Guest(gateway, diary.room, "chat/a")
    guest.send("wait", 1)
    call = asyncio.create_task(gateway.stub(diary.room, "a").call("count"))
    await until(lambda: ("waits", 1) in diary.seen and len(gateway.attachments.rooms["chat/a"].unprocessed) == 2)
    cable = service.cable(gateway, "m-0")
    cable.cut()
    asleep = Guest(gateway, diary.room, "chat/b")
    asleep.send("say", 2)
    said = len(cable.said)
    cable.lose()
    assert [code for code, _ in guest.kicked] == [1012]
    assert list(gateway.attachments.rooms) == ["chat/b"]
    with pytest.raises(Interrupted):
        await call
    guest.go()
    await until(lambda: asleep.heard == [2])
    assert asleep.kicked == []
    diary.gate.set()
    await until(lambda: ("disconnect", "ada") in diary.seen)
    later = [message for message in cable.said[said:] if isinstance(message, InputBatch)]
    assert {input.room for message in later for input in message.inputs} == {"chat/b"}
    assert len(gateway.connections) == 1
    again = Guest(gateway, diary.room, "chat/a")
    again.send("say", 3)
    await until(lambda: again.heard == [3])


async def test_a_call_whose_outcome_was_lost_with_the_link_runs_once_and_what_came_after_it_runs_too(
    service: Service, diary: Diary
) -> None:
    @diary.room.rpc
    def bump(actor: Any) -> None:
        diary.seen.append("bump")
        cable.cut()

    gateway = await started(service, "m-0")
    cable = service.cable(gateway, "m-0")
    stub = gateway.stub(diary.room, "a")
    call = asyncio.create_task(stub.call("bump"))
    await until(lambda: diary.seen == ["bump"] and not cable._process.host.directory.rooms["chat/a"].in_flight)
    later = asyncio.create_task(stub.call("count"))
    await until(lambda: len(gateway.attachments.rooms["chat/a"].unprocessed) == 2)
    cable.lose()
    with pytest.raises(Interrupted):
        await call
    assert await later == 0
    assert diary.seen == ["bump"]
    assert gateway.attachments.rooms == {}


async def test_whoever_has_not_heard_the_last_words_of_a_room_that_fell_asleep_is_closed_and_said_goodbye_to(
    service: Service, diary: Diary
) -> None:
    drowsy(service, diary)
    gateway = await started(service, "m-0")
    cable = service.cable(gateway, "m-0")
    guest, idle = Guest(gateway, diary.room, "chat/a"), Guest(gateway, diary.room, "chat/b", "idle")
    await until(lambda: len(diary.seen) == 2)
    guest.send("tell later", 1, request=1)
    await until(lambda: ("waits", 1) in diary.seen)
    await until(lambda: gateway.room_states() == {"awake": 1, "asleep": 1})
    cable.cut()
    diary.gate.set()
    await until(lambda: not cable._process.host.rooms())
    cable.lose()
    assert guest.acks[1]["error"]["code"] == "interrupted"
    assert [code for code, _ in guest.kicked] == [1012]
    assert not idle.kicked, "it has missed nothing"
    guest.go()
    await until(lambda: ("disconnect", "ada") in diary.seen)
    await until(lambda: list(gateway.attachments.rooms) == ["chat/b"])
    assert diary.seen.count(("waits", 1)) == 1


@pytest.mark.parametrize("is_refused", [True, False])
async def test_who_has_not_heard_whether_he_was_let_in_is_not_in_until_he_is(
    service: Service, diary: Diary, is_refused: bool
) -> None:
    drowsy(service, diary)
    gateway = await started(service, "m-0")
    cable = service.cable(gateway, "m-0")

    def come() -> None:
        if diary.seen.count(("connect", "ada")) == 1:
            cable.cut()
        if is_refused:
            raise ValueError("not you")

    diary.meanwhile = come
    guest = Guest(gateway, diary.room, "chat/a")
    await until(lambda: ("connect", "ada") in diary.seen and not cable._process.host.rooms())
    guest.send("say", 1)
    cable.lose()
    if is_refused:
        await until(lambda: guest.kicked)
        assert guest.heard == []
        guest.go()
        await until(lambda: gateway.attachments.rooms == {})
        assert ("disconnect", "ada") not in diary.seen
        assert 1 not in diary.seen
    else:
        await until(lambda: guest.heard == [1])
        assert not guest.kicked
    assert diary.seen.count(("connect", "ada")) == 2


async def test_a_connection_that_came_and_went_and_heard_of_neither_leaves_nothing_behind(
    service: Service, diary: Diary
) -> None:
    drowsy(service, diary)
    gateway = await started(service, "m-0")
    cable = service.cable(gateway, "m-0")
    guest = Guest(gateway, diary.room, "chat/a")
    guest.send("say", 1)
    guest.go()
    diary.meanwhile = cable.cut
    await until(lambda: ("disconnect", "ada") in diary.seen and not cable._process.host.rooms())
    cable.lose()
    assert gateway.attachments.rooms == {}
    assert (gateway.attachments.in_flight, gateway.attachments.unprocessed) == (0, 0)
    assert diary.seen == [("connect", "ada"), 1, ("disconnect", "ada")]


async def test_answers_to_a_host_that_is_gone_are_dropped(service: Service, diary: Diary) -> None:
    gateway = await started(service, "m-0")
    await service.join("m-1")
    first = service.processes["m-0"]
    first.host.gateways[gateway.id](Invoke("chat/z", 1, "chat/a", "stay", b"[]", 5.0))
    await until(lambda: "stays" in diary.seen)
    service.kill("m-0")
    service.publish()
    diary.gate.set()
    await until(lambda: not len(gateway.calls))  # the cable would have complained


async def test_questions_of_hosts_are_answered_over_their_link(service: Service) -> None:
    gateway = await started(service, "m-0")
    told: list[Told] = []

    class Answers:
        def asked(self, ask: Ask) -> Told:
            return Told(ask.token, gateway.id, b"1")

        def told(self, answer: Told) -> None:
            told.append(answer)

        def lost(self, host: str) -> None:
            raise AssertionError(host)

    process = service.processes["m-0"]
    process.host.gateways[gateway.id](Ask(3, "rooms"))
    cluster(gateway).inquiry = Answers()
    process.host.gateways[gateway.id](Ask(4, "rooms"))
    process.host.gateways[gateway.id](Told(5, "m-0", b"2"))
    cable = service.cable(gateway, "m-0")
    await until(lambda: told and Told(4, gateway.id, b"1") in cable.said)
    assert cluster(gateway).ask(process.member, Ask(6, "rooms"))
    await until(lambda: Ask(6, "rooms") in cable.said)
    cable.cut()
    assert not cluster(gateway).ask(process.member, Ask(7, "rooms"))
    assert not cluster(gateway).ask(Member("m-7", "x", "m", 0, ""), Ask(7, "rooms"))


async def test_a_drain_waits_for_every_close_and_the_links_go_last(service: Service, diary: Diary) -> None:
    gateway = await started(service, "m-0", "m-1")
    guests = [Guest(gateway, diary.room, f"chat/{n}", f"u{n}") for n in range(10)]
    for guest in guests:
        guest.send("say", 1)
    await until(lambda: all(guest.heard for guest in guests))
    drain = asyncio.create_task(gateway.drain())
    await until(lambda: all(guest.kicked == [(1012, "service restart")] for guest in guests))
    for guest in guests:
        guest.is_sent = True
        guest.go()
    await drain
    assert {f"u{n}" for n in range(10)} == {
        entry[1] for entry in diary.seen if isinstance(entry, tuple) and entry[0] == "disconnect"
    }
    cables = cluster(gateway).links
    await gateway.stop()
    assert all(cast("Cable", cable).closed for cable in cables)


async def test_a_drain_does_not_wait_for_hosts_that_are_not_there(
    service: Service, diary: Diary, caplog: pytest.LogCaptureFixture
) -> None:
    gateway = await started(service, "m-0")
    guest = Guest(gateway, diary.room, "chat/a")
    await until(lambda: diary.seen)
    assert gateway.has_hosts
    service.kill("m-0")
    service.publish()
    assert not gateway.has_hosts
    drain = asyncio.create_task(gateway.drain())
    await until(lambda: guest.kicked == [(1012, "service restart")])
    guest.is_sent = True
    guest.go()
    await drain
    assert not any("were left at the end of the drain" in message for message in caplog.messages)


async def test_a_gateway_serves_while_every_host_is_linked_and_has_a_lease(service: Service, diary: Diary) -> None:
    gateway = await started(service, "m-0", "m-1")
    assert gateway.accepting
    assert not gateway.serves

    def tell(id: str, seconds: float) -> None:
        service.processes[id].host.gateways[gateway.id](Serving(seconds))

    tell("m-0", 60.0)
    await asyncio.sleep(0)
    assert not gateway.serves
    tell("m-1", 60.0)
    await until(lambda: gateway.serves)
    service.cable(gateway, "m-0").cut()
    assert not gateway.serves
    service.cable(gateway, "m-0").mend()
    assert gateway.serves
    tell("m-1", 0.01)
    await until(lambda: not gateway.serves)
    tell("m-1", 60.0)
    await until(lambda: gateway.serves)
    service.kill("m-1")
    service.publish()
    assert gateway.serves
    service.kill("m-0")
    service.publish()
    assert not gateway.serves
    assert gateway.accepting


async def test_what_an_owner_said_in_an_earlier_spell_does_not_count_in_this_one(
    service: Service, diary: Diary
) -> None:
    gateway = await started(service, "m-0")
    both = Epoch(1, "m", (Member("m-0", "", "", 0, ""), Member("m-1", "", "", 0, "")))
    name = next(name for name in map("chat/{}".format, itertools.count()) if both.owner(name) == both.members[1])
    guest = Guest(gateway, diary.room, name)
    await until(lambda: diary.seen and gateway.in_flight == 0)
    process, cable = service.processes["m-0"], service.cable(gateway, "m-0")
    cable.cut()
    await service.join("m-1")
    service.publish()
    say = process.host.gateways[gateway.id]
    say(Pull(name, 1, 1))
    say(EntryBatch([Entry(name, processed=10**6, outputs=[Deliver((guest.id,), b'{"type":"x"}')], seq=9)]))
    service.kill("m-1")
    service.publish()
    guest.send("say", 1)
    cable.mend()
    await until(lambda: guest.heard == [1])
    assert gateway.in_flight == 0
    assert measured(exposition(gateway))["foreign_entries_total"] == 1


@pytest.mark.parametrize("is_heard", [False, True])
async def test_a_room_that_is_its_host_s_again_before_its_actor_is_gone_loses_nothing(
    service: Service, diary: Diary, is_heard: bool
) -> None:
    gateway = await started(service, "m-0")
    both = Epoch(1, "m", (Member("m-0", "", "", 0, ""), Member("m-1", "", "", 0, "")))
    name = next(name for name in map("chat/{}".format, itertools.count()) if both.owner(name) == both.members[1])
    cable = service.cable(gateway, "m-0")
    if not is_heard:
        diary.meanwhile = cable.cut
    guest = Guest(gateway, diary.room, name)
    while not diary.seen or (is_heard and gateway.in_flight):  # noqa: ASYNC110  # not a pass longer
        await asyncio.sleep(0)
    assert bool(gateway.in_flight) is not is_heard
    diary.meanwhile = lambda: None
    if is_heard:
        cable.cut()
    await service.join("m-1")
    service.publish()
    service.kill("m-1")
    service.publish()
    guest.send("say", 1)
    cable.mend()
    await until(lambda: guest.heard == [1])
    assert (gateway.in_flight, guest.kicked) == (0, [])
    guest.send("say", 2)
    await until(lambda: guest.heard == [1, 2])
    host = service.processes["m-0"].host
    assert host.entries.working == 0
    assert list(host.directory.rooms) == list(host.directory.lives) == [name]


async def test_the_links_and_what_became_of_rooms_can_be_measured(service: Service, diary: Diary) -> None:
    gateway = await started(service, "m-0")
    guest = Guest(gateway, diary.room, "chat/a")
    guest.send("begin", 1)
    guest.send("say", 2)
    await until(lambda: guest.heard == [1])
    service.cable(gateway, "m-0").cut()
    service.cable(gateway, "m-0").mend()
    service.kill("m-0")
    await service.join("m-1", "m-2")
    service.publish()
    await until(lambda: guest.heard == [1, 2])
    other = next(id for id, process in service.processes.items() if process is not service.owner("chat/a"))
    service.cable(gateway, other).cut()
    samples = measured(exposition(gateway))
    assert (
        samples.items()
        >= {
            "epoch": 2,
            'links{state="broken"}': 1,
            'links{state="linked"}': 1,
            "links_resumed_total": 1,
            "link_unconfirmed_bytes": 0,
            "moved_rooms_total": 1,
            "replayed_inputs_total": 2,
            "interrupted_inputs_total": 1,
            "quarantined_inputs_total": 0,
            "foreign_entries_total": 0,
            'gateway_rooms{state="awake"}': 1,
        }.items()
    )


# --- inputs that kill ----------------------------------------------------------------------------------


async def test_an_input_that_killed_a_host_goes_alone_and_after_the_second_death_nowhere(
    service: Service, diary: Diary, caplog: pytest.LogCaptureFixture
) -> None:
    gateway = await started(service, "m-0")
    guest = Guest(gateway, diary.room, "chat/a")
    await until(lambda: diary.seen)
    guest.send("wait", 1, request=5)
    guest.send("say", 2)
    number = gateway.attachments.rooms["chat/a"].unprocessed[-2][0].number
    await until(lambda: ("waits", 1) in diary.seen)

    async def die(successor: str) -> None:
        process = service.kill(next(iter(service.processes)))
        await service.join(successor)
        service.publish(Death(process.member.incarnation, "chat/a", gateway.id, number))

    await die("m-1")
    guest.send("say", 3)
    await until(lambda: diary.seen.count(("waits", 1)) == 2)
    sent = [m for m in service.cable(gateway, "m-1").said if isinstance(m, InputBatch)]
    assert [input.number for message in sent for input in message.inputs] == [number]
    assert cluster(gateway).suspects.listed() == []
    await die("m-2")
    await until(lambda: guest.heard == [2, 3])
    assert guest.acks[5]["error"]["code"] == "interrupted"
    assert diary.seen.count(("waits", 1)) == 2
    (kept,) = cluster(gateway).suspects.listed()
    assert (kept.room, kept.connection, kept.event, kept.number) == ("chat/a", guest.id, "wait", number)
    assert measured(exposition(gateway))["quarantined_inputs_total"] == 1
    assert [record.levelno for record in caplog.records] == [logging.WARNING, logging.ERROR]
    assert (guest.in_flight.count, gateway.in_flight) == (0, 0)
    caplog.clear()


async def test_a_suspect_that_is_innocent_lets_the_others_go_after_it(
    service: Service, diary: Diary, caplog: pytest.LogCaptureFixture
) -> None:
    gateway = await started(service, "m-0")
    guest = Guest(gateway, diary.room, "chat/a")
    await until(lambda: diary.seen)
    guest.send("wait", 1)
    guest.send("say", 2)
    await until(lambda: ("waits", 1) in diary.seen)
    number = gateway.attachments.rooms["chat/a"].unprocessed[0][0].number
    process = service.kill("m-0")
    await service.join("m-1")
    service.publish(Death(process.member.incarnation, "chat/a", gateway.id, number))
    await until(lambda: diary.seen.count(("waits", 1)) == 2)
    guest.send("say", 3)
    diary.gate.set()
    await until(lambda: guest.heard == [1, 2, 3])
    guest.send("say", 4)
    await until(lambda: guest.heard == [1, 2, 3, 4])
    assert list(cluster(gateway).suspects.of("chat/a")) == []
    caplog.clear()


async def test_a_deadly_connect_ends_its_connection_and_leaves_the_others(
    service: Service, diary: Diary, caplog: pytest.LogCaptureFixture
) -> None:
    gateway = await started(service, "m-0")
    other = Guest(gateway, diary.room, "chat/a", "bob")
    other.send("say", 1)
    await until(lambda: other.heard == [1])
    process = service.kill("m-0")
    guest = Guest(gateway, diary.room, "chat/a")
    guest.send("say", 2)
    number = gateway.attachments.rooms["chat/a"].unprocessed[0][0].number
    service.publish(Death(process.member.incarnation, "chat/a", gateway.id, number))
    service.publish(Death("another", "chat/a", gateway.id, number))
    assert [code for code, _ in guest.kicked] == [1011]
    guest.go()
    other.send("say", 3)
    await service.join("m-1")
    service.publish()
    await until(lambda: other.heard == [1, 3])
    assert diary.seen == [("connect", "bob"), 1, ("restore", 1, "crash"), 3]
    assert guest.in_flight.count == 0
    caplog.clear()


async def test_a_deadly_close_takes_its_record_along(
    service: Service, diary: Diary, caplog: pytest.LogCaptureFixture
) -> None:
    gateway = await started(service, "m-0")
    guest = Guest(gateway, diary.room, "chat/a")
    guest.send("say", 1)
    await until(lambda: guest.heard == [1])
    process = service.kill("m-0")
    guest.go()
    number = gateway.attachments.rooms["chat/a"].unprocessed[0][0].number
    service.publish(Death(process.member.incarnation, "chat/a", gateway.id, number))
    service.publish(Death("another", "chat/a", gateway.id, number))
    assert gateway.attachments.rooms == {}
    caplog.clear()


async def test_a_room_that_kills_five_hosts_has_failed_and_may_begin_anew(
    service: Service, diary: Diary, caplog: pytest.LogCaptureFixture
) -> None:
    gateway = await started(service, "m-0")
    guest = Guest(gateway, diary.room, "chat/a")
    guest.send("say", 1)
    await until(lambda: guest.heard == [1])
    call = asyncio.create_task(gateway.stub(diary.room, "a").call("stay"))
    await until(lambda: "stays" in diary.seen)
    for n in range(5):
        assert guest.kicked == []
        process = service.kill(f"m-{n}")
        await service.join(f"m-{n + 1}")
        service.publish(Death(process.member.incarnation, "chat/a"))
    assert [code for code, _ in guest.kicked] == [1011]
    with pytest.raises(CallFailed):
        await call
    assert gateway.attachments.rooms == {}
    guest.go()
    again = Guest(gateway, diary.room, "chat/a")
    again.send("say", 2)
    await until(lambda: again.heard == [2])
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    caplog.clear()


# --- everything together -------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(8))
async def test_no_input_is_lost_or_handled_out_of_order_whatever_dies_moves_or_breaks(
    service: Service, diary: Diary, seed: int
) -> None:
    chance = random.Random(seed)
    await service.join("m-0", "m-1")
    gateways = [await service.gateway() for _ in range(2)]
    service.publish()
    await until(lambda: all(gateway.accepting for gateway in gateways))
    guests = [Guest(gateways[n % 2], diary.room, f"chat/{n % 5}", f"u{n}") for n in range(10)]
    said = dict.fromkeys(guests, 0)
    ids = itertools.count(2)
    for _ in range(60):
        for guest in chance.sample(guests, 4):
            guest.send("say", said[guest])
            said[guest] += 1
        match chance.randrange(8):
            case 0:
                service.kill(chance.choice(list(service.processes)))
                if len(service.processes) < 2:
                    await service.join(f"m-{next(ids)}")
                service.publish()
            case 1 if len(service.processes) < 4:
                await service.join(f"m-{next(ids)}")
                await service.move()
            case 2 | 3:
                cable = service.cable(chance.choice(gateways), chance.choice(list(service.processes)))
                if cable.state == "linked":
                    cable.cut()
                elif cable.state == "broken":
                    cable.mend()
            case 4:
                service.publish(skip=1)
        for _ in range(chance.randrange(6)):
            await asyncio.sleep(0)
    for process in service.processes.values():
        for cable in process.links:
            if cable.state == "broken":
                cable.mend()
    await until(lambda: all(len(guest.heard) >= said[guest] for guest in guests))
    assert all(guest.heard == list(range(said[guest])) for guest in guests)
    assert not any(guest.kicked or guest.in_flight.count for guest in guests)
    assert not any(gateway.in_flight for gateway in gateways)
    seen = [entry for entry in diary.seen if isinstance(entry, tuple)]
    assert not [entry for entry in seen if entry[0] == "disconnect"]

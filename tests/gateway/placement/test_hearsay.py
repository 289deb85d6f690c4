"""What a host that died has said to some gateways and not to others is missed by nobody in silence, and done once."""

from __future__ import annotations

import asyncio
import itertools
import random
from typing import Any

import pytest

from tests.gateway.placement.cabled import Diary, Guest, Service, cluster, drowsy, together
from tests.raw import until
from verani import HookInterrupted
from verani.link.epoch import Epoch
from verani.link.messages import GivenUp, Pull


async def succeed(service: Service) -> None:
    """Have the only host die, and another one take its place."""
    service.kill("m-0")
    await service.join("m-1")
    service.publish()


def deafen(cable: Any) -> None:
    """Have records and inputs leave, and nothing arrive but pulls; it is as if the rest were in a socket's buffer."""
    receive = cable._receive
    cable._receive = lambda link, said: receive(link, said) if isinstance(said, Pull) else None


async def test_whoever_did_not_hear_what_others_heard_of_a_dead_host_is_closed(service: Service, diary: Diary) -> None:
    ada, bob, cable = await together(service, diary)
    ada.send("tell", 1)
    await until(lambda: bob.heard)
    cable.cut()
    ada.send("tell", 2)
    await until(lambda: ada.heard == [1, 2])
    await succeed(service)
    await until(lambda: bob.kicked)
    assert bob.kicked == [(1012, "the room went on without this connection")]
    bob.go()
    ada.send("tell", 3)
    await until(lambda: ada.heard == [1, 2, 3])
    assert not ada.kicked
    await until(lambda: ("disconnect", "bob") in diary.seen)


async def test_what_others_have_seen_of_an_input_is_not_done_again(service: Service, diary: Diary) -> None:
    ada, bob, cable = await together(service, diary)
    bob.send("tell later", 1, request=1)
    bob.send("tell", 2)
    await until(lambda: ("waits", 1) in diary.seen)
    cable.cut()
    diary.gate.set()
    await until(lambda: ada.heard == [1, 2])
    await succeed(service)
    await until(lambda: bob.kicked)
    await until(lambda: bob.in_flight.count == 0)
    assert bob.acks[1]["error"]["code"] == "interrupted"
    assert [entry for entry in diary.seen if entry[0] == "error"] == [
        ("error", HookInterrupted, 1),
        ("error", HookInterrupted, 2),
    ]
    assert ada.heard == [1, 2]


async def test_nobody_is_closed_for_what_went_to_others_and_to_them_in_time(service: Service, diary: Diary) -> None:
    ada, bob, _ = await together(service, diary)
    for number in range(3):
        bob.send("tell", number)
        await until(lambda: len(ada.heard) == len(bob.heard) == number + 1)  # noqa: B023  # it is awaited here
        (owner,) = service.processes
        await service.join(f"m-{number + 1}")
        service.kill(owner)
        service.publish()
    ada.send("say", 3)
    bob.send("say", 3)
    await until(lambda: ada.heard == bob.heard == [0, 1, 2, 3])
    assert not ada.kicked
    assert not bob.kicked


async def test_a_room_that_is_asleep_is_told_what_its_last_host_said_to_others(service: Service, diary: Diary) -> None:
    """The host died before it had said everything, and the room woke long after."""
    drowsy(service, diary)
    ada, bob, cable = await together(service, diary)
    ada.send("tell later", 1)
    await until(lambda: ("waits", 1) in diary.seen)  # nor does it sleep before the cable is cut
    cable.cut()
    diary.gate.set()
    await until(lambda: ada.heard == [1])
    gateway, _ = service.gateways
    await until(lambda: gateway.room_states() == {"asleep": 1})
    await succeed(service)
    ada.send("tell", 2)
    await until(lambda: bob.kicked)
    assert not ada.kicked


async def test_a_gateway_that_was_given_up_has_missed_what_was_said_until_the_host_died(
    service: Service, diary: Diary
) -> None:
    ada, bob, cable = await together(service, diary)
    ada.send("tell", 1)
    await until(lambda: bob.heard == [1] and ada.heard == [1])
    cable.cut()
    service.processes["m-0"].host.unlink(service.gateways[1].id)  # its grace is over
    ada.send("tell", 2)
    await until(lambda: ada.heard == [1, 2])
    await succeed(service)
    ada.send("tell", 3)
    await until(lambda: ada.heard == [1, 2, 3])
    for _ in range(20):
        await asyncio.sleep(0)
    assert bob.kicked, bob.heard


async def test_who_missed_something_is_closed_by_the_third_host_if_the_second_dies_before_its_word_arrives(
    service: Service, diary: Diary
) -> None:
    ada, bob, cable = await together(service, diary)
    cable.cut()
    ada.send("tell", 1)
    await until(lambda: ada.heard == [1])
    await succeed(service)
    deafen(service.cable(service.gateways[1], "m-1"))
    ada.send("say", 2)
    await until(lambda: ada.heard == [1, 2])
    service.kill("m-1")
    await service.join("m-2")
    service.publish()
    ada.send("tell", 3)
    await until(lambda: ada.heard == [1, 2, 3])
    for _ in range(20):
        await asyncio.sleep(0)
    assert bob.kicked, bob.heard


async def test_a_gateway_has_missed_what_a_host_said_that_it_never_met(service: Service, diary: Diary) -> None:
    ada, bob, _cable = await together(service, diary)
    ada.send("tell", 1)
    await until(lambda: bob.heard == [1] and ada.heard == [1])
    service.kill("m-0")
    await service.join("m-1")
    epoch = service.next()
    service.processes["m-1"].commit(epoch)
    cluster(service.gateways[0]).commit(epoch)  # the second gateway stands still
    ada.send("tell", 2)
    await until(lambda: ada.heard == [1, 2])
    service.kill("m-1")
    await service.join("m-2")
    service.publish()
    ada.send("tell", 3)
    await until(lambda: ada.heard == [1, 2, 3])
    for _ in range(20):
        await asyncio.sleep(0)
    assert bob.kicked, bob.heard


async def test_what_others_have_seen_of_an_input_is_not_done_again_after_two_deaths(
    service: Service, diary: Diary
) -> None:
    gate = asyncio.Event()

    async def restored(actor: Any) -> None:
        actor.emit("restored", "r")
        await gate.wait()

    diary.room.hooks["on_hibernation_restore"] = restored
    ada, bob, cable = await together(service, diary)
    cable._receive = lambda *said: None  # inputs arrive, answers do not
    bob.send("tell", 1)
    await until(lambda: ada.heard == [1])
    await succeed(service)
    deafen(service.cable(service.gateways[1], "m-1"))
    await until(lambda: ada.heard == [1, "r"])
    service.kill("m-1")
    await service.join("m-2")
    gate.set()
    service.publish()
    ada.send("tell", 2)
    await until(lambda: 2 in ada.heard)
    assert ada.heard.count(1) == 1, ada.heard


async def test_a_gateway_that_is_gone_is_told_nothing_and_named_no_more(service: Service, diary: Diary) -> None:
    def left(ctx: Any) -> None:
        ctx.actor.emit("left", ctx.meta.user_id)

    diary.room.hooks["on_disconnect"] = left
    ada, _bob, cable = await together(service, diary)
    Guest(service.gateways[1], diary.room, "chat/a", "carol")
    await until(lambda: len(diary.seen) == 3)
    host = service.processes["m-0"].host
    gone = service.gateways[1].id
    cable.cut()
    host.unlink(gone)
    await until(lambda: ada.heard == ["bob", "carol"])
    room = host.directory.rooms["chat/a"]
    assert gone not in {*room.reach.told, *room.reach.owed, *room.reach.shared}


async def test_a_gateway_that_is_gone_is_not_told_that_its_goodbye_has_begun(service: Service, diary: Diary) -> None:
    async def left(ctx: Any) -> None:
        ctx.actor.emit("left", ctx.meta.user_id)
        await diary.gate.wait()

    diary.room.hooks["on_disconnect"] = left
    ada, _, cable = await together(service, diary)
    host = service.processes["m-0"].host
    gone = service.gateways[1].id
    cable.cut()
    host.unlink(gone)
    await until(lambda: ada.heard == ["bob"])
    reach = host.directory.rooms["chat/a"].reach
    assert gone not in {*reach.told, *reach.owed, *reach.shared}


async def test_what_others_have_heard_of_a_task_is_not_said_again(service: Service, diary: Diary) -> None:
    @diary.room.on("spawn")
    def spawn(ctx: Any, data: Any) -> None:
        async def later() -> None:
            await asyncio.sleep(0)
            ctx.actor.emit("told", data)

        ctx.actor.spawn(later())

    ada, bob, cable = await together(service, diary)
    cable._receive = lambda *said: None
    bob.send("spawn", 1)
    await until(lambda: ada.heard == [1])
    await succeed(service)
    ada.send("tell", 2)
    await until(lambda: 2 in ada.heard and not service.gateways[1].attachments.rooms["chat/a"].unprocessed)
    assert ada.heard.count(1) == 1, ada.heard


async def test_a_witness_that_has_left_is_still_one(service: Service, diary: Diary) -> None:
    ada, bob, cable = await together(service, diary)
    cable.cut()
    ada.send("tell", 1, request=1)
    await until(lambda: ada.heard == [1] and ada.acks)
    ada.go()
    await until(lambda: ("disconnect", "ada") in diary.seen)
    await until(lambda: not service.gateways[0].attachments.rooms)
    await succeed(service)
    bob.send("say", 2)
    await until(lambda: bob.heard)
    assert bob.kicked, bob.heard


async def test_nothing_leaves_of_a_room_that_is_given_up_in_the_tick_of_its_first_output(
    service: Service, diary: Diary
) -> None:
    """Nothing leaves of a room that is given up: not that an input has begun, either."""
    ada, _bob, _cable = await together(service, diary)
    await service.join("m-1")
    old, share = service.processes["m-0"].host, service.processes["m-0"].share
    epoch = service.next()
    batches: list[Any] = []

    def overheard(send: Any) -> Any:
        return lambda said: (batches.append(said), send(said))  # type: ignore[func-returns-value]

    for name, send in tuple(old.gateways.items()):
        old.gateways[name] = overheard(send)

    def give_up() -> None:
        batches.clear()
        share._prepared.append(next_epoch)
        old.moving.abandon()

    members = tuple(process.member for id, process in service.processes.items() if id == "m-1")
    next_epoch = Epoch(epoch.number, "m", members)

    @diary.room.on("begin too")
    async def begin(ctx: Any, data: Any) -> None:
        asyncio.get_running_loop().call_soon(give_up)
        ctx.actor.emit("begun", data)
        await diary.gate.wait()

    ada.send("begin too", 7)
    await until(lambda: not old.rooms())
    entries = [entry for batch in batches if hasattr(batch, "entries") for entry in batch.entries]
    assert not entries, entries


async def test_a_caller_is_a_witness(service: Service, diary: Diary) -> None:
    """Who called was told that it is done; nobody else at that gateway is in the room."""
    ada, bob, cable = await together(service, diary)
    ada.go()
    await until(lambda: not service.gateways[0].attachments.rooms)
    cable.cut()
    assert await service.gateways[0].stub("chat", "a").broadcast("default", {"value": 1}) == 1
    await succeed(service)
    bob.send("say", 2)
    await until(lambda: bob.heard)
    assert bob.kicked, bob.heard


async def test_what_others_have_seen_is_not_done_again_for_a_gateway_that_was_given_up(
    service: Service, diary: Diary
) -> None:
    ada, bob, cable = await together(service, diary)
    cable._receive = lambda *said: None
    bob.send("tell", 1)
    await until(lambda: ada.heard == [1])
    cable.cut()
    service.processes["m-0"].host.unlink(service.gateways[1].id)  # its grace is over
    ada.send("tell", 2)
    await until(lambda: ada.heard == [1, 2])
    await succeed(service)
    ada.send("tell", 3)
    await until(lambda: 3 in ada.heard and not service.gateways[1].attachments.rooms["chat/a"].unprocessed)
    assert ada.heard.count(1) == 1, ada.heard


@pytest.mark.parametrize("event", ["tell later", "spawn"])
async def test_what_others_see_after_a_gateway_was_given_up_of_its_inputs_is_not_done_again(
    service: Service, diary: Diary, event: str
) -> None:
    @diary.room.on("spawn")
    def spawn(ctx: Any, data: Any) -> None:
        async def later() -> None:
            await diary.gate.wait()
            ctx.actor.emit("told", data)

        diary.seen.append(("waits", data))
        ctx.actor.spawn(later())

    ada, bob, cable = await together(service, diary)
    cable._receive = lambda *said: None
    bob.send(event, 1)
    await until(lambda: ("waits", 1) in diary.seen)
    cable.cut()
    service.processes["m-0"].host.unlink(service.gateways[1].id)  # its grace is over
    diary.gate.set()
    await until(lambda: ada.heard == [1])
    await succeed(service)
    ada.send("tell", 2)
    await until(lambda: 2 in ada.heard and not service.gateways[1].attachments.rooms["chat/a"].unprocessed)
    assert ada.heard == [1, 2]


async def test_a_witness_that_is_given_up_while_the_room_wakes_has_been_heard(service: Service, diary: Diary) -> None:
    ada, bob, _cable = await together(service, diary)
    third = await service.gateway()
    service.publish()
    await until(lambda: third.accepting)
    carol = Guest(third, diary.room, "chat/a", "carol")
    await until(lambda: ("connect", "carol") in diary.seen)
    service.cable(service.gateways[0], "m-0").cut()
    carol.send("tell", 1)
    await until(lambda: carol.heard == bob.heard == [1])
    await succeed(service)
    slow = service.cable(service.gateways[1], "m-1")
    receive, late = slow._receive, []
    slow._receive = lambda *said: late.append(said)
    host = service.processes["m-1"].host
    await until(
        lambda: (
            "chat/a" in host.directory.rooms
            and host.directory.rooms["chat/a"].pulled.expected == {service.gateways[1].id}
        )
    )
    host.unlink(third.id)
    slow._receive = receive
    # The second gateway knows nothing of what the first has missed: it did not hear the last word either way.
    cluster(service.gateways[1])._rooms["chat/a"].heard = None
    for said in late:
        receive(*said)
    await until(lambda: host.rooms() == {"chat/a": "awake"})
    await until(lambda: ada.kicked)


class Closing(Guest):
    """Nothing is written to a connection that is told to close."""

    def put(self, data: bytes) -> None:
        if not self.kicked:
            super().put(data)


def give_up(gateway: Any, process: Any, cable: Any) -> None:
    """The grace of a broken link is over."""
    cable._there.clear()
    lost = cable.give_up()
    process.host.run()
    cable.lost = (lost, process.host.wakes)


def come_back(gateway: Any, process: Any, cable: Any) -> None:
    if getattr(cable, "lost", None) is None:
        cable.mend()
        return
    (lost, wakes), cable.lost = cable.lost, None
    cable._there.clear()
    cable._back.clear()
    cable._begun = False
    cable._whole = True
    cable._begin([GivenUp(lost.rooms, process.host.wakes != wakes, lost.unheard)])


@pytest.mark.parametrize("seed", range(12))
async def test_nobody_misses_or_doubles_anything_unless_they_are_closed_whatever_dies_breaks_or_is_late(
    service: Service, diary: Diary, seed: int
) -> None:
    chance = random.Random(seed)

    @diary.room.on("spawn")
    def spawn(ctx: Any, data: Any) -> None:
        async def later() -> None:
            ctx.actor.emit("told", data)

        ctx.actor.spawn(later())

    @diary.room.on("twice")
    async def twice(ctx: Any, data: Any) -> None:
        ctx.emit("told", [*data, "me"])
        await asyncio.sleep(0)
        ctx.actor.emit("told", data)

    await service.join("m-0", "m-1")
    gateways = [await service.gateway() for _ in range(3)]
    service.publish()
    await until(lambda: all(gateway.accepting for gateway in gateways))
    guests = [Closing(gateways[n % 3], diary.room, f"chat/{n % 2}", f"u{n}") for n in range(6)]
    # Who is not told yet that he is in has missed nothing before he is.
    await until(lambda: not any(held.unprocessed for each in gateways for held in each.attachments.rooms.values()))
    said = dict.fromkeys(["chat/0", "chat/1"], 0)
    ids = itertools.count(2)
    for _ in range(12):
        for guest in guests:
            if not guest.kicked and chance.random() < 0.4:
                guest.send(chance.choice(["tell", "spawn", "twice"]), [guest.id, said[guest.room]])
                said[guest.room] += 1
        match chance.randrange(9):
            case 0:
                victim = chance.choice(list(service.processes))
                service.kill(victim)
                if len(service.processes) < 2:
                    await service.join(f"m-{next(ids)}")
                epoch = service.next()
                for process in service.processes.values():
                    process.commit(epoch)
                for gateway in gateways:
                    if chance.random() < 0.7:
                        cluster(gateway).commit(epoch)
            case 1 if len(service.processes) < 4:
                await service.join(f"m-{next(ids)}")
                await service.move()
            case 2 | 3 | 4 | 5:
                gateway, process = chance.choice(gateways), chance.choice(list(service.processes.values()))
                cable = service.cables.get((gateway.id, process.member.incarnation))
                if cable is None or cable.closed:
                    continue
                if cable.state == "linked":
                    cable.cut()
                elif cable.state == "broken":
                    if getattr(cable, "lost", None) is None and chance.random() < 0.4:
                        give_up(gateway, process, cable)
                    else:
                        come_back(gateway, process, cable)
            case 6:
                for gateway in gateways:
                    cluster(gateway).commit(service.epoch)
        for _ in range(chance.randrange(6)):
            await asyncio.sleep(0)
        for guest in guests:
            if guest.kicked and guest.id in guest._gateway.connections:
                guest.go()
    for gateway in gateways:
        cluster(gateway).commit(service.epoch)
    for process in service.processes.values():
        for cable in tuple(process.links):
            if cable.state == "broken":
                come_back(cable._gateway, process, cable)
    await until(lambda: not any(gateway.in_flight for gateway in gateways))
    await until(lambda: not any(_missed(guests, room) for room in said), "missed")
    for guest in guests:
        heard = [tuple(word) for word in guest.heard]
        assert len(set(heard)) == len(heard), ("twice", [w for w in heard if heard.count(w) > 1])


def _missed(guests: list[Closing], room: str) -> list[set[tuple[Any, ...]]]:
    """What each member of a room lacks of what others heard, where it lacks anything and was not told to come again."""
    public = [{tuple(w) for w in each.heard if len(w) == 2} for each in guests if each.room == room and not each.kicked]
    said = set[tuple[Any, ...]]().union(*public)
    return [said - heard for heard in public if heard != said]

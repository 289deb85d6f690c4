"""The room of inspectors asks only while somebody watches, and no more than a small part of the time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import msgspec
import pytest

from tests.virtual_time import VirtualTimeLoop
from verani.testing.harness import RoomHarness
from verani_actors.operating.activity import Activity, sum_up
from verani_actors.operating.answers import RoomsQuestion
from verani_actors.rooms.hook_failures import MAX_FAILURES, HookFailure
from verani_actors.rooms.room_status import RoomStatus
from verani_gateway.inspector.room import MAX_LISTED, inspector_room
from verani_gateway.inspector.samples import MAX_SAMPLES, Samples
from verani_gateway.operating.service_answers import Listing, ServiceStatus
from verani_gateway.operating.sessions import MAX_SESSIONS, SessionSeen, SessionsTold


class Service:
    """A service that only says what it is asked; every question takes `slowness` seconds."""

    def __init__(self, slowness: float = 0.0) -> None:
        self.asked: list[str] = []
        self.questions: list[RoomsQuestion] = []
        self.counted = Activity(connections=3, rooms={"awake": 2, "asleep": 1})
        self.inputs = 0
        self.failures: list[HookFailure] = []
        self.crowd = 0
        self._slowness = slowness

    async def _ask(self, what: str) -> None:
        self.asked.append(what)
        await asyncio.sleep(self._slowness)

    async def activity(self) -> Activity:
        await self._ask("activity")
        return self.counted

    async def cluster(self) -> ServiceStatus:
        await self._ask("cluster")
        return ServiceStatus(1, "", [], [], [])

    async def errors(self) -> list[HookFailure]:
        await self._ask("errors")
        return self.failures

    async def quarantine(self) -> list[msgspec.Raw]:
        await self._ask("quarantine")
        return []

    async def rooms(self, question: RoomsQuestion) -> Listing:
        await self._ask("rooms")
        self.questions.append(question)

        async def rooms() -> AsyncIterator[RoomStatus]:
            for n in range(min(question.limit or 0, 5000)):
                yield RoomStatus(
                    f"{question.prefix}{n}", "chat", "awake", 1, inputs=self.inputs, deliveries=self.inputs
                )

        return Listing(rooms(), cut=False)

    async def room(self, name: str) -> RoomStatus | None:
        await self._ask(f"room {name}")
        return None

    async def sessions(self, room: str) -> SessionsTold:
        await self._ask(f"sessions {room}")
        return SessionsTold([_session(n) for n in range(self.crowd)])


def _session(number: int) -> SessionSeen:
    return SessionSeen(
        connection=str(number),
        gateway="a",
        user_id="ann",
        client_id=str(number),
        channels=(),
        connected_seconds=1.0,
        expires_seconds=None,
        meta={},
    )


def play(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        runner.run(test())


def harness(service: Service) -> RoomHarness[Any, Any]:
    return RoomHarness(inspector_room(service), room_id="service")  # type: ignore[arg-type]  # it gives no orders


def told(client: Any, event: str) -> list[Any]:
    return [each.data for each in client.take() if each.type == event]


def test_nothing_is_asked_once_nobody_watches() -> None:
    async def test() -> None:
        service = Service()
        async with harness(service) as room:
            watcher = await room.connect()
            await asyncio.sleep(20)
            assert 9 <= service.asked.count("activity") <= 11
            await watcher.close()
            await asyncio.sleep(5)
            service.asked.clear()
            await asyncio.sleep(1000)
            assert service.asked == []
            await room.connect()
            await asyncio.sleep(1)
            assert service.asked.count("activity") == 1

    play(test)


def test_the_slower_the_service_the_less_often_it_is_asked() -> None:
    async def test() -> None:
        service = Service(slowness=0.02)  # of each question, of which there are four in most looks
        async with harness(service) as room:
            await room.connect()
            await asyncio.sleep(100)
            looks = service.asked.count("activity")
            assert len(service.asked) * 0.02 <= 100 / 25
            assert looks >= 25

    play(test)


def test_a_service_that_does_not_answer_is_asked_again_after_a_while() -> None:
    async def test() -> None:
        service = Service(slowness=2.0)
        async with harness(service) as room:
            await room.connect()
            await asyncio.sleep(200)
            assert service.asked.count("activity") >= 10

    play(test)


def test_whoever_wants_to_see_something_else_sees_it_soon_and_never_more_often_than_may_be() -> None:
    async def test() -> None:
        service = Service()
        async with harness(service) as room:
            watcher = await room.connect()
            await asyncio.sleep(1)
            service.asked.clear()
            for n in range(100):
                view = {"prefix": f"chat/{n}", "state": "awake", "room": f"chat/{n}", "order": "inputs"}
                await watcher.request("watch", view)
                await asyncio.sleep(0.01)
            assert service.asked.count("activity") <= 5
            await asyncio.sleep(0.5)
            assert service.questions[-1] == RoomsQuestion(MAX_LISTED, "awake", "chat/99", "inputs")
            assert "sessions chat/99" in service.asked
            seen = told(watcher, "rooms")
            view.pop("room")
            assert (seen[-1] | view, len(seen[-1]["rows"])) == (seen[-1], MAX_LISTED)
            assert seen[-1]["cut"]

    play(test)


def test_watchers_of_the_same_share_one_question_and_get_their_own_answers() -> None:
    async def test() -> None:
        service = Service()
        async with harness(service) as room:
            ann, ben, eve = await room.connect(), await room.connect(), await room.connect()
            for each, prefix in ((ann, "a"), (ben, "a"), (eve, "e")):
                await each.request("watch", {"prefix": prefix})
            await asyncio.sleep(3)
            for each in (ann, ben, eve):
                each.take()
            service.questions.clear()
            await asyncio.sleep(2)
            assert [question.prefix for question in service.questions] == ["a", "e"]
            for each, prefix in ((ann, "a"), (ben, "a"), (eve, "e")):
                assert {data["prefix"] for data in told(each, "rooms")} == {prefix}

    play(test)


def test_rates_are_of_the_time_between_two_looks() -> None:
    async def test() -> None:
        service = Service()
        async with harness(service) as room:
            watcher = await room.connect()
            await asyncio.sleep(1)
            assert told(watcher, "rooms")[0]["rows"][0]["inputs_rate"] is None
            service.counted = Activity(frames=40, deliveries=80, rooms={"awake": 2})
            service.inputs = 20
            await asyncio.sleep(2)
            events = watcher.take()
            (sample,) = (each.data["sample"] for each in events if each.type == "sample")
            assert [round(value, 3) for value in sample[1:3]] == [20, 40]
            (rows,) = (each.data["rows"] for each in events if each.type == "rooms")
            assert round(rows[0]["inputs_rate"], 3) == 10

    play(test)


def test_whoever_comes_gets_the_last_minutes_and_no_more() -> None:
    async def test() -> None:
        service = Service()
        async with harness(service) as room:
            watcher = await room.connect()
            assert told(watcher, "history") == [{"type": "history", "samples": []}]
            for _ in range(MAX_SAMPLES + 50):
                await asyncio.sleep(2)
                watcher.take()
            late = await room.connect()
            (history,) = told(late, "history")
            assert len(history["samples"]) == MAX_SAMPLES

    play(test)


@pytest.mark.parametrize("after", [0.05 + n / 10 for n in range(8)])
def test_whoever_comes_in_the_middle_of_a_look_is_told_everything_at_the_next(after: float) -> None:
    async def test() -> None:
        async with harness(Service(slowness=0.1)) as room:
            await room.connect()
            await asyncio.sleep(after)
            late = await room.connect()
            await asyncio.sleep(12)
            assert {each.type for each in late.take()} >= {"sample", "cluster", "errors", "quarantine", "rooms"}

    play(test)


def test_of_the_errors_of_many_hosts_the_last_are_told() -> None:
    async def test() -> None:
        service = Service()
        service.failures = [
            HookFailure(room="chat/a", hook="say", type="E", text=str(n), traceback="", first=0, last=0, host=f"h-{n}")
            for n in range(3 * MAX_FAILURES)
        ]
        async with harness(service) as room:
            watcher = await room.connect()
            await asyncio.sleep(1)
            (errors,) = told(watcher, "errors")
            assert [each["text"] for each in errors["errors"]] == [str(n) for n in range(MAX_FAILURES)]

    play(test)


def test_of_a_room_that_has_a_crowd_at_every_gateway_the_first_are_told() -> None:
    async def test() -> None:
        service = Service()
        async with harness(service) as room:
            watcher = await room.connect()
            for service.crowd, shown, more in ((MAX_SESSIONS, MAX_SESSIONS, False), (250, MAX_SESSIONS, True)):
                await watcher.request("watch", {"room": "chat/a"})
                await asyncio.sleep(3)
                seen = told(watcher, "room")[-1]["told"]
                assert (len(seen["sessions"]), seen["more"]) == (shown, more)

    play(test)


def test_a_view_that_is_none_is_refused() -> None:
    async def test() -> None:
        async with harness(Service()) as room:
            watcher = await room.connect()
            views: list[Any] = [{"prefix": "x" * 201}, {"state": "dead"}, {"room": 1}, [], "x"]
            for view in views:
                await watcher.send("watch", view)
            await asyncio.sleep(3)
            assert {data["prefix"] for data in told(watcher, "rooms")} == {""}

    play(test)


def test_a_look_that_fails_has_the_watchers_come_again() -> None:
    async def test() -> None:
        service = Service()
        room = harness(service)

        async def fail() -> ServiceStatus:
            raise RuntimeError("no such thing")

        service.cluster = fail  # type: ignore[method-assign]
        async with room:
            watcher = await room.connect()
            await asyncio.sleep(1)
            assert watcher.closed == (1011, "the inspector has failed")
            assert [str(error) for error in room.take_errors()] == ["no such thing"]

    play(test)


def test_a_process_that_counts_from_zero_again_makes_no_rate_below_zero() -> None:
    samples = Samples()
    samples.take(Activity(frames=100), now=1.0, at=0.0)
    sample = samples.take(Activity(frames=10), now=2.0, at=0.0)
    assert sample is not None
    assert sample.frames == 0


def test_a_rate_is_never_that_of_a_moment() -> None:
    samples = Samples()
    assert samples.take(Activity(), now=1.0, at=0.0) is not None
    assert samples.take(Activity(frames=10), now=1.5, at=0.0) is None
    sample = samples.take(Activity(frames=20), now=3.0, at=0.0)
    assert sample is not None
    assert sample.frames == 10
    assert len(samples.listed()) == 2


def test_what_processes_do_is_added_up() -> None:
    gateway = Activity(connections=2, frames=3, deliveries=4)
    hosts = Activity(rooms={"awake": 1}, wakes=5, errors=1), Activity(rooms={"awake": 1, "asleep": 2}, wakes=1)
    assert sum_up((gateway, *hosts)) == Activity(
        connections=2, frames=3, deliveries=4, rooms={"awake": 2, "asleep": 2}, wakes=6, errors=1
    )

"""One answer for the whole service: every process is asked once, and who is silent is named."""

import asyncio
import sys
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from tests.measured import measured
from verani.errors import Conflict, InvalidArguments, NotFound
from verani.link.epoch import Epoch, Member
from verani.link.messages import Ask, HostMessage, Told
from verani.link.stream import MAX_STALLED, host_stream
from verani.settings import Settings
from verani_actors.operating.answers import (
    MAX_NAMES,
    MAX_ROOMS,
    GatewayStatus,
    HostOverview,
    HostStatus,
    RoomHeld,
    RoomsHeld,
    RoomsOrder,
    RoomsQuestion,
    RoomsTold,
    list_rooms,
)
from verani_actors.rooms.directory import RoomDirectory
from verani_actors.rooms.hook_failures import HookFailures
from verani_actors.rooms.host import RoomHost
from verani_actors.rooms.room_status import RoomStatus
from verani_actors.upkeep.code_check import CodeCheck
from verani_actors.upkeep.runtime import Plan
from verani_gateway.cli.members import check_target, members_table
from verani_gateway.gateway import Gateway
from verani_gateway.inputs.attachments import RoomInputs
from verani_gateway.operating.alone import Alone
from verani_gateway.operating.inquiry import Inquiry
from verani_gateway.operating.merging import merge_metrics, merge_rooms
from verani_gateway.operating.overview import Overview
from verani_gateway.operating.own_answers import answer
from verani_gateway.operating.service_answers import ServiceStatus

Answer = Callable[[str, str], bytes]


def _member(id: str) -> Member:
    return Member(id, f"incarnation of {id}", "here", 1, "")


def _failures(room: str, hook: str) -> HookFailures:
    failures = HookFailures()
    failures.note(room, LookupError("no such user"), hook)
    return failures


class FakeHost:
    """A room host that has no rooms, only gateways that are linked to it."""

    def __init__(self, id: str) -> None:
        self.id = id
        self.gateways: dict[str, Callable[[HostMessage], None]] = {}
        self.limited: dict[str, int] = {}
        self.directory = RoomDirectory(lambda: 0.0, ())
        self.directory.woken_by["frame"] = 3
        self.sleeping, self.entries = SimpleNamespace(excess=0), SimpleNamespace(unprocessed=0, working=0)
        self.drained: list[str] = []
        self.failures = HookFailures()
        self.restarts = 0
        self.check = CodeCheck(Plan(Settings(), (), "/", "here", check=("echo", "[]")))
        self.known = {"chat/a": "awake", "chat/b": "asleep", "chat/c": "asleep"}
        self.overview = HostOverview(id, cast(RoomHost, self), self)

    def rooms(self) -> dict[str, str]:
        return {name: state for name, state in self.known.items() if state != "asleep"}

    def known_rooms(self) -> list[str]:
        return sorted(self.known, key=lambda name: self.known[name] == "asleep")

    def status(self, name: str = "") -> Any:
        if name:
            return RoomStatus(name, "chat", self.known[name], 1)
        return HostStatus(
            id=self.id, machine="here", incarnation="", pid=1, epoch=1, rooms={"awake": 1}, links={}, draining=False
        )

    def drain(self, id: str) -> None:
        self.drained.append(id)

    def restart(self) -> None:
        self.restarts += 1


class Service:
    """Hosts and gateways that hear each other in the loop's next turn; the silent ones do not answer."""

    def __init__(self, *, hosts: tuple[str, ...], gateways: tuple[str, ...], silent: tuple[str, ...] = ()) -> None:
        self.epoch = Epoch(7, "here", tuple(map(_member, hosts)))
        self.hosts = {id: FakeHost(id) for id in hosts}
        self.silent = silent
        self.unlinked: set[str] = set()
        self.asked: list[tuple[str, str, str]] = []
        patience = 0.5 if silent else 1e9
        self.inquiries = {id: Inquiry(id, _Links(self, id), self._answer(id), patience=patience) for id in gateways}
        self.gateways = {
            id: Overview(id, _Links(self, id), inquiry, ready=lambda: True) for id, inquiry in self.inquiries.items()
        }
        for host in self.hosts.values():
            for id in gateways:
                host.gateways[id] = self._to_gateway(host, id)

    def _answer(self, id: str) -> Answer:
        def answer(topic: str, argument: str) -> bytes:
            self.asked.append((id, topic, argument))
            match topic:
                case "cluster":
                    status = GatewayStatus(id=id, machine="here", pid=2, epoch=7, connections=0, links={})
                    return msgspec.json.encode(status)
                case "rooms":
                    return msgspec.json.encode(RoomsHeld([RoomHeld("chat/a", 1), RoomHeld("chat/only-here", 2)]))
                case "errors":
                    return msgspec.json.encode(_failures("chat", "extract_meta").listed())
                case "metrics":
                    return msgspec.json.encode("# HELP verani_x text\n# TYPE verani_x gauge\nverani_x 1\n")
                case _:
                    return b"null"

        return answer

    def _to_gateway(self, host: FakeHost, id: str) -> Callable[[HostMessage], None]:
        def send(message: HostMessage) -> None:
            asyncio.get_running_loop().call_soon(self._arrive, host, id, message)

        return send

    def _arrive(self, host: FakeHost, id: str, message: HostMessage) -> None:
        match message:
            case Told():
                self.inquiries[id].told(message)
            case Ask() if id not in self.silent:
                host.overview.told(self.inquiries[id].asked(message))
            case _:
                pass


class _Links:
    def __init__(self, service: Service, gateway: str) -> None:
        self._service = service
        self._gateway = gateway

    @property
    def epoch(self) -> Epoch:
        return self._service.epoch

    def ask(self, member: Member, ask: Ask) -> bool:
        if member.id in self._service.unlinked:
            return False
        if member.id not in self._service.silent:
            host = self._service.hosts[member.id]
            asyncio.get_running_loop().call_soon(host.overview.asked, self._gateway, ask)
        return True


async def test_every_process_is_asked_once() -> None:
    service = Service(hosts=("h-0", "h-1", "h-2"), gateways=("a", "b", "c"))
    status = await service.gateways["b"].cluster()
    assert [host.id for host in status.members] == ["h-0", "h-1", "h-2"]
    assert [gateway.id for gateway in status.gateways] == ["a", "b", "c"]
    assert (status.epoch, status.registrar, status.missing) == (7, "here", [])
    assert sorted(service.asked) == [("a", "cluster", ""), ("b", "cluster", ""), ("c", "cluster", "")]


@pytest.mark.parametrize("silent", ["h-1", "c"])
async def test_who_does_not_answer_in_time_is_missing(silent: str) -> None:
    service = Service(hosts=("h-0", "h-1"), gateways=("a", "b", "c"), silent=(silent,))
    status = await service.gateways["a"].cluster()
    assert status.missing == [silent]
    assert len(status.members) + len(status.gateways) == 4


async def test_a_host_without_a_link_is_missing_and_another_passes_the_question_on() -> None:
    service = Service(hosts=("h-0", "h-1"), gateways=("a", "b"))
    service.unlinked.add("h-0")
    status = await service.gateways["a"].cluster()
    assert status.missing == ["h-0"]
    assert [gateway.id for gateway in status.gateways] == ["a", "b"]


async def test_a_gateway_that_reaches_no_host_answers_for_itself() -> None:
    service = Service(hosts=("h-0",), gateways=("a", "b"))
    service.unlinked.add("h-0")
    status = await service.gateways["a"].cluster()
    assert [gateway.id for gateway in status.gateways] == ["a"]
    assert status.missing == ["h-0"]


@pytest.mark.parametrize("leaving", ["h-0", "h-1"])
async def test_nobody_waits_for_a_host_that_has_left(leaving: str, caplog: pytest.LogCaptureFixture) -> None:
    service = Service(hosts=("h-0", "h-1"), gateways=("a", "b"), silent=(leaving,))
    service.inquiries["a"]._patience = 1e9
    asking = asyncio.create_task(service.gateways["a"].cluster())
    for _ in range(10):
        await asyncio.sleep(0)
    assert not asking.done()
    service.inquiries["a"].lost(leaving)
    assert (await asking).missing == [leaving]
    assert caplog.messages == []


@pytest.mark.parametrize("topic", ["cluster", "rooms", "metrics"])
async def test_nobody_waits_for_a_gateway_that_has_left(topic: str, caplog: pytest.LogCaptureFixture) -> None:
    service = Service(hosts=("h-0", "h-1"), gateways=("a", "b", "c"), silent=("b",))
    service.inquiries["a"]._patience = 1e9
    asking = asyncio.create_task(service.inquiries["a"].collect(topic, '{"state":null,"limit":9}'))
    for _ in range(10):
        await asyncio.sleep(0)
    assert not asking.done()
    for host in service.hosts.values():
        del host.gateways["b"]
        host.overview.unlinked()
    collected = await asking
    assert (sorted(collected.gateways), collected.missing) == (["a", "c"], [])
    assert caplog.messages == []


async def test_errors_are_those_of_every_host_and_those_that_all_gateways_have_alike_once() -> None:
    service = Service(hosts=("h-0", "h-1", "h-old"), gateways=("a", "b"))
    for id in ("h-0", "h-1"):
        service.hosts[id].failures = _failures("chat/a", "say")
    old = service.hosts["h-old"].overview  # of a version that knows nothing of errors
    service.hosts["h-old"].overview = cast(HostOverview, SimpleNamespace(asked=_asked_in_vain(old), told=old.told))
    found = await service.gateways["a"].errors()
    assert sorted((each.room, each.host or "", each.count) for each in found) == [
        ("chat", "", 2),
        ("chat/a", "h-0", 1),
        ("chat/a", "h-1", 1),
    ]


def _asked_in_vain(overview: HostOverview) -> Callable[[str, Ask], None]:
    return lambda gateway, ask: overview.asked(gateway, msgspec.structs.replace(ask, topic="of a later version"))


async def test_an_answer_to_an_old_question_is_dropped() -> None:
    service = Service(hosts=("h-0",), gateways=("a",))
    service.inquiries["a"].told(Told(99, "h-0", b"{}"))
    assert (await service.gateways["a"].cluster()).missing == []


async def test_two_questions_at_a_time_get_their_own_answers() -> None:
    service = Service(hosts=("h-0", "h-1"), gateways=("a", "b"))
    statuses = await asyncio.gather(*(service.gateways[id].cluster() for id in ("a", "b", "a")))
    assert all(not status.missing and len(status.gateways) == 2 for status in statuses)


async def test_rooms_are_those_of_their_owners_and_those_that_only_gateways_know() -> None:
    service = Service(hosts=("h-0",), gateways=("a", "b"))
    listed, _ = await _listed(service)
    assert [(room.name, room.state, room.connections) for room in listed] == [
        ("chat/a", "awake", 1),
        ("chat/b", "asleep", 1),
        ("chat/c", "asleep", 1),
        ("chat/only-here", "asleep", 4),
    ]
    assert await _names(service, limit=1) == (["chat/a"], False)
    assert await _names(service, limit=2, state="asleep") == (["chat/b", "chat/c"], False)
    assert await _names(service, state="asleep") == (["chat/b", "chat/c", "chat/only-here"], False)
    assert await _names(service, state="awake") == (["chat/a"], False)
    assert await _names(service, state="retiring") == ([], False)


async def _listed(
    service: Service, *, limit: int | None = None, state: str | None = None
) -> tuple[list[RoomStatus], bool]:
    listing = await service.gateways["a"].rooms(RoomsQuestion(limit, state))
    return [room async for room in listing.rooms], listing.cut


async def _names(service: Service, *, limit: int | None = None, state: str | None = None) -> tuple[list[str], bool]:
    listed, cut = await _listed(service, limit=limit, state=state)
    return [room.name for room in listed], cut


async def test_no_process_tells_of_more_rooms_than_an_answer_may_hold_and_the_list_says_so() -> None:
    service = Service(hosts=("h-0",), gateways=("a",))
    host = service.hosts["h-0"]
    host.known = {f"chat/{n}": "awake" if n % 2 else "asleep" for n in range(2 * MAX_ROOMS + 100)}
    listed, cut = await _listed(service)
    assert ({room.state for room in listed}, len(listed), cut) == ({"awake"}, MAX_ROOMS, True)
    for state in ("awake", "asleep"):
        listed, cut = await _listed(service, state=state)
        assert ({room.state for room in listed}, len(listed), cut) == ({state}, MAX_ROOMS, True)
        listed, cut = await _listed(service, state=state, limit=20)
        assert (len(listed), cut) == (20, False), "nobody asked for more"
    listed, cut = await _listed(service, limit=MAX_ROOMS + 1)
    assert (len(listed), cut) == (MAX_ROOMS, True)
    assert await _names(service, limit=0) == ([], False)


async def test_what_a_host_was_asked_for_is_all_that_it_tells() -> None:
    host = FakeHost("h-0")
    host.known = {f"chat/{n}": "awake" if n % 2 else "asleep" for n in range(100)}

    def told(limit: int | None, state: str | None) -> tuple[int, int, bool]:
        *_, body = list_rooms(cast(RoomHost, host), RoomsQuestion(limit, state))
        assert body is not None
        told = msgspec.json.decode(body, type=RoomsTold)
        return len(told.rooms), len(told.others), told.more

    assert told(None, None) == (100, 0, False)
    assert told(20, None) == (20, 0, True)
    assert told(20, "awake") == (20, 0, True)
    assert told(None, "awake") == (50, 0, False)
    assert told(None, "asleep") == (50, 50, False)
    assert told(20, "asleep") == (20, 50, True)


@pytest.mark.parametrize(
    ("order", "first"),
    [
        ("name", ["chat/0", "chat/1", "chat/10"]),
        ("connections", ["chat/998", "chat/997", "chat/996"]),
        ("inputs", ["chat/500", "chat/501", "chat/502"]),
        ("deliveries", ["chat/999", "chat/998", "chat/997"]),
        ("wake", ["chat/7", "chat/8", "chat/9"]),
    ],
)
async def test_the_first_rooms_of_an_order_are_the_first_of_all_rooms(order: RoomsOrder, first: list[str]) -> None:
    def status(name: str = "") -> RoomStatus:
        n = int(name.partition("/")[2])
        inputs, wake_seconds = 2000 - n if n >= 500 else n, 1 / n if n >= 7 else None
        return RoomStatus(name, "chat", "awake", n % 999, wake_seconds=wake_seconds, inputs=inputs, deliveries=n)

    service = Service(hosts=("h-0", "h-1"), gateways=("a",))
    for name in (f"chat/{n}" for n in range(1000)):
        owner = service.epoch.owner(name)
        assert owner is not None
        service.hosts[owner.id].known[name] = "awake"
    for host in service.hosts.values():
        host.known = {name: state for name, state in host.known.items() if name[5:].isdecimal()}
        host.status = status  # type: ignore[method-assign]  # for what it says
    gateway = SimpleNamespace(room_names=lambda: [f"chat/{n}" for n in range(1000)], room=status)
    for answers in (service.gateways["a"], Alone(cast(Gateway, gateway))):
        listing = await answers.rooms(RoomsQuestion(3, order=order))
        assert [room.name async for room in listing.rooms] == first


@pytest.mark.parametrize("state", [None, "asleep"])
async def test_the_longest_answer_is_little_for_a_link_and_the_loop_turns_while_it_is_made(state: str | None) -> None:
    host = FakeHost("h-0")
    name = "n" * 64
    host.known = {f"{name}/{n:0>128}": "retiring" if n % 4 else "asleep" for n in range(2 * MAX_NAMES)}
    full = RoomStatus("", name, "", 65536, 123456.789, "hibernate_after never", "connect", 1e-9, 10**9, 0.1 / 3)

    def status(name: str = "") -> RoomStatus:
        return msgspec.structs.replace(full, name=name, state=host.known[name])

    host.status = status  # type: ignore[method-assign]  # for its size
    *turns, body = list_rooms(cast(RoomHost, host), RoomsQuestion(state=state))
    assert body is not None
    told = msgspec.json.decode(body, type=RoomsTold)
    assert (len(told.rooms), len(told.others)) == (MAX_ROOMS, MAX_NAMES if state is not None else 0)
    stream = host_stream(0.0)
    stream.put([Told(1, "h-0", body)], 0.0)
    assert stream.unconfirmed < MAX_STALLED // 2
    assert turns == [None] * (MAX_ROOMS // 200)


async def test_hosts_and_gateways_are_left_turns_while_they_look_at_many_rooms() -> None:
    service = Service(hosts=("h-0",), gateways=("a",))
    service.hosts["h-0"].known = {f"chat/{n}": "awake" for n in range(MAX_ROOMS)}
    asking = asyncio.create_task(_listed(service))
    turns = 0
    while not asking.done():
        await asyncio.sleep(0)
        turns += 1
    assert turns > 2 * MAX_ROOMS // 200
    assert len((await asking)[0]) == MAX_ROOMS + 2


async def test_metrics_say_which_process_counts_what() -> None:
    service = Service(hosts=("h-0",), gateways=("a", "b"))
    text = await service.gateways["a"].metrics()
    samples = measured(text)
    assert samples['x{gateway="a"}'] == samples['x{gateway="b"}'] == 1
    assert samples['wakes_total{host="h-0",reason="frame"}'] == 3
    assert samples['linked_gateways{host="h-0"}'] == 2
    assert samples["missing"] == 0
    assert text.splitlines().count("# TYPE verani_x gauge") == 1


@pytest.mark.parametrize(("target", "drained"), [("host:h-1", ["h-1"]), ("gateway:b", []), ("all", [])])
async def test_a_drain_reaches_whom_it_is_for(target: str, drained: list[str]) -> None:
    service = Service(hosts=("h-0", "h-1"), gateways=("a", "b"))
    await service.gateways["a"].drain(target)
    # Every host tells the registrar, which takes it once.
    assert service.hosts["h-0"].drained == drained
    assert ("a", "drain", target) in service.asked
    assert ("b", "drain", target) in service.asked


@pytest.mark.parametrize("target", ["host:h-0", "gateway:a"])
async def test_the_last_host_and_the_last_gateway_are_not_drained(target: str) -> None:
    service = Service(hosts=("h-0",), gateways=("a",))
    with pytest.raises(Conflict, match="last of its kind"):
        await service.gateways["a"].drain(target)
    assert service.hosts["h-0"].drained == []


async def test_a_host_is_restarted_after_its_own_check() -> None:
    service = Service(hosts=("h-0", "h-1"), gateways=("a", "b"))
    await service.gateways["a"].restart("host:h-0")
    assert service.hosts["h-0"].check.verdict == ""
    assert service.hosts["h-1"].check.verdict is None
    assert [host.restarts for host in service.hosts.values()] == [1, 0]
    assert [asked[1:] for asked in service.asked if asked[0] == "b"][-1] == ("restart", "host:h-0")


async def test_code_that_cannot_be_imported_restarts_nobody() -> None:
    service = Service(hosts=("h-0",), gateways=("a",))
    broken = "import sys; sys.exit('verani: error: it is broken')"
    service.hosts["h-0"].check = CodeCheck(Plan(Settings(), (), "/", "here", check=(sys.executable, "-c", broken)))
    with pytest.raises(Conflict, match="^nothing is restarted: it is broken$"):
        await service.gateways["a"].restart("host:h-0")
    assert service.hosts["h-0"].restarts == 0


@pytest.mark.parametrize(
    ("target", "error"), [("all", InvalidArguments), ("host:x", NotFound), ("gateway:", InvalidArguments)]
)
async def test_only_one_process_of_the_service_is_restarted_at_a_time(target: str, error: type[Exception]) -> None:
    service = Service(hosts=("h-0",), gateways=("a",))
    with pytest.raises(error):
        await service.gateways["a"].restart(target)
    assert not any(topic == "restart" for _, topic, _ in service.asked)


async def test_a_service_without_hosts_can_be_ended() -> None:
    service = Service(hosts=(), gateways=("a",))
    await service.gateways["a"].drain("all")
    assert ("a", "drain", "all") in service.asked


async def test_hosts_end_with_the_service_only_after_its_last_gateway() -> None:
    service = Service(hosts=("h-0",), gateways=("a", "b"))
    host = service.hosts["h-0"]
    await service.gateways["a"].drain("all")
    for gateway in ("a", "b"):
        assert host.drained == []
        del host.gateways[gateway]
        host.overview.unlinked()
    assert host.drained == [""]


@pytest.mark.parametrize("target", ["", "host", "host:", "room:x", "gateway"])
async def test_what_is_no_target_is_refused(target: str) -> None:
    service = Service(hosts=("h-0",), gateways=("a",))
    with pytest.raises(InvalidArguments, match="expected host:ID, gateway:ID or all"):
        await service.gateways["a"].drain(target)


async def test_an_unknown_target_is_told_with_those_there_are() -> None:
    service = Service(hosts=("h-0",), gateways=("a",))
    with pytest.raises(NotFound, match="host:h-9 is not part of the service: expected all, host:h-0, gateway:a"):
        await service.gateways["a"].drain("host:h-9")


def _statuses(**states: str) -> list[RoomStatus]:
    return [RoomStatus(f"chat/{name}", "chat", state, 5) for name, state in states.items()]


_ONE = Epoch(1, "here", (_member("h-0"),))


async def _merged(
    epoch: Epoch, hosts: Mapping[str, RoomsTold], *gateways: RoomsHeld, state: str | None = None
) -> dict[str, str]:
    return {room.name: room.state for room in await merge_rooms(epoch, hosts, gateways, state)}


async def test_the_owner_knows_best_and_what_slept_elsewhere_is_past() -> None:
    epoch = Epoch(1, "here", (_member("h-0"), _member("h-1")))
    owner, other = ("h-0", "h-1") if epoch.owns("incarnation of h-0", "chat/x") else ("h-1", "h-0")
    awake, asleep, retiring = [RoomsTold(_statuses(x=state)) for state in ("awake", "asleep", "retiring")]
    assert await _merged(epoch, {owner: awake, other: asleep}) == {"chat/x": "awake"}
    assert await _merged(epoch, {other: retiring, owner: asleep}) == {"chat/x": "asleep"}
    assert await _merged(epoch, {other: retiring}) == {"chat/x": "retiring"}
    assert await _merged(epoch, {other: asleep}) == {}


@pytest.mark.parametrize(
    ("told", "state"),
    [
        (RoomsTold(_statuses(x="awake")), None),
        # A gateway has just a connect that waits, and has heard nothing of the room yet.
        (RoomsTold([], others=["chat/x"]), "asleep"),
        # The room is among those that the host has not told of.
        (RoomsTold(_statuses(y="awake"), more=True), None),
        (RoomsTold([], others=["chat/y"], more=True), "asleep"),
    ],
)
async def test_what_its_owner_has_awake_is_not_asleep_though_a_gateway_thinks_so(
    told: RoomsTold, state: str | None
) -> None:
    merged = await _merged(_ONE, {"h-0": told}, RoomsHeld([RoomHeld("chat/x", 1)]), state=state)
    assert merged.get("chat/x") != "asleep"


async def test_of_a_silent_owner_s_rooms_only_those_sleep_that_no_gateway_may_have_seen_awake() -> None:
    drowsy = RoomsHeld([RoomHeld("chat/x", 1)])
    assert await _merged(_ONE, {}, drowsy) == {"chat/x": "asleep"}
    assert await _merged(_ONE, {}, drowsy, RoomsHeld([RoomHeld("chat/x", 1, True)])) == {"chat/x": "awake"}
    assert await _merged(_ONE, {}, drowsy, RoomsHeld([RoomHeld("chat/y", 1, True)], more=True)) == {"chat/y": "awake"}
    assert await _merged(_ONE, {}, drowsy, RoomsHeld([RoomHeld("chat/y", 1)], more=True)) == dict.fromkeys(
        ("chat/x", "chat/y"), "asleep"
    )


async def test_a_gateway_tells_of_rooms_that_are_awake_first_and_of_so_many_only() -> None:
    rooms = {f"chat/{n}": RoomInputs(f"chat/{n}") for n in range(2 * MAX_ROOMS)}
    placement = SimpleNamespace(known_rooms=lambda: [f"chat/{MAX_ROOMS}"])
    gateway = cast(Gateway, SimpleNamespace(attachments=SimpleNamespace(rooms=rooms), placement=placement))

    def told(state: str | None) -> RoomsHeld:
        argument = msgspec.json.encode(RoomsQuestion(20, state)).decode()
        body = answer("rooms", argument, gateway, lambda: pytest.fail("nobody asked"))
        return msgspec.json.decode(body, type=RoomsHeld)

    for state in (None, "asleep"):
        assert (told(state).rooms[0], len(told(state).rooms)) == (RoomHeld(f"chat/{MAX_ROOMS}", 0, True), MAX_ROOMS)
        assert told(state).more
    assert told("awake") == RoomsHeld([RoomHeld(f"chat/{MAX_ROOMS}", 0, True)])
    assert told("retiring") == RoomsHeld([])


async def test_labels_are_added_to_those_there_are() -> None:
    text = (
        "# HELP verani_y t\n# TYPE verani_y gauge\nverani_y 2\n"
        '# HELP verani_y_total u\n# TYPE verani_y_total counter\nverani_y_total{code="1000"} 4\n'
    )
    merged = await merge_metrics({("gateway", "a"): text, ("gateway", "b"): text}, missing=["h"])
    assert measured(merged) == {
        'y{gateway="a"}': 2,
        'y{gateway="b"}': 2,
        'y_total{code="1000",gateway="a"}': 4,
        'y_total{code="1000",gateway="b"}': 4,
        "missing": 1,
    }
    described = [line for line in merged.splitlines() if line.startswith("# ")]
    assert described[:4] == [
        "# HELP verani_y t",
        "# TYPE verani_y gauge",
        "# HELP verani_y_total u",
        "# TYPE verani_y_total counter",
    ]


def test_the_table_of_members_shows_broken_links_and_who_is_missing() -> None:
    host = HostStatus(
        id="vm-0",
        machine="vm",
        incarnation="i",
        pid=10,
        epoch=3,
        rooms={"awake": 2, "waking": 1, "asleep": 4},
        links={"a": "linked", "b": "broken"},
        draining=True,
    )
    gateway = GatewayStatus(id="a", machine="vm", pid=11, epoch=3, connections=7, links={"vm-0": "linked"})
    lines = members_table(ServiceStatus(3, "vm", [host], [gateway], ["vm-1"])).splitlines()
    assert lines[0].split() == ["MEMBER", "MACHINE", "PID", "EPOCH", "STATE", "AWAKE", "CONNECTIONS", "LINKS"]
    assert lines[1].split() == ["host:vm-0", "vm", "10", "3", "draining", "3", "-", "1/2", "(b", "broken)"]
    assert lines[2].split() == ["gateway:a", "vm", "11", "3", "serving", "-", "7", "1/1"]
    assert lines[3:] == ["epoch 3, published by vm", "no answer from vm-1"]


def test_a_drain_has_one_target() -> None:
    assert check_target("host:vm-0", everything=False) == "host:vm-0"
    assert check_target(None, everything=True) == "all"

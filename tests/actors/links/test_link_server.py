"""The host's end of links, and gateways that speak packet by packet: in order, within bounds, when it may."""

from __future__ import annotations

import asyncio
import gzip
import logging
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.links import FakeHost, frame
from tests.raw import PATIENCE, until
from verani.link.epoch import Epoch
from verani.link.messages import (
    PROTOCOL_VERSIONS,
    Announce,
    Ask,
    Deliver,
    Drained,
    Entry,
    EntryBatch,
    GatewayMessage,
    GivenUp,
    Hello,
    HostMessage,
    HostPacket,
    InputBatch,
    Pull,
    Rebuild,
    Serving,
    Told,
    decode_hello,
    decode_host_packet,
    encode_message,
)
from verani.link.stream import CONFIRM_PACKETS, gateway_stream
from verani_actors.links import given_up, link_server, link_sessions, patience
from verani_actors.links.flow import ROOM_AHEAD, weight_of
from verani_actors.links.link_server import LinkPortError, LinkServer
from verani_actors.links.wire import MAX_MESSAGE, REFUSED, ClientSocket


class Peer:
    """A gateway, one packet at a time."""

    def __init__(self, path: str, gateway: str, incarnation: str = "g1") -> None:
        self.path = path
        self.gateway = gateway
        self.incarnation = incarnation
        self.stream = gateway_stream(0.0)
        self.heard: list[HostMessage] = []
        self._open: list[tuple[aiohttp.ClientSession, ClientSocket]] = []

    async def open(self) -> ClientSocket:
        session = aiohttp.ClientSession(connector=aiohttp.UnixConnector(self.path), ws_response_class=ClientSocket)
        ws = await session.ws_connect("http://link/link", max_msg_size=MAX_MESSAGE)
        assert isinstance(ws, ClientSocket)
        self._open.append((session, ws))
        self.ws = ws
        return ws

    async def greet(
        self,
        *,
        resumes: str = "",
        versions: tuple[int, int] = PROTOCOL_VERSIONS,
        received: int | None = None,
        wanted: str = "",
    ) -> Hello:
        await self.open()
        received = self.stream.received if received is None else received
        hello = Hello(versions, "test", self.gateway, self.incarnation, 0, (), received, resumes, wanted)
        await self.ws.send_bytes(encode_message(hello))
        return decode_hello(await self.ws.receive_bytes(timeout=PATIENCE))

    async def say(self, *messages: GatewayMessage) -> None:
        self.stream.put(list(messages), 0.0)
        await self.write()

    async def write(self) -> None:
        while (data := self.stream.next()) is not None:
            await self.ws.send_bytes(data)

    async def confirm(self) -> None:
        await self.ws.send_bytes(self.stream.confirmation())

    async def hear(self) -> HostPacket:
        """Take one packet."""
        data = await self.ws.receive_bytes(timeout=PATIENCE)
        self.heard += self.stream.take(data, 0.0)
        return decode_host_packet(data)

    async def heard_of(self, kind: type[HostMessage]) -> Any:
        """Take packets until a message of this kind was among them."""
        while not (found := [message for message in self.heard if isinstance(message, kind)]):
            await self.hear()
        self.heard.remove(found[0])
        return found[0]

    async def closed(self) -> int | None:
        """Read to the end of the connection and return its close code."""
        while (message := await self.ws.receive(timeout=PATIENCE)).type is aiohttp.WSMsgType.BINARY:
            pass
        assert message.type is not aiohttp.WSMsgType.TEXT
        return self.ws.close_code

    async def leave(self) -> None:
        while self._open:
            session, ws = self._open.pop()
            ws.response.close()
            await session.close()


class Service:
    """A link server before a host that only pretends."""

    def __init__(self, path: str, *, host: FakeHost | None = None, **options: Any) -> None:
        self.path = path
        self.host = host or FakeHost()
        self.serving = True
        self.asked: list[tuple[str, Ask]] = []
        self.told: list[tuple[str, Told]] = []
        self.peers: list[Peer] = []
        self.server = LinkServer(
            self.host,
            "m-0",
            "h1",
            **{"grace": PATIENCE, **options},
            serves=lambda: self.serving,
            ask=lambda gateway, ask: self.asked.append((gateway, ask)),
            told=lambda gateway, told: self.told.append((gateway, told)),
        )

    def peer(self, gateway: str = "g", incarnation: str = "g1") -> Peer:
        self.peers.append(Peer(self.path, gateway, incarnation))
        return self.peers[-1]

    async def linked(self, gateway: str = "g") -> Peer:
        peer = self.peer(gateway)
        await peer.greet()
        await peer.hear()
        return peer

    def counts(self) -> dict[str, int]:
        return dict(self.server.refusals.counts)


Begin = Callable[..., Any]


@pytest.fixture
async def begin(tmp_path: Path) -> AsyncIterator[Begin]:
    services: list[Service] = []

    async def begin(**options: Any) -> Service:
        services.append(Service(str(tmp_path / f"{len(services)}.sock"), **options))
        await services[-1].server.start(services[-1].path)
        return services[-1]

    yield begin
    for service in services:
        for peer in service.peers:
            await peer.leave()
        await service.server.stop()


async def test_a_link_port_in_use_is_one_sentence(tmp_path: Path) -> None:
    service = Service(str(tmp_path / "socket"))
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        port = stranger.getsockname()[1]
        with pytest.raises(LinkPortError) as raised:
            await service.server.start(service.path, ("127.0.0.1", port))
    await service.server.stop()
    assert str(raised.value) == f"cannot listen on 127.0.0.1:{port} (link_port): address already in use"


# --- greeting ------------------------------------------------------------------------------------------------


async def test_a_gateway_is_greeted_and_told_the_epoch_first(begin: Begin) -> None:
    service = await begin()
    service.server.sessions.announce(Epoch(7))
    peer = service.peer()
    hello = await peer.greet()
    assert (hello.sender, hello.incarnation, hello.epoch, hello.resumes) == ("m-0", "h1", 7, "")
    packet = await peer.hear()
    assert packet == HostPacket(1, 0, [Announce(Epoch(7))])
    assert list(service.host.gateways) == ["g"]


async def test_the_first_packet_comes_even_if_there_is_nothing_to_tell(begin: Begin) -> None:
    peer = (await begin()).peer()
    await peer.greet()
    assert await peer.hear() == HostPacket(1, 0, [])


async def test_a_gateway_is_told_how_long_the_host_serves_at_first_and_again(begin: Begin) -> None:
    left = [2.5]
    service = await begin(lease=lambda: left[0])
    peer = service.peer()
    await peer.greet()
    assert await peer.hear() == HostPacket(1, 0, [Serving(2.5)])
    left[0] = 3.0
    service.server.sessions.tell_lease()
    assert await peer.hear() == HostPacket(2, 0, [Serving(3.0)])
    # A host that does not serve says nothing, and neither is anything kept for who does not hear it.
    left[0] = 0.0
    service.server.sessions.tell_lease()
    await peer.leave()
    await until(lambda: not service.server.sessions.states()[0].connected)
    left[0] = 3.0
    unconfirmed = service.server.sessions.states()[0].unconfirmed
    service.server.sessions.tell_lease()
    await asyncio.sleep(0)
    assert service.server.sessions.states()[0].unconfirmed == unconfirmed


async def test_the_socket_is_for_its_owner_only(begin: Begin) -> None:
    service = await begin()
    assert _mode(service.path) == 0o600


def _mode(path: str) -> int:
    return Path(path).stat().st_mode & 0o777


@pytest.mark.threat(73)
@pytest.mark.parametrize("versions", [(3, 4), (1, 1)])
async def test_a_gateway_without_a_version_in_common_is_refused_and_counted(
    begin: Begin, versions: tuple[int, int], caplog: pytest.LogCaptureFixture
) -> None:
    service = await begin()
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            peer = service.peer()
            hello = await peer.greet(versions=versions)
            assert hello.versions == PROTOCOL_VERSIONS
            assert await peer.closed() == REFUSED
    assert service.counts() == {"no version in common": 3}
    assert len(caplog.records) == 1
    assert service.host.gateways == {}


@pytest.mark.threat(73)
async def test_a_gateway_that_speaks_later_versions_as_well_is_taken(begin: Begin) -> None:
    service = await begin()
    await service.peer().greet(versions=(1, 9))
    assert list(service.host.gateways) == ["g"]


async def test_a_gateway_that_means_another_process_learns_who_is_here_and_begins_nothing(begin: Begin) -> None:
    service = await begin()
    peer = service.peer()
    assert (await peer.greet(wanted="h0")).incarnation == "h1"
    assert await peer.closed() == aiohttp.WSCloseCode.OK
    assert (service.host.gateways, service.server.sessions.states()) == ({}, [])
    await peer.greet(wanted="h1")
    assert list(service.host.gateways) == ["g"]
    assert service.host.unlinked == []


@pytest.mark.parametrize("words", [b"", b"\xc1", encode_message(["hello", 1]), "hello"])
async def test_who_says_no_hello_is_refused(begin: Begin, words: bytes | str) -> None:
    service = await begin()
    peer = service.peer()
    ws = await peer.open()
    await (ws.send_str(words) if isinstance(words, str) else ws.send_bytes(words))
    assert await peer.closed() == REFUSED
    assert service.counts() == {"the first message is no hello": 1}


async def test_who_leaves_without_a_word_hurts_nobody(begin: Begin) -> None:
    service = await begin()
    silent = service.peer()
    await silent.open()
    await silent.leave()
    await service.linked()


async def test_who_says_nothing_is_refused(begin: Begin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_server, "PATIENCE", 0.01)
    service = await begin()
    peer = service.peer()
    await peer.open()
    assert await peer.closed() == REFUSED
    assert service.counts() == {"no hello came": 1}


# --- carrying ------------------------------------------------------------------------------------------------


async def test_inputs_are_handed_over_and_entries_of_a_tick_come_back_as_one_packet(begin: Begin) -> None:
    service = await begin()
    peer = await service.linked()
    await peer.say(InputBatch([frame(n) for n in range(60)]), Drained("chat/a", 1))
    packet = await peer.hear()
    (batch,) = packet.messages
    assert isinstance(batch, EntryBatch)
    assert [entry.processed for entry in batch.entries] == list(range(60))
    assert packet.confirmed == 1
    assert service.host.numbers() == list(range(60))
    assert service.host.runs == 2


async def test_what_the_host_says_on_its_own_leaves_at_the_end_of_the_tick(begin: Begin) -> None:
    service = await begin()
    peer = await service.linked()
    for number in range(50):
        service.host.gateways["g"](Pull("chat/a", number))
    service.server.sessions.send("g", Told(1, "m-0", b"{}"))
    service.server.sessions.send("unknown", Told(1, "m-0", b"{}"))
    packet = await peer.hear()
    assert packet.messages == [*(Pull("chat/a", number) for number in range(50)), Told(1, "m-0", b"{}")]


async def test_questions_and_answers_for_the_process_do_not_reach_the_rooms(begin: Begin) -> None:
    service = await begin()
    peer = await service.linked()
    await peer.say(Ask(1, "rooms"), Told(2, "g", b"{}"))
    await until(lambda: service.told)
    assert service.asked == [("g", Ask(1, "rooms"))]
    assert service.told == [("g", Told(2, "g", b"{}"))]
    assert service.host.received == []


async def test_what_is_received_is_confirmed_even_if_there_is_nothing_to_say(begin: Begin) -> None:
    service = await begin()
    service.host.answers = False
    peer = await service.linked()
    for number in range(CONFIRM_PACKETS + 1):
        await peer.say(InputBatch([frame(number)]))
    while peer.stream.unconfirmed:
        assert (await peer.hear()).number == 0
    assert peer.stream.confirmed == CONFIRM_PACKETS + 1


async def test_confirmed_waits_for_every_gateway_that_is_not_given_up(begin: Begin) -> None:
    service = await begin(grace=0.01)
    await service.server.sessions.confirmed(PATIENCE)
    one, two = await service.linked("one"), await service.linked("two")
    for gateway in ("one", "two"):
        service.server.sessions.send(gateway, Pull("chat/a", 1))
    waiting = asyncio.create_task(service.server.sessions.confirmed(PATIENCE))
    await one.hear()
    await one.confirm()
    await until(lambda: service.server.sessions.states()[0].unconfirmed == 0)
    assert not waiting.done()
    await two.leave()
    async with asyncio.timeout(PATIENCE):
        await waiting
    assert service.host.unlinked == ["two"]


async def test_a_gateway_that_confirms_nothing_is_given_up_and_holds_up_no_change(begin: Begin) -> None:
    service = await begin()
    service.host.rooms = ["chat/a"]
    one, two = await service.linked("one"), await service.linked("two")
    for gateway in ("one", "two"):
        service.server.sessions.send(gateway, Pull("chat/a", 1))
    service.serving = False
    waiting = asyncio.create_task(service.server.sessions.confirmed(0.01))
    await asyncio.wait([waiting], timeout=0.05)
    assert service.host.unlinked == [], "while nothing can be written, nobody can confirm"
    service.serving = True
    service.server.sessions.resume()
    await one.hear()
    await one.confirm()
    async with asyncio.timeout(PATIENCE):
        await waiting
    assert service.host.unlinked in (["two"], ["one", "two"], ["two", "one"])
    assert "two" in service.host.unlinked
    await two.leave()


async def test_last_words_wait_for_who_is_connected_only(begin: Begin) -> None:
    service = await begin()
    one, two = await service.linked("one"), await service.linked("two")
    await two.leave()
    await until(lambda: [state.connected for state in service.server.sessions.states()].count(False) == 1)
    for gateway in ("one", "two"):
        service.server.sessions.send(gateway, Pull("chat/a", 1))
    waiting = asyncio.create_task(service.server.sessions.said(PATIENCE))
    await one.hear()
    await one.confirm()
    await waiting
    assert service.host.unlinked == []


# --- resuming and giving up ----------------------------------------------------------------------------------


async def test_a_gateway_that_comes_back_goes_on_where_it_was(begin: Begin) -> None:
    service = await begin()
    peer = await service.linked()
    await peer.say(InputBatch([frame(1)]))
    await peer.hear()
    await peer.leave()
    await until(lambda: not service.server.sessions.states()[0].connected)
    service.host.gateways["g"](Pull("chat/a", 1))
    peer.stream.put([InputBatch([frame(2)])], 0.0)
    hello = await peer.greet(resumes="h1")
    assert (hello.resumes, hello.received) == ("h1", 1)
    peer.stream.resume(hello.received, 0.0)
    await peer.write()
    assert await peer.heard_of(Pull) == Pull("chat/a", 1)
    await until(lambda: service.host.numbers() == [1, 2])
    assert service.server.sessions.states()[0].resumed == 1
    assert service.host.unlinked == []


async def test_a_gateway_may_come_back_before_its_old_connection_is_known_to_be_broken(begin: Begin) -> None:
    service = await begin()
    first = await service.linked()
    second = service.peer()
    second.stream = first.stream
    assert (await second.greet(resumes="h1")).resumes == "h1"
    await first.closed()
    await second.say(InputBatch([frame(1)]))
    await second.heard_of(EntryBatch)
    assert service.server.sessions.states() == [
        link_sessions.LinkState("g", True, service.server.sessions.states()[0].unconfirmed, 1)
    ]


async def test_a_gateway_that_stays_away_is_given_up_and_told_so_when_it_comes_back(begin: Begin) -> None:
    service = await begin(grace=0.01)
    service.server.sessions.announce(Epoch(1))
    service.host.rooms = ["chat/a", "chat/b"]
    peer = await service.linked()
    await peer.leave()
    await until(lambda: service.host.unlinked == ["g"])
    assert service.server.sessions.states() == []
    # The first time it leaves again before it can have heard of it.
    await peer.greet(resumes="h1")
    await peer.leave()
    service.host.rooms = ["chat/c"]
    await until(lambda: service.host.unlinked == ["g", "g"])
    back = service.peer()
    assert (await back.greet(resumes="h1")).resumes == ""
    assert (await back.hear()).messages == [GivenUp(["chat/a", "chat/b", "chat/c"]), Announce(Epoch(1))]


async def test_a_gateway_is_told_of_the_rooms_of_which_it_may_not_have_heard_the_last(
    begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it sent there may be done: it must not send it again."""
    service = await begin()
    peer = await service.linked()
    say = partial(service.server.sessions.send, "g")
    say(EntryBatch([Entry("chat/known", processed=1, seq=1)]))
    await peer.hear()
    await peer.confirm()
    (session,) = service.server.sessions.by_gateway.values()
    await until(lambda: session.stream.confirmed == peer.stream.received)
    say(EntryBatch([Entry("chat/a", processed=2, seq=2), Entry("chat/b", processed=3, seq=3)]))
    await peer.hear()
    await peer.leave()
    await until(lambda: session.wire is None)
    say(EntryBatch([Entry(f"chat/{room}", outputs=[Deliver(("c",), b"")], seq=4) for room in "ac"]))
    say(EntryBatch([Entry("chat/idle", seq=6, asleep=True), Entry("unknown/a", processed=5)]))
    # What is said in the tick in which it is given up was not on its way yet.
    monkeypatch.setattr(service.host, "flush", lambda: say(EntryBatch([Entry("chat/d", processed=4, seq=7)])))
    service.host.rooms = ["chat/b"]
    service.server.sessions.give_up(session)
    back = service.peer()
    assert (await back.greet(resumes="h1")).resumes == ""
    assert await back.heard_of(GivenUp) == GivenUp(["chat/b"], unheard={"chat/a": 2, "chat/c": 0, "chat/d": 4})


async def test_a_gateway_that_says_goodbye_is_not_waited_for(begin: Begin) -> None:
    service = await begin()
    peer = await service.linked()
    await peer.ws.close()
    await until(lambda: service.host.unlinked == ["g"])
    assert service.server.sessions.states() == []


async def test_a_connection_that_this_end_closes_is_no_goodbye(begin: Begin) -> None:
    service = await begin()
    peer = await service.linked()
    await peer.ws.send_bytes(b"garbage")
    await peer.closed()
    (session,) = service.server.sessions.by_gateway.values()
    await until(lambda: session.grace is not None or session.gateway not in service.server.sessions.by_gateway)
    assert service.host.unlinked == []


async def test_a_new_process_of_a_gateway_is_told_nothing_of_the_old_one(begin: Begin) -> None:
    service = await begin()
    service.host.rooms = ["chat/a"]
    await service.linked()
    successor = service.peer(incarnation="g2")
    assert (await successor.greet()).resumes == ""
    assert service.host.unlinked == ["g"]
    assert (await successor.hear()).messages == []


async def test_only_the_last_gateways_that_were_given_up_are_remembered(
    begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(given_up, "REMEMBERED", 2)
    service = await begin(grace=0.001)
    service.host.rooms = ["chat/a"]
    for name in ("one", "two", "three"):
        await (await service.linked(name)).leave()
        await until(partial(service.host.unlinked.__contains__, name))
    told = {}
    for name in ("one", "two", "three"):
        peer = service.peer(name)
        await peer.greet()
        told[name] = (await peer.hear()).messages
    assert told == {"one": [], "two": [GivenUp(["chat/a"])], "three": [GivenUp(["chat/a"])]}


async def test_a_gateway_that_resumes_from_what_cannot_be_begins_anew(begin: Begin) -> None:
    service = await begin()
    peer = await service.linked()
    assert (await peer.greet(resumes="h1", received=99)).resumes == ""
    assert service.counts() == {"the link cannot be resumed": 1}


async def test_a_host_that_does_not_serve_gives_no_gateway_up(begin: Begin) -> None:
    service = await begin(grace=0.01)
    peer = await service.linked()
    service.serving = False
    await peer.leave()
    (session,) = service.server.sessions.by_gateway.values()
    await until(lambda: session.grace is not None)
    first = session.grace
    await until(lambda: session.grace is not first)  # the time was over, and begins again
    newcomer = service.peer()
    await newcomer.open()
    await newcomer.ws.send_bytes(encode_message(Hello(PROTOCOL_VERSIONS, "test", "g", "g1")))
    await newcomer.closed()
    assert service.host.unlinked == []
    service.serving = True
    await until(lambda: service.host.unlinked == ["g"])


async def test_a_host_that_has_lost_its_place_begins_anew_with_every_gateway(begin: Begin) -> None:
    service = await begin()
    service.host.rooms = ["chat/a"]
    peer = await service.linked()
    service.serving = False
    service.host.gateways["g"](Pull("chat/a", 1))
    service.server.sessions.forget()
    await peer.closed()
    assert service.server.sessions.states() == []
    back = service.peer()
    assert (await back.greet(resumes="h1")).resumes == ""
    service.serving = True
    service.server.sessions.resume()
    assert (await back.hear()).messages == [], "what it had to say is of no use any more"


# --- bounds --------------------------------------------------------------------------------------------------


async def test_a_gateway_that_takes_nothing_is_given_up_once_a_room_waits_for_it_and_holds_up_no_other(
    begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "LOOK", 0.01)
    service = await begin()
    await service.linked("frozen")
    reader = await service.linked("reader")
    service.server.sessions.send("frozen", Told(1, "m-0", bytes(10_000)))
    number = 0

    async def talk() -> None:
        nonlocal number
        number += 1
        await reader.say(InputBatch([frame(number)]))
        await reader.heard_of(EntryBatch)

    session = service.server.sessions.by_gateway["frozen"]
    while session.quiet < 3 * patience.LOOKS:
        await talk()
    assert service.host.unlinked == [], "nobody waits for it"
    # As much as a room may be ahead, and a little more.
    service.server.sessions.send("frozen", EntryBatch([Entry("chat/a", outputs=[Deliver(("c",), bytes(ROOM_AHEAD))])]))
    while not service.host.unlinked:
        await talk()
    assert [state.gateway for state in service.server.sessions.states()] == ["reader"]


async def test_a_gateway_that_confirms_is_never_given_up_however_much_waits_for_it(
    begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "LOOK", 3600.0)
    service = await begin()
    peer = await service.linked()
    session = service.server.sessions.by_gateway["g"]
    for number in range(30):
        service.server.sessions.send("g", Told(number, "m-0", bytes(3 << 20)))
        await asyncio.sleep(0)
    assert session.stream.unconfirmed > 80 << 20
    for number in range(30):
        for _ in range(patience.LOOKS - 1):
            assert session.look is not None
            session.look.cancel()
            service.server.sessions.patience.look_at(session)
        await peer.heard_of(Told)
        await peer.confirm()
        await until(partial(_has_confirmed, session.stream, number + 2))
    assert service.host.unlinked == []


def _has_confirmed(stream: Any, number: int) -> bool:
    return bool(stream.confirmed == number)


async def test_a_gateway_whose_records_never_come_is_given_up_though_it_takes_what_it_is_sent(
    begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "LOOK", 0.01)
    service = await begin()
    peer = await service.linked()
    service.host.waits["g"] = 1.0
    number = 0
    while not service.host.unlinked:
        number += 1
        await peer.say(InputBatch([frame(number)]))
        with suppress(TypeError):  # the end of the connection
            await peer.heard_of(EntryBatch)


async def test_what_is_put_and_confirmed_is_counted_for_its_rooms(begin: Begin) -> None:
    service = await begin()
    peer = await service.linked()
    service.host.answers = False
    entry = Entry("chat/a", outputs=[Deliver(("c",), bytes(2 * ROOM_AHEAD))])
    service.server.sessions.send("g", EntryBatch([entry]))
    await peer.heard_of(EntryBatch)
    assert service.host.flow.ahead("chat/a") == weight_of(entry)
    assert service.host.flow.is_held("chat/a")
    assert not service.host.flow.is_held("chat/b")
    await peer.confirm()
    await until(lambda: not service.host.flow.is_held("chat/a"))
    service.server.sessions.send("g", EntryBatch([entry]))
    await peer.heard_of(EntryBatch)
    await peer.leave()
    await peer.greet(resumes="h1")
    assert not service.host.flow.is_held("chat/a"), "the greeting confirms, too"


async def test_no_more_is_read_from_a_gateway_while_much_waits_that_may_not_be_handled(
    begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link_server, "MAX_INCOMING", 50_000)
    service = await begin()
    peer = await service.linked()
    service.serving = False

    async def flood() -> None:
        for number in range(1000):
            await peer.say(InputBatch([frame(number, data=bytes(10_000))]))

    flooding = asyncio.create_task(flood())
    session = service.server.sessions.by_gateway["g"]
    await until(lambda: session.incoming_bytes > 50_000)
    wire = session.wire
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.shield(flooding), 0.2)
    assert session.incoming_bytes < 70_000
    assert session.wire is wire
    service.serving = True
    service.server.sessions.resume()
    await flooding
    await until(lambda: service.host.numbers() == list(range(1000)))
    assert session.incoming_bytes == 0


async def test_a_gateway_of_which_nothing_is_read_may_come_back_over_another_connection(
    begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link_server, "MAX_INCOMING", 1)
    service = await begin()
    peer = await service.linked()
    service.serving = False
    await peer.say(InputBatch([frame(1)]))
    session = service.server.sessions.by_gateway["g"]
    await until(lambda: session.incoming_bytes > 0)
    assert (await peer.greet(resumes="h1")).resumes == "h1"
    service.serving = True
    service.server.sessions.resume()
    await until(lambda: service.host.numbers() == [1])
    await peer.say(InputBatch([frame(2)]))
    await until(lambda: service.host.numbers() == [1, 2])


# --- when it may ---------------------------------------------------------------------------------------------


async def test_while_it_does_not_serve_nothing_is_said_but_confirmations_and_nothing_handed_over(begin: Begin) -> None:
    service = await begin()
    peer = await service.linked()
    service.serving = False
    service.host.gateways["g"](Pull("chat/a", 1))
    await peer.say(InputBatch([frame(1)]))
    assert await peer.hear() == HostPacket(0, 1, [])
    assert service.host.received == []
    service.serving = True
    service.server.sessions.resume()
    assert await peer.heard_of(Pull) == Pull("chat/a", 1)
    await until(lambda: service.host.numbers() == [1])


async def test_what_was_sent_in_a_later_epoch_waits_for_its_commit_and_so_does_what_follows(begin: Begin) -> None:
    service = await begin()
    service.server.sessions.announce(Epoch(1))
    peer, other = await service.linked("peer"), await service.linked("other")
    rebuild = Rebuild("chat/b", "moved", 2)
    await peer.say(InputBatch([frame(1)], 1), rebuild, InputBatch([frame(2)], 1), Drained("chat/a", 1))
    await other.say(InputBatch([frame(1)], 1))
    await until(lambda: service.host.numbers("other") == [1])
    await until(lambda: service.host.numbers("peer") == [1])
    service.server.sessions.announce(Epoch(2))
    assert [message for gateway, message in service.host.received if gateway == "peer"][1:] == [
        rebuild,
        InputBatch([frame(2)], 1),
        Drained("chat/a", 1),
    ]
    assert await peer.heard_of(Announce) == Announce(Epoch(1))
    assert await peer.heard_of(Announce) == Announce(Epoch(2))


# --- bad input -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(b"\xc1", id="no msgpack"),
        pytest.param(encode_message([3, 0, []]), id="a gap"),
        pytest.param(encode_message(HostPacket(1, 0, [Pull("chat/a", 1)])), id="the other direction"),
        pytest.param("text", id="a text message"),
        pytest.param(bytes(MAX_MESSAGE), id="too long"),
    ],
)
async def test_what_is_no_packet_ends_that_connection_and_nothing_else(begin: Begin, words: bytes | str) -> None:
    service = await begin()
    other, bad = await service.linked("other"), await service.linked("bad")
    try:
        await (bad.ws.send_str(words) if isinstance(words, str) else bad.ws.send_bytes(words))
    except ConnectionError as error:
        error.__traceback__ = None  # aiohttp's frames in it hold the future that holds it
    await bad.closed()
    await until(lambda: service.counts() == {"what came is no packet of this link": 1})
    await other.say(InputBatch([frame(1)]))
    await other.heard_of(EntryBatch)
    assert service.host.numbers("bad") == []
    # It may go on, if it can.
    assert (await bad.greet(resumes="h1")).resumes == "h1"


async def test_a_body_that_nobody_asked_for_is_neither_read_to_its_end_nor_inflated(
    begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed: list[int] = []
    feed = aiohttp.StreamReader.feed_data

    def feed_data(self: aiohttp.StreamReader, data: bytes, size: int = 0) -> bool:
        parsed.append(len(data))
        return feed(self, data, size)

    monkeypatch.setattr(aiohttp.StreamReader, "feed_data", feed_data)
    service = await begin()
    bomb = gzip.compress(bytes(1 << 20)) * 4000
    reader, writer = await asyncio.open_unix_connection(service.path)
    head = f"POST /nowhere HTTP/1.1\r\nHost: a\r\nContent-Encoding: gzip\r\nContent-Length: {len(bomb)}\r\n\r\n"
    with suppress(ConnectionError):
        writer.write(head.encode() + bomb)
        await writer.drain()
    with suppress(ConnectionError):
        await reader.read()
    assert sum(parsed) < 1 << 20
    writer.close()


class FailingHost(FakeHost):
    """Takes the first of the inputs of a message and fails, so many times."""

    def __init__(self, failures: int) -> None:
        super().__init__()
        self.failures = failures
        self.messages: list[GatewayMessage] = []

    def receive(self, gateway: str, message: GatewayMessage) -> None:
        self.messages.append(message)
        if self.failures:
            self.failures -= 1
            raise RuntimeError("a defect")
        super().receive(gateway, message)


async def test_inputs_that_the_host_fails_on_are_tried_again_as_such_it_may_have_in_part(begin: Begin) -> None:
    service = await begin(host=FailingHost(1))
    peer = await service.linked()
    await peer.say(InputBatch([frame(1), frame(2)], 0), InputBatch([frame(3)], 0))
    await until(lambda: service.host.numbers() == [1, 2, 3])
    assert service.host.received[0] == ("g", InputBatch([frame(1), frame(2)], 0, again=True))
    assert service.server.sessions.states()[0].connected


@pytest.mark.parametrize("failures", [2, 100])
async def test_a_gateway_is_told_of_the_rooms_of_inputs_that_cannot_be_handled(begin: Begin, failures: int) -> None:
    service = await begin(host=FailingHost(failures))
    peer = await service.linked()
    await peer.say(InputBatch([frame(1), frame(2, room="chat/b")], 0), InputBatch([frame(3, room="chat/c")], 0))
    await peer.closed()
    assert service.host.unlinked == ["g"]
    assert service.host.numbers() == []
    back = service.peer()
    assert (await back.greet(resumes="h1")).resumes == ""
    assert await back.heard_of(GivenUp) == GivenUp(["chat/a", "chat/b"])


async def test_a_message_that_rooms_wait_for_and_that_fails_ends_the_session_and_a_question_does_not(
    begin: Begin, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = await begin(host=FailingHost(1))
    monkeypatch.setattr(service.server.sessions.handover, "_ask", lambda gateway, ask: 1 / 0)
    peer = await service.linked()
    await peer.say(Ask(1, "rooms"))
    await until(lambda: "ZeroDivisionError" in caplog.text)
    assert service.server.sessions.states()[0].connected
    await peer.say(Drained("chat/a", 1))
    await peer.closed()
    back = service.peer()
    await back.greet(resumes="h1")
    assert await back.heard_of(GivenUp) == GivenUp(["chat/a"])


async def test_a_gateway_that_comes_back_after_rooms_woke_without_it_is_told_so(begin: Begin) -> None:
    service = await begin(grace=0.01)
    peer = await service.linked()
    service.host.rooms = ["chat/a"]
    await peer.leave()
    await until(lambda: service.host.unlinked == ["g"])
    service.host.wakes += 1
    await peer.greet(resumes="h1")
    peer.stream = gateway_stream(0.0)
    assert await peer.heard_of(GivenUp) == GivenUp(["chat/a"], others=True)

"""The gateway's end of links against real hosts' ends, over sockets that break: nothing lost, nothing twice."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tests.actors.conftest import Recorder
from tests.links import FakeHost, Proxy, call, frame
from tests.raw import PATIENCE, until
from verani.link.epoch import Epoch, Member
from verani.link.messages import (
    PROTOCOL_VERSIONS,
    Connect,
    Drained,
    EntryBatch,
    GivenUp,
    Hello,
    HostMessage,
    InputBatch,
    Pull,
    Snapshot,
    Told,
    encode_message,
)
from verani.room.meta import ConnectionMeta
from verani.settings import Settings
from verani_actors.links.link_server import LinkServer
from verani_actors.links.tls import client_context, server_context
from verani_actors.rooms.host import RoomHost
from verani_gateway.placement import host_session, remote_link
from verani_gateway.placement.remote_link import RemoteLink


class Gateway:
    """What a gateway does with a link: it keeps what is not processed, and sends it again in a new session."""

    def __init__(self, *, id: str = "g") -> None:
        self.id = id
        self.unprocessed: dict[int, Any] = {}
        self.processed: list[int] = []
        self.heard: list[HostMessage] = []
        # What happened, by name: "opened", "resumed", or the class of a message.
        self.order: list[str] = []
        self.answer_pulls = True
        self.link: RemoteLink

    def open(self, member: Member, *, machine: str = "m", **options: Any) -> RemoteLink:
        self.link = RemoteLink(
            self.id,
            "g1",
            member,
            machine,
            receive=self._receive,
            opened=self._opened,
            **{"random": lambda: 0.0, **options},
        )
        self.link.start()
        return self.link

    def put(self, input: Any) -> None:
        self.unprocessed[input.number] = input
        self.link.put(input)

    def _opened(self, link: RemoteLink, resumed: bool) -> None:
        self.order.append("resumed" if resumed else "opened")
        if not resumed:
            for input in self.unprocessed.values():
                link.put(input)

    def _receive(self, link: RemoteLink, message: HostMessage) -> None:
        self.order.append(type(message).__name__)
        self.heard.append(message)
        if isinstance(message, EntryBatch):
            for entry in message.entries:
                if entry.processed is not None and entry.processed in self.unprocessed:
                    self.processed += [number for number in self.unprocessed if number <= entry.processed]
                    for number in [number for number in self.unprocessed if number <= entry.processed]:
                        del self.unprocessed[number]
        elif isinstance(message, Pull) and self.answer_pulls:
            link.send(Snapshot(message.room, message.incarnation, []))


class World:
    """Hosts, their link servers, proxies before them and gateways."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.serving = True
        self._closing: list[Callable[[], Any]] = []
        self._links: list[Callable[[], Any]] = []

    async def host(
        self,
        host: Any = None,
        *,
        incarnation: str = "h1",
        tcp: bool = False,
        secret: bytes = b"",
        grace: float = PATIENCE,
        **options: Any,
    ) -> tuple[LinkServer, Member]:
        server = LinkServer(
            host or FakeHost(),
            "m-0",
            incarnation,
            grace=grace,
            serves=lambda: self.serving,
            ask=lambda gateway, ask: None,
            told=lambda gateway, told: None,
            **options,
        )
        path = str(self.folder / f"{incarnation}.sock")
        context = server_context(Settings(), secret, refusals=server.refusals) if secret else None
        await server.start(path, ("127.0.0.1", 0) if tcp else None, context)
        self._closing.append(server.stop)
        url = f"{'wss' if secret else 'ws'}://127.0.0.1:{server.port}" if tcp else ""
        return server, Member("m-0", incarnation, "other" if tcp else "m", 1, path, url)

    async def proxy(self, member: Member) -> tuple[Proxy, Member]:
        proxy = Proxy(member.path + ".proxy", member.path)
        await proxy.start()
        self._closing.append(proxy.stop)
        return proxy, Member(member.id, member.incarnation, member.machine, 1, proxy.path)

    async def pretended_host(self, hello: Hello, *words: str | bytes) -> tuple[list[bytes], Member]:
        """Start a host that says this and no more; returns the hellos that it hears."""
        hellos: list[bytes] = []

        async def serve(request: web.Request) -> web.StreamResponse:
            ws = web.WebSocketResponse(timeout=1.0)
            try:
                await ws.prepare(request)
            except ConnectionError:
                return web.Response(status=503)  # the gateway has gone meanwhile
            with suppress(ConnectionError, TypeError):
                hellos.append(await ws.receive_bytes())
                await ws.send_bytes(encode_message(hello))
                for each in words:
                    await (ws.send_str(each) if isinstance(each, str) else ws.send_bytes(each))
                await ws.receive()
            return ws

        app = web.Application()
        app.router.add_get("/link", serve)
        runner = web.AppRunner(app, shutdown_timeout=1.0)
        await runner.setup()
        self._closing.append(runner.cleanup)
        path = str(self.folder / "pretended.sock")
        await web.UnixSite(runner, path).start()
        return hellos, Member("m-0", hello.incarnation, "m", 1, path)

    def gateway(self, **options: Any) -> Gateway:
        gateway = Gateway(**options)
        self._links.append(lambda: gateway.link.close())
        return gateway

    async def end(self) -> None:
        # Links first: who comes again in the very moment that a server stops may be accepted and never served.
        for close in (*self._links, *reversed(self._closing)):
            await close()


def _put_in_place_of(path: str, successor: str) -> None:
    Path(path).unlink(missing_ok=True)
    Path(path).symlink_to(successor)


@pytest.fixture
async def world(tmp_path: Path, clean_log: list[str]) -> AsyncIterator[World]:
    world = World(tmp_path)
    yield world
    await world.end()


# --- a session -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tcp", "secret", "compression"),
    [(False, b"", False), (True, b"", False), (True, b"a secret", False), (True, b"a secret", True)],
    ids=["unix", "tcp", "tls", "compressed"],
)
async def test_inputs_of_a_tick_leave_together_and_what_is_sent_follows_them(
    world: World, tcp: bool, secret: bytes, compression: bool
) -> None:
    host = FakeHost(size=50_000)
    _, member = await world.host(host, tcp=tcp, secret=secret, compression=compression)
    gateway = world.gateway()
    context = client_context(Settings(), secret) if secret else None
    link = gateway.open(member, ssl=context, compression=compression)
    states: list[str] = [link.state]
    await until(lambda: gateway.order == ["opened"])
    states.append(link.state)
    assert states == ["connecting", "linked"]
    for number in range(60):
        gateway.put(frame(number))
    link.send(Drained("chat/a", 1))
    gateway.put(frame(60))
    await until(lambda: not gateway.unprocessed)
    assert [message for _, message in host.received] == [
        InputBatch([frame(number) for number in range(60)]),
        Drained("chat/a", 1),
        InputBatch([frame(60)]),
    ]
    assert gateway.order == ["opened", "EntryBatch"] or gateway.order == ["opened", "EntryBatch", "EntryBatch"]
    await until(lambda: link.unconfirmed == 0)


async def test_a_host_of_another_secret_is_not_linked_to(world: World) -> None:
    server, member = await world.host(tcp=True, secret=b"a secret")
    gateway = world.gateway()
    link = gateway.open(member, ssl=client_context(Settings(), b"another secret"))
    await until(lambda: link.refusals.counts["the TLS handshake failed"] > 1)
    assert server.sessions.states() == []


async def test_inputs_keep_the_epoch_in_which_they_were_put(world: World) -> None:
    host = FakeHost()
    server, member = await world.host(host)
    server.sessions.announce(Epoch(3))
    gateway = world.gateway()
    link = gateway.open(member)
    await until(lambda: "opened" in gateway.order)
    link.epoch = 2
    gateway.put(frame(1))
    link.epoch = 3
    gateway.put(frame(2))
    await until(lambda: not gateway.unprocessed)
    assert [message for _, message in host.received] == [InputBatch([frame(1)], 2), InputBatch([frame(2)], 3)]


async def test_what_is_put_before_a_session_is_not_sent_and_the_gateway_is_asked_for_it(world: World) -> None:
    host = FakeHost()
    _, member = await world.host(host)
    gateway = world.gateway()
    gateway.open(member)
    gateway.put(frame(1))
    gateway.link.send(Drained("chat/a", 1))
    await until(lambda: not gateway.unprocessed)
    assert [message for _, message in host.received] == [InputBatch([frame(1)])]


async def test_a_link_waits_for_a_host_that_is_not_there_yet(world: World) -> None:
    gateway = world.gateway()
    link = gateway.open(Member("m-0", "h1", "m", 1, str(world.folder / "h1.sock")))
    await until(lambda: link._task is not None)
    await world.host()
    await until(lambda: gateway.order == ["opened"])


async def test_lost_rooms_come_before_the_session_opens_and_the_epoch_after(world: World) -> None:
    host = FakeHost()
    host.rooms = ["chat/a"]
    server, member = await world.host(host, grace=0.01)
    server.sessions.announce(Epoch(1))
    proxy, through = await world.proxy(member)
    gateway = world.gateway()
    gateway.open(through)
    await until(lambda: gateway.order == ["opened", "Announce"])
    proxy.freeze()
    proxy.cut()
    await until(lambda: host.unlinked)
    proxy.thaw()
    proxy.cut()
    await until(lambda: len(gateway.order) == 5)
    assert gateway.order[2:] == ["GivenUp", "opened", "Announce"]
    assert gateway.heard[1] == GivenUp(["chat/a"])


# --- broken connections --------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
async def test_cuts_at_any_moment_lose_and_double_nothing(world: World, seed: int) -> None:
    dice = random.Random(seed)
    host = FakeHost(size=200)
    server, member = await world.host(host)
    proxy, through = await world.proxy(member)
    gateway = world.gateway()
    link = gateway.open(through)
    await until(lambda: "opened" in gateway.order)
    for number in range(1, 5001):
        gateway.put(frame(number))
        if dice.random() < 0.02:
            proxy.fuse = dice.randrange(1, 20_000)
        if dice.random() < 0.01:
            proxy.cut()
        if dice.random() < 0.05:
            await asyncio.sleep(0)
        if dice.random() < 0.02:
            await asyncio.sleep(0.001)
    proxy.fuse = None
    await until(lambda: not gateway.unprocessed)
    assert host.numbers() == list(range(1, 5001))
    entries = [
        entry.processed for message in gateway.heard if isinstance(message, EntryBatch) for entry in message.entries
    ]
    assert entries == list(range(1, 5001))
    assert gateway.order.count("opened") == 1
    assert proxy.connections > 10
    assert gateway.order.count("resumed") == link.resumed > 5
    assert host.unlinked == []
    await until(lambda: link.unconfirmed == 0 and server.sessions.states()[0].unconfirmed == 0)


async def test_what_is_put_while_the_connection_is_broken_is_sent_when_it_is_back(world: World) -> None:
    host = FakeHost()
    _, member = await world.host(host)
    proxy, through = await world.proxy(member)
    gateway = world.gateway()
    link = gateway.open(through)
    await until(lambda: gateway.order == ["opened"])
    proxy.freeze()
    proxy.cut()
    await until(lambda: link.state == "broken")
    for number in range(1, 101):
        gateway.put(frame(number))
        await asyncio.sleep(0)
    assert link.unconfirmed > 0
    assert host.numbers() == []
    proxy.thaw()
    proxy.cut()
    await until(lambda: not gateway.unprocessed)
    assert host.numbers() == list(range(1, 101))
    assert gateway.order[:2] == ["opened", "resumed"]


async def test_a_new_session_after_the_grace_sends_again_what_the_gateway_says_and_nothing_else(world: World) -> None:
    host = FakeHost(answers=False)
    _, member = await world.host(host, grace=0.01)
    proxy, through = await world.proxy(member)
    gateway = world.gateway()
    link = gateway.open(through)
    await until(lambda: gateway.order == ["opened"])
    proxy.freeze()
    proxy.cut()
    await until(lambda: host.unlinked)
    link.send(Drained("chat/a", 1))
    gateway.put(frame(1))
    gateway.put(frame(2))
    await asyncio.sleep(0)
    del gateway.unprocessed[1]
    proxy.thaw()
    proxy.cut()
    await until(lambda: host.numbers() == [2])
    assert [message for _, message in host.received] == [InputBatch([frame(2)])]


async def test_another_process_at_the_same_place_is_not_taken_for_the_member(world: World) -> None:
    first, member = await world.host()
    gateway = world.gateway()
    link = gateway.open(member)
    await until(lambda: gateway.order == ["opened"])
    await first.stop()
    await until(lambda: link.state == "broken")
    host = FakeHost()
    _, other = await world.host(host, incarnation="h2")
    _put_in_place_of(member.path, other.path)
    gateway.put(frame(1))
    successor = world.gateway(id="g2")
    successor.open(other)
    await until(lambda: successor.order == ["opened"])
    assert gateway.order == ["opened"]
    assert host.numbers("g") == []


async def test_a_host_that_does_not_serve_says_nothing_until_it_does(world: World) -> None:
    server, member = await world.host()
    world.serving = False
    gateway = world.gateway()
    gateway.open(member)
    await until(lambda: server.sessions.states() and server.sessions.states()[0].connected)
    assert gateway.order == []
    world.serving = True
    server.sessions.resume()
    await until(lambda: gateway.order == ["opened"])


@pytest.mark.parametrize("words", ["text", b"\xc1", b""])
async def test_a_host_that_says_garbage_breaks_the_connection_and_is_asked_again(
    world: World, words: str | bytes
) -> None:
    hellos, member = await world.pretended_host(Hello(PROTOCOL_VERSIONS, "", "m-0", "h1"), words)
    gateway = world.gateway()
    gateway.open(member)
    await until(lambda: len(hellos) > 3)
    assert gateway.order == []


@pytest.mark.threat(73)
async def test_a_host_of_another_version_is_noted_once_and_asked_again(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    hellos, member = await world.pretended_host(Hello((7, 9), "", "m-0", "h1"))
    gateway = world.gateway()
    link = gateway.open(member)
    await until(lambda: len(hellos) > 2)
    assert gateway.order == []
    assert link.refusals.counts["no version in common"] > 1
    assert caplog.text.count("no version in common (m-0 speaks 7 to 9, this gateway 2 to 2)") == 1


def test_the_delay_grows_with_full_jitter_up_to_its_longest() -> None:
    delays = [remote_link.delay_after(breaks, 1.0) for breaks in (0, 1, 2, 3, 4, 50, 10_000)]
    assert delays == [0.0, 0.0, 0.02, 0.04, 0.08, 1.0, 1.0]
    assert remote_link.delay_after(4, 0.25) == 0.02


# --- bounds --------------------------------------------------------------------------------------------------


async def test_a_link_that_takes_nothing_is_connected_again_and_goes_on(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("verani.link.stream.MAX_STALLED", 1 << 20)
    monkeypatch.setattr("verani.link.stream.STALLED_AFTER", 0.05)
    monkeypatch.setattr(host_session, "MAX_STALLED", 1 << 20)
    monkeypatch.setattr(host_session, "STALLED_AFTER", 0.05)
    host = FakeHost()
    _, member = await world.host(host)
    proxy, through = await world.proxy(member)
    gateway = world.gateway()
    link = gateway.open(through)
    await until(lambda: gateway.order == ["opened"])
    proxy.freeze()
    for number in range(1, 31):
        gateway.put(call(number, 100_000))
        await asyncio.sleep(0)
    await until(lambda: proxy.connections > 1)
    proxy.thaw()
    proxy.cut()
    await until(lambda: not gateway.unprocessed)
    assert host.numbers() == list(range(1, 31))
    assert gateway.order.count("opened") == 1
    await until(lambda: link.unconfirmed == 0)


async def test_a_frozen_gateway_does_not_hold_up_another(world: World) -> None:
    host = FakeHost(size=1000)
    server, member = await world.host(host)
    proxy, through = await world.proxy(member)
    frozen, other = world.gateway(id="frozen"), world.gateway(id="other")
    frozen.open(through)
    other.open(member)
    await until(lambda: frozen.order == other.order == ["opened"])
    proxy.freeze()
    for number in range(1, 6):
        server.sessions.send("frozen", Told(number, "m-0", bytes(1 << 20)))
    for number in range(1, 1001):
        other.put(frame(number))
        await asyncio.sleep(0)
    await until(lambda: not other.unprocessed)
    assert host.numbers("other") == list(range(1, 1001))
    assert [m for m in frozen.heard if isinstance(m, Told)] == []
    proxy.thaw()
    await until(lambda: len([m for m in frozen.heard if isinstance(m, Told)]) == 5)


async def test_large_and_many_messages_arrive_whole_and_in_order(world: World) -> None:
    host = FakeHost()
    _, member = await world.host(host)
    gateway = world.gateway()
    link = gateway.open(member)
    await until(lambda: gateway.order == ["opened"])
    for number in range(1, 21):
        gateway.put(call(number, 1 << 20))
    await until(lambda: not gateway.unprocessed)
    assert host.numbers() == list(range(1, 21))
    await until(lambda: link.unconfirmed == 0)


# --- closing -------------------------------------------------------------------------------------------------


async def test_a_closed_link_hears_nothing_more_and_comes_back_never(world: World) -> None:
    server, member = await world.host()
    gateway = world.gateway()
    link = gateway.open(member)
    await until(lambda: gateway.order == ["opened"])
    server.sessions.send("g", Pull("chat/a", 1))
    link.close_now()
    gateway.put(frame(1))
    await link.close()
    assert gateway.order == ["opened"]
    await until(lambda: not server.sessions.states()[0].connected)


async def test_a_link_that_is_closed_from_within_what_it_hears_stops_at_once(world: World) -> None:
    server, member = await world.host()
    gateway = world.gateway()
    link = gateway.open(member)
    await until(lambda: gateway.order == ["opened"])
    receive = link._receive

    def leave(link: RemoteLink, message: HostMessage) -> None:
        receive(link, message)
        link.close_now()

    link._receive = leave
    server.sessions.send("g", Pull("chat/a", 1))
    server.sessions.send("g", Pull("chat/b", 1))
    await until(lambda: link._task is not None and link._task.done())
    assert gateway.heard == [Pull("chat/a", 1)]


async def test_what_was_put_before_an_orderly_close_still_arrives(world: World) -> None:
    host = FakeHost()
    _, member = await world.host(host)
    gateway = world.gateway()
    link = gateway.open(member)
    await until(lambda: gateway.order == ["opened"])
    gateway.put(frame(1))
    await link.close()
    await until(lambda: host.numbers() == [1])


async def test_a_message_that_the_gateway_fails_on_ends_the_session_and_all_is_sent_again(
    world: World, clean_log: list[str]
) -> None:
    clean_log.append("link begun anew: a message was not handled")
    host = FakeHost(answers=False)
    host.rooms = ["chat/a"]
    server, member = await world.host(host)
    gateway = world.gateway()
    link = gateway.open(member)
    await until(lambda: gateway.order == ["opened"])
    gateway.put(frame(1))
    await until(lambda: host.numbers() == [1])
    receive, failures = link._receive, iter((True,))

    def fail(link: RemoteLink, message: HostMessage) -> None:
        receive(link, message)
        if next(failures, False):
            raise RuntimeError("a defect")

    link._receive = fail
    server.sessions.send("g", Pull("chat/a", 1))
    server.sessions.send("g", Pull("chat/b", 1))
    await until(lambda: gateway.order == ["opened", "Pull", "GivenUp", "opened"])
    await until(lambda: host.numbers() == [1, 1])
    assert (host.unlinked, link.state) == (["g"], "linked")


# --- with rooms ----------------------------------------------------------------------------------------------


async def test_rooms_behind_a_link_that_breaks_handle_every_frame_once_and_in_order(world: World) -> None:
    recorder = Recorder()
    host = RoomHost([recorder.room], Settings())
    await host.start()
    world._closing.append(lambda: host.stop(1.0))
    _, member = await world.host(host)
    proxy, through = await world.proxy(member)
    gateway = world.gateway()
    gateway.open(through)
    await until(lambda: "opened" in gateway.order)
    attachment = recorder.room.codec(16384).encode(ConnectionMeta(user_id="u", client_id="c"))
    gateway.put(Connect("chat/a", 1, "c", attachment))
    dice = random.Random(5)
    for number in range(2, 2002):
        gateway.put(frame(number, data=str(number).encode()))
        if dice.random() < 0.02:
            proxy.fuse = dice.randrange(1, 10_000)
        if dice.random() < 0.05:
            await asyncio.sleep(0)
    await until(lambda: not gateway.unprocessed)
    assert recorder.numbers == list(range(2, 2002))
    assert proxy.connections > 3

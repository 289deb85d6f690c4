"""Hosts, links and gateways of a service in one process, without sockets: links can be cut, hosts killed."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from msgspec import Raw

from tests.raw import until
from verani import define_room
from verani.frames import ScannedFrame
from verani.link.epoch import Death, Epoch, Member
from verani.link.messages import (
    Arrival,
    GatewayMessage,
    GatewayPacket,
    GivenUp,
    HostMessage,
    HostPacket,
    InputBatch,
    Rebuild,
    decode_gateway_packet,
    decode_host_packet,
    encode_message,
)
from verani.room.definition import RoomDefinition
from verani.room.meta import ConnectionMeta
from verani.settings import Settings
from verani_actors.links.flow import Flow
from verani_actors.membership.share import Share
from verani_actors.rooms.host import RoomHost
from verani_gateway.connections.in_flight import InFlight
from verani_gateway.connections.read_gate import ReadGate
from verani_gateway.gateway import Gateway
from verani_gateway.placement.hosts import Cluster
from verani_gateway.placement.link import Link, LinkState
from verani_gateway.placement.placement import GatewaySide

if TYPE_CHECKING:
    from verani_gateway.connections.close_handshake import CloseHandshake
    from verani_gateway.connections.connection import Connection
    from verani_gateway.connections.intake import Intake
    from verani_gateway.connections.outbox import Outbox

Room = RoomDefinition[Any, Any]


class Process:
    """A room host as if it were a process: once it is killed, nothing that its rooms do is seen any more."""

    def __init__(self, id: str, incarnation: str, room: Room, settings: Settings) -> None:
        self.member = Member(id, incarnation, "m", 0, "")
        self.share = Share(incarnation)
        self.host = RoomHost([room], settings, ownership=self.share)
        self.links: list[Cable] = []
        self.alive = True

    def commit(self, epoch: Epoch) -> None:
        """Do what a host does when the registrar says so."""
        if self.alive and self.share.commit(epoch):
            self.host.moving.abandon()
            for link in self.links:
                link.pump()


class Cable:
    """A link without a network, whose messages travel as bytes; the test holds both ends."""

    def __init__(
        self,
        process: Process,
        gateway: GatewaySide,
        receive: Callable[[Link, HostMessage], None],
        opened: Callable[[Link, bool], None],
    ) -> None:
        self.member = process.member
        self.epoch = 0
        self.closed = False
        self.said: list[GatewayMessage] = []
        self._process = process
        self._gateway = gateway
        self._receive = receive
        self._opened = opened
        self._begun = False
        self._whole = True
        self._inputs: list[Arrival] = []
        self._there: deque[bytes] = deque()
        self._back: deque[bytes] = deque()
        self._handle: asyncio.Handle | None = None

    # --- what the gateway does ---

    @property
    def state(self) -> LinkState:
        if not self._begun:
            return "connecting"
        return "linked" if self._whole else "broken"

    @property
    def unconfirmed(self) -> int:
        return sum(map(len, self._there))

    def put(self, arrival: Arrival) -> None:
        if self._begun:
            # The epoch of each counts, whenever the batch leaves.
            self.say(InputBatch([arrival], self.epoch))

    def send(self, message: GatewayMessage) -> None:
        if self._begun:
            self.say(message)

    def say(self, message: GatewayMessage) -> None:
        assert not self.closed
        self._there.append(encode_message(GatewayPacket(1, 0, [message])))
        self._soon()

    def start(self) -> None:
        self._process.links.append(self)
        self._soon()

    def close_now(self) -> None:
        self.closed = True
        if self in self._process.links:
            self._process.links.remove(self)
        if self._process.alive and self._begun:
            self._process.host.unlink(self._gateway.id)

    async def close(self) -> None:
        if not self.closed:
            self.pump()
            self.close_now()

    # --- what the test does ---

    def cut(self) -> None:
        self._whole = False

    def mend(self) -> None:
        """Have the session go on."""
        self._whole = True
        self._opened(self, True)
        self._soon()

    def lose(self) -> None:
        """Have the host give the gateway up, as if it had not been heard for long; a new session begins."""
        self._there.clear()
        self._begun = False
        lost = self.give_up()
        self._whole = True
        self._begin([lost])

    def give_up(self) -> GivenUp:
        """Have the host give the gateway up, and say what that has lost."""
        host, flow = self._process.host, Flow()
        host.flush()
        flow.sent("", 1, [each for data in self._back for each in decode_host_packet(data).messages])
        self._back.clear()
        rooms = host.unlink(self._gateway.id)
        return GivenUp(rooms, unheard={room: n for room, n in flow.unheard("").items() if room not in rooms})

    # --- the network ---

    def _soon(self) -> None:
        if self._handle is None:
            self._handle = asyncio.get_running_loop().call_soon(self.pump)

    def _begin(self, first: list[HostMessage]) -> None:
        for message in first:
            self._receive(self, message)
        self._begun = True
        self._opened(self, False)
        self._process.host.link(self._gateway.id, self._answer)

    def _answer(self, message: HostMessage) -> None:
        if self._process.alive and not self.closed:
            self._back.append(encode_message(HostPacket(1, 0, [message])))
            self._soon()

    def pump(self) -> None:
        """Carry what waits, unless an end is gone or the host has to learn of an epoch first."""
        self._handle = None
        process = self._process
        if self.closed or not self._whole or not process.alive:
            return
        if not self._begun:
            self._begin([])
        while self._there:
            (message,) = decode_gateway_packet(self._there[0]).messages
            if isinstance(message, InputBatch | Rebuild) and message.epoch > process.share.epoch:
                break
            self._there.popleft()
            self.said.append(message)
            process.host.receive(self._gateway.id, message)
        process.host.run()
        while self._back and self._whole and not self.closed:
            (answer,) = decode_host_packet(self._back.popleft()).messages
            self._receive(self, answer)


class Guest:
    """A connection without a socket: all that a gateway needs of one."""

    unsent = 0
    deflates_from = None
    is_sent = False

    def __init__(self, gateway: Gateway, definition: Room, room: str, user: str = "ada") -> None:
        self.id = gateway.open_connections.next_id()
        self.room = room
        self.client_id = self.id
        self.heard: list[Any] = []
        self.acks: dict[int, Any] = {}
        self.kicked: list[tuple[int, str]] = []
        self.outbox = cast("Outbox", self)
        self.closing = cast("CloseHandshake", self)
        facilities = gateway.facilities
        self.gate = ReadGate(cast("Intake", self))
        self.in_flight = InFlight(room, facilities.ingress.congestion, self.closing, facilities.now)
        self._gateway = gateway
        meta = ConnectionMeta(user_id=user, client_id=self.id)
        gateway.connected(cast("Connection", self), definition.codec(16384).encode(meta))

    def send(self, event: str, data: Any = None, *, request: int | None = None) -> None:
        ingress = self._gateway.ingress
        frame = ScannedFrame(event, Raw(json.dumps(data).encode()), None, request)
        self.in_flight.charge(ingress.frame(self.room, self.id, frame))

    def look(self) -> None:
        """Have nothing to read."""

    def leave(self) -> None:
        self.close(1012, "service restart")

    def go(self) -> None:
        self._gateway.disconnected(cast("Connection", self), 1000, "")

    def put(self, data: bytes) -> None:
        while data:
            start, size = 2, data[1]
            if size == 126:
                start, size = 4, int.from_bytes(data[2:4], "big")
            frame = json.loads(data[start : start + size])
            if frame["type"] == "ack":
                assert frame["id"] not in self.acks, "a request is answered once"
                self.acks[frame["id"]] = frame
            else:
                self.heard.append(frame["data"]["value"])
            data = data[start + size :]

    def close(self, code: int, reason: str = "") -> None:
        self.kicked.append((code, reason))

    def tick(self, now: float) -> None: ...

    def hang_up(self) -> None:
        self.go()

    def abort(self) -> None: ...


class Service:
    """Gateways and hosts of one room definition, and the registrar's part."""

    def __init__(self, room: Room, settings: Settings) -> None:
        self.room = room
        self.settings = settings
        self.epoch = Epoch()
        self.processes: dict[str, Process] = {}
        self.gone: list[Process] = []
        self.gateways: list[Gateway] = []
        self.cables: dict[tuple[str, str], Cable] = {}
        self._incarnations = itertools.count(1)

    async def join(self, *ids: str) -> None:
        """Start hosts, without an epoch that has them."""
        for id in ids:
            process = Process(id, f"i{next(self._incarnations)}", self.room, self.settings)
            self.processes[id] = process
            await process.host.start()

    async def gateway(self) -> Gateway:
        """Start a gateway that knows of no epoch."""
        gateway = Gateway([self.room], self.settings, placement=Cluster(self._cable))
        await gateway.start()
        self.gateways.append(gateway)
        return gateway

    def _cable(self, gateway: GatewaySide, member: Member, receive: Any, opened: Any) -> Link:
        cable = Cable(self.processes[member.id], gateway, receive, opened)
        assert cable.member == member
        self.cables[gateway.id, member.incarnation] = cable
        return cable

    def cable(self, gateway: Gateway, id: str) -> Cable:
        return self.cables[gateway.id, self.processes[id].member.incarnation]

    def next(self, *deaths: Death, skip: int = 0) -> Epoch:
        """Make the epoch with the hosts there are now."""
        members = tuple(process.member for process in self.processes.values())
        self.epoch = Epoch(self.epoch.number + 1 + skip, "m", members, deaths)
        return self.epoch

    def publish(self, *deaths: Death, skip: int = 0) -> None:
        """Commit it everywhere."""
        epoch = self.next(*deaths, skip=skip)
        for process in self.processes.values():
            process.commit(epoch)
        for gateway in self.gateways:
            cluster(gateway).commit(epoch)

    async def move(self) -> None:
        """Publish a planned change."""
        epoch = self.next()
        for process in self.processes.values():
            process.share.prepare(epoch)
        for process in self.processes.values():
            await process.host.moving.release(1.0)
        await asyncio.sleep(0)  # entries are with the gateways before
        for process in self.processes.values():
            for cable in process.links:
                cable.pump()
        for process in self.processes.values():
            process.commit(epoch)
        for gateway in self.gateways:
            cluster(gateway).commit(epoch)

    def kill(self, id: str) -> Process:
        process = self.processes.pop(id)
        process.alive = False
        self.gone.append(process)
        return process

    def owner(self, room: str) -> Process:
        member = self.epoch.owner(room)
        assert member is not None
        return self.processes[member.id]

    async def end(self) -> None:
        for gateway in self.gateways:
            await gateway.stop()
        for process in (*self.processes.values(), *self.gone):
            await process.host.stop(0.0 if not process.alive else 1.0)


def cluster(gateway: Gateway) -> Cluster:
    assert isinstance(gateway.placement, Cluster)
    return gateway.placement


class Diary:
    """A room that writes down what happens to it in all hosts, and can be held up."""

    def __init__(self) -> None:
        self.seen: list[Any] = []
        self.gate = asyncio.Event()
        # What happens while `on_connect` runs.
        self.meanwhile: Callable[[], None] = lambda: None
        self.room: Room = define_room("chat", hibernate_after=None)
        room = self.room

        @room.on_connect
        def connected(ctx: Any) -> None:
            self.seen.append(("connect", ctx.meta.user_id))
            self.meanwhile()

        @room.on_disconnect
        def disconnected(ctx: Any) -> None:
            self.seen.append(("disconnect", ctx.meta.user_id))

        @room.on_hibernation_restore
        def restored(actor: Any) -> None:
            self.seen.append(("restore", actor.get_session_count(), actor.wake_reason))

        @room.on_error
        def failed(error: Any, ctx: Any) -> None:
            self.seen.append(("error", type(error), ctx.frame.data if ctx.frame else None))

        @room.on("say")
        def say(ctx: Any, data: Any) -> str:
            self.seen.append(data)
            ctx.emit("said", data)
            return "done"

        @room.on("tell")
        def tell(ctx: Any, data: Any) -> None:
            ctx.actor.emit("told", data)

        @room.on("tell later")
        async def tell_later(ctx: Any, data: Any) -> None:
            self.seen.append(("waits", data))
            await self.gate.wait()
            ctx.actor.emit("told", data)

        @room.on("wait")
        async def wait(ctx: Any, data: Any) -> None:
            self.seen.append(("waits", data))
            await self.gate.wait()
            ctx.emit("said", data)

        @room.on("begin")
        async def begin(ctx: Any, data: Any) -> None:
            self.seen.append(("begins", data))
            ctx.emit("begun", data)
            await self.gate.wait()

        @room.rpc
        async def stay(actor: Any) -> None:
            self.seen.append("stays")
            await self.gate.wait()

        @room.rpc
        def count(actor: Any) -> int:
            return int(actor.get_session_count())

    def let_new_ones_pass(self) -> None:
        """Hold up those that wait for ever, and nobody from now on."""
        self.gate = asyncio.Event()
        self.gate.set()


def drowsy(service: Service, diary: Diary) -> None:
    """Have rooms sleep as soon as there is nothing to do, in what is started from now on."""
    diary.room.hibernate_after = 0.01
    service.settings = Settings(rate_limit=0.0, drain_seconds=1.0, min_awake=0.001)


async def started(service: Service, *ids: str) -> Gateway:
    """Start these hosts and one gateway, and wait until it takes connections."""
    await service.join(*ids)
    gateway = await service.gateway()
    service.publish()
    await until(lambda: gateway.accepting)
    return gateway


async def together(service: Service, diary: Diary) -> tuple[Guest, Guest, Cable]:
    """Put two guests, each at a gateway of its own, in one room at the only host; the cable is that of the second."""
    first = await started(service, "m-0")
    second = await service.gateway()
    service.publish()
    await until(lambda: second.accepting)
    guests = [Guest(gateway, diary.room, "chat/a", user) for gateway, user in ((first, "ada"), (second, "bob"))]
    await until(lambda: len(diary.seen) == 2)
    return guests[0], guests[1], service.cable(second, "m-0")

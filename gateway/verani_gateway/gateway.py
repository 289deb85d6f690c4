"""Tie a gateway together: its connections, its attachments, and the placement that leads to the room hosts.

The only place that knows all three. Handshakes are the end point's, sockets the connections', rooms the hosts', and
which host has which room is the placement's.

Invariants:
- Every input is kept in the attachments before it goes to a host, and until an entry acknowledges it.
- An entry is applied whole, within one call: outputs, attachments and acknowledgement become visible together.
- Unprocessed inputs of a room and of the whole gateway are bounded: connections wait before they read on.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import secrets
import time
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import islice
from typing import Any, TypeVar

from aiohttp.web import AbstractResource

from verani.errors import Interrupted
from verani.frames import error_ack_frame
from verani.link.messages import (
    Call,
    Cast,
    Close,
    Connect,
    Deliver,
    Drain,
    Drained,
    Entry,
    Frame,
    GatewayMessage,
    Input,
    Invalid,
    Kick,
    Outcome,
    Output,
    Reply,
)
from verani.room.definition import RoomDefinition
from verani.room.stub import RoomStub
from verani.settings import Settings
from verani_actors.rooms.host import RoomHost
from verani_actors.rooms.life import RoomStatus

from .calls import Calls
from .connections.connection import RESTART, Connection
from .connections.descriptors import Descriptors
from .connections.outbox import Outbox, Run, Writer, text_frame
from .connections.rate import Meter, SharedBuckets, TokenBucket, Turns
from .connections.refusal_log import Refusals
from .http.access import Client, public_host_allowed
from .inputs.attachments import Attachments, RoomInputs
from .inputs.metrics import Metrics
from .placement.placement import Embedded, Placement

__all__ = ["MAX_GATEWAY_IN_FLIGHT", "MAX_ROOM_IN_FLIGHT", "Gateway"]

logger = logging.getLogger(__name__)

# Bytes of unprocessed inputs above which the sockets of a room, or of the gateway, are not read.
MAX_ROOM_IN_FLIGHT = 4 << 20
MAX_GATEWAY_IN_FLIGHT = 64 << 20

# A drain closes this many connections at once, and pauses this long, so that they do not all come back at once.
_DRAIN_BATCH = 200
_DRAIN_PAUSE = 0.05

# What a drain gives hooks to answer, at most for each batch, and how often it looks, in seconds.
_ANSWER_GRACE = 1.0
_ANSWER_LOOK = 0.005

_TICK = 1.0

# Connections that are ticked in one go: a fraction of a millisecond.
_TICK_SLICE = 256

# What rooms get to fall asleep when the drain has used up its time.
_LAST_GRACE = 1.0

_Key = TypeVar("_Key", bound=Hashable)

# How often a socket is looked at that a hook waits to drain; asyncio tells nobody when a transport runs empty
# but its protocol, which is aiohttp's.
_DRAIN_LOOK = 0.05


class Gateway:
    """All connections of one process; `placement` says where their rooms live, by default in this very process."""

    def __init__(
        self,
        definitions: Sequence[RoomDefinition[Any, Any]],
        settings: Settings | None = None,
        *,
        placement: Placement | None = None,
    ) -> None:
        self.definitions = tuple(definitions)
        # Where each is mounted, by its name; the path is known when all sub-applications are.
        self.resources: dict[str, AbstractResource] = {}
        self.settings = settings if settings is not None else Settings()
        self._settings_given = settings is not None
        # Seconds of the loop's clock, once it is known.
        self.now: Callable[[], float] = time.monotonic
        self.id = secrets.token_hex(4)
        self.incarnation = secrets.token_hex(8)
        self.placement: Placement = placement if placement is not None else Embedded()
        self.accepting = False
        self.metrics = Metrics()
        self.descriptors = Descriptors()
        self.refusals = Refusals(time.monotonic)
        # The hosts that the public listener listens on, where it is known here.
        self.bound: tuple[str, ...] = ()
        self.connections: dict[str, Connection] = {}
        self._outboxes: dict[str, Outbox] = {}
        # The broadcasts of one entry that are being joined.
        self._run: Run | None = None
        self._attachments = Attachments()
        self.calls = Calls(self, self.definitions)
        self._addresses: dict[str, int] = {}
        self._clients: dict[tuple[str, str], int] = {}
        self._congested: dict[str, dict[str, Connection]] = {}
        self._serial = 0
        self._reserved = 0
        self._keepalive: asyncio.TimerHandle | None = None
        # The rest of the connections that are being ticked.
        self._round: asyncio.Handle | None = None
        self._stopping = False
        self._stop_at: float | None = None
        # The time limits of the handshakes that wait for `extract_meta` and the like.
        self.identifying: set[asyncio.Timeout] = set()
        self._idle = asyncio.Event()
        self._drains: list[tuple[str, Drain, Callable[[GatewayMessage], None]]] = []
        self._drain_timer: asyncio.Handle | None = None

    def configure(self, settings: Settings) -> None:
        """Take the service's settings, unless `setup` was given its own; only before the start."""
        if not self._settings_given:
            self.settings = settings

    def place(self, placement: Placement) -> None:
        """Have the rooms live there; only before the start."""
        self.placement = placement

    # --- life ------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Find the room hosts, and take connections as soon as they can be reached."""
        self._loop = asyncio.get_running_loop()
        self.now = self._loop.time
        self.writer = Writer(self._loop)
        self.turns = Turns(self._loop, 2)
        self.max_connections = self._connection_limit()
        settings = self.settings
        self._shared = _shared_buckets(settings)
        self._period = min(_TICK, settings.ping_interval / 4, settings.pong_timeout / 4, settings.max_unread / 4)
        await self.placement.start(self)
        self._send = self.placement.put
        self._tick()

    def opened(self) -> None:
        """Take connections and calls from now on: the placement reaches its hosts."""
        if not self._stopping:
            self.calls.open()
            self.accepting = True

    def _connection_limit(self) -> int | None:
        """Return how many connections this process takes, None for any number."""
        if self.settings.max_connections is not None:
            return self.settings.max_connections or None
        return self.descriptors.websockets

    def stop_accepting(self) -> None:
        """Refuse new connections with 503 from now on, also those that the application is still identifying."""
        self._stopping = True
        self.accepting = False
        for scope in self.identifying:
            scope.reschedule(self.now())

    @property
    def has_hosts(self) -> bool:
        """Whether there is any room host to serve a room; without one, frames wait."""
        return self.placement.has_hosts

    @property
    def serves(self) -> bool:
        """Whether a connection that comes now, to whichever room, is taken and served."""
        return self.accepting and self.placement.serves

    async def drain(self, *, answers: bool = True) -> None:
        """Close all connections with 1012, in batches; return when their `on_disconnect` has run.

        Takes at most `drain_seconds`; hooks that still run then are left to `stop`. Without `answers`, nothing
        that clients send is read any more, so their close frames are not waited for.
        """
        self.stop_accepting()
        try:
            async with asyncio.timeout_at(self._deadline()):
                await self._close_all(answers)
                while (self._attachments.rooms and self.has_hosts) or self.connections or self._reserved:
                    self._idle.clear()
                    await self._idle.wait()
        except TimeoutError:
            logger.warning("%d connections were left at the end of the drain", len(self.connections))

    def _deadline(self) -> float:
        """Say when a stop must be over; the first call starts the clock."""
        if self._stop_at is None:
            self._stop_at = self.now() + self.settings.drain_seconds
        return self._stop_at

    async def _close_all(self, answers: bool) -> None:
        while True:
            batch = [connection for connection in self.connections.values() if not connection.is_closing]
            if not batch:
                return
            batch = batch[:_DRAIN_BATCH]
            if answers:
                await self._answer(batch)
            for connection in batch:
                connection.leave()
                if not answers:
                    connection.hang_up()
            await asyncio.sleep(_DRAIN_PAUSE)

    async def _answer(self, connections: Sequence[Connection]) -> None:
        """Close each of these at a moment when it waits for no answer, as far as there soon is such a moment."""
        until = self.now() + _ANSWER_GRACE
        while self.now() < until and (waiting := [each for each in connections if not each.is_closing]):
            for connection in waiting:
                if not connection.in_flight:
                    connection.leave()
            await asyncio.sleep(_ANSWER_LOOK)

    async def stop(self) -> None:
        """Let go of the room hosts and end; connections that are left are aborted.

        An embedded host puts its rooms to sleep and runs `on_shutdown`.
        """
        self.stop_accepting()
        for connection in tuple(self.connections.values()):
            connection.close(*RESTART)
        await self.placement.stop(max(_LAST_GRACE, self._deadline() - self.now()))
        self.calls.stop()
        for timer in (self._keepalive, self._round):
            if timer is not None:
                timer.cancel()
        if self._drain_timer is not None:
            self._drain_timer.cancel()
        for connection in tuple(self.connections.values()):
            connection.abort()
        self.writer.close()

    def _tick(self) -> None:
        # First, so that nothing that goes wrong below ends the keepalive of all.
        self._keepalive = self._loop.call_later(self._period, self._tick)
        if self._round is None:
            self._tick_some(iter(tuple(self.connections.values())))
        for shared in self._shared.values():
            shared.sweep(self.now())

    def _tick_some(self, left: Iterator[Connection]) -> None:
        """Tick some of the connections, and the others in the next passes of the loop: sockets wait for no more."""
        now, some = self.now(), list(islice(left, _TICK_SLICE))
        # First, as above.
        self._round = self._loop.call_soon(self._tick_some, left) if some else None
        for connection in some:
            connection.tick(now)

    def rooms(self) -> list[RoomStatus]:
        """Explain the rooms that are awake or have connections, those that are awake first."""
        statuses = (self.room(name) for name in self.room_names())
        return [status for status in statuses if status is not None]

    def room_names(self) -> list[str]:
        """Name the rooms that are awake or have connections, those that are awake first."""
        return list(dict.fromkeys((*self.placement.known_rooms(), *self._attachments.rooms)))

    def room_states(self) -> Counter[str]:
        """Count the rooms by state."""
        return self.placement.room_states()

    def room(self, name: str) -> RoomStatus | None:
        """Explain one room, None for one that nobody is in and that is not awake."""
        held = self._attachments.rooms.get(name)
        status = self.placement.status(name, len(held.records) if held is not None else 0)
        if status is None and held is not None:  # all that is left are connections which it never let in
            return RoomStatus(name, name.partition("/")[0], "asleep", len(held.records))
        return status

    def stub(self, definition: RoomDefinition[Any, Any] | str, room_id: str) -> RoomStub:
        """Address a room from this process: ``await request.app[GATEWAY].stub(chat, "lobby").broadcast(...)``."""
        return RoomStub(self.calls, definition, room_id)

    # --- connections -----------------------------------------------------------------------------------

    def reserve(self, address: str | None) -> bool:
        """Count a handshake towards the caps; False if the address has too many connections."""
        key = _address_key(address)
        limit = self.settings.max_connections_per_address
        if limit and self._addresses.get(key, 0) >= limit:
            return False
        self._addresses[key] = self._addresses.get(key, 0) + 1
        self._reserved += 1
        return True

    def release(self, address: str | None) -> None:
        """Give back what `reserve` took."""
        self._reserved -= 1
        _count_down(self._addresses, _address_key(address))
        self._idle.set()

    @contextmanager
    def meter(self, definition: RoomDefinition[Any, Any], user_id: str, address: str | None) -> Iterator[Meter]:
        """Give a connection the meter of its frames: its own buckets, its user's and its address's."""
        settings, now = definition.rated(self.settings), self.now()
        owners = (("_per_user", user_id), ("_per_address", _address_key(address)))
        with ExitStack() as held:

            def buckets(name: str, own: TokenBucket | None) -> list[tuple[str, TokenBucket]]:
                found = [(name, own)] if own is not None else []
                for suffix, key in owners:
                    if (group := self._shared.get(name + suffix)) is not None:
                        found.append((name + suffix, group.acquire(key, now)))
                        held.callback(group.release, key)
                return found

            rate, rate_bytes = settings.rate_limit, settings.rate_limit_bytes
            frames = buckets("rate_limit", TokenBucket(rate, settings.burst(rate), now) if rate else None)
            sized = buckets(
                "rate_limit_bytes", TokenBucket(rate_bytes, _burst(rate_bytes), now) if rate_bytes else None
            )
            yield Meter(frames, sized, policy=settings.rate_policy, events=_event_meters(definition, settings, now))

    @property
    def host(self) -> RoomHost:
        """The embedded room host; only where there is one."""
        assert isinstance(self.placement, Embedded)
        return self.placement.host

    @property
    def attachments(self) -> Attachments:
        """What outlives room actors and room hosts; the placement reads and tells it."""
        return self._attachments

    @property
    def in_flight(self) -> int:
        """Bytes of inputs that no room has processed yet."""
        return self._attachments.in_flight

    @property
    def is_full(self) -> bool:
        """True if no further connection is taken."""
        return self.max_connections is not None and self._reserved >= self.max_connections

    def is_room_full(self, room: str) -> bool:
        """True if this room takes no further connection."""
        limit = self.settings.max_connections_per_room
        held = self._attachments.rooms.get(room)
        return bool(limit) and held is not None and len(held.records) >= limit

    def answers_to(self, client: Client, local: str) -> bool:
        """Tell whether what a client asks for may be a name of the public listener, where it came in at an address."""
        extra = self.settings.public_hosts
        if client.is_told and not extra:  # the names of a trusted proxy are its business
            return True
        return public_host_allowed(client.host, local, bound=self.bound, extra=extra)

    def holds_client(self, room: str, client_id: str) -> bool:
        """Tell whether a connection of the room has this client id."""
        return (room, client_id) in self._clients

    def next_id(self) -> str:
        """Make the id of a connection."""
        self._serial += 1
        return f"{self.id}-{self._serial:x}"

    def connected(self, connection: Connection, attachment: bytes) -> None:
        """Announce a connection to its room."""
        logger.debug("connected", extra={"room": connection.room, "connection": connection.id})
        self.metrics.connections += 1
        self.connections[connection.id] = connection
        self._outboxes[connection.id] = connection.outbox
        key = (connection.room, connection.client_id)
        self._clients[key] = self._clients.get(key, 0) + 1
        self._put(Connect(connection.room, self._attachments.next_number(), connection.id, attachment))
        if not self.accepting:  # the drain has begun since the handshake was allowed
            connection.close(*RESTART)

    def disconnected(self, connection: Connection, code: int, reason: str) -> None:
        """Announce the end of a connection to its room."""
        logger.debug("disconnected: %d", code, extra={"room": connection.room, "connection": connection.id})
        self.metrics.closed(code)
        del self.connections[connection.id]
        del self._outboxes[connection.id]
        _count_down(self._clients, (connection.room, connection.client_id))
        held = self._attachments.rooms.get(connection.room)
        if held is not None and connection.id in held.records:  # else the room has been told in another way
            self._put(Close(connection.room, self._attachments.next_number(), connection.id, code, reason))

    def forward(
        self, connection: Connection, event: str, data: bytes | None, channel: str | None, request: int | None
    ) -> None:
        """Send a client's frame to its room."""
        number = self._attachments.next_number()
        self.metrics.frames += 1
        frame = Frame(connection.room, number, connection.id, event, data, channel, request)
        size = self._attachments.add(frame)
        self._send(frame)
        connection.charged(size)

    def put_call(
        self, room: str, method: str, arguments: bytes, timeout: float, key: str | None, chain: tuple[str, ...]
    ) -> int:
        """Send a call to its room and return its number, which its `Reply` has."""
        number = self._attachments.next_number()
        self._put(Call(room, number, method, arguments, timeout, key, chain))
        return number

    def _put(self, input: Input) -> int:
        size = self._attachments.add(input)
        self._send(input)
        return size

    # --- flow control ----------------------------------------------------------------------------------

    def is_congested(self, room: str) -> bool:
        """True if the inputs of this room, or of all rooms, are over their limits."""
        held = self._attachments.rooms.get(room)
        return self._attachments.in_flight >= MAX_GATEWAY_IN_FLIGHT or (
            held is not None and held.in_flight >= MAX_ROOM_IN_FLIGHT
        )

    def wait_for(self, connection: Connection) -> None:
        """Resume this connection when its room has made progress."""
        self._congested.setdefault(connection.room, {})[connection.id] = connection

    def wait_no_more(self, connection: Connection) -> None:
        """Forget what `wait_for` noted."""
        waiting = self._congested.get(connection.room)
        if waiting is not None:
            waiting.pop(connection.id, None)
            if not waiting:
                del self._congested[connection.room]

    def _resume(self, rooms: Iterable[str]) -> None:
        """Let connections that wait for congestion look again; those of all rooms if the gateway had been full."""
        if self._attachments.in_flight >= MAX_GATEWAY_IN_FLIGHT:
            return
        for room in rooms:
            for connection in tuple(self._congested.get(room, {}).values()):
                connection.resume()

    # --- what hosts say --------------------------------------------------------------------------------

    def apply(self, entries: Sequence[Entry]) -> None:
        """Apply the entries of one batch, each whole."""
        was_full = self._attachments.in_flight >= MAX_GATEWAY_IN_FLIGHT
        for entry in entries:
            self._apply(entry)
        if self._congested:
            self._resume(tuple(self._congested) if was_full else [entry.room for entry in entries])
        self.writer.flush()

    def set_aside(self, room: RoomInputs, number: int) -> tuple[Input, int] | None:
        """Have an input never handled, and tell its sender; return it with its size, None if it is not there."""
        taken = self._attachments.set_aside(room, number)
        for input, size in taken:
            self._interrupt(input, size, Interrupted.code)
        self._moved_on(room)
        return taken[0] if taken else None

    def forget(self, room: RoomInputs, code: int, reason: str, outcome: str) -> None:
        """Close the connections of a room that is not to hear of it; its callers get the `outcome`, an error code."""
        connections = [self.connections.get(connection) for connection in room.records]
        for input, size in self._attachments.forget(room):
            self._interrupt(input, size, outcome)
        for connection in connections:
            if connection is not None:
                connection.close(code, reason)
        self._moved_on(room)

    def close_room(self, room: RoomInputs, code: int, reason: str) -> None:
        """Close the connections of a room."""
        for id in tuple(room.records):
            if (connection := self.connections.get(id)) is not None:
                connection.close(code, reason)

    def _interrupt(self, input: Input, size: int, outcome: str) -> None:
        """Tell who sent an input that it will not be handled."""
        if isinstance(input, Call):
            self.calls.replied(Reply(input.number, Outcome(code=outcome)))
            return
        connection = self.connections.get(input.connection)
        if connection is None:
            return
        match input:
            case Frame():
                if input.request is not None:
                    connection.outbox.put(text_frame(error_ack_frame(input.request, outcome)))
                connection.released(size)
            case Connect():
                connection.close(1011, "the room could not take the connection")

    def _moved_on(self, room: RoomInputs) -> None:
        self._resume((room.name,))
        if not self._attachments.rooms:
            self._idle.set()

    def _apply(self, entry: Entry) -> None:
        room = self._attachments.rooms.get(entry.room)
        if room is None:
            return
        for output in entry.outputs:
            self._output(room, output)
        if self._run is not None:
            self._end_run()
        for attach in entry.attachments:
            self._attachments.attach(room, attach)
        for input, size in self._attachments.acknowledge(room, entry):
            if isinstance(input, Frame):
                connection = self.connections.get(input.connection)
                if connection is not None:
                    connection.released(size)
        if not self._attachments.rooms:
            self._idle.set()

    def _output(self, room: RoomInputs, output: Output) -> None:
        if isinstance(output, Deliver):
            frame = text_frame(output.payload)
            if len(output.connections) > 1:
                self._join(output, frame)
                return
            if self._run is not None:
                self._end_run()
            for connection_id in output.connections:
                outbox = self._outboxes.get(connection_id)
                if outbox is not None and connection_id not in output.exclude:
                    outbox.put(frame)
            return
        self._end_run()
        if isinstance(output, Reply):
            self.calls.replied(output)
            return
        assert not isinstance(output, Cast), "the ends of links read them"
        connection = self.connections.get(output.connection)
        match output:
            case Kick():
                self._attachments.note_kick(room, output)
                if connection is not None:
                    connection.close(output.code, output.reason)
            case Invalid():
                if connection is not None:
                    connection.count_invalid("the room could not decode its data")
            case Drain():
                self._drains.append((room.name, output, self.placement.answering(room.name)))
                self._drain_timer = self._drain_timer or self._loop.call_soon(self._check_drains)

    def _join(self, output: Deliver, frame: bytes) -> None:
        run = self._run
        if run is None or not run.takes(output.connections, output.exclude, len(frame)):
            self._end_run()
            run = self._run = Run(output.connections, output.exclude)
        run.add(frame)

    def _end_run(self) -> None:
        if self._run is not None:
            self._run.put(self._outboxes)
            self._run = None

    def _check_drains(self) -> None:
        """Answer the drains whose connection has nothing left to send; look again while any has."""
        left: list[tuple[str, Drain, Callable[[GatewayMessage], None]]] = []
        for room, drain, answer in self._drains:
            outbox = self._outboxes.get(drain.connection)
            if outbox is not None and outbox.unsent:
                left.append((room, drain, answer))
            else:
                answer(Drained(room, drain.token))
        self._drains = left
        self._drain_timer = self._loop.call_later(_DRAIN_LOOK, self._check_drains) if left else None


def _count_down(counts: dict[_Key, int], key: _Key) -> None:
    """Take one off a count, and drop it at nothing, so that no table outgrows what it counts."""
    counts[key] -= 1
    if not counts[key]:
        del counts[key]


def _shared_buckets(settings: Settings) -> dict[str, SharedBuckets]:
    """Make the buckets that connections share, by the settings that are on."""
    frames = ("rate_limit_per_user", "rate_limit_per_address")
    sized = ("rate_limit_bytes_per_user", "rate_limit_bytes_per_address")
    shared = {name: SharedBuckets(rate, settings.burst(rate)) for name in frames if (rate := getattr(settings, name))}
    return shared | {name: SharedBuckets(rate, _burst(rate)) for name in sized if (rate := getattr(settings, name))}


def _event_meters(definition: RoomDefinition[Any, Any], settings: Settings, now: float) -> dict[str, Meter]:
    return {
        event: Meter(
            [("rate_limit", TokenBucket(limit.rate, limit.burst or _burst(limit.rate), now))],
            policy=limit.policy or settings.rate_policy,
        )
        for event, limit in definition.event_rates.items()
    }


def _burst(rate: float) -> int:
    return max(1, int(2 * rate))


def _address_key(address: str | None) -> str:
    """Name whom an address belongs to: a single host of IPv6 commands a whole /64."""
    if address is None or ":" not in address:
        return address or ""
    return str(ipaddress.ip_network((address.partition("%")[0], 64), strict=False))

"""Be a room host: take inputs from links, keep one room actor per awake room, send entries back.

Who stores attachments and who holds sockets is the gateways' business; when a room sleeps is the hibernation
manager's.

Invariants:
- A room has at most one actor. While one is being made (waking) or torn down (retiring), inputs wait in
  `waiting` and are delivered, in order, to the next one that is awake.
- `handed` holds every input that an actor has and has not processed, in order; the first of them is the one in hand.
  An actor that dies leaves them to the next incarnation; the one in hand as `Interrupted` if it has shown an effect.
- No input is handled before the snapshots of all linked gateways have been merged: a wake waits for them as long as
  their links last. A gateway whose link ends meanwhile, or is new, is told that it may have missed something.
- Nobody misses in silence what an earlier owner said to others: their gateways know of it, and the connections of those
  that have not heard it are closed before the room goes on. What others have seen of an input is not done again.
- All effects of one tick leave in one batch per gateway: entries are applied whole, so the outputs of an input
  and its acknowledgement become visible together. An input in hand that has shown an effect is marked as begun.
- Inputs of rooms that this host does not own, or has lost, are not taken: their gateways keep them and send them to
  the owner. An input is taken once, however often it is sent.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from enum import Enum
from functools import partial
from itertools import count, islice
from typing import Any

import msgspec
from thespian.actors import ActorAddress, ActorSystem

from verani.engine.engine import Attached, Engine, HookFailed, Marker, Woken, reason_of
from verani.link.messages import (
    Arrival,
    Attach,
    Call,
    Close,
    Connect,
    Deliver,
    Drained,
    Ended,
    Entry,
    EntryBatch,
    GatewayMessage,
    Heard,
    HostMessage,
    InputBatch,
    Interrupted,
    Invoke,
    Kick,
    Outcome,
    Output,
    Pull,
    Rebuild,
    Record,
    Replied,
    Reply,
    Said,
    Seat,
    Snapshot,
    TakenCall,
)
from verani.room.context import WakeReason
from verani.room.definition import RoomDefinition
from verani.settings import Settings

from ..links.flow import MAX_AHEAD, OVERHEAD, Flow, weight_of
from ..membership.ownership import Ownership
from ..messages import CALLS
from ..system.asyncio_base import AsyncioSystemBase
from ..upkeep.allocator import Trimmer
from ..upkeep.watchdog import Watchdog
from .actor_calls import RoomCalls, ServeCalls
from .hearsay import seen_of, who_missed
from .hibernation import Begin, HibernationManager, LookAround, RetireAll, Wake
from .idle import IdleRooms
from .life import RoomLife, RoomStatus
from .room_actor import Abandoned, Open, Post
from .room_actor import Deliver as DeliverInputs

__all__ = ["ROOM_LIMITS", "RoomHost"]

logger = logging.getLogger(__name__)

# Of what a room does, in its status.
_LONGEST_NAME = 100

# How often hooks are checked against their time budget, and rooms for idleness, at most.
_TICK = 0.25

# The settings that limit rooms; what each did is counted in `RoomHost.limited`.
ROOM_LIMITS = ("hook_timeout", "max_awake_rooms", "max_meta_bytes")

# Idle rooms are not looked for more often than this, however soon they are to sleep.
_SHORTEST = 0.001

# Seconds that hooks which are cancelled at the end of a stop get to end.
_LAST_WAIT = 1.0

# How much output may wait for the end of the tick, as `weight_of` counts it; as many bytes as a gateway joins.
MAX_PENDING = 256 << 10


# Close code of sessions whose gateway is gone (RFC 6455 7.1.5: no close frame came).
_LOST = 1006

# In place of a gateway whose records a room waits for: one that this host does not know of yet.
_UNKNOWN = ""

# To whom the room may have said something before it knew of them.
_MISSED = 1012, "the room went on without this connection"


class _State(Enum):
    WAKING = "waking"
    AWAKE = "awake"
    # Awake, but another host is to have it: what is in hand is finished, nothing more is taken.
    MOVING = "moving"
    RETIRING = "retiring"


class _Room:
    """What the host knows of one awake room; also the sink of its engine."""

    def __init__(
        self, host: RoomHost, definition: RoomDefinition[Any, Any], name: str, reason: WakeReason, life: RoomLife
    ) -> None:
        self.host = host
        self.definition = definition
        self.name = name
        self.reason: WakeReason = reason
        self.life = life
        self.state = _State.WAKING
        self.incarnation = host.next_incarnation()
        # Seconds without anything to do after which it is to sleep; None for never.
        self.idle_timeout = host.idle_timeout(definition)
        self.address: ActorAddress | None = None
        self.engine: Engine[Any, Any] | None = None
        # Gateways whose snapshot is awaited: before the room is opened, and, of those that linked later, after.
        self.expected = {*host.gateways, *((_UNKNOWN,) if host.is_settling else ())}
        self.late: set[str] = set()
        self.held: dict[str, list[Arrival]] = {}
        self.records: dict[str, list[Record]] = {}
        self.waiting: list[tuple[str, Arrival]] = []
        self.handed: deque[tuple[str, Arrival]] = deque()
        self.retiring_since = 0.0
        # Whether the input in hand has had an effect that others may see.
        self.shown = False
        # The highest input of each gateway that was taken, or that an earlier owner had done.
        self.taken: dict[str, int] = {}
        # Which gateway carries each call to another room.
        self.carried: dict[int, str] = {}
        # What gateways have heard of earlier owners; and their last inputs of which others have seen something.
        self.heard: dict[str, Heard] = {}
        self.seen_of: dict[str, int] = {}
        # Gateways that were told something, and the last entry of each.
        self.told: dict[str, int] = {}
        # The last entries of gateways that say more than what their own inputs alone led to, and the last inputs of
        # gateways of which others have seen something.
        self.owed: dict[str, int] = {}
        self.shared: dict[str, int] = {}
        # Another host is to have it: no successor, and nothing more is taken.
        self.moving = False
        # Torn down: whatever a hook that is cut off still does, nothing of it leaves.
        self.gone = False
        # A gateway wants it awake again, whatever it was doing.
        self.wanted: WakeReason | None = None

    def output(self, gateway: str, output: Output, cause: int | None) -> None:
        if self.gone:
            return
        entry = self.host.entry(gateway, self)
        entry.outputs.append(output)
        if cause is None or self.shared or self.handed[0][0] != gateway:
            self._note_reach(gateway, entry.seq, cause)
        if cause is not None and not self.shown:
            self.shown = True
            self.host.showing.add(self)
        if type(output) is Deliver and (len(output.connections) == 1 or self.host.joins(output)):
            self.host.pending_bytes += OVERHEAD + len(output.payload)
        else:
            self.host.pending_bytes += weight_of(output)
        if self.host.pending_bytes > MAX_PENDING:
            self.host.flush_now()

    def attach(self, gateway: str, attach: Attach | Seat, cause: int | None) -> None:
        if self.gone:
            return
        entry = self.host.entry(gateway, self)
        entry.attachments.append(attach)
        if type(attach) is Attach and (cause is None or self.shared or self.handed[0][0] != gateway):
            self._note_reach(gateway, entry.seq, cause)
        if cause is not None and not self.shown:
            self.shown = True
            self.host.showing.add(self)
        # What a hook commits leaves together: `processed` is the next occasion to send it.
        self.host.pending_bytes += weight_of(attach)

    def invoke(self, invoke: Invoke) -> None:
        self.host.invoke(self, invoke)

    def let_go(self) -> None:
        """Part from the engine, whose sink this is: the memory of a room is free when its actor is gone."""
        engine, self.engine = self.engine, None
        if engine is not None:
            engine.end()
            engine.let_go()

    def processed(self, gateway: str, number: int) -> None:
        if self.gone:
            return
        while self.handed:
            origin, input = self.handed.popleft()
            if origin == gateway and input.number == number:
                break  # what was before it was skipped: its task was cancelled from outside
        if self.shown:
            self.shown = False
            self.host.showing.discard(self)
        entries = self.host.pending.get(gateway)
        entry = entries.get(self) if entries is not None else None
        if entry is None:
            entry = self.host.entry(gateway, self)
        entry.processed = number
        if self.host.pending_bytes > MAX_PENDING:
            self.host.flush_now()
        if not self.handed:
            self.host.caught_up(self)

    def _note_reach(self, gateway: str, seq: int, cause: int | None) -> None:
        """Note that an entry says what its gateway cannot get again by sending its own inputs once more."""
        origin = self.handed[0][0] if cause is not None else None
        if gateway != origin:
            self.owed[gateway] = seq
            if origin is not None and cause is not None and self.shared.get(origin) != cause:
                self.shared[origin] = cause
                if origin in self.told:
                    self.owed[origin] = self.told[origin]
        elif self.shared.get(gateway) == cause:
            self.owed[gateway] = seq

    def said_to_others(self, gateway: str) -> tuple[Said, ...]:
        """List what all gateways but this one must have."""
        others = {**self.owed, **self.shared}
        others.pop(gateway, None)
        return tuple([Said(other, self.owed.get(other, 0), self.shared.get(other, 0)) for other in others])


class RoomHost:
    """All rooms of one process, on the running loop."""

    def __init__(
        self,
        definitions: Sequence[RoomDefinition[Any, Any]],
        settings: Settings,
        *,
        ownership: Ownership | None = None,
        marker: Marker | None = None,
        watchdog: Watchdog | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare a host that owns every room, or those of `ownership`.

        `marker` is told whose hook runs; `watchdog` watches the loop, by default one that only logs.
        """
        self.clock = clock
        self.ownership = ownership if ownership is not None else Ownership()
        self._marker = marker
        self.gateways: dict[str, Callable[[HostMessage], None]] = {}
        self._definitions = {definition.name: definition for definition in definitions}
        self._settings = settings
        self._started: list[RoomDefinition[Any, Any]] = []
        self._rooms: dict[str, _Room] = {}
        self._by_address: dict[str, _Room] = {}
        self._idle = IdleRooms()
        # Of the rooms that are awake, and of those that sleep with connections.
        self._lives: dict[str, RoomLife] = {}
        # How often rooms woke and slept, and how many more than `max_awake_rooms` were awake at the last look.
        self.wakes = 0
        self.sleeps = 0
        self.excess = 0
        # What limits did to rooms, by setting.
        self.limited: Counter[str] = Counter(dict.fromkeys(ROOM_LIMITS, 0))
        self._retiring = 0
        self._suspended: set[Engine[Any, Any]] = set()
        # Those that want to sleep and have not been asked yet, and of them those to be asked at once.
        self._drowsy: set[Engine[Any, Any]] = set()
        self._to_ask: list[_Room] = []
        self._stopping = False
        self._stopped = False
        self._incarnations = 0
        # How many of those are over.
        self._ended = 0
        self._trimmer = Trimmer()
        # For each gateway, by room, or by name for what is of no room here.
        self.pending: dict[str, dict[_Room | str, Entry]] = {}
        self._seq = 0
        # What of it weighs, as far as it was counted.
        self.pending_bytes = 0
        # The broadcast that was put last.
        self._before: Deliver | None = None
        # Rooms whose incarnation is over, for the links that carried entries of it.
        self._over: dict[str, list[str]] = {}
        # How far rooms are ahead of the gateways in other processes.
        self.flow = Flow()
        # Rooms whose input in hand has begun to show since the last flush.
        self.showing: set[_Room] = set()
        # Who called a room from the actor system and waits for its outcome, and the gateway that carries the call.
        self._calls: dict[int, tuple[str, Callable[[Outcome], None]]] = {}
        self._call_tokens = count(1)
        # How many rooms have inputs in hand.
        self._working = 0
        self._flush: asyncio.Handle | None = None
        self._timer: asyncio.TimerHandle | None = None
        # Until when rooms wait for gateways that have not linked yet, and what tells whether all are there.
        self._settling: asyncio.TimerHandle | None = None
        self._is_whole: Callable[[], bool] = lambda: False
        self._system: ActorSystem | None = None
        self._base: AsyncioSystemBase | None = None
        self._manager: ActorAddress | None = None
        self._watchdog = watchdog if watchdog is not None else Watchdog(settings.hook_blocked)
        # A room's actor has exited.
        self._changed = asyncio.Event()

    # --- life ------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Run the definitions' `on_startup`, then take inputs.

        Raises what a hook raises, after the `on_shutdown` of the definitions that had started.
        """
        for definition in self._definitions.values():
            try:
                await _call(definition.hooks.get("on_startup"))
            except BaseException:
                await self._run_shutdown_hooks()
                raise
            self._started.append(definition)
        self._loop = asyncio.get_running_loop()
        self._base = AsyncioSystemBase()
        self._system = ActorSystem(systemBase=self._base, transientUnique=True)
        self._manager = self._system.createActor(HibernationManager, globalName="verani-hibernation-manager")
        timeouts = [t for t in map(self.idle_timeout, self._definitions.values()) if t is not None]
        self._tell(self._system.createActor(RoomCalls, globalName=CALLS), ServeCalls(self))
        self._tell(self._manager, Begin(self, max(_SHORTEST, min([_TICK, *(timeout / 4 for timeout in timeouts)]))))
        self._budget_tick = min(_TICK, self._settings.hook_timeout / 4)
        self._watch_budgets()
        self._watchdog.start()

    async def stop(self, grace: float) -> None:
        """Put all rooms to sleep, waiting at most `grace` seconds, then run `on_shutdown`.

        Rooms whose hooks have not ended by then are torn down with what they hold.
        """
        assert self._base is not None, "start comes before stop"
        assert self._manager is not None
        assert self._system is not None
        self._stopping = True
        try:
            async with asyncio.timeout(grace):
                while self._rooms:
                    self._tell(self._manager, RetireAll())
                    self._changed.clear()
                    with suppress(TimeoutError):  # some rooms have something to do: ask again
                        await asyncio.wait_for(self._changed.wait(), _TICK)
        except TimeoutError:
            logger.warning("%d rooms did not go to sleep within %g s", len(self._rooms), grace)
        if self._settling is not None:
            self._settling.cancel()
        if self._timer is not None:
            self._timer.cancel()
        self._watchdog.stop()
        rooms = tuple(self._rooms.values())
        for room in rooms:
            if room.engine is not None:
                room.engine.end()
        self._rooms.clear()
        self._by_address.clear()
        self._stopped = True
        self._end_calls(None)
        self._system.shutdown()
        if left := await self._base.closed(_LAST_WAIT):
            logger.warning("%d hooks ignore their cancellation and are left behind", left)
        self._send_entries()
        for room in rooms:
            room.let_go()
        await self._run_shutdown_hooks()

    async def _run_shutdown_hooks(self) -> None:
        while self._started:
            definition = self._started.pop()
            try:
                async with asyncio.timeout(self._settings.hook_timeout):
                    await _call(definition.hooks.get("on_shutdown"))
            except (Exception, SystemExit, KeyboardInterrupt):  # a user's hook; the others still run
                logger.exception("on_shutdown of %s failed", definition.name)

    def rooms(self) -> dict[str, str]:
        """Name the rooms of this host that are not asleep, and their states."""
        return {name: room.state.value for name, room in self._rooms.items()}

    def known_rooms(self) -> list[str]:
        """Name the rooms that are not asleep, then those that sleep with connections."""
        return [*self._rooms, *(name for name in self._lives if name not in self._rooms)]

    @property
    def sleeping_count(self) -> int:
        """How many rooms sleep with connections."""
        return len(self._lives) - len(self._rooms)

    def status(self, name: str, connections: int | None = None) -> RoomStatus | None:
        """Explain one room; None for one that this host knows nothing of. `connections` where somebody knows better."""
        life, room, now = self._lives.get(name), self._rooms.get(name), self.clock()
        if life is None:
            return None
        if connections is None:
            connections = room.engine.connections if room is not None and room.engine is not None else life.connections
        is_retiring = room is not None and room.state is _State.RETIRING
        doing = room.engine.doing if room is not None and room.engine is not None else None
        return RoomStatus(
            name=name,
            definition=name.partition("/")[0],
            state=room.state.value if room is not None else "asleep",
            connections=connections,
            state_seconds=now - (room.retiring_since if room is not None and is_retiring else life.since),
            kept_awake_by=self._explain(room) if room is not None else None,
            woken_by=life.woken_by,
            wake_seconds=life.wake_seconds,
            cycles=life.cycles,
            awake_seconds=life.awake_seconds + (now - life.since if room is not None else 0.0),
            doing=doing[0][:_LONGEST_NAME] if doing is not None else None,
            doing_seconds=now - doing[1] if doing is not None else None,
        )

    def _explain(self, room: _Room) -> str:
        never = room.idle_timeout is None
        return self._keeps_awake(room) or ("hibernate_after never" if never else "recent activity")

    def next_incarnation(self) -> int:
        """Number the incarnations of this host's rooms."""
        self._incarnations += 1
        return self._incarnations

    def _tell(self, address: ActorAddress, message: object) -> None:
        assert self._base is not None
        self._base.tell(address, message)

    # --- links -----------------------------------------------------------------------------------------

    def settle(self, is_whole: Callable[[], bool], seconds: float) -> None:
        """Have rooms wait for gateways that are not linked yet: until `is_whole` says that all are, at most so long.

        For a host that has just become a member: gateways learn of it one after the other, and connections of those
        that come late would miss what a room says before.
        """
        self._is_whole = is_whole
        if not is_whole():
            self._settling = self._loop.call_later(seconds, self._settled)

    @property
    def is_settling(self) -> bool:
        """Whether gateways that have not linked yet are waited for."""
        return self._settling is not None

    def _settled(self) -> None:
        if self._settling is not None:
            self._settling.cancel()
            self._settling = None
        for room in tuple(self._rooms.values()):
            if _UNKNOWN in room.expected:
                room.expected.discard(_UNKNOWN)
                if not room.expected and room.address is not None:
                    self._open(room)

    def link(self, gateway: str, send: Callable[[HostMessage], None]) -> None:
        """Take a gateway; `send` carries messages to it."""
        self.gateways[gateway] = send
        # It may hold connections of rooms that are awake already; what it sends for one waits for its records.
        for room in tuple(self._rooms.values()):
            if room.state is not _State.WAKING:
                room.late.add(gateway)
                send(Pull(room.name, room.incarnation, self.ownership.epoch))
            elif gateway not in room.expected:
                room.expected.add(gateway)
                if room.address is not None:
                    send(Pull(room.name, room.incarnation, self.ownership.epoch))
        if self.is_settling and self._is_whole():
            self._settled()

    def unlink(self, gateway: str) -> list[str]:
        """Give a gateway up: its sessions in rooms that are awake get their `on_disconnect`.

        Returns these rooms, those that had inputs of it, which are dropped, and those that go on without its records.
        """
        if self.gateways.pop(gateway, None) is None:
            return []
        self.pending.pop(gateway, None)
        self._end_calls(gateway)
        self._forget_sleeping(lambda name, life: life.gateways.pop(gateway, None) is not None and not life.gateways)
        return [room.name for room in tuple(self._rooms.values()) if self._forget_gateway(room, gateway)]

    def _forget_gateway(self, room: _Room, gateway: str) -> bool:
        """Take a gateway out of one room; False if it had nothing there."""
        kept = [entry for entry in room.waiting if entry[0] != gateway]
        is_in = len(kept) < len(room.waiting) or any(origin == gateway for origin, _ in room.handed)
        is_in |= room.held.pop(gateway, None) is not None
        is_in |= bool(room.records.pop(gateway, None)) or gateway in room.expected or gateway in room.late
        room.waiting = kept
        room.late.discard(gateway)
        for token in [token for token, carrier in room.carried.items() if carrier == gateway]:
            self._replied(room, token, Outcome(code="interrupted"))
        if room.engine is not None:
            room.engine.lost(gateway)
            closes = [Close(room.name, 0, id, _LOST, "gateway lost") for id in room.engine.connections_of(gateway)]
            is_in |= bool(closes)
            if closes and room.state in (_State.AWAKE, _State.MOVING):
                self._deliver(room, gateway, list(closes))
            else:
                room.waiting += [(gateway, close) for close in closes]
        elif gateway in room.expected:
            room.expected.discard(gateway)
            if not room.expected and room.address is not None:
                self._open(room)
        # Should it come back, it sends again what it has not heard the end of, and waits for that.
        room.taken.pop(gateway, None)
        room.told.pop(gateway, None)
        room.owed.pop(gateway, None)
        room.shared.pop(gateway, None)
        room.heard.pop(gateway, None)
        room.seen_of.pop(gateway, None)
        return is_in

    def receive(self, gateway: str, message: GatewayMessage) -> None:
        """Take one message of a gateway; after the stop there is nobody to take it for."""
        if self._stopped:
            return
        match message:
            case InputBatch():
                inputs = message.inputs
                if message.again or message.epoch != self.ownership.epoch:
                    inputs = [
                        self._as_seen(gateway, arrival)
                        for arrival in inputs
                        if self._is_new(gateway, arrival, message.epoch)
                    ]
                self._take(gateway, inputs)
            case Snapshot():
                self._merge(gateway, message)
            case Drained():
                room = self._rooms.get(message.room)
                if room is not None and room.engine is not None:
                    room.engine.drained(message.token)
            case Replied(room=""):
                if (call := self._calls.pop(message.token, None)) is not None:
                    call[1](message.outcome)
            case Replied():
                room = self._rooms.get(message.room)
                if room is not None:
                    self._replied(room, message.token, message.outcome)
            case Rebuild():
                room = self._rooms.get(message.room)
                if room is not None:
                    room.wanted = message.reason if room.state is _State.RETIRING else None
                elif self.ownership.owns(message.room):
                    self._wake(message.room, message.reason)

    def run(self) -> None:
        """Begin to work on what was received, without waiting for the loop's next pass; not from within a room."""
        if self._base is not None:
            self._base.run()

    def _is_new(self, gateway: str, arrival: Arrival, epoch: int) -> bool:
        """Tell whether to take what may have been sent before, to this host or another."""
        room = self._rooms.get(arrival.room)
        if room is not None and arrival.number <= room.taken.get(gateway, 0):
            return False
        # What came for an earlier spell of ownership is sent again; what came after it in that spell would overtake.
        return epoch >= self.ownership.since(arrival.room)

    def _as_seen(self, gateway: str, arrival: Arrival) -> Arrival:
        """Mark an input that an earlier owner had begun, or done, for others to see: it is not done again."""
        room = self._rooms.get(arrival.room)
        if room is None or arrival.number > room.seen_of.get(gateway, 0) or isinstance(arrival, Interrupted):
            return arrival
        return Interrupted(arrival)

    def _take(self, gateway: str, inputs: list[Arrival]) -> None:
        ready: dict[str, list[Arrival]] = {}
        for input in inputs:
            if type(input) is Call:
                input = TakenCall.of(input, self.clock() + input.timeout)
            room = self._rooms.get(input.room)
            if room is None:
                if not self.ownership.owns(input.room):
                    continue
                room = self._wake(input.room, reason_of(input))
            if room is None:
                self._refuse(gateway, input)
            elif room.state is _State.AWAKE and not room.late:
                ready.setdefault(input.room, []).append(input)
            elif room.moving:
                continue
            elif gateway in room.late:
                room.held.setdefault(gateway, []).append(input)
                room.taken[gateway] = input.number
            elif room.state is _State.AWAKE:
                ready.setdefault(input.room, []).append(input)
            else:
                room.waiting.append((gateway, input))
                room.taken[gateway] = input.number
        for name, batch in ready.items():
            self._deliver(self._rooms[name], gateway, batch)

    def _refuse(self, gateway: str, arrival: Arrival) -> None:
        """Turn away what is for a definition that this host does not have."""
        input = arrival.input if isinstance(arrival, Interrupted) else arrival
        entry = self.pending.setdefault(gateway, {}).setdefault(input.room, Entry(input.room))
        entry.processed = input.number
        if isinstance(input, Call):
            entry.outputs.append(Reply(input.number, Outcome(code="not_found")))
        else:
            if isinstance(input, Connect):
                logger.error("connection closed: no room definition for %s", input.room)
            entry.outputs.append(Kick(input.connection, 1011, refused=True))
        self._schedule_flush()

    def _deliver(self, room: _Room, gateway: str, inputs: list[Arrival]) -> None:
        assert room.address is not None
        if not room.handed:
            self._working += 1
        for input in inputs:
            room.handed.append((gateway, input))
            if type(input) is Close and room.engine is not None:
                room.engine.note_close(input.connection)
        room.taken[gateway] = inputs[-1].number
        assert self._base is not None
        self._base.tell(room.address, DeliverInputs(gateway, inputs))

    def caught_up(self, room: _Room) -> None:
        """A room has processed all it was given; when every room has, their entries need not wait for the next tick."""
        self.mark_active(room)
        self._working -= 1
        if not self._working:
            self.flush_now()
        if self._drowsy and room.engine in self._drowsy and self._keeps_awake(room) is None:
            assert self._manager is not None
            self._to_ask.append(room)
            self._tell(self._manager, LookAround())

    # --- waking ----------------------------------------------------------------------------------------

    def _wake(self, name: str, reason: WakeReason) -> _Room | None:
        definition = self._definitions.get(name.partition("/")[0])
        if definition is None or self._manager is None:
            return None
        now = self.clock()
        life = self._lives.get(name)
        if life is None:
            life = self._lives[name] = RoomLife(now)
        life.wakes(now, reason)
        self.wakes += 1
        room = self._rooms[name] = _Room(self, definition, name, reason, life)
        self._tell(self._manager, Wake(name))
        return room

    def created(self, name: str, address: ActorAddress) -> None:
        """The manager made the room's actor: ask the gateways for its records."""
        room = self._rooms[name]
        # What the last incarnation left must be applied before its gateway answers with the state it led to.
        self.flush_now()
        room.address = address
        self._by_address[address.actorAddressString] = room
        for gateway in room.expected - {_UNKNOWN}:
            self.gateways[gateway](Pull(name, room.incarnation, self.ownership.epoch))

    def _merge(self, gateway: str, snapshot: Snapshot) -> None:
        room = self._rooms.get(snapshot.room)
        if room is None or room.incarnation != snapshot.incarnation:
            return  # the answer to an earlier question
        if gateway not in room.late and gateway not in room.expected:
            return  # nobody asked
        room.records.setdefault(gateway, []).extend(snapshot.records)
        if not snapshot.last:
            return
        if snapshot.processed:
            self._drop_done(room, gateway, snapshot.processed)
        if room.state is not _State.WAKING:
            self._attach(room, gateway)
        else:
            if snapshot.heard is not None:
                room.heard[gateway] = snapshot.heard
            room.expected.discard(gateway)
            if not room.expected:
                self._open(room)

    def _drop_done(self, room: _Room, gateway: str, processed: int) -> None:
        """Drop inputs that were long under way: an earlier owner has handled them."""
        room.taken[gateway] = max(processed, room.taken.get(gateway, 0))
        room.waiting = [(g, i) for g, i in room.waiting if g != gateway or i.number > processed]
        if gateway in room.held:
            room.held[gateway] = [input for input in room.held[gateway] if input.number > processed]

    def _attach(self, room: _Room, gateway: str) -> None:
        """Merge records that came late, then deliver what has waited for them; their connections are to come again."""
        assert room.address is not None
        room.late.discard(gateway)
        records = tuple(room.records.pop(gateway, ()))
        held = [(gateway, input) for input in room.held.pop(gateway, ())]
        if records:
            self._tell(room.address, Post(Attached(gateway, records)))
            self._part_with(room, gateway, records)
        room.waiting += held
        if room.state is _State.AWAKE:
            self._deliver_waiting(room)

    def _part_with(self, room: _Room, gateway: str, records: Iterable[Record]) -> None:
        """Close connections of which the room knew nothing until now: some of what it said did not reach them."""
        known = set(room.engine.connections_of(gateway)) if room.engine is not None else set()
        self._close_out(room, gateway, [each for each in records if each.connection not in known])

    def _close_out(self, room: _Room, gateway: str, records: Iterable[Record]) -> None:
        missed = [Kick(each.connection, *_MISSED) for each in records if not each.closing]
        if missed:
            logger.warning("%d connections missed what a room has said", len(missed), extra={"room": room.name})
            self.entry(gateway, room).outputs += missed

    def _open(self, room: _Room) -> None:
        assert room.address is not None
        address = room.address
        room_id = room.name.partition("/")[2]

        def post(event: HookFailed) -> None:
            self._tell(address, Post(event))

        def start() -> Engine[Any, Any]:
            room.engine = Engine(
                room.definition,
                room_id,
                room,
                settings=self._settings,
                post=post,
                suspended=self._suspended,
                drowsy=self._drowsy,
                marker=self._marker,
                limited=self.limited,
                is_full=partial(self._is_full, room.name),
                clock=self.clock,
            )
            for _, input in room.handed:
                if isinstance(input, Close):
                    room.engine.note_close(input.connection)
            return room.engine

        records = tuple((g, tuple(found)) for g, found in room.records.items() if found)
        self._settle_hearsay(room)
        room.records = {}
        logger.debug("room wakes: %s", room.reason, extra={"room": room.name})
        hold = partial(self.flow.hold, room.name)
        self._tell(address, Open(start, Woken(records, room.reason), lambda: room.life.woke(self.clock()), hold))
        room.state = _State.MOVING if room.moving else _State.AWAKE
        self._deliver_waiting(room)

    def _settle_hearsay(self, room: _Room) -> None:
        """Close the connections that have missed what an earlier owner said."""
        heard, room.heard = room.heard, {}
        room.seen_of = seen_of(heard)
        for gateway in who_missed(heard):
            self._close_out(room, gateway, room.records.get(gateway, ()))
        room.waiting = [(gateway, self._as_seen(gateway, arrival)) for gateway, arrival in room.waiting]

    def _deliver_waiting(self, room: _Room) -> None:
        waiting, room.waiting = room.waiting, []
        for gateway, input in waiting:
            self._deliver(room, gateway, [input])
        self.mark_active(room)

    # --- moving ----------------------------------------------------------------------------------------

    async def release(self, grace: float) -> None:
        """Put the rooms to sleep that this host does not own any more, and return when they are gone.

        What their actors have in hand is finished, the tasks they spawned are cancelled. After `grace` seconds those
        that are left are torn down, and what they had not finished is left to their next owner.
        """
        assert self._manager is not None, "start comes before release"
        for room in self._rooms.values():
            if not room.moving and not self.ownership.owns(room.name):
                self._move(room)
        try:
            async with asyncio.timeout(grace):
                while any(room.moving for room in self._rooms.values()):
                    self._tell(self._manager, RetireAll())
                    self._changed.clear()
                    with suppress(TimeoutError):
                        await asyncio.wait_for(self._changed.wait(), _TICK)
        except TimeoutError:
            self.abandon()
        self.flush_now()

    def _move(self, room: _Room) -> None:
        room.moving = True
        left = [*room.waiting, *((gateway, input) for gateway, inputs in room.held.items() for input in inputs)]
        for gateway, input in left:
            if gateway in room.taken:  # so that they are taken when they are sent again
                room.taken[gateway] = min(input.number - 1, room.taken[gateway])
        room.waiting.clear()
        room.held.clear()
        self._idle.forget(room.name)
        if room.state is _State.AWAKE:
            room.state = _State.MOVING

    def keep(self) -> None:
        """Take back what was to move and is this host's again, now that an epoch says so."""
        for room in self._rooms.values():
            if room.moving and not room.gone and self.ownership.owns(room.name):
                room.moving = False
                if room.state is _State.MOVING:
                    room.state = _State.AWAKE
                    self.mark_active(room)
        self._changed.set()

    def abandon(self) -> None:
        """Tear down at once the rooms that this host does not own any more; nothing of them leaves from now on."""
        assert self._base is not None
        for room in tuple(self._rooms.values()):
            if self.ownership.owns(room.name):
                continue
            logger.debug("room is given up", extra={"room": room.name})
            self._move(room)
            room.gone = True
            for entries in self.pending.values():
                entries.pop(room, None)
            if room.engine is not None:
                room.engine.end()
            if room.address is not None:
                self._base.kill(room.address)
        self._forget_sleeping(lambda name, life: not self.ownership.owns(name))

    def _forget_sleeping(self, is_gone: Callable[[str, RoomLife], bool]) -> None:
        """Forget the rooms that sleep without anybody at a gateway of this host, or for another host to wake."""
        sleeping = [(name, life) for name, life in self._lives.items() if name not in self._rooms]
        for name, life in sleeping:
            if is_gone(name, life):
                del self._lives[name]

    # --- sleeping --------------------------------------------------------------------------------------

    def idle_timeout(self, definition: RoomDefinition[Any, Any]) -> float | None:
        """Say after how many seconds idle rooms of a definition are to sleep; None for never."""
        timeout = definition.hibernate_after
        return self._settings.hibernate_after if timeout is msgspec.UNSET else timeout

    def mark_active(self, room: _Room) -> None:
        """Start the room's idle clock anew."""
        if room.idle_timeout is not None and room.state is _State.AWAKE:
            self._idle.mark(room.name, room.idle_timeout, self.clock())

    def retire_idle(self) -> Iterator[ActorAddress]:
        """Mark the rooms that are to sleep as retiring and yield their actors, each before the next is looked at.

        Those are the idle ones, those that want to, and above the cap those idle for the longest time. The cap is
        soft: a wake never waits for it, and rooms younger than `min_awake` stay.
        """
        now = self.clock()
        for name in self._idle.due(now):
            room = self._rooms[name]
            if self._keeps_awake(room) is None:
                yield self._retire(room)
            else:
                self.mark_active(room)
        for engine in tuple(self._drowsy):
            wanting = self._rooms.get(engine.name)
            if wanting is not None and wanting.state is _State.AWAKE and self._keeps_awake(wanting) is None:
                yield self._retire(wanting)
        self.excess = max(0, len(self._rooms) - self._retiring - self._settings.max_awake_rooms)
        if self.excess:
            yield from self._retire_oldest(self.excess, now)

    def retire_wanting(self) -> list[ActorAddress]:
        """The same for the rooms that want to sleep and have just become able to."""
        asked, self._to_ask = self._to_ask, []
        return [
            self._retire(room)
            for room in asked
            if room.state is _State.AWAKE and room.engine in self._drowsy and self._keeps_awake(room) is None
        ]

    def _retire_oldest(self, excess: int, now: float) -> list[ActorAddress]:
        candidates = (self._rooms[name] for name in self._idle.oldest())
        fit = (r for r in candidates if now - r.life.since >= self._min_awake(r) and self._keeps_awake(r) is None)
        retiring = [self._retire(room) for room in list(islice(fit, excess))]
        self.limited["max_awake_rooms"] += len(retiring)
        return retiring

    def _min_awake(self, room: _Room) -> float:
        least = room.definition.min_awake
        return self._settings.min_awake if least is msgspec.UNSET else least

    def _keeps_awake(self, room: _Room) -> str | None:
        """Name what keeps a room awake besides recent activity."""
        if room.engine is not None and room.engine.busy is not None:
            return room.engine.busy
        return "queued events" if room.handed or room.waiting or room.held else None

    def retire_all(self) -> list[ActorAddress]:
        """The same for every room that has to go, or if the host stops just every room, once it has nothing to do."""
        states = {_State.MOVING, _State.AWAKE} if self._stopping else {_State.MOVING}
        return [self._retire(room) for room in self._rooms.values() if room.state in states and not room.handed]

    def _retire(self, room: _Room) -> ActorAddress:
        assert room.address is not None
        room.state = _State.RETIRING
        room.retiring_since = self.clock()
        self._retiring += 1
        self._idle.forget(room.name)
        return room.address

    def stayed(self, name: str) -> None:
        """The room had something to do: deliver what came meanwhile."""
        room = self._rooms[name]
        room.state = _State.MOVING if room.moving else _State.AWAKE
        self._retiring -= 1
        self._deliver_waiting(room)

    def exited(self, address: ActorAddress) -> None:
        """A room's actor is gone: after its sleep, or because something killed it."""
        room = self._by_address.pop(address.actorAddressString, None)
        if room is None:
            return
        logger.debug("room is asleep", extra={"room": room.name})
        self._idle.forget(room.name)
        slept = room.state is _State.RETIRING
        if slept:
            self._retiring -= 1
            self.sleeps += 1
        del self._rooms[room.name]
        self._ended += 1
        left = self._left_in_hand(room) + room.waiting
        left += [(gateway, input) for gateway, inputs in room.held.items() for input in inputs]
        # Synthetic closes of a gateway that is gone: without the session there is nobody to say goodbye to.
        left = [(gateway, input) for gateway, input in left if gateway in self.gateways]
        found = room.engine.gateways if room.engine is not None else {}
        holders = {gateway: count for gateway, count in found.items() if gateway in self.gateways}
        room.let_go()
        room.life.ended(self.clock(), slept=slept, gateways=holders)
        if room.moving or (not left and not holders and room.wanted is None):
            del self._lives[room.name]
        if (left or room.wanted is not None) and not room.moving:
            reason = room.wanted or (reason_of(left[0][1]) if slept else "crash")
            successor = self._wake(room.name, reason)
            assert successor is not None
            successor.waiting.extend(left)
            successor.taken = {gateway: input.number for gateway, input in left}
        elif slept and not room.moving:
            for gateway in holders:
                self.entry(gateway, room).asleep = True
        for gateway in room.told.keys() & self.gateways.keys():
            self._over.setdefault(gateway, []).append(room.name)
            self._schedule_flush()
        self._changed.set()

    def _left_in_hand(self, room: _Room) -> list[tuple[str, Arrival]]:
        """Return the inputs a dead actor did not process; the one it had visibly begun is not run again."""
        left = list(room.handed)
        if left:
            self._working -= 1
        if room.shown:
            gateway, input = left[0]
            left[0] = gateway, input if isinstance(input, Interrupted) else Interrupted(input)
        return left

    # --- calls of rooms ------------------------------------------------------------------------------

    def call(
        self,
        room: str,
        method: str,
        arguments: bytes,
        *,
        timeout: float | None,
        idempotency_key: str | None,
        done: Callable[[Outcome], None],
    ) -> None:
        """Call a room, of this host or another, for somebody in the actor system; `done` is told what came of it.

        A gateway carries the call, because gateways know which host has which room, and ends it at its deadline.
        """
        gateway, send = next(iter(self.gateways.items()), ("", None))
        if send is None or self._stopped:
            done(Outcome(code="busy", message="no gateway is linked"))
            return
        token = next(self._call_tokens)
        self._calls[token] = gateway, done
        timeout = self._settings.rpc_timeout if timeout is None else timeout
        send(Invoke("", token, room, method, arguments, timeout, idempotency_key))

    def _end_calls(self, gateway: str | None) -> None:
        """Answer the calls that this gateway, or None for any, will not answer any more."""
        for token, (carrier, done) in tuple(self._calls.items()):
            if gateway in (None, carrier):
                del self._calls[token]
                done(Outcome(code="interrupted"))

    def invoke(self, room: _Room, invoke: Invoke) -> None:
        """Have a gateway carry a call of a room: the one it heard from last, or any."""
        gateway = room.handed[0][0] if room.handed else next(iter(self.gateways), None)
        send = self.gateways.get(gateway) if gateway is not None else None
        if gateway is not None and send is not None:
            room.carried[invoke.token] = gateway
            send(invoke)
        elif room.engine is not None:
            room.engine.replied(invoke.token, Outcome(code="busy"))

    def _replied(self, room: _Room, token: int, outcome: Outcome) -> None:
        room.carried.pop(token, None)
        if room.engine is not None:
            room.engine.replied(token, outcome)

    # --- time budgets ----------------------------------------------------------------------------------

    def _watch_budgets(self) -> None:
        # First, so that nothing that goes wrong below ends the budgets of all.
        self._timer = self._loop.call_later(self._budget_tick, self._watch_budgets)
        self._trimmer.look(self._ended)
        for engine in tuple(self._suspended):
            room = self._rooms.get(engine.name)
            if engine.expire() and room is not None and room.engine is engine:
                assert self._base is not None
                assert room.address is not None
                self._base.abandon(room.address)
                self._tell(room.address, Abandoned())

    # --- flow control ----------------------------------------------------------------------------------

    def _is_full(self, room: str) -> bool:
        return self.flow.ahead(room) > MAX_AHEAD

    def longest_wait(self, gateway: str) -> float:
        """Say for how many seconds a wake has waited for the records of a gateway; 0 if none does."""
        waking = (room for room in self._rooms.values() if room.state is _State.WAKING and gateway in room.expected)
        return self.clock() - min((room.life.since for room in waking), default=self.clock())

    # --- effects ---------------------------------------------------------------------------------------

    def entry(self, gateway: str, room: _Room) -> Entry:
        """Return the entry of this tick for a room and a gateway."""
        entries = self.pending.get(gateway)
        if entries is None:
            entries = self.pending[gateway] = {}
            if self._flush is None:
                self._flush = self._loop.call_soon(self._send_entries)
        entry = entries.get(room)
        if entry is None:
            self._seq += 1
            room.told[gateway] = self._seq
            entry = entries[room] = Entry(room.name, seq=self._seq)
        return entry

    def joins(self, output: Deliver) -> bool:
        """Tell whether a gateway writes this together with the output before: then it costs little more than that."""
        before, self._before = self._before, output
        return (
            before is not None
            and before.connections is output.connections
            and before.exclude == output.exclude
            and self.pending_bytes > 0
        )

    def _schedule_flush(self) -> None:
        if self._flush is None:
            self._flush = self._loop.call_soon(self._send_entries)

    def flush_now(self) -> None:
        """Send what was gathered in this tick; before its end where that is more than memory should hold."""
        if self._flush is not None:
            self._flush.cancel()
            self._send_entries()

    def _send_entries(self) -> None:
        if self.showing:
            self._mark_begun()
        self._flush = None
        pending, self.pending = self.pending, {}
        self.pending_bytes, self._before = 0, None
        if len(self.gateways) > 1:
            _tell_of_others(pending)
        for gateway, entries in pending.items():
            send = self.gateways.get(gateway)
            if send is not None:
                send(EntryBatch(list(entries.values())))
        if self._over:
            self._send_ended()

    def _send_ended(self) -> None:
        """Tell the links which incarnations are over, once all of their entries are sent."""
        ended, self._over = self._over, {}
        for gateway, rooms in ended.items():
            if (send := self.gateways.get(gateway)) is not None:
                send(Ended(rooms))

    def _mark_begun(self) -> None:
        """Tell the gateways whose inputs are in hand what has been seen of them, by whomever."""
        for room in self.showing:
            if room.handed and self._rooms.get(room.name) is room:
                gateway, input = room.handed[0]
                self.entry(gateway, room).begun = input.number
        self.showing.clear()


def _tell_of_others(pending: dict[str, dict[_Room | str, Entry]]) -> None:
    """Write into the entries of a tick what their rooms have said to other gateways, now that all of it is there."""
    for gateway, entries in pending.items():
        for room, entry in entries.items():
            if isinstance(room, _Room) and room.owed:
                entry.others = room.said_to_others(gateway)


async def _call(hook: Callable[[], Any] | None) -> None:
    if hook is not None:
        result = hook()
        if inspect.isawaitable(result):
            await result

"""Be a room host: take inputs from links, keep one room actor per awake room, send entries back.

Who stores attachments and who holds sockets is the gateways' business; when a room sleeps is the hibernation
manager's.

Invariants:
- A room has at most one actor. While one is being made (waking) or torn down (retiring), inputs wait in
  `waiting` and are delivered, in order, to the next one that is awake.
- `handed` holds every input that an actor has and has not processed, in order. An actor that dies with inputs
  in hand leaves them to the next incarnation, but the one whose hook had begun.
- No input is handled before the snapshots of all linked gateways have been merged.
- All effects of one tick leave in one batch per gateway: entries are applied whole, so the outputs of an input
  and its acknowledgement become visible together. An entry marks the input whose hook is still running as begun.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import secrets
import time
from collections import deque
from collections.abc import Callable, Sequence
from enum import Enum
from itertools import count, islice
from typing import Any

import msgspec
from thespian.actors import ActorAddress, ActorSystem

from verani.context import WakeReason
from verani.engine import Attached, Engine, HookFailed, Woken
from verani.frames import error_ack_frame
from verani.messages import (
    Arrival,
    Attach,
    Call,
    Close,
    Connect,
    Deliver,
    Drained,
    Entry,
    EntryBatch,
    Frame,
    GatewayMessage,
    HostMessage,
    InputBatch,
    Interrupted,
    Invoke,
    Kick,
    Outcome,
    Output,
    Pull,
    Record,
    Replied,
    Reply,
    Seat,
    Snapshot,
)
from verani.room import RoomDefinition
from verani.settings import Settings

from .calls import RoomCalls, ServeCalls
from .hibernation import Begin, HibernationManager, LookAround, RetireAll, Wake
from .idle import IdleRooms
from .life import RoomLife, RoomStatus
from .messages import CALLS
from .room import Abandoned, Open, Post
from .room import Deliver as DeliverInputs
from .system import AsyncioSystemBase
from .watchdog import Watchdog

__all__ = ["RoomHost"]

logger = logging.getLogger(__name__)

# How often hooks are checked against their time budget, and rooms for idleness, at most.
_TICK = 0.25

# Idle rooms are not looked for more often than this, however soon they are to sleep.
_SHORTEST = 0.001

# Seconds that a wake waits for the records of a gateway; they are merged later if they come later.
PULL_PATIENCE = 2.0

# Seconds that hooks which are cancelled at the end of a stop get to end.
_LAST_WAIT = 1.0

# Bytes of output that may wait for the end of the tick; as many as a gateway joins.
MAX_PENDING = 256 << 10


class _State(Enum):
    WAKING = "waking"
    AWAKE = "awake"
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
        self.address: ActorAddress | None = None
        self.engine: Engine[Any, Any] | None = None
        # Gateways whose snapshot is awaited: before the room is opened, and after.
        self.expected = set(host.gateways)
        self.late: set[str] = set()
        self.held: dict[str, list[Arrival]] = {}
        self.records: dict[str, list[Record]] = {}
        self.waiting: list[tuple[str, Arrival]] = []
        self.handed: deque[tuple[str, Arrival]] = deque()
        self.patience: asyncio.TimerHandle | None = None
        self.retiring_since = 0.0
        self.seq = 0

    def output(self, gateway: str, output: Output, cause: int | None) -> None:
        self.host.entry(gateway, self).outputs.append(output)
        if isinstance(output, Deliver):
            self.host.weigh(len(output.payload))
        elif isinstance(output, Reply):
            self.host.weigh(len(output.outcome.result or b""))

    def attach(self, gateway: str, attach: Attach | Seat) -> None:
        self.host.entry(gateway, self).attachments.append(attach)

    def invoke(self, invoke: Invoke) -> None:
        self.host.invoke(self, invoke)

    def processed(self, gateway: str, number: int) -> None:
        while self.handed:
            origin, input = self.handed.popleft()
            if origin == gateway and input.number == number:
                break  # what was before it was skipped: its task was cancelled from outside
        self.host.entry(gateway, self).processed = number
        if not self.handed:
            self.host.caught_up(self)


class RoomHost:
    """All rooms of one process, on the running loop."""

    def __init__(
        self,
        definitions: Sequence[RoomDefinition[Any, Any]],
        settings: Settings,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.clock = clock
        self.incarnation = secrets.token_hex(8)
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
        self._retiring = 0
        self._suspended: set[Engine[Any, Any]] = set()
        # Those that want to sleep and have not been asked yet, and of them those to be asked at once.
        self._drowsy: set[Engine[Any, Any]] = set()
        self._to_ask: list[_Room] = []
        self._stopped = False
        self._incarnations = 0
        self._pending: dict[str, dict[str, Entry]] = {}
        self._pending_bytes = 0
        # Who called a room from the actor system and waits for its outcome.
        self._calls: dict[int, Callable[[Outcome], None]] = {}
        self._call_tokens = count(1)
        # How many rooms have inputs in hand.
        self._working = 0
        self._flush: asyncio.Handle | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._system: ActorSystem | None = None
        self._base: AsyncioSystemBase | None = None
        self._manager: ActorAddress | None = None
        self._watchdog = Watchdog(settings.hook_blocked)
        self._empty = asyncio.Event()
        self._empty.set()

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
        timeouts = [t for t in map(self._idle_timeout, self._definitions.values()) if t is not None]
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
        try:
            async with asyncio.timeout(grace):
                while self._rooms:
                    self._tell(self._manager, RetireAll())
                    self._empty.clear()
                    try:
                        await asyncio.wait_for(self._empty.wait(), _TICK)
                    except TimeoutError:
                        continue  # some rooms had something to do; ask again
        except TimeoutError:
            logger.warning("%d rooms did not go to sleep within %g s", len(self._rooms), grace)
        if self._timer is not None:
            self._timer.cancel()
        self._watchdog.stop()
        for room in self._rooms.values():
            if room.patience is not None:
                room.patience.cancel()
            if room.engine is not None:
                room.engine.end()
        self._rooms.clear()
        self._stopped = True
        self._system.shutdown()
        if left := await self._base.closed(_LAST_WAIT):
            logger.warning("%d hooks ignore their cancellation and are left behind", left)
        self._send_entries()
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

    def status(self, name: str, connections: int) -> RoomStatus | None:
        """Explain one room; None for one that this host knows nothing of."""
        life, room, now = self._lives.get(name), self._rooms.get(name), self.clock()
        if life is None:
            return None
        is_retiring = room is not None and room.state is _State.RETIRING
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
        )

    def _explain(self, room: _Room) -> str:
        never = self._idle_timeout(room.definition) is None
        return self._keeps_awake(room) or ("hibernate_after never" if never else "recent activity")

    def next_incarnation(self) -> int:
        """Number the incarnations of this host's rooms."""
        self._incarnations += 1
        return self._incarnations

    def _tell(self, address: ActorAddress, message: object) -> None:
        assert self._base is not None
        self._base.tell(address, message)

    # --- links -----------------------------------------------------------------------------------------

    def link(self, gateway: str, send: Callable[[HostMessage], None]) -> None:
        """Take a gateway; `send` carries messages to it."""
        self.gateways[gateway] = send
        # It may hold connections of rooms that are awake already; what it sends for one waits for its records.
        for room in tuple(self._rooms.values()):
            if room.state is not _State.WAKING:
                room.late.add(gateway)
                send(Pull(room.name, room.incarnation))
            elif gateway not in room.expected:
                room.expected.add(gateway)
                if room.address is not None:
                    send(Pull(room.name, room.incarnation))

    def receive(self, gateway: str, message: GatewayMessage) -> None:
        """Take one message of a gateway; after the stop there is nobody to take it for."""
        if self._stopped:
            return
        match message:
            case InputBatch():
                self._take(gateway, message.inputs)
            case Snapshot():
                self._merge(gateway, message)
            case Drained():
                room = self._rooms.get(message.room)
                if room is not None and room.engine is not None:
                    room.engine.drained(message.token)
            case Replied(room=""):
                if (done := self._calls.pop(message.token, None)) is not None:
                    done(message.outcome)
            case Replied():
                room = self._rooms.get(message.room)
                if room is not None and room.engine is not None:
                    room.engine.replied(message.token, message.outcome)

    def run(self) -> None:
        """Begin to work on what was received, without waiting for the loop's next pass; not from within a room."""
        if self._base is not None:
            self._base.run()

    def _take(self, gateway: str, inputs: list[Arrival]) -> None:
        ready: dict[str, list[Arrival]] = {}
        for input in inputs:
            if type(input) is Call:
                input.expires = self.clock() + input.timeout
            room = self._rooms.get(input.room) or self._wake(input.room, type(input).__name__.lower())
            if room is None:
                self._refuse(gateway, input)
            elif room.late and gateway in room.late:
                room.held.setdefault(gateway, []).append(input)
            elif room.state is _State.AWAKE:
                ready.setdefault(input.room, []).append(input)
            else:
                room.waiting.append((gateway, input))
        for name, batch in ready.items():
            self._deliver(self._rooms[name], gateway, batch)

    def _refuse(self, gateway: str, arrival: Arrival) -> None:
        """Turn away what is for a definition that this host does not have."""
        input = arrival.input if isinstance(arrival, Interrupted) else arrival
        entry = self._pending.setdefault(gateway, {}).setdefault(input.room, Entry(input.room))
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
        self.mark_active(room)
        self._tell(room.address, DeliverInputs(gateway, inputs))

    def caught_up(self, room: _Room) -> None:
        """A room has processed all it was given; when every room has, their entries need not wait for the next tick."""
        self.mark_active(room)
        self._working -= 1
        if not self._working:
            self._flush_now()
        if self._drowsy and room.engine in self._drowsy and self._keeps_awake(room) is None:
            assert self._manager is not None
            self._to_ask.append(room)
            self._tell(self._manager, LookAround())

    # --- waking ----------------------------------------------------------------------------------------

    def _wake(self, name: str, woken_by: str, reason: WakeReason = "event") -> _Room | None:
        definition = self._definitions.get(name.partition("/")[0])
        if definition is None or self._manager is None:
            return None
        now = self.clock()
        life = self._lives.get(name)
        if life is None:
            life = self._lives[name] = RoomLife(now)
        life.wakes(now, woken_by)
        self.wakes += 1
        room = self._rooms[name] = _Room(self, definition, name, reason, life)
        self._tell(self._manager, Wake(name))
        return room

    def created(self, name: str, address: ActorAddress) -> None:
        """The manager made the room's actor: ask the gateways for its records."""
        room = self._rooms[name]
        # What the last incarnation left must be applied before its gateway answers with the state it led to.
        self._flush_now()
        room.address = address
        self._by_address[address.actorAddressString] = room
        for gateway in list(room.expected):
            self.gateways[gateway](Pull(name, room.incarnation))
        if room.expected:
            room.patience = self._loop.call_later(PULL_PATIENCE, self._open_without, room)

    def _merge(self, gateway: str, snapshot: Snapshot) -> None:
        room = self._rooms.get(snapshot.room)
        if room is None or room.incarnation != snapshot.incarnation:
            return  # the answer to an earlier question
        if gateway not in room.late and gateway not in room.expected:
            return  # nobody asked
        room.records.setdefault(gateway, []).extend(snapshot.records)
        if not snapshot.last:
            return
        if gateway in room.late:
            self._attach(room, gateway)
        else:
            room.expected.discard(gateway)
            if not room.expected:
                self._open(room)

    def _open_without(self, room: _Room) -> None:
        """Wake without the gateways that do not answer; what they send for the room waits for their records."""
        logger.warning("room wakes without the records of %d gateways", len(room.expected), extra={"room": room.name})
        room.late, room.expected = room.expected, set()
        for gateway, input in room.waiting:
            if gateway in room.late:
                room.held.setdefault(gateway, []).append(input)
        room.waiting = [entry for entry in room.waiting if entry[0] not in room.late]
        self._open(room)

    def _attach(self, room: _Room, gateway: str) -> None:
        """Merge records that came late, then deliver what has waited for them."""
        assert room.address is not None
        room.late.discard(gateway)
        records = tuple(room.records.pop(gateway, ()))
        held = [(gateway, input) for input in room.held.pop(gateway, ())]
        if records:
            self._tell(room.address, Post(Attached(gateway, records)))
        room.waiting += held
        if room.state is _State.AWAKE:
            self._deliver_waiting(room)

    def _open(self, room: _Room) -> None:
        assert room.address is not None
        if room.patience is not None:
            room.patience.cancel()
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
                clock=self.clock,
            )
            for _, input in room.handed:
                if isinstance(input, Close):
                    room.engine.note_close(input.connection)
            return room.engine

        # Of a late gateway some chunks may have come; the rest of them completes what `_attach` merges.
        records = tuple((g, tuple(found)) for g, found in room.records.items() if found and g not in room.late)
        room.records = {g: found for g, found in room.records.items() if g in room.late}
        logger.debug("room wakes: %s", room.reason, extra={"room": room.name})
        self._tell(address, Open(start, Woken(records, room.reason), lambda: room.life.woke(self.clock())))
        room.state = _State.AWAKE
        self._deliver_waiting(room)

    def _deliver_waiting(self, room: _Room) -> None:
        waiting, room.waiting = room.waiting, []
        for gateway, input in waiting:
            self._deliver(room, gateway, [input])
        self.mark_active(room)

    # --- sleeping --------------------------------------------------------------------------------------

    def _idle_timeout(self, definition: RoomDefinition[Any, Any]) -> float | None:
        timeout = definition.hibernate_after
        return self._settings.hibernate_after if timeout is msgspec.UNSET else timeout

    def mark_active(self, room: _Room) -> None:
        """Start the room's idle clock anew."""
        timeout = self._idle_timeout(room.definition)
        if timeout is not None and room.state is _State.AWAKE:
            self._idle.mark(room.name, timeout, self.clock())

    def retire_idle(self) -> list[ActorAddress]:
        """Mark the rooms that are to sleep as retiring and return their actors.

        Those are the idle ones, those that want to, and above the cap those idle for the longest time. The cap is
        soft: a wake never waits for it, and rooms younger than `min_awake` stay.
        """
        now = self.clock()
        retiring: list[ActorAddress] = []
        for name in self._idle.due(now):
            room = self._rooms[name]
            if self._keeps_awake(room) is None:
                retiring.append(self._retire(room))
            else:
                self.mark_active(room)
        for engine in tuple(self._drowsy):
            wanting = self._rooms.get(engine.name)
            if wanting is not None and wanting.state is _State.AWAKE and self._keeps_awake(wanting) is None:
                retiring.append(self._retire(wanting))
        self.excess = max(0, len(self._rooms) - self._retiring - self._settings.max_awake_rooms)
        if self.excess:
            retiring += self._retire_oldest(self.excess, now)
        return retiring

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
        return [self._retire(room) for room in list(islice(fit, excess))]

    def _min_awake(self, room: _Room) -> float:
        least = room.definition.min_awake
        return self._settings.min_awake if least is msgspec.UNSET else least

    def _keeps_awake(self, room: _Room) -> str | None:
        """Name what keeps a room awake besides recent activity."""
        if room.engine is not None and room.engine.busy is not None:
            return room.engine.busy
        return "queued events" if room.handed or room.waiting or room.held else None

    def retire_all(self) -> list[ActorAddress]:
        """The same for every awake room that has nothing to do."""
        return [self._retire(room) for room in self._rooms.values() if room.state is _State.AWAKE and not room.handed]

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
        room.state = _State.AWAKE
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
        if room.patience is not None:
            room.patience.cancel()
        del self._rooms[room.name]
        room.life.ended(self.clock(), slept=slept)
        left = self._left_in_hand(room) + room.waiting
        left += [(gateway, input) for gateway, inputs in room.held.items() for input in inputs]
        if not left and (room.engine is None or room.engine.is_empty):
            del self._lives[room.name]
        if left:
            woken_by = type(left[0][1]).__name__.lower() if slept else "crash"
            successor = self._wake(room.name, woken_by, "event" if slept else "crash")
            assert successor is not None
            successor.waiting.extend(left)
        if not self._rooms:
            self._empty.set()

    def _left_in_hand(self, room: _Room) -> list[tuple[str, Arrival]]:
        """Return the inputs a dead actor did not process; the one it had begun is not run again."""
        left = list(room.handed)
        if left:
            self._working -= 1
        if left and room.engine is not None and room.engine.running is not None:
            gateway, input = left.pop(0)
            entry = self.entry(gateway, room)
            entry.processed = input.number
            if isinstance(input, Call):
                entry.outputs.append(Reply(input.number, Outcome(code="interrupted")))
            elif isinstance(input, Frame) and input.request is not None:
                payload = error_ack_frame(input.request, "interrupted")
                entry.outputs.append(Deliver((input.connection,), payload))
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
        send = next(iter(self.gateways.values()), None)
        if send is None or self._stopped:
            done(Outcome(code="busy", message="no gateway is linked"))
            return
        token = next(self._call_tokens)
        self._calls[token] = done
        timeout = self._settings.rpc_timeout if timeout is None else timeout
        send(Invoke("", token, room, method, arguments, timeout, idempotency_key))

    def invoke(self, room: _Room, invoke: Invoke) -> None:
        """Have a gateway carry a call of a room: the one it heard from last, or any."""
        gateway = room.handed[0][0] if room.handed else next(iter(self.gateways), None)
        send = self.gateways.get(gateway) if gateway is not None else None
        if send is not None:
            send(invoke)
        elif room.engine is not None:
            room.engine.replied(invoke.token, Outcome(code="busy"))

    # --- time budgets ----------------------------------------------------------------------------------

    def _watch_budgets(self) -> None:
        # First, so that nothing that goes wrong below ends the budgets of all.
        self._timer = self._loop.call_later(self._budget_tick, self._watch_budgets)
        for engine in tuple(self._suspended):
            room = self._rooms.get(engine.name)
            if engine.expire() and room is not None and room.engine is engine:
                assert self._base is not None
                assert room.address is not None
                self._base.abandon(room.address)
                self._tell(room.address, Abandoned())

    # --- effects ---------------------------------------------------------------------------------------

    def entry(self, gateway: str, room: _Room) -> Entry:
        """Return the entry of this tick for a room and a gateway."""
        entries = self._pending.get(gateway)
        if entries is None:
            entries = self._pending[gateway] = {}
            self._schedule_flush()
        entry = entries.get(room.name)
        if entry is None:
            room.seq += 1
            entry = entries[room.name] = Entry(room.name, seq=room.seq)
        return entry

    def weigh(self, size: int) -> None:
        """Count output of this tick; a lot of it leaves at once, so that no tick gathers more than memory holds."""
        self._pending_bytes += size
        if self._pending_bytes > MAX_PENDING:
            self._flush_now()

    def _schedule_flush(self) -> None:
        if self._flush is None:
            self._flush = self._loop.call_soon(self._send_entries)

    def _flush_now(self) -> None:
        if self._flush is not None:
            self._flush.cancel()
            self._send_entries()

    def _send_entries(self) -> None:
        self._flush = None
        pending, self._pending = self._pending, {}
        self._pending_bytes = 0
        for gateway, entries in pending.items():
            send = self.gateways.get(gateway)
            if send is None:
                continue
            self._mark_begun(gateway, entries)
            send(EntryBatch(list(entries.values())))

    def _mark_begun(self, gateway: str, entries: dict[str, Entry]) -> None:
        for name, entry in entries.items():
            room = self._rooms.get(name)
            running = room.engine.running if room is not None and room.engine is not None else None
            if running is not None and running[0] == gateway and entry.outputs:
                entry.begun = running[1]


async def _call(hook: Callable[[], Any] | None) -> None:
    if hook is not None:
        result = hook()
        if inspect.isawaitable(result):
            await result

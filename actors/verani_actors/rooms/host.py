"""Be a room host: take inputs from links, keep one room actor per awake room, send entries back.

Who stores attachments and who holds sockets is the gateways' business. This file finds the room of an input; each of
its siblings is one noun of a host: `succession`, `opening`, `sleeping`, `moving`, `tick_entries`, `engines`.

Invariants:
- Inputs of rooms that this host does not own, or has lost, are not taken: their gateways keep them and send them to
  the owner. An input is taken once, however often it is sent.
- An input is given to its room, waits there, or is turned away; a room without an actor is woken by it.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from verani.engine.marking import Marker
from verani.engine.room_events import reason_of
from verani.link.messages import (
    Arrival,
    CallInput,
    Connect,
    Drained,
    GatewayMessage,
    HostMessage,
    InputBatch,
    InterruptedInput,
    Kick,
    Outcome,
    Output,
    Rebuild,
    Replied,
    Reply,
    Snapshot,
    TakenCall,
)
from verani.room.context import WakeReason
from verani.room.definition import RoomDefinition
from verani.settings import Settings

from ..links.flow import Flow
from ..membership.share import Ownership
from ..upkeep.watchdog import Watchdog
from .actor_system import RoomActors
from .carried_calls import CarriedCalls
from .directory import RoomDirectory
from .engines import Engines
from .hibernation import Begin
from .hook_failures import HookFailures
from .hosted_room import AWAKE, HostedRoom, RoomState
from .kinds import kinds_for
from .moving import Moving
from .opening import RoomOpening
from .room_status import RoomStatus
from .shared import SharedParts
from .sleeping import Sleeping
from .startup import StartedDefinitions
from .succession import Succession
from .tick_entries import TickEntries

__all__ = ["ROOM_LIMITS", "RoomHost"]

logger = logging.getLogger(__name__)

# The settings that limit rooms; what each did is counted in `RoomHost.limited`.
ROOM_LIMITS = ("hook_timeout", "max_awake_rooms", "max_meta_bytes")


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
        self.ownership = ownership if ownership is not None else Ownership()
        self.gateways: dict[str, Callable[[HostMessage], None]] = {}
        # How far rooms are ahead of the gateways in other processes.
        self.flow = Flow()
        # What limits did to rooms, by setting.
        self.limited: Counter[str] = Counter(dict.fromkeys(ROOM_LIMITS, 0))
        self.directory = RoomDirectory(clock, definitions)
        self.entries = TickEntries(self.gateways)
        self.calls = CarriedCalls(self.gateways, settings.rpc_timeout)
        self.actors = RoomActors()
        self.sleeping = Sleeping(
            definitions,
            settings,
            self.directory.rooms,
            limited=self.limited,
            tell_manager=self.actors.tell_manager,
            clock=clock,
        )
        parts = SharedParts(
            self.directory, self.gateways, self.ownership, self.entries, self.sleeping, self.actors, self.flow, clock
        )
        kind, hooks = kinds_for(settings)
        self._engines = Engines(parts, settings, limited=self.limited, marker=marker, hooks=hooks)
        self._opening = RoomOpening(parts, self._engines)
        self._succession = Succession(parts, definitions, opening=self._opening, calls=self.calls, kind=kind)
        self.moving = Moving(parts)
        self._definitions = tuple(definitions)
        self._started = StartedDefinitions(settings.hook_timeout)
        self._watchdog = watchdog if watchdog is not None else Watchdog(settings.hook_blocked)
        self._clock = clock
        self._stopped = False

    # --- life ------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Run the definitions' `on_startup`, then take inputs.

        Raises what a hook raises, after the `on_shutdown` of the definitions that had started.
        """
        await self._started.start(self._definitions)
        self.actors.start(Begin(self._succession, self.sleeping, self.sleeping.period), self.calls)
        self._engines.start()
        self._watchdog.start()

    async def stop(self, grace: float) -> None:
        """Put all rooms to sleep, waiting at most `grace` seconds, then run `on_shutdown`.

        Rooms whose hooks have not ended by then are torn down with what they hold.
        """
        rooms = self.directory.rooms
        try:
            await self.sleeping.put_to_sleep(lambda: bool(rooms), grace, stops=True)
        except TimeoutError:
            logger.warning("%d rooms did not go to sleep within %g s", len(rooms), grace)
        self._opening.stop_settling()
        self._engines.stop()
        self._watchdog.stop()
        left = self._succession.end()
        self._stopped = True
        self.calls.end()
        if stubborn := await self.actors.stop():
            logger.warning("%d hooks ignore their cancellation and are left behind", stubborn)
        self.entries.flush()
        for room in left:
            room.let_go()
        await self._started.stop()

    # --- what operators ask ----------------------------------------------------------------------------

    def rooms(self) -> dict[str, str]:
        """Name the rooms of this host that are not asleep, and their states."""
        return self.directory.states()

    def known_rooms(self) -> list[str]:
        """Name the rooms that are not asleep, then those that sleep with connections."""
        return self.directory.names()

    def status(self, name: str, connections: int | None = None) -> RoomStatus | None:
        """Explain one room; None for one that this host knows nothing of. `connections` where somebody knows better."""
        return self.directory.status(name, connections, self.sleeping)

    @property
    def failures(self) -> HookFailures:
        """What the hooks of its rooms raised last."""
        return self._engines.failures

    def wake(self, name: str, reason: WakeReason = "call") -> bool:
        """Have a room awake though nothing is there for it to handle; False where it is not this host's to wake."""
        room = self.directory.rooms.get(name)
        if room is not None:
            goes = self.sleeping.retired_at(room) is not None or room.is_back(self.ownership)
            room.wanted = reason if goes else None
            return True
        return not self._stopped and self.ownership.owns(name) and self._succession.wake(name, reason) is not None

    def wake_at_once(self, name: str) -> bool:
        """Wake a room that sleeps, for a connection, within this call; not from within a room.

        False, and nothing done, where code of the application's runs for one in which nobody is, or anything else is to
        be done before; it may be waking still.
        """
        if name in self.directory.rooms or self.entries.pending or not self._succession.wakes_silently(name):
            return False
        if not self.actors.base.has_nothing_to_do or not self.wake(name, "connect"):
            return False
        self.run()
        return True

    def hibernate(self, name: str) -> bool:
        """Have a room sleep as soon as nothing is going on in it; False for one that is not awake here."""
        room = self.directory.rooms.get(name)
        if room is None or room.state is not RoomState.AWAKE or room.engine is None:
            return False
        room.engine.hibernate()
        return True

    @property
    def wakes(self) -> int:
        """How often rooms woke."""
        return self.directory.wakes

    # --- links -----------------------------------------------------------------------------------------

    def settle(self, is_whole: Callable[[], bool], seconds: float) -> None:
        """Have rooms wait for gateways that are not linked yet: until `is_whole` says that all are, at most so long.

        For a host that has just become a member: gateways learn of it one after the other, and connections of those
        that come late would miss what a room says before.
        """
        self._opening.settle(is_whole, seconds)

    def link(self, gateway: str, send: Callable[[HostMessage], None]) -> None:
        """Take a gateway; `send` carries messages to it."""
        self.gateways[gateway] = send
        self._opening.linked(gateway)

    def unlink(self, gateway: str) -> list[str]:
        """Give a gateway up: its sessions in rooms that are awake get their `on_disconnect`.

        Returns these rooms, those that had inputs of it, which are dropped, and those that go on without its records.
        """
        if self.gateways.pop(gateway, None) is None:
            return []
        self.entries.lose(gateway)
        self.calls.lose(gateway)
        self.directory.lose(gateway)
        return [room.name for room in tuple(self.directory.rooms.values()) if self._opening.lost(room, gateway)]

    def flush(self) -> None:
        """Have what rooms have said in this tick leave before its end."""
        self.entries.flush()

    def longest_wait(self, gateway: str) -> float:
        """Say for how many seconds a wake has waited for the records of a gateway; 0 if none does."""
        return self.directory.longest_wait(gateway)

    def run(self) -> None:
        """Begin to work on what was received, without waiting for the loop's next pass; not from within a room."""
        if self.actors.has_started:
            self.actors.base.run()

    # --- inputs ----------------------------------------------------------------------------------------

    def receive(self, gateway: str, message: GatewayMessage) -> None:
        """Take one message of a gateway; after the stop there is nobody to take it for."""
        if self._stopped:
            return
        match message:
            case InputBatch():
                self._take(gateway, message)
            case Snapshot():
                self._opening.merge(gateway, message)
            case Drained():
                room = self.directory.rooms.get(message.room)
                if room is not None and room.engine is not None:
                    room.engine.drained(message.token)
            case Replied():
                self.calls.replied(message.room, message.token, message.outcome)
            case Rebuild():
                self.wake(message.room, message.reason)

    def _take(self, gateway: str, batch: InputBatch) -> None:
        ready: dict[str, list[tuple[str, Arrival]]] = {}
        # The inputs that go with the one before, if that was for a room which can take it.
        name = ""
        together: list[tuple[str, Arrival]] = []
        inputs: Sequence[Arrival] = batch.inputs
        if batch.again or batch.epoch != self.ownership.epoch:
            inputs = self._not_taken(gateway, batch)
        for input in inputs:
            if type(input) is CallInput:
                input = TakenCall.of(input, self._clock() + input.timeout)
            if input.room == name:
                together.append((gateway, input))
                continue
            name = ""
            room = self.directory.rooms.get(input.room)
            if room is not None and room.state is AWAKE and gateway not in room.pulled.late:
                name = input.room
                together = ready.setdefault(name, [])
                together.append((gateway, input))
            elif room is not None:
                self._keep(room, gateway, input)
            elif self.ownership.owns(input.room):
                room = self._succession.wake(input.room, reason_of(input))
                if room is not None:
                    room.wait(gateway, input)
                else:
                    self._refuse(gateway, input)
        for name, together in ready.items():
            self.directory.rooms[name].deliver(together)

    def _not_taken(self, gateway: str, batch: InputBatch) -> list[Arrival]:
        """Choose what to take of inputs that may have been sent before, to this host or another."""
        found: list[Arrival] = []
        for arrival in batch.inputs:
            room = self.directory.rooms.get(arrival.room)
            if room is not None and not room.is_new(gateway, arrival):
                continue
            # What is of an earlier spell of ownership is sent again; what came after it in that spell would overtake.
            if batch.epoch >= self.ownership.since(arrival.room):
                if room is None or room.state is RoomState.GONE:
                    found.append(arrival)
                else:
                    found.append(room.pulled.as_seen(gateway, arrival))
        return found

    def _keep(self, room: HostedRoom, gateway: str, arrival: Arrival) -> None:
        """Have an input wait at a room which cannot take it now; one that moves takes nothing more."""
        if room.is_back(self.ownership):
            room.wait(gateway, arrival)
        elif not room.state.moves:
            if gateway in room.pulled.late:
                room.hold(gateway, arrival)
            else:
                room.wait(gateway, arrival)

    def _refuse(self, gateway: str, arrival: Arrival) -> None:
        """Turn away what is for a definition that this host does not have."""
        input = arrival.input if isinstance(arrival, InterruptedInput) else arrival
        output: Output
        if isinstance(input, CallInput):
            output = Reply(input.number, Outcome(code="not_found"))
        else:
            if isinstance(input, Connect):
                logger.error("connection closed: no room definition for %s", input.room)
            output = Kick(input.connection, 1011, refused=True)
        self.entries.refuse(gateway, input.room, input.number, output)

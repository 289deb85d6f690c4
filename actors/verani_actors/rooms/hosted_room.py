"""Be one room of a host, from the wake of an incarnation to the exit of its actor: its state, its inputs, its effects.

Which gateways are asked for records is `Pulled`'s business, what leaves together that of `TickEntries`.

Invariants:
- The state changes by `TRANSITIONS` alone.
- `in_flight` holds every input that the actor has and has not processed, in order; the first of them is the input in
  hand. An actor that dies leaves them to the next incarnation, the one in hand as `Interrupted` if it had an effect.
- While the actor is made, retires or is torn down, inputs wait in `waiting`, in order.
- Once the room is gone, nothing of it leaves.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum, auto
from functools import partial
from typing import Any, Final

from msgspec import Struct
from thespian.actors import ActorAddress

from verani.engine.engine import Engine
from verani.link.messages import Arrival, Attach, Close, Deliver, InterruptedInput, Invoke, Output, Seat
from verani.room.context import WakeReason
from verani.room.definition import RoomDefinition

from ..membership.share import Ownership
from .carried_calls import CarriedCalls
from .hearsay import Reach
from .pulled import Pulled
from .room_actor import HandleInputs
from .room_status import RoomLife
from .tick_entries import MAX_PENDING, TickEntries

__all__ = ["AWAKE", "TRANSITIONS", "HostedRoom", "RoomChange", "RoomServices", "RoomState", "Visit"]

# Close code of sessions whose gateway is gone (RFC 6455 7.1.5: no close frame came).
_LOST: Final = 1006


class RoomState(Enum):
    """What a room does: as an operator reads it, and whether another host is to have it.

    A room that moves finishes what is in flight; it takes nothing more and gets no successor here.
    """

    WAKING = "waking", False
    AWAKE = "awake", False
    RETIRING = "retiring", False
    WAKING_TO_MOVE = "waking", True
    MOVING = "moving", True
    RETIRING_TO_MOVE = "retiring", True
    # Its actor is killed; whatever a hook that is cut off still does, nothing of it leaves.
    GONE = "moving", True, "gone"

    def __init__(self, shown: str, moves: bool, _: str = "") -> None:
        self.shown = shown
        self.moves = moves


class RoomChange(Enum):
    """What happens to a room."""

    OPENED = auto()
    RETIRED = auto()
    STAYED = auto()
    RELEASED = auto()
    KEPT = auto()
    ABANDONED = auto()


# What is not in the table changes nothing.
TRANSITIONS: Final[dict[RoomState, dict[RoomChange, RoomState]]] = {
    RoomState.WAKING: {
        RoomChange.OPENED: RoomState.AWAKE,
        RoomChange.RELEASED: RoomState.WAKING_TO_MOVE,
        RoomChange.ABANDONED: RoomState.GONE,
    },
    RoomState.AWAKE: {
        RoomChange.RETIRED: RoomState.RETIRING,
        RoomChange.RELEASED: RoomState.MOVING,
        RoomChange.ABANDONED: RoomState.GONE,
    },
    RoomState.RETIRING: {
        RoomChange.STAYED: RoomState.AWAKE,
        RoomChange.RELEASED: RoomState.RETIRING_TO_MOVE,
        RoomChange.ABANDONED: RoomState.GONE,
    },
    RoomState.WAKING_TO_MOVE: {
        RoomChange.OPENED: RoomState.MOVING,
        RoomChange.KEPT: RoomState.WAKING,
        RoomChange.ABANDONED: RoomState.GONE,
    },
    RoomState.MOVING: {
        RoomChange.RETIRED: RoomState.RETIRING_TO_MOVE,
        RoomChange.KEPT: RoomState.AWAKE,
        RoomChange.ABANDONED: RoomState.GONE,
    },
    RoomState.RETIRING_TO_MOVE: {
        RoomChange.STAYED: RoomState.MOVING,
        RoomChange.KEPT: RoomState.RETIRING,
        RoomChange.ABANDONED: RoomState.GONE,
    },
    RoomState.GONE: {},
}

# To look up a member of an enumeration costs as much as ten attributes in Python 3.11.
AWAKE: Final = RoomState.AWAKE
_GONE: Final = RoomState.GONE


@dataclass(frozen=True, slots=True)
class RoomServices:
    """What the rooms of one host use: `caught_up` is called whenever one has processed all that it was given.

    `counts` says how many are in each state.
    """

    entries: TickEntries
    calls: CarriedCalls
    caught_up: Callable[[HostedRoom], None]
    tell: Callable[[ActorAddress, object], None]
    counts: Counter[str]


class Visit(Struct):
    """What a room says while it is visited."""

    said: list[Output] = []
    attached: list[Attach | Seat] = []
    # How many there were before the last frame; and how much of what is said has been weighed, and what that weighs.
    before: int = 0
    weighed: int = 0
    weight: int = 0


class HostedRoom:
    """One incarnation of a room; also the sink of its engine."""

    __slots__ = (
        "__weakref__",
        "_entries",
        "_services",
        "address",
        "definition",
        "engine",
        "has_begun",
        "in_flight",
        "life",
        "name",
        "pulled",
        "reach",
        "rests_until",
        "state",
        "taken",
        "visit",
        "waiting",
        "wanted",
    )

    def __init__(
        self,
        name: str,
        definition: RoomDefinition[Any, Any],
        life: RoomLife,
        pulled: Pulled,
        services: RoomServices,
    ) -> None:
        """Begin to wake."""
        self.name = name
        self.definition = definition
        self.life = life
        self.state = RoomState.WAKING
        self.address: ActorAddress | None = None
        self.engine: Engine[Any, Any] | None = None
        self.pulled = pulled
        # What it has said that its gateways cannot get again.
        self.reach = Reach()
        self.waiting: list[tuple[str, Arrival]] = []
        self.in_flight: deque[tuple[str, Arrival]] = deque()
        # The highest input of each gateway that was taken, or that an earlier owner had done.
        self.taken: dict[str, int] = {}
        # Whether the input in hand has had an effect that others may see.
        self.has_begun = False
        # A gateway wants it awake again as soon as it sleeps.
        self.wanted: WakeReason | None = None
        # What it says goes there while it is visited; and when it may be visited again.
        self.visit: Visit | None = None
        self.rests_until = 0.0
        self._services = services
        self._entries = services.entries
        services.counts[self.state.shown] += 1

    # --- state -----------------------------------------------------------------------------------------

    def enter(self, change: RoomChange) -> None:
        """Change the state by the table."""
        counts = self._services.counts
        counts[self.state.shown] -= 1
        self.state = TRANSITIONS[self.state].get(change, self.state)
        counts[self.state.shown] += 1

    def is_back(self, ownership: Ownership) -> bool:
        """Whether it is abandoned and its host's again: what comes is for the next incarnation."""
        return self.state is _GONE and ownership.owns(self.name)

    @property
    def takes_inputs(self) -> bool:
        """Whether the actor is there to be given inputs."""
        return self.state is AWAKE or self.state is RoomState.MOVING

    @property
    def has_opened(self) -> bool:
        """Whether all records that it waited for have been merged."""
        return self.state is not RoomState.WAKING and self.state is not RoomState.WAKING_TO_MOVE

    @property
    def kept_awake_by(self) -> str | None:
        """Name what keeps the room awake besides recent activity."""
        if self.engine is not None and self.engine.busy is not None:
            return self.engine.busy
        return "queued events" if self.in_flight or self.waiting or self.pulled.held else None

    # --- inputs ----------------------------------------------------------------------------------------

    def is_new(self, gateway: str, arrival: Arrival) -> bool:
        """Tell whether an input was not taken before."""
        return arrival.number > self.taken.get(gateway, 0)

    def wait(self, gateway: str, arrival: Arrival) -> None:
        """Keep an input until the actor is there."""
        self.waiting.append((gateway, arrival))
        self.taken[gateway] = arrival.number

    def hold(self, gateway: str, arrival: Arrival) -> None:
        """Keep an input until the late records of its gateway are merged."""
        self.pulled.held.setdefault(gateway, []).append(arrival)
        self.taken[gateway] = arrival.number

    def deliver(self, inputs: list[tuple[str, Arrival]]) -> None:
        """Give inputs, of one gateway, to the actor; what a hook brings about in a visit waits for the end of that."""
        assert self.address is not None
        if self.visit is not None:
            for each in inputs:
                self.wait(*each)
            return
        if not self.in_flight:
            self._entries.working += 1
        self.in_flight.extend(inputs)
        for _, arrival in inputs:
            if type(arrival) is Close and self.engine is not None:
                self.engine.note_close(arrival.connection)
        self.life.inputs += len(inputs)
        gateway, last = inputs[-1]
        self.taken[gateway] = last.number
        self._services.tell(self.address, HandleInputs(inputs))

    def deliver_waiting(self) -> None:
        """Give the actor what has waited for it."""
        waiting, self.waiting = self.waiting, []
        for input in waiting:
            self.deliver([input])

    def drop_processed(self, gateway: str, processed: int) -> None:
        """Drop inputs that were long under way: an earlier owner has processed them."""
        self.taken[gateway] = max(processed, self.taken.get(gateway, 0))
        self.waiting = [(g, i) for g, i in self.waiting if g != gateway or i.number > processed]
        self.pulled.drop_processed(gateway, processed)

    def drop_waiting(self) -> None:
        """Drop what the actor does not have; it is taken when it is sent again."""
        for gateway, arrival in (*self.waiting, *self.pulled.all_held()):
            if gateway in self.taken:
                self.taken[gateway] = min(arrival.number - 1, self.taken[gateway])
        self.waiting.clear()
        self.pulled.held.clear()

    def lose(self, gateway: str) -> bool:
        """Give a gateway up; False if it had nothing here. Its sessions get their `on_disconnect`."""
        kept = [entry for entry in self.waiting if entry[0] != gateway]
        had = len(kept) < len(self.waiting) or any(origin == gateway for origin, _ in self.in_flight)
        self.waiting = kept
        had |= self.pulled.lose(gateway)
        if self.engine is not None:
            had |= self._close_all(self.engine, gateway)
        # Should it come back, it sends again what it has not heard the end of, and waits for that.
        self.taken.pop(gateway, None)
        self.reach.lose(gateway, self._entries.gateways)
        return had

    def _close_all(self, engine: Engine[Any, Any], gateway: str) -> bool:
        engine.lost(gateway)
        closes: list[tuple[str, Arrival]] = [
            (gateway, Close(self.name, 0, id, _LOST, "gateway lost")) for id in engine.connections_of(gateway)
        ]
        if closes and self.takes_inputs:
            self.deliver(closes)
        else:
            self.waiting += closes
        return bool(closes)

    def left(self, gateways: Iterable[str]) -> list[tuple[str, Arrival]]:
        """Return the inputs that a dead actor did not process, of these gateways; the one that it had begun goes first.

        Without its gateway a session is over, and its close has nobody to say goodbye to.
        """
        left = list(self.in_flight)
        if left:
            self._entries.working -= 1
        if self.has_begun:
            gateway, arrival = left[0]
            left[0] = gateway, arrival if isinstance(arrival, InterruptedInput) else InterruptedInput(arrival)
        return [entry for entry in (*left, *self.waiting, *self.pulled.all_held()) if entry[0] in gateways]

    # --- effects ---------------------------------------------------------------------------------------

    def output(self, gateway: str, output: Output, cause: int | None) -> None:
        visit = self.visit
        if visit is not None:
            if type(output) is Deliver:
                self.life.deliveries += len(output.connections)
            visit.said.append(output)
            return
        entries = self._entries
        if self.state is _GONE or gateway not in entries.gateways:
            return
        if type(output) is Deliver:
            self.life.deliveries += len(output.connections)
        entry = entries.add(gateway, self, output)
        if cause is None or self.reach.shared or self.in_flight[0][0] != gateway:
            self._note_reach(gateway, entry.seq, cause)
        if cause is not None and not self.has_begun:
            self.has_begun = True
            entries.begun.add(self)
        if entries.weight > MAX_PENDING:
            entries.flush()

    def attach(self, gateway: str, attach: Attach | Seat, cause: int | None) -> None:
        if self.visit is not None:
            self.visit.attached.append(attach)
            return
        if self.state is _GONE or gateway not in self._entries.gateways:
            return
        # What a hook commits leaves together: `processed` is the next occasion to send it.
        entry = self._entries.add_attachment(gateway, self, attach)
        if type(attach) is Attach and (cause is None or self.reach.shared or self.in_flight[0][0] != gateway):
            self._note_reach(gateway, entry.seq, cause)
        if cause is not None and not self.has_begun:
            self.has_begun = True
            self._entries.begun.add(self)

    def _note_reach(self, gateway: str, seq: int, cause: int | None) -> None:
        origin = self.in_flight[0][0] if cause is not None else None
        self.reach.note(gateway, seq, cause, origin)

    def invoke(self, invoke: Invoke) -> None:
        if self.engine is not None:
            preferred = self.in_flight[0][0] if self.in_flight else None
            self._services.calls.carry(self.name, invoke, partial(self.engine.replied, invoke.token), preferred)

    def processed(self, gateway: str, number: int) -> None:
        if self.visit is not None or self.state is _GONE:
            return
        in_flight = self.in_flight
        while in_flight:
            origin, arrival = in_flight.popleft()
            if origin == gateway and arrival.number == number:
                break  # what was before it was skipped: its task was cancelled from outside
        self.has_begun = False
        self._entries.acknowledge(gateway, self, number, is_last=not in_flight)
        if not in_flight:
            self._services.caught_up(self)

    # --- end -------------------------------------------------------------------------------------------

    def end(self) -> None:
        """Cut off what the engine runs: it does nothing more."""
        if self.engine is not None:
            self.engine.end()

    def cut_off(self) -> None:
        """End, and forget the inputs: whoever owns the room next is sent them again."""
        self.end()
        if self.in_flight:
            self._entries.working -= 1
            self.in_flight.clear()
        self.taken.clear()
        self.has_begun = False

    def let_go(self) -> None:
        """Part from the engine, whose sink this is: the memory of a room is free when its actor is gone."""
        engine, self.engine = self.engine, None
        if engine is not None:
            engine.end()
            engine.let_go()

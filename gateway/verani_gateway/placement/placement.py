"""Know which link leads to the owner of a room: the seam between a gateway and the room hosts, and its two sides.

`Embedded` is the one host in this process; `verani_gateway.placement.hosts` has those of other processes. What a
gateway does with what a host says is the gateway's business.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

from verani.link.messages import (
    Attach,
    Entry,
    EntryBatch,
    GatewayMessage,
    HostMessage,
    Input,
    Invoke,
    Outcome,
    Output,
    Pull,
    Replied,
    Seat,
)
from verani.room.definition import RoomDefinition
from verani.settings import Settings
from verani_actors.operating.measures import Measure, host_metrics, room_states
from verani_actors.rooms.host import RoomHost
from verani_actors.rooms.room_status import RoomStatus

from ..inputs.attachments import Attachments, RoomInputs
from .link import MemoryLink

__all__ = ["CallsSide", "DeliverySide", "Embedded", "GatewaySide", "Placement"]


class CallsSide(Protocol):
    """The calls of a gateway, as far as they go through its placement."""

    def invoke(self, invoke: Invoke, done: Callable[[Outcome], None], /) -> None:
        """Carry a call of one room to another; `done` is called with the outcome, maybe before this returns."""

    def left(self, number: int, /) -> float:
        """Say how many seconds a call has left, 0 if nobody waits for it any more."""


class DeliverySide(Protocol):
    """What a gateway does with what hosts say of rooms."""

    def apply(self, entries: Sequence[Entry], /) -> None:
        """Apply the entries of one batch, each whole."""

    def say(
        self, room: RoomInputs, outputs: Sequence[Output], attachments: Sequence[Attach | Seat], /, *, at_once: bool
    ) -> None:
        """Apply what a room has said, whole."""

    def set_aside(self, room: RoomInputs, number: int, /) -> tuple[Input, int] | None:
        """Have an input never handled, and tell its sender; return it with its size, None if it is not there."""

    def forget(self, room: RoomInputs, code: int, reason: str, outcome: str, /) -> None:
        """Close the connections of a room that is not to hear of it; its callers get the `outcome`, an error code."""

    def miss(self, room: RoomInputs, processed: int, code: int, reason: str, /) -> None:
        """Close the connections of a room that may have missed something; what was processed gets `interrupted`."""

    def close_room(self, room: RoomInputs, code: int, reason: str, /) -> None:
        """Close the connections of a room."""


class GatewaySide(Protocol):
    """A gateway, as its placement sees it."""

    @property
    def id(self) -> str:
        """Its name among the gateways of the service."""

    @property
    def incarnation(self) -> str:
        """What tells it from one that had its name before."""

    @property
    def definitions(self) -> tuple[RoomDefinition[Any, Any], ...]:
        """What it serves."""

    @property
    def settings(self) -> Settings:
        """Those of the service."""

    @property
    def attachments(self) -> Attachments:
        """What outlives hosts."""

    @property
    def delivery(self) -> DeliverySide:
        """What takes their entries."""

    @property
    def calls(self) -> CallsSide:
        """Those that wait for their outcome."""

    def opened(self) -> None:
        """Take connections and calls from now on: the hosts can be reached."""


class Placement(Protocol):
    """Where the rooms of a gateway live. The gateway is given to `start`, and told there when rooms can be reached."""

    @property
    def put(self) -> Callable[[Input], None]:
        """Send an input, which the attachments hold already, to the owner of its room."""

    @property
    def has_hosts(self) -> bool:
        """Whether there is any room host at this moment."""

    @property
    def serves(self) -> bool:
        """Whether every room can be served at this moment."""

    def answering(self, room: str) -> Callable[[GatewayMessage], None]:
        """Return what answers a question that the owner of a room has just asked; an answer too late is dropped."""

    async def start(self, gateway: GatewaySide) -> None:
        """Find the hosts; calls `gateway.opened` once there are any."""

    async def stop(self, grace: float) -> None:
        """Let go of the hosts, within `grace` seconds."""

    def known_rooms(self) -> list[str]:
        """Name the rooms that the gateway need not know of, those that are awake first."""

    def room_states(self) -> Counter[str]:
        """Count the rooms by state."""

    def status(self, name: str, connections: int) -> RoomStatus | None:
        """Explain one room; None for one that nobody knows anything of."""

    def measures(self) -> Iterator[Measure]:
        """Yield what there is to measure."""


class Embedded:
    """A room host in this process, which lives as long as its gateway."""

    host: RoomHost
    put: Callable[[Input], None]
    has_hosts = True
    serves = True

    async def start(self, gateway: GatewaySide) -> None:
        """Start the host; raises what an `on_startup` raises."""
        self._gateway = gateway
        self.host = RoomHost(gateway.definitions, gateway.settings)
        await self.host.start()
        self._link = MemoryLink(gateway.id, self.host, self._receive)
        # The link's own: every input passes here.
        self.put = self._link.put
        self._send = self._link.send
        gateway.opened()

    async def stop(self, grace: float) -> None:
        """Put the rooms to sleep and run `on_shutdown`."""
        await self.host.stop(grace)

    def answering(self, room: str) -> Callable[[GatewayMessage], None]:
        """Answer the one host there is."""
        return self._send

    def _receive(self, message: HostMessage) -> None:
        match message:
            case EntryBatch():
                self._gateway.delivery.apply(message.entries)
            case Pull():
                for snapshot in self._gateway.attachments.snapshots(message.room, message.incarnation):
                    self._send(snapshot)
            case Invoke():
                self._gateway.calls.invoke(message, lambda outcome: self._answer(message, outcome))

    def _answer(self, invoke: Invoke, outcome: Outcome) -> None:
        self._send(Replied(invoke.room, invoke.token, outcome))

    def known_rooms(self) -> list[str]:
        """Name the rooms that the host knows: awake, or asleep with connections."""
        return self.host.known_rooms()

    def room_states(self) -> Counter[str]:
        """Count them by state."""
        return room_states(self.host)

    def status(self, name: str, connections: int) -> RoomStatus | None:
        """Ask the host."""
        return self.host.status(name, connections)

    def measures(self) -> Iterator[Measure]:
        """Yield how the host's rooms and their hooks do."""
        return host_metrics(self.host)

"""Know which link leads to the owner of a room: the seam between a gateway and the room hosts.

`Embedded` is the one host in this process; `verani_gateway.placement.hosts` has those of other processes. What a
gateway does with what a host says is the gateway's business.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Protocol

from verani.link.messages import (
    EntryBatch,
    GatewayMessage,
    HostMessage,
    Input,
    Invoke,
    Outcome,
    Pull,
    Replied,
)
from verani_actors.operating.measures import Family, host_families, room_states
from verani_actors.rooms.host import RoomHost
from verani_actors.rooms.life import RoomStatus

from ..inputs.attachments import RoomInputs
from .link import MemoryLink

if TYPE_CHECKING:
    from ..gateway import Gateway

__all__ = ["Embedded", "Placement"]


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

    def answering(self, room: RoomInputs) -> Callable[[GatewayMessage], None]:
        """Return what answers a question that the owner of a room has just asked; an answer too late is dropped."""

    async def start(self, gateway: Gateway) -> None:
        """Find the hosts; calls `gateway.opened` once there are any."""

    async def stop(self, grace: float) -> None:
        """Let go of the hosts, within `grace` seconds."""

    def known_rooms(self) -> list[str]:
        """Name the rooms that the gateway need not know of, those that are awake first."""

    def room_states(self) -> Counter[str]:
        """Count the rooms by state."""

    def status(self, name: str, connections: int) -> RoomStatus | None:
        """Explain one room; None for one that nobody knows anything of."""

    def families(self) -> Iterator[Family]:
        """Yield what there is to measure."""


class Embedded:
    """A room host in this process, which lives as long as its gateway."""

    host: RoomHost
    put: Callable[[Input], None]
    has_hosts = True
    serves = True

    async def start(self, gateway: Gateway) -> None:
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

    def answering(self, room: RoomInputs) -> Callable[[GatewayMessage], None]:
        """Answer the one host there is."""
        return self._send

    def _receive(self, message: HostMessage) -> None:
        match message:
            case EntryBatch():
                self._gateway.apply(message.entries)
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

    def families(self) -> Iterator[Family]:
        """Yield how the host's rooms woke and slept."""
        return host_families(self.host)

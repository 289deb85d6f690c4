"""Tie a gateway together: its connections, its attachments, and the placement that leads to the room hosts.

The only place that knows all three. Handshakes are the end point's, sockets the connections', rooms the hosts', and
which host has which room is the placement's.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from aiohttp.web import AbstractResource

from verani.link.messages import Input
from verani.room.definition import RoomDefinition
from verani.room.stub import RoomStub
from verani.settings import Settings
from verani_actors.rooms.hook_failures import HookFailures
from verani_actors.rooms.host import RoomHost
from verani_actors.rooms.room_status import RoomStatus
from verani_actors.rooms.visits import Visits

from .calls import Calls
from .connections.close_handshake import RESTART
from .connections.connection import Connection
from .connections.delivery import Delivery
from .connections.entrance import Entrance
from .connections.facilities import Facilities
from .connections.leaving import Leaving
from .connections.meters import Meters
from .connections.open_connections import OpenConnections
from .connections.outbox import Writer
from .connections.rate import Turns
from .connections.refusal_log import RefusalLog
from .connections.ticker import Ticker
from .http.listener_names import public_host_allowed
from .http.proxies import Client
from .inputs.attachments import Attachments
from .inputs.ingress import Ingress
from .inputs.metrics import Metrics
from .placement.placement import Embedded, Placement
from .placement.short_way import ShortWay

__all__ = ["Gateway"]

logger = logging.getLogger(__name__)

# What rooms get to fall asleep when the drain has used up its time.
_LAST_GRACE = 1.0


def _tracing(
    settings: Settings,
) -> tuple[type[Delivery], Callable[[Callable[[Input], None]], Callable[[Input], None]]]:
    """Choose, once for a gateway, what brings entries to connections, and what wraps the sending of inputs."""
    if not settings.tracing:
        return Delivery, lambda send: send
    from .connections.traced_delivery import TracedDelivery
    from .inputs.traced_inputs import traced_send

    return TracedDelivery, traced_send


class Gateway:
    """All connections of one process; `placement` says where their rooms live, by default in this very process."""

    # From the start on.
    facilities: Facilities
    delivery: Delivery
    ticker: Ticker

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
        self.id = secrets.token_hex(4)
        self.incarnation = secrets.token_hex(8)
        self.placement: Placement = placement if placement is not None else Embedded()
        self.metrics = Metrics()
        # What hooks raised last that decide who may connect; those of rooms are their hosts'.
        self.failures = HookFailures()
        self.refusals = RefusalLog(time.monotonic)
        # The hosts that the public listener listens on, where it is known here.
        self.bound: tuple[str, ...] = ()
        # What outlives room actors and room hosts; the placement reads and tells it.
        self.attachments = Attachments()
        rejecting = frozenset(each.name for each in self.definitions if each.same_client == "reject")
        self.open_connections = OpenConnections(self.id, rejecting)
        self.leaving = Leaving(self.open_connections.connections)
        self.entrance = Entrance(self.attachments, self.metrics, self.leaving.progress)
        self.ingress = Ingress(self.attachments, self.metrics)
        self.calls = Calls(self.definitions, self.ingress, self.metrics)

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
        loop, settings = asyncio.get_running_loop(), self.settings
        writer = Writer(loop, self.metrics)
        self.entrance.limit(settings)
        meters = Meters(settings, loop.time)
        self.facilities = Facilities(settings, loop.time, writer, Turns(loop, 2), meters, self.metrics, self.ingress)
        delivery, traced = _tracing(settings)
        self.delivery = delivery(
            self.open_connections,
            self.attachments,
            self.ingress.congestion,
            writer,
            self.metrics,
            replied=self.calls.replied,
            answering=self.placement.answering,
            progress=self.leaving.progress,
        )
        self.ticker = Ticker(settings, self.open_connections.connections, meters.sweep)
        await self.placement.start(self)
        self.ingress.send = traced(self.placement.put)
        if isinstance(self.placement, Embedded) and not settings.tracing:
            self.ingress.shortest = ShortWay(self, self.ingress, Visits(self.placement.host, self.id))
        self.ticker.tick()

    def opened(self) -> None:
        """Take connections and calls from now on: the placement reaches its hosts."""
        self.entrance.open()
        if self.accepting:
            self.calls.open(self.settings)

    def stop_accepting(self) -> None:
        """Refuse new connections with 503 from now on, also those that the application is still identifying."""
        self.entrance.close()

    async def drain(self, *, answers: bool = True) -> None:
        """Close all connections with 1012, in batches; return when their `on_disconnect` has run.

        Takes at most `drain_seconds`; hooks that still run then are left to `stop`. Without `answers`, nothing
        that clients send is read any more, so their close frames are not waited for.
        """
        self.stop_accepting()
        await self.leaving.drain(self.settings.drain_seconds, self._is_empty, answers=answers)

    def _is_empty(self) -> bool:
        """Tell whether nobody is being admitted, and no room has a connection or an input that a host could take."""
        return not self.entrance.taken and not (self.attachments.rooms and self.has_hosts)

    async def stop(self) -> None:
        """Let go of the room hosts and end; connections that are left are aborted.

        An embedded host puts its rooms to sleep and runs `on_shutdown`.
        """
        self.stop_accepting()
        for connection in tuple(self.connections.values()):
            connection.close(*RESTART)
        await self.placement.stop(max(_LAST_GRACE, self.leaving.left(self.settings.drain_seconds)))
        self.calls.stop()
        self.ticker.stop()
        self.delivery.emptying.stop()
        for connection in tuple(self.connections.values()):
            connection.closing.abort()
        self.facilities.writer.close()

    # --- connections -----------------------------------------------------------------------------------

    def connected(self, connection: Connection, attachment: bytes) -> None:
        """Announce a connection to its room."""
        logger.debug("connected", extra={"room": connection.room, "connection": connection.id})
        self.metrics.connections += 1
        self.open_connections.add(connection)
        self.ingress.shortest.connect(connection.room, connection.id, attachment)
        if not self.accepting:  # the drain has begun since the handshake was allowed
            connection.close(*RESTART)

    def disconnected(self, connection: Connection, code: int, reason: str) -> None:
        """Announce the end of a connection to its room."""
        logger.debug("disconnected: %d", code, extra={"room": connection.room, "connection": connection.id})
        self.metrics.closed(code)
        self.open_connections.remove(connection)
        self.ingress.close(connection.room, connection.id, code, reason)

    # --- what others ask -------------------------------------------------------------------------------

    @property
    def connections(self) -> dict[str, Connection]:
        """The open connections, by their ids."""
        return self.open_connections.connections

    @property
    def accepting(self) -> bool:
        """Whether connections and calls are taken."""
        return self.entrance.is_open

    @property
    def has_hosts(self) -> bool:
        """Whether there is any room host to serve a room; without one, frames wait."""
        return self.placement.has_hosts

    @property
    def serves(self) -> bool:
        """Whether a connection that comes now, to whichever room, is taken and served."""
        return self.accepting and self.placement.serves

    @property
    def host(self) -> RoomHost:
        """The embedded room host; only where there is one."""
        assert isinstance(self.placement, Embedded)
        return self.placement.host

    @property
    def in_flight(self) -> int:
        """Bytes of inputs that no room has processed yet."""
        return self.attachments.in_flight

    def rooms(self) -> list[RoomStatus]:
        """Explain the rooms that are awake or have connections, those that are awake first."""
        statuses = (self.room(name) for name in self.room_names())
        return [status for status in statuses if status is not None]

    def room_names(self) -> list[str]:
        """Name the rooms that are awake or have connections, those that are awake first."""
        return list(dict.fromkeys((*self.placement.known_rooms(), *self.attachments.rooms)))

    def room_states(self) -> Counter[str]:
        """Count the rooms by state."""
        return self.placement.room_states()

    def room(self, name: str) -> RoomStatus | None:
        """Explain one room, None for one that nobody is in and that is not awake."""
        held = self.attachments.rooms.get(name)
        status = self.placement.status(name, len(held.records) if held is not None else 0)
        if status is None and held is not None:  # all that is left are connections which it never let in
            return RoomStatus(name, name.partition("/")[0], "asleep", len(held.records))
        return status

    def stub(self, definition: RoomDefinition[Any, Any] | str, room_id: str) -> RoomStub:
        """Address a room from this process: ``await request.app[GATEWAY].stub(chat, "lobby").broadcast(...)``."""
        return RoomStub(self.calls, definition, room_id)

    def answers_to(self, client: Client, local: str) -> bool:
        """Tell whether what a client asks for may be a name of the public listener, where it came in at an address."""
        extra = self.settings.public_hosts
        if client.is_told and not extra:  # the names of a trusted proxy are its business
            return True
        return public_host_allowed(client.host, local, bound=self.bound, extra=extra)

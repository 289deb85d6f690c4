"""Know the connections of a gateway, by their ids, and which clients they are of."""

from __future__ import annotations

from collections.abc import Collection

from .connection import Connection
from .outbox import Outbox
from .tally import Tally

__all__ = ["OpenConnections"]


class OpenConnections:
    """The connections of one gateway, whose id is the prefix of theirs.

    `rejecting` names the definitions whose rooms want no client twice.
    """

    def __init__(self, gateway: str, rejecting: Collection[str]) -> None:
        self.connections: dict[str, Connection] = {}
        # Theirs: who sends to many needs no more of each.
        self.outboxes: dict[str, Outbox] = {}
        self._rejecting = rejecting
        # By room and client, of these definitions: for others it would be kept in vain.
        self._clients: Tally[tuple[str, str]] = Tally()
        self._gateway = gateway
        self._serial = 0

    def next_id(self) -> str:
        """Make the id of a connection."""
        self._serial += 1
        return f"{self._gateway}-{self._serial:x}"

    def add(self, connection: Connection) -> None:
        """Take up a connection."""
        self.connections[connection.id] = connection
        self.outboxes[connection.id] = connection.outbox
        if self._rejecting and connection.room.partition("/")[0] in self._rejecting:
            self._clients[connection.room, connection.client_id] += 1

    def remove(self, connection: Connection) -> None:
        """Forget a connection that has ended."""
        del self.connections[connection.id]
        del self.outboxes[connection.id]
        if (connection.room, connection.client_id) in self._clients:
            self._clients.lower((connection.room, connection.client_id))

    def holds_client(self, room: str, client_id: str) -> bool:
        """Tell whether a connection of the room, of a definition that is `rejecting`, has this client id."""
        return (room, client_id) in self._clients

"""Know the connections of a gateway, by their ids, and which clients they are of."""

from __future__ import annotations

from .connection import Connection
from .outbox import Outbox
from .tally import Tally

__all__ = ["OpenConnections"]


class OpenConnections:
    """The connections of one gateway, whose id is the prefix of theirs."""

    def __init__(self, gateway: str) -> None:
        self.connections: dict[str, Connection] = {}
        # Theirs: who sends to many needs no more of each.
        self.outboxes: dict[str, Outbox] = {}
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
        self._clients[connection.room, connection.client_id] += 1

    def remove(self, connection: Connection) -> None:
        """Forget a connection that has ended."""
        del self.connections[connection.id]
        del self.outboxes[connection.id]
        self._clients.lower((connection.room, connection.client_id))

    def holds_client(self, room: str, client_id: str) -> bool:
        """Tell whether a connection of the room has this client id."""
        return (room, client_id) in self._clients

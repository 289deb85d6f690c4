"""Stand in for the gateway of one room: keep its attachments and bring what it sends to the clients of a test.

It has no sockets and none of their limits: no rates, no buffers, no keepalive.

Invariants:
- A record exists from a client's connect until its close was processed.
- A snapshot holds the connections whose connect was processed and not refused, with the last committed attachment.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..link.messages import Attach, Close, Connect, Deliver, Drain, Input, Invoke, Kick, Output, Record, Reply, Seat
from .harness_client import HarnessClient

__all__ = ["StandInGateway"]


@dataclass(slots=True)
class _Held:
    client: HarnessClient
    attachment: bytes
    connected: bool = False
    closing: bool = False
    refused: bool = False
    order: int = 0


class StandInGateway:
    """The sink of the room's engine."""

    ID = "harness"

    def __init__(
        self,
        *,
        kicked: Callable[[HarnessClient, int, str], None],
        drain: Callable[[int], None],
        reply: Callable[[Reply], None],
        invoke: Callable[[Invoke], None],
    ) -> None:
        """Tell `kicked` whom the room closed, `drain` and `invoke` what is to be answered, `reply` who is answered."""
        self._kicked = kicked
        self._drain = drain
        self._reply = reply
        self._invoke = invoke
        self._held: dict[str, _Held] = {}
        self._unprocessed: dict[int, Input] = {}
        # Rises with everything that happens here, so that a harness sees when nothing does any more.
        self.effects = 0

    def accept(self, client: HarnessClient, attachment: bytes) -> None:
        """Start the record of a connection."""
        self._held[client.id] = _Held(client, attachment)

    def sent(self, input: Input) -> None:
        """Remember an input until it is processed."""
        self._unprocessed[input.number] = input

    def attachment(self, connection: str) -> bytes | None:
        """Return what is kept of a connection, None once it is gone."""
        held = self._held.get(connection)
        return held.attachment if held is not None else None

    def holds_client(self, client_id: str) -> bool:
        """Tell whether an open connection has this client id."""
        return any(held.client.client_id == client_id and held.client.closed is None for held in self._held.values())

    def records(self) -> tuple[Record, ...]:
        """Build the snapshot that a waking room is given."""
        return tuple(
            Record(connection, held.attachment, held.closing, held.order)
            for connection, held in self._held.items()
            if held.connected and not held.refused
        )

    # --- the sink --------------------------------------------------------------------------------------

    def output(self, gateway: str, output: Output, cause: int | None) -> None:
        """Do what the room wants done."""
        self.effects += 1
        match output:
            case Deliver():
                for connection in output.connections:
                    if connection not in output.exclude and (held := self._held.get(connection)) is not None:
                        held.client._deliver(output.payload)
            case Kick():
                if (held := self._held.get(output.connection)) is not None:
                    held.closing, held.refused = True, output.refused
                    self._kicked(held.client, output.code, output.reason)
            case Drain():
                self._drain(output.token)
            case Reply():
                self._reply(output)
            case _:
                pass  # counting invalid frames is a matter of real gateways

    def attach(self, gateway: str, attach: Attach | Seat, cause: int | None) -> None:
        """Replace a committed attachment, or note a session's place."""
        self.effects += 1
        if (held := self._held.get(attach.connection)) is None:
            return
        if isinstance(attach, Seat):
            held.order = attach.order
        else:
            held.attachment = attach.attachment

    def invoke(self, invoke: Invoke) -> None:
        """Carry a call to another room."""
        self.effects += 1
        self._invoke(invoke)

    def processed(self, gateway: str, number: int) -> None:
        """Settle the record that an input was about."""
        self.effects += 1
        match self._unprocessed.pop(number, None):
            case Connect(connection=connection):
                self._held[connection].connected = True
            case Close(connection=connection):
                self._held.pop(connection, None)
            case _:
                pass

"""Define what other Thespian actors may say to the rooms of a host, and what they are told.

Send `CallRoom` to the actor that is named `CALLS`; it answers with `CallReturned` or `CallRefused`.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct

__all__ = ["CALLS", "CallRefused", "CallReturned", "CallRoom"]

# The global name of the actor that takes calls; its class is `verani_actors.rooms.actor_calls.RoomCalls`.
CALLS = "verani-calls"


class CallRoom(Struct, frozen=True):
    """Call a method of a room, awake or asleep.

    `room`: its whole name, ``definition/room-id``. `arguments`: a dict by name or a list by position, of what JSON can
    hold. `timeout`: seconds, None for the setting `rpc_timeout`. `reference` comes back with the answer.
    """

    room: str
    method: str
    arguments: dict[str, Any] | list[Any] = {}
    timeout: float | None = None
    idempotency_key: str | None = None
    reference: Any = None


class CallReturned(Struct, frozen=True):
    """The method returned `result`."""

    result: Any
    reference: Any = None


class CallRefused(Struct, frozen=True):
    """The call failed; `code` is one of the error table, `message` never what a hook raised."""

    code: str
    message: str = ""
    path: str | None = None
    reference: Any = None

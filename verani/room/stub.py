"""Call a room's methods as if they were here: `RoomStub`, over whatever carries the call.

The same object serves applications (`verani.connect`), HTTP handlers beside the rooms and other rooms
(`ctx.actor.stub`); each brings a `Caller` of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable
from typing import TYPE_CHECKING, Any, Protocol, TypedDict, Unpack

import msgspec
from msgspec import UNSET

from .. import frames
from ..errors import InvalidArguments, VeraniError
from ..names import ROOM_ID, room_id_of
from .methods import MAX_TIMEOUT

if TYPE_CHECKING:
    from .definition import RoomDefinition

__all__ = ["CallOptions", "Caller", "RoomStub"]


class Caller(Protocol):
    """What carries a stub's calls."""

    async def call(
        self, room: str, method: str, arguments: bytes, *, timeout: float | None, idempotency_key: str | None
    ) -> bytes:
        """Return the result as JSON text; raises the `VeraniError` that the outcome's code names.

        `timeout`: seconds, None for the service's `rpc_timeout`.
        """


class CallOptions(TypedDict, total=False):
    """What every call takes besides its arguments."""

    timeout: float | None
    idempotency_key: str | None


class RoomStub:
    """One room, awake or asleep, from outside; every method is awaitable and has a deadline.

    Besides the built-in methods, every ``@room.rpc`` method is here by its name: ``await stub.kick(user_id="ada")``.
    Arguments are given by name or by position, not mixed, unless the stub was made with the definition itself.
    Each takes ``timeout=`` in seconds and ``idempotency_key=``. Raises what the outcome's code names: `CallFailed` if
    the method raised, `InvalidArguments`, `NotFound`, `RoomBusy` (surely did not run), `DeadlineExceeded` and
    `Interrupted` (may have run), `CallCycle`, or what it raised to refuse, such as `Forbidden`.
    """

    def __init__(self, caller: Caller, definition: RoomDefinition[Any, Any] | str, room_id: str) -> None:
        """Name a room; raises `InvalidArguments` for an id that no room can have."""
        spelled = room_id_of(room_id)
        if spelled is None:
            error = InvalidArguments(f"expected {ROOM_ID}, got {room_id!a}")
            error.is_of_call = True
            raise error
        self._caller = caller
        self._definition = None if isinstance(definition, str) else definition
        self._room = f"{definition if isinstance(definition, str) else definition.name}/{spelled}"

    def __repr__(self) -> str:
        return f"<RoomStub {self._room!r}>"

    async def call(
        self,
        method: str,
        /,
        *arguments: Any,
        timeout: float | None = None,
        idempotency_key: str | None = None,
        **named: Any,
    ) -> Any:
        """Call a method by its name; what the other methods here are short for.

        Raises TypeError for arguments that cannot be sent.
        """
        known = self._definition.methods.get(method) if self._definition is not None else None
        if known is not None:
            named = dict(known.signature.bind(*arguments, **named).arguments)
            arguments = ()
        if arguments and named:
            raise TypeError(
                f"{method}: expected arguments by name or by position; both need a stub made with the definition itself"
            )
        if timeout is not None and not (isinstance(timeout, int | float) and 0 < timeout <= MAX_TIMEOUT):
            raise ValueError(f"timeout: expected more than 0 and at most {MAX_TIMEOUT:g} seconds, got {timeout!r}")
        payload = frames.encode(arguments or {name: value for name, value in named.items() if value is not UNSET})
        try:
            result = await self._caller.call(
                self._room, method, payload, timeout=timeout, idempotency_key=idempotency_key
            )
        except VeraniError as error:
            error.is_of_call = True
            raise
        return known.decode_result(result) if known is not None else msgspec.json.decode(result)

    def __getattr__(self, method: str) -> Callable[..., Coroutine[Any, Any, Any]]:
        if method.startswith("_"):
            raise AttributeError(f"{type(self).__name__} has no attribute {method!r}")

        def call(*arguments: Any, **named: Any) -> Coroutine[Any, Any, Any]:
            return self.call(method, *arguments, **named)

        call.__name__ = method
        return call

    # --- built in, with their types --------------------------------------------------------------------

    async def broadcast(
        self,
        channel: str,
        data: Any,
        *,
        user_ids: Iterable[str] | None = None,
        client_ids: Iterable[str] | None = None,
        **options: Unpack[CallOptions],
    ) -> int:
        """Send `data`, unchanged, to the channel; filters are ANDed. Returns how many connections matched."""
        filters = {"user_ids": user_ids, "client_ids": client_ids}
        for name, ids in filters.items():
            if isinstance(ids, str):
                raise TypeError(f"{name}: expected an iterable of strings, got a string; write [{ids!r}]")
        chosen = {name: list(ids) for name, ids in filters.items() if ids is not None}
        return await self.call("broadcast", channel=channel, data=data, **chosen, **options)  # type: ignore[no-any-return]

    async def send_to_user(self, user_id: str, channel: str, data: Any, **options: Unpack[CallOptions]) -> int:
        """Send `data`, unchanged, to the user's connections that are in the channel; returns how many."""
        return await self.call("send_to_user", user_id=user_id, channel=channel, data=data, **options)  # type: ignore[no-any-return]

    async def emit_to_channel(self, channel: str, event: str, data: Any = UNSET, **options: Unpack[CallOptions]) -> int:
        """Emit an event to the whole channel; returns to how many connections."""
        return await self.call("emit_to_channel", channel=channel, event=event, data=data, **options)  # type: ignore[no-any-return]

    async def emit_to_user(self, user_id: str, event: str, data: Any = UNSET, **options: Unpack[CallOptions]) -> int:
        """Emit an event to all connections of a user; returns to how many."""
        return await self.call("emit_to_user", user_id=user_id, event=event, data=data, **options)  # type: ignore[no-any-return]

    async def get_session_count(self, **options: Unpack[CallOptions]) -> int:
        """Count the sessions."""
        return await self.call("get_session_count", **options)  # type: ignore[no-any-return]

    async def get_connected_user_ids(self, **options: Unpack[CallOptions]) -> list[str]:
        """List the users, each once, in first-seen order."""
        return await self.call("get_connected_user_ids", **options)  # type: ignore[no-any-return]

    async def cleanup_stale_sessions(self, **options: Unpack[CallOptions]) -> int:
        """Take out the sessions whose close is queued; returns how many."""
        return await self.call("cleanup_stale_sessions", **options)  # type: ignore[no-any-return]

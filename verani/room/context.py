"""Give hooks their handles: `Context` for one event, `Actor` for the whole room.

Both only translate what the application asks for into `Operations` of the room. A handle that
outlived its room or its hook raises `RoomAsleep` in every operation.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeAlias, TypeVar

from msgspec import UNSET

from .. import frames
from ..errors import VeraniError
from ..frames import Frame
from ..names import LIFECYCLE_EVENTS, RESERVED_PREFIX, check_name
from .meta import M
from .operations import Operations, S, WakeReason
from .session import Session
from .stub import RoomStub

if TYPE_CHECKING:
    import asyncio

    from .definition import RoomDefinition
    from .methods import Call

__all__ = ["Actor", "Context", "Emitter", "S", "WakeReason"]

P = ParamSpec("P")
T = TypeVar("T")

Excluded: TypeAlias = "Session[Any] | str | Iterable[Session[Any] | str] | None"


# Asked for every event, and an application's names are few; bounded, because one may make up names without end.
@functools.lru_cache(maxsize=1024)
def _check_channel(channel: str) -> str:
    return check_name(channel, "channel")


@functools.lru_cache(maxsize=1024)
def _check_emitted(channel: str, event: str) -> None:
    check_name(event, "event")
    check_name(channel, "channel")
    if event.startswith(RESERVED_PREFIX):
        raise ValueError(f"emit: event names that start with {RESERVED_PREFIX!r} are reserved")


def _ids(what: str, ids: Iterable[str] | None) -> frozenset[str] | None:
    """Take a filter's ids; a bare string would silently mean its letters."""
    if ids is None:
        return None
    if isinstance(ids, str):
        raise TypeError(f"{what}: expected an iterable of strings, got a string; write [{ids!r}]")
    return frozenset(ids)


def _excluded(except_: str | Session[Any] | Iterable[str | Session[Any]]) -> tuple[str, ...]:
    if isinstance(except_, str | Session):
        except_ = (except_,)
    return tuple(dict.fromkeys(item.id if isinstance(item, Session) else item for item in except_))


class Actor(Generic[M, S]):
    """The room, for its own hooks.

    Methods are synchronous: data is encoded in the call, bytes leave at the next tick. They raise TypeError or
    ValueError for data that cannot be encoded, `TooLarge` for a frame over 1 MiB or more than 16 MiB in one hook,
    `RoomAsleep` once the room slept, and `WrongThread` in any thread but the room's, for which there is `from_thread`.
    The counts are the connections that matched.
    """

    def __init__(self, room: Operations[M, S]) -> None:
        self._room = room

    def __repr__(self) -> str:
        return f"<Actor {self.name!r}>"

    @property
    def _awake(self) -> Operations[M, S]:
        self._room.check_awake()
        return self._room

    @property
    def name(self) -> str:
        """The room's whole name, ``definition/room-id``."""
        return self._room.name

    @property
    def room_id(self) -> str:
        """The room's id, as `name_from_request` chose it."""
        return self._room.name.partition("/")[2]

    @property
    def state(self) -> S:
        """In-memory state, lost when the room sleeps."""
        return self._awake.state

    @property
    def wake_reason(self) -> WakeReason:
        """What woke this room: ``connect``, ``frame``, ``close`` or ``call``; ``crash`` or ``moved`` of its owner."""
        return self._awake.wake_reason

    @property
    def sessions(self) -> Mapping[str, Session[M]]:
        """The sessions by connection id, oldest first: a snapshot."""
        return dict(self._awake.members.sessions)

    def __iter__(self) -> Iterator[Session[M]]:
        return iter(self.sessions.values())

    # --- sending ---------------------------------------------------------------------------------------

    def broadcast(
        self,
        channel: str,
        data: Any,
        *,
        user_ids: Iterable[str] | None = None,
        client_ids: Iterable[str] | None = None,
        except_: Excluded = None,
    ) -> int:
        """Send `data`, unchanged, to the channel; filters are ANDed. Put ``type`` inside the data."""
        check = _check_channel if type(channel) is str else _check_channel.__wrapped__  # which may not even have a hash
        frame = frames.event_frame(check(channel), frames.encode(data))
        excluded = _excluded(except_) if except_ is not None else ()
        if user_ids is None and client_ids is None:
            return self._room.outputs.to_channel(channel, frame, excluded)
        users, clients = _ids("user_ids", user_ids), _ids("client_ids", client_ids)
        return self._room.outputs.to_selected(channel, frame, user_ids=users, client_ids=clients, exclude=excluded)

    def send_to_user(self, user_id: str, channel: str, data: Any) -> int:
        """Send `data`, unchanged, to the user's connections that are in the channel."""
        return self.broadcast(channel, data, user_ids=(user_id,))

    def emit(self, event: str, data: Any = UNSET) -> int:
        """Emit an event to everybody in the room, whatever their channels."""
        return self._room.outputs.to_all(self._named("default", event, data))

    def emit_to_channel(self, channel: str, event: str, data: Any = UNSET) -> int:
        """Emit an event to the whole channel, excluding nobody."""
        return self._room.outputs.to_channel(channel, self._named(channel, event, data), ())

    def emit_to_user(self, user_id: str, event: str, data: Any = UNSET) -> int:
        """Emit an event to all connections of a user, whatever their channels."""
        return self._room.outputs.to_selected(None, self._named("default", event, data), user_ids=(user_id,))

    def _named(self, channel: str, event: str, data: Any) -> bytes:
        if type(event) is str and type(channel) is str:
            _check_emitted(channel, event)
        else:  # which may not even have a hash
            _check_emitted.__wrapped__(channel, event)
        if event in LIFECYCLE_EVENTS:
            self._awake.definition.warn_of_collision(event)
        return frames.named_event_frame(channel, event, data)

    # --- who is here -----------------------------------------------------------------------------------

    def get_session_count(self) -> int:
        """Count the sessions."""
        return len(self._awake.members.sessions)

    def get_connected_user_ids(self) -> list[str]:
        """List the users, each once, in first-seen order."""
        return self._awake.members.user_ids()

    def get_user_sessions(self, user_id: str) -> tuple[Session[M], ...]:
        """Return a user's sessions, oldest first."""
        return self._awake.members.of_user(user_id)

    def cleanup_stale_sessions(self) -> int:
        """Take out at once the sessions whose close is already queued; `on_disconnect` runs when it is their turn."""
        return self._awake.roster.cleanup()

    # --- closing and tasks -----------------------------------------------------------------------------

    def close(self, session: Session[Any] | str, code: int = 1000, reason: str = "") -> bool:
        """Kick a session: it leaves the audience now, `on_disconnect` runs when its close arrives.

        False if it is not here. Raises ValueError for a code other than 1000, 1008, 1011 to 1013 or 3000 to 4999
        (the client stays away after 1000 only), or a reason over 123 bytes.
        """
        return self._awake.roster.kick(session.id if isinstance(session, Session) else session, code, reason)

    def close_user(self, user_id: str, code: int = 1000, reason: str = "") -> int:
        """Kick all sessions of a user, and count them."""
        return sum(self.close(session, code, reason) for session in self.get_user_sessions(user_id))

    def keep_awake(self, seconds: float) -> None:
        """Keep the room awake for so many seconds from now, however idle it is; 0 takes that back."""
        self._awake.tasks.keep_awake(seconds)

    def hibernate(self) -> None:
        """Let the room sleep as soon as nothing is going on any more, without waiting to be idle for long."""
        self._awake.tasks.hibernate()

    def stub(self, definition: RoomDefinition[Any, Any] | str, room_id: str) -> RoomStub:
        """Address another room, to call its methods: ``await ctx.actor.stub(lobby, "eu").broadcast(...)``.

        The hook that waits for a call holds this room: a call that comes back to it is refused with `CallCycle`.
        """
        return RoomStub(self._awake.calls, definition, room_id)

    def spawn(self, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Start a task of the room: it keeps the room awake; when the service stops, it is cancelled.

        What it sends while a hook runs leaves when that hook has returned. Its exception goes to `on_error`.
        """
        return self._room.spawn(coroutine)  # which closes the coroutine if it refuses

    def from_thread(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a function on the room's event loop, from another thread, and return or raise what it does.

        For code that runs in ``asyncio.to_thread`` and the like, where every other operation raises `WrongThread`:
        ``ctx.actor.from_thread(ctx.emit, "progress", 5)``. The thread waits meanwhile. What the function does is part
        of the hook that waits for the thread; once that hook is over, it is like in a spawned task. Raises
        `RoomAsleep` once the room slept or its event loop has ended, `WrongThread` on the thread of the loop itself,
        `DeadlineExceeded` if the loop has no time for it within `hook_timeout`, TypeError for a function to await.
        """
        return self._room.errands.from_thread(function, functools.partial(function, *args, **kwargs))  # type: ignore[no-any-return]


class Emitter:
    """What `to_user` and `to_channel` return: the target of one `emit`."""

    __slots__ = ("_send",)

    def __init__(self, send: Any) -> None:
        self._send = send

    def emit(self, event: str, data: Any = UNSET) -> int:
        """Emit to this target; returns the number of connections that matched."""
        return self._send(event, data)  # type: ignore[no-any-return]


class Context(Generic[M, S]):
    """One event, for its hooks: who it is from and how to answer.

    `actor` is the room. `close_code` and `close_reason` are set in `on_disconnect`: 1005 is a close frame without a
    code, 1006 a lost connection. `call` is the call being handled, seen by middleware and `on_error`; None elsewhere.
    """

    __slots__ = ("__weakref__", "_frame", "_room", "_session", "actor", "call", "close_code", "close_reason")

    def __init__(
        self,
        room: Operations[M, S],
        session: Session[M] | None,
        frame: Frame | None = None,
        close_code: int | None = None,
        close_reason: str = "",
        *,
        call: Call | None = None,
    ) -> None:
        self._room = room
        self._session = session
        self._frame = frame
        self.actor: Actor[M, S] = room.actor
        self.close_code = close_code
        self.close_reason = close_reason
        self.call = call

    def __repr__(self) -> str:
        connection = self._session.id if self._session is not None else "no connection"
        return f"<Context {self.actor.name!r}, {connection}>"

    @property
    def hook(self) -> str:
        """Name what this context was made for, for logs: ``on('chat.message')``, ``on_disconnect``, ..."""
        if self._frame is not None:
            return f"on({self._frame.type!r})"
        if self.call is not None:
            return f"rpc {self.call.method}"
        if self._session is None:
            return "room"
        return "on_connect" if self.close_code is None else "on_disconnect"

    @property
    def ws(self) -> Session[M]:
        """The handle of the connection, as `except_` and `close` take it."""
        if self._session is None:
            raise VeraniError("ctx.ws: this event belongs to no connection")
        return self._session

    @property
    def meta(self) -> M:
        """The connection's meta; setting own fields is kept when the hook returns and undone when it raises.

        Keep what you need of it, not the object: it belongs to the hook.
        Outside of the hook, in a spawned task, it is a copy: change it with ``ctx.ws.update``.
        """
        session = self.ws
        return session.live_meta if self._room.metas.touch(session) else session.meta

    @property
    def frame(self) -> Frame:
        """The frame being handled; raises `VeraniError` in hooks that have none."""
        if self._frame is None:
            raise VeraniError("ctx.frame: this event is not a frame")
        return self._frame

    def emit(self, event: str, data: Any = UNSET) -> int:
        """Emit an event to this connection, on its first channel."""
        session = self._session or self.ws
        channels = session.live_meta.channels
        return self._room.outputs.to_session(
            session, self.actor._named(channels[0] if channels else "default", event, data)
        )

    def to_user(self, user_id: str) -> Emitter:
        """Aim at all connections of a user."""
        return Emitter(lambda event, data: self.actor.emit_to_user(user_id, event, data))

    def to_channel(self, channel: str) -> Emitter:
        """Aim at a channel, this connection excepted."""
        return Emitter(
            lambda event, data: self._room.outputs.to_channel(
                channel, self.actor._named(channel, event, data), (self.ws.id,)
            )
        )

    def join(self, channel: str) -> None:
        """Enter a channel; raises ValueError for control characters, over 255 characters or over 128 channels.

        Raises `Forbidden` where `authorize_channel` says that this client may not.
        """
        self._room.check_awake()
        session = self.ws
        check_name(channel, "channel")
        self._room.definition.check_channel(self, channel)
        session.join(channel)

    def leave(self, channel: str) -> None:
        """Leave a channel."""
        self._room.check_awake()
        self.ws.leave(channel)

    def close(self, code: int = 1000, reason: str = "") -> bool:
        """Kick this connection; see `Actor.close`."""
        return self._room.roster.kick(self.ws.id, code, reason)

    async def drain(self) -> None:
        """Wait until what was sent to this connection has been written to its socket, or the connection is gone.

        What a spawned task sends waits for the running hook, and so does its drain: that hook must not wait for it.
        """
        await self._room.drains.drain(self.ws)

"""Say what the handles of a room (`Actor`, `Context`, `Session`) need of whatever runs it."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Collection, Coroutine
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

from .meta import M
from .session import Session, SessionOwner
from .stub import Caller

if TYPE_CHECKING:
    from .context import Actor
    from .definition import RoomDefinition

if sys.version_info >= (3, 13):
    from typing import TypeVar
else:
    from typing_extensions import TypeVar

__all__ = [
    "Attendance",
    "Doorkeeper",
    "Drainer",
    "ErrandRunner",
    "Operations",
    "S",
    "Sender",
    "TaskKeeper",
    "WakeReason",
]

S = TypeVar("S", default=SimpleNamespace)

WakeReason: TypeAlias = Literal["connect", "frame", "close", "call", "crash", "moved"]


class Attendance(Protocol[M]):
    """Who is in the room."""

    @property
    def sessions(self) -> dict[str, Session[M]]:
        """By connection id, in first-seen order."""

    def of_user(self, user_id: str) -> tuple[Session[M], ...]:
        """Return a user's sessions, oldest first."""

    def user_ids(self) -> list[str]:
        """List the users, each once, in the order of their oldest session."""


class Sender(Protocol):
    """What the room sends: encoded frames; counts are of connections that matched."""

    def to_all(self, frame: bytes) -> int:
        """Send to everybody, whatever their channels."""

    def to_channel(self, channel: str, frame: bytes, exclude: tuple[str, ...]) -> int:
        """Send to everybody in a channel but these connections."""

    def to_selected(
        self,
        channel: str | None,
        frame: bytes,
        *,
        user_ids: Collection[str] | None = None,
        client_ids: Collection[str] | None = None,
        exclude: Collection[str] = (),
    ) -> int:
        """Send to those who pass every filter that is given."""

    def to_session(self, session: Session[Any], frame: bytes) -> int:
        """Send to one connection; 0 if it has left."""


class Doorkeeper(Protocol):
    """How the room takes out connections."""

    def kick(self, connection: str, code: int, reason: str) -> bool:
        """Close a connection and take it out of the audience; False if it is not here."""

    def cleanup(self) -> int:
        """Take out the sessions whose close waits for its turn, and count them."""


class Drainer(Protocol):
    """How the room waits for its gateways."""

    async def drain(self, session: Session[Any]) -> None:
        """Wait until nothing of what was written to a connection is left to send."""


class TaskKeeper(Protocol):
    """How long the room stays awake."""

    def keep_awake(self, seconds: float) -> None:
        """Count as busy for some time."""

    def hibernate(self) -> None:
        """Ask to be put to sleep soon."""


class ErrandRunner(Protocol):
    """How other threads reach the room."""

    def from_thread(self, function: Callable[..., Any], call: Callable[[], Any]) -> Any:
        """Run `call` on the room's loop, for a thread that waits for it; `function` names it in errors."""


class Operations(Protocol[M, S]):
    """One incarnation of a room, for its handles."""

    @property
    def name(self) -> str: ...
    @property
    def definition(self) -> RoomDefinition[M, S]: ...
    @property
    def actor(self) -> Actor[M, S]: ...
    @property
    def state(self) -> S: ...
    @property
    def wake_reason(self) -> WakeReason: ...
    @property
    def members(self) -> Attendance[M]: ...
    @property
    def outputs(self) -> Sender: ...
    @property
    def roster(self) -> Doorkeeper: ...
    @property
    def metas(self) -> SessionOwner: ...
    @property
    def tasks(self) -> TaskKeeper: ...
    @property
    def calls(self) -> Caller: ...
    @property
    def drains(self) -> Drainer: ...
    @property
    def errands(self) -> ErrandRunner: ...

    def check_awake(self) -> None:
        """Raise `RoomAsleep` if the room slept or the calling hook was abandoned, `WrongThread` in another thread."""

    def spawn(self, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Start a task whose operations are not the running hook's."""

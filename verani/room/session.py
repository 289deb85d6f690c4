"""Hold one session: a connection and its meta, as the room sees it.

Applications see a read-only view whose changes belong to the running hook's transaction.
Committing and rolling back is the engine's work.
"""

from __future__ import annotations

from typing import Any, Generic, Protocol

import msgspec

from ..names import MAX_CHANNELS, check_name
from .meta import M, check_own_field, set_channels, undeclared

__all__ = ["Session", "SessionOwner"]


class SessionOwner(Protocol):
    """What a session needs of its engine."""

    def check_thread(self) -> None:
        """Raise `WrongThread` in any thread but the room's."""

    def touch(self, session: Session[Any]) -> bool:
        """Make the session part of the running transaction, before it changes; False where no hook is running."""

    def moved(self, session: Session[Any], before: tuple[str, ...]) -> None:
        """Follow a change of channels."""

    def copy_meta(self, meta: Any) -> Any:
        """Copy a meta deeply."""

    def settle(self, session: Session[Any]) -> None:
        """Commit at once where no hook is running."""


class Session(Generic[M]):
    """One connection of the room.

    `join`, `leave` and `update` are kept when the running hook returns and undone when it raises. In a spawned task
    they are kept at once, or raise `RoomBusy` while a running hook is changing the same session.
    """

    __slots__ = ("__weakref__", "_owner", "attachment", "gateway", "id", "live_meta", "order")

    def __init__(self, owner: SessionOwner, gateway: str, id: str, meta: M, attachment: bytes, order: int = 0) -> None:
        self._owner = owner
        self.gateway = gateway
        self.id = id
        # The meta that hooks of this connection work on, and the attachment last committed.
        self.live_meta = meta
        self.attachment = attachment
        # Rises with every session of the room, over all its incarnations.
        self.order = order

    def __repr__(self) -> str:
        return f"<Session {self.id}>"

    @property
    def user_id(self) -> str:
        return self.live_meta.user_id

    @property
    def client_id(self) -> str:
        return self.live_meta.client_id

    @property
    def channels(self) -> tuple[str, ...]:
        return self.live_meta.channels

    @property
    def meta(self) -> M:
        """A copy of the meta; change it with `update`."""
        self._owner.check_thread()
        meta: M = self._owner.copy_meta(self.live_meta)
        return meta

    def join(self, channel: str) -> None:
        """Enter a channel; raises ValueError for a bad name or more than 128 channels."""
        self._owner.check_thread()
        check_name(channel, "channel")
        before = self.channels
        if channel in before:
            return
        if len(before) >= MAX_CHANNELS:
            raise ValueError(f"join: expected at most {MAX_CHANNELS} channels a connection")
        self._set_channels(before, (*before, channel))

    def leave(self, channel: str) -> None:
        """Leave a channel; one it is not in is ignored."""
        self._owner.check_thread()
        check_name(channel, "channel")
        before = self.channels
        if channel in before:
            self._set_channels(before, tuple(name for name in before if name != channel))

    def _set_channels(self, before: tuple[str, ...], after: tuple[str, ...]) -> None:
        self._owner.touch(self)
        set_channels(self.live_meta, after)
        self._owner.moved(self, before)
        self._owner.settle(self)

    def update(self, **fields: Any) -> None:
        """Set own fields of the meta; raises AttributeError for one that does not exist or is fixed."""
        self._owner.check_thread()
        known = {field.name for field in msgspec.structs.fields(self.live_meta)}
        for name in fields:
            if name not in known:
                raise undeclared(self.live_meta, name)
            check_own_field(self.live_meta, name)
        self._owner.touch(self)
        for name, value in fields.items():
            setattr(self.live_meta, name, value)
        self._owner.settle(self)

"""Commit the metas that a hook has changed, or take its changes back.

Invariant: changes are committed, all together, after the hook returned, or rolled back: the committed attachment is the
only truth. Equal encodings mean an unchanged meta.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, Generic

from ..errors import RoomBusy, TooLarge
from ..link import messages
from ..room.meta import AttachmentCodec, M
from ..room.session import Session
from .audience import Membership
from .hook_run import HookRun, Turn
from .sink import Sink

__all__ = ["Transactions"]


class Transactions(Generic[M]):
    """The transactions of a room; the owner of its sessions."""

    def __init__(
        self, turn: Turn, members: Membership[M], codec: AttachmentCodec[M], sink: Sink, limited: Counter[str]
    ) -> None:
        self.codec = codec
        self._turn = turn
        self._members = members
        self._sink = sink
        self._limited = limited

    def check_thread(self) -> None:
        """Raise `WrongThread` in any thread but the room's."""
        self._turn.check_thread()

    def touch(self, session: Session[Any]) -> bool:
        """Make a session part of the running transaction; False where no hook is running.

        Raises `RoomBusy` if it is part of a transaction that is not the caller's.
        """
        turn = self._turn
        turn.check_awake()
        if turn.current is None:
            return False
        touched = turn.current.touched
        if turn.is_callers:
            if touched is None:
                touched = turn.current.touched = {}
            touched[session.id] = session
            return True
        if touched is not None and session.id in touched:
            raise RoomBusy(f"{session!r} belongs to the running hook; change it when that has returned")
        return False

    def moved(self, session: Session[Any], before: tuple[str, ...]) -> None:
        """Follow a change of a session's channels."""
        self._members.move(session, before, session.channels)

    def copy_meta(self, meta: Any) -> Any:
        """Copy a meta for somebody who may do with it what he likes."""
        return self.codec.copy(meta)

    def settle(self, session: Session[Any]) -> None:
        """Outside of hooks (spawned tasks), every change is a transaction of its own."""
        if not self._turn.is_callers:
            alone = HookRun(None, touched={session.id: session})
            try:
                self.commit(alone)
            except BaseException:
                self.roll_back(alone)
                raise

    def commit(self, run: HookRun) -> None:
        """Check all changed metas, then store all: one that does not fit fails the hook."""
        changed: list[tuple[Session[M], bytes, M]] = []
        for session in (run.touched or {}).values():
            attachment = self.codec.encode(session.live_meta)
            if attachment != session.attachment:
                changed.append((session, attachment, self._check(attachment)))
        for session, attachment, meta in changed:
            session.attachment = attachment
            session.live_meta = meta  # what a wake would give: nothing of it is shared with the hook any more
            cause = run.message.number if run.message is not None else None
            self._sink.attach(session.gateway, messages.Attach(session.id, attachment), cause)

    def _check(self, attachment: bytes) -> M:
        try:
            return self.codec.check(attachment)
        except TooLarge:
            self._limited["max_meta_bytes"] += 1
            raise

    def roll_back(self, run: HookRun) -> None:
        """Give the sessions the metas last committed."""
        for session in (run.touched or {}).values():
            before = session.channels
            session.live_meta = self.codec.decode(session.attachment)
            self._members.move(session, before, session.channels)

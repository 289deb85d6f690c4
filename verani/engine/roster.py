"""Know which connections a room has: its members, and connections that it has closed, until their `on_disconnect`.

Invariant: a session is either a member or leaving until its close has had its turn, and then in neither.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from typing import Generic

from ..link import messages
from ..names import CLOSE_CODES, MAX_REASON_BYTES, well_formed
from ..room.meta import M
from ..room.session import Session
from .audience import Membership
from .hook_run import Turn
from .outputs import Outputs

__all__ = ["Roster"]


class Roster(Generic[M]):
    """The connections of a room; one that was dismissed is in no audience any more."""

    def __init__(self, turn: Turn, members: Membership[M], outputs: Outputs[M]) -> None:
        self._turn = turn
        self._members = members
        self._outputs = outputs
        self._leaving: dict[str, Session[M]] = {}
        self._close_queued: set[str] = set()
        # The place of the session that came last.
        self._seat = 0

    def __iter__(self) -> Iterator[Session[M]]:
        yield from self._members.sessions.values()
        yield from self._leaving.values()

    def __len__(self) -> int:
        return len(self._members.sessions) + len(self._leaving)

    def has(self, connection: str) -> bool:
        """Tell whether a connection is a member or leaving."""
        return connection in self._members.sessions or connection in self._leaving

    def ids(self) -> frozenset[str]:
        """Name the connections that are members or leaving."""
        return frozenset((*self._members.sessions, *self._leaving))

    def by_gateway(self) -> Counter[str]:
        """Count the connections at each gateway."""
        return Counter(session.gateway for session in self)

    def next_seat(self) -> int:
        """Give the place of a new session, above all given before, also by incarnations whose records are late."""
        self._seat = max(self._seat + 1, time.time_ns() // 1000)
        return self._seat

    def restore(self, session: Session[M], *, closing: bool) -> bool:
        """Take the place of a session that had one; False if it is leaving."""
        self._seat = max(self._seat, session.order)
        if closing:
            self._leaving[session.id] = session
        return not closing

    def dismiss(self, session: Session[M]) -> None:
        """Take a session out of the audience and keep it for its `on_disconnect`."""
        self._members.remove(session)
        self._leaving[session.id] = session

    def discard(self, session: Session[M]) -> None:
        """Take out a session without an `on_disconnect`."""
        self._members.remove(session)
        self._leaving.pop(session.id, None)

    def forget(self, connection: str) -> Session[M] | None:
        """Take out the session of a connection that is gone, and return it."""
        self._close_queued.discard(connection)
        session = self._leaving.pop(connection, None) or self._members.sessions.get(connection)
        if session is not None:
            self._members.remove(session)
        return session

    def kick(self, connection: str, code: int, reason: str) -> bool:
        """Close a connection and dismiss it; False if it is not here. Raises ValueError for a bad code or reason."""
        self._turn.check_awake()
        if type(code) is not int or code not in CLOSE_CODES:
            raise ValueError(f"close: expected code 1000, 1008, 1011 to 1013 or 3000 to 4999, got {code!r}")
        reason = well_formed(reason)
        if len(reason.encode()) > MAX_REASON_BYTES:
            raise ValueError(f"close: expected a reason of at most {MAX_REASON_BYTES} bytes")
        session = self._members.sessions.get(connection)
        if session is None:
            return False
        self.dismiss(session)
        self._outputs.put(session.gateway, messages.Kick(connection, code, reason))
        return True

    def note_close(self, connection: str) -> None:
        """Learn that the close of this connection has arrived and waits for its turn."""
        self._close_queued.add(connection)

    def cleanup(self) -> int:
        """Dismiss the sessions whose close waits for its turn, and count them."""
        self._turn.check_awake()
        stale = [session for session in self._members.sessions.values() if session.id in self._close_queued]
        for session in stale:
            self.dismiss(session)
        return len(stale)

    def clear(self) -> None:
        """Forget everybody."""
        self._members.clear()
        self._leaving.clear()
        self._close_queued.clear()

"""Know who is in a room and in which channel, and pick audiences.

Invariants: a session is in the index of exactly the channels of its meta; a cached audience is dropped the
moment its members change, so the same `Audience` object means the same connections. Closing sessions are in
no index. Nothing is sent from here.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Generic

from ..room.meta import M
from ..room.session import Session

__all__ = ["Audience", "Membership"]


@dataclass(frozen=True, slots=True)
class Audience:
    """Connections picked for one output, by the gateway that holds them."""

    targets: tuple[tuple[str, tuple[str, ...]], ...]
    count: int


NOBODY = Audience((), 0)


def audience_of(sessions: Iterable[Session[M]]) -> Audience:
    """Group connections by gateway, in the order given."""
    by_gateway: dict[str, list[str]] = {}
    count = 0
    for session in sessions:
        by_gateway.setdefault(session.gateway, []).append(session.id)
        count += 1
    if not count:
        return NOBODY
    return Audience(tuple((gateway, tuple(ids)) for gateway, ids in by_gateway.items()), count)


class Membership(Generic[M]):
    """The sessions of a room, indexed by channel, user and client, in first-seen order."""

    __slots__ = (
        "__weakref__",
        "_audiences",
        "_channels",
        "_clients",
        "_everybody",
        "_users",
        "_users_moved",
        "sessions",
    )

    def __init__(self) -> None:
        self.sessions: dict[str, Session[M]] = {}
        # In the order of each user's oldest session, unless `_users_moved`.
        self._users: dict[str, dict[str, Session[M]]] = {}
        self._users_moved = False
        self._clients: dict[str, Session[M]] = {}
        self._channels: dict[str, dict[str, Session[M]]] = {}
        self._audiences: dict[str, Audience] = {}
        self._everybody: Audience | None = None

    def add(self, session: Session[M]) -> None:
        """Let a session in."""
        id, meta = session.id, session.live_meta
        self.sessions[id] = session
        self._everybody = None
        self._users.setdefault(meta.user_id, {})[id] = session
        self._clients[meta.client_id] = session
        for channel in meta.channels:
            # As `_enter` does, for the thousands that a room may wake with.
            self._channels.setdefault(channel, {})[id] = session
            self._audiences.pop(channel, None)

    def remove(self, session: Session[M]) -> bool:
        """Take a session out at once; False if it was not in."""
        if self.sessions.pop(session.id, None) is None:
            return False
        self._everybody = None
        users = self._users.get(session.user_id)
        self._users_moved |= users is not None and len(users) > 1 and next(iter(users)) == session.id
        _drop(self._users, session.user_id, session.id)
        if self._clients.get(session.client_id) is session:
            del self._clients[session.client_id]
        for channel in session.channels:
            self._exit(channel, session)
        return True

    def sort(self) -> None:
        """Put the sessions and every index into first-seen order, after records of several gateways."""
        sessions = sorted(self.sessions.values(), key=lambda session: session.order)
        self.clear()
        for session in sessions:
            self.add(session)

    def clear(self) -> None:
        """Take out everybody."""
        for index in (self.sessions, self._users, self._clients, self._channels, self._audiences):
            index.clear()
        self._everybody = None

    def move(self, session: Session[M], before: tuple[str, ...], after: tuple[str, ...]) -> None:
        """Follow a change of a session's channels."""
        if before == after or session.id not in self.sessions:
            return
        for channel in before:
            if channel not in after:
                self._exit(channel, session)
        for channel in after:
            if channel not in before:
                self._enter(channel, session)

    def _enter(self, channel: str, session: Session[M]) -> None:
        self._channels.setdefault(channel, {})[session.id] = session
        self._audiences.pop(channel, None)

    def _exit(self, channel: str, session: Session[M]) -> None:
        _drop(self._channels, channel, session.id)
        self._audiences.pop(channel, None)

    def holder_of(self, client_id: str) -> Session[M] | None:
        """Return the session with this client id."""
        return self._clients.get(client_id)

    def of_user(self, user_id: str) -> tuple[Session[M], ...]:
        """Return a user's sessions, oldest first."""
        return tuple(self._users.get(user_id, {}).values())

    def user_ids(self) -> list[str]:
        """List the users, each once, in the order of their oldest session: what a wake finds, too."""
        if self._users_moved:
            order = dict.fromkeys(session.user_id for session in self.sessions.values())
            self._users = {user_id: self._users[user_id] for user_id in order}
            self._users_moved = False
        return list(self._users)

    def everybody(self) -> Audience:
        """Pick all sessions, whatever their channels."""
        if self._everybody is None:
            self._everybody = audience_of(self.sessions.values())
        return self._everybody

    def channel(self, name: str) -> Audience:
        """Pick everybody in a channel."""
        audience = self._audiences.get(name)
        if audience is None:
            members = self._channels.get(name)
            if members is None:
                return NOBODY
            audience = self._audiences[name] = audience_of(members.values())
        return audience

    def count_in(self, channel: str, ids: Collection[str]) -> int:
        """Count which of these connections are in a channel."""
        members = self._channels.get(channel)
        return sum(1 for id in ids if id in members) if members else 0

    def select(
        self,
        channel: str | None,
        *,
        user_ids: Collection[str] | None = None,
        client_ids: Collection[str] | None = None,
        exclude: Collection[str] = (),
    ) -> Audience:
        """Pick those who pass every filter that is given."""
        candidates: Iterable[Session[M]]
        if client_ids is not None:
            held = (self._clients.get(client_id) for client_id in dict.fromkeys(client_ids))
            candidates = [session for session in held if session is not None]
        elif user_ids is not None:
            candidates = [s for user_id in dict.fromkeys(user_ids) for s in self.of_user(user_id)]
        else:
            candidates = self.sessions.values()
        users = None if user_ids is None else frozenset(user_ids)
        return audience_of(
            session
            for session in candidates
            if (channel is None or channel in session.channels)
            and (users is None or session.user_id in users)
            and session.id not in exclude
        )


def _drop(index: dict[str, dict[str, Session[M]]], key: str, id: str) -> None:
    """Remove one entry, and the key with its last one, so that an index never outgrows its sessions."""
    members = index.get(key)
    if members is not None:
        members.pop(id, None)
        if not members:
            del index[key]

"""A room that never sleeps, as one small model: what its clients see, what its calls answer, which hooks run.

It shares nothing with the sources but the words of the protocol. Hooks are scripts of actions; the real room runs the
same scripts (`test_host_model`). Whether a room is asleep shows only in two ways, both about gateways: a wake waits for
one that is slow, and a record may be unreadable.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Generator, Iterable
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

__all__ = ["Action", "Boom", "Inbound", "Member", "Meta", "ReferenceRoom"]

Action: TypeAlias = list[Any]
Steps: TypeAlias = Generator[None, None, list[Any]]

REPLACED = (4009, "another connection has this client id")
UNREADABLE = (1011, "attachment unreadable")
FAILED = (1011, "")


class Boom(Exception):
    """What a script raises."""


def event_of(channel: str, data: Any) -> bytes:
    """Write an event frame (protocol 9)."""
    return json.dumps({"type": "event", "channel": channel, "data": data}, separators=(",", ":")).encode()


@dataclass(frozen=True)
class Meta:
    user: str
    client: str
    channels: tuple[str, ...]
    score: int = 0

    def row(self) -> list[Any]:
        return [self.user, self.client, list(self.channels), self.score]


@dataclass
class Member:
    """One connection that became a session."""

    id: str
    gateway: str
    meta: Meta
    greeting: list[Action]


@dataclass(frozen=True)
class Inbound:
    """One input."""

    kind: str
    gateway: str
    number: int = 0
    connection: str = ""
    member: Member | None = None
    script: tuple[Action, ...] = ()
    request: int | None = None
    code: int = 0
    method: str = ""
    arguments: Any = None


class ReferenceRoom:
    """State and transcript of one room."""

    def __init__(self) -> None:
        # In the order they came, and those told to close, until their close was handled.
        self.members: list[Member] = []
        self.leaving: dict[str, Member] = {}
        self.state = "asleep"
        self.slow: set[str] = set()
        self.awaited: set[str] = set()
        # Gateways whose members are not here yet.
        self.absent: set[str] = set()
        self.unreadable: set[str] = set()
        self.queue: deque[Inbound] = deque()
        self.running: Generator[None, None, None] | None = None
        self.waits = False
        self.drowsy = False
        self.night_is_held = False
        # What is compared: frames and the close of each client, replies by gateway and number, and the hooks.
        self.seen: dict[str, list[bytes | tuple[int, str]]] = {}
        self.shut: set[str] = set()
        self.replies: dict[tuple[str, int], Any] = {}
        self.hooks: list[tuple[Any, ...]] = []

    # --- inputs, sleep and gateways ---

    def put(self, *inputs: Inbound) -> None:
        """Take inputs in the order the host takes them."""
        self.shut |= {input.connection for input in inputs if input.kind == "close"}
        for input in inputs:
            self._queue(input)
        self.work()

    def _queue(self, input: Inbound) -> None:
        if self.state == "asleep":
            self._wake()
        self.queue.append(input)

    def _wake(self) -> None:
        self.awaited = set(self.slow)
        self.state = "waking"
        if not self.awaited:
            self._open()

    def _open(self) -> None:
        self.state = "awake"
        self.absent = {member.gateway for member in self._all()}
        self._merge(set(self.absent))

    def _all(self) -> list[Member]:
        return [*self.members, *self.leaving.values()]

    def _merge(self, gateways: set[str]) -> None:
        """Let the members of these gateways in; of two with one client id the newer one stays."""
        for member in self._all():
            if member.gateway in gateways and member.id in self.unreadable:
                self._show(member.id, UNREADABLE)
                self._forget(member.id)
        self.absent -= gateways
        for older in tuple(self.members):
            newer = [m for m in self._present() if m.meta.client == older.meta.client]
            if older in newer and newer[-1] is not older:
                self._dismiss(older, REPLACED)

    def answered(self, gateway: str) -> None:
        """The last of a slow gateway's records has come."""
        self.awaited.discard(gateway)
        if not self.awaited:
            self._open()
        self.work()

    @property
    def is_idle(self) -> bool:
        return self.state == "awake" and self.running is None and not self.queue

    def retire(self) -> None:
        """The room has been idle for long: it sleeps, unless something is going on."""
        if self.is_idle:
            self.state = "retiring"
            self.drowsy = False
            if not self.night_is_held:
                self.end_night()

    def end_night(self) -> None:
        """The tear-down is over; what came meanwhile wakes the room."""
        self.night_is_held = False
        if self.state != "retiring":
            return
        left = list(self.queue)
        self.state = "asleep"
        self.queue.clear()
        for input in left:
            self._queue(input)
        self.work()

    def work(self) -> None:
        """Handle what can be handled now."""
        while self.state == "awake" and not self.waits:
            if self.running is None:
                if not self.queue:
                    break
                self.running = self._handle(self.queue.popleft())
            try:
                next(self.running)
                self.waits = True
            except StopIteration:
                self.running = None
        if self.drowsy:
            self.retire()

    def go_on(self) -> None:
        """End what the running script waits for."""
        self.waits = False
        self.work()

    # --- the order of hooks ---

    def _handle(self, input: Inbound) -> Generator[None, None, None]:
        match input.kind:
            case "connect":
                assert input.member is not None
                yield from self._connected(input.member)
            case "frame":
                yield from self._framed(input)
            case "close":
                self._closed(input)
            case "call":
                yield from self._called(input)

    def _connected(self, member: Member) -> Generator[None, None, None]:
        for holder in self._present():
            if holder.meta.client == member.meta.client:
                self._dismiss(holder, REPLACED)
        self.members.append(member)
        self._note("connect", member)
        self._broadcast(event_of("default", {"joined": member.id}), "default")
        if (yield from self._attempt(member, member.greeting)) is None:
            self._forget(member.id)
            self._show(member.id, FAILED)

    def _framed(self, input: Inbound) -> Generator[None, None, None]:
        member = self._here(input.connection)
        if member is None:
            return
        self._note("frame", member, input.number)
        results = yield from self._attempt(member, input.script)
        if input.request is not None:
            answer = {"error": {"code": "failed"}} if results is None else {"data": results}
            text = json.dumps({"type": "ack", "id": input.request, **answer}, separators=(",", ":"))
            self._show(member.id, text.encode())

    def _closed(self, input: Inbound) -> None:
        member = self.leaving.get(input.connection) or self._here(input.connection)
        if member is None:
            return
        self._forget(member.id)
        self._note("disconnect", member, input.code)
        self._broadcast(event_of("default", {"left": member.id, "code": input.code}), "default")

    def _called(self, input: Inbound) -> Generator[None, None, None]:
        given = input.arguments
        match input.method:
            case "run":
                results: Any = yield from self._attempt(None, given["script"])
            case "missing":
                results = {"code": "not_found"}
            case "run_wrong":
                results = {"code": "invalid"}
            case "broadcast":
                users, clients = given.get("user_ids"), given.get("client_ids")
                frame = event_of(given["channel"], given["data"])
                results = self._broadcast(frame, given["channel"], users, clients)
            case "send_to_user":
                frame = event_of(given["channel"], given["data"])
                results = self._broadcast(frame, given["channel"], [given["user_id"]])
            case "emit_to_channel":
                results = self._emit_to_channel(given["channel"], given["event"], given["data"])
            case "emit_to_user":
                results = self._emit_to_user(given["user_id"], given["event"], given["data"])
            case "get_session_count":
                results = len(self._present())
            case "get_connected_user_ids":
                results = self._users()
            case "cleanup_stale_sessions":
                results = self._cleanup()
            case _:
                raise AssertionError(input.method)
        self.replies[input.gateway, input.number] = {"code": "failed"} if results is None else results

    def _note(self, hook: str, member: Member, *more: Any) -> None:
        self.hooks.append((hook, member.id, *more, *member.meta.row()))

    # --- scripts ---

    def _attempt(self, member: Member | None, script: Iterable[Action]) -> Generator[None, None, list[Any] | None]:
        """Run a script; undo its changes of metas and return None if it raises."""
        before = [(other, other.meta) for other in self._all()]
        try:
            return (yield from self._perform(member, script))
        except Boom:
            for other, meta in before:
                other.meta = meta
            self.hooks.append(("error", "Boom", member.id if member is not None else None))
            return None

    def _perform(self, me: Member | None, script: Iterable[Action]) -> Steps:
        results: list[Any] = []
        for action in script:
            match action:
                case ["wait"]:
                    yield
                    results.append(None)
                case ["raise"]:
                    raise Boom
                case [("join" | "leave" | "score" | "mine" | "emit" | "to_channel" | "to_user"), *_] if me is None:
                    results.append(None)
                case _:
                    results.append(self._act(me, action))
        return results

    def _act(self, me: Member | None, action: Action) -> Any:
        match action:
            case [("join" | "leave" | "score" | "mine" | "emit" | "to_channel"), *_]:
                assert me is not None
                return self._act_of(me, action)
            case ["invite", id, channel]:
                return self._change(id, lambda meta: _joined(meta, channel))
            case ["expel", id, channel]:
                return self._change(id, lambda meta: _left(meta, channel))
            case ["give", id, n]:
                return self._change(id, lambda meta: replace(meta, score=n))
            case ["to_user" | "emit_to_user", user, n]:
                return self._emit_to_user(user, "e", {"n": n})
            case ["emit_to_channel", channel, n]:
                return self._emit_to_channel(channel, "e", {"n": n})
            case ["send_to_user", user, channel, n]:
                return self._broadcast(event_of(channel, {"n": n}), channel, [user])
            case ["broadcast", channel, n, users, clients, excluded]:
                return self._broadcast(event_of(channel, {"n": n}), channel, users, clients, excluded)
            case ["kick", id]:
                member = self._here(id)
                if member is not None:
                    self._dismiss(member, (4100, "out"))
                return member is not None
            case ["kick_user", user]:
                found = [member for member in self._present() if member.meta.user == user]
                for member in found:
                    self._dismiss(member, (1000, ""))
                return len(found)
            case ["count"]:
                return len(self._present())
            case ["users"]:
                return self._users()
            case ["who"]:
                return [[member.id, *member.meta.row()] for member in self._present()]
            case ["stale"]:
                return self._cleanup()
            case ["hibernate"]:
                self.drowsy = True
                return None
        raise AssertionError(action)

    def _act_of(self, me: Member, action: Action) -> Any:
        match action:
            case ["join", channel]:
                me.meta = _joined(me.meta, channel)
            case ["leave", channel]:
                me.meta = _left(me.meta, channel)
            case ["score", n]:
                me.meta = replace(me.meta, score=n)
            case ["mine"]:
                return me.meta.row()
            case ["emit", n]:
                if self._here(me.id) is None:
                    return 0
                self._show(me.id, event_of([*me.meta.channels, "default"][0], {"type": "e", "n": n}))
                return 1
            case ["to_channel", channel, n]:
                frame = event_of(channel, {"type": "e", "n": n})
                return self._broadcast(frame, channel, None, None, [me.id])
        return None

    def _change(self, id: str, change: Any) -> bool:
        member = self._here(id)
        if member is not None:
            member.meta = change(member.meta)
        return member is not None

    # --- who is here, and what reaches whom ---

    def _present(self) -> list[Member]:
        return [member for member in self.members if member.gateway not in self.absent]

    def _here(self, id: str) -> Member | None:
        return next((member for member in self._present() if member.id == id), None)

    def _users(self) -> list[str]:
        return list(dict.fromkeys(member.meta.user for member in self._present()))

    def _forget(self, id: str) -> None:
        self.members = [member for member in self.members if member.id != id]
        self.leaving.pop(id, None)

    def _dismiss(self, member: Member, close: tuple[int, str] | None) -> None:
        self.members.remove(member)
        self.leaving[member.id] = member
        if close is not None:
            self._show(member.id, close)

    def _cleanup(self) -> int:
        queued = {input.connection for input in self.queue if input.kind == "close"}
        stale = [member for member in self._present() if member.id in queued]
        for member in stale:
            self._dismiss(member, None)
        return len(stale)

    def _emit_to_channel(self, channel: str, event: str, data: dict[str, Any]) -> int:
        return self._broadcast(event_of(channel, {"type": event, **data}), channel)

    def _emit_to_user(self, user: str, event: str, data: dict[str, Any]) -> int:
        return self._broadcast(event_of("default", {"type": event, **data}), None, [user])

    def _broadcast(
        self,
        frame: bytes,
        channel: str | None,
        users: list[str] | None = None,
        clients: list[str] | None = None,
        excluded: list[str] | None = None,
    ) -> int:
        audience = [
            member
            for member in self._present()
            if (channel is None or channel in member.meta.channels)
            and (users is None or member.meta.user in users)
            and (clients is None or member.meta.client in clients)
            and member.id not in (excluded or ())
        ]
        for member in audience:
            self._show(member.id, frame)
        return len(audience)

    def _show(self, id: str, item: bytes | tuple[int, str]) -> None:
        """Let a client see a frame or its close, unless it has seen its close or has gone."""
        if id in self.shut:
            return
        self.seen.setdefault(id, []).append(item)
        if isinstance(item, tuple):
            self.shut.add(id)


def _joined(meta: Meta, channel: str) -> Meta:
    return meta if channel in meta.channels else replace(meta, channels=(*meta.channels, channel))


def _left(meta: Meta, channel: str) -> Meta:
    return replace(meta, channels=tuple(name for name in meta.channels if name != channel))

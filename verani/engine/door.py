"""Let connections into a room and out of it.

Invariant: no two sessions have one client id; the one that came last stays, unless the definition rejects it.
"""

from __future__ import annotations

import functools
import logging
from typing import Generic

from ..link import messages
from ..room.context import Context
from ..room.meta import AttachmentError, M
from ..room.operations import S
from ..room.session import Session
from .hook_run import HookRun
from .hook_runner import Hooks, Rest
from .incarnation import Incarnation
from .refusing import closing_of, turn_away

__all__ = ["Door"]

logger = logging.getLogger(__name__)

_REPLACED = "another connection has this client id"
_UNREADABLE = "attachment unreadable"


class Door(Generic[M, S]):
    """Where connections come in, come back and go out."""

    def __init__(self, room: Incarnation[M, S], hooks: Hooks[M, S]) -> None:
        self._room = room
        self._sink = room.sink
        self._members = room.members
        self._roster = room.roster
        self._hooks = hooks

    def restore(self, gateway: str, records: tuple[messages.Record, ...]) -> None:
        """Let in connections that a gateway has had all along; `Membership.sort` is due after several gateways."""
        known = self._roster.ids()
        for record in records:
            # A gateway that linked again has records of connections that never left.
            if record.connection not in known:
                self._restore(gateway, record)

    def _restore(self, gateway: str, record: messages.Record) -> None:
        try:
            meta = self._decode(record)
        except AttachmentError:
            kick = messages.Kick(record.connection, 1011, _UNREADABLE, refused=True)
            self._sink.output(gateway, kick, None)
            return
        session = Session(self._room.metas, gateway, record.connection, meta, record.attachment, record.order)
        if not self._roster.restore(session, closing=record.closing):
            return
        holder = self._members.holder_of(session.client_id)
        if holder is not None:
            # While the records of one gateway were late, the client came back through another: its last one stays.
            older, session = sorted((holder, session), key=lambda each: each.order)
            self._replace(older, None)
        if session is not holder:
            self._members.add(session)

    def _replace(self, session: Session[M], cause: int | None) -> None:
        self._roster.dismiss(session)
        self._sink.output(session.gateway, messages.Kick(session.id, 4009, _REPLACED), cause)

    def _decode(self, holder: messages.Record | messages.Connect) -> M:
        try:
            return self._room.metas.codec.decode(holder.attachment)
        except AttachmentError as error:
            logger.error("connection closed: %s", error, extra=self._room.log.extra(holder.connection))
            raise

    def connected(self, gateway: str, event: messages.Connect) -> Rest[object] | None:
        """Let a new connection in, and run `on_connect`; returns the rest of that."""
        try:
            meta = self._decode(event)
        except AttachmentError:
            turn_away(self._sink, gateway, event, 1011, _UNREADABLE)
            return None
        holder = self._members.holder_of(meta.client_id)
        if holder is not None:
            # A gateway refuses the second one before the upgrade where the definition rejects it (protocol 15); here it
            # came through another gateway.
            if self._room.definition.same_client == "reject":
                turn_away(self._sink, gateway, event, 4009, _REPLACED)
                return None
            self._replace(holder, event.number)
        seat = self._roster.next_seat()
        session = Session(self._room.metas, gateway, event.connection, meta, event.attachment, seat)
        self._members.add(session)
        self._sink.attach(gateway, messages.Seat(session.id, seat), None)
        if "on_connect" not in self._room.definition.hooks:
            return None
        context = Context(self._room, session)
        fail = functools.partial(self._discard, gateway, event, session)
        return self._hooks.begin("on_connect", HookRun(context, gateway, event, fail), context)

    def _discard(self, gateway: str, event: messages.Connect, session: Session[M], error: BaseException) -> None:
        self._roster.discard(session)
        turn_away(self._sink, gateway, event, *closing_of(error))

    def closed(self, gateway: str, event: messages.Close) -> Rest[object] | None:
        """Take out a connection that is gone, and run `on_disconnect`, unless `on_connect` refused it."""
        session = self._roster.forget(event.connection)
        if session is None or "on_disconnect" not in self._room.definition.hooks:
            return None
        context = Context(self._room, session, close_code=event.code, close_reason=event.reason)
        return self._hooks.begin("on_disconnect", HookRun(context, gateway, event), context)

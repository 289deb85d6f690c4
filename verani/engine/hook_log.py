"""Log what the hooks of a room raise: no text of it reaches a client."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from ..errors import is_refusal
from ..room.context import Context
from ..room.session import Session
from .hook_measures import HookMeasures

__all__ = ["HookLog"]

logger = logging.getLogger(__name__)


class HookLog:
    """The log of one room's hooks, which are counted by `measures`.

    `watch`, if given, gets every error, too, and the name of its hook.
    """

    def __init__(
        self, room: str, measures: HookMeasures, watch: Callable[[BaseException, str], None] | None = None
    ) -> None:
        self._room = room
        self._measures = measures
        self._watch = watch

    def extra(self, connection: str | None, user: str | None = None) -> dict[str, Any]:
        """Name the room, a connection and whose it is, for a log record."""
        return {"room": self._room, "connection": connection, "user": user}

    def about(self, session: Session[Any] | None) -> dict[str, Any]:
        """Name the room and whose session it is, for a log record."""
        return self.extra(session.id, session.user_id) if session is not None else self.extra(None)

    def failed(self, error: BaseException, context: Context[Any, Any], name: str = "") -> None:
        """Log and count an error of a hook, by default the one that the context was made for.

        Every error that a hook or a spawned task of a room raises passes here, once.
        """
        self._measures.failed(error, context, name)
        hook = self._measures.named(context, name)  # never by what a client chose: repeats are limited by it
        if self._watch is not None:
            self._watch(error, hook)
        extra = self.about(context._session) | {"hook": hook}
        if is_refusal(error):
            # Said on purpose, to a client that can make the hook say it as often as it likes.
            logger.debug("a hook refused: %s: %s", type(error).__name__, error, extra=extra)
        else:
            logger.error("a hook of %s failed: %s", self._room, type(error).__name__, exc_info=error, extra=extra)

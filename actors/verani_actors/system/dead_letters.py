"""Tell the actors that asked for it of messages whose receiver is gone."""

from __future__ import annotations

import logging
from collections.abc import Iterator

from thespian.actors import ChildActorExited, DeadEnvelope, WakeupMessage

from .reference import EXTERNAL, SYSTEM, ActorRef, Envelope

__all__ = ["DeadLetters"]

logger = logging.getLogger(__name__)


class DeadLetters:
    """The registered handlers, in order; each gets its own envelope."""

    def __init__(self) -> None:
        self.handlers: dict[str, ActorRef] = {}

    def letters(self, envelope: Envelope, attempts: int) -> Iterator[tuple[ActorRef, Envelope]]:
        """Yield each handler with what it is to receive; nothing for a message that is best dropped."""
        if _is_dropped(envelope):
            kind, key = type(envelope.message).__name__, envelope.receiver.actorAddressString
            logger.debug("message without a receiver dropped: %s to %s", kind, key)
            return
        letter = DeadEnvelope(envelope.receiver, envelope.message)
        for handler in tuple(self.handlers.values()):
            if handler.alive:  # an earlier handler may have shut the system down
                yield handler, Envelope(handler.address, envelope.sender, letter, attempts)


def _is_dropped(envelope: Envelope) -> bool:
    """Tell whether nobody is to learn of a message: an own wakeup, what could run in circles, what is for outside."""
    if isinstance(envelope.message, WakeupMessage) and envelope.sender is envelope.receiver:
        return True
    if isinstance(envelope.message, ChildActorExited | DeadEnvelope):
        return True
    return envelope.receiver.actorAddressString in (SYSTEM.actorAddressString, EXTERNAL.actorAddressString)

"""Be the Thespian actor that takes calls of rooms from other actors of the system.

It waits for no answer: calls of one sender run side by side, and each is answered when it is done.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import Any

import msgspec
from msgspec import Struct
from thespian.actors import Actor, ActorAddress

from verani import frames
from verani.link.messages import Outcome

from ..messages import CallRefused, CallReturned, CallRoom
from .carried_calls import CarriedCalls

__all__ = ["RoomCalls", "ServeCalls"]


logger = logging.getLogger(__name__)


class ServeCalls(Struct, frozen=True):
    """Take calls from now on; the actor's first message."""

    carrier: Any


class RoomCalls(Actor):
    """The actor named `verani_actors.messages.CALLS`."""

    def __init__(self) -> None:
        self._carrier: CarriedCalls | None = None

    def receiveMessage(self, message: Any, sender: ActorAddress) -> None:
        match message:
            case ServeCalls():
                self._carrier = message.carrier
            case CallRoom():
                try:
                    self._call(message, sender)
                except Exception:
                    # A bug of ours, and the mailbox's last line: Thespian would carry the call again.
                    logger.exception("a call of %s could not be carried", message.room)
                    self.send(
                        sender, CallRefused("failed", "the log of the host says why", reference=message.reference)
                    )

    def _call(self, call: CallRoom, sender: ActorAddress) -> None:
        if self._carrier is None:
            self.send(sender, CallRefused("busy", "no room host takes calls here", reference=call.reference))
            return
        try:
            msgspec.convert(msgspec.structs.asdict(call), CallRoom)
            arguments = frames.encode(call.arguments)
        except (TypeError, ValueError) as error:  # msgspec's own errors among them
            self.send(sender, CallRefused("invalid", str(error), reference=call.reference))
            return
        self._carrier.call(
            call.room,
            call.method,
            arguments,
            timeout=call.timeout,
            idempotency_key=call.idempotency_key,
            done=partial(self._answer, sender, call.reference),
        )

    def _answer(self, sender: ActorAddress, reference: Any, outcome: Outcome) -> None:
        if outcome.code is None:
            self.send(sender, CallReturned(msgspec.json.decode(outcome.result or b"null"), reference))
        else:
            text = outcome.public or outcome.message or ""
            self.send(sender, CallRefused(outcome.code, text, outcome.path, reference))

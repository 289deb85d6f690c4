"""Hand over to a room host what gateways have sent, as far as lease and epoch allow.

Invariants:
- Messages are handed over in the order of their link; what was sent in a later epoch waits for its commit, and
  everything after it. Nothing is handed over while `serves` says no.
- One message is handed over at a time, whatever link it is of. What is said meanwhile leaves right after.
- A message that cannot be handled is tried again, as far as it was not taken; if that fails, too, its gateway is given
  up and told. So nothing of it is lost in silence.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Protocol

from verani.link.messages import Ask, GatewayMessage, InputBatch, Rebuild, Told

from .gateway_session import GatewaySession

__all__ = ["GiveUp", "Handover", "Receiver"]

logger = logging.getLogger(__name__)


class Receiver(Protocol):
    """The room host."""

    def receive(self, gateway: str, message: GatewayMessage) -> None:
        """Take one message of a gateway."""

    def run(self) -> None:
        """Begin to work on what was received."""


class GiveUp(Protocol):
    """Ends the session of a gateway; `failed` are rooms that have lost something of it."""

    def __call__(self, session: GatewaySession, *, failed: Iterable[str]) -> None: ...


class Handover:
    """Whose turn it is, and what may be handed over."""

    def __init__(
        self,
        host: Receiver,
        *,
        serves: Callable[[], bool],
        ask: Callable[[str, Ask], None],
        told: Callable[[str, Told], None],
        flush: Callable[[], None],
        give_up: GiveUp,
    ) -> None:
        """Hand over to `host`, questions and answers to `ask` and `told`; `flush` sends what came of a message."""
        self._host = host
        self._serves = serves
        self._ask = ask
        self._told = told
        self._flush = flush
        self._give_up = give_up
        # Number of the epoch that is in force.
        self.epoch = 0
        self.is_under_way = False

    def hand_over(self, session: GatewaySession) -> None:
        """Hand over what waits of a gateway, unless a message is being handed over: what waits then comes after it."""
        if self.is_under_way:
            return
        incoming = session.incoming
        while incoming and self._may(incoming[0]):
            message = incoming.popleft()
            self.is_under_way = True
            try:
                is_done = self._try(session, message)
                self._host.run()
            except Exception:  # the socket pump: a defect met by one room must not end the link
                logger.exception("rooms did not run", extra=session.about)
            finally:
                self.is_under_way = False
            if not is_done:
                self._fail(session, message)
            self._flush()
        if not incoming:
            session.incoming_bytes = 0

    def _may(self, message: GatewayMessage) -> bool:
        return self._serves() and (not isinstance(message, InputBatch | Rebuild) or message.epoch <= self.epoch)

    def _try(self, session: GatewaySession, message: GatewayMessage) -> bool:
        """Hand a message over; False if that failed."""
        try:
            if type(message) is Ask:
                self._ask(session.gateway, message)
            elif type(message) is Told:
                self._told(session.gateway, message)
            else:
                self._host.receive(session.gateway, message)
        except Exception:  # the socket pump: a defect met by one message must not end the link
            logger.exception("a message was not handled: %s", type(message).__name__, extra=session.about)
            return False
        session.failed = False
        return True

    def _fail(self, session: GatewaySession, message: GatewayMessage) -> None:
        """See to it that what could not be handled is not lost: by another try, or by telling the gateway."""
        if session.has_ended:
            return
        match message:
            case Ask() | Told():
                return  # an operator asks again
            case InputBatch() if not session.failed:
                session.failed = True
                session.incoming.appendleft(InputBatch(message.inputs, message.epoch, again=True))
                return
            case InputBatch():
                rooms = list(dict.fromkeys(arrival.room for arrival in message.inputs))
            case _:
                rooms = [message.room]
        logger.error("gateway given up: what it said cannot be handled", extra=session.about)
        self._give_up(session, failed=rooms)

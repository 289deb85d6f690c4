"""Be Thespian's TCP transport, and survive strangers: floods of connections, malformed and forged messages."""

from __future__ import annotations

import logging
import socket
from typing import Final

from thespian.system.transport import TCPTransport as tcp
from thespian.system.transport import TransmitIntent

from ..upkeep.refusals import Refusals
from .seal import Rejected

__all__ = ["Transport"]

logger = logging.getLogger(__name__)

# Connections on which a message is under way; more are a flood, and the oldest goes.
_MOST_INCOMING: Final = 64

# Of this process; what it forks goes on counting from there.
_refusals = Refusals(logger, what="control message")


class Transport(tcp.TCPTransport):
    """Thespian's TCP transport, which survives strangers."""

    def external_transport_clone(self) -> Transport:
        routed = isinstance(self.myAddress.addressDetails, tcp.RoutedTCPv4ActorAddress)
        return type(self)(tcp.ExternalTransportCopy(), self._adminAddr, self.txOnly, routed)

    def _acceptNewIncoming(self) -> None:
        if len(self._incomingSockets) >= _MOST_INCOMING:
            self._incomingSockets.pop(next(iter(self._incomingSockets))).close()
        super()._acceptNewIncoming()

    def _handleReadableIncoming(
        self, inc: tcp.TCPIncoming_Common, has_exclusive_flag: bool = False
    ) -> tcp.TCPIncoming_Common | None:
        peer = _peer(inc.socket)  # the socket is closed when a message was refused
        result = super()._handleReadableIncoming(inc, has_exclusive_flag)
        if inc._rData.refused:
            _refusals.add(inc._rData.refused, f"last from {peer}")
        return result

    def _check_XMIT_4_done(self, intent: TransmitIntent, rcv: bytes) -> bool:
        try:
            return super()._check_XMIT_4_done(intent, rcv)
        except Rejected:
            # What listens there now is not who was meant: Thespian would lose count of its sends.
            intent.backoffPause(True)
            intent.stage = self._XMITStepRetry
            return self._nextTransmitStep(intent)


def _peer(connection: socket.socket) -> str:
    """Return the address of the other side, as far as it is known still."""
    try:
        return str(connection.getpeername()[0])
    except OSError:
        return "somebody who has gone"

# Only what `verani_actors` uses of Thespian 4.0.1.

import socket as _socket
from datetime import timedelta
from typing import Any

from thespian.actors import ActorAddress
from thespian.system.transport import TransmitIntent
from thespian.system.transport.IPBase import TCPv4ActorAddress
from thespian.system.transport.streamBuffer import ReceiveBuffer as ReceiveBuffer

class TCPIncoming_Common:
    _rData: Any
    @property
    def socket(self) -> _socket.socket: ...
    def close(self) -> None: ...

serializer: Any
ackMsg: bytes
ackDataErrMsg: bytes
MAX_INCOMING_SOCKET_PERIOD: timedelta
LISTEN_DEPTH: int

class ExternalTransportCopy: ...
class RoutedTCPv4ActorAddress(TCPv4ActorAddress): ...

class TCPTransport:
    socket: _socket.socket
    myAddress: ActorAddress
    txOnly: bool
    _adminAddr: ActorAddress
    _incomingSockets: dict[int, TCPIncoming_Common]
    _XMITStepRetry: int
    def __init__(self, initType: object, *args: object) -> None: ...
    def scheduleTransmit(self, addressManager: None, transmitIntent: TransmitIntent) -> None: ...
    def set_watch(self, watchlist: list[int]) -> None: ...
    def _acceptNewIncoming(self) -> None: ...
    def _handleReadableIncoming(
        self, inc: TCPIncoming_Common, has_exclusive_flag: bool = ...
    ) -> TCPIncoming_Common | None: ...
    def _check_XMIT_4_done(self, intent: TransmitIntent, rcv: bytes) -> bool: ...
    def _nextTransmitStep(self, intent: TransmitIntent) -> bool: ...

"""Talk to rooms from Python: `VeraniClient`, its events, its reconnection plan and its errors."""

from .client import VeraniClient
from .events import Event
from .failures import (
    Closing,
    ConnectFailed,
    ConnectionClosed,
    HandshakeRefused,
    NoWebSocketServer,
    RequestInterrupted,
)
from .lifecycle import ClientState
from .reconnection import Reconnection
from .requests import NotSent
from .streams import EventStream

__all__ = [
    "VeraniClient",
    "ClientState",
    "Event",
    "EventStream",
    "Reconnection",
    "Closing",
    "ConnectFailed",
    "ConnectionClosed",
    "HandshakeRefused",
    "NoWebSocketServer",
    "RequestInterrupted",
    "NotSent",
]

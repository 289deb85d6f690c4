"""Talk to rooms from Python: `VeraniClient`, its events, its reconnection plan and its errors."""

from .backoff import Reconnection
from .client import ClientState, VeraniClient
from .failures import (
    Closing,
    ConnectFailed,
    ConnectionClosed,
    HandshakeRefused,
    NoWebSocketServer,
    RequestInterrupted,
)
from .inbox import Event, EventStream
from .outbox import NotSent

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

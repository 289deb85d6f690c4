"""Talk to rooms from Python: `VeraniClient`, its events, its reconnection plan and its errors."""

from .backoff import Reconnection
from .client import ClientState, VeraniClient
from .failures import ConnectFailed, HandshakeRefused
from .inbox import Event, EventStream
from .outbox import NotSent

__all__ = [
    "VeraniClient",
    "ClientState",
    "Event",
    "EventStream",
    "Reconnection",
    "ConnectFailed",
    "HandshakeRefused",
    "NotSent",
]

"""Test rooms: a harness with a virtual clock, a proof that nobody notices a room's sleep, and a real server."""

from ..client.events import Event
from ..room.sent_events import NotDeclared
from .harness import RoomHarness
from .harness_client import HarnessClient
from .service import TestService, serve
from .transparency import assert_hibernation_transparent

__all__ = [
    "Event",
    "HarnessClient",
    "NotDeclared",
    "RoomHarness",
    "TestService",
    "assert_hibernation_transparent",
    "serve",
]

"""Test rooms without a server: a harness with a virtual clock, and a proof that nobody notices a room's sleep."""

from ..client.inbox import Event
from .client import HarnessClient
from .harness import RoomHarness
from .transparency import assert_hibernation_transparent

__all__ = ["Event", "HarnessClient", "RoomHarness", "assert_hibernation_transparent"]

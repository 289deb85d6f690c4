"""Choose, once for a host, between rooms that are followed by spans and rooms that cost nothing more."""

from __future__ import annotations

from typing import Any

from verani.engine.hook_runner import Hooks
from verani.settings import Settings

from .hosted_room import HostedRoom

__all__ = ["kinds_for"]


def kinds_for(settings: Settings) -> tuple[type[HostedRoom], type[Hooks[Any, Any]]]:
    """Return what the rooms of a host, and their hooks, are to be."""
    if not settings.tracing:
        return HostedRoom, Hooks
    from verani.engine.traced_hooks import TracedHooks

    from .traced_room import TracedRoom

    return TracedRoom, TracedHooks

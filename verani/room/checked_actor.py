"""Hold a room under test to what its definition declares that it sends."""

from __future__ import annotations

from typing import Any

import msgspec

from .. import frames
from .context import Actor, S
from .meta import M

__all__ = ["CheckedActor"]


class CheckedActor(Actor[M, S]):
    """An actor that raises `NotDeclared` for an event that is not declared, or data that is not of its type.

    What goes out unchanged is an event where clients take it for one: it has a `type`, a text. Other data they hear
    as no event, so nobody declares it.
    """

    def broadcast(self, channel: str, data: Any, **filters: Any) -> int:
        """Check the data, and send it."""
        plain = msgspec.json.decode(frames.encode(data))
        if isinstance(plain, dict) and isinstance(event := plain.pop("type", None), str):
            self._room.definition.events.check_spread(event, plain)
        return super().broadcast(channel, data, **filters)

    def _named(self, channel: str, event: str, data: Any) -> bytes:
        frame = super()._named(channel, event, data)
        self._room.definition.events.check(event, data)
        return frame

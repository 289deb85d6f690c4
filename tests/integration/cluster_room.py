"""The room of the tests of machines: each answer says which process gave it, and when by the clock of the kernel."""

from __future__ import annotations

import os
import time
from typing import Any

from msgspec import Struct

from verani import Actor, Context, define_room

__all__ = ["Mark", "hall", "now"]


class Mark(Struct, frozen=True):
    """A frame: who sends it, and its number there."""

    by: str
    number: int


def now() -> float:
    """Read the clock that all network namespaces of one kernel share."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


hall = define_room("hall", hibernate_after=None, websocket_path="/hall")


@hall.on("mark")
def mark(ctx: Context[Any, Any], data: Mark) -> None:
    ctx.actor.broadcast("default", {"by": data.by, "number": data.number, "host": os.getpid(), "at": now()})


@hall.rpc
def where(actor: Actor[Any, Any]) -> int:
    return os.getpid()

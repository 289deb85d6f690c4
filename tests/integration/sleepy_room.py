"""A room that sleeps as soon as it may, for the tests of gateways that are stopped meanwhile."""

from __future__ import annotations

from typing import Any

from verani import Context, define_room

__all__ = ["sleepy"]

sleepy = define_room("sleepy", hibernate_after=0.1)


@sleepy.on("cast")
def cast(ctx: Context[Any, Any], data: int) -> None:
    ctx.actor.broadcast("default", {"type": "cast", "n": data})

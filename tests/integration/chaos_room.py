"""The room of the chaos: it passes on what its clients number, and answers."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from verani import Context, define_room

__all__ = ["Word", "chaos"]


class Word(Struct, frozen=True):
    """What a connection says: which one it is, and the number of its word, from 1 on."""

    by: str
    number: int


chaos = define_room("chaos", hibernate_after=0.2)


@chaos.on("say")
def say(ctx: Context[Any, Any], data: Word) -> None:
    ctx.actor.broadcast("default", {"by": data.by, "number": data.number})

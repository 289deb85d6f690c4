"""A clicking game: players hear the game, spectators only the chat, and a task ticks while a round runs.

Run it: ``verani serve examples.game:game``.
Try it: connect two players and a spectator to ws://127.0.0.1:8000/ws/table-1?userId=ann (bob, eve). As a player send
``{"type": "game.join"}``, then ``{"type": "game.start", "data": 10}`` and as many ``{"type": "game.click"}`` as you
can; anybody may send ``{"type": "chat.message", "data": "go ann"}``.
"""

import asyncio
from dataclasses import dataclass, field
from typing import Annotated, Any

from msgspec import Meta, Struct

from verani import Actor, Conflict, ConnectionMeta, Context, Forbidden, define_room


@dataclass
class Table:
    """What a table knows while it is awake; a running round keeps it awake."""

    seconds_left: int = 0
    scores: dict[str, int] = field(default_factory=dict)


Ctx = Context[ConnectionMeta, Table]

game = define_room("game", state=Table, websocket_path="/ws/{room}")


@game.event("chat.message")
class Said(Struct, rename={"sender": "from"}):
    sender: str
    text: str


@game.event("game.tick")
class Tick(Struct):
    """A second of a round is over."""

    left: int
    scores: dict[str, int]


@game.event("game.over")
class Over(Struct):
    scores: dict[str, int]


@game.on_connect
def sit_down(ctx: Ctx) -> None:
    ctx.join("chat")


@game.on("chat.message")
def say(ctx: Ctx, text: Annotated[str, Meta(min_length=1, max_length=200)]) -> None:
    ctx.actor.emit_to_channel("chat", "chat.message", Said(ctx.meta.user_id, text))


@game.on("game.join")
def join(ctx: Ctx, _: Any) -> None:
    ctx.join("game-state")


@game.on("game.start")
def start(ctx: Ctx, seconds: Annotated[int, Meta(ge=1, le=60)]) -> None:
    table = ctx.actor.state
    if table.seconds_left:
        raise Conflict("a round is running")
    table.seconds_left, table.scores = seconds, {}
    ctx.actor.spawn(play(ctx.actor))


@game.on("game.click")
def click(ctx: Ctx, _: Any) -> int:
    table, player = ctx.actor.state, ctx.meta.user_id
    if not table.seconds_left or "game-state" not in ctx.meta.channels:
        raise Forbidden("clicks count for players, in a round")
    table.scores[player] = table.scores.get(player, 0) + 1
    return table.scores[player]


async def play(room: Actor[ConnectionMeta, Table]) -> None:
    """Run one round: tell the players the scores every second, and everybody who chats the result."""
    table = room.state
    while table.seconds_left:
        room.emit_to_channel("game-state", "game.tick", Tick(table.seconds_left, table.scores))
        await asyncio.sleep(1)
        table.seconds_left -= 1
    room.emit_to_channel("chat", "game.over", Over(table.scores))

"""Rooms of a small game for the pictures of the inspector: they talk, sleep, work and fail by themselves."""

from __future__ import annotations

import asyncio

from aiohttp import web

from verani import Actor, ConnectionMeta, ConnectRequest, Context, define_room
from verani_gateway import setup

__all__ = ["PLAYERS", "app"]

# Who is in which room, and how often they say something, in seconds; None for those who only watch.
PLAYERS = {
    "game/berlin": (("ann", 0.12), ("bob", 0.2), ("Zoe", 0.3)),
    "game/lisbon": (("carla", 0.25), ("dan", 0.6)),
    "game/oslo": (("eve", 1.0),),
    "lobby/all": (("ann", 1.5), ("bob", None), ("frank", None), ("gita", None)),
    "lobby/beginners": (("hugo", None), ("ida", None)),
    "game/quito": (("jon", None), ("kim", None)),
    "game/vienna": (("leo", None),),
}


class Player(ConnectionMeta, kw_only=True):
    """Who plays."""

    team: str = "red"
    score: int = 0
    token: str = "is never shown"


game = define_room("game", meta=Player, websocket_path="/game/{room}")
lobby = define_room("lobby", websocket_path="/lobby/{room}")


@game.extract_meta
def player(request: ConnectRequest) -> Player:
    """Let anybody play."""
    name = request.query["userId"]
    return Player(
        user_id=name, client_id=f"{name}-laptop", channels=("default", "moves"), team="red" if len(name) % 2 else "blue"
    )


@game.on("move")
def move(ctx: Context[Player], steps: int) -> None:
    """Tell everybody, and count."""
    ctx.meta.score += steps
    ctx.actor.emit_to_channel("moves", "moved", {"by": ctx.meta.user_id, "steps": steps})


@game.on("cheat")
def cheat(ctx: Context[Player], steps: int) -> None:
    """Fail."""
    raise ValueError(f"{steps} steps are more than the board has")


@game.on("round")
def begin(ctx: Context[Player], seconds: float) -> None:
    """Begin a round, which keeps the room awake."""
    ctx.actor.spawn(clock(ctx.actor, seconds))


async def clock(actor: Actor[Player], seconds: float) -> None:
    """Run for a while."""
    await asyncio.sleep(seconds)


@lobby.on("move")
def greet(ctx: Context, steps: int) -> None:
    """Tell everybody."""
    ctx.actor.emit_to_channel("default", "greeting", {"from": ctx.meta.user_id})


app = web.Application()
setup(app, game, lobby)

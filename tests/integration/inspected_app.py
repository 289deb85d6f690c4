"""Rooms to inspect: they fail on demand, and nothing about them is harmless to a page that takes names for markup."""

from __future__ import annotations

from aiohttp import web

from verani import ConnectionMeta, ConnectRequest, Context, define_room
from verani_gateway import setup


class Visitor(ConnectionMeta, kw_only=True):
    """A meta with something to show and something to hide."""

    mood: str = ""
    access_token: str = "t0ps3cret"


rooms = define_room("rooms", meta=Visitor, websocket_path="/ws/{room}", hibernate_after=None)


@rooms.extract_meta
def visitor(request: ConnectRequest) -> Visitor:
    """Believe whatever is said."""
    channels = tuple(request.query.get("channels", "default").split(","))
    return Visitor(user_id=request.query["user"], channels=channels, mood=request.query.get("mood", ""))


@rooms.on("echo")
def echo(ctx: Context[Visitor], data: str) -> str:
    """Answer."""
    return data


@rooms.on("fail")
def fail(ctx: Context[Visitor], text: str) -> None:
    """Raise what the client wants."""
    raise RuntimeError(text)


app = web.Application()
setup(app, rooms)

"""Rooms of python-socketio on aiohttp.

Run as `python -m benchmarks.peers.python_socketio asyncio|uvloop`: prints its port, serves until SIGTERM.
"""

from __future__ import annotations

import sys
from typing import Any
from urllib.parse import parse_qs

import socketio
from aiohttp import web

from ..servers import run


def app() -> web.Application:
    server = socketio.AsyncServer(async_mode="aiohttp", transports=["websocket"])

    @server.event
    async def connect(sid: str, environ: dict[str, Any], auth: object) -> None:
        room = parse_qs(environ["QUERY_STRING"]).get("room", ["default"])[0]
        await server.save_session(sid, {"room": room})
        await server.enter_room(sid, room)

    @server.event
    async def cast(sid: str, data: object) -> None:
        session = await server.get_session(sid)
        await server.emit("cast", data, room=session["room"])

    @server.event
    async def echo(sid: str, data: object) -> None:
        await server.emit("echo", data, to=sid)

    application = web.Application()
    server.attach(application)
    return application


if __name__ == "__main__":
    run(app, sys.argv[1])

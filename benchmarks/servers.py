"""The servers under load: a Verani room, and the same thing written by hand on plain aiohttp.

Run as `python -m benchmarks.servers verani|plain asyncio|uvloop`: prints its port, serves until SIGTERM.
Ours is served as `verani serve` does it, by its listener and with its settings of the collector.
The plain one is what a careful developer writes without a framework: one encode per broadcast, `send_str` to each.
"""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any, Final

from aiohttp import WSMsgType, web

from verani import Context, Settings, define_room
from verani_actors.upkeep.memory import quieten_collector
from verani_gateway import GATEWAY, setup
from verani_gateway.service.listener import Listener

# The largest frames that are measured carry 64 KiB beside their number.
_SETTINGS: Final = Settings(rate_limit=0, rate_limit_bytes=0, max_connections=0, max_frame_bytes=1 << 17)

bench = define_room("bench", hibernate_after=None)


@bench.on("cast")
def cast(ctx: Context[Any, Any], data: Any) -> None:
    ctx.actor.broadcast("default", {"type": "cast", **data})


@bench.on("echo")
def echo(ctx: Context[Any, Any], data: Any) -> None:
    ctx.emit("echo", data)


@bench.on("echo-async")
async def echo_async(ctx: Context[Any, Any], data: Any) -> None:
    ctx.emit("echo-async", data)


def verani_app() -> web.Application:
    app = web.Application()
    setup(app, bench, settings=_SETTINGS)
    return app


def plain_app() -> web.Application:
    rooms: dict[str, set[web.WebSocketResponse]] = {}

    async def handle(request: web.Request) -> web.WebSocketResponse:
        ws = web.WebSocketResponse(compress=False)
        await ws.prepare(request)
        room = rooms.setdefault(request.query.get("room", "default"), set())
        room.add(ws)
        try:
            async for message in ws:
                if message.type is not WSMsgType.TEXT:
                    continue
                frame = json.loads(message.data)
                reply = {"type": "event", "channel": "default", "data": {"type": frame["type"], **frame["data"]}}
                text = json.dumps(reply, separators=(",", ":"))
                for member in tuple(room) if frame["type"] == "cast" else (ws,):
                    await member.send_str(text)
        finally:
            room.discard(ws)
        return ws

    app = web.Application()
    app.router.add_get("/ws", handle)
    return app


async def serve(app: web.Application) -> None:
    """Serve on a free port, which is printed, until SIGTERM."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    with socket.create_server(("127.0.0.1", 0), backlog=4096) as listening:
        async with AsyncExitStack() as runners:
            if GATEWAY in app:
                listener = Listener(app, [listening], app[GATEWAY], internal=False)
                await listener.start(runners)
                await listener.open()
            else:
                runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
                await runner.setup()
                runners.push_async_callback(runner.cleanup)
                await web.SockSite(runner, listening, backlog=4096).start()
            print(listening.getsockname()[1], flush=True)
            await stop.wait()


def new_loop(name: str) -> asyncio.AbstractEventLoop:
    if name == "uvloop":
        import uvloop

        return uvloop.new_event_loop()
    return asyncio.new_event_loop()


def run(make_app: Callable[[], web.Application], loop: str) -> None:
    """Make an application in a loop of that name, and serve it."""

    async def main() -> None:
        await serve(make_app())

    with asyncio.Runner(loop_factory=lambda: new_loop(loop)) as runner:
        runner.run(main())


if __name__ == "__main__":
    if sys.argv[1] == "verani":
        quieten_collector()
    run(verani_app if sys.argv[1] == "verani" else plain_app, sys.argv[2])

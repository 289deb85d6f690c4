"""The chat with its page, in rooms that do not want anybody: what they do with those who come is their name.

How often that was is answered at ``/count/ROOM``.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from aiohttp import web

from examples.chat import FILES, page
from verani import Context, Forbidden, define_room
from verani_gateway import setup

chat = define_room("chat")
comers: Counter[str] = Counter()


@chat.on_connect
def come(ctx: Context[Any, Any]) -> None:
    comers[ctx.actor.room_id] += 1
    ctx.emit("presence", {"users": [ctx.meta.user_id]})
    match ctx.actor.room_id:
        case "failing":
            raise RuntimeError("on purpose")
        case "full":
            ctx.close(1013, "over capacity")
        case "closed":
            raise Forbidden("on purpose")


async def count(request: web.Request) -> web.Response:
    return web.json_response(comers[request.match_info["room"]])


app = web.Application()
app.add_routes([web.get(path, page) for path in FILES])
app.router.add_get("/count/{room}", count)
setup(app, chat)

"""A chat with channels and a list of who is here: a room of thirty lines, and a page to use it.

Run it: ``verani serve examples.chat:app`` (or ``make serve``).
Try it: open http://127.0.0.1:8000/?name=ann in one window and http://127.0.0.1:8000/?name=bob in another.
"""

from pathlib import Path
from types import MappingProxyType
from typing import Annotated

from aiohttp import web
from msgspec import Meta, Struct

from verani import Context, Forbidden, define_room
from verani_gateway import setup

chat = define_room("chat")
Channel = Annotated[str, Meta(pattern="^[a-z0-9-]{1,30}$")]


class Message(Struct):
    channel: Channel
    text: Annotated[str, Meta(min_length=1, max_length=500)]


@chat.on_connect
@chat.on_disconnect
def who_is_here(ctx: Context) -> None:
    ctx.actor.emit_to_channel("default", "presence", {"users": ctx.actor.get_connected_user_ids()})


@chat.on("chat.join")
def join(ctx: Context, channel: Channel) -> None:
    ctx.join(channel)


@chat.on("chat.leave")
def leave(ctx: Context, channel: Channel) -> None:
    ctx.leave(channel)


@chat.on("chat.message")
def message(ctx: Context, message: Message) -> None:
    if message.channel not in ctx.meta.channels:
        raise Forbidden(f"{ctx.meta.user_id} is not in {message.channel}")
    ctx.actor.emit_to_channel(message.channel, "chat.message", {"from": ctx.meta.user_id, "text": message.text})


# --- what it sends, for tests, `verani types` and /asyncapi.json -------------------------------------------


@chat.event("chat.message")
class Said(Struct, rename={"sender": "from"}):
    sender: str
    text: str


@chat.event("presence")
class Presence(Struct):
    users: list[str]


# --- the page -------------------------------------------------------------------------------------------

# Nothing is loaded from elsewhere, nothing inline runs, nobody frames it, and the name in its URL stays here.
HEADERS = MappingProxyType(
    {
        "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
        "Cache-Control": "no-cache",
    }
)
FILES = MappingProxyType({"/": "chat.html", "/chat.js": "chat.js", "/chat.css": "chat.css", "/chat.svg": "chat.svg"})


async def page(request: web.Request) -> web.FileResponse:
    """Send a file of the page."""
    return web.FileResponse(Path(__file__).with_name(FILES[request.path]), headers=HEADERS)


app = web.Application()
app.add_routes([web.get(path, page) for path in FILES])
setup(app, chat)

"""Notify: an HTTP end point beside the rooms reaches users in them, through a stub.

Run it: ``verani serve examples.notify:app``.
Try it: connect to ws://127.0.0.1:8000/ws?userId=ann, then
``curl --json '{"userId": "ann", "message": "lunch"}' -H 'Authorization: Bearer notify-demo' http://127.0.0.1:8000/api/notify``
answers ``{"sentTo": 1}``. From a shell, without this application's help:
``verani call notify/default send_to_user user_id=ann channel=default data='{"type": "notification"}'``.
"""

import hmac
from typing import Annotated

import msgspec
from aiohttp import web
from msgspec import Meta, Struct

from verani import VeraniError, define_room
from verani_gateway.application import GATEWAY, setup

# For the demonstration only: a service reads its secret from the environment.
TOKEN = "notify-demo"

notify = define_room("notify")


class Notice(Struct, rename="camel"):
    user_id: Annotated[str, Meta(min_length=1, max_length=255)]
    message: Annotated[str, Meta(min_length=1, max_length=2000)]


async def notify_user(request: web.Request) -> web.Response:
    """Send a notification to all connections of a user, and answer how many there are."""
    shown = request.headers.get("Authorization", "").removeprefix("Bearer ")
    if not hmac.compare_digest(shown.encode("utf-8", "surrogateescape"), TOKEN.encode()):
        raise web.HTTPUnauthorized
    try:
        notice = msgspec.json.decode(await request.read(), type=Notice)
    except msgspec.DecodeError as error:
        raise web.HTTPBadRequest(text=str(error)) from error
    room = request.app[GATEWAY].stub(notify, "default")
    try:
        sent = await room.send_to_user(
            notice.user_id, "default", {"type": "notification", "message": notice.message}, timeout=2
        )
    except VeraniError as error:
        return web.json_response({"error": error.code}, status=error.status)
    return web.json_response({"sentTo": sent})


app = web.Application()
app.router.add_post("/api/notify", notify_user)
setup(app, notify)

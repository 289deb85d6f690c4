"""Notifications: every user has a room of their own, shared by all their devices.

The request is routed by user id, so ann's phone and ann's laptop meet in ``notifications/ann``, and nobody else does
but ``ops``, who may enter any room with ``&room=`` to notify its owner.

Run it: ``verani serve examples.notifications:notifications``.
Try it: connect twice to ws://127.0.0.1:8000/ws?token=ann-demo as two devices, then once to
ws://127.0.0.1:8000/ws?token=ops-demo&room=ann and send ``{"type": "notify", "data": {"text": "lunch"}}``.
"""

import uuid
from types import MappingProxyType
from typing import Annotated

from msgspec import Meta, Struct

from verani import ConnectionMeta, ConnectRequest, Context, Forbidden, Unauthorized, define_room

# For the demonstration only: a service verifies a signed token or a session cookie here.
TOKENS = MappingProxyType({"ann-demo": "ann", "bob-demo": "bob", "ops-demo": "ops"})

notifications = define_room("notifications")


class Notice(Struct):
    text: Annotated[str, Meta(min_length=1, max_length=200)]
    channel: str = "default"


@notifications.event("notification")
class Notification(Struct):
    id: str
    text: str


@notifications.event("notification.read")
class Read(Struct):
    id: str


def user_of(request: ConnectRequest) -> str:
    """Say whose token this is."""
    try:
        return TOKENS[request.query["token"]]
    except KeyError:
        raise Unauthorized("expected a known token") from None


@notifications.name_from_request
def room_of(request: ConnectRequest) -> str:
    return request.query.get("room") or user_of(request)


@notifications.extract_meta
def who(request: ConnectRequest) -> ConnectionMeta:
    user = user_of(request)
    if user not in (request.room, "ops"):
        raise Forbidden(f"{user} may not enter the room of {request.room}")
    channels = request.query.get("channels", "default").split(",")
    return ConnectionMeta(user_id=user, client_id=uuid.uuid4().hex, channels=tuple(channels))


@notifications.on("notify")
def notify(ctx: Context, notice: Notice) -> dict[str, int]:
    """Notify the owner's devices that are in the channel; answer how many there are."""
    if ctx.meta.user_id != "ops":
        raise Forbidden(f"{ctx.meta.user_id} may not notify")
    owner = ctx.actor.room_id
    notification = {"type": "notification", "id": uuid.uuid4().hex, "text": notice.text}
    return {"devices": ctx.actor.send_to_user(owner, notice.channel, notification)}


@notifications.on("read")
def read(ctx: Context, id: str) -> None:
    """Let all devices of the user know that a notification was read on one of them."""
    ctx.actor.emit_to_user(ctx.meta.user_id, "notification.read", Read(id))

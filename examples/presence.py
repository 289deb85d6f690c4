"""Who is online, and who is away: a status that survives the room's sleep because it is part of the meta.

A user with several connections is active if one of them is, away if all are, and offline once the last is gone.

Run it: ``verani serve examples.presence:presence``.
Try it: connect to ws://127.0.0.1:8000/ws?room=office&userId=ann, the same as bob,
and send ``{"type": "status.set", "data": "away"}`` as one of them. The other gets a ``presence.update``.
"""

from typing import Literal

from msgspec import Struct

from verani import Actor, ConnectionMeta, Context, define_room

Status = Literal["active", "away"]
Shown = Literal[Status, "offline"]


class Person(ConnectionMeta):
    """The meta of a connection; own fields need a default where clients are believed without `extract_meta`."""

    status: Status = "active"


Office = Actor[Person]
Ctx = Context[Person]

presence = define_room("presence", meta=Person)


@presence.event("presence.list")
class Everybody(Struct):
    """Who is here, for somebody who arrives."""

    users: dict[str, Shown]


@presence.event("presence.update")
class Change(Struct):
    user: str
    status: Shown


def status_of(office: Office, user_id: str) -> Shown:
    """Combine the statuses of a user's connections."""
    statuses = {session.meta.status for session in office.get_user_sessions(user_id)}
    if not statuses:
        return "offline"
    return "active" if "active" in statuses else "away"


def announce(ctx: Ctx) -> None:
    """Tell everybody else how this user is now."""
    user = ctx.meta.user_id
    ctx.to_channel("default").emit("presence.update", Change(user, status_of(ctx.actor, user)))


@presence.on_connect
def arrive(ctx: Ctx) -> None:
    users = ctx.actor.get_connected_user_ids()
    ctx.emit("presence.list", Everybody({user: status_of(ctx.actor, user) for user in users}))
    announce(ctx)


@presence.on("status.set")
def set_status(ctx: Ctx, status: Status) -> None:
    ctx.meta.status = status
    announce(ctx)


@presence.on_disconnect
def depart(ctx: Ctx) -> None:
    announce(ctx)

"""The rooms that the tests of all shapes talk to.

Everything they do can be seen from outside: in frames, acks, calls and over HTTP. Nothing is shared through this
module's memory, because each host and each gateway is a process of its own. A hook that has to wait for the test
waits at a gate, which is a room too.
"""

from __future__ import annotations

import asyncio
import os
import time
import uuid
from types import MappingProxyType
from typing import Annotated, Any

from aiohttp import web
from msgspec import Meta, Struct

from tests import lifetimes
from verani import (
    Actor,
    ConnectionMeta,
    ConnectRequest,
    Context,
    Forbidden,
    Identity,
    InvalidArguments,
    NotFound,
    Unauthorized,
    VeraniError,
    define_room,
    public_meta,
)
from verani.errors import error_for
from verani_gateway import setup
from verani_gateway.application import GATEWAY

# Is in the log record of every error that a test provokes; any other record of an error is one of ours.
ON_PURPOSE = "on_purpose"

# Between two looks at a gate.
GLANCE = 0.005

# Set in the processes of a service, which are to log an ERROR for what ends in them and is not gone.
WATCH = "SHAPES_WATCH_LIFETIMES"

if WATCH in os.environ:
    lifetimes.watch_service()


# --- gates ----------------------------------------------------------------------------------------------------


class Bar:
    """What a gate knows; it never sleeps, so it forgets nothing."""

    def __init__(self) -> None:
        self.open = False
        self.waiting: list[str] = []


gate = define_room("gate", state=Bar, hibernate_after=None, websocket_path="/gate/{room}")


@gate.rpc
def open_up(actor: Actor[ConnectionMeta, Bar]) -> None:
    """Let everybody through, now and later."""
    actor.state.open = True


@gate.rpc
def knock(actor: Actor[ConnectionMeta, Bar], who: str) -> bool:
    """Ask to pass; who asked is remembered."""
    if who not in actor.state.waiting:
        actor.state.waiting.append(who)
    return actor.state.open


@gate.rpc
def waiting(actor: Actor[ConnectionMeta, Bar]) -> list[str]:
    """List who has asked, in order."""
    return actor.state.waiting


async def pass_gate(actor: Actor[Any, Any], name: str, who: str = "") -> None:
    """Wait until a gate is open."""
    while not await actor.stub(gate, name).knock(who):  # noqa: ASYNC110  # it is opened in another process
        await asyncio.sleep(GLANCE)


# --- chat: what rooms do ----------------------------------------------------------------------------------------


class Person(ConnectionMeta, kw_only=True):
    """A meta with fields of its own; `gateway` is the process that let the client in."""

    nick: str = ""
    said: int = 0
    gateway: int = 0


class Table:
    """What a chat knows until it sleeps."""

    def __init__(self) -> None:
        self.incarnation = uuid.uuid4().hex
        self.notes: list[Any] = []
        self.restored: list[str] | None = None
        self.total = 0


Chat = Actor[Person, Table]
Ctx = Context[Person, Table]

chat = define_room("chat", meta=Person, state=Table, websocket_path="/chat/{room}")

startups = 0


@chat.on_startup
def start() -> None:
    global startups
    startups += 1


@chat.extract_meta
def person(request: ConnectRequest) -> Person:
    known = public_meta(request)
    return Person(
        user_id=known.user_id,
        client_id=request.query.get("clientId", known.client_id),
        channels=known.channels,
        nick=request.query.get("nick", ""),
        gateway=os.getpid(),
    )


@chat.on("mute")
def mute(ctx: Ctx, public: str | None) -> None:
    raise Forbidden(ON_PURPOSE, public=public)


@chat.rpc
def muted(actor: Chat, public: str | None = None) -> None:
    raise Forbidden(ON_PURPOSE, public=public)


@chat.on("work")
async def work(ctx: Ctx, steps: int) -> list[int]:
    """Work in another thread, which tells how far it is."""

    def working() -> list[int]:
        return [ctx.actor.from_thread(done_with, step) for step in range(steps)]

    def done_with(step: int) -> int:
        ctx.emit("step", {"step": step})
        ctx.meta.said += 1
        return ctx.meta.said

    return await asyncio.to_thread(working)


@chat.on_connect
def came(ctx: Ctx) -> None:
    if ctx.meta.user_id == "unwanted":
        raise RuntimeError(ON_PURPOSE)
    if ctx.meta.user_id == "unwelcome":
        raise Forbidden(ON_PURPOSE)
    users = ctx.actor.get_connected_user_ids()
    ctx.actor.emit_to_channel("presence", "came", {"user": ctx.meta.user_id, "users": users})


@chat.on_disconnect
def left(ctx: Ctx) -> None:
    told = {
        "user": ctx.meta.user_id,
        "channels": ctx.meta.channels,
        "nick": ctx.meta.nick,
        "code": ctx.close_code,
        "reason": ctx.close_reason,
        "users": ctx.actor.get_connected_user_ids(),
    }
    ctx.actor.emit_to_channel("presence", "left", told)


@chat.on_error
def erred(error: BaseException, ctx: Ctx) -> None:
    ctx.actor.emit_to_channel("errors", "error", {"kind": type(error).__name__})


@chat.on_hibernate
def sleeps(actor: Chat) -> None:
    actor.emit_to_channel("life", "sleeps", {"incarnation": actor.state.incarnation})


@chat.on_hibernation_restore
def restored(actor: Chat) -> None:
    actor.state.restored = actor.get_connected_user_ids()
    actor.emit_to_channel("life", "restored", {"users": actor.state.restored, "reason": actor.wake_reason})


@chat.on("echo")
def echo(ctx: Ctx, data: Any) -> Any:
    return data


@chat.on("who")
def who(ctx: Ctx, data: Any) -> dict[str, Any]:
    me = ctx.meta
    return {
        "user": me.user_id,
        "client": me.client_id,
        "channels": me.channels,
        "nick": me.nick,
        "said": me.said,
        "gateway": me.gateway,
    }


@chat.on("users")
def users(ctx: Ctx, data: Any) -> list[str]:
    return ctx.actor.get_connected_user_ids()


@chat.on("life")
def life(ctx: Ctx, data: Any) -> dict[str, Any]:
    state = ctx.actor.state
    return {"incarnation": state.incarnation, "restored": state.restored, "reason": ctx.actor.wake_reason}


class Saying(Struct):
    text: Any = None
    channel: str = "default"
    users: list[str] | None = None
    clients: list[str] | None = None
    but_me: bool = False


@chat.on("say")
def say(ctx: Ctx, saying: Saying) -> int:
    ctx.meta.said += 1
    return ctx.actor.broadcast(
        saying.channel,
        {"type": "said", "by": ctx.meta.user_id, "text": saying.text},
        user_ids=saying.users,
        client_ids=saying.clients,
        except_=ctx.ws if saying.but_me else None,
    )


@chat.on("shout")
def shout(ctx: Ctx, channel: str) -> int:
    return ctx.to_channel(channel).emit("shouted", {"by": ctx.meta.user_id})


class Letter(Struct):
    to: str
    text: str
    channel: str = "default"


@chat.on("write")
def write(ctx: Ctx, letter: Letter) -> int:
    return ctx.actor.send_to_user(letter.to, letter.channel, {"type": "letter", "text": letter.text})


@chat.on("tell")
def tell(ctx: Ctx, letter: Letter) -> int:
    return ctx.to_user(letter.to).emit("told", {"text": letter.text})


@chat.on("reply")
def reply(ctx: Ctx, data: Any) -> None:
    ctx.emit("replied", data)


@chat.on("utter")
def utter(ctx: Ctx, name: str) -> None:
    ctx.actor.broadcast("default", {"type": name, "by": ctx.meta.user_id})


@chat.on("join")
def join(ctx: Ctx, channel: str) -> tuple[str, ...]:
    ctx.join(channel)
    return ctx.meta.channels


@chat.on("leave")
def leave(ctx: Ctx, channel: str) -> tuple[str, ...]:
    ctx.leave(channel)
    return ctx.meta.channels


class Move(Struct):
    user: str
    channel: str


@chat.on("move")
def move(ctx: Ctx, move: Move) -> int:
    sessions = ctx.actor.get_user_sessions(move.user)
    for session in sessions:
        session.join(move.channel)
        session.update(nick=f"moved to {move.channel}")
    return len(sessions)


@chat.on("nick")
def nick(ctx: Ctx, name: str) -> None:
    ctx.meta.nick = name


@chat.on("botch")
def botch(ctx: Ctx, name: str) -> None:
    ctx.meta.nick = name
    ctx.join(name)
    ctx.emit("botched")
    raise RuntimeError(ON_PURPOSE)


@chat.on("refuse")
def refuse(ctx: Ctx, code: str) -> None:
    raise error_for(code, ON_PURPOSE)


@chat.on("both")
def neither(ctx: Ctx, data: Any) -> None:
    ctx.emit("first")


@chat.on("both")
def either(ctx: Ctx, data: Any) -> str:
    ctx.emit("second")
    return "second"


@chat.on("both")
def late(ctx: Ctx, data: Any) -> str:
    ctx.emit("third")
    return "third"


@chat.on("note")
def note(ctx: Ctx, data: Any) -> list[Any]:
    ctx.actor.state.notes.append(data)
    return ctx.actor.state.notes


@chat.on("kick")
def kick(ctx: Ctx, user: str) -> list[int]:
    return [ctx.actor.close_user(user, 4321, "kicked"), ctx.actor.get_session_count()]


@chat.on("quit")
def quit_(ctx: Ctx, code: int) -> None:
    ctx.close(code, "as asked")


class Wait(Struct):
    gate: str
    n: int = 0
    naps: int = 0


@chat.on("wait")
async def wait(ctx: Ctx, wait: Wait) -> int:
    await pass_gate(ctx.actor, wait.gate, str(wait.n))
    for _ in range(wait.naps):
        await asyncio.sleep(GLANCE)
    ctx.emit("waited", {"n": wait.n})
    return wait.n


@chat.on("quit_then_wait")
async def quit_then_wait(ctx: Ctx, gate: str) -> None:
    ctx.close(4000)
    await pass_gate(ctx.actor, gate, "quit")


@chat.on("spawn")
def spawn(ctx: Ctx, gate: str) -> str:
    async def task() -> None:
        await pass_gate(ctx.actor, gate, "task")
        ctx.emit("done", {"incarnation": ctx.actor.state.incarnation})

    ctx.actor.spawn(task())
    return ctx.actor.state.incarnation


@chat.on("keep")
def keep(ctx: Ctx, seconds: float) -> None:
    ctx.actor.keep_awake(seconds)


class Load(Struct):
    frames: int
    size: int


@chat.on("load")
async def load(ctx: Ctx, load: Load) -> None:
    for n in range(load.frames):
        ctx.emit("load", {"n": n, "filling": "x" * load.size})
        await ctx.drain()


@chat.rpc
def stay(actor: Chat) -> None:
    """Keep what the room knows for longer than any test lasts."""
    actor.keep_awake(60)


@chat.rpc
def where(actor: Chat) -> int:
    """Name the process of this room's host."""
    return os.getpid()


@chat.rpc
def started(actor: Chat) -> tuple[int, int]:
    """Say how often this room's host has started."""
    return os.getpid(), startups


@chat.rpc
async def add(actor: Chat, amount: int) -> int:
    before = actor.state.total
    await asyncio.sleep(0)
    actor.state.total = before + amount
    return actor.state.total


@chat.rpc
def measure(actor: Chat, text: str, times: Annotated[int, Meta(ge=1)] = 1) -> dict[str, int]:
    return {"length": len(text) * times}


@chat.rpc
def notes(actor: Chat) -> list[Any]:
    return actor.state.notes


@chat.rpc
def incarnation(actor: Chat) -> str:
    return actor.state.incarnation


@chat.rpc
async def hold(actor: Chat, gate: str, name: str = "held") -> str:
    """Keep the room busy until the gate is open; leave a note."""
    await pass_gate(actor, gate, name)
    actor.state.notes.append(name)
    return name


@chat.rpc
def fail(actor: Chat) -> None:
    raise RuntimeError(ON_PURPOSE)


@chat.rpc
def decline(actor: Chat, code: str) -> None:
    raise error_for(code, ON_PURPOSE)


@chat.rpc
def too_large_on_purpose(actor: Chat, size: int) -> str:
    return "x" * size


@chat.rpc
def expel(actor: Chat, user_id: str) -> int:
    return actor.close_user(user_id, 1000, "expelled")


@chat.rpc
async def visit(actor: Chat, rooms: list[str]) -> list[int]:
    """Ask other rooms where they live."""
    return [await actor.stub(chat, room).where() for room in rooms]


@chat.rpc
async def relay(actor: Chat, rooms: list[str]) -> str:
    """Call the first of the rooms, which calls the next; say what the last call came to."""
    if not rooms:
        return "arrived"
    try:
        return str(await actor.stub(chat, rooms[0]).relay(rooms[1:]))
    except VeraniError as error:
        return f"{actor.room_id}: {error.code}"


@chat.rpc
async def lean(actor: Chat, room: str) -> None:
    """Let another room's refusal pass."""
    await actor.stub(chat, room).decline("forbidden")


# --- the others: one peculiarity each ---------------------------------------------------------------------------

guarded = define_room("guarded", websocket_path="/guarded/{room}")

REFUSALS = MappingProxyType({"none": Unauthorized, "other": Forbidden, "odd": InvalidArguments, "bug": RuntimeError})


@guarded.extract_meta
async def token_holder(request: ConnectRequest) -> ConnectionMeta:
    await asyncio.sleep(0)
    if refusal := REFUSALS.get(request.query["token"]):
        raise refusal(ON_PURPOSE)
    return public_meta(request)


@guarded.authorize_channel
def may_be_in(asker: Any, channel: str) -> bool:
    return not channel.startswith("secret")


@guarded.on("join")
def enter(ctx: Context, channel: str) -> tuple[str, ...]:
    ctx.join(channel)
    return ctx.meta.channels


hesitant = define_room("hesitant", websocket_path="/hesitant/{room}")


@hesitant.on_connect
async def hesitate(ctx: Context) -> None:
    """Wait at the gate that has the name of the room and the user."""
    await pass_gate(ctx.actor, f"{ctx.actor.room_id}.{ctx.meta.user_id}", "on_connect")
    ctx.emit("welcome")


@hesitant.on("reply")
def reply_later(ctx: Context, data: Any) -> None:
    ctx.emit("replied", data)


ledger = define_room("ledger", websocket_path="/ledger/{room}")

# What rooms save, by their ids: a room that only sleeps wakes in the same process.
_saved: dict[str, int] = {}


@ledger.on_wake
async def open_ledger(actor: Actor) -> None:
    await asyncio.sleep(0)
    if "closed" in actor.room_id:
        raise NotFound(ON_PURPOSE, public="This ledger is closed")
    if "broken" in actor.room_id:
        raise RuntimeError(ON_PURPOSE)
    actor.state.total = _saved.get(actor.room_id, 0)


@ledger.on_hibernate
def close_ledger(actor: Actor) -> None:
    _saved[actor.room_id] = actor.state.total


@ledger.rpc
def add_to(actor: Actor, amount: int) -> int:
    actor.state.total += amount
    return actor.state.total  # type: ignore[no-any-return]  # a namespace


vault = define_room("vault", websocket_path="/vault/{room}")


class Keys:
    """Tokens say whom they are for and how many seconds they last: `ann.3600`."""

    async def __call__(self, request: ConnectRequest) -> Identity:
        shown = request.headers.get("Authorization", "").removeprefix("Bearer ")
        offered = [each.removeprefix("bearer.") for each in request.subprotocols if each.startswith("bearer.")]
        return await self.verify_token(shown or offered[0])

    async def verify_token(self, token: str, /) -> Identity:
        user, _, seconds = token.partition(".")
        if not seconds.isdigit():
            raise Unauthorized(ON_PURPOSE)
        return Identity({"user_id": user}, expires_at=time.time() + int(seconds))


vault.extract_meta(Keys())


@vault.on("who")
def holder(ctx: Context, data: Any) -> str:
    return ctx.meta.user_id


single = define_room("single", same_client="reject", websocket_path="/single/{room}")


@single.extract_meta
def one_client(request: ConnectRequest) -> ConnectionMeta:
    return ConnectionMeta(user_id="ann", client_id=request.query["clientId"])


tireless = define_room("tireless", hibernate_after=None, websocket_path="/tireless/{room}")


@tireless.on("doze")
def doze(ctx: Context, data: Any) -> None:
    ctx.actor.hibernate()


wild = define_room("wild", websocket_path="/wild/{room}")


@wild.use
async def drop_secrets(ctx: Context, call_next: Any) -> Any:
    return None if ctx.frame.type == "secret" else await call_next()


@wild.on("known")
def known(ctx: Context, data: Any) -> str:
    return "known"


@wild.on("*")
def anything(ctx: Context, data: Any) -> str:
    ctx.emit("seen", {"event": ctx.frame.type, "payload": data})
    return "anything"


plain = define_room("plain", websocket_path="/plain")


@plain.on_message
def unhandled(ctx: Context, frame: Any) -> str:
    ctx.emit("message", {"event": frame.type})
    return ctx.actor.room_id


for each in (guarded, hesitant, single, tireless, plain):
    each.on("echo")(echo)


# --- the application --------------------------------------------------------------------------------------------


async def count(request: web.Request) -> web.Response:
    """Answer how many are in a chat, and tell them that somebody asked."""
    room = request.app[GATEWAY].stub(chat, request.match_info["room"])
    await room.emit_to_channel("default", "counted")
    return web.json_response({"sessions": await room.get_session_count()})


app = web.Application()
app.router.add_get("/count/{room}", count)
setup(app, gate, chat, guarded, hesitant, ledger, single, tireless, vault, wild, plain)

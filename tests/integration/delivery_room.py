"""The room of the tests of delivery: hooks that begin, wait at a gate and go on, and what they did outside."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

from verani import Actor, ConnectionMeta, Context, HookInterrupted, define_room

# What the hooks of a room write down outside, and where gates are opened: files that outlive every process, in a folder
# of the room.
FOLDER = Path(os.environ.get("DELIVERY_FOLDER", "."))


class Visitor(ConnectionMeta, kw_only=True):
    """Counts what was committed."""

    changes: int = 0


desk = define_room("desk", meta=Visitor, hibernate_after=None)


def note(actor: Actor[Visitor, Any], line: str) -> None:
    """Write a line down for good."""
    (FOLDER / actor.room_id).mkdir(exist_ok=True)
    with (FOLDER / actor.room_id / "notes").open("a") as file:
        file.write(f"{line}\n")


async def gate(actor: Actor[Visitor, Any], name: str) -> None:
    """Wait until the test opens this gate."""
    note(actor, f"at {name}")
    while not (FOLDER / actor.room_id / name).exists():  # noqa: ASYNC110  # the test opens it, in another process
        await asyncio.sleep(0.005)


@desk.on("pid")
def pid(ctx: Context[Visitor, Any], data: Any) -> int:
    return os.getpid()


@desk.on("say")
def say(ctx: Context[Visitor, Any], number: int) -> None:
    ctx.actor.broadcast("default", {"type": "said", "number": number})


@desk.on("change")
def change(ctx: Context[Visitor, Any], data: Any) -> int:
    ctx.meta.changes += 1
    return ctx.meta.changes


@desk.on("emit-then-wait")
async def emit_then_wait(ctx: Context[Visitor, Any], name: str) -> str:
    ctx.meta.changes += 100
    ctx.emit("begun", {"name": name})
    await gate(ctx.actor, name)
    return "done"


@desk.on("wait-then-emit")
async def wait_then_emit(ctx: Context[Visitor, Any], name: str) -> str:
    ctx.meta.changes += 1
    await gate(ctx.actor, name)
    ctx.emit("ended", {"changes": ctx.meta.changes})
    return "done"


@desk.on("call-then-wait")
async def call_then_wait(ctx: Context[Visitor, Any], argument: dict[str, str]) -> int:
    total: int = await ctx.actor.stub("desk", argument["room"]).add()
    await gate(ctx.actor, argument["name"])
    return total


@desk.rpc
def add(actor: Actor[Visitor, Any]) -> int:
    actor.state.total = getattr(actor.state, "total", 0) + 1
    return int(actor.state.total)


@desk.rpc
def where(actor: Actor[Visitor, Any]) -> int:
    return os.getpid()


@desk.rpc
async def stuck(actor: Actor[Visitor, Any], name: str) -> str:
    actor.broadcast("default", {"type": "stuck"})
    await gate(actor, name)
    return "done"


@desk.on_connect
async def connected(ctx: Context[Visitor, Any]) -> None:
    if ctx.meta.user_id.startswith("slow-to-come"):
        ctx.emit("welcome", {})
        await gate(ctx.actor, ctx.meta.user_id)


@desk.on_disconnect
async def gone(ctx: Context[Visitor, Any]) -> None:
    note(ctx.actor, f"gone {ctx.meta.user_id} {ctx.close_code}")
    if ctx.meta.user_id.startswith("slow-to-go"):
        ctx.actor.broadcast("default", {"type": "left"})
        await gate(ctx.actor, ctx.meta.user_id)


@desk.on_hibernation_restore
def restored(actor: Actor[Visitor, Any]) -> None:
    note(actor, f"restored {actor.wake_reason} {actor.get_session_count()}")


@desk.on_error
def failed(error: BaseException, ctx: Context[Visitor, Any]) -> None:
    assert isinstance(error, HookInterrupted)
    note(ctx.actor, f"interrupted {ctx.hook}")
    if ctx.hook == "on('emit-then-wait')":
        ctx.emit("interrupted", {"name": ctx.frame.data, "changes": ctx.meta.changes})

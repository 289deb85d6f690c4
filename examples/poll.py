"""A poll that remembers its votes: they are loaded when the room wakes and saved when it sleeps, a file for each room.

Run it: ``POLLS=/var/tmp/polls verani serve examples.poll:poll``.
Try it: connect to ws://127.0.0.1:8000/ws/lunch?userId=ann and send ``{"type": "poll.vote", "data": "soup", "id": 1}``;
the answer is the count. Leave, wait ten seconds, and come back: `poll.votes` still has it.

Where the process of a room dies, the votes since the last save are lost: a poll that must not lose one saves each.
"""

import asyncio
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

import msgspec
from msgspec import Meta, Struct

from verani import Actor, ConnectionMeta, Context, define_room


@dataclass
class Poll:
    """Who has voted for what, while the room is awake."""

    votes: dict[str, str] = field(default_factory=dict)

    def count(self) -> dict[str, int]:
        """Count the votes for each choice."""
        choices = list(self.votes.values())
        return {choice: choices.count(choice) for choice in sorted(set(choices))}


Ctx = Context[ConnectionMeta, Poll]

poll = define_room("poll", state=Poll, websocket_path="/ws/{room}")


@poll.event("poll.votes")
class Votes(Struct):
    """How many have voted for each choice."""

    count: dict[str, int]


def file_of(actor: Actor[ConnectionMeta, Poll]) -> Path:
    """Name the file of a room; what names of rooms may hold, names of files may not."""
    return Path(os.environ.get("POLLS", "polls")) / f"{quote(actor.room_id, safe='')}.json"


@poll.on_wake
async def load(actor: Actor[ConnectionMeta, Poll]) -> None:
    file = file_of(actor)
    if await asyncio.to_thread(file.exists):
        saved = msgspec.json.decode(await asyncio.to_thread(file.read_bytes), type=Poll)
        actor.state.votes = saved.votes


@poll.on_hibernate
async def save(actor: Actor[ConnectionMeta, Poll]) -> None:
    file = file_of(actor)
    await asyncio.to_thread(write, file, msgspec.json.encode(actor.state))


def write(file: Path, content: bytes) -> None:
    """Replace a file in one step, or a crash would leave half of it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    new = file.with_suffix(".new")
    new.write_bytes(content)
    new.replace(file)


@poll.on_connect
def show(ctx: Ctx) -> None:
    ctx.emit("poll.votes", Votes(ctx.actor.state.count()))


@poll.on("poll.vote")
def vote(ctx: Ctx, choice: Annotated[str, Meta(min_length=1, max_length=50)]) -> dict[str, int]:
    ctx.actor.state.votes[ctx.meta.user_id] = choice
    count = ctx.actor.state.count()
    ctx.actor.emit("poll.votes", Votes(count))
    return count

"""Load for rooms whose hosts die, move and drain: every frame is numbered, and every answer is accounted for.

`benchmarks.failover` prints what it measures; `tests/integration/test_failover.py` demands that nothing is lost.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import Any, Literal, TypeAlias

import aiohttp
import msgspec

from verani import Context, HookInterrupted, define_room

__all__ = ["Kind", "Storm", "storm"]

Kind: TypeAlias = Literal["fast", "slow"]

# How long the hook of a slow frame waits between its two outputs.
_WAIT = 0.02

# Who waits for so many ends sends no more: on a machine that is too slow for the rate, the rest would only wait longer.
_MOST_UNSETTLED = 64

_decode = msgspec.json.Decoder().decode

storm = define_room("storm", hibernate_after=None)


@storm.on("fast")
def fast(ctx: Context[Any, Any], number: int) -> None:
    ctx.actor.broadcast("default", {"type": "fast", "number": number})


@storm.on("slow")
async def slow(ctx: Context[Any, Any], number: int) -> None:
    ctx.emit("begun", {"number": number})
    await asyncio.sleep(_WAIT)
    ctx.emit("done", {"number": number})


@storm.on_error
def interrupted(error: BaseException, ctx: Context[Any, Any]) -> None:
    if isinstance(error, HookInterrupted):
        ctx.emit("interrupted", {"number": ctx.frame.data})


# What a gateway says now and then while it does not read on, as where its rooms are behind on a loaded machine.
_PONG = {"type": "pong"}


class _Member:
    """One connection and all it has received."""

    def __init__(self, ws: aiohttp.ClientWebSocketResponse) -> None:
        self.ws = ws
        self.heard: dict[str, list[int]] = {kind: [] for kind in ("fast", "begun", "done", "interrupted")}
        self.times: list[float] = []
        self.closed: int | None = None
        self._task = asyncio.create_task(self._read())

    async def _read(self) -> None:
        async for message in self.ws:
            frame = _decode(message.data)
            if frame == _PONG:
                continue
            data = frame["data"]
            self.heard[data["type"]].append(data["number"])
            if data["type"] in ("fast", "done", "interrupted"):
                self.times.append(time.perf_counter())
        self.closed = self.ws.close_code

    async def leave(self) -> None:
        await self.ws.close()
        await self._task


class _Room:
    """One room with a sender and a listener."""

    def __init__(self, kind: Kind, sender: _Member, listener: _Member) -> None:
        self.kind = kind
        self.sender = sender
        self.listener = listener
        self.sent: list[float] = []

    async def send(self) -> None:
        number = len(self.sent)
        self.sent.append(time.perf_counter())
        await self.sender.ws.send_str(f'{{"type":"{self.kind}","data":{number}}}')

    @property
    def settled(self) -> int:
        """How many of its frames have come to an end."""
        heard = self.sender.heard
        return len(heard["fast"]) + len(heard["done"]) + len(heard["interrupted"])

    def answered_after(self, moment: float) -> float:
        """Say when the first frame that was sent after a moment came to its end."""
        first = next(n for n, sent in enumerate(self.sent) if sent >= moment)
        return self.sender.times[first]


class Storm:
    """Rooms under load, from `start` to `finish`."""

    def __init__(self, url: str, *, rooms: int, frames_per_second: float, kind: Kind = "fast") -> None:
        self._url = url
        self._kind: Kind = kind
        self._count = rooms
        self._pause = rooms / frames_per_second
        self._rooms: list[_Room] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._blowing = False

    @property
    def sent(self) -> int:
        """How many frames were sent in all."""
        return sum(len(room.sent) for room in self._rooms)

    async def start(self) -> None:
        """Connect everybody and begin to send."""
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        for number in range(self._count):
            sender, listener = [await self._connect(number) for _ in range(2)]
            self._rooms.append(_Room(self._kind, sender, listener))
        self._blowing = True
        self._tasks = [asyncio.create_task(self._blow(room)) for room in self._rooms]

    async def _connect(self, number: int) -> _Member:
        return _Member(await self._session.ws_connect(f"{self._url}?room=r{number}"))

    async def _blow(self, room: _Room) -> None:
        due = time.perf_counter()
        while self._blowing:
            if len(room.sent) - room.settled < _MOST_UNSETTLED:
                await room.send()
            due += self._pause
            await asyncio.sleep(max(0.0, due - time.perf_counter()))

    async def answered(self) -> list[float]:
        """Wait until every room has answered a frame sent from now on; return after how many seconds each did."""
        now = time.perf_counter()
        expected = [len(room.sent) + 1 for room in self._rooms]
        while any(room.settled < count for room, count in zip(self._rooms, expected, strict=True)):
            # Nobody answers them any more, and nobody was to be closed.
            closed = [wrong for number, room in enumerate(self._rooms) for wrong in _closed(number, room)]
            assert not closed, closed
            for task in self._tasks:
                if task.done():
                    task.result()  # raises what has ended it, the time limit of a test for one
            await asyncio.sleep(0.005)
        return [room.answered_after(now) - now for room in self._rooms]

    async def finish(self) -> list[str]:
        """Stop sending, wait for the last answers, leave, and return everything that was not as promised."""
        self._blowing = False
        await asyncio.gather(*self._tasks)
        async with asyncio.timeout(30):
            while any(room.settled < len(room.sent) and room.sender.closed is None for room in self._rooms):
                await asyncio.sleep(0.005)
            if self._kind == "fast":
                while any(
                    len(r.listener.heard["fast"]) < len(r.sent) and r.listener.closed is None for r in self._rooms
                ):
                    await asyncio.sleep(0.005)
        wrong = [text for number, room in enumerate(self._rooms) for text in self._judge(number, room)]
        for room in self._rooms:
            await room.sender.leave()
            await room.listener.leave()
        await self._session.close()
        return wrong

    def _judge(self, number: int, room: _Room) -> list[str]:
        wrong = _closed(number, room)
        expected = list(range(len(room.sent)))
        if room.kind == "fast":
            for member in (room.sender, room.listener):
                wrong += _differences(f"room {number}", expected, member.heard["fast"])
            return wrong
        heard = room.sender.heard
        wrong += _differences(f"room {number}, begun", expected, heard["begun"])
        return wrong + _differences(f"room {number}, ended", expected, sorted(heard["done"] + heard["interrupted"]))

    @property
    def interrupted(self) -> int:
        """How many frames were interrupted."""
        return sum(len(room.sender.heard["interrupted"]) for room in self._rooms)


def _closed(number: int, room: _Room) -> list[str]:
    return [f"room {number}: closed with {m.closed}" for m in (room.sender, room.listener) if m.closed is not None]


def _differences(where: str, expected: list[int], heard: list[int]) -> list[str]:
    if heard == expected:
        return []
    counts = Counter(heard)
    lost = [n for n in expected if not counts[n]]
    twice = [n for n, count in counts.items() if count > 1]
    order = "" if lost or twice else ", out of order"
    return [f"{where}: {len(lost)} lost {lost[:5]}, {len(twice)} twice {twice[:5]}{order}"]

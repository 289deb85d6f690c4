"""The room that the tests of faults talk to: it does whatever a hook should not.

The tests run in other processes, so what happened is in the frames, and in the file that `RUNS` names: one line for
each start of a hook, in order, whatever became of it.

- `CLOCK`: every look at the wall clock is an hour off, now this way, now that.
- `MEMORY`: a room host gets so many bytes of address space more than it has when it starts.
- `STARTUP`: `on_startup` raises.
"""

from __future__ import annotations

import ctypes
import os
import resource
import time
from itertools import cycle
from pathlib import Path
from typing import Any

from verani import Actor, ConnectionMeta, ConnectRequest, Context, define_room, public_meta

RUNS = "FAULT_RUNS"
CLOCK = "FAULT_CLOCK"
MEMORY = "FAULT_MEMORY"
STARTUP = "FAULT_STARTUP"

HOUR = 3600.0

# A broadcast of the largest size that fits into a frame with its envelope.
LARGE = "x" * ((1 << 20) - 1024)


class Person(ConnectionMeta, kw_only=True):
    """`gateway` is the process that let the client in."""

    gateway: int = 0


Ctx = Context[Person, Any]

fault = define_room("fault", meta=Person)


def _set_clocks_wrong() -> None:
    seconds, nanoseconds, steps = time.time, time.time_ns, cycle((HOUR, -HOUR))
    time.time = lambda: seconds() + next(steps)
    time.time_ns = lambda: nanoseconds() + int(next(steps) * 1e9)


if CLOCK in os.environ:
    _set_clocks_wrong()


def note(ctx: Ctx) -> None:
    """Write down that a handler begins."""
    _write(ctx.frame.type, ctx.frame.data)


def _write(event: str, data: Any) -> None:
    with Path(os.environ[RUNS]).open("a", encoding="utf-8") as runs:
        runs.write(f"{event} {data} {os.getpid()}\n")


@fault.on_startup
def start() -> None:
    if STARTUP in os.environ:
        raise RuntimeError("this app does not start")
    if MEMORY in os.environ:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        limit = pages * resource.getpagesize() + int(os.environ[MEMORY])
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


@fault.extract_meta
def person(request: ConnectRequest) -> Person:
    known = public_meta(request)
    return Person(user_id=known.user_id, client_id=known.client_id, channels=known.channels, gateway=os.getpid())


@fault.on_disconnect
def left(ctx: Ctx) -> None:
    ctx.actor.broadcast("default", {"left": ctx.meta.user_id, "code": ctx.close_code})


@fault.on_error
def erred(error: BaseException, ctx: Ctx) -> None:
    ctx.actor.broadcast("default", {"erred": type(error).__name__})


@fault.on_hibernation_restore
def restored(actor: Actor[Person, Any]) -> None:
    _write("restored", actor.wake_reason)


@fault.on("doze")
def doze(ctx: Ctx, data: Any) -> None:
    ctx.actor.hibernate()


@fault.on("echo")
def echo(ctx: Ctx, data: Any) -> Any:
    return data


@fault.on("where")
def where(ctx: Ctx, data: Any) -> tuple[int, int]:
    return os.getpid(), ctx.meta.gateway


@fault.on("users")
def users(ctx: Ctx, data: Any) -> list[str]:
    return ctx.actor.get_connected_user_ids()


@fault.on("record")
def record(ctx: Ctx, data: Any) -> Any:
    note(ctx)
    return data


@fault.on("say")
def say(ctx: Ctx, data: Any) -> None:
    ctx.actor.broadcast("default", {"said": data})


@fault.on("flood")
def flood(ctx: Ctx, data: Any) -> None:
    """Say a lot to everybody else."""
    for _ in range(data):
        ctx.to_channel("default").emit("large", LARGE)


@fault.on("raise")
def raise_(ctx: Ctx, data: Any) -> None:
    note(ctx)
    raise RuntimeError("on_purpose")


@fault.on("spin")
def spin(ctx: Ctx, data: Any) -> None:
    note(ctx)
    while True:
        pass


@fault.on("spin_until")
def spin_until(ctx: Ctx, data: str) -> str:
    """Hold the host up until a file is there."""
    note(ctx)
    while not Path(data).exists():
        pass
    return data


@fault.on("segfault")
def segfault(ctx: Ctx, data: Any) -> None:
    note(ctx)
    ctypes.string_at(0)


@fault.on("exit")
def exit_(ctx: Ctx, data: int) -> None:
    note(ctx)
    os._exit(data)


@fault.on("abort")
def abort(ctx: Ctx, data: Any) -> None:
    note(ctx)
    os.abort()


@fault.on("hoard")
def hoard(ctx: Ctx, data: Any) -> None:
    note(ctx)
    hoard = []
    while True:
        hoard.append(bytes(1 << 20))

"""Every limit is a setting, a counter and a row of docs/security.md, and no counter has labels that clients choose."""

from __future__ import annotations

import ast
import asyncio
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from tests.measured import measured
from tests.raw import close, handshake, until
from tests.server import Serve
from verani import Actor, ConnectionMeta, ConnectRequest, Context, Forbidden, VeraniError, define_room
from verani_actors.rooms.host import ROOM_LIMITS
from verani_gateway.config import SETTINGS
from verani_gateway.inputs.metrics import LIMITS, OTHER
from verani_gateway.operating.exposition import exposition

ROOT: Final = Path(__file__).parents[2]
SOURCES: Final = [
    path
    for folder in ("verani", "actors/verani_actors", "gateway/verani_gateway")
    for path in (ROOT / folder).rglob("*.py")
]
# Lists of who may come, which are limits, too.
NAMES: Final = {"allowed_origins", "public_hosts"}
# Rows that have no counter of their own: what others mean, or what costs nobody anything.
PARAMETERS: Final = {"rate_burst", "rate_policy", "ping_interval"}


def is_a_limit(setting: str) -> bool:
    return setting.startswith(("max_", "rate_limit")) or setting.endswith("_timeout")


def rows() -> Iterator[str]:
    """Name the settings of the table of limits."""
    section = (
        (ROOT / "docs" / "security.md").read_text(encoding="utf-8").partition("\n## Limits\n")[2].partition("\n## ")[0]
    )
    for line in re.findall(r"^\|(.*?)\|", section, re.MULTILINE):
        yield from re.findall(r"`(\w+)`", line)


def counted() -> set[object]:
    """Find what the sources count as a limit: every name in `limited["..."] += 1` and `_count("...")`."""
    found: set[object] = set()
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.AugAssign(target=ast.Subscript(value=ast.Attribute(attr=counter), slice=ast.Constant(name))):
                    found |= {name} if counter in ("limited", "_limited") else set()
                case ast.Call(func=ast.Attribute(attr="_count"), args=[ast.Constant(name)]):
                    found.add(name)
    return found


def test_every_limit_is_a_setting_and_a_counter() -> None:
    limits = {name for name in SETTINGS if is_a_limit(name)} | NAMES
    assert limits == {*LIMITS, *ROOM_LIMITS}
    rates = {name for name in limits if name.startswith("rate_limit")}  # named by the bucket that has none left
    assert counted() == ({*LIMITS, *ROOM_LIMITS} - rates)


def test_every_limit_is_a_row_of_the_table_and_every_row_a_setting() -> None:
    assert {*rows()} - PARAMETERS == {*LIMITS, *ROOM_LIMITS}
    assert {*rows()} <= {*SETTINGS}


async def test_a_limit_that_did_nothing_yet_is_counted_as_nothing(serve: Serve) -> None:
    samples = measured(exposition((await serve(define_room("chat"))).gateway))
    for name in LIMITS:
        assert samples[f'limited_total{{setting="{name}"}}'] == 0
    for name in ROOM_LIMITS:
        assert samples[f'room_limited_total{{setting="{name}"}}'] == 0


class Noted(ConnectionMeta):
    """A meta that may become too large."""

    note: str = ""


async def test_what_limits_of_rooms_did_is_counted(serve: Serve, clean_log: list[str]) -> None:
    clean_log.append("a hook of chat/a failed")
    room = define_room("chat", meta=Noted, websocket_path="/ws/{room}")

    @room.on("grow")
    def grow(ctx: Context[Any, Any], data: Any) -> None:
        ctx.meta.note = "x" * 2000

    @room.on("hang")
    async def hang(ctx: Context[Any, Any], data: Any) -> None:
        await asyncio.Event().wait()

    server = await serve(room, max_meta_bytes=1000, hook_timeout=0.1, max_awake_rooms=1, min_awake=0.01)
    limited = server.gateway.host.limited
    client = await server.connect("/ws/a")
    client.send({"type": "grow", "id": 1}, {"type": "hang", "id": 2})
    assert [(await client.json())["error"]["code"] for _ in range(2)] == ["too_large", "deadline"]
    await server.connect("/ws/b")
    await until(lambda: limited["max_awake_rooms"] > 0)
    assert (limited["max_meta_bytes"], limited["hook_timeout"]) == (1, 1)


async def test_what_limits_did_to_handshakes_is_counted(serve: Serve, clean_log: list[str]) -> None:
    clean_log.append("failed")

    async def slow(request: ConnectRequest) -> Any:
        if "slow" in request.query:
            await asyncio.Event().wait()
        return {"user_id": "ann", "note": "x" * 2000}

    server = await serve(define_room("chat", meta=Noted, extract_meta=slow), max_meta_bytes=1000, hook_timeout=0.1)
    assert (await server.request(handshake("/ws"))).status == 400
    assert (await server.request(handshake("/ws?slow=1"))).status == 500
    limited = server.gateway.metrics.limited
    assert (limited["max_meta_bytes"], limited["hook_timeout"]) == (1, 1)


# --- labels --------------------------------------------------------------------------------------------------


def labels(text: str, metric: str) -> set[str]:
    return set(re.findall(rf'^verani_{metric}{{\w+="([^"]*)"}} ', text, re.MULTILINE))


async def test_close_codes_of_clients_are_no_time_series(serve: Serve) -> None:
    server = await serve(define_room("chat"))
    for code in (*range(3000, 3050), 4001, 4100, 4999, 1000, 1001, 1012):
        client = await server.connect()
        client.send(close(code))
        await client.closed()
        await client.end()
    await until(lambda: sum(server.gateway.metrics.closes.values()) == 56)
    assert labels(exposition(server.gateway), "closes_total") == {"1000", "1001", "1012", "4001", OTHER}
    assert server.gateway.metrics.closes[OTHER] == 52


async def test_close_codes_of_rooms_are_none_either(serve: Serve) -> None:
    room = define_room("chat")
    room.on("end")(lambda ctx, data: ctx.close(data, "because"))
    server = await serve(room)
    for code in range(4100, 4110):
        client = await server.connect()
        client.send({"type": "end", "data": code})
        assert (await client.closed()).code == code
        client.send(close(code))
        await client.end()
    await until(lambda: server.gateway.metrics.closes[OTHER] == 10)


async def test_error_codes_that_an_application_makes_up_are_none_either(serve: Serve) -> None:
    class Banned(Forbidden):
        def __init__(self, user: str) -> None:
            super().__init__(user)
            self.code = f"banned-{user}"  # type: ignore[misc]

    def identify(request: ConnectRequest) -> Any:
        raise Banned(request.query["userId"])

    async def refuse(actor: Actor[Any, Any], user: str) -> None:
        raise Banned(user)

    room = define_room("chat", extract_meta=identify)
    room.rpc(refuse)
    server = await serve(room)
    for n in range(20):
        assert (await server.request(handshake(f"/ws?userId=u{n}"))).status == 403
        with pytest.raises(VeraniError):
            await server.gateway.stub(room, "a").refuse(f"u{n}")
    text = exposition(server.gateway)
    assert labels(text, "refusals_total") == {OTHER}
    assert len(server.gateway.refusals._kinds) == 1
    assert labels(text, "calls_total") <= {"forbidden", "failed", OTHER}
    assert "banned" not in text

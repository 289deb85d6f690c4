"""What a whole service writes to standard error, in every process of it: text for people, JSON for programs."""

from __future__ import annotations

import asyncio
import os
import pty
import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import msgspec
import pytest

from tests.gateway.started import ROOT, Service, Start

APP = """
import asyncio, logging, os, threading, warnings
from aiohttp import web
from verani import ConnectionMeta, define_room
from verani_gateway import setup

chat = define_room("chat", websocket_path="/ws/{room}")

@chat.on("fail")
def fail(ctx, data):
    raise ValueError("a\\n{}")

@chat.on("many")
async def many(ctx, data):
    thread = threading.Thread(target=lambda: 1 / 0)
    thread.start()
    thread.join()
    warnings.warn("it is\\nold")
    logging.getLogger("app").info("hello\\n", extra={"room": "\\udc80"})
    asyncio.get_running_loop().call_soon(lambda: 1 / 0)
    return os.getpid()

async def fails(app):
    raise RuntimeError("no database")

failing = web.Application()
failing.on_startup.append(fails)
setup(failing, define_room("chat"))
"""

SHAPES = pytest.mark.parametrize("shape", [(), ("--hosts", "1")], ids=["one process", "several"])
# A room and a user that could end a line, or forge one, where they were not escaped.
ROOM, USER = '"} {"level": "x', 'ann" room="x'


@pytest.fixture(autouse=True)
def app(tmp_path: Path, start: Start) -> None:
    (tmp_path / "app.py").write_text(APP)


def _records(service: Service) -> list[dict[str, str]]:
    """Read every line as a strict program does."""
    return [msgspec.json.decode(line, type=dict[str, str]) for line in service.lines]


async def _provoke(service: Service, *, url: str) -> None:
    """Have a room log, and fail in every way."""
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(f"{url}/ws/{quote(ROOM, safe='')}?userId={quote(USER)}") as ws,
    ):
        for _ in range(20):
            await ws.send_json({"type": "fail"})
        await ws.send_json({"type": "many", "id": 1})
        answer: dict[str, Any] = {}
        while "id" not in answer:
            answer = await ws.receive_json()
    service.process.terminate()
    assert await service.end() == 0


@SHAPES
async def test_every_line_of_a_service_is_a_json_object(start: Start, shape: tuple[str, ...]) -> None:
    service = await start("serve", "app:chat", *shape, "--log-format", "json", "--internal-port", "0")
    public = await service.line(r'"url": "(http://[^"]+)"')
    inspector = await service.line(r'"url": "(http://[^"]+/inspector/)"')
    async with aiohttp.ClientSession() as session, session.get(inspector[1]) as response:
        assert response.status == 200
    await _provoke(service, url=public[1])
    records = _records(service)
    said = {record["message"]: record for record in records}
    assert all(record.keys() >= {"time", "level", "logger", "message"} for record in records)

    definition = next(record for record in records if record["message"].startswith("room definition"))
    assert definition["definition"] == "chat"
    assert definition["url"] == public[1].replace("http", "ws") + "/ws/{room}"

    failure = said[f"a hook of chat/{ROOM} failed: ValueError"]
    assert failure.items() >= {"level": "ERROR", "room": f"chat/{ROOM}", "user": USER, "hook": "on('fail')"}.items()
    assert failure["connection"]
    assert failure["exception"].endswith("ValueError: a\n{}")
    assert sum(record["message"].startswith(f"a hook of chat/{ROOM} failed") for record in records) <= 6

    thread = next(record for record in records if record["message"].startswith("uncaught ZeroDivisionError in thread"))
    assert thread["exception"].endswith("ZeroDivisionError: division by zero")
    assert any(record["logger"] == "py.warnings" and "it is\nold" in record["message"] for record in records)
    assert said["hello\n"]["room"] == "\\udc80"
    assert any(record["logger"] == "asyncio" and "exception" in record for record in records)
    if shape:
        assert failure["process"].startswith("host:")
    assert "stopped" in said


@SHAPES
async def test_a_text_line_says_whom_it_is_about(start: Start, shape: tuple[str, ...]) -> None:
    service = await (await start("serve", "app:chat", *shape, "--internal-port", "0")).started()
    await _provoke(service, url=service.public)
    line = next(line for line in service.lines if "a hook of chat/" in line)
    assert f" ERROR [Verani] a hook of chat/{ROOM} failed: ValueError room=chat/{ROOM} connection=" in line
    assert ' user="ann\\" room=\\"x" hook=on(' in line
    assert not any(line.startswith(("Traceback", "ValueError")) for line in service.lines), "tracebacks are indented"


@pytest.mark.parametrize(
    ("target", "shape", "code", "says"),
    [
        ("app:nobody", (), 2, "app:nobody: module app has no 'nobody'; it has chat, failing"),
        ("app:nobody", ("--hosts", "1"), 2, "app:nobody: module app has no 'nobody'; it has chat, failing"),
        ("app:failing", (), 1, "uncaught RuntimeError"),
    ],
)
async def test_a_start_that_fails_is_told_in_json(
    start: Start, target: str, shape: tuple[str, ...], code: int, says: str
) -> None:
    service = await start("serve", target, *shape, "--log-format", "json", "--internal-port", "0")
    assert await service.end() == code
    assert _records(service)[-1]["message"] == says


async def test_a_terminal_is_told_where_to_go(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    environ = {name: value for name, value in os.environ.items() if not name.startswith("VERANI_")}
    environ["PYTHONPATH"] = os.pathsep.join(map(str, (ROOT, ROOT / "actors", ROOT / "gateway")))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "verani_gateway", "serve", "app:chat"),
        *("--host", "0.0.0.0", "--port", "0", "--internal-port", "0"),
        cwd=tmp_path,
        env=environ,
        stdin=asyncio.subprocess.DEVNULL,
        stderr=theirs,
    )
    os.close(theirs)
    said = ""
    try:
        while "Ctrl-C stops it." not in said:
            said += (await asyncio.to_thread(os.read, ours, 4096)).decode()
    finally:
        process.kill()
        await process.wait()
        os.close(ours)
    lines = [line.strip() for line in said.splitlines()]
    [public] = [line for line in lines if line.startswith("public listener: ")]
    port = public.removeprefix("public listener: http://127.0.0.1:")
    assert port.isdigit()
    assert f"room definition chat: ws://127.0.0.1:{port}/ws/{{room}}" in lines
    [internal] = [line for line in lines if line.startswith("internal listener: http://127.0.0.1:")]
    assert f"inspector: {internal.removeprefix('internal listener: ')}/inspector/" in lines
    assert "INFO" not in said

"""New code comes into a service process by process, and nobody behind the proxy notices more than a 1012."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from asyncio.subprocess import DEVNULL, PIPE, STDOUT, Process, create_subprocess_exec
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.deploy.files import Tool
from tests.deploy.test_proxies import listening
from tests.ports import free_port
from verani.client import Reconnection, RequestInterrupted, VeraniClient

ROOT = Path(__file__).parents[2]
PATIENCE = 60

# Between what one of those who load the service does and the next: the processes that start need the machine, too.
PAUSE = 0.05

# Every version is as long as the others, and is written in the same second if the machine is quick.
APP = """
import os
from verani.room.definition import define_room
VERSION = 1
hall = define_room("hall", websocket_path="/ws/{room}")

def note(text):
    with open("notes", "a") as file:
        file.write(text + chr(10))

@hall.on("mark")
def mark(ctx, data):
    note(f"mark {ctx.meta.user_id} {data}")

@hall.on("ask")
def ask(ctx, data):
    return [VERSION, os.getpid()]

@hall.rpc
def version(actor) -> list[int]:
    return [VERSION, os.getpid()]
"""

NGINX = """
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/nginx-error.log;
events {{}}
http {{
  access_log off;
  {temporary}
  map $http_upgrade $verani_connection {{ default upgrade; '' ''; }}
  upstream public {{ server 127.0.0.1:{public}; keepalive 16; keepalive_timeout 2s; }}
  upstream internal {{ server 127.0.0.1:{internal}; keepalive 16; keepalive_timeout 2s; }}
  server {{
    listen 127.0.0.1:{port};
    proxy_http_version 1.1;
    proxy_set_header Host $proxy_host;
    location / {{
      proxy_pass http://public;
      proxy_set_header Host 127.0.0.1:{public};
      proxy_set_header Upgrade $http_upgrade;
      proxy_set_header Connection $verani_connection;
    }}
    location /rpc/ {{
      proxy_pass http://internal;
      proxy_set_header Host 127.0.0.1:{internal};
      proxy_set_header Connection "";
    }}
  }}
}}
"""


class Service:
    """Two hosts and two gateways behind nginx."""

    def __init__(self, process: Process, folder: Path, port: int) -> None:
        self.process = process
        self.folder = folder
        self.port = port
        self.internal = ""
        self.lines: list[str] = []

    async def line(self, pattern: str) -> re.Match[str]:
        """Read on to a line of the log."""
        assert self.process.stderr is not None
        while raw := await self.process.stderr.readline():
            self.lines.append(raw.decode())
            if match := re.search(pattern, self.lines[-1]):
                return match
        raise AssertionError("".join(self.lines))

    async def command(self, *words: str) -> tuple[int, str]:
        """Run `verani` as an operator does; return its exit code and what it has said."""
        process = await create_subprocess_exec(
            *(sys.executable, "-m", "verani_gateway", *words, "--url", self.internal), stdout=PIPE, stderr=STDOUT
        )
        output, _ = await process.communicate()
        assert process.returncode is not None
        return process.returncode, output.decode()

    async def processes(self) -> dict[str, int]:
        """Return the pid of every host and gateway."""
        async with aiohttp.ClientSession() as session, session.get(f"{self.internal}/admin/cluster") as response:
            status = await response.json()
        kinds = {"host": status["members"], "gateway": status["gateways"]}
        return {f"{kind}:{each['id']}": each["pid"] for kind, processes in kinds.items() for each in processes}


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    (tmp_path / "app.py").write_text(APP, "utf-8")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("VERANI_")}
    paths = os.pathsep.join(str(path) for path in (ROOT, ROOT / "actors", ROOT / "gateway"))
    options = ("--hosts", "2", "--gateways", "2", "--port", "0", "--rate-limit", "0", "--drain-seconds", "10")
    process = await create_subprocess_exec(
        *(sys.executable, "-m", "verani_gateway", "serve", "app:hall", *options),
        cwd=tmp_path,
        env={**inherited, "PYTHONPATH": paths},
        stderr=PIPE,
    )
    started = Service(process, tmp_path, int((await _first(process, r"public listener: http://\S+:(\d+)"))[1]))
    started.internal = (await started.line(r"internal listener: (http://\S+)"))[1]
    reading = asyncio.create_task(_read(started))
    yield started
    if process.returncode is None:
        process.terminate()
    await process.wait()
    await reading


async def _first(process: Process, pattern: str) -> re.Match[str]:
    assert process.stderr is not None
    lines = []
    while raw := await process.stderr.readline():
        lines.append(raw.decode())
        if match := re.search(pattern, lines[-1]):
            return match
    raise AssertionError("".join(lines))


async def _read(service: Service) -> None:
    with suppress(AssertionError):
        await service.line("a line that nobody writes")


@pytest.fixture
async def proxy(service: Service, tool: Tool, tmp_path: Path) -> AsyncIterator[int]:
    """Put nginx in front of both listeners, with connections that it keeps."""
    nginx = tool("nginx", package="Debian's nginx-light")
    port = free_port()
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    folders = "".join(f"{kind}_temp_path {tmp_path}/{kind};" for kind in kinds)
    text = NGINX.format(
        folder=tmp_path,
        temporary=folders,
        public=service.port,
        internal=service.internal.rpartition(":")[2],
        port=port,
    )
    (tmp_path / "nginx.conf").write_text(text, "utf-8")
    process = await create_subprocess_exec(
        *(nginx, "-e", str(tmp_path / "nginx-error.log"), "-c", str(tmp_path / "nginx.conf")), stdin=DEVNULL
    )
    try:
        await listening(port, process)
        yield port
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


class Load:
    """People who call, come and go, and talk, all the time while it is entered, and what has gone wrong."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._tasks: list[asyncio.Task[None]] = []
        self._stopping = asyncio.Event()
        self.done: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.said: dict[str, int] = {}
        self.codes: Counter[int] = Counter()
        # Which versions have answered of late.
        self.versions: set[int] = set()

    async def __aenter__(self) -> Load:
        workers = [self._call(number) for number in range(3)]
        workers += [self._come_and_go(number) for number in range(2)]
        workers += [self._talk(f"user{number}", number) for number in range(4)]
        self._tasks = [asyncio.create_task(worker) for worker in workers]
        await self.goes_on()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stopping.set()
        await asyncio.gather(*self._tasks)

    async def goes_on(self) -> None:
        """Wait until everybody has been served again, and note who answers."""
        self.versions.clear()
        before = self.done.copy()
        kinds = ("call", "connection", "request", "frame")
        while not all(self.done[kind] > before[kind] + 20 for kind in kinds):
            for task in self._tasks:
                if task.done():
                    task.result()
            await asyncio.sleep(0.02)

    async def _call(self, number: int) -> None:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{self._port}") as session:
            while not self._stopping.is_set():
                async with session.post(f"/rpc/hall/room{number}/version", json={}) as response:
                    body = await response.read()
                    if response.status != 200:
                        self.wrong.append(f"call: {response.status} {body!r}")
                        return
                    self.versions.add(json.loads(body)[0])
                self.done["call"] += 1
                await asyncio.sleep(PAUSE)

    async def _come_and_go(self, number: int) -> None:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{self._port}") as session:
            while not self._stopping.is_set():
                try:
                    async with session.ws_connect(f"/ws/door{number}?userId=guest") as ws:
                        await ws.close()
                except aiohttp.ClientError as error:
                    self.wrong.append(f"handshake: {error!r}")
                    return
                self.done["connection"] += 1
                await asyncio.sleep(PAUSE)

    async def _talk(self, user: str, number: int) -> None:
        quick = Reconnection(max_attempts=None, initial_delay=0.05)
        client = VeraniClient(f"ws://127.0.0.1:{self._port}/ws/room{number}?userId={user}", reconnection=quick)
        client.on("disconnected", self._note_code)
        async with client:
            while not self._stopping.is_set():
                self.said[user] = self.said.get(user, 0) + 1
                client.emit("mark", self.said[user])
                self.done["frame"] += 1
                with suppress(RequestInterrupted):  # which the client may ask again
                    version, _ = await client.request("ask", timeout=PATIENCE)
                    self.versions.add(version)
                    self.done["request"] += 1
                await asyncio.sleep(PAUSE)
            await client.request("ask", timeout=PATIENCE)

    def _note_code(self, *told: Any) -> None:
        if not self._stopping.is_set():  # its own end is nobody's restart
            self.codes[told[0]] += 1


def _marks(folder: Path) -> dict[str, list[int]]:
    marks: dict[str, list[int]] = {}
    for line in (folder / "notes").read_text().splitlines():
        _, user, number = line.split()
        marks.setdefault(user, []).append(int(number))
    return marks


async def test_a_rolling_restart_under_load_brings_new_code_and_fails_nobody(service: Service, proxy: int) -> None:
    before = await service.processes()
    load = Load(proxy)
    async with asyncio.timeout(4 * PATIENCE), load:
        assert load.versions == {1}
        (service.folder / "app.py").write_text(APP.replace("VERSION = 1", "VERSION = 2"), "utf-8")
        code, said = await service.command("restart", "--rolling")
        assert code == 0, said
        await load.goes_on()
        await load.goes_on()
        assert load.versions == {2}
    assert load.wrong == [], (service.folder / "nginx-error.log").read_text() + "".join(service.lines)
    after = await service.processes()
    assert not set(before.values()) & set(after.values())
    assert len(after) == len(before)
    for user, marks in _marks(service.folder).items():
        assert marks == list(range(1, load.said[user] + 1))
    assert set(load.codes) <= {1012}
    assert sum(load.codes.values()) >= 1


async def test_one_process_is_restarted_and_the_others_stay_and_what_cannot_be_changes_nothing(
    service: Service,
) -> None:
    for kind in ("host:", "gateway:"):
        before = await service.processes()
        target = next(each for each in before if each.startswith(kind))
        code, said = await service.command("restart", target)
        assert code == 0, said
        after = await service.processes()
        assert len(after) == len(before)
        changed = set(before.values()) - set(after.values())
        assert changed == {before[target]}

    before = await service.processes()
    code, said = await service.command("restart", "host:nobody")
    assert code == 1
    assert "host:nobody is not part of the service: expected host:" in said
    code, said = await service.command("restart")
    assert code == 2
    assert "expected one of host:ID, gateway:ID and --rolling" in said
    (service.folder / "app.py").write_text(APP + "\nraise RuntimeError('half done')\n", "utf-8")
    gateway = next(each for each in before if each.startswith("gateway:"))
    host = next(each for each in before if each.startswith("host:"))
    for words in (("--rolling",), (gateway,), (host,)):
        code, said = await service.command("restart", *words)
        assert code == 1
        assert "nothing is restarted: importing app failed at app.py:23: RuntimeError: half done" in said
    assert await service.processes() == before

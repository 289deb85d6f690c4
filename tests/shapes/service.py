"""Run one service in the shape under test: as real processes, started the way people do it.

Everything here is synchronous, but for what a test awaits: a service outlives the event loops of the tests.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final
from urllib.request import Request, urlopen

import aiohttp

from tests.netns import Machine, Network
from tests.raw import PATIENCE
from tests.shapes.app import ON_PURPOSE, WATCH

__all__ = ["SHAPES", "Node", "Service", "embedded", "machines", "processes"]

ROOT = Path(__file__).parents[2]
TARGET: Final = "tests.shapes.app:app"

# A loaded machine may take seconds to import everything in a dozen processes; nothing waits this long when all is well.
START_PATIENCE: Final = 60.0

TOKEN: Final = "shapes"
SECRETS: Final = {
    "VERANI_RPC_TOKEN": TOKEN,
    "VERANI_ADMIN_TOKEN": TOKEN,
    "VERANI_CLUSTER_SECRET": "the-secret-of-the-tests-of-all-shapes",
}

# Rooms sleep soon, and no rate holds up a test.
OPTIONS: Final = (
    *("--port", "0", "--internal-port", "0", "--hibernate-after", "0.3", "--rate-limit", "0", "--drain-seconds", "3"),
    *("--rate-limit-bytes", "0"),
)

# What a machine without gateways says when it is ready.
_JOINED: Final = "[Verani] joined "

_LISTENER = re.compile(r"(public|internal) listener: (http://\S+)")
_RECORD = re.compile(r"\S+ \S+ (DEBUG|INFO|WARNING|ERROR|CRITICAL) ")


class Node:
    """One `verani serve` or `verani join`, and what it has written to standard error."""

    def __init__(self, process: subprocess.Popen[bytes], *, gateways: int = 1) -> None:
        self.process = process
        self.public = ""
        self.internal = ""
        self.lines: list[str] = []
        self._joined = False
        self._gateways = gateways
        self._said = threading.Condition()
        self._ended = False
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for raw in self.process.stderr:
            with self._said:
                self.lines.append(raw.decode(errors="replace").rstrip("\n"))
                self._joined |= _JOINED in self.lines[-1]
                if match := _LISTENER.search(self.lines[-1]):
                    if match[1] == "public":
                        self.public = self.public or match[2]
                    else:
                        self.internal = self.internal or match[2]
                self._said.notify_all()
        with self._said:
            self._ended = True
            self._said.notify_all()

    def _is_ready(self) -> bool:
        return bool(self.public and self.internal) if self._gateways else self._joined

    def wait(self) -> None:
        """Wait until it is ready."""
        with self._said:
            self._said.wait_for(lambda: self._ended or self._is_ready(), START_PATIENCE)
            assert self._is_ready(), "it is not ready:\n" + "\n".join(self.lines)

    def heard(self, text: str) -> None:
        """Wait until it has written a line with this text."""
        with self._said:
            self._said.wait_for(lambda: self._ended or any(text in line for line in self.lines), START_PATIENCE)
            assert any(text in line for line in self.lines), "\n".join(self.lines)

    def stop(self) -> int:
        """Ask it to stop and return its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self._end()

    def kill(self) -> None:
        """End it without asking, if it is still there."""
        if self.process.poll() is None:
            self.process.kill()
        self._end()

    def _end(self) -> int:
        code = self.process.wait(START_PATIENCE)
        self._reader.join(START_PATIENCE)
        assert self.process.stderr is not None
        self.process.stderr.close()
        return code

    def errors(self) -> list[str]:
        """Return the records of errors that no test has provoked, and whatever is no record at all."""
        records: list[list[str]] = []
        for line in self.lines:
            if records and not _RECORD.match(line) and line.startswith(" "):
                records[-1].append(line)
            else:
                records.append([line])
        found = ["\n".join(record) for record in records]
        return [text for text in found if _is_error(text) and ON_PURPOSE not in text]


def _is_error(record: str) -> bool:
    match = _RECORD.match(record)
    return match[1] in ("ERROR", "CRITICAL") if match else "Traceback" in record


class Service:
    """A running service, whatever it consists of: `hosts` room host processes, `gateways` gateway processes.

    `urls` are the public listeners, one for each machine that has one; tests use them in turn.
    """

    def __init__(self, shape: str, nodes: Sequence[Node], *, hosts: int, gateways: int) -> None:
        self.shape = shape
        self.nodes = nodes
        self.hosts = hosts
        self.gateways = gateways
        self.urls = [node.public for node in nodes if node.public]
        self.internal = nodes[0].internal
        self.token = TOKEN
        self._turn = 0

    def __repr__(self) -> str:
        return f"<Service {self.shape}>"

    @property
    def url(self) -> str:
        """The public listener whose turn it is."""
        self._turn += 1
        return self.urls[self._turn % len(self.urls)]

    async def ask(self, path: str, *, token: str | None = TOKEN, **options: Any) -> tuple[int, Any]:
        """Send a request to the internal listener; return the status and the body: JSON where it says so."""
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        headers |= options.pop("headers", {})
        method = options.pop("method", "GET")
        async with (
            aiohttp.ClientSession() as session,
            session.request(method, f"{self.internal}{path}", headers=headers, **options) as response,
        ):
            is_json = response.content_type == "application/json"
            return response.status, await response.json() if is_json else await response.text()

    async def status(self, room: str) -> dict[str, Any]:
        """Return the status of a room; empty for one that nobody knows."""
        status, found = await self.ask(f"/admin/rooms/{room}")
        return dict(found) if status == 200 else {}

    async def until(self, room: str, **fields: object) -> dict[str, Any]:
        """Wait until the status of a room has these fields, and return it."""
        async with asyncio.timeout(PATIENCE):
            while not fields.items() <= (found := await self.status(room)).items():  # noqa: ASYNC110  # in another process
                await asyncio.sleep(0.05)
        return found

    async def asleep(self, room: str) -> None:
        """Wait until a room that has connections is asleep."""
        await self.until(room, state="asleep")

    async def forgotten(self, room: str) -> None:
        """Wait until nobody knows a room: it sleeps without connections."""
        async with asyncio.timeout(PATIENCE):
            while await self.status(room):  # noqa: ASYNC110  # in another process
                await asyncio.sleep(0.05)


def _environment() -> Mapping[str, str]:
    ours = {name: value for name, value in os.environ.items() if not name.startswith("VERANI_")}
    return {**ours, **SECRETS, WATCH: "1"}


def _command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "verani_gateway", *arguments]


@contextmanager
def _run(shape: str, *starts: Callable[[], Node], hosts: int, gateways: int) -> Iterator[Service]:
    """Start the nodes, the leader first; hand out the service; stop all of it; nothing it logged may be a surprise."""
    nodes: list[Node] = []
    with ExitStack() as stack:
        for start in starts:
            nodes.append(start())
            stack.callback(nodes[-1].kill)
            nodes[0].wait()
        for node in nodes:
            node.wait()
        service = Service(shape, nodes, hosts=hosts, gateways=gateways)
        if shape != "embedded":
            _wait_until_whole(service)
        yield service
        # The leader goes last.
        codes = [node.stop() for node in reversed(nodes)]
    errors = [error for node in nodes for error in node.errors()]
    assert not errors, "\n".join(errors)
    assert codes == [0] * len(nodes)


def _wait_until_whole(service: Service) -> None:
    """Wait until every process is in the same epoch: a machine says that it has joined before its hosts are members."""
    request = Request(f"{service.internal}/admin/cluster", headers={"Authorization": f"Bearer {service.token}"})
    deadline = time.monotonic() + START_PATIENCE
    while True:
        with urlopen(request, timeout=START_PATIENCE) as response:
            status = json.load(response)
        epochs = {process["epoch"] for process in (*status["members"], *status["gateways"])}
        if (len(status["members"]), len(status["gateways"]), len(epochs)) == (service.hosts, service.gateways, 1):
            return
        assert time.monotonic() < deadline, f"it does not become whole: {status}"
        time.sleep(0.05)


def _serve(*options: str) -> Node:
    command = _command("serve", TARGET, *OPTIONS, *options)
    return Node(subprocess.Popen(command, cwd=ROOT, env=_environment(), stderr=subprocess.PIPE))


def _serve_on(machine: Machine, gateways: int, *command: str) -> Node:
    # Tests reach both listeners from outside of the machine.
    at = ("--host", machine.address, "--internal-host", machine.address, "--advertise", machine.address)
    many = ("--hosts", "1", "--gateways", str(gateways), "--machine", machine.name)
    process = machine.popen(
        _command(*command, TARGET, *OPTIONS, *at, *many), cwd=ROOT, env=_environment(), stderr=subprocess.PIPE
    )
    return Node(process, gateways=gateways)


@contextmanager
def embedded() -> Iterator[Service]:
    """One process."""
    with _run("embedded", _serve, hosts=1, gateways=1) as service:
        yield service


@contextmanager
def processes() -> Iterator[Service]:
    """Two hosts and two gateways, which share their ports."""
    options = ("--hosts", "2", "--gateways", "2", "--admin-port", "0", "--link-port", "0")
    with _run("processes", partial(_serve, *options), hosts=2, gateways=2) as service:
        yield service


@contextmanager
def machines() -> Iterator[Service]:
    """Three machines with a host each, the first and the last with a gateway."""
    with Network(3) as network:
        one, two, three = network.machines
        starts = (
            partial(_serve_on, one, 1, "serve"),
            partial(_serve_on, two, 0, "join", one.address),
            partial(_serve_on, three, 1, "join", one.address),
        )
        with _run("machines", *starts, hosts=3, gateways=2) as service:
            yield service


SHAPES: Final = {"embedded": embedded, "processes": processes, "machines": machines}

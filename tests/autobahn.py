"""Run the Autobahn test suite, the reference for RFC 6455, against a raw echo on our own WebSocket settings.

    python -m tests.autobahn install

installs it into a cache folder (a minute, once), unless it is there. It exists for Python 2.7 only, which must be
found as `python2.7` or through pyenv; with `--where-possible` its absence is no failure. `VERANI_WSTEST` names another
`wstest` to use. The tests are in `tests/gateway/test_autobahn.py`.

The echo differs from a room's end point only in what it does with a message: it sends it back, binary ones too.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
from asyncio.subprocess import DEVNULL, PIPE
from pathlib import Path
from typing import Any

from aiohttp import WSMsgType, web

from verani.room.definition import define_room
from verani.room.meta import ConnectionMeta
from verani.settings import Settings
from verani_gateway.application import setup
from verani_gateway.connections.connection import Connection, Rest
from verani_gateway.connections.outbox import deflated_frame, text_frame
from verani_gateway.connections.rate import Meter
from verani_gateway.gateway import Gateway
from verani_gateway.http.extensions import DEFLATE, offers_deflate
from verani_gateway.http.handshake import Upgraded, accept
from verani_gateway.inputs.ingress import InputWay

__all__ = ["echo_application", "find_wstest", "run"]

AGENT = "verani"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "verani"

REQUIREMENTS = Path(__file__).with_name("autobahn-requirements.txt")


class EchoConnection(Connection):
    """A connection that sends each message back to where it came from."""

    def _handle(
        self, kind: WSMsgType, data: bytes | bytearray, way: InputWay, *, is_metered: bool = False
    ) -> Rest | None:
        match kind:
            case WSMsgType.TEXT:
                try:
                    data.decode()
                except UnicodeDecodeError:
                    self.close(1007)
                else:
                    data = bytes(data)
                    least = self.outbox.deflates_from
                    self.outbox.put(text_frame(data) if least is None else deflated_frame(data, least))
            case WSMsgType.BINARY:
                # The header of a binary frame differs from that of a text frame in its first byte.
                self.outbox.put(b"\x82" + text_frame(bytes(data))[1:])
            case _:
                return super()._handle(kind, data, way, is_metered=is_metered)
        return None


def echo_application(settings: Settings) -> web.Application:
    """Build an application whose `/echo` is a raw echo; rate and size limits are those of the settings."""
    app = web.Application()
    gateway = setup(app, define_room("unused"), settings=settings)

    async def echo(request: web.Request) -> web.StreamResponse:
        return await _echo(gateway, request)

    app.router.add_get("/echo", echo)
    return app


async def _echo(gateway: Gateway, request: web.Request) -> web.StreamResponse:
    compressed = gateway.settings.compression and offers_deflate(request.headers)
    await accept(request, None, DEFLATE if compressed else None)
    meta = ConnectionMeta(user_id="unused", client_id="")
    connection = EchoConnection(
        gateway.facilities,
        gateway.open_connections.next_id(),
        "unused",
        meta,
        Meter(()),
        request.protocol,
        compressed=compressed,
    )
    gateway.connections[connection.id] = connection  # for its keepalive and time-outs
    try:
        await connection.run()
    finally:
        del gateway.connections[connection.id]
    return Upgraded()


def find_wstest() -> Path | None:
    """Return the Autobahn test suite's command, None if it is not installed."""
    path = Path(os.environ.get("VERANI_WSTEST") or CACHE / "wstest" / "bin" / "wstest")
    return path if path.exists() else None


async def run(
    wstest: Path, url: str, folder: Path, *, cases: list[str], exclude: list[str]
) -> dict[str, dict[str, Any]]:
    """Run these cases; return what each came to, by case id: its `behavior`, its `behaviorClose` and more."""
    configuration = {
        "options": {"failByDrop": False},
        "outdir": str(folder / "report"),
        "servers": [{"agent": AGENT, "url": url}],
        "cases": cases,
        "exclude-cases": exclude,
        "exclude-agent-cases": {},
    }
    (folder / "fuzzingclient.json").write_text(json.dumps(configuration))
    # In a folder of its own: it keeps a log beside it.
    process = await asyncio.create_subprocess_exec(
        *(wstest, "-m", "fuzzingclient", "-s", "fuzzingclient.json"),
        cwd=folder,
        stdin=DEVNULL,
        stdout=PIPE,
        stderr=subprocess.STDOUT,
        env={name: value for name, value in os.environ.items() if not name.startswith("PYTHON")},
    )
    try:
        output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, output.decode()[-5000:]
    reports: dict[str, dict[str, Any]] = json.loads((folder / "report" / "index.json").read_text())[AGENT]
    return reports


def _find_python2() -> str | None:
    on_path = shutil.which("python2.7")
    roots = [Path(os.environ["PYENV_ROOT"])] if "PYENV_ROOT" in os.environ else []
    roots.append(Path.home() / ".pyenv")
    found = [str(each) for root in roots for each in sorted(root.glob("versions/2.7*/bin/python2.7"))]
    # The one on the path may be a shim of pyenv's that runs nothing.
    for python in [*found, *([on_path] if on_path else [])]:
        if subprocess.run([python, "-c", ""], check=False, capture_output=True).returncode == 0:
            return python
    return None


def install(*, where_possible: bool) -> int:
    """Install the suite into the cache folder, unless it is there; return an exit code."""
    if find_wstest() is not None:
        return 0
    python = _find_python2()
    if python is None:
        print("the Autobahn test suite needs Python 2.7, as python2.7 or in pyenv", file=sys.stderr)  # noqa: T201
        return 0 if where_possible else 1
    CACHE.mkdir(parents=True, exist_ok=True)
    # Python 2.7 has no venv.
    bootstrap, pip = CACHE / "wstest-bootstrap", CACHE / "wstest" / "bin" / "pip"
    commands: list[list[str | Path]] = [
        [python, "-m", "pip", "install", "--quiet", "--upgrade", "--target", bootstrap, "virtualenv==20.15.1"],
        # On the path of this one only: what is there, pip would take for installed.
        ["env", f"PYTHONPATH={bootstrap}", python, "-m", "virtualenv", "--quiet", CACHE / "wstest"],
        [pip, "install", "--quiet", "--no-deps", "--requirement", REQUIREMENTS],
    ]
    try:
        for command in commands:
            subprocess.run(command, check=True)
    except subprocess.CalledProcessError as error:
        print(error, file=sys.stderr)  # noqa: T201
        shutil.rmtree(CACHE / "wstest", ignore_errors=True)  # half of it would look installed
        return 1
    return 0


if __name__ == "__main__":
    if sys.argv[1:2] != ["install"] or sys.argv[2:] not in ([], ["--where-possible"]):
        sys.exit("usage: python -m tests.autobahn install [--where-possible]")
    sys.exit(install(where_possible=len(sys.argv) > 2))

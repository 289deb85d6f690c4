"""`verani serve --reload`: the server follows its files, and never outlives its supervisor."""

import asyncio
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from watchfiles import Change

from tests.gateway.started import Output
from verani_gateway.service.reload import _Sources

ROOT = Path(__file__).parents[3]

APP = """
import logging, os
from verani.room.definition import define_room
logging.getLogger("app").info("imported version %s in process %s", {version}, os.getpid())
chat = define_room("chat")
"""


class Supervisor(Output):
    """A started supervisor; it and its children write to one pipe, which ends when the last of them has."""

    def __init__(self, process: Process, directory: Path) -> None:
        super().__init__(process)
        self.directory = directory

    def write(self, version: int | str, name: str = "app.py") -> None:
        (self.directory / name).write_text(APP.format(version=version), encoding="utf-8")

    async def serving(self, version: int) -> int:
        """Wait until a child serves this version and return its process id."""
        match = await self.line(rf"imported version {version} in process (\d+)")
        await self.line("internal listener")
        return int(match[1])


Start = Callable[..., Awaitable[Supervisor]]


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    started: list[Supervisor] = []

    async def start(*, version: int | str = 1) -> Supervisor:
        paths = [str(ROOT), str(ROOT / "actors"), str(ROOT / "gateway"), os.environ.get("PYTHONPATH", "")]
        environ = {name: value for name, value in os.environ.items() if not name.startswith("VERANI_")}
        (tmp_path / "app.py").write_text(APP.format(version=version), encoding="utf-8")
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "verani_gateway", "serve", "app:chat", "--reload", "--port", "0"),
            cwd=tmp_path,
            env=environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))},
            stderr=PIPE,
        )
        started.append(Supervisor(process, tmp_path))
        return started[-1]

    yield start
    for supervisor in started:
        if supervisor.process.returncode is None:
            supervisor.process.kill()
        await supervisor.end()


async def test_a_changed_file_restarts_the_server_in_a_new_process(start: Start) -> None:
    supervisor = await start()
    first = await supervisor.serving(1)
    supervisor.write(2)
    await supervisor.line(r"\[Verani\] changed: app.py")
    await supervisor.line(r"\[Verani\] stopped")
    assert await supervisor.serving(2) != first
    supervisor.process.terminate()
    assert await supervisor.end() == 0


async def test_a_server_that_cannot_start_is_started_again_at_the_next_change(start: Start) -> None:
    supervisor = await start(version="(")
    await supervisor.line("importing app failed at app.py:4: SyntaxError")
    await supervisor.line("the server ended with exit code 2; waiting for a change")
    supervisor.write(2)
    await supervisor.serving(2)
    supervisor.write("1/0")
    await supervisor.line("importing app failed at app.py:4: ZeroDivisionError")
    supervisor.write(3)
    await supervisor.serving(3)
    supervisor.process.terminate()
    assert await supervisor.end() == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_ends_both_gracefully(start: Start, number: signal.Signals) -> None:
    supervisor = await start()
    await supervisor.serving(1)
    supervisor.process.send_signal(number)
    await supervisor.line(r"\[Verani\] stopped")
    assert await supervisor.end() == 0


async def test_a_signal_ends_a_supervisor_that_waits_for_a_change(start: Start) -> None:
    supervisor = await start(version="(")
    await supervisor.line("waiting for a change")
    supervisor.process.send_signal(signal.SIGINT)
    assert await supervisor.end() == 0


async def test_a_supervisor_that_is_killed_leaves_no_server_behind(start: Start) -> None:
    supervisor = await start()
    await supervisor.serving(1)
    supervisor.process.kill()
    await supervisor.line(r"\[Verani\] stopped")
    # The pipe has ended, so nobody holds it any more. (Asking for the pid may find a zombie.)
    assert await supervisor.end() == -signal.SIGKILL


async def test_a_wrong_option_is_told_once_and_not_retried(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "verani_gateway", "serve", "app:chat", "--reload", "--port", "x"),
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        stderr=PIPE,
    )
    _, output = await process.communicate()
    assert (process.returncode, output.decode().count("--port: expected an integer")) == (2, 1)


async def test_without_watchfiles_one_sentence_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "hide.py").write_text(
        "import sys\nsys.modules['watchfiles'] = None\n"
        "from verani_gateway.cli.main import main\nsys.exit(main(['serve', 'app:chat', '--reload']))\n",
        encoding="utf-8",
    )
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "hide.py"),
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        stderr=PIPE,
    )
    _, output = await process.communicate()
    assert process.returncode == 2
    assert output.decode() == "verani: error: --reload needs watchfiles: pip install watchfiles\n"


@pytest.mark.parametrize(
    ("path", "watched"),
    [
        ("/code/app.py", True),
        ("/code/pages/chat.html", True),
        ("/code/verani.toml", True),
        ("/code/data.json", False),
        ("/code/app.pyc", False),
        ("/code/__pycache__/app.py", False),
        ("/code/.git/hook.py", False),
        ("/code/.venv/lib/x.py", False),
        ("/code/venv/lib/x.py", False),
        ("/code/env/lib/site-packages/x.py", False),
    ],
)
def test_only_sources_are_watched(path: str, watched: bool) -> None:
    assert _Sources()(Change.modified, path) is watched

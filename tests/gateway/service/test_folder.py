"""The folder above the runtime folders is everybody's: what others put there neither blocks nor is followed."""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from verani.settings import Settings
from verani_actors.upkeep.runtime import Runtime
from verani_gateway.config import Secrets
from verani_gateway.service import supervisor
from verani_gateway.service.folder import runtime_folder, sweep
from verani_gateway.service.keeper import Keeper

FOREIGN = 12345


@pytest.fixture(autouse=True)
def _alarm() -> Iterator[None]:
    """End a test that blocks where no other thread could end it."""

    def fail(number: int, frame: object) -> None:
        raise AssertionError("it blocks")

    before = signal.signal(signal.SIGALRM, fail)
    signal.alarm(10)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def _nothing(lock: Path) -> None:
    """Leave the folder without a lock."""


def _link(lock: Path) -> None:
    victim = lock.parent.parent / "victim"
    victim.write_text("precious")
    lock.symlink_to(victim)


KINDS: dict[str, Callable[[Path], None]] = {
    "file": Path.touch,
    "FIFO": os.mkfifo,
    "directory": Path.mkdir,
    "link": _link,
    "nothing": _nothing,
}


@pytest.mark.threat(72)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ours", [True, False], ids=["ours", "foreign"])
def test_nothing_but_an_own_folder_with_a_free_lock_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, ours: bool
) -> None:
    folder = tmp_path / "verani-x"
    folder.mkdir()
    KINDS[kind](folder / "lock")
    opened: list[object] = []
    open_file = os.open

    def note(path: Any, *arguments: Any, **options: Any) -> int:
        opened.append(path)
        return open_file(path, *arguments, **options)

    with monkeypatch.context() as patched:
        if not ours:
            # What it takes to be another user than the owner, whoever runs this.
            patched.setattr(os, "getuid", lambda: FOREIGN)
        patched.setattr(os, "open", note)
        sweep(tmp_path)
    assert folder.exists() != (ours and kind == "file")
    if not ours:
        assert opened == []
    if kind == "link":
        assert (tmp_path / "victim").read_text() == "precious"


@pytest.mark.threat(72)
@pytest.mark.parametrize("make", [_link, os.mkfifo, Path.touch])
def test_what_has_the_name_of_a_folder_and_is_none_is_left_alone(tmp_path: Path, make: Callable[[Path], None]) -> None:
    # A link to an own folder, which somebody else may have placed.
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "lock").touch()
    (tmp_path / "verani-link").symlink_to(tmp_path / "real")
    (tmp_path / "deep").mkdir()
    make(tmp_path / "verani-x")
    sweep(tmp_path)
    assert (tmp_path / "real" / "lock").exists()
    assert os.path.lexists(tmp_path / "verani-x")


@pytest.mark.threat(72)
def test_a_lease_on_a_lock_is_not_waited_for(tmp_path: Path) -> None:
    folder = tmp_path / "verani-x"
    folder.mkdir()
    (folder / "lock").touch()
    with leased(folder / "lock"):
        sweep(tmp_path)
        assert folder.exists()
    sweep(tmp_path)
    assert not folder.exists()


@contextmanager
def leased(path: Path) -> Iterator[None]:
    """Hold a lease in another process that does not give it back when it is asked to."""
    script = (
        "import fcntl, os, signal, sys\n"
        "signal.signal(signal.SIGIO, signal.SIG_IGN)\n"
        "file = os.open(sys.argv[1], os.O_RDWR)\n"
        "fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)\n"
        "print('held', flush=True)\n"
        "sys.stdin.read()\n"
    )
    holder = subprocess.Popen([sys.executable, "-c", script, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    yield
    holder.communicate()


def test_the_folder_of_a_service_that_runs_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path)[:40] if len(str(tmp_path)) < 40 else "")
    with runtime_folder() as runtime:
        with (runtime.folder / "lock").open() as lock, pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        sweep(runtime.folder.parent)
        assert runtime.folder.exists()
    assert not runtime.folder.exists()


@pytest.mark.threat(72)
def test_the_runtime_folder_of_another_user_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = Path(tempfile.mkdtemp(prefix="vr"))  # short enough
    try:
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(own))
        with runtime_folder() as runtime:
            assert runtime.folder.parent == own
        # As `sudo` may keep it: root could write there, and its owner rename what it wrote.
        with monkeypatch.context() as patched:
            patched.setattr(os, "getuid", lambda: FOREIGN)
            runtime = Runtime.create()
        assert runtime.folder.parent != own
        runtime.folder.rmdir()
    finally:
        own.rmdir()


async def test_what_tidies_up_temporary_files_finds_all_of_a_service_in_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a service would end after ten days, or how long a machine keeps files that nobody uses."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", "")
    monkeypatch.setattr(supervisor, "_FRESHEN", 0.0)
    with runtime_folder() as runtime, socket.socket(socket.AF_UNIX) as link:
        link.bind(runtime.socket("host"))
        (runtime.folder / "plan").touch()
        files = [runtime.folder, *runtime.folder.iterdir()]
        assert len(files) == 4
        for file in files:
            os.utime(file, (0, 0))
        service = supervisor._Supervisor(["app:chat"], Settings(lease=1.0), Secrets(), "", until_eof=False)
        launcher = Keeper("the launcher", [], {}, heard=lambda line: None)
        watching = asyncio.create_task(service._watch(runtime, launcher))
        while any(file.stat().st_mtime == 0 or file.stat().st_atime == 0 for file in files):  # noqa: ASYNC110  # nobody tells of it
            await asyncio.sleep(0)
        (runtime.folder / "plan").unlink()
        assert await watching == 1

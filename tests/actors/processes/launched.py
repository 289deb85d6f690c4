"""Start a real launcher, with the stand-in of `stand_in_launcher.py` in its hosts, and look at its processes."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from verani.link.epoch import Epoch
from verani.settings import Settings
from verani_actors.upkeep.runtime import Plan, Runtime

SECRET = "a secret of the tests, as long as one should be"
STAND_IN = Path(__file__).parent / "stand_in_launcher.py"

T = TypeVar("T")


def until(probe: Callable[[], T | None], seconds: float = 30.0) -> T:
    """Return the first true result of a probe; fail after so many seconds."""
    deadline = time.monotonic() + seconds
    while not (result := probe()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)
    return result


class Launched:
    """A launcher that runs, or has ended."""

    def __init__(
        self,
        *,
        hosts: int = 1,
        machine: str = "m1",
        address: str = "127.0.0.1",
        admin_port: int = 0,
        leader: str = "",
        secret: str | None = SECRET,
        environment: dict[str, str] | None = None,
        runtime: Runtime | None = None,
        drain_seconds: float = 5,
        lease: float = 3.0,
    ) -> None:
        self.runtime = runtime or Runtime.create()
        self.folder = self.runtime.folder
        settings = Settings(hosts=hosts, admin_port=admin_port, drain_seconds=drain_seconds, lease=lease)
        self.runtime.write_plan(Plan(settings, (), str(self.folder), machine, address, leader))
        self.errors = self.folder / "stderr"
        variables = {**os.environ, **(environment or {})}
        if secret is not None:
            variables["VERANI_CLUSTER_SECRET"] = secret
        with self.errors.open("ab") as errors:
            self.process = subprocess.Popen(
                [sys.executable, str(STAND_IN), str(self.folder)],
                stdin=subprocess.PIPE,
                stderr=errors,
                env=variables,
            )
        self.mark = str(self.folder).encode()

    @property
    def log(self) -> str:
        """What it has written to standard error."""
        return self.errors.read_text()

    def pids(self) -> list[int]:
        """Every process of this launcher: they share its command line, and are no zombies."""
        return sorted(pid for pid in _all_pids() if self.mark in _read(pid, "cmdline"))

    def children(self, parent: int) -> list[int]:
        return [pid for pid in self.pids() if f"PPid:\t{parent}\n".encode() in _read(pid, "status")]

    def epoch(self, hosts: int, after: int = 0) -> Epoch:
        """Wait for an epoch with so many hosts and a number beyond `after`."""

        def probe() -> Epoch | None:
            assert self.process.poll() is None, self.log
            epoch = self.runtime.read_epoch()
            return epoch if len(epoch.members) == hosts and epoch.number > after else None

        return until(probe)

    def parts(self) -> dict[str, int]:
        """The pid of each part of a leader with one host that is ready; forked in this order."""
        host = self.epoch(1).members[0].pid
        (admin,) = self.children(self.process.pid)
        thespian_logger, registrar, *_ = (pid for pid in self.children(admin) if pid != host)
        return {
            "launcher": self.process.pid,
            "admin": admin,
            "logger": thespian_logger,
            "registrar": registrar,
            "host": host,
        }

    def listening(self) -> list[tuple[int, str, int]]:
        """Every TCP socket that a process of this launcher listens on: pid, address and port."""
        rows = subprocess.run(["ss", "-Hltnp"], capture_output=True, text=True, check=True).stdout.splitlines()
        found = []
        for row in rows:
            address, _, port = row.split()[3].rpartition(":")
            found += [(pid, address, int(port)) for pid in self.pids() if f"pid={pid}," in row]
        return found

    def end(self) -> None:
        """End whatever is left."""
        if self.process.stdin is not None:
            with suppress(OSError):
                self.process.stdin.close()
        for pid in self.pids():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


def _all_pids() -> Iterator[int]:
    return (int(entry.name) for entry in Path("/proc").glob("[0-9]*"))


def _read(pid: int, name: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:
        return b""

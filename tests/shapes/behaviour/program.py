"""Play scenarios in a runtime of JavaScript: one process for many tests, that plays one after the other."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

from tests.node_packages import node

__all__ = ["Program"]

_SOURCE: Final = Path(__file__).parent / "node.mjs"

# Seconds for it to end by itself, which it does unless something is left that keeps it.
_PATIENCE: Final = 60.0


class Program:
    """A process that runs `node.mjs` in `node`, `bun` or `deno`; `names` are the scenarios that it can play.

    It outlives the event loops of tests, so it is read in threads.
    """

    def __init__(self, runtime: str) -> None:
        self._process = subprocess.Popen(
            [*_command(runtime), str(_SOURCE)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.names: list[list[str]] = self._hear()

    @property
    def runs(self) -> bool:
        """Whether it can play on."""
        return self._process.poll() is None

    async def play(self, setting: dict[str, Any], obey: Callable[[str], Awaitable[object]]) -> str | None:
        """Play a scenario, and do what it orders meanwhile; return what went wrong."""
        try:
            self._say(setting)
            while "order" in (told := await asyncio.to_thread(self._hear)):
                self._say(await obey(told["order"]))
        except BaseException:  # it is in the midst of something, and a thread may be reading
            self._process.kill()
            self._process.wait()
            raise
        failure: str | None = told["failure"]
        return failure

    def end(self) -> int:
        """Let it end; return its exit code."""
        with self._process:
            try:
                self._process.communicate(timeout=_PATIENCE)
            except BaseException:
                self._process.kill()
                raise
        return self._process.returncode

    def _say(self, what: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{json.dumps(what)}\n")
        self._process.stdin.flush()

    def _hear(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the program has ended"
        return json.loads(line)


def _command(runtime: str) -> list[str]:
    if runtime == "node":
        version = subprocess.run([node(), "--version"], capture_output=True, check=True, text=True).stdout
        is_old = int(re.findall(r"\d+", version)[0]) < 22
        return [node(), *(["--experimental-websocket"] if is_old else [])]
    return [runtime, "run", *(["--allow-all"] if runtime == "deno" else [])]

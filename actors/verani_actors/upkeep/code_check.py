"""Find out whether the code that a process would be started with now can be imported, in a process of its own.

What it prints is thrown away, but for the one sentence that says why it cannot; nothing of it is imported here.
"""

from __future__ import annotations

import signal
import subprocess
import threading
from typing import Final

import msgspec
from msgspec import Struct

from .runtime import Plan, Runtime

__all__ = ["CodeCheck"]

# Seconds that an import may take.
_PATIENCE: Final = 30.0
# How the command begins the sentence that says what is wrong.
_ERROR: Final = "verani: error: "


class _Served(Struct, frozen=True):
    """What is of interest here in what the command prints of a room definition."""

    address: str


_decode: Final = msgspec.json.Decoder(list[_Served]).decode


class CodeCheck:
    """Checks, one after the other; `begin` and `verdict` may be called in any thread."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._thread: threading.Thread | None = None
        self._definitions: tuple[str, ...] = ()
        # None until there is one; empty if the code can be imported, else a sentence.
        self.verdict: str | None = None

    def begin(self) -> None:
        """Check what is there now, unless that is being done."""
        if self._thread is not None and self._thread.is_alive():
            return
        self.verdict = None
        # A thread that lives as long as the process that it starts, which is killed with it.
        self._thread = threading.Thread(target=self._run, name="verani-check", daemon=True)
        self._thread.start()

    def take_over(self, runtime: Runtime) -> None:
        """Have processes that are started from now on serve the definitions that the last check has found."""
        if self.verdict == "" and self._definitions != self._plan.definitions:
            self._plan = msgspec.structs.replace(runtime.read_plan(), definitions=self._definitions)
            runtime.write_plan(self._plan)

    def _run(self) -> None:
        try:
            self.verdict = self._check()
        except (OSError, msgspec.MsgspecError) as error:
            self.verdict = f"the code could not be checked: {error}"

    def _check(self) -> str:
        try:
            done = subprocess.run(
                self._plan.check,
                cwd=self._plan.directory,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_PATIENCE,
                process_group=0,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return f"importing the code did not end within {_PATIENCE:g} s"
        if done.returncode == 0:
            self._definitions = tuple(each.address for each in _decode(done.stdout))
            return ""
        said = [line for line in done.stderr.decode(errors="replace").splitlines() if line.startswith(_ERROR)]
        return said[-1].removeprefix(_ERROR) if said else f"importing the code ended with {_ending(done.returncode)}"


def _ending(code: int) -> str:
    return f"exit code {code}" if code >= 0 else signal.Signals(-code).name

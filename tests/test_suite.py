"""The suite does not depend on who started it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
INTERRUPTED = "tests/gateway/cli/test_main.py::test_rooms_goes_on_watching_until_it_is_interrupted"


def _like_a_script_in_the_background() -> None:
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGTERM, signal.SIGCHLD):
        signal.signal(number, signal.SIG_IGN)
    os.close(0)
    os.setsid()


def test_tests_that_send_signals_pass_in_the_background_and_without_standard_input() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", INTERRUPTED]
    done = subprocess.run(
        command, cwd=ROOT, preexec_fn=_like_a_script_in_the_background, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr

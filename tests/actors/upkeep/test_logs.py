"""All that a process says goes through its log, and none of it keeps a program from reading it."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

ROOT = Path(__file__).parents[3]
SOURCES = os.pathsep.join(map(str, (ROOT, ROOT / "actors")))


def _run(code: str, log_format: str) -> tuple[int, str]:
    """Run this code in a process that logs in a format; return its exit code and what it wrote to standard error."""
    begin = (
        f"import logging\nfrom verani_actors.upkeep.logs import log_to_stderr\nlog_to_stderr('info', {log_format!r})\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", begin + code],
        env={**os.environ, "PYTHONPATH": SOURCES, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        check=False,
        timeout=60,
    )
    return done.returncode, done.stderr.decode()


def _lines(code: str) -> list[dict[str, str]]:
    return [msgspec.json.decode(line, type=dict[str, str]) for line in _run(code, "json")[1].splitlines()]


def test_an_uncaught_error_is_one_line_and_the_exit_code_is_pythons() -> None:
    code, said = _run("raise RuntimeError('a\\nb')", "json")
    [line] = [msgspec.json.decode(line, type=dict[str, str]) for line in said.splitlines()]
    assert (code, line["level"], line["message"]) == (1, "CRITICAL", "uncaught RuntimeError")
    assert line["exception"].endswith("RuntimeError: a\nb")


def test_an_uncaught_error_has_its_traceback_in_a_text_log_too() -> None:
    _, said = _run("raise RuntimeError('no database')", "text")
    head, *trace = said.splitlines()
    assert head.endswith("CRITICAL [Verani] uncaught RuntimeError")
    assert trace[-1] == "    RuntimeError: no database"


THREAD = """
import threading
thread = threading.Thread(target=lambda: 1 / 0, name="worker\\n")
thread.start()
thread.join()
"""

UNRAISABLE = """
class Late:
    def __del__(self):
        raise ValueError("too late")
Late()
"""


def test_an_error_of_a_thread_is_a_line() -> None:
    [line] = _lines(THREAD)
    assert line["message"] == "uncaught ZeroDivisionError in thread worker\n"
    assert line["exception"].endswith("ZeroDivisionError: division by zero")


def test_an_error_that_nobody_can_catch_is_a_line() -> None:
    [line] = _lines(UNRAISABLE)
    assert "Late.__del__" in line["message"]
    assert line["exception"].endswith("ValueError: too late")


def test_warnings_are_lines() -> None:
    [line] = _lines("import warnings\nwarnings.warn('it is\\nold', DeprecationWarning, stacklevel=1)")
    assert (line["level"], line["logger"]) == ("WARNING", "py.warnings")
    assert line["message"] == "<string>:5: DeprecationWarning: it is\nold"


def test_ctrl_c_is_no_error_of_the_program() -> None:
    code, said = _run("raise KeyboardInterrupt", "text")
    assert (code, "CRITICAL" in said) == (-2, False)


def test_a_record_that_cannot_be_written_is_told_of_in_a_line() -> None:
    class_of = "class Mute:\n    def __str__(self): raise RuntimeError('mute')\n"
    lines = _lines(
        f"logging.info('%d', 'x')\n{class_of}logging.warning('a', extra={{'room': Mute()}})\nlogging.info('b')"
    )
    assert [line["message"].partition(" cannot be written: ")[2] for line in lines] == [
        "TypeError: %d format: a real number is required, not str",
        "RuntimeError: mute",
        "",
    ]
    assert lines[-1]["message"] == "b"


def test_repeats_are_said_at_the_end_of_the_process() -> None:
    code, said = _run("for _ in range(100):\n    logging.getLogger('verani').error('it is full')", "text")
    lines = said.splitlines()
    assert (code, len(lines)) == (0, 6)
    assert lines[-1].endswith("ERROR [Verani] it is full \\u2026 repeated 95 times")


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_nobody_who_reads_is_no_reason_to_fail(log_format: str) -> None:
    code = "import os\nr, w = os.pipe()\nos.dup2(w, 2)\nos.close(r)\nos.close(w)\n"
    code += "logging.error('a')\nlogging.error('%d', 'x')"
    assert _run(code, log_format) == (0, "")


def test_other_handlers_see_a_record_as_it_was(caplog: pytest.LogCaptureFixture) -> None:
    from verani_actors.upkeep.logs import stderr_handler

    handler = stderr_handler("text")
    record = logging.LogRecord("verani", logging.ERROR, __file__, 1, "failed %s", ("a",), None)
    for _ in range(10):
        handler.handle(record)
    handler.close()
    assert (record.msg, record.args) == ("failed %s", ("a",))

"""Send the log of a process to standard error: all of it, also what nobody has caught, and repeats only so often.

What a line looks like is said in `log_lines`, what a repeat is in `repeats`.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable
from io import FileIO, TextIOWrapper
from types import TracebackType
from typing import Final, TextIO

from verani.settings import LogFormat

from .log_lines import JsonFormatter, LineFormatter, formatter_for
from .repeats import Repeats

__all__ = ["LogHandler", "is_no_banner", "log_to_stderr", "name_process", "stderr_handler", "writes_json"]

_uncaught: Final = logging.getLogger("verani.uncaught")
_warned: Final = logging.getLogger("py.warnings")

_BANNERS: Final = ("++++ Actor System", "---- Actor System", "ActorSystem Logging Shutdown")


class LogHandler(logging.StreamHandler[TextIO]):
    """Write records to standard error, and count those that only repeat others."""

    def __init__(self, formatter: LineFormatter, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self.setFormatter(formatter)
        self._repeats = Repeats(clock)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            admitted = self._repeats.admit(record)
        except Exception:  # what a record is about may be any object; logging never raises  # noqa: BLE001
            self.handleError(record)
        else:
            for each in admitted:
                super().emit(each)

    def close(self) -> None:
        """Say what was counted, at the end of the process."""
        for each in self._repeats.end():
            super().emit(each)
        super().close()

    def handleError(self, record: logging.LogRecord) -> None:
        """Say in a line of its own which record could not be written; the default writes what no program can read."""
        error = sys.exc_info()[1]
        if isinstance(error, OSError) or self.stream.closed:  # nobody reads, or there is no room: nor is for this
            return
        why = "".join(traceback.format_exception_only(error)).strip()
        text = f"a record of {record.pathname}:{record.lineno} cannot be written: {why}"
        super().emit(logging.LogRecord(record.name, logging.ERROR, record.pathname, record.lineno, text, None, None))


def stderr_handler(log_format: LogFormat) -> LogHandler:
    """Make the handler of a process."""
    return LogHandler(formatter_for(log_format))


def _unbuffer_stderr() -> None:
    """Let what standard error does not take be gone.

    In a buffer it would fail the next flush, too: that before a fork, and that at the end (exit code 120).
    """
    if sys.stderr is sys.__stderr__ and sys.stderr is not None:
        raw = FileIO(sys.stderr.fileno(), "w", closefd=False)
        sys.stderr = TextIOWrapper(raw, sys.stderr.encoding, sys.stderr.errors, write_through=True)  # as `python -u`


def _formatters() -> list[logging.Formatter | None]:
    return [handler.formatter for handler in logging.root.handlers]


def name_process(name: str) -> None:
    """Have every line of this process end with its name, as operators know it, such as ``host:m1-0``."""
    for formatter in _formatters():
        if isinstance(formatter, LineFormatter):
            formatter.process = name


def writes_json() -> bool:
    """Tell whether programs read what this process writes to standard error."""
    return any(isinstance(formatter, JsonFormatter) for formatter in _formatters())


def log_to_stderr(level: str, log_format: LogFormat) -> None:
    """Log what is at least as severe as `level`, uncaught errors and warnings included; replaces what was set up."""
    _unbuffer_stderr()
    logging.basicConfig(level=level.upper(), handlers=[stderr_handler(log_format)], force=True)
    logging.getLogger().addFilter(is_no_banner)
    sys.excepthook = _log_uncaught
    threading.excepthook = _log_of_thread
    sys.unraisablehook = _log_unraisable
    warnings.showwarning = _log_warning


def is_no_banner(record: logging.LogRecord) -> bool:
    """Drop what Thespian says to the root logger when its Admin starts and ends: our own lines say it, too."""
    return not str(record.msg).startswith(_BANNERS)  # not with its arguments, which may not fit


# --- what nobody has caught --------------------------------------------------------------------------------


def _log_uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
    else:
        _uncaught.critical("uncaught %s", kind.__name__, exc_info=(kind, error, trace))


def _log_of_thread(args: threading.ExceptHookArgs) -> None:
    if args.exc_value is not None and not isinstance(args.exc_value, SystemExit):
        name = args.thread.name if args.thread is not None else "that is gone"
        _uncaught.error("uncaught %s in thread %s", args.exc_type.__name__, name, exc_info=args.exc_value)


def _log_unraisable(unraisable: sys.UnraisableHookArgs) -> None:
    what = unraisable.err_msg or "exception ignored in"
    place = getattr(unraisable.object, "__qualname__", type(unraisable.object).__qualname__)
    _uncaught.error("%s: %s", what, place, exc_info=unraisable.exc_value)


def _log_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    if file is not None:
        file.write(warnings.formatwarning(message, category, filename, lineno, line))
    else:
        _warned.warning("%s:%d: %s: %s", filename, lineno, category.__name__, message)

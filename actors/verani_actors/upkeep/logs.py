"""Say what a log line looks like, and send the log of a process to standard error.

What is logged, and at which level, is decided where it happens.
"""

from __future__ import annotations

import json
import logging
import sys
from io import FileIO, TextIOWrapper
from types import MappingProxyType
from typing import Final

__all__ = ["Formatter", "is_no_banner", "log_to_stderr", "name_process", "printable"]


class Formatter(logging.Formatter):
    """Write one line a record, `[Verani]` before what this project says, and nothing that could forge a line.

    Control characters, line breaks and invisible characters are escaped; the lines of a traceback are
    indented, so that only a record starts at the margin. Where several processes write to one place, each names itself.
    """

    process = ""

    def format(self, record: logging.LogRecord) -> str:
        ours = record.name.partition(".")[0] in _OURS
        where = "".join(
            f" {key}={_delimited(str(value))}"
            for key in ("room", "connection", "hook")
            if (value := getattr(record, key, None)) is not None
        )
        if self.process:
            where += f" process={self.process}"
        source = "[Verani]" if ours else f"{record.name}:"
        lines = [f"{self.formatTime(record)} {record.levelname} {source} {printable(record.getMessage() + where)}"]
        if record.exc_info and record.exc_info[0] is not None:
            lines += _indented(self.formatException(record.exc_info))
        if record.stack_info:
            lines += _indented(self.formatStack(record.stack_info))
        return "\n".join(lines)


_OURS: Final = frozenset({"verani", "verani_actors", "verani_gateway"})
_NAMED_ESCAPES: Final = MappingProxyType({"\n": "\\n", "\r": "\\r", "\t": "\\t"})


def _delimited(value: str) -> str:
    """Quote what could be taken for a field of its own: names of rooms may hold spaces."""
    return json.dumps(value, ensure_ascii=False) if "=" in value and " " in value else value


_BANNERS: Final = ("++++ Actor System", "---- Actor System", "ActorSystem Logging Shutdown")


def printable(text: str) -> str:
    """Escape what could end a line or hide in it."""
    return text if text.isprintable() else "".join(map(_escaped, text))


def _escaped(letter: str) -> str:
    # Not by the unicode_escape codec: it is imported at its first use, which may be when no file can be opened.
    if letter.isprintable():
        return letter
    match ord(letter):
        case code if letter in _NAMED_ESCAPES:
            return _NAMED_ESCAPES[letter]
        case code if code < 0x100:
            return f"\\x{code:02x}"
        case code if code < 0x10000:
            return f"\\u{code:04x}"
        case code:
            return f"\\U{code:08x}"


def _indented(text: str) -> list[str]:
    return ["    " + printable(line) for line in text.split("\n")]


def _unbuffer_stderr() -> None:
    """Let what standard error does not take be gone.

    In a buffer it would fail the next flush, too: that before a fork, and that at the end (exit code 120).
    """
    if sys.stderr is sys.__stderr__ and sys.stderr is not None:
        raw = FileIO(sys.stderr.fileno(), "w", closefd=False)
        sys.stderr = TextIOWrapper(raw, sys.stderr.encoding, sys.stderr.errors, write_through=True)  # as `python -u`


def name_process(name: str) -> None:
    """Have every line of this process end with its name, as operators know it, such as ``host:m1-0``."""
    for handler in logging.root.handlers:
        if isinstance(handler.formatter, Formatter):
            handler.formatter.process = name


def log_to_stderr(level: str) -> None:
    """Log what is at least as severe as `level`; replaces whatever was set up before."""
    _unbuffer_stderr()
    handler = logging.StreamHandler()
    handler.setFormatter(Formatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.getLogger().addFilter(is_no_banner)


def is_no_banner(record: logging.LogRecord) -> bool:
    """Drop what Thespian says to the root logger when its Admin starts and ends: our own lines say it, too."""
    return not record.getMessage().startswith(_BANNERS)

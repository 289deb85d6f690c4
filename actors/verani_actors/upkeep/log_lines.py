"""Say what a line of the log looks like: text for people, or one JSON object for programs.

What is logged, and at which level, is decided where it happens.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Final

from verani.settings import LogFormat

__all__ = ["OURS", "JsonFormatter", "LineFormatter", "TextFormatter", "about", "formatter_for", "printable"]

# The packages of this project, by whose loggers its lines are known.
OURS: Final = frozenset({"verani", "verani_actors", "verani_gateway"})

# What a record may say with `extra=` of whom it is about.
_ABOUT: Final = ("room", "connection", "user", "hook", "gateway")
# What the message says as well; a program need not read it.
_PARTS: Final = ("definition", "url")


class LineFormatter(logging.Formatter):
    """Write one record; where several processes write to one place, `process` is the name of this one."""

    process = ""

    def fields(self, record: logging.LogRecord) -> dict[str, str]:
        """Say whom a record is about, and whose it is."""
        return about(record) | ({"process": self.process} if self.process else {})


class TextFormatter(LineFormatter):
    """Write one line a record, `[Verani]` before what this project says, and nothing that could forge a line.

    Control characters, line breaks and invisible characters are escaped; the lines of a traceback are
    indented, so that only a record starts at the margin.
    """

    def format(self, record: logging.LogRecord) -> str:
        source = "[Verani]" if record.name.partition(".")[0] in OURS else f"{record.name}:"
        where = "".join(f" {key}={_delimited(value)}" for key, value in self.fields(record).items())
        lines = [f"{self.formatTime(record)} {record.levelname} {source} {printable(record.getMessage() + where)}"]
        if record.exc_info and record.exc_info[0] is not None:
            lines += _indented(self.formatException(record.exc_info))
        if record.stack_info:
            lines += _indented(self.formatStack(record.stack_info))
        return "\n".join(lines)


class JsonFormatter(LineFormatter):
    """Write one JSON object a record and line, of ASCII characters only, whatever names and payloads hold.

    `time` is in UTC; `exception` and `stack` are texts of several lines. What is not known of a record is left out.
    """

    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")[:-6] + "Z",
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **self.fields(record),
            **_named(record, _PARTS),
        }
        if record.exc_info and record.exc_info[0] is not None:
            entry["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            entry["stack"] = self.formatStack(record.stack_info)
        return json.dumps({key: _encodable(value) for key, value in entry.items()})


_FORMATTERS: Final[Mapping[LogFormat, type[LineFormatter]]] = MappingProxyType(
    {"text": TextFormatter, "json": JsonFormatter}
)


def formatter_for(log_format: LogFormat) -> LineFormatter:
    """Make what writes lines in this format."""
    return _FORMATTERS[log_format]()


def about(record: logging.LogRecord) -> dict[str, str]:
    """Say whom a record is about: a room, connection, user, hook or gateway, as far as it names them."""
    return _named(record, _ABOUT)


def _named(record: logging.LogRecord, names: tuple[str, ...]) -> dict[str, str]:
    return {name: str(value) for name in names if (value := getattr(record, name, None)) not in (None, "")}


def _encodable(text: str) -> str:
    """Spell out lone surrogates: JSON could hold them, but strict readers refuse the whole line."""
    return text.encode("utf-8", "backslashreplace").decode()


_NAMED_ESCAPES: Final = MappingProxyType({"\n": "\\n", "\r": "\\r", "\t": "\\t"})


def _delimited(value: str) -> str:
    """Quote what could be taken for a field of its own: names of rooms may hold spaces."""
    return json.dumps(value, ensure_ascii=False) if "=" in value and " " in value else value


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

"""Say what a log line looks like, and send the log to standard error.

What is logged, and at which level, is decided where it happens.
"""

from __future__ import annotations

import logging
from types import MappingProxyType
from typing import Final

from aiohttp import web
from aiohttp.http_exceptions import BadHttpMessage

from verani.settings import Settings

__all__ = ["Formatter", "printable", "set_up_logging"]


class Formatter(logging.Formatter):
    """Write one line a record, `[Verani]` before what this project says, and nothing that could forge a line.

    Control characters, line breaks and invisible characters are escaped; the lines of a traceback are
    indented, so that only a record starts at the margin.
    """

    def format(self, record: logging.LogRecord) -> str:
        ours = record.name.partition(".")[0] in _OURS
        where = "".join(
            f" {key}={value}"
            for key in ("room", "connection", "hook")
            if (value := getattr(record, key, None)) is not None
        )
        source = "[Verani]" if ours else f"{record.name}:"
        lines = [f"{self.formatTime(record)} {record.levelname} {source} {printable(record.getMessage() + where)}"]
        if record.exc_info and record.exc_info[0] is not None:
            lines += _indented(self.formatException(record.exc_info))
        if record.stack_info:
            lines += _indented(self.formatStack(record.stack_info))
        return "\n".join(lines)


_OURS: Final = frozenset({"verani", "verani_actors", "verani_gateway"})
_NAMED_ESCAPES: Final = MappingProxyType({"\n": "\\n", "\r": "\\r", "\t": "\\t"})


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


def set_up_logging(settings: Settings) -> None:
    """Log at the configured level; replaces whatever was set up before."""
    handler = logging.StreamHandler()
    handler.setFormatter(Formatter())
    logging.basicConfig(level=settings.log_level.upper(), handlers=[handler], force=True)
    logging.getLogger("aiohttp.server").addFilter(_is_no_noise)
    # It warns of every subprotocol that a client offers.
    logging.getLogger("aiohttp.websocket").setLevel(logging.ERROR)


def _is_no_noise(record: logging.LogRecord) -> bool:
    """Drop what aiohttp writes of requests that are no HTTP, of which anybody can send many.

    Its traceback repeats what was sent, tokens included, so at DEBUG only the kind of error is told.
    """
    error = record.exc_info[1] if record.exc_info is not None else None
    if not isinstance(error, BadHttpMessage | web.RequestPayloadError):
        return True
    record.levelno, record.levelname, record.exc_info = logging.DEBUG, "DEBUG", None
    record.msg, record.args = "a request is no HTTP: %s", (type(error).__name__,)
    return logging.getLogger(record.name).isEnabledFor(logging.DEBUG)

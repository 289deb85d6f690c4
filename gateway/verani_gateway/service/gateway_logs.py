"""Send the log of a gateway process to standard error.

What a line looks like is said in `verani_actors.upkeep.log_lines`; what is logged, and at which level, is decided where
it happens.
"""

from __future__ import annotations

import logging

from verani.settings import Settings
from verani_actors.upkeep.logs import log_to_stderr

__all__ = ["set_up_logging"]


def set_up_logging(settings: Settings) -> None:
    """Log at the configured level; replaces whatever was set up before."""
    log_to_stderr(settings.log_level, settings.log_format)
    logging.getLogger("aiohttp.server").addFilter(_is_no_noise)


def _is_no_noise(record: logging.LogRecord) -> bool:
    """Drop what aiohttp writes of requests that are no HTTP, of which anybody can send many.

    Its traceback repeats what was sent, tokens included, so at DEBUG only the kind of error is told.
    """
    # Only here, because whoever supervises needs nothing else of aiohttp, which takes as long as all of its own.
    from aiohttp import web
    from aiohttp.http_exceptions import BadHttpMessage

    error = record.exc_info[1] if record.exc_info is not None else None
    if not isinstance(error, BadHttpMessage | web.RequestPayloadError):
        return True
    record.levelno, record.levelname, record.exc_info = logging.DEBUG, "DEBUG", None
    record.msg, record.args = "a request is no HTTP: %s", (type(error).__name__,)
    return logging.getLogger(record.name).isEnabledFor(logging.DEBUG)

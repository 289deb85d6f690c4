"""Ask functions of the application for what the next attempt needs."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from .failures import ConnectFailed

__all__ = ["ask"]

logger = logging.getLogger("verani.client")

T = TypeVar("T")


async def ask(source: Callable[[], Any | Awaitable[Any]], check: Callable[[Any], T], what: str) -> T:
    """Return what `check` makes of what the function gives now, at once or later; raise `ConnectFailed` if it fails."""
    try:
        given = source()
        return check(await given if inspect.isawaitable(given) else given)
    except Exception as exc:
        # The application's own code: whatever it raises, another attempt may work.
        logger.exception("the function that returns %ss failed", what)
        raise ConnectFailed(f"expected a {what}, its function failed") from exc

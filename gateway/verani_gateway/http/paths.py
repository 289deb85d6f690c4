"""Find the names of rooms in URLs; which names may pass is said in `verani.names`."""

from __future__ import annotations

from typing import Final
from urllib.parse import unquote_to_bytes

from aiohttp import web

__all__ = ["ROOM_IN_PATH", "is_misread"]

# By itself aiohttp lets no braces into a variable part.
ROOM_IN_PATH: Final = "{room:[^/]+}"

# What is made of percent-encoded bytes that are no UTF-8, in the path and in the query.
_MISREAD: Final = frozenset("%\ufffd")


def is_misread(room_id: str, request: web.Request) -> bool:
    """Tell whether a name may stand for bytes that are no UTF-8, and is another one than the client wrote."""
    if _MISREAD.isdisjoint(room_id):
        return False
    try:
        unquote_to_bytes(request.rel_url.raw_path_qs).decode()
    except UnicodeDecodeError:
        return True
    return False

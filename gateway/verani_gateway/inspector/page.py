"""Serve the files of the inspector's page: the same for everybody, and no secret, so no token is asked for.

What people chose reaches the page over its WebSocket only. The page may run nothing and load nothing but these files.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Final

from aiohttp import hdrs, web

__all__ = ["add_page"]

_FOLDER: Final = Path(__file__).parent / "page"

_TYPES: Final = MappingProxyType(
    {
        "index.html": "text/html; charset=utf-8",
        "inspector.css": "text/css; charset=utf-8",
        "inspector.js": "text/javascript; charset=utf-8",
        "icon.svg": "image/svg+xml",
        "uPlot.iife.min.js": "text/javascript; charset=utf-8",
        "uPlot.min.css": "text/css; charset=utf-8",
        "uPlot.LICENSE": "text/plain; charset=utf-8",
    }
)

_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:;"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def add_page(router: web.UrlDispatcher, path: str) -> None:
    """Mount the page at a path that ends in a slash."""

    async def index(_: web.Request) -> web.Response:
        return _response("index.html")

    async def redirect(_: web.Request) -> web.Response:
        # Relative, so that a proxy may have a prefix of its own.
        return web.Response(status=308, headers={hdrs.LOCATION: path.rstrip("/").rpartition("/")[2] + "/"})

    async def file(request: web.Request) -> web.Response:
        name = request.match_info["file"]
        if name not in _TYPES:
            raise web.HTTPNotFound
        return _response(name)

    router.add_get(path.rstrip("/"), redirect)
    router.add_get(path, index)
    router.add_get(path + "{file}", file)


def _response(name: str) -> web.Response:
    headers = {hdrs.CONTENT_TYPE: _TYPES[name], "Content-Security-Policy": _POLICY, "Referrer-Policy": "no-referrer"}
    return web.Response(body=_content(name), headers=headers)


@cache
def _content(name: str) -> bytes:
    return (_FOLDER / name).read_bytes()

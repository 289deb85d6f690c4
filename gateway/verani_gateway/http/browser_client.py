"""Serve the client for browsers and its types: `/verani.js` and `/verani.d.ts`, from the folder `browser`.

They are the same for everybody and no secret: no token is asked for, and pages of any origin may load them. Browsers
ask each time whether they have changed, so that a page has the client of the service that it talks to.
"""

from __future__ import annotations

import gzip
import hashlib
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from types import MappingProxyType
from typing import Final

from aiohttp import hdrs, web

__all__ = ["BROWSER_CLIENT", "add_browser_client"]

_FOLDER: Final = Path(__file__).parents[1] / "browser"

# Where the files are, and what they are.
BROWSER_CLIENT: Final = MappingProxyType(
    {
        "/verani.js": "text/javascript; charset=utf-8",
        "/verani.d.ts": "application/typescript; charset=utf-8",
    }
)

_HEADERS: Final = MappingProxyType(
    {
        "Access-Control-Allow-Origin": "*",
        "Cache-Control": "no-cache",
        "Cross-Origin-Resource-Policy": "cross-origin",
        "Vary": "Accept-Encoding",
        "X-Content-Type-Options": "nosniff",
    }
)


@dataclass(frozen=True, slots=True)
class _Variant:
    """The bytes of a file in one encoding, and the headers that go with them."""

    body: bytes
    etag: str
    headers: dict[str, str]


def add_browser_client(app: web.Application) -> None:
    """Add the routes of the files that the application has none of its own for."""
    taken = {resource.canonical for resource in app.router.resources()}
    for path in BROWSER_CLIENT:
        if path not in taken:
            app.router.add_get(path, partial(_send, path))


async def _send(path: str, request: web.Request) -> web.Response:
    accepted = {each.strip().lower() for each in request.headers.get(hdrs.ACCEPT_ENCODING, "").split(",")}
    variant = _variants(path)["gzip" in accepted]
    if any(tag.value in ("*", variant.etag) for tag in request.if_none_match or ()):
        return web.Response(status=304, headers=variant.headers)
    return web.Response(body=variant.body, headers=variant.headers)


@cache
def _variants(path: str) -> tuple[_Variant, _Variant]:
    """Read a file; return it plain and compressed."""
    content = (_FOLDER / path.removeprefix("/")).read_bytes()
    headers = {**_HEADERS, "Content-Type": BROWSER_CLIENT[path]}
    if path.endswith(".js"):
        headers["X-TypeScript-Types"] = "./verani.d.ts"  # which Deno reads
    etag = hashlib.sha256(content).hexdigest()[:32]
    packed = gzip.compress(content, mtime=0)
    return (
        _Variant(content, etag, {**headers, "ETag": f'"{etag}"'}),
        _Variant(packed, f"{etag}-gzip", {**headers, "ETag": f'"{etag}-gzip"', "Content-Encoding": "gzip"}),
    )

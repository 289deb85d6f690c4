"""The client for browsers, as every listener serves it."""

from __future__ import annotations

import gzip
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import aiohttp
import pytest
from aiohttp import web

from verani import Settings, define_room
from verani_gateway.application import adopt, setup
from verani_gateway.config import Secrets
from verani_gateway.http.browser_client import BROWSER_CLIENT
from verani_gateway.service.listeners import Listeners

BROWSER: Final = Path(__file__).parents[3] / "gateway/verani_gateway/browser"


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(auto_decompress=False) as session:
        yield session


@pytest.fixture
async def listeners() -> AsyncIterator[Listeners]:
    application = web.Application()
    settings = Settings(port=0, internal_port=0)
    setup(application, define_room("chat")).configure(settings)
    service = Listeners(application, settings, Secrets(rpc_token="a-secret", admin_token="a-secret"))
    await service.start()
    try:
        yield service
    finally:
        await service.stop()


@pytest.mark.parametrize("path", BROWSER_CLIENT)
async def test_every_listener_serves_it_to_everybody(
    listeners: Listeners, session: aiohttp.ClientSession, path: str
) -> None:
    content = (BROWSER / path.removeprefix("/")).read_bytes()
    for url in (listeners.public_urls[0], listeners.internal_urls[0]):
        async with session.get(f"{url}{path}", headers={"Accept-Encoding": "br, GZIP"}) as response:
            assert response.status == 200
            assert gzip.decompress(await response.read()) == content
            assert response.headers["Content-Encoding"] == "gzip"
            assert response.headers["Content-Type"] == BROWSER_CLIENT[path]
            assert response.headers["X-Content-Type-Options"] == "nosniff"
            assert response.headers["Access-Control-Allow-Origin"] == "*"
        async with session.get(f"{url}{path}", headers={"Accept-Encoding": "identity"}) as response:
            assert await response.read() == content
            assert "Content-Encoding" not in response.headers


async def test_who_has_it_already_gets_only_told_so(listeners: Listeners, session: aiohttp.ClientSession) -> None:
    url = f"{listeners.public_urls[0]}/verani.js"
    async with session.get(url, headers={"Accept-Encoding": "gzip"}) as response:
        assert response.headers["Cache-Control"] == "no-cache"
        tag = response.headers["ETag"]
    for known, status in ((tag, 304), (f'W/{tag}, "other"', 304), ("*", 304), ('"other"', 200)):
        async with session.get(url, headers={"Accept-Encoding": "gzip", "If-None-Match": known}) as response:
            assert response.status == status
            assert response.headers["ETag"] == tag
            assert bool(await response.read()) == (status == 200)
    async with session.get(url, headers={"Accept-Encoding": "identity", "If-None-Match": tag}) as response:
        assert response.status == 200


async def test_it_can_be_asked_for_and_not_be_changed(listeners: Listeners, session: aiohttp.ClientSession) -> None:
    url = f"{listeners.public_urls[0]}/verani.js"
    async with session.head(url) as response:
        assert response.status == 200
        assert int(response.headers["Content-Length"]) > 1000
    async with session.post(url) as response:
        assert response.status == 405


async def test_an_application_may_have_one_of_its_own(session: aiohttp.ClientSession) -> None:
    async def own(_: web.Request) -> web.Response:
        return web.Response(text="own")

    async def fetch(runner: web.AppRunner, path: str) -> bytes:
        async with session.get(f"http://127.0.0.1:{runner.addresses[0][1]}{path}") as response:
            assert response.status == 200, path
            return await response.read()

    inner, outer = web.Application(), web.Application()
    inner.router.add_get("/verani.js", own)
    setup(inner, define_room("chat"))
    outer.add_subapp("/live", inner)
    adopt(outer)
    runner = web.AppRunner(outer, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        assert await fetch(runner, "/live/verani.js") == b"own"
        assert b"VeraniClient" in gzip.decompress(await fetch(runner, "/live/verani.d.ts"))
        assert b"VeraniClient" in gzip.decompress(await fetch(runner, "/verani.js"))
    finally:
        await runner.cleanup()


def test_it_is_small() -> None:
    """With room for what is to come: 8 KiB is the limit for all of it."""
    assert len(gzip.compress((BROWSER / "verani.js").read_bytes())) <= 8192

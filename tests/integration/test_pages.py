"""What pages of one's own and of others can do, in a real browser: subprotocols, tokens, names that lead elsewhere."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest
from aiohttp import web
from playwright.async_api import Browser

from tests.integration.browsers import _function_scoped_runner  # noqa: F401
from tests.tokens import AUDIENCE, ISSUER, public_pem, token
from verani import Settings, define_room
from verani.auth import jwt_auth
from verani_gateway.application import setup
from verani_gateway.config import Secrets
from verani_gateway.service.listeners import Listeners

pytestmark = pytest.mark.browser

# What a page hears first that has the client from somewhere else.
IMPORT = """async ([client, url, token]) => {
    const { VeraniClient } = await import(client);
    const verani = new VeraniClient(url, { token });
    const heard = await new Promise(resolve => verani.on("you", ({ user }) => resolve(user)));
    verani.close();
    return heard;
}"""

# What comes of a WebSocket: the subprotocol and the first frame, or the code of its close.
OPEN = """([url, offered]) => new Promise(resolve => {
    const ws = new WebSocket(url, offered);
    ws.onmessage = event => resolve({ protocol: ws.protocol, user: JSON.parse(event.data).data.user });
    ws.onclose = event => resolve({ code: event.code });
})"""


@dataclass(frozen=True, slots=True)
class Site:
    """A service with a page, and the browser, for which every name below `test` leads to it."""

    port: int
    browser: Browser

    async def opens(self, page: str, host: str, offered: list[str]) -> Any:
        """Go to a page, and open a WebSocket from there."""
        context = await self.browser.new_context()
        try:
            window = await context.new_page()
            response = await window.goto(f"http://{page}:{self.port}/health")
            assert response is not None
            assert response.status == 200
            return await window.evaluate(OPEN, [f"ws://{host}:{self.port}/ws", offered])
        finally:
            await context.close()

    async def imports(self, page: str, host: str) -> Any:
        """Go to a page, and import the client for browsers from another name."""
        context = await self.browser.new_context()
        try:
            window = await context.new_page()
            await window.goto(f"http://{page}:{self.port}/")
            sources = f"http://{host}:{self.port}/verani.js", f"ws://{page}:{self.port}/ws"
            return await window.evaluate(IMPORT, [*sources, token()])
        finally:
            await context.close()

    async def status(self, host: str) -> int:
        """Go to a page of the service by one of its names."""
        context = await self.browser.new_context()
        try:
            response = await (await context.new_page()).goto(f"http://{host}:{self.port}/")
            assert response is not None
            return response.status
        finally:
            await context.close()


@pytest.fixture
async def site(browser: Browser) -> AsyncIterator[Site]:
    async def page(_: web.Request) -> web.Response:
        return web.Response(text="<!doctype html><title>page</title>", content_type="text/html")

    verifier = jwt_auth(algorithms=["RS256"], audience=AUDIENCE, issuer=ISSUER, key=public_pem())
    room = define_room("chat", extract_meta=verifier)
    room.on_connect(lambda ctx: ctx.emit("you", {"user": ctx.meta.user_id}))
    application = web.Application()
    application.router.add_get("/", page)
    settings = Settings(port=0, internal_port=0, drain_seconds=1.0, public_hosts=("app.test",))
    setup(application, room).configure(settings)
    service = Listeners(application, settings, Secrets())
    await service.start()
    try:
        yield Site(int(service.public_urls[0].rpartition(":")[2]), browser)
    finally:
        await service.stop()


async def test_a_page_brings_its_token_as_a_subprotocol_and_gets_another_one_back(site: Site) -> None:
    good = ["verani", f"bearer.{token()}"]
    assert await site.opens("localhost", "localhost", good) == {"protocol": "verani", "user": "ann"}
    assert await site.opens("app.test", "app.test", good) == {"protocol": "verani", "user": "ann"}
    assert await site.opens("localhost", "localhost", ["verani", f"bearer.{token(exp=1)}"]) == {"code": 1006}


async def test_a_page_whose_name_was_made_to_lead_here_gets_nothing(site: Site) -> None:
    good = ["verani", f"bearer.{token()}"]
    assert await site.status("evil.test") == 403
    assert await site.opens("evil.test", "evil.test", good) == {"code": 1006}
    assert await site.opens("evil.test", "localhost", good) == {"code": 1006}
    assert await site.status("app.test") == 200


async def test_a_page_imports_the_client_from_another_origin(site: Site) -> None:
    assert await site.imports("app.test", "localhost") == "ann"

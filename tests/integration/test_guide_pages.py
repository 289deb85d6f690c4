"""Pages for browsers that documents show, in a real browser and with the rooms that they are for."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp
import pytest
from playwright.async_api import ConsoleMessage, Page, async_playwright, expect

from tests.guide import DOCUMENTS, Guide
from tests.integration.test_chat_page import FLAGS, chromium

if TYPE_CHECKING:
    from tests.integration.conftest import Serve, Server

pytestmark = pytest.mark.browser

START = Guide("docs/quick-start.md")
SOCKET_IO = Guide("docs/coming-from/socket-io.md")

OPENED = {
    ("docs/quick-start.md", "index.html"),
    ("docs/coming-from/socket-io.md", "index.html"),
    ("docs/coming-from/socket-io.md", "durable.html"),
}

Open = Callable[..., Awaitable[Page]]


@pytest.fixture
async def window() -> AsyncIterator[Open]:
    """Return ``await window(server, path)``, which opens a page in a window of its own, and allows it no complaint."""
    complaints: list[str] = []

    def complain(said: ConsoleMessage) -> None:
        # The server stops before the browser does, and a page that comes back says that it cannot.
        if said.type == "error" and "WebSocket connection to" not in said.text:
            complaints.append(said.text)

    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium(), args=FLAGS)

        async def open_page(server: Server, path: str = "/") -> Page:
            page = await (await browser.new_context()).new_page()
            page.on("pageerror", lambda error: complaints.append(str(error)))
            page.on("console", complain)
            await page.goto(f"http://localhost:{server.port}{path}")
            return page

        yield open_page
        await browser.close()
    assert complaints == []


async def says(page: Page, text: str) -> None:
    await page.get_by_label("Message").fill(text)
    await page.get_by_role("button", name="Send").click()


async def reads(page: Page, *texts: str) -> None:
    await expect(page.locator("#messages li")).to_have_text(list(texts), timeout=30_000)


def test_every_page_that_a_document_shows_is_opened() -> None:
    shown = {(page, name) for page in DOCUMENTS for name in Guide(page).files() if name.endswith(".html")}
    assert shown == OPENED


async def test_the_page_of_the_quick_start_shows_who_is_here_and_what_they_say(
    serve: Serve, window: Open, tmp_path: Path
) -> None:
    START.save(tmp_path)
    server = await serve("service:app", directory=tmp_path)
    ann = await window(server, "/?name=ann")
    await expect(ann.locator("#people")).to_have_text("Here: ann")
    bob = await window(server, "/?name=b%26b")
    await expect(ann.locator("#people")).to_have_text("Here: ann, b&b")
    await says(bob, "<i>hi</i>")
    await reads(ann, "b&b: <i>hi</i>")
    assert await server.stop() == 0


async def test_the_chat_of_the_tutorial_reaches_everybody(serve: Serve, window: Open, tmp_path: Path) -> None:
    SOCKET_IO.save(tmp_path)
    server = await serve("chat:app", directory=tmp_path)
    ann, bob = await window(server), await window(server)
    await says(ann, "<b>hello</b>")
    await reads(ann, "<b>hello</b>")
    await says(bob, "hi")
    await reads(ann, "<b>hello</b>", "hi")
    # Who comes later has missed what was said, as the tutorial says.
    eve = await window(server)
    await says(eve, "late")
    await reads(ann, "<b>hello</b>", "hi", "late")
    await reads(eve, "late")
    assert await server.stop() == 0


@pytest.mark.parametrize("processes", [[], ["--hosts", "2", "--gateways", "2"]], ids=["embedded", "processes"])
async def test_who_was_offline_gets_what_was_said_once(
    serve: Serve, window: Open, tmp_path: Path, processes: list[str]
) -> None:
    SOCKET_IO.save(tmp_path)
    server = await serve("durable:app", *processes, directory=tmp_path)
    ann, bob = await window(server), await window(server)
    await expect(bob.locator("#toggle")).to_have_text("Disconnect")
    await says(ann, "one")
    await reads(bob, "one")
    await bob.locator("#toggle").click()
    await expect(bob.locator("#toggle")).to_have_text("Connect")
    await says(ann, "two")
    await says(ann, "three")
    await reads(ann, "one", "two", "three")
    await says(bob, "four")  # waits for a connection
    await bob.locator("#toggle").click()
    await reads(bob, "one", "two", "three", "four")
    await reads(await window(server), "one", "two", "three", "four")
    assert await server.stop() == 0


async def test_a_number_that_is_none_is_refused_before_the_socket_opens(serve: Serve, tmp_path: Path) -> None:
    SOCKET_IO.save(tmp_path)
    server = await serve("durable:app", directory=tmp_path)
    async with aiohttp.ClientSession(server.ws) as session:
        with pytest.raises(aiohttp.WSServerHandshakeError) as refusal:
            await session.ws_connect("/ws?after=x")
    assert refusal.value.status == 400
    assert await server.stop() == 0

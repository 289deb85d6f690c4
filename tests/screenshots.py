"""Take the pictures of our pages that the documents show: ``python -m tests.screenshots`` writes them to docs/images/.

The pages are those of a real service; names and texts are always the same, the time of day is not.
"""

from __future__ import annotations

import asyncio
import re
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final
from urllib.parse import urlencode

import aiohttp
from playwright.async_api import Browser, Page, ViewportSize, async_playwright, expect

from tests.inspected import PLAYERS
from tests.integration.browsers import FLAGS, chromium
from tests.integration.test_chat_page import Scheme

__all__ = ["CHAT", "IMAGES", "INSPECTOR", "MAX_BYTES"]

ROOT: Final = Path(__file__).parents[1]
IMAGES: Final = ROOT / "docs/images"

# A page that shows some of them is still loaded at once.
MAX_BYTES: Final = 200_000

DESKTOP: Final = ViewportSize(width=1000, height=640)
PHONE: Final = ViewportSize(width=390, height=760)

# The pictures of the chat, and how it is looked at for each.
CHAT: Final[dict[str, tuple[ViewportSize, Scheme]]] = {
    "chat": (DESKTOP, "light"),
    "chat-dark": (DESKTOP, "dark"),
    "chat-phone": (PHONE, "light"),
}

# Those of the inspector, and seconds for which it looks before they are taken.
WIDE: Final = ViewportSize(width=1280, height=800)
INSPECTOR: Final[dict[str, tuple[ViewportSize, Scheme]]] = {
    "inspector": (WIDE, "light"),
    "inspector-dark": (WIDE, "dark"),
    "inspector-phone": (PHONE, "light"),
}
INSPECTED_FOR: Final = 40.0

TALK: Final = (
    ("bob", "Good morning! Is the new release out?"),
    ("ann", "Since an hour ago. Rooms sleep now when nobody writes, and nobody notices."),
    ("Zoe", "I did not notice."),
    ("bob", "Exactly."),
    ("ann", "The next message wakes the room:\nthe sockets were open all the time."),
)


@asynccontextmanager
async def serving(target: str, *options: str) -> AsyncIterator[dict[str, str]]:
    """Serve an application; give the addresses of its listeners, by `public` and `internal`."""
    ports = ("--port", "0", "--internal-port", "0")
    command = [sys.executable, "-m", "verani_gateway", "serve", target, *ports, *options]
    process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stderr=PIPE)
    assert process.stderr is not None
    urls: dict[str, str] = {}
    rest = None
    try:
        while len(urls) < 2:
            line = (await process.stderr.readline()).decode()
            assert line, "the service has ended"
            if match := re.search(r"(public|internal) listener: (http://\S+)", line):
                urls[match[1]] = match[2]
        rest = asyncio.create_task(process.stderr.read())
        yield urls
    finally:
        process.terminate()
        await process.wait()
        if rest is not None:
            await rest


async def open_chat(browser: Browser, url: str, name: str, size: ViewportSize, scheme: Scheme) -> Page:
    """Enter the room, in a window of this size."""
    context = await browser.new_context(viewport=size, color_scheme=scheme, device_scale_factor=2)
    page = await context.new_page()
    await page.goto(f"{url}/?{urlencode({'name': name, 'channels': 'general,random'})}")
    await expect(page.locator("#state")).to_have_text("connected")
    return page


async def take_chat(browser: Browser) -> None:
    """Have some people talk, and look at it in every way."""
    async with serving("examples.chat:app") as urls:
        url = urls["public"]
        people = {name: await open_chat(browser, url, name, DESKTOP, "light") for name in ("ann", "bob", "Zoe")}
        lookers = {picture: await open_chat(browser, url, "ann", *way) for picture, way in CHAT.items()}
        for n, (name, text) in enumerate(TALK, 1):
            await people[name].get_by_label("Message", exact=True).fill(text)
            await people[name].keyboard.press("Enter")
            for page in (*people.values(), *lookers.values()):
                await expect(page.locator("#log .text")).to_have_count(n)
        for picture, page in lookers.items():
            await save(page, picture)


@asynccontextmanager
async def playing(url: str) -> AsyncIterator[None]:
    """Have people in every room that is to be inspected, who go on with what they do."""

    async def play(session: aiohttp.ClientSession, room: str, name: str, every: float | None) -> None:
        async with session.ws_connect(f"{url}/{room}", params={"userId": name}) as ws:
            if (room, name) == ("game/oslo", "eve"):
                await ws.send_json({"type": "round", "data": 600})
                for _ in range(3):
                    await ws.send_json({"type": "cheat", "data": 99})
            while True:
                if every is not None:
                    await ws.send_json({"type": "move", "data": 1})
                with suppress(TimeoutError):
                    async with asyncio.timeout(every):
                        while True:
                            await ws.receive()

    async with aiohttp.ClientSession() as session:
        people = ((room, name, every) for room, those in PLAYERS.items() for name, every in those)
        tasks = [asyncio.create_task(play(session, *each)) for each in people]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def take_inspector(browser: Browser) -> None:
    """Inspect a service for a while, in every way at once."""
    shape = ("--hosts", "2", "--gateways", "2", "--admin-port", "0", "--link-port", "0", "--machine", "one")
    async with serving("tests.inspected:app", *shape, "--hibernate-after", "6") as urls, playing(urls["public"]):
        lookers: dict[str, Page] = {}
        for picture, (size, scheme) in INSPECTOR.items():
            scale = 2 if size is PHONE else 1  # what is wide has twice as much to show
            context = await browser.new_context(viewport=size, color_scheme=scheme, device_scale_factor=scale)
            page = lookers[picture] = await context.new_page()
            await page.goto(f"{urls['internal']}/inspector/")
            await expect(page.locator("#rooms button.name")).to_have_count(len(PLAYERS), timeout=60_000)
        # Charts of some width, and rooms that have fallen asleep.
        await expect(lookers["inspector"].locator("#rooms .badge.asleep")).to_have_count(3, timeout=60_000)
        await asyncio.sleep(INSPECTED_FOR)
        for picture, page in lookers.items():
            if picture != "inspector-phone":
                await page.get_by_role("button", name="game/berlin", exact=True).click()
                await expect(page.locator("#sessions strong")).to_have_count(3)
                await page.mouse.move(0, 0)
                await page.evaluate("document.activeElement.blur()")
            await save(page, picture)


async def save(page: Page, picture: str) -> None:
    """Write what a page shows, where it is small enough."""
    IMAGES.mkdir(exist_ok=True)
    data = await page.screenshot()
    assert len(data) < MAX_BYTES, f"{picture} has {len(data)} bytes"
    (IMAGES / f"{picture}.png").write_bytes(data)


async def main() -> None:
    """Take all of them."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
        await take_chat(browser)
        await take_inspector(browser)
        await browser.close()


if __name__ == "__main__":
    asyncio.run(main())

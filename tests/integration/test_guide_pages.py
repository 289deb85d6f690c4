"""Pages for browsers that documents show, in a real browser and with the rooms that they are for."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp
import jwt
import pytest
from playwright.async_api import Browser, ConsoleMessage, Page, expect

from tests.guide import DOCUMENTS, Guide
from tests.integration.browsers import _function_scoped_runner  # noqa: F401
from tests.integration.complaints import complaints_of

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


@dataclass(frozen=True, slots=True)
class Script:
    """How a script without a page of its own is run: beside which rooms, after what, and what the console says then."""

    target: str
    says: str
    before: str = ""


# What a reader would have: a token, and a function that gets one.
SECRET = "0123456789abcdef0123456789abcdef"
CLAIMS = {"sub": "ann", "exp": time.time() + 3600, "iss": "https://login.example.com"}
TEAM, CHAT = (jwt.encode({**CLAIMS, "aud": audience}, SECRET) for audience in ("team", "chat"))

SCRIPTS = {
    "docs/authentication.md": Script(
        "team:team",
        "open verani",
        f"""
        const url = `ws://${{location.host}}/ws`, token = "{TEAM}";
        const WebSocket = class extends window.WebSocket {{
          constructor(...given) {{
            super(...given);
            this.addEventListener("open", () => console.log("open", this.protocol));
          }}
        }};
        """,
    ),
    "docs/clients.md": Script("examples.chat:chat", "ann hello"),
    "docs/coming-from/centrifugo.md": Script("chat:chat", "ann hi", f'const fetchToken = () => "{CHAT}";'),
    "docs/coming-from/django-channels.md": Script("chat:chat", "hi"),
    "gateway/verani_gateway/browser/README.md": Script("examples.chat:chat", "ann hello"),
}

Open = Callable[..., Awaitable[Page]]


@pytest.fixture
async def window(browser: Browser) -> AsyncIterator[Open]:
    """Return ``await window(server, path)``, which opens a page in a window of its own, and allows it no complaint."""
    pages: list[Page] = []
    complaints: list[list[str]] = []

    def is_expected(said: ConsoleMessage) -> bool:
        # The server stops before the browser does, which says of a socket what became of it; what is no page has no
        # icon.
        is_known = said.text.startswith("WebSocket ") or said.location["url"].endswith("/favicon.ico")
        return is_known or said.type == "warning"

    async def open_page(server: Server, path: str = "/") -> Page:
        page = await (await browser.new_context()).new_page()
        pages.append(page)
        complaints.append(complaints_of(page, is_expected))
        await page.goto(f"http://localhost:{server.port}{path}")
        return page

    yield open_page
    for page in pages:
        await page.context.close()
    assert [*chain.from_iterable(complaints)] == []


async def says(page: Page, text: str) -> None:
    await page.get_by_label("Message").fill(text)
    await page.get_by_role("button", name="Send").click()


async def reads(page: Page, *texts: str) -> None:
    await expect(page.locator("#messages li")).to_have_text(list(texts), timeout=30_000)


def test_every_page_that_a_document_shows_is_opened() -> None:
    shown = {(page, name) for page in DOCUMENTS for name in Guide(page).files() if name.endswith(".html")}
    assert shown == OPENED


def test_every_script_of_a_document_is_run() -> None:
    # One is for the compiler to judge, which tests/gateway/cli/test_types.py asks.
    assert {page for page in DOCUMENTS if Guide(page).blocks("js")} == SCRIPTS.keys() | {"docs/typed-events.md"}


@pytest.mark.parametrize("name", SCRIPTS)
async def test_a_script_does_what_its_document_says(serve: Serve, window: Open, tmp_path: Path, name: str) -> None:
    script = SCRIPTS[name]
    guide = Guide(name)
    (block,) = guide.blocks("js")
    guide.save(tmp_path)
    own = {} if script.target.startswith("examples") else {"directory": tmp_path}
    server = await serve(script.target, environ={"TEAM_SECRET": SECRET, "CHAT_SECRET": SECRET}, **own)
    page = await window(server, "/health")
    async with page.expect_console_message(lambda said: said.text == script.says, timeout=30_000):
        await page.add_script_tag(
            content=script.before + block.replace("127.0.0.1:8000", f"localhost:{server.port}"), type="module"
        )
    assert await server.stop() == 0


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


async def test_what_the_database_does_not_take_is_sent_until_it_does(
    serve: Serve, window: Open, tmp_path: Path
) -> None:
    SOCKET_IO.save(tmp_path)
    server = await serve("durable:app", directory=tmp_path)
    ann, bob = await window(server), await window(server)
    await expect(bob.locator("#toggle")).to_have_text("Disconnect")
    await says(ann, "one")
    await reads(bob, "one")
    file, away = tmp_path / "chat.db", tmp_path / "away.db"
    file.rename(away)
    file.mkdir()  # no database can be opened there
    await says(ann, "two")
    await says(ann, "three")
    await server.says("a hook of chat/lobby failed: OperationalError")
    file.rmdir()
    away.rename(file)
    await reads(bob, "one", "two", "three")
    await reads(ann, "one", "two", "three")
    assert await server.stop() == 0


async def test_a_number_that_is_none_is_refused_before_the_socket_opens(serve: Serve, tmp_path: Path) -> None:
    SOCKET_IO.save(tmp_path)
    server = await serve("durable:app", directory=tmp_path)
    async with aiohttp.ClientSession(server.ws) as session:
        with pytest.raises(aiohttp.WSServerHandshakeError) as refusal:
            await session.ws_connect("/ws?after=x")
    assert refusal.value.status == 400
    assert await server.stop() == 0

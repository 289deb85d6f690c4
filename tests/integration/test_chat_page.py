"""The demo page in a real browser: people in two windows, and a server that is killed under them."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlencode

import aiohttp
import pytest
from playwright.async_api import Browser, ConsoleMessage, Page, WebSocketRoute, expect

from tests.integration.browsers import _function_scoped_runner  # noqa: F401
from tests.integration.complaints import complaints_of

if TYPE_CHECKING:
    from tests.integration.conftest import Serve, Server

pytestmark = pytest.mark.browser

ARTIFACTS = Path(__file__).parents[2] / "artifacts"
APP = "examples.chat:app"

# The state says it before the page tries again, and the longest of the first waits is 1 s, then 1.5 s, 2.25 s ...
RECONNECTED_WITHIN = 30_000

TEN_MINUTES = 600  # s

# The size of a window, in pixels.
WIDTH, HEIGHT = 1100, 760


def _says_that_the_server_is_away(said: ConsoleMessage) -> bool:
    return any(
        each in said.text for each in ("WebSocket connection to", "ERR_CONNECTION_REFUSED", "ERR_CONNECTION_RESET")
    )


class Window:
    """A page of one person, and the complaints of its browser."""

    def __init__(self, page: Page) -> None:
        self.page = page
        # A server that is away is what these pages are for (it may go before the icon has come);
        # everything else, policy violations included, counts.
        self.complaints = complaints_of(page, _says_that_the_server_is_away)

    async def is_in_state(self, text: str | re.Pattern[str], timeout: float = 10_000) -> None:
        await expect(self.page.locator("#state")).to_have_text(text, timeout=timeout)

    async def stops_its_clock(self) -> None:
        """Let time pass in the page only where the test says so."""
        await self.page.clock.install(time=0)
        await self.page.clock.pause_at(1_000)

    async def seconds_to_go(self) -> int:
        """Read how long it waits until it connects again."""
        return int(re.sub(r"\D", "", await self.page.locator("#state").inner_text()))

    async def sees_people(self, *names: str) -> None:
        await expect(self.page.locator("#people li > span:last-child")).to_have_text(list(names))

    async def says(self, text: str, channel: str = "general") -> None:
        await self.page.get_by_label("Channel to write in").select_option(channel)
        await self.page.get_by_label("Message", exact=True).fill(text)
        await self.page.keyboard.press("Enter")

    async def reads(self, *texts: str) -> None:
        """Expect exactly these messages in the log."""
        await expect(self.page.locator("#log li:not(.waiting) .text")).to_have_text(list(texts))

    async def presses(self, button: str) -> None:
        await self.page.get_by_role("button", name=button, exact=True).click()


Open = Callable[..., Awaitable[Window]]
Scheme = Literal["light", "dark"]


@pytest.fixture
async def visit(browser: Browser) -> AsyncIterator[Open]:
    """Return ``await visit(server, name=...)``, which opens the page in a window of its own and waits for its state."""
    windows: list[Window] = []

    async def open_page(server: Server, **query: str) -> Window:
        context = await browser.new_context(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme="light")
        window = Window(await context.new_page())
        windows.append(window)
        await window.page.goto(f"{server.url}/?{urlencode(query)}")
        if "name" in query:
            await window.is_in_state("connected")
        return window

    yield open_page
    for window in windows:  # before anything of the test may fail here: others use the browser, too
        await window.page.context.close()
    assert [window.complaints for window in windows] == [[]] * len(windows)


async def save_screenshot(window: Window, name: str) -> None:
    """Keep what the window shows in ``artifacts/``, which is not in version control."""
    ARTIFACTS.mkdir(exist_ok=True)
    await window.page.screenshot(path=ARTIFACTS / f"{name}.png")


async def test_two_people_see_each_other_and_what_they_write(serve: Serve, visit: Open) -> None:
    server = await serve(APP)
    ann = await visit(server, name="ann")
    await ann.sees_people("ann (you)")
    bob = await visit(server, name="bob")
    await ann.sees_people("ann (you)", "bob")
    await bob.sees_people("ann", "bob (you)")
    elsewhere = await visit(server, name="eve", room="attic")
    await elsewhere.sees_people("eve (you)")

    await ann.says("hello bob")
    await bob.reads("hello bob")
    await bob.says("hello ann\nand everybody")
    await ann.reads("hello bob", "hello ann\nand everybody")
    await elsewhere.reads()
    await expect(ann.page.locator("#log .mine")).to_have_count(1)

    await bob.page.close()
    await ann.sees_people("ann (you)")
    await expect(ann.page.locator("#log .note")).to_have_text(["bob came in", "bob left"])


async def test_a_message_reaches_only_those_who_joined_its_channel(serve: Serve, visit: Open) -> None:
    server = await serve(APP)
    ann, bob = await visit(server, name="ann"), await visit(server, name="bob")
    await ann.presses("Join random")
    await expect(ann.page.get_by_role("button", name="Leave random", exact=True)).to_be_visible()
    await ann.says("only in random", channel="random")
    await ann.says("in general")
    await bob.reads("in general")
    await bob.presses("Join random")
    await expect(bob.page.get_by_label("Channel to write in")).to_have_value("random")
    await ann.presses("Leave random")
    await expect(ann.page.get_by_role("button", name="Join random", exact=True)).to_be_visible()
    await bob.says("are you still there?", channel="random")
    await bob.reads("in general", "are you still there?")
    await bob.says("general again")
    await ann.reads("only in random", "in general", "general again")

    await ann.page.get_by_label("Join another channel").fill("cats")
    await ann.page.keyboard.press("Enter")
    await ann.says("anybody?", channel="cats")
    await ann.reads("only in random", "in general", "general again", "anybody?")
    await bob.reads("in general", "are you still there?", "general again")


async def test_channels_and_name_are_kept_in_the_url(serve: Serve, visit: Open) -> None:
    server = await serve(APP)
    ann = await visit(server, name="ann", room="attic")
    await ann.presses("Join random")
    await expect(ann.page).to_have_url(re.compile("room=attic&name=ann&channels=general%2Crandom"))
    await ann.page.reload()
    await ann.sees_people("ann (you)")
    await expect(ann.page.get_by_role("button", name="Leave random", exact=True)).to_be_visible()
    await ann.presses("Leave room")
    await expect(ann.page.get_by_label("Your name")).to_have_value("ann")
    await ann.page.go_back()
    await ann.is_in_state("connected")


async def test_a_newcomer_is_asked_for_name_and_room(serve: Serve, visit: Open) -> None:
    server = await serve(APP)
    page = (await visit(server)).page
    await expect(page.get_by_label("Your name")).to_be_focused()
    await page.keyboard.type("ann")
    await page.get_by_label("Room").fill("not a/room")
    await page.keyboard.press("Enter")
    await expect(page.get_by_label("Your name")).to_be_visible()
    await page.get_by_label("Room").fill("Ko\u0308ln \U0001f600")
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("heading", name="Köln \U0001f600")).to_be_visible()
    await expect(page.locator("#state")).to_have_text("connected")
    await expect(page).to_have_url(re.compile(r"\?room=K%C3%B6ln\+%F0%9F%98%80&name=ann"))
    await expect(page.get_by_label("Message", exact=True)).to_be_focused()


async def test_a_message_that_is_too_long_is_refused_with_a_reason_and_given_back(serve: Serve, visit: Open) -> None:
    server = await serve(APP)
    ann = await visit(server, name="ann")
    await ann.says("x" * 501)
    await expect(ann.page.get_by_role("alert")).to_have_text("That message is too long: at most 500 characters.")
    await expect(ann.page.get_by_label("Message", exact=True)).to_have_value("x" * 501)
    await ann.reads()
    await ann.says("short")
    await ann.reads("short")
    await expect(ann.page.get_by_role("alert")).to_be_empty()
    # So is one that costs the connection.
    await ann.says("x" * 70_000)
    await expect(ann.page.get_by_role("alert")).to_have_text("That message is too long: at most 500 characters.")
    await expect(ann.page.get_by_label("Message", exact=True)).to_have_value("x" * 70_000)


async def test_markup_in_names_and_messages_is_shown_as_text(serve: Serve, visit: Open) -> None:
    markup = "<img src=x onerror=alert(1)>"
    server = await serve(APP)
    ann = await visit(server, name="ann")
    other = await visit(server, name=markup)
    await ann.sees_people(markup, "ann (you)")
    await other.says(markup)
    await ann.reads(markup)
    await expect(ann.page.locator("#log strong")).to_have_text([markup])
    for window in (ann, other):
        await expect(window.page.locator("img")).to_have_count(0)


async def test_pages_come_back_by_themselves_after_a_crash(serve: Serve, visit: Open) -> None:
    server = await serve(APP)
    ann, bob = await visit(server, name="ann"), await visit(server, name="bob")
    await bob.presses("Join random")
    await expect(bob.page.get_by_role("button", name="Leave random", exact=True)).to_be_visible()
    await server.kill()
    for window in (ann, bob):
        await window.is_in_state(re.compile("^reconnecting"))
    await ann.says("written while the server was away")
    await expect(ann.page.locator("#log .waiting .text")).to_have_text("written while the server was away")

    await serve(APP, port=server.port)
    for window in (ann, bob):
        await window.is_in_state("connected", RECONNECTED_WITHIN)
        await window.sees_people(
            *(f"{name} (you)" if window.page.url.count(f"name={name}") else name for name in ("ann", "bob"))
        )
    await ann.says("hello again")
    await expect(ann.page.locator("#log li:not(.waiting) .text").last).to_have_text("hello again")
    await expect(ann.page.locator("#log .waiting")).to_have_count(0)
    await bob.says("I am still in random", channel="random")
    await expect(bob.page.locator("#log .text").last).to_have_text("I am still in random")


async def test_a_restart_tells_pages_to_come_back(serve: Serve, visit: Open) -> None:
    server = await serve(APP)
    ann = await visit(server, name="ann")
    assert await server.stop() == 0
    await ann.is_in_state(re.compile("^reconnecting"))
    await serve(APP, port=server.port)
    await ann.is_in_state("connected", RECONNECTED_WITHIN)


async def test_a_page_gives_up_a_connection_that_answers_no_ping(serve: Serve, visit: Open) -> None:
    server = await serve(APP)
    window = await visit(server)
    await window.page.clock.install()
    await window.page.goto(f"{server.url}/?name=ann")
    await window.is_in_state("connected")
    server.freeze()
    await window.page.clock.fast_forward(5_000)  # a ping leaves
    await window.page.clock.fast_forward(9_000)
    await window.is_in_state("connected")
    await window.page.clock.fast_forward(1_000)
    await window.is_in_state(re.compile("^reconnecting"))
    server.thaw()
    await window.page.clock.fast_forward(1_500)
    await window.is_in_state("connected")
    await window.says("here again")
    await window.reads("here again")


async def test_a_page_that_was_told_to_stay_away_waits_for_its_user(serve: Serve, visit: Open) -> None:
    """Only these two codes end it (protocol 15); the page offers to connect again."""
    server = await serve(APP)
    window = await visit(server)
    sockets = await route_sockets(window)
    await window.page.goto(f"{server.url}/?name=ann")
    for code in (1000, 1001):
        await window.is_in_state("connected")
        await sockets[-1].close(code=code)
        await window.is_in_state("disconnected")
        await window.says("nobody hears this")
        await expect(window.page.get_by_role("alert")).to_have_text("You are disconnected.")
        await window.presses("Connect again")
    await window.is_in_state("connected")
    assert len(sockets) == 3


async def test_a_page_comes_back_after_every_other_code(serve: Serve, visit: Open) -> None:
    server = await serve(APP)
    window = await visit(server)
    await window.stops_its_clock()
    sockets = await route_sockets(window)
    await window.page.goto(f"{server.url}/?name=ann")
    await window.is_in_state("connected")
    for code in (1008, 1011, 1012, 1013, 4001, 4009):
        await sockets[-1].close(code=code)
        await window.is_in_state(re.compile("^reconnecting"))
        await window.page.clock.fast_forward(30_000)
        await window.is_in_state("connected")
    assert len(sockets) == 7


async def test_a_page_leaves_a_room_alone_that_takes_and_closes_its_connections(serve: Serve, visit: Open) -> None:
    server = await serve("tests.integration.unfriendly_chat:app")
    window = await visit(server)
    await window.stops_its_clock()
    for room, title in (("failing", "the room has failed"), ("full", "the room or this page is too slow")):
        await window.page.goto(f"{server.url}/?name=ann&room={room}")
        delays: list[int] = []
        while sum(delays) < TEN_MINUTES:
            await window.is_in_state(re.compile(r"^reconnecting in \d+ s$"))
            delays.append(await window.seconds_to_go())
            await window.page.clock.fast_forward(delays[-1] * 1000)
        assert len(delays) < 30
        assert max(delays) == 30
        assert await comers(server, room) in (len(delays), len(delays) + 1)
        await expect(window.page.locator("#state")).to_have_attribute("title", title)


async def test_a_page_whose_connections_last_comes_back_at_once(serve: Serve, visit: Open) -> None:
    server = await serve(APP)
    window = await visit(server)
    await window.stops_its_clock()
    sockets = await route_sockets(window)
    await window.page.goto(f"{server.url}/?name=ann")
    for lasting, expected in [(0, 1), (0, 2), (0, 3), (5_100, 1), (0, 2)]:
        await window.is_in_state("connected")
        for _ in range(lasting // 1700):  # in steps, so that pings are answered
            await window.page.clock.fast_forward(1700)
        await sockets[-1].close(code=1012)
        await window.is_in_state(re.compile(r"^reconnecting in \d+ s$"))
        assert await window.seconds_to_go() <= expected
        await window.page.clock.fast_forward(expected * 1000)


async def test_a_page_that_was_answered_comes_back_at_once_after_a_restart_and_not_after_a_verdict(
    serve: Serve, visit: Open
) -> None:
    server = await serve(APP)
    window = await visit(server)
    await window.stops_its_clock()
    await window.page.evaluate("Math.random = () => 0")  # the longest delays
    sockets = await route_sockets(window, answer=True)
    await window.page.goto(f"{server.url}/?name=ann")
    await window.page.evaluate("Math.random = () => 0")
    for code, expected in [(1012, 1), (1012, 1), (4009, 2), (4009, 3), (4009, 4), (1012, 1)]:
        await window.is_in_state("connected")
        await window.says("hello")
        await expect(window.page.locator("#log .waiting")).to_have_count(0)
        await sockets[-1].close(code=code)
        await window.is_in_state(f"reconnecting in {expected} s")
        await window.page.clock.fast_forward(expected * 1000)


async def test_a_page_that_a_room_refuses_stays_away_and_says_so(serve: Serve, visit: Open) -> None:
    server = await serve("tests.integration.unfriendly_chat:app")
    window = await visit(server)
    await window.page.goto(f"{server.url}/?name=ann&room=closed")
    await window.is_in_state("disconnected")
    await expect(window.page.get_by_role("alert")).to_have_text("The room refused you (forbidden).")
    await window.says("hello?")
    await expect(window.page.get_by_role("alert")).to_have_text("The room refused you (forbidden).")
    await expect(window.page.get_by_label("Message", exact=True)).to_have_value("hello?")
    assert await comers(server, "closed") == 1


async def test_a_page_says_why_an_answer_did_not_come(serve: Serve, visit: Open) -> None:
    server = await serve(APP)
    window = await visit(server)
    sockets = await route_sockets(window)
    for code, why in _REASONS.items():
        await window.page.goto(f"{server.url}/?name=ann")
        await window.is_in_state("connected")
        await window.says("hello")
        await expect(window.page.locator("#log .waiting")).to_have_count(1)
        await sockets[-1].close(code=None if code == 1006 else code)
        lost = f"The connection was lost before the answer came{why}: this may have arrived or not."
        too_long = "That message is too long: at most 500 characters."
        await expect(window.page.get_by_role("alert")).to_have_text(too_long if code == 1009 else lost)


_REASONS = {
    1006: "",
    1008: " (too many messages)",
    1009: "",
    1011: " (the room has failed)",
    1012: " (the service restarts)",
    1013: " (the room or this page is too slow)",
    4001: " (you were signed in for too long)",
    4009: " (you are connected elsewhere)",
}


async def comers(server: Server, room: str) -> int:
    """Ask how many have come into a room of `unfriendly_chat`."""
    async with aiohttp.ClientSession() as session, session.get(f"{server.url}/count/{room}") as response:
        return int(await response.text())


async def route_sockets(window: Window, *, answer: bool = False) -> list[WebSocketRoute]:
    """Let the test be the server of the sockets that the window opens from now on, which may `answer` requests."""
    sockets: list[WebSocketRoute] = []

    def opened(socket: WebSocketRoute) -> None:
        sockets.append(socket)
        if answer:
            socket.on_message(lambda text: reply(socket, json.loads(text)))

    def reply(socket: WebSocketRoute, frame: dict[str, object]) -> None:
        if "id" in frame:
            socket.send(json.dumps({"type": "ack", "id": frame["id"], "data": None}))

    await window.page.route_web_socket(re.compile("/ws"), opened)
    return sockets


SIZES: tuple[tuple[int, Scheme], ...] = ((WIDTH, "light"), (WIDTH, "dark"), (390, "light"), (390, "dark"))


async def test_the_page_fits_its_window(serve: Serve, visit: Open) -> None:
    server = await serve(APP)
    channels = "general,random"
    ann = await visit(server, name="ann", channels=channels)
    bob = await visit(server, name="bob", channels=channels)
    zoe = await visit(server, name="Zoe", channels=channels)
    passer_by = await visit(server, name="Maximiliane von und zu Hohenstein")
    await ann.sees_people("ann (you)", "bob", "Maximiliane von und zu Hohenstein", "Zoe")
    texts = [
        "Good morning! Is the new release out?",
        "Since an hour ago. Rooms sleep now when nobody writes, and nobody notices.",
        "https://example.org/" + "a-very-long-address-without-a-break/" * 6,
    ]
    await bob.says(texts[0])
    await ann.reads(texts[0])
    await ann.says(texts[1])
    await zoe.reads(*texts[:2])
    await zoe.says(texts[2], channel="random")
    await passer_by.page.close()
    for width, scheme in SIZES:
        await ann.page.set_viewport_size({"width": width, "height": HEIGHT})
        await ann.page.emulate_media(color_scheme=scheme)
        await ann.reads(*texts)
        await ann.sees_people("ann (you)", "bob", "Zoe")
        await ann.says("x" * 501)
        await expect(ann.page.get_by_role("alert")).not_to_be_empty()
        await ann.page.get_by_label("Message", exact=True).fill("")
        assert await ann.page.evaluate("document.documentElement.scrollWidth") <= width
        await save_screenshot(ann, "chat" if (width, scheme) == SIZES[0] else f"chat-{width}-{scheme}")

"""The inspector in a real browser: what people chose is text there, and an operator needs no mouse."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, Any, Final

import aiohttp
import pytest
from playwright.async_api import Browser, Page, expect

from tests.integration.browsers import _function_scoped_runner  # noqa: F401
from tests.integration.complaints import complaints_of
from tests.integration.test_accessibility import faults_in_every_size
from tests.integration.test_chat_page import SIZES

if TYPE_CHECKING:
    from tests.integration.conftest import Serve, Server

pytestmark = pytest.mark.browser

APP: Final = "tests.integration.inspected_app:app"

# Not one of the characters that a subprotocol may have.
TOKEN: Final = 's3cret/+=?"%'
ENVIRON: Final = {"VERANI_ADMIN_TOKEN": TOKEN, "VERANI_RPC_TOKEN": "rpc"}

# What would run, were it taken for markup.
HOSTILE: Final = "<img src=x onerror=\"document.title='pwned'\">"


# In milliseconds: a loaded machine may take seconds for what nobody waits for otherwise.
PATIENCE: Final = 30_000


@pytest.fixture(autouse=True)
def patience() -> Iterator[None]:
    """Let every expectation wait for so long."""
    expect.set_options(timeout=PATIENCE)
    yield
    expect.set_options(timeout=None)


class Operator:
    """One inspector that is open, and the complaints of its browser."""

    def __init__(self, page: Page) -> None:
        self.page = page
        # A token that is refused is logged by the browser; everything else, policy violations included, counts.
        self.complaints = complaints_of(page, lambda said: "401" in said.text)

    async def enters(self, token: str = TOKEN) -> None:
        await self.page.get_by_label("Admin token").fill(token)
        await self.page.keyboard.press("Enter")

    async def sees_room(self, name: str) -> None:
        await expect(self.page.locator("#rooms").get_by_role("button", name=name, exact=True)).to_be_visible()

    async def tabs_to(self, name: str, role: Any = "button") -> None:
        """Press Tab until what has this name is focused, as whoever has no mouse does."""
        wanted = self.page.get_by_role(role, name=name, exact=True)
        await wanted.wait_for()
        for _ in range(80):
            await self.page.keyboard.press("Tab")
            if await wanted.evaluate("node => node === document.activeElement"):
                return
        raise AssertionError(f"{role} {name} is not reached by Tab")

    async def chooses(self, room: str) -> None:
        await self.tabs_to(room)
        await self.page.keyboard.press("Enter")
        await expect(self.page.locator("#detail-title")).to_have_text(room)
        await expect(self.page.locator("#detail-title")).to_be_focused()


Watch = Callable[..., Awaitable[Operator]]


@pytest.fixture
async def watch(browser: Browser) -> AsyncIterator[Watch]:
    """Return ``await watch(server)``, which opens the inspector; its browser may have nothing to complain of."""
    operators: list[Operator] = []

    async def open_page(server: Server, path: str = "/inspector/") -> Operator:
        context = await browser.new_context(viewport={"width": 1280, "height": 800})
        operator = Operator(await context.new_page())
        operators.append(operator)
        await operator.page.goto(f"{server.internal}{path}")
        return operator

    yield open_page
    for operator in operators:  # before anything of the test may fail here: others use the browser, too
        await operator.page.context.close()
    assert [operator.complaints for operator in operators] == [[]] * len(operators)


class Visit:
    """A client of the rooms."""

    def __init__(self, ws: aiohttp.ClientWebSocketResponse) -> None:
        self.ws = ws

    async def ask(self, event: str, data: str) -> Any:
        await self.ws.send_json({"type": event, "id": 1, "data": data})
        while (frame := await self.ws.receive_json())["type"] != "ack":
            pass
        return frame


Enter = Callable[..., Awaitable[Visit]]


@pytest.fixture
async def enter() -> AsyncIterator[Enter]:
    # A connection that nobody holds is closed by the garbage collector.
    visits: list[Visit] = []
    async with aiohttp.ClientSession() as session:

        async def enter(server: Server, room: str, user: str, **query: str) -> Visit:
            url = f"{server.ws}/ws/{room}"
            visit = Visit(await session.ws_connect(url, params={"user": user, **query}))
            visits.append(visit)
            await visit.ask("echo", "x")
            return visit

        yield enter


async def test_the_token_is_asked_for_kept_by_the_tab_and_forgotten(serve: Serve, watch: Watch) -> None:
    server = await serve(APP, environ=ENVIRON)
    operator = await watch(server)
    page = operator.page
    await expect(page.get_by_label("Admin token")).to_be_focused()
    await operator.enters("another")
    await expect(page.locator("#door-error")).to_have_text("This is not the token of this service.")
    await operator.enters()
    await expect(page.locator("#state")).to_have_text("live")
    await page.reload()
    await expect(page.locator("#state")).to_have_text("live")
    assert await page.evaluate("[localStorage.length, document.cookie, location.search]") == [0, "", ""]
    await page.get_by_role("button", name="Forget token").click()
    await expect(page.get_by_label("Admin token")).to_be_focused()
    await page.reload()
    await expect(page.get_by_label("Admin token")).to_be_visible()


async def test_without_a_token_whoever_reaches_the_listener_may_look(serve: Serve, watch: Watch) -> None:
    operator = await watch(await serve(APP))
    await expect(operator.page.locator("#state")).to_have_text("live")
    await expect(operator.page.locator("#processes-count")).to_have_text("one process, with its rooms in it")


async def test_what_people_chose_is_text_and_never_markup(serve: Serve, watch: Watch, enter: Enter) -> None:
    server = await serve(APP)
    visit = await enter(server, HOSTILE, HOSTILE, channels=f"default,{HOSTILE}", mood=HOSTILE[:40])
    await visit.ask("fail", HOSTILE)
    operator = await watch(server)
    page, room = operator.page, f"rooms/{HOSTILE}"
    await operator.sees_room(room)
    await page.locator("#rooms").get_by_role("button", name=room, exact=True).click()
    await expect(page.locator("#detail-title")).to_have_text(room)
    await expect(page.locator("#sessions strong")).to_have_text(HOSTILE)
    await expect(page.locator("#sessions")).to_contain_text(f"default, {HOSTILE}")
    await expect(page.locator("#sessions")).to_contain_text(f"mood: {HOSTILE[:40]}")
    await expect(page.locator("#sessions")).to_contain_text("access_token: (hidden)")
    await expect(page.locator("#errors .what")).to_have_text(f"RuntimeError: {HOSTILE}")
    await page.locator("#errors summary").click()
    await expect(page.locator("#errors pre")).to_contain_text(f"RuntimeError: {HOSTILE}")
    await page.get_by_role("button", name=f"Close the connection of {HOSTILE}", exact=True).click()
    await expect(page.locator("#question")).to_contain_text(HOSTILE)
    await page.get_by_role("button", name="Cancel").click()
    await page.reload()  # with the room in the URL
    await expect(page.locator("#detail-title")).to_have_text(room)
    await expect(page.locator("#sessions strong")).to_have_text(HOSTILE)
    assert await page.locator("img").count() == 0
    assert await page.title() == "Verani inspector"
    assert "t0ps3cret" not in await page.content()


async def test_an_operator_does_everything_with_the_keyboard(serve: Serve, watch: Watch, enter: Enter) -> None:
    server = await serve(APP, environ=ENVIRON)
    ann, ben = await enter(server, "lobby", "ann"), await enter(server, "lobby", "ben", channels="news")
    operator = await watch(server)
    page, keyboard = operator.page, operator.page.keyboard
    outcome = page.locator("#outcome")
    await operator.enters()
    await operator.sees_room("rooms/lobby")
    await operator.chooses("rooms/lobby")

    await operator.tabs_to("Put to sleep")
    await keyboard.press("Enter")
    await expect(outcome).to_have_text("rooms/lobby sleeps as soon as nothing is going on in it.")
    await expect(page.locator("#facts")).to_contain_text("asleep for")
    await operator.tabs_to("Wake")
    await keyboard.press("Enter")
    await expect(page.locator("#facts")).to_contain_text("awake for")
    await expect(page.locator("#facts")).to_contain_text("call, in")

    summary = page.locator("#send-part > summary")
    while not await summary.evaluate("node => node === document.activeElement"):
        await keyboard.press("Tab")
    await keyboard.press("Enter")
    for name, text in (("Event", "note"), ("Channel", "news"), ("Data, as JSON", "{text")):
        await operator.tabs_to(name, "textbox")
        await keyboard.press("Control+A")
        await keyboard.insert_text(text)
    await operator.tabs_to("Send")
    await keyboard.press("Enter")
    await expect(page.locator("#data-error")).to_contain_text("This is not JSON")
    await expect(page.get_by_label("Data, as JSON")).to_be_focused()
    await keyboard.press("Control+A")
    await keyboard.insert_text('{"text": "hello"}')
    await operator.tabs_to("Send")
    await keyboard.press("Enter")
    await expect(outcome).to_have_text("note was sent to 1 connection.")
    sent = await ben.ws.receive_json()
    assert sent == {"type": "event", "channel": "news", "data": {"type": "note", "text": "hello"}}

    await operator.tabs_to("Close the connection of ann")
    await keyboard.press("Enter")
    await expect(page.get_by_role("dialog")).to_be_visible()
    await keyboard.press("Escape")
    await operator.tabs_to("Close the connection of ann")
    await keyboard.press("Enter")
    await operator.tabs_to("Close connection")
    await keyboard.press("Enter")
    assert (await ann.ws.receive()).data == 1000
    await expect(page.locator("#sessions strong")).to_have_text(["ben"])

    await operator.tabs_to("Back to the list")
    await keyboard.press("Enter")
    await expect(page.get_by_role("button", name="rooms/lobby", exact=True)).to_be_focused()


async def test_a_host_is_drained_and_its_rooms_are_seen_on_another_one(
    serve: Serve, watch: Watch, enter: Enter
) -> None:
    shape = ("--hosts", "2", "--gateways", "1", "--admin-port", "0", "--link-port", "0", "--machine", "m")
    server = await serve(APP, *shape, environ=ENVIRON)
    visits = [await enter(server, f"room{n}", "ann") for n in range(4)]
    operator = await watch(server)
    page = operator.page
    await operator.enters()
    processes = page.locator("#processes tbody tr td:first-child")
    await expect(processes).to_have_text(["host:m-0", "host:m-1", re.compile("gateway:.*")])
    await page.get_by_role("button", name="Drain host:m-0").click()
    await expect(page.locator("#question")).to_contain_text("Take host:m-0 out of service?")
    await page.get_by_role("button", name="Drain", exact=True).click()
    await expect(page.locator("#outcome")).to_have_text("host:m-0 is draining.")
    await expect(processes).to_have_text(["host:m-1", re.compile("gateway:.*")])
    await expect(page.locator("#processes tbody tr").first).to_contain_text("4 rooms awake, 0 asleep")
    for visit in visits:
        assert (await visit.ask("echo", "still here"))["data"] == "still here"


async def test_lists_follow_the_service_and_what_is_focused_stays_so(serve: Serve, watch: Watch, enter: Enter) -> None:
    server = await serve(APP)
    for name in ("b", "a", "other"):
        await enter(server, name, "ann")
    operator = await watch(server)
    page = operator.page
    names = page.locator("#rooms button.name")
    await expect(names).to_have_text(["rooms/b", "rooms/a", "rooms/other"])
    await page.get_by_role("button", name="rooms/other").focus()
    await page.get_by_label("Sort by").evaluate(
        "node => { node.value = 'name'; node.dispatchEvent(new Event('change')) }"
    )
    await expect(names).to_have_text(["rooms/a", "rooms/b", "rooms/other"])
    await expect(page.get_by_role("button", name="rooms/other")).to_be_focused()
    await enter(server, "aa", "ann")
    await expect(names).to_have_text(["rooms/a", "rooms/aa", "rooms/b", "rooms/other"])
    await expect(page.get_by_role("button", name="rooms/other")).to_be_focused()
    await page.get_by_label("Name begins with").fill("rooms/a")
    await expect(names).to_have_text(["rooms/a", "rooms/aa"])
    await page.get_by_label("State", exact=True).select_option("asleep")
    await expect(page.locator("#rooms-none")).to_be_visible()
    await page.reload()
    await expect(page.get_by_label("Name begins with")).to_have_value("rooms/a")
    await expect(page.get_by_label("Sort by")).to_have_value("name")


async def test_back_and_an_edited_address_show_what_they_name(serve: Serve, watch: Watch, enter: Enter) -> None:
    server = await serve(APP)
    for room in ("a", "b"):
        await enter(server, room, "ann")
    page = (await watch(server)).page
    title = page.locator("#detail-title")
    for room in ("rooms/a", "rooms/b"):
        await page.locator("#rooms").get_by_role("button", name=room, exact=True).click()
        await expect(page.locator("#detail-some")).to_be_visible()
    await page.go_back()
    await expect(title).to_have_text("rooms/a")
    await expect(page.locator("#detail-some")).to_be_visible()
    await page.go_back()
    await expect(title).to_have_text("One room")
    await page.go_forward()
    await expect(title).to_have_text("rooms/a")
    await page.evaluate("location.hash = 'room=rooms/b&prefix=rooms/b'")
    await expect(title).to_have_text("rooms/b")
    await expect(page.get_by_label("Name begins with")).to_have_value("rooms/b")
    await expect(page.locator("#rooms tbody tr")).to_have_count(1)


async def test_what_is_old_says_how_old_it_is(serve: Serve, watch: Watch) -> None:
    server = await serve(APP)
    page = (await watch(server)).page
    await expect(page.locator("#rooms-count")).to_have_text("0 awake, 0 asleep")
    await expect(page.locator("#age")).to_be_hidden()
    server.freeze()
    try:
        await expect(page.locator("#age")).to_have_text(re.compile(r"as of \d+\sm?s ago"))
        await expect(page.locator("#state")).to_have_text("live")
    finally:
        server.thaw()
    await expect(page.locator("#age")).to_be_hidden()


async def test_the_page_comes_back_by_itself_with_a_service_that_is_started_anew(
    serve: Serve, watch: Watch, enter: Enter
) -> None:
    server = await serve(APP, environ=ENVIRON)
    operator = await watch(server)
    page = operator.page
    await operator.enters()
    await expect(page.locator("#state")).to_have_text("live")
    internal = server.internal.rpartition(":")[2]
    await server.kill()
    await expect(page.locator("#state")).to_have_text(re.compile("not connected|connecting"))
    operator.complaints.clear()  # about nobody being there
    again = await serve(APP, "--internal-port", internal, environ=ENVIRON)
    await enter(again, "new", "ann")
    await expect(page.locator("#state")).to_have_text("live")
    await operator.sees_room("rooms/new")
    operator.complaints.clear()


async def test_axe_finds_no_serious_fault(serve: Serve, watch: Watch, enter: Enter) -> None:
    server = await serve(APP, environ=ENVIRON)
    visit = await enter(server, "lobby", "ann")
    await visit.ask("fail", "on purpose")
    operator = await watch(server)
    page = operator.page
    assert await faults_in_every_size(page) == {}
    await operator.enters()
    await operator.sees_room("rooms/lobby")
    await page.get_by_role("button", name="rooms/lobby", exact=True).click()
    await expect(page.locator("#sessions strong")).to_have_text("ann")
    await page.locator("#errors summary").click()
    await page.locator("#send-part > summary").click()
    assert await faults_in_every_size(page) == {}
    await page.get_by_role("button", name="Close the connection of ann").click()
    assert await faults_in_every_size(page) == {}
    for width, _ in SIZES:
        await page.set_viewport_size({"width": width, "height": 844})
        async with asyncio.timeout(PATIENCE / 1000):
            while not await page.evaluate("document.documentElement.scrollWidth <= innerWidth"):  # noqa: ASYNC110
                await asyncio.sleep(0.02)  # charts follow the window a little later

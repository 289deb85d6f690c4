"""Our pages for everybody: axe-core finds no serious fault, and the keyboard is enough."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

import pytest
from playwright.async_api import Page, expect

from tests.integration.browsers import _function_scoped_runner  # noqa: F401
from tests.integration.test_chat_page import APP, SIZES, Scheme, visit  # noqa: F401
from tests.node_packages import node_package

if TYPE_CHECKING:
    from tests.integration.conftest import Serve
    from tests.integration.test_chat_page import Open

pytestmark = pytest.mark.browser

# What must not be there: people who use assistive technology are kept out, or nearly.
SERIOUS: Final = ("serious", "critical")


async def faults(page: Page) -> list[str]:
    """Return the serious faults of what the page shows now: the rule, and the elements that break it."""
    await page.evaluate(node_package("axe-core/axe.min.js").read_text())  # which no policy of the page forbids
    found: dict[str, Any] = await page.evaluate("() => axe.run(document, { resultTypes: ['violations'] })")
    return [
        f"{each['id']} ({each['impact']}): {[node['target'] for node in each['nodes']]}"
        for each in found["violations"]
        if each["impact"] in SERIOUS
    ]


async def faults_in_every_size(page: Page) -> dict[tuple[int, Scheme], list[str]]:
    """Return the serious faults by width and scheme, where there are any."""
    found = {}
    for width, scheme in SIZES:
        await page.set_viewport_size({"width": width, "height": 760})
        await page.emulate_media(color_scheme=scheme)
        found[width, scheme] = await faults(page)
    return {size: faults for size, faults in found.items() if faults}


async def test_faults_are_found(serve: Serve, visit: Open) -> None:  # noqa: F811
    window = await visit(await serve(APP))
    await window.page.evaluate("document.querySelector('label').remove()")
    found = await faults_in_every_size(window.page)
    assert [(size, [fault.partition(" ")[0] for fault in faults]) for size, faults in found.items()] == [
        (size, ["label"]) for size in SIZES
    ]


async def test_the_door_of_the_chat(serve: Serve, visit: Open) -> None:  # noqa: F811
    window = await visit(await serve(APP))
    assert await faults_in_every_size(window.page) == {}


async def test_the_chat_with_all_it_shows(serve: Serve, visit: Open) -> None:  # noqa: F811
    server = await serve(APP)
    ann, bob = await visit(server, name="ann"), await visit(server, name="bob")
    await ann.sees_people("ann (you)", "bob")
    await ann.says("hello")
    await bob.says("hello ann")
    await ann.reads("hello", "hello ann")
    await ann.says("x" * 501)
    await expect(ann.page.get_by_role("alert")).not_to_be_empty()
    assert await faults_in_every_size(ann.page) == {}
    await server.kill()
    await ann.is_in_state(re.compile("^reconnecting"))
    await ann.says("is anybody there?")
    await expect(ann.page.locator("#log .waiting")).to_have_count(1)
    assert await faults_in_every_size(ann.page) == {}


class Keyboard:
    """Somebody who has no mouse, and sees what has the focus."""

    def __init__(self, page: Page) -> None:
        self._page = page
        self.press = page.keyboard.press
        self.type = page.keyboard.type

    async def focused(self) -> str:
        """Name what has the focus; fail where nothing shows that it has."""
        found: list[str] = await self._page.evaluate(
            """() => {
                const element = document.activeElement;
                const style = getComputedStyle(element);
                const label = element.ariaLabel ?? element.labels?.[0]?.textContent ?? element.textContent;
                return [label.trim(), element === document.body ? "body" : style.outlineStyle];
            }"""
        )
        assert found[1] not in ("body", "none"), f"nobody sees where the focus is: {found}"
        return found[0]

    async def goes_to(self, name: str, key: str = "Tab") -> None:
        """Press Tab until something of this name has the focus; everything comes round once."""
        seen = list[str]()
        while await self.focused() != name:
            seen.append(await self.focused())
            assert len(seen) < 40, f"{name} is not among {seen}"
            await self.press(key)


async def test_the_chat_needs_no_mouse(serve: Serve, visit: Open) -> None:  # noqa: F811
    server = await serve(APP)
    bob = await visit(server, name="bob", channels="general,random,cats")
    window = await visit(server)
    ann = Keyboard(window.page)
    assert await ann.focused() == "Your name"
    await ann.type("ann")
    await ann.goes_to("Enter")
    await ann.press("Space")
    await window.is_in_state("connected")
    assert await ann.focused() == "Message"
    await ann.type("hello")
    await ann.press("Enter")
    await bob.reads("hello")

    await ann.goes_to("Join random", "Shift+Tab")
    await ann.press("Enter")
    await expect(window.page.get_by_role("button", name="Leave random", exact=True)).to_be_focused()
    assert await ann.focused() == "Leave random"  # where the keyboard was

    await ann.goes_to("Join another channel")
    await ann.type("cats")
    await ann.press("Enter")
    await expect(window.page.get_by_role("button", name="Leave cats", exact=True)).to_be_visible()
    assert await ann.focused() == "Join another channel"

    await ann.goes_to("Channel to write in")
    await expect(window.page.get_by_label("Channel to write in")).to_have_value("cats")
    await ann.press("ArrowUp")
    await expect(window.page.get_by_label("Channel to write in")).to_have_value("random")
    await ann.goes_to("Message")
    for n in range(30):
        await ann.type(f"{n}")
        await ann.press("Shift+Enter")
        await ann.type("and more")
        await ann.press("Enter")
    await bob.reads("hello", *(f"{n}\nand more" for n in range(30)))
    await window.reads("hello", *(f"{n}\nand more" for n in range(30)))

    await ann.goes_to("Messages", "Shift+Tab")
    await ann.press("Home")
    await expect(window.page.locator("#log .text").first).to_be_in_viewport()
    await ann.goes_to("Leave room", "Shift+Tab")
    await ann.press("Enter")
    assert await ann.focused() == "Your name"

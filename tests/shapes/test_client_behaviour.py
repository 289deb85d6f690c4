"""One list of what clients do, played in Node, in Chromium and in Python against the same service."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import urlsplit

import pytest
from aiohttp import web
from playwright.async_api import BrowserContext, Page, async_playwright

from tests.integration.test_chat_page import FLAGS, chromium
from tests.node_packages import node, node_package
from tests.shapes.behaviour.names import PAGES, SCENARIOS
from tests.shapes.behaviour.python import PLAYED, Stage
from tests.shapes.behaviour.wire import Wire

if TYPE_CHECKING:
    from tests.shapes.conftest import Gate, Gates
    from tests.shapes.service import Service

pytestmark = pytest.mark.shapes

BEHAVIOUR: Final = Path(__file__).parent / "behaviour"
VERANI: Final = (Path(__file__).parents[2] / "gateway/verani_gateway/browser/verani.js").as_uri()

T = TypeVar("T")
Order = Callable[[], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class Setting:
    """What a scenario in JavaScript is told; `orders` are what it may have done at `control`."""

    wire: Wire
    room: str
    control: str
    orders: dict[str, Order]

    async def obey(self, order: str) -> object:
        """Do what a scenario asks for."""
        return await self.orders[order]()

    def as_json(self, scenario: str, **more: Any) -> dict[str, Any]:
        """Say it."""
        return {"scenario": scenario, "control": self.control, "port": self.wire.port, "room": self.room, **more}


@pytest.fixture
async def wire(service: Service) -> AsyncIterator[Wire]:
    target = urlsplit(service.url)
    assert target.hostname is not None
    assert target.port is not None
    wire = Wire(target.hostname, target.port)
    await wire.start()
    yield wire
    await wire.stop()


@pytest.fixture
def gate(gates: Gates) -> Gate:
    return gates()


@pytest.fixture
async def setting(wire: Wire, gate: Gate, room: str) -> AsyncIterator[Setting]:
    async def name_of_gate() -> str:
        return gate.name

    async def at_wire(what: Callable[[], None]) -> None:
        what()

    orders: dict[str, Order] = {"gate": name_of_gate, "open": gate.open}
    for what in (wire.cut, wire.block, wire.unblock, wire.freeze, wire.thaw):
        orders[what.__name__] = lambda what=what: at_wire(what)  # type: ignore[misc]  # mypy has no types for defaults

    async def obey(request: web.Request) -> web.Response:
        return web.json_response(await orders[request.match_info["order"]]())

    async def scenarios(_: web.Request) -> web.Response:
        text = (BEHAVIOUR / "scenarios.mjs").read_text()
        return web.Response(text=text, content_type="text/javascript", headers={"Access-Control-Allow-Origin": "*"})

    application = web.Application()
    application.router.add_get("/scenarios.mjs", scenarios)
    application.router.add_post("/{order}", obey)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield Setting(wire, room, f"http://127.0.0.1:{runner.addresses[0][1]}", orders)
    await runner.cleanup()


# --- Python -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scenario", SCENARIOS)
async def test_in_python(wire: Wire, gate: Gate, room: str, scenario: str) -> None:
    stage = Stage(wire, gate, room)
    try:
        await PLAYED[scenario](stage)
    finally:
        await stage.close()


# --- Node -------------------------------------------------------------------------------------------------------


def runtime(name: str) -> list[str]:
    """Return the command that runs a program in JavaScript."""
    if name == "node":
        version = subprocess.run([node(), "--version"], capture_output=True, check=True, text=True).stdout
        is_old = int(re.findall(r"\d+", version)[0]) < 22
        return [node(), *(["--experimental-websocket"] if is_old else [])]
    return [name, "run", *(["--allow-all"] if name == "deno" else [])]


async def run(name: str, *arguments: str) -> Any:
    """Run `node.mjs`; return what it has written."""
    process = await asyncio.create_subprocess_exec(
        *runtime(name), str(BEHAVIOUR / "node.mjs"), *arguments, stdout=asyncio.subprocess.PIPE
    )
    try:
        output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0
    return json.loads(output)


@pytest.mark.parametrize("scenario", [*SCENARIOS, *PAGES])
async def test_in_node(setting: Setting, scenario: str) -> None:
    assert await run("node", json.dumps(setting.as_json(scenario, verani=VERANI))) is None


@pytest.mark.parametrize("scenario", [*SCENARIOS, *PAGES])
async def test_in_node_with_the_websocket_of_a_package(setting: Setting, scenario: str) -> None:
    ws = node_package("ws/wrapper.mjs").as_uri()
    assert await run("node", json.dumps(setting.as_json(scenario, verani=VERANI, ws=ws))) is None


@pytest.mark.parametrize(
    ("name", "scenario"),
    [(name, each) for name in ("bun", "deno") if shutil.which(name) for each in (*SCENARIOS, *PAGES)],
)
async def test_in_other_runtimes(setting: Setting, name: str, scenario: str) -> None:
    assert await run(name, json.dumps(setting.as_json(scenario, verani=VERANI))) is None


# --- Chromium ---------------------------------------------------------------------------------------------------

PLAY = """async ({ scenario, control, port, room }) => {
    const { VeraniClient } = await import("/verani.js");
    const { play } = await import(`${control}/scenarios.mjs`);
    return await play(scenario, { VeraniClient, order, port, room }); // `order` comes from outside
}"""

# Nothing but another window in front of it hides a page, and a browser without windows has none.
LOOK = """hidden => {
    Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
    document.dispatchEvent(new Event("visibilitychange"));
}"""


class BrowserThread:
    """One browser for many tests: it outlives their event loops, in a thread with a loop of its own."""

    def __init__(self, path: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="browser", daemon=True)
        self._thread.start()
        self._playwright = self._do(async_playwright().start())
        self._browser = self._do(self._playwright.chromium.launch(executable_path=path, args=FLAGS))

    def _do(self, what: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(what, self._loop).result()

    async def play(self, setting: Setting, scenario: str) -> Any:
        """Play one scenario in a page of its own."""
        playing = self._play(setting, scenario, asyncio.get_running_loop())
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(playing, self._loop))

    async def _play(self, setting: Setting, scenario: str, loop: asyncio.AbstractEventLoop) -> Any:
        context = await self._browser.new_context()
        try:
            page = await context.new_page()
            orders = obey_in(page, context)
            own = asyncio.get_running_loop()

            async def order(name: str) -> Any:
                if name in orders:
                    return await orders[name]()
                # The wire and the gate are in the loop of the test.
                there = asyncio.run_coroutine_threadsafe(setting.obey(name), loop)
                return await asyncio.wrap_future(there, loop=own)

            await page.expose_function("order", order)
            await page.goto(f"http://127.0.0.1:{setting.wire.port}/health")
            return await page.evaluate(PLAY, setting.as_json(scenario))
        finally:
            await context.close()

    def end(self) -> None:
        """End the browser and the thread."""
        self._do(self._browser.close())
        self._do(self._playwright.stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[BrowserThread]:
    browser = BrowserThread(chromium())
    yield browser
    browser.end()


def obey_in(page: Page, context: BrowserContext) -> dict[str, Callable[[], Coroutine[Any, Any, Any]]]:
    """Return the orders that concern the page itself."""
    return {
        "hide": lambda: page.evaluate(LOOK, True),
        "show": lambda: page.evaluate(LOOK, False),
        "offline": lambda: context.set_offline(True),
        "online": lambda: context.set_offline(False),
    }


@pytest.mark.browser
@pytest.mark.parametrize("scenario", [*SCENARIOS, *PAGES])
async def test_in_chromium(setting: Setting, browser: BrowserThread, scenario: str) -> None:
    assert await browser.play(setting, scenario) is None


# --- the list ---------------------------------------------------------------------------------------------------


async def test_every_scenario_is_played_everywhere() -> None:
    assert [list(SCENARIOS), list(PAGES)] == await run("node")
    assert list(SCENARIOS) == list(PLAYED)

"""One list of what clients do, played in Node, in Chromium and in Python against the same service."""

from __future__ import annotations

import asyncio
import shutil
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import urlsplit

import pytest
from playwright.async_api import BrowserContext, Page, async_playwright

from tests.integration.browsers import FLAGS, chromium
from tests.node_packages import node_package
from tests.shapes.behaviour.names import PAGES, SCENARIOS
from tests.shapes.behaviour.program import Program
from tests.shapes.behaviour.python import PLAYED, Stage
from tests.shapes.behaviour.wire import Wire

if TYPE_CHECKING:
    from tests.shapes.conftest import Gate, Gates
    from tests.shapes.service import Service

pytestmark = pytest.mark.shapes

SCENARIOS_IN_JAVASCRIPT: Final = Path(__file__).parent / "behaviour/scenarios.mjs"
VERANI: Final = (Path(__file__).parents[2] / "gateway/verani_gateway/browser/verani.js").as_uri()

T = TypeVar("T")
Order = Callable[[], Awaitable[object]]
Programs = Callable[[str], Program]


@dataclass(frozen=True, slots=True)
class Setting:
    """What a scenario in JavaScript is told; `orders` are what it may have done here."""

    wire: Wire
    room: str
    orders: dict[str, Order]

    async def obey(self, order: str) -> object:
        """Do what a scenario asks for."""
        return await self.orders[order]()

    def as_json(self, scenario: str, **more: Any) -> dict[str, Any]:
        """Say it."""
        return {"scenario": scenario, "port": self.wire.port, "room": self.room, **more}


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
def setting(wire: Wire, gate: Gate, room: str) -> Setting:
    async def name_of_gate() -> str:
        return gate.name

    async def at_wire(what: Callable[[], None]) -> None:
        what()

    orders: dict[str, Order] = {"gate": name_of_gate, "open": gate.open}
    for what in (wire.cut, wire.block, wire.unblock, wire.freeze, wire.thaw):
        orders[what.__name__] = lambda what=what: at_wire(what)  # type: ignore[misc]  # mypy has no types for defaults
    return Setting(wire, room, orders)


# --- Python -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scenario", SCENARIOS)
async def test_in_python(wire: Wire, gate: Gate, room: str, scenario: str) -> None:
    stage = Stage(wire, gate, room)
    try:
        await PLAYED[scenario](stage)
    finally:
        await stage.close()


# --- Node -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def programs() -> Iterator[Programs]:
    """Start each program when its first test needs it, and anew where it is gone; nothing may keep one from ending."""
    started: dict[str, Program] = {}

    def programs(runtime: str) -> Program:
        if runtime in started and not started[runtime].runs:
            started.pop(runtime).end()  # a test has failed
        if runtime not in started:
            started[runtime] = Program(runtime)
        return started[runtime]

    yield programs
    assert [program.end() for program in started.values()] == [0] * len(started)


async def played(program: Program, setting: Setting, scenario: str, **more: Any) -> str | None:
    return await program.play(setting.as_json(scenario, verani=VERANI, **more), setting.obey)


@pytest.mark.parametrize("scenario", [*SCENARIOS, *PAGES])
async def test_in_node(setting: Setting, programs: Programs, scenario: str) -> None:
    assert await played(programs("node"), setting, scenario) is None


@pytest.mark.parametrize("scenario", [*SCENARIOS, *PAGES])
async def test_in_node_with_the_websocket_of_a_package(setting: Setting, programs: Programs, scenario: str) -> None:
    ws = node_package("ws/wrapper.mjs").as_uri()
    assert await played(programs("node"), setting, scenario, ws=ws) is None


@pytest.mark.parametrize(
    ("name", "scenario"),
    [(name, each) for name in ("bun", "deno") if shutil.which(name) for each in (*SCENARIOS, *PAGES)],
)
async def test_in_other_runtimes(setting: Setting, programs: Programs, name: str, scenario: str) -> None:
    assert await played(programs(name), setting, scenario) is None


# --- Chromium ---------------------------------------------------------------------------------------------------

PLAY = """async ({ scenario, scenarios, port, room }) => {
    const { VeraniClient } = await import("/verani.js");
    const { play } = await import(URL.createObjectURL(new Blob([scenarios], { type: "text/javascript" })));
    return await play(scenario, { VeraniClient, order, port, room }); // `order` comes from outside
}"""

# Nothing but another window in front of it hides a page, and a browser without windows has none.
LOOK = """hidden => {
    Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
    document.dispatchEvent(new Event("visibilitychange"));
}"""


class BrowserThread:
    """One browser for many tests: it outlives their event loops, in a thread with a loop of its own.

    Scenarios are played in one tab, each in a page of its own origin: what another has left is gone with its page.
    """

    def __init__(self, path: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="browser", daemon=True)
        self._thread.start()
        self._playwright = self._do(async_playwright().start())
        self._browser = self._do(self._playwright.chromium.launch(executable_path=path, args=FLAGS))
        self._scenarios = SCENARIOS_IN_JAVASCRIPT.read_text()
        self._tab: Page | None = None
        self._obey: Callable[[str], Awaitable[object]]

    def _do(self, what: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(what, self._loop).result()

    async def play(self, setting: Setting, scenario: str) -> Any:
        """Play one scenario."""
        playing = self._play(setting, scenario, asyncio.get_running_loop())
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(playing, self._loop))

    async def _play(self, setting: Setting, scenario: str, loop: asyncio.AbstractEventLoop) -> Any:
        tab = self._tab or await self._open_tab()
        own, of_page = asyncio.get_running_loop(), obey_in(tab, tab.context)

        async def obey(order: str) -> Any:
            if order in of_page:
                return await of_page[order]()
            # The wire and the gate are in the loop of the test.
            there = asyncio.run_coroutine_threadsafe(setting.obey(order), loop)
            return await asyncio.wrap_future(there, loop=own)

        self._obey = obey
        failure: Any = "it was not played to the end"
        try:
            await tab.goto(f"http://127.0.0.1:{setting.wire.port}/health")
            failure = await tab.evaluate(PLAY, setting.as_json(scenario, scenarios=self._scenarios))
        finally:
            if failure is not None:  # who knows what it is like
                self._tab = None
                await tab.context.close()
        return failure

    async def _open_tab(self) -> Page:
        context = await self._browser.new_context()
        self._tab = await context.new_page()
        await self._tab.expose_function("order", lambda order: self._obey(order))
        return self._tab

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


def test_every_scenario_is_played_everywhere(programs: Programs) -> None:
    assert [list(SCENARIOS), list(PAGES)] == programs("node").names
    assert list(SCENARIOS) == list(PLAYED)

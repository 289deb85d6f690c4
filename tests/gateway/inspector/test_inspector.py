"""The inspector costs nothing until somebody looks, ends after the last one, and lets nobody in without the token."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import AsyncIterator

import aiohttp
import pytest
from aiohttp import WSMsgType

from tests.listeners import ADMIN, Running, start_service
from tests.raw import until
from verani_gateway.gateway import Gateway
from verani_gateway.inspector import inspector
from verani_gateway.service.listeners import Listeners

HEADERS = {"Authorization": f"Bearer {ADMIN}"}


@pytest.fixture
async def service(clean_log: list[str]) -> AsyncIterator[tuple[Listeners, Running]]:
    service, running = await start_service()
    yield service, running
    for client in running.clients:
        await client.end()
    await service.stop()


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


def gateways(running: Running) -> int:
    """Count the gateways of this process besides that of the service."""
    gc.collect()
    return sum(isinstance(each, Gateway) and each is not running.gateway for each in gc.get_objects())


async def test_files_of_the_page_may_load_and_run_nothing_but_each_other(
    service: tuple[Listeners, Running], session: aiohttp.ClientSession
) -> None:
    base = f"http://127.0.0.1:{service[1].internal}"
    async with session.get(f"{base}/inspector", allow_redirects=False) as response:
        assert (response.status, response.headers["Location"]) == (308, "inspector/")
    for name in (
        "",
        "inspector.js",
        "inspector.css",
        "icon.svg",
        "uPlot.iife.min.js",
        "uPlot.min.css",
        "uPlot.LICENSE",
    ):
        async with session.get(f"{base}/inspector/{name}") as response:
            assert response.status == 200
            policy = dict(rule.strip().split(" ", 1) for rule in response.headers["Content-Security-Policy"].split(";"))
            assert policy["default-src"] == policy["frame-ancestors"] == policy["form-action"] == "'none'"
            assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
            assert response.headers["X-Content-Type-Options"] == "nosniff"
            assert "127.0.0.1" not in await response.text()
    for name in ("room.py", "..%2froom.py", "page", "inspector.py", "index.html.bak"):
        async with session.get(f"{base}/inspector/{name}") as response:
            assert response.status == 404
    async with session.get(f"{base}/inspector/", headers={"Host": "evil.example"}) as response:
        assert response.status == 403


async def test_the_page_has_no_inline_script_or_style(
    service: tuple[Listeners, Running], session: aiohttp.ClientSession
) -> None:
    async with session.get(f"http://127.0.0.1:{service[1].internal}/inspector/") as response:
        page = await response.text()
    assert "style=" not in page
    assert "<style" not in page
    assert " on" not in page.replace(" on ", "").partition("<body>")[0]
    assert page.count("<script") == page.count("<script src=") + page.count('<script type="module" src=')


async def test_nothing_runs_before_the_first_page_and_after_the_last(
    service: tuple[Listeners, Running], session: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, running = service
    monkeypatch.setattr(inspector, "LINGER", 0.01)
    url = f"http://127.0.0.1:{running.internal}/inspector/ws"
    threads = threading.active_count()
    for headers in ({}, {"Authorization": "Bearer another"}):
        with pytest.raises(aiohttp.WSServerHandshakeError):
            await session.ws_connect(url, headers=headers)
    assert gateways(running) == 0
    assert threading.active_count() == threads
    async with session.ws_connect(url, headers=HEADERS) as first, session.ws_connect(url, headers=HEADERS) as second:
        for ws in (first, second):
            assert (await ws.receive_json())["data"]["type"] == "history"
        assert gateways(running) == 1
    await until(lambda: gateways(running) == 0)
    await until(lambda: threading.active_count() == threads)
    async with session.ws_connect(url, headers=HEADERS) as again:
        assert (await again.receive_json())["data"] == {"type": "history", "samples": []}


async def test_a_page_that_is_loaded_anew_finds_the_last_minutes(
    service: tuple[Listeners, Running], session: aiohttp.ClientSession
) -> None:
    url = f"http://127.0.0.1:{service[1].internal}/inspector/ws"
    async with session.ws_connect(url, headers=HEADERS) as ws:
        while (await ws.receive_json())["data"]["type"] != "sample":
            pass
    async with session.ws_connect(url, headers=HEADERS) as ws:
        assert len((await ws.receive_json())["data"]["samples"]) >= 1


async def test_pages_are_closed_as_in_a_restart_when_the_service_stops(session: aiohttp.ClientSession) -> None:
    service, running = await start_service()
    async with session.ws_connect(f"http://127.0.0.1:{running.internal}/inspector/ws", headers=HEADERS) as ws:
        stopping = asyncio.create_task(service.stop())
        while (message := await ws.receive()).type is WSMsgType.TEXT:
            pass
        assert (message.type, message.data) == (WSMsgType.CLOSE, 1012)
        await stopping
    assert gateways(running) == 0


async def test_there_is_a_limit_of_pages(
    service: tuple[Listeners, Running], session: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"http://127.0.0.1:{service[1].internal}/inspector/ws"
    pages = [await session.ws_connect(url, headers=HEADERS) for _ in range(20)]
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        await session.ws_connect(url, headers=HEADERS)
    assert refused.value.status == 503
    for page in pages:
        await page.close()


async def test_a_process_that_leaves_sends_its_pages_to_another_one_and_does_not_wait_for_them(
    session: aiohttp.ClientSession,
) -> None:
    service, running = await start_service(header_timeout=1000.0)  # for which it waits where somebody may still ask
    async with session.ws_connect(f"http://127.0.0.1:{running.internal}/inspector/ws", headers=HEADERS) as ws:
        leaving = asyncio.create_task(service.leave(internal=True))
        while (message := await ws.receive()).type is WSMsgType.TEXT:
            pass
        assert (message.type, message.data) == (WSMsgType.CLOSE, 1012)
    await session.close()
    await leaving
    await service.stop()


@pytest.mark.parametrize(
    ("host", "origin", "status"),
    [
        ("ops.test", "http://ops.test", 101),
        ("ops.test:81", "http://ops.test:81", 101),
        ("localhost", "http://localhost", 101),
        ("ops.test", "http://evil.test", 403),
        ("ops.test", "null", 403),
        ("evil.test", "http://evil.test", 403),
    ],
)
async def test_pages_of_the_listener_itself_connect_by_every_name_that_it_has(
    session: aiohttp.ClientSession, host: str, origin: str, status: int
) -> None:
    service, running = await start_service(internal_hosts=("ops.test",))
    url = f"http://127.0.0.1:{running.internal}/inspector/ws"
    got = 101
    try:
        await (await session.ws_connect(url, headers={**HEADERS, "Host": host, "Origin": origin})).close()
    except aiohttp.WSServerHandshakeError as refused:
        got = refused.status
    assert got == status
    await service.stop()

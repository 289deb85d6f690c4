"""The inspector sees the whole service, in every shape, and the service does not see the inspector."""

from __future__ import annotations

import asyncio
from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from tests.raw import PATIENCE

if TYPE_CHECKING:
    from tests.shapes.conftest import Visit
    from tests.shapes.service import Service

pytestmark = pytest.mark.shapes

Told = dict[str, Any]


class Page:
    """What the page of an inspector does, without the page."""

    def __init__(self, ws: aiohttp.ClientWebSocketResponse) -> None:
        self._ws = ws

    async def watch(self, **view: str) -> None:
        await self._ws.send_json({"type": "watch", "data": view})

    async def told(self, event: str, fits: Callable[[Told], bool] = lambda told: True) -> Told:
        """Read on to an event that fits."""
        async with asyncio.timeout(PATIENCE):
            while True:
                frame = await self._ws.receive_json()
                if frame["type"] == "event" and frame["data"]["type"] == event and fits(frame["data"]):
                    return dict(frame["data"])

    async def told_all(self, *events: str) -> list[Told]:
        """Read on until all of these have come, in whatever order: a page may come in the middle of a look."""
        found: dict[str, Told] = {}
        async with asyncio.timeout(PATIENCE):
            while not found.keys() >= set(events):
                frame = await self._ws.receive_json()
                if frame["type"] == "event":
                    found[frame["data"]["type"]] = frame["data"]
        return [found[event] for event in events]


@asynccontextmanager
async def inspecting(service: Service) -> AsyncIterator[Page]:
    """Connect as the page does: with the token as a subprotocol."""
    token = urlsafe_b64encode(service.token.encode()).decode().rstrip("=")
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(
            f"{service.internal}/inspector/ws",
            protocols=("verani", f"bearer.{token}"),
            headers={"Origin": service.internal},
            max_msg_size=0,
        ) as ws,
    ):
        assert ws.protocol == "verani"
        yield Page(ws)


async def test_rooms_of_every_host_are_listed_by_the_beginning_of_their_names(
    service: Service, visit: Visit, room: str
) -> None:
    names = [f"tireless/{room}-{n}" for n in range(6)]
    for name in names:
        await visit(f"/{name}")
    async with inspecting(service) as page:
        await page.watch(prefix=f"tireless/{room}", state="awake")
        told = await page.told("rooms", lambda told: room in told["prefix"])
        assert sorted(row["status"]["name"] for row in told["rows"]) == names
        assert {row["status"]["state"] for row in told["rows"]} == {"awake"}
        assert not told["cut"]
        await page.watch(prefix=f"tireless/{room}", state="asleep")
        assert (await page.told("rooms", lambda told: told["state"] == "asleep"))["rows"] == []


async def test_rates_of_a_room_and_of_the_service_follow_what_happens(
    service: Service, visit: Visit, room: str
) -> None:
    guest = await visit(f"/tireless/{room}")
    async with inspecting(service) as page:
        await page.watch(prefix=f"tireless/{room}")
        row = (await page.told("rooms", lambda told: bool(told["rows"])))["rows"][0]
        while not row["inputs_rate"]:
            await guest.ask("echo")
            row = (await page.told("rooms", lambda told: bool(told["rows"])))["rows"][0]
        assert row["deliveries_rate"] > 0
        sample = (await page.told("sample", lambda told: told["sample"] is not None))["sample"]
        while not (sample[1] and sample[2]):
            await guest.ask("echo")
            sample = (await page.told("sample", lambda told: told["sample"] is not None))["sample"]
        assert sample[3] >= 1, "connections of the service"


async def test_one_room_is_shown_with_who_is_in_it_while_it_sleeps(service: Service, visit: Visit, room: str) -> None:
    for user in ("ann", "ben"):
        await visit(userId=user)
    await service.asleep(f"chat/{room}")
    cycles = (await service.status(f"chat/{room}"))["cycles"]
    async with inspecting(service) as page:
        await page.watch(room=f"chat/{room}")
        told = await page.told("room")
        assert (told["status"]["state"], told["status"]["cycles"]) == ("asleep", cycles)
        assert sorted(session["user_id"] for session in told["told"]["sessions"]) == ["ann", "ben"]
        await page.watch(room=f"nothing/{room}")
        told = await page.told("room", lambda told: told["name"].startswith("nothing"))
        assert (told["status"], told["told"]["sessions"]) == (None, [])


async def test_processes_errors_and_quarantine_are_told_to_whoever_comes(
    service: Service, visit: Visit, room: str
) -> None:
    guest = await visit()
    await guest.send("botch", "x")
    await guest.heard()
    async with inspecting(service) as page, inspecting(service) as other:
        for each in (page, other):
            cluster, raised, quarantine = await each.told_all("cluster", "errors", "quarantine")
            assert cluster["missing"] == []
            assert len(cluster["gateways"]) == service.gateways
            assert len(cluster["members"]) == (0 if service.shape == "embedded" else service.hosts)
            assert [error["count"] for error in raised["errors"] if error["room"] == f"chat/{room}"] == [1]
            assert quarantine["inputs"] == []


async def test_the_inspector_is_none_of_the_service_s_rooms_connections_or_figures(service: Service) -> None:
    before = await service.ask("/metrics")
    async with inspecting(service) as page:
        await page.told("cluster")
        gateways = (await service.ask("/admin/cluster"))[1]["gateways"]
        assert sum(gateway["connections"] for gateway in gateways) == 0
        rooms = (await service.ask("/admin/rooms"))[1]
        assert [each["name"] for each in rooms if "inspector" in each["name"]] == []
        after = await service.ask("/metrics")
    assert "inspector" not in before[1] + after[1]


async def test_nobody_watches_without_the_token_of_operators(service: Service) -> None:
    wrong = urlsafe_b64encode(b"another").decode().rstrip("=")
    async with aiohttp.ClientSession() as session:
        for protocols in ((), ("verani", f"bearer.{wrong}"), ("bearer.!", "bearer.")):
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                await session.ws_connect(f"{service.internal}/inspector/ws", protocols=protocols)
            assert refused.value.status == 401
        headers = {"Authorization": f"Bearer {service.token}", "Origin": "http://evil.example"}
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await session.ws_connect(f"{service.internal}/inspector/ws", headers=headers)
        assert refused.value.status == 403
        for url in service.urls:
            async with session.get(f"{url}/inspector/") as response:
                assert response.status == 404, "the public listener has none"

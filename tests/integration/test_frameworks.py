"""FastAPI, Starlette and Django beside rooms: each example as its readers run it, with both of its processes."""

from __future__ import annotations

import asyncio
import re
import sys
from asyncio.subprocess import PIPE, STDOUT
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from tests.guide import ROOT
from tests.integration.conftest import PATIENCE
from tests.ports import free_port
from verani.client import HandshakeRefused, VeraniClient

if TYPE_CHECKING:
    from tests.integration.conftest import Serve, Server

FRAMEWORKS = ("fastapi", "starlette", "django")


@dataclass(frozen=True, slots=True)
class Site:
    """An application of somebody else's framework, and the rooms that belong to it."""

    url: str
    rooms: Server

    async def post(self, path: str, body: object) -> tuple[int, Any, dict[str, str]]:
        """Ask the application; return the status, the answer and the cookies that it sets."""
        async with aiohttp.ClientSession() as session, session.post(self.url + path, json=body) as response:
            is_json = response.content_type == "application/json"
            answer = await response.json() if is_json else await response.text()
            return response.status, answer, {name: cookie.value for name, cookie in response.cookies.items()}

    async def enter(self, user: str, room: str, *, origin: str | None = None) -> VeraniClient:
        """Log in, and make the client with which a page of this user would connect to a room."""
        status, answer, cookies = await self.post("/login", {"user": user})
        assert status == 200
        headers = {"Origin": origin or self.url}
        token = answer.get("token")
        if token is None:
            assert cookies
            headers["Cookie"] = "; ".join(f"{name}={value}" for name, value in cookies.items())
        return VeraniClient(f"{self.rooms.ws}/orders/{room}", headers=headers, token=token)


@pytest.fixture(params=FRAMEWORKS)
async def site(request: pytest.FixtureRequest, serve: Serve) -> AsyncIterator[Site]:
    module = f"examples.with_{request.param}"
    url = f"http://127.0.0.1:{free_port()}"
    environ = {"ORDERS_SECRET": "another-secret-of-more-than-32-bytes"}
    rooms = await serve(f"{module}:orders", "--allowed-origins", url, environ=environ)
    arguments = ["-m", "uvicorn", f"{module}:app", "--port", url.rpartition(":")[2]]
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *arguments,
        cwd=ROOT,
        env={"PATH": "", **environ, "ORDERS_SERVICE": rooms.internal},
        stdout=PIPE,
        stderr=STDOUT,
    )
    assert process.stdout is not None
    lines: list[str] = []
    try:
        async with asyncio.timeout(PATIENCE):
            while not any("Uvicorn running on" in line for line in lines):
                line = await process.stdout.readline()
                assert line, "".join(lines)
                lines.append(line.decode())
        yield Site(url, rooms)
    finally:
        if process.returncode is None:
            process.terminate()
        output, _ = await process.communicate()
    assert "Traceback" not in "".join(lines) + output.decode()


async def test_its_handlers_call_rooms_and_its_logins_say_who_connects_to_which(site: Site) -> None:
    async def refused(client: VeraniClient) -> int | None:
        with pytest.raises(HandshakeRefused) as refusal:
            async with client:
                pass
        return refusal.value.status

    async with await site.enter("ann", "ann") as ann:
        assert (await site.post("/orders/ann/7", {"status": "sent"}))[:2] == (200, {"heard": 1})
        async for event in ann:
            assert event.data == {"type": "order.changed", "order": 7, "status": "sent"}
            break
        assert (await site.post("/orders/bob/8", {"status": "sent"}))[:2] == (200, {"heard": 0})

    # Nobody enters the room of somebody else, or without a login, or from another page.
    assert await refused(await site.enter("bob", "ann")) == 403
    assert await refused(await site.enter("ann", "ann", origin="https://evil.example.com")) == 403
    assert await refused(VeraniClient(f"{site.rooms.ws}/orders/ann")) == 401
    forged = {"Cookie": "session=eyJ1c2VyIjogImFubiJ9.forged; sessionid=forged"}
    assert await refused(VeraniClient(f"{site.rooms.ws}/orders/ann", headers=forged, token="forged")) == 401


async def test_a_room_that_cannot_be_reached_is_an_answer_with_its_code(site: Site) -> None:
    assert await site.rooms.stop() == 0
    status, answer, _ = await site.post("/orders/ann/7", {"status": "sent"})
    assert status in (503, 504)
    assert re.search(r"busy|deadline", str(answer))

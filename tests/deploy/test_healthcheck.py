"""The health check of the image says whether this machine's Verani does its work."""

from __future__ import annotations

import socket
import sys
from asyncio.subprocess import PIPE, create_subprocess_exec
from typing import TYPE_CHECKING

from aiohttp import web
from yarl import URL

from tests.deploy.files import DEPLOY

if TYPE_CHECKING:
    from tests.integration.conftest import Serve


async def health(**environment: object) -> tuple[int | None, str]:
    """Run the check in this environment and no other; return its exit code and what it says."""
    process = await create_subprocess_exec(
        sys.executable,
        DEPLOY / "healthcheck.py",
        env={name: str(value) for name, value in environment.items()},
        stderr=PIPE,
    )
    _, errors = await process.communicate()
    return process.returncode, errors.decode()


async def test_a_machine_whose_gateways_are_ready_is_healthy(serve: Serve) -> None:
    server = await serve("examples.chat:app")
    port = URL(server.internal).port
    assert await health(VERANI_INTERNAL_PORT=port) == (0, "")
    assert await health(VERANI_INTERNAL_PORT=port, VERANI_INTERNAL_HOST="0.0.0.0") == (0, "")
    assert port is not None
    assert await health(VERANI_PORT=port - 1) == (0, "")


async def test_a_machine_that_does_not_answer_is_not(serve: Serve) -> None:
    server = await serve("examples.chat:app")
    port = URL(server.internal).port
    assert await server.stop() == 0
    code, errors = await health(VERANI_INTERNAL_PORT=port)
    assert code == 1
    assert "refused" in errors


async def test_a_machine_that_drains_is_not() -> None:
    async def draining(_: web.Request) -> web.Response:
        return web.Response(status=503)

    application = web.Application()
    application.router.add_get("/ready", draining)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    assert await health(VERANI_INTERNAL_PORT=runner.addresses[0][1]) == (1, "")
    await runner.cleanup()


async def test_a_machine_without_gateways_is_healthy_while_its_first_host_takes_links() -> None:
    with socket.create_server(("127.0.0.1", 0)) as links:
        port = links.getsockname()[1]
        assert await health(VERANI_GATEWAYS=0, VERANI_LINK_PORT=port) == (0, "")
    code, errors = await health(VERANI_GATEWAYS=0, VERANI_LINK_PORT=port)
    assert code == 1
    assert "refused" in errors

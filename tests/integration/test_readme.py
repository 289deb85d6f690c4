"""What the README shows works as it stands there: its code is taken out of it and run."""

from __future__ import annotations

import asyncio
import re
import sys
from asyncio.subprocess import PIPE, STDOUT
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp
import pytest

from verani.client import VeraniClient
from verani.errors import Forbidden

if TYPE_CHECKING:
    from tests.integration.conftest import Serve

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
ADDRESS = "ws://127.0.0.1:8000"
PATIENCE = 30


def blocks() -> list[str]:
    """Return the Python blocks, in order."""
    return re.findall(r"^```python\n(.*?)^```$", README, flags=re.DOTALL | re.MULTILINE)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Save the blocks under the names that the README gives them."""
    room, service, client = blocks()
    (tmp_path / "chat.py").write_text(room)
    (tmp_path / "service.py").write_text(service)
    (tmp_path / "client.py").write_text(client)
    return tmp_path


def test_the_thirty_lines_are_those_of_the_example() -> None:
    room = blocks()[0]
    imports, separator, lines = room.partition("chat = define_room")
    lines = separator + lines
    example = (ROOT / "examples" / "chat.py").read_text()
    assert lines in example
    assert all(line in example for line in imports.splitlines())
    assert len(lines.splitlines()) <= 30


def test_the_hooks_that_load_and_save_are_those_of_the_example() -> None:
    [pair] = re.findall(r"^```py\n(.*?)^```$", README, flags=re.DOTALL | re.MULTILINE)
    assert pair in (ROOT / "examples" / "poll.py").read_text()


async def test_the_room_is_served_and_the_client_talks_to_it(serve: Serve, project: Path) -> None:
    server = await serve("chat:chat", directory=project)
    script = project / "client.py"
    assert ADDRESS in script.read_text()
    script.write_text(script.read_text().replace(ADDRESS, server.ws))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-W", "error", str(script), cwd=project, stdout=PIPE, stderr=STDOUT
    )
    async with asyncio.timeout(PATIENCE):
        output, _ = await process.communicate()
    printed = re.search(r"^It prints `(.*)`\.$", README, flags=re.MULTILINE)
    assert printed is not None
    assert output.decode() == printed[1] + "\n"
    assert process.returncode == 0
    assert await server.stop() == 0


async def test_the_application_serves_its_own_pages_and_the_room(serve: Serve, project: Path) -> None:
    server = await serve("service:app", directory=project)
    async with aiohttp.ClientSession(server.url) as session, session.get("/") as response:
        assert await response.text() == "the rest of your site"
    async with VeraniClient(f"{server.ws}/ws?room=lobby&userId=ann") as client:
        with pytest.raises(Forbidden):
            await client.request("chat.message", {"channel": "general", "text": "too early"})
    assert await server.stop() == 0


def test_every_file_it_points_to_exists() -> None:
    # The map of the code and the documents are written beside this page.
    paths = set(re.findall(r"\]\(([^)#:]+)\)", README))
    assert paths
    assert [path for path in paths if not (ROOT / path).exists()] == []

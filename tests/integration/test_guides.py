"""What the guides in `docs/` show works as it stands there: their files are taken out of them and run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp
import pytest

from tests.guide import Guide, run_python
from verani.client import VeraniClient

if TYPE_CHECKING:
    from tests.integration.conftest import Serve

INTERNAL = "http://127.0.0.1:8001"


@pytest.mark.parametrize(("name", "tests"), [("authentication", 5), ("calls", 2)])
async def test_the_tests_of_a_guide_pass(name: str, tests: int, tmp_path: Path) -> None:
    Guide(f"docs/{name}.md").save(tmp_path)
    code, output = await run_python(tmp_path, "-m", "pytest", "-q")
    assert code == 0, output
    assert f"{tests} passed" in output


async def test_the_program_that_calls_a_room_prints_what_came_of_it(serve: Serve, tmp_path: Path) -> None:
    Guide("docs/calls.md").save(tmp_path)
    server = await serve("desk:desk", directory=tmp_path)
    script = tmp_path / "close_early.py"
    assert INTERNAL in script.read_text()
    script.write_text(script.read_text().replace(INTERNAL, server.internal))
    async with VeraniClient(f"{server.ws}/ws?room=front&userId=bob") as client:
        assert await run_python(tmp_path, "-W", "error", str(script)) == (0, "1\n1\n")
        assert [event.type async for event in client] == []
    assert await server.stop() == 0


class TestTheGuideToTesting:
    @pytest.fixture
    def project(self, tmp_path: Path) -> Path:
        guide = Guide("docs/testing.md")
        (options,) = guide.blocks("toml")
        guide.save(tmp_path, options + 'pythonpath = ["."]\nfilterwarnings = ["error"]\n')
        return tmp_path

    async def test_its_tests_pass(self, project: Path) -> None:
        code, output = await run_python(project, "-m", "pytest", "-q", "--ignore=test_counter.py")
        assert code == 0, output
        assert "9 passed" in output

    async def test_the_room_that_counts_fails_with_the_diff_that_it_shows(self, project: Path) -> None:
        code, output = await run_python(project, "-m", "pytest", "-q", "test_counter.py")
        assert code == 1, output
        (diff,) = Guide("docs/testing.md").blocks("text")
        printed = [re.sub("^E", "", line).strip() for line in output.splitlines()]
        assert [line for line in diff.splitlines() if not any(line.strip() in each for each in printed)] == []


async def test_the_conversation_of_the_protocol_goes_as_it_says(serve: Serve, tmp_path: Path) -> None:
    guide = Guide("docs/protocol.md")
    guide.save(tmp_path)
    server = await serve("room:room", directory=tmp_path)
    (conversation,) = guide.blocks("text")
    said = 0
    async with aiohttp.ClientSession() as session, session.ws_connect(f"{server.ws}/ws") as ws:
        for line in conversation.splitlines():
            who, _, frame = line.partition(" ")
            if who == ">":
                await ws.send_str(frame)
            else:
                assert (await ws.receive_str(timeout=30)) == frame
                said += 1
    assert said == 9

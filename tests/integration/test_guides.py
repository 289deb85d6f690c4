"""What documents show works as it stands there: their files are taken out of them and run.

`tests/docs/` has the rules for blocks that are no files.
"""

from __future__ import annotations

import asyncio
import logging
import re
import shlex
import shutil
import sys
from asyncio.subprocess import PIPE
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import aiohttp
import pytest

from tests.guide import DOCUMENTS, OPTIONS, Block, Guide, run_python
from verani.client import VeraniClient
from verani_actors.upkeep.log_lines import TextFormatter

if TYPE_CHECKING:
    from tests.integration.conftest import Serve, Server

PUBLIC = "127.0.0.1:8000"
INTERNAL = "http://127.0.0.1:8001"

GUIDES = {page: Guide(page) for page in DOCUMENTS}
PYTHON = {
    page: {name: block for name, block in guide.files().items() if name.endswith(".py")}
    for page, guide in GUIDES.items()
}

# A test that is to fail, because its page shows how it does.
FAILING = MappingProxyType({"docs/testing.md": ("test_counter.py",)})

# Modules that no test and no program of their page imports: the test in this file that uses them.
USED = MappingProxyType(
    {
        "README.md/chat.py": "test_readme",
        "docs/quick-start.md/service.py": "test_guide_pages",
        "docs/delivery.md/orders.py": "test_the_room_of_orders_says_what_is_unknown",
        "docs/coming-from/socket-io.md/chat.py": "test_guide_pages",
        "docs/coming-from/socket-io.md/durable.py": "test_guide_pages",
        "docs/protocol.md/room.py": "test_the_conversation_of_the_protocol_goes_as_it_says",
    }
)


def is_program(block: Block) -> bool:
    """Say whether a file does something when it is run, and nothing that others could import."""
    return bool(re.search(r"^asyncio\.run\(|^with connect_sync\(", block.text, re.MULTILINE))


def is_test(name: str) -> bool:
    return name.startswith("test_")


# --- tests that a page shows ----------------------------------------------------------------------------

WITH_TESTS = [page for page, files in PYTHON.items() if any(is_test(name) for name in files)]


@pytest.mark.parametrize("page", WITH_TESTS)
async def test_the_tests_of_a_page_pass(page: str, tmp_path: Path) -> None:
    GUIDES[page].save(tmp_path, options_of(GUIDES[page]))
    failing = FAILING.get(page, ())
    tests = [block.text for name, block in PYTHON[page].items() if is_test(name) and name not in failing]
    ignored = [f"--ignore={name}" for name in failing]
    code, output = await run_python(tmp_path, "-m", "pytest", "-q", *ignored)
    assert code == 0, output
    count = sum(len(re.findall(r"^(?:async )?def test_", text, re.MULTILINE)) for text in tests)
    assert f"{count} passed" in output


def options_of(guide: Guide) -> str:
    """Give the options for pytest that a page shows, or those that all pages speak of."""
    shown = guide.blocks("toml")
    return shown[0] + 'pythonpath = ["."]\nfilterwarnings = ["error"]\n' if shown else OPTIONS


async def test_the_room_that_counts_fails_with_the_diff_that_it_shows(tmp_path: Path) -> None:
    guide = GUIDES["docs/testing.md"]
    guide.save(tmp_path, options_of(guide))
    code, output = await run_python(tmp_path, "-m", "pytest", "-q", "test_counter.py")
    assert code == 1, output
    (diff,) = guide.blocks("text")
    printed = [re.sub("^E", "", line).strip() for line in output.splitlines()]
    assert [line for line in diff.splitlines() if not any(line.strip() in each for each in printed)] == []


# --- programs -------------------------------------------------------------------------------------------

# By page and file: what is served, and what the program prints at its end.
PROGRAMS = MappingProxyType(
    {
        ("README.md", "ann.py"): ("chat:chat", "ann says hello\n"),
        ("docs/quick-start.md", "ann.py"): ("chat:chat", "1 heard it\nann says hello\n"),
        ("docs/calls.md", "close_early.py"): ("desk:desk", "1\n1\n"),
        ("docs/clients.md", "listen.py"): (
            "examples.chat:chat",
            "general chat.message {'type': 'chat.message', 'from': 'ann', 'text': 'is anybody here?'}\n",
        ),
    }
)


def test_every_program_of_a_page_is_run() -> None:
    programs = {(page, name) for page, files in PYTHON.items() for name, block in files.items() if is_program(block)}
    assert programs == PROGRAMS.keys()


@pytest.mark.parametrize(("page", "name"), PROGRAMS)
async def test_a_program_prints_what_its_page_says(serve: Serve, tmp_path: Path, page: str, name: str) -> None:
    target, printed = PROGRAMS[page, name]
    GUIDES[page].save(tmp_path)
    own = {} if target.startswith("examples") else {"directory": tmp_path}
    server = await serve(target, **own)
    script = tmp_path / name
    shown = script.read_text()
    script.write_text(shown.replace(INTERNAL, server.internal).replace(PUBLIC, f"127.0.0.1:{server.port}"))
    assert script.read_text() != shown, "it would talk to another service"
    async with VeraniClient(f"{server.ws}/ws?room=front&userId=bob") as bob:  # whom one of them sends away
        code, output = await run_python(tmp_path, "-W", "error", name)
        assert code == 0, output
        assert output.endswith(printed)
        if page == "docs/calls.md":
            assert [event.type async for event in bob] == []
    for said in GUIDES[page].blocks("text"):
        assert said == output
    assert await server.stop() == 0


def test_a_line_of_the_log_looks_as_operations_says() -> None:
    [said] = GUIDES["docs/operations.md"].blocks("text")
    record = logging.LogRecord(
        "verani.engine.hook_log", logging.ERROR, "", 1, "a hook of %s failed: %s", ("chat/lobby", "KeyError"), None
    )
    about = {"hook": "on('chat.message')", "user": "ann", "connection": "5f1a-1", "room": "chat/lobby"}
    vars(record).update(about)
    formatter = TextFormatter()
    formatter.process = "host:m1-0"
    assert formatter.format(record)[len(formatter.formatTime(record)) :] == said.split("\n")[0].removeprefix(
        "2026-11-29 10:12:31,123"
    )


# --- commands -------------------------------------------------------------------------------------------

# By page: what is served, and the client whom each command of a block that shows its output reaches.
SHOWN = MappingProxyType(
    {
        "README.md": ("chat:chat", "/ws?room=lobby&userId=ann"),
        "docs/quick-start.md": ("chat:chat", "/ws?room=lobby&userId=ann"),
        "docs/calls.md": ("desk:desk", "/ws?room=front&userId=bob"),
    }
)

_PROMPT = re.compile(r"^\w*[$#] ")


def shown_commands(page: str) -> list[tuple[str, str]]:
    """List the commands of a page that it shows with their output, and that."""
    commands: list[tuple[str, str]] = []
    for block in GUIDES[page].blocks("console"):
        for line in block.splitlines():
            if _PROMPT.match(line):
                commands.append((_PROMPT.sub("", line), ""))
            else:
                commands[-1] = (commands[-1][0], commands[-1][1] + line + "\n")
    return [(command, output) for command, output in commands if output]


def test_every_output_of_a_command_is_compared() -> None:
    # A service on two machines has names and numbers of its own, so of these only the heads are compared.
    assert {page for page in DOCUMENTS if shown_commands(page)} == SHOWN.keys() | {"docs/scaling.md"}


async def run_command(server: Server, command: str) -> str:
    """Run a command that a page shows against a service, and return what it prints."""
    program, *words = shlex.split(command)
    if program == "verani":
        program, words = sys.executable, ["-m", "verani_gateway", words[0], "--url", server.internal, *words[1:]]
    elif shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")
    words = [word.replace(INTERNAL, server.internal) for word in words]
    process = await asyncio.create_subprocess_exec(program, *words, stdout=PIPE, stderr=PIPE)
    async with asyncio.timeout(60):
        printed, said = await process.communicate()
    assert process.returncode == 0, said.decode()
    return printed.decode()


@pytest.mark.parametrize("page", SHOWN)
async def test_a_command_prints_what_its_page_shows(serve: Serve, tmp_path: Path, page: str) -> None:
    target, url = SHOWN[page]
    GUIDES[page].save(tmp_path)
    server = await serve(target, directory=tmp_path)
    for command, output in shown_commands(page):
        async with VeraniClient(server.ws + url):  # another one each time: it may be sent away
            assert (await run_command(server, command)).strip() == output.strip()
    assert await server.stop() == 0


async def test_the_processes_of_a_service_are_shown_under_these_heads(serve: Serve) -> None:
    [(command, table)] = shown_commands("docs/scaling.md")
    server = await serve("examples.chat:chat", "--hosts", "1")
    printed = await run_command(server, command)
    assert printed.splitlines()[0].split() == table.splitlines()[0].split()
    assert await server.stop() == 0


# --- rooms and applications -----------------------------------------------------------------------------


def test_every_module_of_a_page_is_used() -> None:
    unused = []
    for page, files in PYTHON.items():
        users = "\n".join(block.text for name, block in files.items() if is_test(name) or is_program(block))
        for name, block in files.items():
            module = name.removesuffix(".py")
            used = is_test(name) or is_program(block) or re.search(rf"^from {module} import", users, re.MULTILINE)
            if not used and f"{page}/{name}" not in USED:
                unused.append(str(block))
    assert unused == []


def test_what_is_said_to_use_a_module_is_there() -> None:
    here = Path(__file__)
    named = [used for used in USED.values() if not here.with_name(f"{used}.py").exists()]
    assert named
    assert [name for name in named if f"def {name}(" not in here.read_text()] == []


Start = Callable[[str, str], Awaitable["Server"]]


@pytest.fixture
def serve_file(serve: Serve, tmp_path: Path) -> Start:
    """Return ``await serve_file(page, target)``, which serves what a page shows."""

    async def start(page: str, target: str) -> Server:
        GUIDES[page].save(tmp_path)
        return await serve(target, directory=tmp_path)

    return start


async def test_the_room_of_orders_says_what_is_unknown(serve_file: Start) -> None:
    server = await serve_file("docs/delivery.md", "orders:orders")
    async with VeraniClient(f"{server.ws}/ws") as client:
        assert await client.request("order.place", {"card": "4711"}) == "charged 4711"
        async for event in client:
            assert (event.type, event.data["card"]) == ("order.accepted", "4711")
            break
    assert await server.stop() == 0


async def test_the_conversation_of_the_protocol_goes_as_it_says(serve_file: Start) -> None:
    server = await serve_file("docs/protocol.md", "room:room")
    (conversation,) = GUIDES["docs/protocol.md"].blocks("text")
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

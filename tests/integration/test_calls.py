"""Calls from other processes: programs side by side, one that is killed, and the shell."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from verani import connect

if TYPE_CHECKING:
    from tests.integration.conftest import Serve, Server

PATIENCE = 60

APP = """
import asyncio
from verani import define_room

ledger = define_room("ledger", state=lambda: {"total": 0, "calls": 0}, hibernate_after=None)

@ledger.rpc
async def add(actor, amount: int) -> int:
    before = actor.state["total"]
    if amount % 7 == 0:
        await asyncio.sleep(0)
    actor.state["total"] = before + amount
    actor.state["calls"] += 1
    return actor.state["calls"]

@ledger.rpc
def total(actor) -> tuple[int, int]:
    return actor.state["total"], actor.state["calls"]

@ledger.rpc
async def hold(actor, seconds: float) -> None:
    await asyncio.sleep(seconds)
"""

CALLER = """
import asyncio, sys
from verani import connect

async def main(url, calls):
    async with connect(url, timeout=30) as service:
        room = service.room("ledger", "main")
        seen = []

        async def work(amounts):
            for amount in amounts:
                seen.append(await room.add(amount))

        await asyncio.gather(*(work(range(start, calls, 10)) for start in range(10)))
        assert len(set(seen)) == calls
        print(min(seen), max(seen))

asyncio.run(main(sys.argv[1], int(sys.argv[2])))
"""

HOLDER = """
import asyncio, sys
from verani import connect

async def main(url):
    async with connect(url, timeout=30) as service:
        calls = [service.room("ledger", "held").hold(0.5), service.room("ledger", "main").total()]
        print("calling", flush=True)
        await asyncio.gather(*calls)

asyncio.run(main(sys.argv[1]))
"""


@pytest.fixture
async def server(serve: Serve, tmp_path: Path) -> Server:
    (tmp_path / "ledger_app.py").write_text(APP)
    return await serve("ledger_app:ledger", directory=tmp_path)


async def python(program: str, *arguments: str) -> Process:
    return await asyncio.create_subprocess_exec(sys.executable, "-c", program, *arguments, stdout=PIPE, stderr=PIPE)


async def verani(*arguments: str) -> tuple[int, str, str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("VERANI_")}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "verani_gateway", *arguments, stdout=PIPE, stderr=PIPE, env=environment
    )
    out, err = await asyncio.wait_for(process.communicate(), PATIENCE)
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def test_four_thousand_calls_of_four_processes_are_counted_exactly(server: Server) -> None:
    callers = [await python(CALLER, server.internal, "1000") for _ in range(4)]
    for caller in callers:
        _, errors = await asyncio.wait_for(caller.communicate(), PATIENCE)
        assert caller.returncode == 0, errors.decode()
    async with connect(server.internal) as service:
        assert await service.room("ledger", "main").total() == [4 * sum(range(1000)), 4000]


async def test_a_caller_that_is_killed_leaves_nothing_behind(server: Server) -> None:
    callers = [await python(HOLDER, server.internal) for _ in range(3)]
    for caller in callers:
        assert caller.stdout is not None
        await asyncio.wait_for(caller.stdout.readline(), PATIENCE)
    await server.until("ledger/held", kept_awake_by="RPC")
    for caller in callers:
        with suppress(ProcessLookupError):  # on a slow machine the first ones have their answer
            caller.send_signal(signal.SIGKILL)
        await caller.communicate()
    assert -signal.SIGKILL in [caller.returncode for caller in callers]
    async with connect(server.internal, timeout=30) as service:
        assert await service.room("ledger", "held").total() == [0, 0]
        await server.until("ledger/held", kept_awake_by="hibernate_after never")
    assert not [line for line in server.lines if "ERROR" in line or "Traceback" in line]
    assert await server.stop() == 0


async def test_the_shell_calls_rooms(server: Server) -> None:
    at = ("--url", server.internal)
    assert await verani("call", "ledger/main", "add", "amount=5", *at) == (0, "1\n", "")
    assert await verani("call", "ledger/main", "total", *at) == (0, "[5,1]\n", "")
    assert await verani("call", "ledger/main", "broadcast", "channel=default", 'data={"a": 1}', *at) == (0, "0\n", "")


async def test_the_shell_says_in_one_line_what_the_service_refuses(server: Server) -> None:
    for arguments, said in (
        (("ledger/main", "add", "amount=five"), "Expected `int`, got `str`"),
        (("ledger/main", "nothing"), "no method 'nothing'"),
        (("ledger/main", "hold", "seconds=5", "--timeout", "0.1"), "did not answer in time"),
    ):
        await assert_refused(1, said, *arguments, "--url", server.internal)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("ledger", "total"), "DEFINITION/ROOM"),
        (("ledger/main", "add", "5"), "name=value"),
        (("ledger/main", "add", "amount=1", "amount=2"), "once"),
        (("ledger/main", "total", "--timeout", "never"), "seconds"),
    ],
)
async def test_the_shell_says_in_one_line_what_is_no_call_before_it_connects(
    unused_tcp_port: int, arguments: tuple[str, ...], said: str
) -> None:
    await assert_refused(2, said, *arguments, "--url", f"http://127.0.0.1:{unused_tcp_port}")


async def assert_refused(code: int, said: str, *arguments: str) -> None:
    ended, out, err = await verani("call", *arguments)
    assert (ended, out) == (code, "")
    assert said in err
    assert "Traceback" not in err


async def test_the_shell_says_at_once_where_it_found_nobody(unused_tcp_port: int) -> None:
    url = f"http://127.0.0.1:{unused_tcp_port}"
    code, _, err = await verani("call", "chat/lobby", "get_session_count", "--url", url, "--timeout", "600")
    assert code == 1
    assert f"cannot connect to {url}: connection refused" in err

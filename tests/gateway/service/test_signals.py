"""A signal is obeyed at every moment between exec and exit, whoever started the process."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path
from subprocess import PIPE

import pytest

from tests.gateway.started import Service, Start
from tests.netns import Machine, Network, why_not
from tests.shapes.service import Node

# What blocks for so long that only a signal can end it, and says so first.
HOLD = """
import asyncio, os, sys, time
from pathlib import Path

def note(text):
    with open("notes", "a") as file:
        file.write(text + "\\n")

"""
ROOM = """
from verani.room.definition import define_room
chat = define_room("chat", websocket_path="/ws/{room}")
"""
WAITING = (
    HOLD
    + ROOM
    + """
@chat.on_startup
async def wait():
    note("begun")
    try:
        await asyncio.sleep(1000)
    except asyncio.CancelledError:
        note("cancelled")
        raise
"""
)
BLOCKING = (
    HOLD
    + ROOM
    + """
@chat.on_startup
def block():
    note("begun")
    time.sleep(1000)
"""
)
THREADED = (
    HOLD
    + ROOM
    + """
@chat.on_startup
async def thread():
    note("begun")
    await asyncio.to_thread(time.sleep, 1000)
"""
)
STUBBORN = (
    HOLD
    + ROOM
    + """
@chat.on_startup
async def ignore():
    note("begun")
    while True:
        try:
            await asyncio.sleep(1000)
        except asyncio.CancelledError:
            pass
"""
)
IMPORTED = (
    HOLD
    + """
note("begun")
time.sleep(1000)
"""
)
# The first gateway imports it, all other processes hang.
IMPORTED_LATER = (
    HOLD
    + ROOM
    + """
from pathlib import Path

if Path("imported").exists():
    note("begun")
    time.sleep(1000)
Path("imported").touch()
"""
)
HOOKS = {"waits": WAITING, "blocks": BLOCKING, "threads": THREADED, "ignores": STUBBORN, "imports": IMPORTED}
# What is killed when its time is over shows by the time that it takes.
EMBEDDED = ("--drain-seconds", "600")
PROCESSES = (*EMBEDDED, "--hosts", "1")
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

# The product promises two seconds; what more a loaded machine needs is its own affair, and far from what would hang.
SOON = 100.0


async def begun(folder: Path) -> None:
    """Wait until the module of the application has said that it holds."""
    async with asyncio.timeout(60):
        while not (folder / "notes").exists():  # noqa: ASYNC110  # in another process
            await asyncio.sleep(0.01)


async def obeys(service: Service, number: signal.Signals) -> int:
    """Send a signal, and return the exit code when nothing is left of the service."""
    service.process.send_signal(number)
    async with asyncio.timeout(SOON):
        code = await service.end()
        await service.nothing_left()
    return code


@pytest.mark.parametrize("shape", [EMBEDDED, PROCESSES], ids=["embedded", "processes"])
@pytest.mark.parametrize("module", HOOKS)
async def test_a_start_that_hangs_ends_at_once(
    start: Start, tmp_path: Path, module: str, shape: tuple[str, ...]
) -> None:
    (tmp_path / "held.py").write_text(HOOKS[module], "utf-8")
    service = await start("serve", "held:chat", *shape)
    await begun(tmp_path)
    await service.asleep()
    assert await obeys(service, signal.SIGTERM) == 0
    assert "Traceback" not in service.output
    assert ("cancelled" in (tmp_path / "notes").read_text()) == (module == "waits")


@pytest.mark.parametrize("shape", [EMBEDDED, PROCESSES], ids=["embedded", "processes"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])  # SIGTERM: as above
async def test_every_stop_signal_ends_a_start_up_hook(
    start: Start, tmp_path: Path, number: signal.Signals, shape: tuple[str, ...]
) -> None:
    (tmp_path / "held.py").write_text(WAITING, "utf-8")
    service = await start("serve", "held:chat", *shape)
    await begun(tmp_path)
    assert await obeys(service, number) == 0
    assert "cancelled" in (tmp_path / "notes").read_text()


async def test_processes_that_hang_while_they_import_end_at_once(start: Start, tmp_path: Path) -> None:
    (tmp_path / "held.py").write_text(IMPORTED_LATER, "utf-8")
    service = await start("serve", "held:chat", *EMBEDDED, "--hosts", "2", "--gateways", "2")
    await begun(tmp_path)
    assert await obeys(service, signal.SIGTERM) == 0


@pytest.mark.parametrize("shape", [EMBEDDED, PROCESSES], ids=["embedded", "processes"])
@pytest.mark.parametrize("number", SIGNALS)
async def test_every_stop_signal_ends_a_service_that_serves(
    start: Start, number: signal.Signals, shape: tuple[str, ...]
) -> None:
    service = await (await start("serve", "app:chat", *shape)).started()
    assert await obeys(service, number) == 0
    assert service.output.count("[Verani] stopped") == 1


@pytest.mark.parametrize("shape", [EMBEDDED, PROCESSES], ids=["embedded", "processes"])
@pytest.mark.parametrize("module", ["waits", "imports", ""])
async def test_sigint_is_obeyed_where_it_was_inherited_as_ignored(
    start: Start, tmp_path: Path, module: str, shape: tuple[str, ...]
) -> None:
    (tmp_path / "held.py").write_text(HOOKS[module] if module else HOLD + ROOM + "note('begun')", "utf-8")
    service = await start("serve", "held:chat", *shape, ignoring=(signal.SIGINT,))
    if module:
        await begun(tmp_path)
    else:
        await service.started()
    assert await obeys(service, signal.SIGINT) == 0


@pytest.mark.parametrize("shape", [EMBEDDED, PROCESSES], ids=["embedded", "processes"])
async def test_a_service_that_nohup_has_started_outlives_its_terminal(start: Start, shape: tuple[str, ...]) -> None:
    service = await (await start("serve", "app:chat", *shape, ignoring=(signal.SIGHUP,))).started()
    service.process.send_signal(signal.SIGHUP)
    service.process.send_signal(signal.SIGTERM)
    assert await service.end() == 0
    # SIGHUP would have been the first signal of two.
    assert service.output.count("[Verani] stopped") == 1


@pytest.mark.parametrize("shape", [EMBEDDED, PROCESSES], ids=["embedded", "processes"])
async def test_a_second_signal_ends_a_start_at_once(start: Start, tmp_path: Path, shape: tuple[str, ...]) -> None:
    (tmp_path / "held.py").write_text(STUBBORN, "utf-8")
    service = await start("serve", "held:chat", *shape)
    await begun(tmp_path)
    service.process.send_signal(signal.SIGTERM)
    code = await obeys(service, signal.SIGINT)
    # It may have ended before, or have taken the two in the other order.
    assert code in (128 + signal.SIGINT, 128 + signal.SIGTERM, 0)


@pytest.mark.parametrize("shape", [EMBEDDED, PROCESSES], ids=["embedded", "processes"])
async def test_a_reloading_server_obeys_while_its_child_starts(
    start: Start, tmp_path: Path, shape: tuple[str, ...]
) -> None:
    (tmp_path / "held.py").write_text(WAITING, "utf-8")
    service = await start("serve", "held:chat", "--reload", *shape)
    await begun(tmp_path)
    assert await obeys(service, signal.SIGHUP) == 0
    assert "cancelled" in (tmp_path / "notes").read_text()


async def test_the_name_of_an_address_that_no_name_server_knows_holds_up_no_signal(
    start: Start, tmp_path: Path
) -> None:
    # Runs in every process of this interpreter; a name server that does not answer looks the same from here.
    (tmp_path / "sitecustomize.py").write_text(
        HOLD
        + """
import socket
look_up = socket.getaddrinfo
def hang(host, *args, **options):
    if host == "silent.test":
        note("begun")
        time.sleep(1000)
    return look_up(host, *args, **options)
socket.getaddrinfo = hang
""",
        "utf-8",
    )
    paths = os.pathsep.join([str(tmp_path), *(str(path) for path in _paths())])
    for option in ("--advertise", "--host"):
        (tmp_path / "notes").unlink(missing_ok=True)
        service = await start(
            *("serve", "app:chat", option, "silent.test", *PROCESSES),
            environ={"PYTHONPATH": paths, "VERANI_CLUSTER_SECRET": "0123456789abcdef"},
        )
        await begun(tmp_path)
        assert await obeys(service, signal.SIGTERM) == 0


def _paths() -> list[Path]:
    root = Path(__file__).parents[3]
    return [root, root / "actors", root / "gateway"]


@pytest.mark.parametrize("shape", [EMBEDDED, PROCESSES], ids=["embedded", "processes"])
async def test_a_signal_at_any_moment_of_the_start_is_obeyed(start: Start, shape: tuple[str, ...]) -> None:
    for step in range(3):
        service = await start("serve", "app:chat", *shape)
        await asyncio.sleep(0.05 + step * 0.5)  # wherever the start is by then
        code = await obeys(service, signal.SIGTERM)
        # Before the first line of ours, the kernel does what Python has not asked it not to do.
        assert code in (0, -signal.SIGTERM)
        assert "Traceback" not in service.output


@pytest.mark.parametrize("leads", [True, False], ids=["joined", "without a leader"])
async def test_a_machine_that_joins_obeys_at_every_moment(tmp_path: Path, leads: bool) -> None:
    if reason := why_not():
        pytest.skip(reason)
    held = HOLD + ROOM + '\n@chat.on_startup\nasync def wait():\n    note("begun")\n    await asyncio.sleep(1000)\n'
    for name, module in (("leader", ROOM), ("member", held)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "held.py").write_text(module, "utf-8")
    with Network(2) as network:
        nodes = []
        if leads:
            nodes.append(_node(network.machines[0], tmp_path / "leader", "serve"))
            await asyncio.to_thread(nodes[0].wait)
        nodes.append(_node(network.machines[1], tmp_path / "member", "join", network.machines[0].address))
        try:
            if leads:
                await begun(tmp_path / "member")
            else:
                await asyncio.to_thread(nodes[-1].heard, "does not answer")
            async with asyncio.timeout(SOON):
                assert await asyncio.to_thread(nodes[-1].stop) == 0
            assert network.machines[1].pids() == []
        finally:
            for node in nodes:
                node.kill()


def _node(machine: Machine, folder: Path, *command: str) -> Node:
    paths = os.pathsep.join(str(path) for path in _paths())
    options = ("held:chat", "--hosts", "1", "--gateways", "1", "--port", "0", "--advertise", machine.address)
    process = machine.popen(
        [sys.executable, "-m", "verani_gateway", *command, *options, "--machine", machine.name],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": paths, "VERANI_CLUSTER_SECRET": "0123456789abcdef"},
        stderr=PIPE,
    )
    return Node(process)

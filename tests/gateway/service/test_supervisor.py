"""Several processes are one service: they start and stop together, and none outlives it."""

import asyncio
import errno
import logging
import os
import re
import signal
import socket
import sys
from asyncio.subprocess import Process
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.gateway.started import Service, Start
from tests.ports import free_port
from verani_gateway.service.keeper import READY, Keeper

# A loaded machine may take seconds to import everything; nothing waits this long when all is well.
PATIENCE = 60


async def _echo(ws: aiohttp.ClientWebSocketResponse) -> int:
    """Have the room answer, and return the id of its process."""
    await ws.send_str('{"type":"echo"}')
    return int((await ws.receive_json())["data"]["pid"])


# --- start and stop ------------------------------------------------------------------------------------


async def test_several_processes_are_one_service_that_leaves_nothing_behind(start: Start) -> None:
    service = await (await start("serve", "app:chat", "--hosts", "2", "--gateways", "2")).started()
    gateways = service.pids("verani_gateway gateway")
    assert len(gateways) == 2
    hosts = set()
    async with aiohttp.ClientSession() as session:
        for room in range(8):
            async with session.ws_connect(f"{service.public}/ws/{room}") as ws:
                hosts.add(await _echo(ws))
        assert len(hosts) == 2
        assert not hosts & {*gateways, service.process.pid}
        async with session.get(f"{service.internal}/admin/cluster") as response:
            status = await response.json()
    assert {member["pid"] for member in status["members"]} == hosts
    assert {gateway["pid"] for gateway in status["gateways"]} == set(gateways)
    assert status["missing"] == []
    folder = next(iter(re.findall(r"gateway (\S+) app", _command(gateways[0]))))
    service.process.terminate()
    assert await service.end() == 0
    await service.nothing_left()
    assert not _exists(folder)
    for text in ("public listener: ", "internal listener: ", "room definition chat: ", "[Verani] stopped"):
        assert service.output.count(text) == 1
    assert "Traceback" not in service.output
    assert " root: " not in service.output  # nothing of the actor system's own


async def test_each_process_that_serves_imports_the_code_once_and_no_other_does(start: Start, tmp_path: Path) -> None:
    with (tmp_path / "app.py").open("a") as file:
        file.write('with open("imports", "a") as file: file.write(f"{os.getpid()}\\n")\n')
    service = await (await start("serve", "app:chat", "--hosts", "1", "--gateways", "2")).started()
    importers = [int(line) for line in (tmp_path / "imports").read_text().split()]
    gateways = service.pids("verani_gateway gateway")
    async with aiohttp.ClientSession() as session, session.ws_connect(f"{service.public}/ws/lobby") as ws:
        assert sorted(importers) == sorted([*gateways, await _echo(ws)])
    assert importers[0] in gateways


@pytest.mark.parametrize(
    ("line", "ending"),
    [
        ("os._exit(7)", "exit code 7"),
        ("os._exit(0)", "exit code 0, though nobody of this service has asked it to"),
        ("os.kill(os.getpid(), 11)", "SIGSEGV"),
    ],
)
async def test_code_that_ends_whoever_imports_it_ends_the_start(
    start: Start, tmp_path: Path, line: str, ending: str
) -> None:
    (tmp_path / "app.py").write_text(f"import os\n{line}\n")
    service = await start("serve", "app:chat", "--hosts", "1")
    assert await service.end() == 2
    assert service.lines == [f"verani: error: importing app:chat ended with {ending}"]


def _exists(path: str) -> bool:
    return Path(path).exists()


def _command(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()


@pytest.mark.threat(60)
async def test_a_signal_closes_websockets_with_1012_while_their_rooms_still_live(start: Start) -> None:
    service = await (await start("serve", "app:chat", "--hosts", "1")).started()
    async with aiohttp.ClientSession() as session, session.ws_connect(f"{service.public}/ws/lobby") as ws:
        await _echo(ws)
        service.process.terminate()
        assert (await ws.receive()).type is aiohttp.WSMsgType.CLOSE
        assert ws.close_code == 1012
    assert await service.end() == 0


@pytest.mark.threat(60)
async def test_a_second_signal_ends_everything_at_once(start: Start) -> None:
    service = await (await start("serve", "app:chat", "--hosts", "1")).started()
    host, _, port = service.public.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    # A client that never answers the close frame holds up the drain.
    writer.write(
        b"GET /ws/lobby HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    )
    await reader.readuntil(b"\r\n\r\n")
    service.process.terminate()
    await service.line("stopping: draining connections")
    service.process.terminate()
    assert await service.end() == 128 + signal.SIGTERM
    await service.nothing_left()
    writer.close()


@pytest.mark.threat(61)
async def test_a_service_that_is_killed_leaves_nothing_and_can_start_again_on_its_ports(start: Start) -> None:
    ports = "--port", str(free_port()), "--internal-port", str(free_port())
    service = await (await start("serve", "app:chat", "--hosts", "2", "--gateways", "2", *ports)).started()
    folder = re.findall(r"gateway (\S+) app", _command(service.pids("verani_gateway gateway")[0]))[0]
    service.process.kill()
    await service.nothing_left()
    again = await (await start("serve", "app:chat", "--hosts", "1", *ports)).started()
    assert again.public == service.public
    assert not _exists(folder)  # the successor has cleared it away


# --- who is ready --------------------------------------------------------------------------------------


async def _is_ready(internal: str) -> bool:
    """Ask on a connection of its own: whichever gateway takes it answers."""
    with suppress(aiohttp.ClientConnectionError):
        async with aiohttp.ClientSession() as session, session.get(f"{internal}/ready") as response:
            return response.status == 200
    return False


async def _connect(public: str) -> int:
    """Connect once and return the status of the answer; 0 where the connection was lost."""
    try:
        async with aiohttp.ClientSession() as session, session.ws_connect(f"{public}/ws/lobby"):
            return 101
    except aiohttp.WSServerHandshakeError as error:
        return error.status
    except aiohttp.ClientConnectionError:
        return 0


async def test_whoever_connects_when_any_gateway_says_ready_is_taken(start: Start) -> None:
    """At the start, while one is drained, and while one that was killed is replaced: the port is shared."""
    ports = free_port(), free_port()
    public, internal = (f"http://127.0.0.1:{port}" for port in ports)
    options = ("--port", str(ports[0]), "--internal-port", str(ports[1]))
    service = await start("serve", "app:chat", "--hosts", "1", "--gateways", "3", *options)
    async with asyncio.timeout(PATIENCE):
        while not await _is_ready(internal):  # noqa: ASYNC110  # in other processes, and it is not to be late
            await asyncio.sleep(0.002)
    assert [await _connect(public) for _ in range(24)] == [101] * 24
    await service.started()

    async def statuses(done: Callable[[], object]) -> set[int]:
        found: set[int] = set()
        while not done():
            if await _is_ready(internal):
                found.add(await _connect(public))
            await asyncio.sleep(0.01)  # the processes that end and start need the machine, too
        return found

    async with aiohttp.ClientSession() as session:
        async with session.get(f"{internal}/admin/cluster") as response:
            gateways = (await response.json())["gateways"]
        # It has somebody to say goodbye to.
        async with session.ws_connect(f"{public}/ws/hall") as ws:
            await _echo(ws)
            draining = await start("drain", f"gateway:{gateways[0]['id']}", "--url", internal)
            assert await statuses(lambda: draining.process.returncode is not None) == {101}
    assert await draining.end() == 0
    assert len(service.pids("verani_gateway gateway")) == 2
    os.kill(gateways[1]["pid"], signal.SIGKILL)
    replaced = asyncio.create_task(service.line("takes connections"))
    # What it had taken is lost with it, but nobody is refused.
    assert await statuses(replaced.done) <= {0, 101}
    assert [await _connect(public) for _ in range(24)] == [101] * 24
    service.process.terminate()
    assert await service.end() == 0


# --- what ends and is started again --------------------------------------------------------------------


@pytest.mark.threat(59)
async def test_a_gateway_that_is_killed_is_replaced_on_the_same_port(start: Start) -> None:
    service = await (await start("serve", "app:chat", "--hosts", "1")).started()
    (gateway,) = service.pids("verani_gateway gateway")
    async with aiohttp.ClientSession() as session:
        async with session.ws_connect(f"{service.public}/ws/lobby") as ws:
            host = await _echo(ws)
            os.kill(gateway, signal.SIGKILL)
            assert (await ws.receive()).type in (aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.ERROR)
        await service.line(rf"gateway process 1 \(pid {gateway}\) ended with SIGKILL: starting it again")
        await service.line("takes connections")
        async with session.ws_connect(f"{service.public}/ws/lobby") as ws:
            assert await _echo(ws) == host


async def test_a_gateway_that_was_told_to_end_from_outside_is_replaced(start: Start) -> None:
    service = await (await start("serve", "app:chat", "--hosts", "1")).started()
    async with aiohttp.ClientSession() as session:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            async with session.ws_connect(f"{service.public}/ws/lobby") as ws:
                host = await _echo(ws)
                (gateway,) = service.pids("verani_gateway gateway")
                os.kill(gateway, number)
                assert (await ws.receive()).type is aiohttp.WSMsgType.CLOSE
                assert ws.close_code == 1012
            # Whoever comes meanwhile waits.
            async with session.ws_connect(f"{service.public}/ws/lobby") as ws:
                assert await _echo(ws) == host
            await service.line(rf"gateway process 1 \(pid {gateway}\) ended with exit code 0, though nobody")


async def test_a_host_that_was_told_to_end_from_outside_is_replaced(start: Start) -> None:
    service = await (await start("serve", "app:chat", "--hosts", "1")).started()
    async with aiohttp.ClientSession() as session, session.ws_connect(f"{service.public}/ws/lobby") as ws:
        for number in (signal.SIGTERM, signal.SIGHUP):
            host = await _echo(ws)
            os.kill(host, number)
            await service.line(rf"host \S+, process {host}, has ended without having been drained")
            assert await _echo(ws) != host
    assert "has died" not in service.output


@pytest.mark.threat(61)
async def test_clients_stay_connected_while_the_launcher_is_replaced(start: Start) -> None:
    service = await (await start("serve", "app:chat", "--hosts", "1")).started()
    async with aiohttp.ClientSession() as session, session.ws_connect(f"{service.public}/ws/lobby") as ws:
        for number in (signal.SIGTERM, signal.SIGKILL):
            launcher = await _launcher(service)
            host = await _echo(ws)
            os.kill(launcher, number)
            await service.line(rf"the launcher \(pid {launcher}\) ended with")
            await service.line(r"epoch \d+: room hosts [^,]+$")
            assert await _echo(ws) != host
            while _has_zombies(service.process.pid):  # noqa: ASYNC110  # the supervisor waits for them, not this test
                await asyncio.sleep(0.05)


async def _launcher(service: Service) -> int:
    """Return the process that the others of the actor system descend from."""
    while True:
        pids = {*service.pids("verani_actors.processes.launcher")} & {*_children(service.process.pid)}
        if pids:
            return pids.pop()
        await asyncio.sleep(0.05)


def _children(parent: int) -> list[int]:
    return list(map(int, Path(f"/proc/{parent}/task/{parent}/children").read_text().split()))


def _has_zombies(parent: int) -> bool:
    """Tell whether a process has children that have ended and that it has not waited for."""
    for pid in _children(parent):
        with suppress(OSError):  # gone meanwhile
            if "State:\tZ" in Path(f"/proc/{pid}/status").read_text():
                return True
    return False


async def test_a_gateway_that_was_drained_is_not_started_again(start: Start) -> None:
    service = await (await start("serve", "app:chat", "--hosts", "1", "--gateways", "2")).started()
    async with aiohttp.ClientSession() as session:
        async with session.get(f"{service.internal}/admin/cluster") as response:
            first, second = [gateway["id"] for gateway in (await response.json())["gateways"]]
        drained = await start("drain", f"gateway:{first}", "--url", service.internal)
        assert await drained.end() == 0
        async with session.get(f"{service.internal}/admin/cluster") as response:
            assert [gateway["id"] for gateway in (await response.json())["gateways"]] == [second]
    assert len(service.pids("verani_gateway gateway")) == 1
    everything = await start("drain", "--all", "--url", service.internal)
    assert await everything.end() == 0
    assert await service.end() == 0
    assert "starting it again" not in service.output


async def test_nobody_waits_for_gateways_that_were_all_drained(start: Start) -> None:
    """Each of them was drained while there was another one; a machine may also have rooms and no gateway."""
    service = await (await start("serve", "app:chat", "--hosts", "1", "--gateways", "2")).started()
    address = service.public.removeprefix("http://").split(":")
    async with asyncio.timeout(PATIENCE):
        async with aiohttp.ClientSession(service.internal) as session:
            async with session.get("/admin/cluster") as response:
                targets = [f"gateway:{gateway['id']}" for gateway in (await response.json())["gateways"]]

            async def drain(target: str) -> int:
                async with session.post("/admin/drain", json={"target": target}) as response:
                    return response.status

            assert await asyncio.gather(*map(drain, targets)) == [202, 202]
        while await _takes(*address):  # noqa: ASYNC110  # another process
            await asyncio.sleep(0.05)
    assert service.pids("verani_gateway gateway") == []
    service.process.terminate()
    assert await service.end() == 0


async def _takes(host: str, port: str) -> bool:
    try:
        _, writer = await asyncio.open_connection(host, int(port))
    except ConnectionRefusedError:
        return False
    writer.close()
    return True


async def test_a_gateway_that_is_restarted_twice_at_once_gets_one_successor(start: Start) -> None:
    service = await (await start("serve", "app:chat", "--hosts", "1", "--gateways", "2")).started()
    async with asyncio.timeout(PATIENCE), aiohttp.ClientSession(service.internal) as session:

        async def restart(target: str) -> int:
            async with session.post("/admin/restart", json={"target": target}) as response:
                return response.status

        async def gateways() -> set[str]:
            async with session.get("/admin/cluster") as response:
                return {gateway["id"] for gateway in (await response.json())["gateways"]}

        first, second = await gateways()
        assert await asyncio.gather(*[restart(f"gateway:{first}") for _ in range(3)]) == [202] * 3
        # The other one after them, so that nobody is on the way any more once it has its successor.
        await service.line("has another process now")
        assert await restart(f"gateway:{second}") == 202
        await service.line("has another process now")
        while len(there := await gateways()) > 2 or {first, second} & there:  # noqa: ASYNC110  # in other processes
            await asyncio.sleep(0.05)
        assert len(there) == 2
    assert len(service.pids("verani_gateway gateway")) == 2
    service.process.terminate()
    assert await service.end() == 0
    assert service.output.count("has another process now") == 2


async def test_a_process_that_is_let_go_while_it_waits_to_be_started_again_has_not_failed() -> None:
    keeper = Keeper("it", [sys.executable, "-c", "raise SystemExit(7)"], os.environ, heard=lambda line: None)
    keeper.was_ready = True
    seen: list[str] = []

    class Watch(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            seen.append(record.getMessage())
            if seen[-1].endswith("starting it again in 0.1 s"):
                keeper.let_go()

    watch = Watch()
    log = logging.getLogger("verani_gateway.service.keeper")
    log.addHandler(watch)
    try:
        assert await keeper.run() == 0
    finally:
        log.removeHandler(watch)


async def test_a_process_that_goes_on_ending_is_started_more_and_more_slowly(
    caplog: pytest.LogCaptureFixture,
) -> None:
    heard: list[bytes] = []
    pids: list[int | None] = []

    def hear(line: bytes) -> None:
        heard.append(line)
        pids.append(keeper.pid)
        keeper.was_ready = True
        if len(heard) == 4:
            keeper.send(signal.SIGKILL)

    script = f"import os, time; os.write(0, {READY!r}); time.sleep(0.2); os._exit(3)"
    keeper = Keeper("it", [sys.executable, "-c", script], os.environ, heard=hear)
    await keeper.run()
    assert heard == [READY] * 4
    assert [record.getMessage() for record in caplog.records] == [
        f"it (pid {pids[0]}) ended with exit code 3: starting it again",
        f"it (pid {pids[1]}) ended with exit code 3: starting it again in 0.1 s",
        f"it (pid {pids[2]}) ended with exit code 3: starting it again in 0.2 s",
    ]
    assert keeper.pid is None


@pytest.mark.threat(72)
async def test_a_process_that_cannot_be_started_is_tried_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    failures = [OSError(errno.EAGAIN, "no more processes"), OSError(errno.ENOMEM, "no memory")]
    start_process = asyncio.create_subprocess_exec

    async def start_in_time(*command: str, **options: Any) -> Process:
        if failures:
            raise failures.pop(0)
        return await start_process(*command, **options)

    monkeypatch.setattr(asyncio, "create_subprocess_exec", start_in_time)
    keeper = Keeper("it", [sys.executable, "-c", ""], os.environ, heard=lambda line: None, last=0)
    assert await keeper.run() == 0
    assert [record.getMessage() for record in caplog.records] == [
        "it cannot be started: [Errno 11] no more processes; trying again in 0.1 s",
        "it cannot be started: [Errno 12] no memory; trying again in 0.2 s",
    ]


async def test_a_process_that_cannot_be_started_is_not_tried_any_more_at_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def start_never(*command: str, **options: Any) -> Process:
        keeper.send(signal.SIGTERM)
        raise OSError(errno.EAGAIN, "no more processes")

    monkeypatch.setattr(asyncio, "create_subprocess_exec", start_never)
    keeper = Keeper("it", [sys.executable, "-c", ""], os.environ, heard=lambda line: None)
    assert await keeper.run() == 1


@pytest.mark.threat(72)
async def test_a_full_disk_under_the_log_stops_nobody(start: Start, tmp_path: Path) -> None:
    # One that prints nothing: whether its own print raises is its own business.
    (tmp_path / "quiet.py").write_text('from verani import define_room\nchat = define_room("chat")\n', "utf-8")
    port = free_port()
    full = os.open("/dev/full", os.O_WRONLY)
    service = await start("serve", "quiet:chat", "--hosts", "1", "--internal-port", str(port), stderr=full)
    os.close(full)
    async with aiohttp.ClientSession() as session:
        while service.process.returncode is None:  # what it says nobody can read
            with suppress(aiohttp.ClientConnectionError):
                async with session.get(f"http://127.0.0.1:{port}/ready") as response:
                    if response.status == 200:
                        break
            await asyncio.sleep(0.05)
    service.process.terminate()
    assert await service.process.wait() == 0
    await service.nothing_left()


# --- what cannot start ---------------------------------------------------------------------------------


@pytest.mark.threat(62)
async def test_a_stranger_on_the_port_of_the_actor_system_ends_it_with_one_sentence(start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        port = stranger.getsockname()[1]
        service = await start("serve", "app:chat", "--hosts", "1", "--admin-port", str(port))
        assert await service.end() == 1
    assert f"port {port} of the actor system (admin_port) is in use by process {os.getpid()}" in service.output
    assert "Traceback" not in service.output
    await service.nothing_left()


async def test_a_port_that_another_service_shares_is_in_use(start: Start) -> None:
    service = await (await start("serve", "app:chat", "--hosts", "1")).started()
    port = service.public.rpartition(":")[2]
    for options in ([], ["--hosts", "1"]):
        other = await start("serve", "app:chat", "--port", port, *options)
        assert await other.end() == 1
        assert other.lines == [f"verani: error: cannot listen on 127.0.0.1:{port} (host, port): address already in use"]


@pytest.mark.parametrize(
    ("module", "target", "expected"),
    [
        ("", "app:chta", "app:chta: module app has no 'chta'"),
        ("", "app:hidden", "room definition 'hidden' of app:hidden cannot be found by room hosts"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "bad:x", "importing bad:x ended with SIGKILL"),
    ],
)
async def test_what_cannot_be_imported_ends_it_before_anything_starts(
    start: Start, tmp_path: Path, module: str, target: str, expected: str
) -> None:
    (tmp_path / "bad.py").write_text(module, encoding="utf-8")
    service = await start("serve", target, "--hosts", "1")
    assert await service.end() == 2
    assert any(expected in line for line in service.lines)  # a module may print, too
    assert "Traceback" not in service.output


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["serve", "app:chat", "--gateways", "2"], "expected --hosts of at least 1 with --gateways 2"),
        (["serve", "app:chat", "--gateways", "0"], "expected --hosts of at least 1 with --gateways 0"),
        (["join", "a:b:c", "app:chat", "--hosts", "1"], "expected the leader as HOST or HOST:PORT, got 'a:b:c'"),
        (["join", "leader", "app:chat", "--hosts", "1"], "expected VERANI_CLUSTER_SECRET to be set"),
        (["drain"], "expected one of host:ID, gateway:ID and --all, got nothing"),
        (["drain", "vm-0"], "expected one of host:ID, gateway:ID and --all, got 'vm-0'"),
    ],
)
async def test_wrong_use_is_one_sentence(start: Start, arguments: list[str], expected: str) -> None:
    service = await start(*arguments)
    assert await service.end() == 2
    (line,) = service.lines
    assert line.startswith("verani: error: ")
    assert expected in line


@pytest.mark.threat(47)
async def test_no_secret_is_on_a_command_line_or_in_the_log(start: Start) -> None:
    environ = {"VERANI_CLUSTER_SECRET": "cluster-s3cret-0123456789", "VERANI_ADMIN_TOKEN": "admin-s3cret"}
    service = await (await start("serve", "app:chat", "--hosts", "1", environ=environ)).started()
    assert all("s3cret" not in _command(pid) for pid in service.pids())
    service.process.terminate()
    assert await service.end() == 0
    assert "s3cret" not in service.output

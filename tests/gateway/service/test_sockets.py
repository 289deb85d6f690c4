"""Where a service listens: on several hosts, on both families, on a Unix socket; in one process and in several."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import stat
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from tests.gateway.started import Service as Started
from tests.gateway.started import Start
from tests.ports import free_port
from tests.raw import KEY
from verani import ConnectRequest, Settings, define_room
from verani_gateway.application import GATEWAY, adopt, setup
from verani_gateway.config import Secrets
from verani_gateway.service.listeners import Listeners
from verani_gateway.service.sockets import ListenError, listen_publicly, listen_unix, port_of, take

has_ipv6 = pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="there is no IPv6 that takes IPv4, too")

# A loaded machine may take seconds to import everything; nothing waits this long when all is well.
PATIENCE = 60


@asynccontextmanager
async def served(application: web.Application | None = None, **settings: Any) -> AsyncIterator[Listeners]:
    """Serve a room of which clients see who they are, as `verani serve` does in one process."""
    application = application if application is not None else web.Application()
    room = define_room("chat", websocket_path="/ws/{room}")
    room.on_connect(lambda ctx: ctx.emit("you", {"id": ctx.meta.user_id}))
    given = Settings(**{"port": 0, "internal_port": 0, "drain_seconds": 1.0, **settings})
    setup(application, room).configure(given)
    service = Listeners(application, given, Secrets("rpc", "admin"))
    await service.start()
    try:
        yield service
    finally:
        await service.stop()


async def enter(url: str, *, path: str | None = None, **headers: str) -> str:
    """Connect, and return who the room says one is."""
    connector = aiohttp.UnixConnector(path) if path is not None else None
    where = f"{url}/ws/lobby?userId=ann"
    async with aiohttp.ClientSession(connector=connector) as session, session.ws_connect(where, headers=headers) as ws:
        return str((await ws.receive_json())["data"]["id"])


async def status(url: str, *, path: str | None = None, method: str = "GET", **headers: str) -> int:
    """Ask for something, and return the status."""
    connector = aiohttp.UnixConnector(path) if path is not None else None
    async with (
        aiohttp.ClientSession(connector=connector) as session,
        session.request(method, url, headers=headers) as response,
    ):
        return response.status


# --- hosts -------------------------------------------------------------------------------------------------


async def test_all_hosts_share_one_port_and_each_is_told(caplog: pytest.LogCaptureFixture) -> None:
    async with served(
        host=("127.0.0.1", "127.0.0.2", "127.0.0.1"), internal_host=("127.0.0.3", "127.0.0.4")
    ) as service:
        assert len({url.rpartition(":")[2] for url in service.public_urls}) == 1
        assert [url.rpartition(":")[0] for url in service.internal_urls] == ["http://127.0.0.3", "http://127.0.0.4"]
        for url in service.public_urls:
            assert await enter(url) == "ann"
            assert await status(f"{url}/health") == 200
        for url in service.internal_urls:
            assert await status(f"{url}/ready") == 200
            assert await status(f"{url}/metrics", Authorization="Bearer admin") == 200


@has_ipv6
@pytest.mark.parametrize("host", ["::", ("::", "0.0.0.0"), ("0.0.0.0", "::", "127.0.0.1", "::1")])
async def test_all_of_ipv6_takes_ipv4_too_whatever_else_is_listed(host: Any) -> None:
    async with served(host=host, internal_host="::") as service:
        port = service.public_urls[0].rpartition(":")[2]
        for each in ("127.0.0.1", "[::1]"):
            assert await enter(f"http://{each}:{port}") == "ann"
        internal = service.internal_urls[0].rpartition(":")[2]
        for each in ("127.0.0.1", "[::1]"):
            assert await status(f"http://{each}:{internal}/ready") == 200
            assert await status(f"http://{each}:{internal}/metrics", Authorization="Bearer admin") == 200


@has_ipv6
async def test_one_address_of_ipv6_takes_nothing_else() -> None:
    # Of the ports that the kernel gives out, anybody may have the same number of IPv4.
    sockets = await listen_publicly(Settings(host="::1", port=free_port()))
    try:
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", port_of(sockets))
    finally:
        for each in sockets:
            each.close()


async def test_a_host_that_is_covered_by_another_is_no_conflict() -> None:
    async with served(host=("127.0.0.1", "0.0.0.0", "127.0.0.2")) as service:
        assert len(service.public_urls) == 3
        assert await enter(service.public_urls[2]) == "ann"


async def test_a_port_that_is_taken_at_one_host_is_told_and_at_no_other_is_listened_on() -> None:
    port = free_port()
    with socket.create_server(("127.0.0.2", port)):
        with pytest.raises(
            ListenError, match=rf"^cannot listen on 127\.0\.0\.2:{port} \(host, port\): address already"
        ):
            await listen_publicly(Settings(host=("127.0.0.1", "127.0.0.2"), port=port))
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", port)


@pytest.mark.parametrize("host", ["127.0.0.1", pytest.param("::", marks=has_ipv6), ("127.0.0.1", "127.0.0.2")])
async def test_what_was_taken_is_of_nobody_else_and_clients_wait_there(host: Any) -> None:
    with ExitStack() as opened:
        settings, sockets = await take(Settings(host=host, port=0, internal_port=0), opened)
        assert {port_of([each]) for each in sockets.public} == {settings.port}
        with pytest.raises(ListenError, match="address already in use"):
            await listen_publicly(settings)
        with socket.create_connection(("127.0.0.1", settings.port)):
            accepted, _ = sockets.public[0].accept()
            accepted.close()
    for each in await listen_publicly(settings):  # it is free again
        each.close()


async def test_hosts_given_to_the_command_are_listened_on_by_every_gateway(start: Start) -> None:
    words = ("--host", "127.0.0.1", "--host", "127.0.0.2", "--hosts", "1", "--gateways", "2")
    service = await start("serve", "app:chat", *words)
    urls = [(await service.line(r"public listener: (http://\S+)"))[1] for _ in range(2)]
    assert [url.rpartition(":")[0] for url in urls] == ["http://127.0.0.1", "http://127.0.0.2"]
    await service.line(r"internal listener: http://127\.0\.0\.1:")
    async with aiohttp.ClientSession() as session:
        for url in urls * 4:
            async with session.ws_connect(f"{url}/ws/lobby") as ws:
                await ws.send_str('{"type":"echo"}')
                assert (await ws.receive_json())["data"]["type"] == "echo"
    service.process.terminate()
    assert await service.end() == 0


# --- Unix sockets --------------------------------------------------------------------------------------------


@pytest.fixture
def path(tmp_path: Path) -> Iterator[str]:
    before = Path.cwd()
    os.chdir(tmp_path)  # a path of a socket has a short limit, and folders of tests have long names
    yield "x.sock"
    os.chdir(before)


def found(path: str) -> os.stat_result | None:
    """Look at a file, None where there is none."""
    return Path(path).stat() if Path(path).exists() else None


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


async def test_a_unix_socket_takes_the_place_of_host_and_port(path: str) -> None:
    with umask(0o007):
        async with served(unix_socket=path) as service:
            assert service.public_urls == ("unix:x.sock",)
            assert await enter("http://localhost", path=path) == "ann"
            assert await status("http://any.name/health", path=path) == 200
            assert await status(f"{service.internal_urls[0]}/ready") == 200
            made = found(path)
            assert made is not None
            assert stat.S_ISSOCK(made.st_mode)
            assert stat.S_IMODE(made.st_mode) == 0o770
    assert found(path) is None


async def test_a_proxy_behind_a_unix_socket_can_be_trusted(path: str) -> None:
    said = {"X-Forwarded-For": "203.0.113.7", "X-Forwarded-Proto": "https", "X-Forwarded-Host": "app.test"}
    for trusted, expected in ((("unix",), 101), ((), 403)):
        async with served(unix_socket=path, trusted_proxies=trusted):
            assert await upgrade(path, Origin="https://app.test", **said) == expected
            assert await upgrade(path, Host="app.test", Origin="http://app.test") == 101


async def test_an_application_of_ones_own_may_listen_on_a_unix_socket_behind_a_proxy(path: str) -> None:
    remotes: list[str | None] = []

    def identify(request: ConnectRequest) -> dict[str, str]:
        remotes.append(request.remote)
        return {"user_id": "ann"}

    application = web.Application()
    room = define_room("chat", websocket_path="/ws/{room}", extract_meta=identify)
    setup(application, room, settings=Settings(trusted_proxies=("unix",), drain_seconds=1.0))
    runner = web.AppRunner(application)
    await runner.setup()
    await web.UnixSite(runner, path).start()
    said = {"X-Forwarded-For": "203.0.113.7", "X-Forwarded-Proto": "https", "Host": "app.test"}
    assert await upgrade(path, Origin="https://app.test", **said) == 101
    assert await upgrade(path, Origin="http://app.test", **said) == 403
    assert await upgrade(path) == 101
    assert remotes == ["203.0.113.7", "unix"]
    await runner.cleanup()


async def test_who_is_trusted_over_a_unix_socket_is_told_from_what_the_client_calls_its_own(path: str) -> None:
    application = web.Application()
    async with served(application, unix_socket=path, trusted_proxies=("127.0.0.1",)):
        with socket.socket(socket.AF_UNIX) as client:
            client.setblocking(False)
            client.bind("127.0.0.1")  # the name of a file, which would be a trusted address
            await asyncio.get_running_loop().sock_connect(client, path)
            said = {"X-Forwarded-Proto": "https", "Origin": "https://localhost"}
            assert await upgrade(client, **said) == 403
        assert application[GATEWAY].metrics.limited["allowed_origins"] == 1


async def upgrade(where: str | socket.socket, **headers: str) -> int:
    """Send a handshake over a Unix socket, and return the status."""
    if isinstance(where, str):
        reader, writer = await asyncio.open_unix_connection(where)
    else:
        reader, writer = await asyncio.open_unix_connection(sock=where)
    lines = {"Host": "localhost", "Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13"}
    lines |= {"Sec-WebSocket-Key": KEY, **headers}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    writer.write(f"GET /ws/lobby HTTP/1.1\r\n{head}\r\n".encode())
    answer = await reader.readuntil(b"\r\n")
    writer.close()
    return int(answer.split()[1])


async def test_what_a_killed_service_left_behind_is_replaced(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(path)
        left.listen()
    async with served(unix_socket=path):
        assert await enter("http://localhost", path=path) == "ann"
    assert found(path) is None


async def test_a_unix_socket_in_use_is_left_alone(path: str) -> None:
    async with served(unix_socket=path):
        with pytest.raises(ListenError, match=r"^cannot listen on x\.sock \(unix_socket\): address already in use$"):
            async with served(unix_socket=path):
                pass
        assert await enter("http://localhost", path=path) == "ann"


def test_a_unix_socket_whose_queue_is_full_is_in_use(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as busy, socket.socket(socket.AF_UNIX) as waiting:
        busy.bind(path)
        busy.listen(0)
        waiting.connect(path)
        with pytest.raises(ListenError, match="address already in use$"), listen_unix(path):
            pass
    assert Path(path).exists()


def test_a_file_that_is_no_socket_is_left_alone(path: str) -> None:
    Path(path).write_text("mine")
    with pytest.raises(ListenError, match=r"x\.sock is no socket$"), listen_unix(path):
        pass
    assert Path(path).read_text() == "mine"


def test_a_link_to_a_socket_is_no_socket(path: str) -> None:
    with listen_unix("other.sock"):
        Path(path).symlink_to("other.sock")
        with pytest.raises(ListenError, match="is no socket$"), listen_unix(path):
            pass


@pytest.mark.parametrize("bad", ["no/such/folder/x.sock", "x" * 200, "a\0b"])
def test_a_path_that_no_socket_can_have_is_one_sentence(path: str, bad: str) -> None:
    with pytest.raises(ListenError, match=r"^cannot listen on .* \(unix_socket\): "), listen_unix(bad):
        pass


def test_what_has_taken_the_place_of_the_socket_is_left_alone(path: str) -> None:
    with listen_unix(path):
        Path(path).unlink()
        Path(path).write_text("mine")
    assert Path(path).read_text() == "mine"


def test_a_socket_that_is_gone_by_the_end_is_no_error(path: str) -> None:
    with listen_unix(path):
        Path(path).unlink()


@pytest.mark.parametrize("shape", [(), ("--hosts", "1", "--gateways", "3")], ids=str)
async def test_the_command_listens_on_a_unix_socket_in_every_shape(
    start: Start, tmp_path: Path, path: str, shape: tuple[str, ...]
) -> None:
    service = await start(
        "serve", "app:chat", "--unix-socket", str(tmp_path / path), "--trusted-proxies", "unix", *shape
    )
    assert (await service.line(r"public listener: (\S+)"))[1] == f"unix:{tmp_path / path}"
    await service.line("room definition chat: /ws/{room}")
    internal = (await service.line(r"internal listener: (http://\S+)"))[1]
    assert await status(f"{internal}/ready") == 200
    pids = {await echo(path) for _ in range(4)}
    assert len(pids) == 1, "one room, one process"
    if shape:
        await replaced(service, path)
    service.process.send_signal(signal.SIGTERM)
    assert await service.end() == 0
    assert found(path) is None
    assert "Traceback" not in service.output


async def echo(path: str) -> int:
    """Have the room answer over a Unix socket, and return the id of its process."""
    async with (
        aiohttp.ClientSession(connector=aiohttp.UnixConnector(path)) as session,
        session.ws_connect("http://localhost/ws/lobby") as ws,
    ):
        await ws.send_str('{"type":"echo"}')
        return int((await ws.receive_json())["data"]["pid"])


async def replaced(service: Started, path: str) -> None:
    """Kill all gateways: those that follow listen on the very same socket."""
    before = found(path)
    gateways = service.pids("verani_gateway gateway")
    for pid in gateways:
        os.kill(pid, signal.SIGKILL)
    for _ in gateways:
        await service.line("takes connections")
    await echo(path)
    after = found(path)
    assert before is not None
    assert after is not None
    assert os.path.samestat(before, after)


# --- names ---------------------------------------------------------------------------------------------------


def site() -> web.Application:
    """Make an application with a page of its own."""

    async def page(_: web.Request) -> web.Response:
        return web.Response(text="page")

    application = web.Application()
    application.router.add_get("/", page)
    application.router.add_post("/", page)
    return application


EVIL = {"Host": "evil.test:9000"}
OWN = {**EVIL, "Origin": "http://evil.test:9000"}


@pytest.mark.parametrize(
    ("settings", "headers", "method", "expected"),
    [
        ({}, EVIL, "GET", 403),
        ({}, EVIL, "HEAD", 403),
        ({}, OWN, "POST", 403),
        # No browser posts without saying for whom.
        ({}, EVIL, "POST", 200),
        ({}, {"Host": "localhost:1"}, "GET", 200),
        ({}, {"Host": "app.localhost."}, "GET", 200),
        ({"host": "127.0.0.2"}, EVIL, "GET", 403),
        ({"public_hosts": ("evil.test",)}, EVIL, "GET", 200),
        ({"public_hosts": ("*.test",)}, OWN, "POST", 200),
        ({"public_hosts": ("*",)}, OWN, "POST", 200),
        ({"public_hosts": ("app.test",)}, EVIL, "GET", 403),
        ({"host": "0.0.0.0"}, EVIL, "GET", 200),
        ({"host": "0.0.0.0", "public_hosts": ("app.test",)}, EVIL, "GET", 403),
        # What a proxy on this machine brings.
        ({"trusted_proxies": ("127.0.0.1",)}, {**EVIL, "X-Forwarded-For": "203.0.113.7"}, "GET", 200),
        ({"trusted_proxies": ("127.0.0.1",)}, EVIL, "GET", 403),
        # A page can say what a proxy says, when it is its own origin that it asks.
        (
            {"trusted_proxies": ("127.0.0.1",), "public_hosts": ("app.test",)},
            {**EVIL, "X-Forwarded-For": "203.0.113.7"},
            "GET",
            403,
        ),
        (
            {"trusted_proxies": ("127.0.0.1",), "public_hosts": ("app.test",)},
            {**EVIL, "X-Forwarded-Host": "app.test"},
            "GET",
            200,
        ),
        ({"trusted_proxies": ("10.0.0.1",)}, {**EVIL, "X-Forwarded-For": "203.0.113.7"}, "GET", 403),
    ],
)
async def test_at_loopback_no_page_is_served_under_a_name_that_was_made_to_lead_there(
    settings: dict[str, Any], headers: dict[str, str], method: str, expected: int
) -> None:
    async with served(site(), **settings) as service:
        port = service.public_urls[0].rpartition(":")[2]
        host = settings.get("host", "127.0.0.1").replace("0.0.0.0", "127.0.0.1")
        assert await status(f"http://{host}:{port}/", method=method, **headers) == expected
        assert await status(f"http://{host}:{port}/health", method="GET", **headers) == 200


async def test_a_refused_name_is_counted_and_logged_and_the_proxy_that_was_forgotten_is_warned_of(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    application = site()
    async with served(application) as service:
        for _ in range(2):
            await status(f"{service.public_urls[0]}/?token=s3cret", Host="app.test", **{"X-Forwarded-For": "1.2.3.4"})
    assert application[GATEWAY].metrics.limited["public_hosts"] == 2
    told = [record.getMessage() for record in caplog.records if record.name == "verani_gateway.connections.refusal_log"]
    assert re.match("127.0.0.1 sends X-Forwarded-", told[0])
    assert (
        told[1:]
        == [
            "refused a request at / from 127.0.0.1 with 403: Host 'app.test' is no name of the public listener"
            " (public_hosts)"
        ]
        * 2
    )
    assert "s3cret" not in caplog.text


async def test_a_stray_handshake_to_an_application_with_rooms_in_a_part_of_it_is_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    inner, outer = web.Application(), web.Application()
    setup(inner, define_room("chat"))
    outer.add_subapp("/rooms", inner)
    settings = Settings(port=0, internal_port=0, drain_seconds=1.0)
    adopt(outer).configure(settings)
    service = Listeners(outer, settings, Secrets())
    await service.start()
    try:
        for path in ("/ws", "/rooms/wss"):
            assert await status(f"{service.public_urls[0]}{path}", Upgrade="websocket", Connection="Upgrade") == 404
    finally:
        await service.stop()
    told = [record.getMessage() for record in caplog.records if record.name == "verani_gateway.connections.refusal_log"]
    assert told == [
        f"refused a handshake at {path} from 127.0.0.1 with 404: nothing is at this path, rooms are at /rooms/ws"
        for path in ("/ws", "/rooms/wss")
    ]


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
async def test_a_websocket_of_such_a_page_is_refused_where_loopback_is_all_there_is(host: str) -> None:
    async with served(host=host) as service:
        url = f"http://127.0.0.1:{service.public_urls[0].rpartition(':')[2]}"
        assert await enter(url, Host="evil.test:9000") == "ann", "no browser"
        if host == "0.0.0.0":
            assert await enter(url, **OWN) == "ann"
        else:
            with pytest.raises(aiohttp.WSServerHandshakeError, match="403"):
                await enter(url, **OWN)

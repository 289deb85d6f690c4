"""The command line as people run it: real processes, real signals, what they print and how they end."""

import asyncio
import json
import os
import re
import signal
import socket
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from tests.gateway.started import Output
from tests.ports import free_port
from verani.client import VeraniClient
from verani.room.definition import define_room
from verani.settings import Settings
from verani_gateway.application import setup
from verani_gateway.cli.main import main
from verani_gateway.config import SETTINGS, Secrets
from verani_gateway.service import listeners, serve, sockets

ROOT = Path(__file__).parents[3]

APP = """
import asyncio, logging, time
from aiohttp import web
from verani.room.definition import define_room
from verani_gateway.application import setup

chat = define_room("chat", websocket_path="/ws/{room}")
game = define_room("game", websocket_path="/game")
member = define_room("member", extract_meta=lambda request: None)

async def block(request):
    logging.getLogger("app").info("blocking the loop")
    time.sleep(60)

app = web.Application()
app.router.add_get("/block", block)
setup(app, define_room("chat"))

async def hang(app):
    logging.getLogger("app").info("cleaning up for ever")
    await asyncio.Event().wait()

hanging = web.Application()
hanging.on_cleanup.append(hang)
setup(hanging, define_room("chat"))

async def fail(app):
    raise RuntimeError("no database")

stubborn = web.Application()
stubborn_room = define_room("chat", on_shutdown=lambda: logging.getLogger("app").info("shut down"))

@stubborn_room.on("hang")
async def hang_on(ctx, data):
    logging.getLogger("app").info("hanging")
    while True:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            pass

setup(stubborn, stubborn_room)

failing = web.Application()
failing.on_startup.append(fail)
setup(failing, define_room("chat"))
"""


class Server(Output):
    """A started `verani serve`."""

    async def urls(self) -> tuple[str, str]:
        public = await self.line(r"public listener: (http://\S+)")
        return public[1], (await self.line(r"internal listener: (http://\S+)"))[1]


Start = Callable[..., Awaitable[Server]]


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    """Start `verani ARGUMENTS` in a directory with app.py; what still runs at the end is killed."""
    (tmp_path / "app.py").write_text(APP, encoding="utf-8")
    servers: list[Server] = []

    async def start(
        *arguments: str,
        environ: Mapping[str, str] | None = None,
        descriptors: int | None = None,
        stdout: int | None = None,
    ) -> Server:
        command = [sys.executable, "-m", "verani_gateway", *arguments]
        if descriptors is not None:
            command = ["sh", "-c", f'ulimit -n {descriptors}; exec "$@"', "sh", *command]
        process = await asyncio.create_subprocess_exec(
            *command, cwd=tmp_path, env=_environment(environ), stderr=PIPE, stdout=stdout
        )
        servers.append(Server(process))
        return servers[-1]

    yield start
    for server in servers:
        if server.process.returncode is None:
            server.process.kill()
            await server.end()


def _environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    paths = [str(ROOT), str(ROOT / "actors"), str(ROOT / "gateway"), *filter(None, [os.environ.get("PYTHONPATH")])]
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("VERANI_")}
    return {**inherited, "PYTHONPATH": os.pathsep.join(paths), **(extra or {})}


async def _get(url: str, **headers: str) -> int:
    async with aiohttp.ClientSession() as session, session.get(url, headers=headers) as response:
        return response.status


async def _text(url: str) -> str:
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        return await response.text()


# --- what it prints ------------------------------------------------------------------------------------


def _printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 0
    return " ".join(capsys.readouterr().out.split())


def test_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert re.fullmatch(r"verani \S.*", _printed(capsys, "--version"))


def test_help_shows_every_setting_with_its_description_and_default(capsys: pytest.CaptureFixture[str]) -> None:
    text = _printed(capsys, "serve", "--help")
    for setting in SETTINGS.values():
        assert f"{setting.option}{',' if setting.is_flag else ''} " in text
        shown = text.partition(" ".join(setting.description.split()))[2] or pytest.fail(setting.name)
        assert "default: " in setting.description or shown.startswith(" (default: "), setting.name
    assert "(default: 8000)" in text
    assert "(default: 1048576)" in text.partition("--rate-limit-bytes N")[2].partition("--rate")[0]
    assert "until-eof" not in text


def _refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Return the last line of what a command line prints that is wrong, and after which nothing runs."""
    try:
        code: object = main(arguments)
    except SystemExit as end:
        code = end.code
    assert code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "Traceback" not in printed.err
    return printed.err.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["serve", "app:chat", "--port", "x"], "--port: expected an integer from 0 to 65535, got 'x'"),
        (["serve", "app:chat", "--config", "gone.toml"], "--config: no such file: gone.toml"),
        (["serve", "app:chat", "--rate-limits", "5"], "unknown option --rate-limits; did you mean --rate-limit?"),
        (["serve", "app:chat", "--rate", "5"], "unknown option --rate"),
        (["serve"], "the following arguments are required: MODULE:NAME"),
        ([], "the following arguments are required: COMMAND"),
        (["join"], "the following arguments are required: LEADER, MODULE:NAME"),
        (["jion"], "unknown command 'jion'; did you mean join?"),
        (["app:chat"], "unknown command 'app:chat'; expected one of serve, "),
        (["--port", "9000", "serve", "app:chat"], "expected a command before --port: serve, "),
        (["--rpc-token=s3cret", "serve"], "expected a command before --rpc-token: serve, "),
        (["serve", "app:chat", "--prot", "0", "app:game"], "unknown option --prot; did you mean --port?"),
        (["serve", "--prot", "0", "app:game"], "unknown option --prot; did you mean --port?"),
        (["serve", "app:chat", "-p", "0"], "unknown option -p"),
        (["serve", "--port", "0"], "the following arguments are required: MODULE:NAME"),
        (["serve", "app:chat", "--port"], "argument --port: expected one argument"),
        (["rooms", "lobby"], "unexpected 'lobby'"),
        (["rooms", "--json", "lobby", "other"], "unexpected 'lobby', 'other'"),
        (["rooms", "--limit", "x"], "argument --limit: expected a number from 0 up, got x"),
        (["drain", "host:a", "host:b"], "unexpected 'host:b'"),
        (["call", "chat/lobby"], "the following arguments are required: METHOD"),
        (
            ["call", "chat/lobby", "say", "--url", "http://127.0.0.1:1", "a"],
            "expected arguments as name=value, got 'a'",
        ),
    ],
)
def test_wrong_use_ends_with_one_sentence_and_exit_code_2(
    capsys: pytest.CaptureFixture[str], arguments: list[str], expected: str
) -> None:
    assert expected in _refused(capsys, *arguments)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["app:chta"], "app:chta: module app has no 'chta'; did you mean chat?"),
        (["gone:chat"], "module 'gone' was not found; searched "),
        (["app"], "expected MODULE:NAME such as app:room, got 'app'; did you mean app:NAME?"),
        (["app:chat", "app:app"], "expected room definitions only, or one application, got "),
        (["app:chat", "--internal-host", "0.0.0.0"], "internal_host '0.0.0.0' is reachable from other"),
        (["app:chat", "--port", "0", "8000"], "expected MODULE:NAME such as app:room, got '8000'"),
        (["app:chat", "--port", "0", "app:chta"], "app:chta: module app has no 'chta'; did you mean chat?"),
    ],
)
async def test_what_cannot_be_served_ends_with_one_sentence_and_exit_code_2(
    start: Start, arguments: list[str], expected: str
) -> None:
    server = await start("serve", *arguments)
    assert await server.end() == 2
    assert expected in server.lines[-1]
    assert "Traceback" not in server.output


@pytest.mark.parametrize(
    "arguments",
    [
        ["app:chat", "--port", "0", "app:game"],
        ["--port", "0", "app:chat", "--internal-port=0", "app:game", "--log-level", "info"],
        ["app:chat", "--no-link-compression", "app:game", "--port", "0"],
        ["--port", "0", "--", "app:chat", "app:game"],
    ],
)
async def test_modules_may_stand_anywhere_among_the_options(start: Start, arguments: list[str]) -> None:
    server = await start("serve", *arguments)
    await server.urls()
    assert re.findall(r"room definition (\w+):", server.output) == ["chat", "game"]


async def test_a_module_that_raises_ends_with_its_place_and_exit_code_2(start: Start, tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("x = 1\nraise ValueError('two\\nlines')\n", encoding="utf-8")
    server = await start("serve", "broken:chat")
    assert await server.end() == 2
    assert server.lines == [r"verani: error: importing broken failed at broken.py:2: ValueError: two\nlines"]


@pytest.mark.parametrize("arguments", [["--admin-token", "s3cret"], ["--admin-token=s3cret"], ["--rpc-token=s3cret"]])
def test_a_secret_on_the_command_line_is_refused_and_not_repeated(
    capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["serve", "app:chat", *arguments])
    printed = capsys.readouterr().err
    assert "unknown option --" in printed
    assert "s3cret" not in printed


# --- serving -------------------------------------------------------------------------------------------


async def test_it_says_where_it_listens_and_answers_there(start: Start) -> None:
    server = await start("serve", "app:chat", "app:game", "--port", "0")
    public, internal = await server.urls()
    websocket = public.replace("http", "ws")
    assert f"[Verani] room definition chat: {websocket}/ws/{{room}}" in server.output
    assert f"[Verani] room definition game: {websocket}/game" in server.output
    assert await _get(f"{public}/health") == 200
    assert await _get(f"{internal}/ready") == 200
    assert await _get(f"{internal}/admin/rooms") == 200


NESTED = """
from aiohttp import web
from verani.room.definition import define_room
from verani_gateway.application import setup

chat = define_room("chat", websocket_path="/ws/{room}")
chat.on("where")(lambda ctx, data: ctx.actor.name)

async def index(request):
    return web.Response(text="index")

rooms = web.Application()
setup(rooms, chat)
api = web.Application()
api.add_subapp("/v1", rooms)
app = web.Application()
app.router.add_get("/", index)
app.add_subapp("/api", api)
"""


@pytest.mark.parametrize("shape", [(), ("--hosts", "1")], ids=["one process", "several"])
async def test_rooms_of_a_sub_application_of_a_sub_application_are_served(
    start: Start, tmp_path: Path, shape: tuple[str, ...]
) -> None:
    (tmp_path / "nested.py").write_text(NESTED, encoding="utf-8")
    server = await start("serve", "nested:app", *shape, "--port", "0")
    public, internal = await server.urls()
    websocket = public.replace("http", "ws")
    assert f"[Verani] room definition chat: {websocket}/api/v1/ws/{{room}}" in server.output
    async with VeraniClient(f"{websocket}/api/v1/ws/lobby") as client:
        assert await client.request("where") == "chat/lobby"
    assert await _get(f"{public}/") == await _get(f"{public}/health") == 200
    assert await _get(f"{internal}/ready") == 200
    server.process.terminate()
    assert await server.end() == 0


@pytest.mark.threat(49)
async def test_what_is_internal_is_not_on_the_public_listener(start: Start) -> None:
    public, _ = await (await start("serve", "app:chat", "--port", "0")).urls()
    for path in ("/ready", "/admin", "/admin/rooms", "/metrics", "/debug"):
        assert await _get(public + path) == 404, path


async def test_settings_come_from_file_environment_and_options(start: Start, tmp_path: Path) -> None:
    (tmp_path / "verani.toml").write_text('port = 0\nlog_level = "error"\ndrain_seconds = 3\n', encoding="utf-8")
    server = await start("serve", "app:chat", "--log-level", "info", environ={"VERANI_DRAIN_SECONDS": "4"})
    await server.urls()
    server.process.terminate()
    assert (await server.line(r"for up to (\d+) s"))[1] == "4"
    assert await server.end() == 0


async def test_an_unknown_variable_is_one_warning(start: Start) -> None:
    environ = {"VERANI_PROT": "1", "VERANI_ODD": "s3cret", "VERANI_RPC_TOKN": "s3cret"}
    server = await start("serve", "app:chat", "--port", "0", environ=environ)
    await server.urls()
    warnings = [line for line in server.lines if "WARNING" in line]
    assert len(warnings) == 1
    ignored = "VERANI_ODD, VERANI_PROT; did you mean VERANI_PORT?, VERANI_RPC_TOKN; did you mean VERANI_RPC_TOKEN?"
    assert warnings[0].endswith(f"ignored: {ignored}")


@pytest.mark.parametrize(
    ("target", "host", "warned"), [("chat", "0.0.0.0", 1), ("member", "0.0.0.0", 0), ("chat", "localhost", 0)]
)
async def test_a_room_that_trusts_everybody_beyond_loopback_is_a_warning(
    start: Start, target: str, host: str, warned: int
) -> None:
    server = await start("serve", f"app:{target}", "--port", "0", "--host", host)
    await server.urls()
    server.process.terminate()
    assert await server.end() == 0
    warnings = [line for line in server.lines if "WARNING" in line]
    assert len(warnings) == warned
    assert all("without extract_meta clients may claim any user id in: chat" in line for line in warnings)


async def test_a_port_in_use_is_one_sentence_and_exit_code_1(start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for option in ("--port", "--internal-port"):
            server = await start("serve", "app:chat", "--port", "0", option, str(port))
            assert await server.end() == 1
            names = "host, port" if option == "--port" else "internal_host, internal_port"
            assert server.lines == [
                f"verani: error: cannot listen on 127.0.0.1:{port} ({names}): address already in use"
            ]


async def test_an_address_of_another_machine_is_one_sentence_and_exit_code_1(start: Start) -> None:
    server = await start("serve", "app:chat", "--port", "0", "--host", "192.0.2.1")
    assert await server.end() == 1
    assert server.lines == ["verani: error: cannot listen on 192.0.2.1:0 (host, port): cannot assign requested address"]


@pytest.mark.threat(47)
@pytest.mark.threat(49)
async def test_tokens_are_required_and_never_reach_the_log(start: Start, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("s3cret\n", encoding="utf-8")
    environ = {"VERANI_ADMIN_TOKEN_FILE": "token", "VERANI_RPC_TOKEN": "other-s3cret"}
    server = await start(
        "serve", "app:chat", "--port", "0", "--internal-host", "0.0.0.0", "--log-level", "debug", environ=environ
    )
    _, internal = await server.urls()
    internal = internal.replace("0.0.0.0", "127.0.0.1")
    assert await _get(f"{internal}/admin/rooms") == 401
    assert await _get(f"{internal}/admin/rooms", Authorization="Bearer s3cret") == 200
    assert await _get(f"{internal}/ready?token=s3cret") == 200
    server.process.terminate()
    assert await server.end() == 0
    assert "s3cret" not in server.output


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells how large the table of descriptors is")
@pytest.mark.parametrize(("most", "room"), [((), 5000), (("--max-connections", "3000"), 3000)])
async def test_no_connection_has_to_wait_until_there_is_room_for_its_descriptor(
    start: Start, most: tuple[str, ...], room: int
) -> None:
    server = await start("serve", "app:chat", "--port", "0", *most, descriptors=5000)
    await server.urls()
    assert room <= _descriptor_table(server.process.pid) <= 2 * room


def _descriptor_table(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("FDSize:")[2].split()[0])


@pytest.mark.threat(17)
@pytest.mark.usefixtures("loop_kind")
async def test_idle_connections_leave_descriptors_to_the_service_and_its_operators(start: Start) -> None:
    server = await start("serve", "app:chat", "--port", "0", "--header-timeout", "60", descriptors=128)
    public, internal = await server.urls()
    port = int(public.rpartition(":")[2])
    writers = [(await asyncio.open_connection("127.0.0.1", port))[1] for _ in range(200)]
    for path, status in (("ready", 200), ("admin/rooms", 200)):
        assert await _get(f"{internal}/{path}") == status
    assert 'setting="max_connections"' in await _text(f"{internal}/metrics")
    for writer in writers:
        writer.close()
    async with asyncio.timeout(30):
        while True:
            # libuv resets whoever comes before it has noticed that there are descriptors again.
            with suppress(aiohttp.ClientOSError):
                assert await _get(f"{public}/health") == 200
                break
    server.process.terminate()
    assert await server.end() == 0
    assert "out of system resource" not in server.output


# --- ending --------------------------------------------------------------------------------------------


@pytest.fixture(params=["with uvloop", "without uvloop"])
def loop_kind(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Run the server in either event loop, since signals work differently in them."""
    if request.param == "without uvloop":
        (tmp_path / "uvloop.py").write_text("raise ImportError", encoding="utf-8")
    return str(request.param)


@pytest.mark.usefixtures("loop_kind")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_stops_gracefully_with_exit_code_0(start: Start, number: signal.Signals) -> None:
    server = await start("serve", "app:chat", "--port", "0")
    await server.urls()
    server.process.send_signal(number)
    assert await server.end() == 0
    assert server.lines[-1].endswith("[Verani] stopped")


@pytest.mark.usefixtures("loop_kind")
async def test_open_websockets_are_closed_with_1012(start: Start) -> None:
    server = await start("serve", "app:chat", "--port", "0")
    public, _ = await server.urls()
    async with aiohttp.ClientSession() as session, session.ws_connect(f"{public}/ws/lobby") as websocket:
        server.process.terminate()
        while (message := await websocket.receive()).type is not aiohttp.WSMsgType.CLOSE:
            assert message.type is aiohttp.WSMsgType.TEXT
        assert message.data == 1012
    assert await server.end() == 0


async def test_serve_says_when_it_is_ready_and_gives_the_signals_back() -> None:
    application = web.Application()
    gateway = setup(application, define_room("chat"))
    ready, before = asyncio.Event(), signal.getsignal(signal.SIGTERM)
    serving = asyncio.create_task(serve.serve(application, Settings(port=0), Secrets(), ready=ready))
    await ready.wait()
    assert gateway.accepting
    os.kill(os.getpid(), signal.SIGTERM)
    await serving
    assert not gateway.accepting
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.usefixtures("loop_kind")
async def test_a_hook_that_ignores_its_cancellation_does_not_keep_a_stop_from_ending(start: Start) -> None:
    server = await start("serve", "app:stubborn", "--port", "0", "--drain-seconds", "0.2")
    public, _ = await server.urls()
    async with aiohttp.ClientSession() as session, session.ws_connect(f"{public}/ws") as ws:
        await ws.send_str('{"type":"hang"}')
        await server.line("hanging")
        server.process.terminate()
        assert await server.end() == 0
    assert "shut down" in server.output
    assert "ignore their cancellation" in server.output


async def test_a_request_that_is_no_http_leaves_no_traceback_in_the_log(start: Start) -> None:
    server = await start("serve", "app:chat", "--port", "0")
    public, _ = await server.urls()
    reader, writer = await asyncio.open_connection("127.0.0.1", int(public.rpartition(":")[2]))
    writer.write(b"\x16\x03\x01 garbage\r\n\r\n")
    assert (await reader.read()).startswith(b"HTTP/1.0 400")
    writer.close()
    server.process.terminate()
    assert await server.end() == 0
    assert "Traceback" not in server.output
    assert "garbage" not in server.output


async def test_rooms_shows_who_is_awake_as_a_table_and_as_json(
    start: Start, capsys: pytest.CaptureFixture[str]
) -> None:
    server = await start("serve", "app:chat", "--port", "0", environ={"VERANI_ADMIN_TOKEN": "s3cret"})
    public, internal = await server.urls()
    async with aiohttp.ClientSession() as session, session.ws_connect(f"{public}/ws/lobby") as ws:
        await ws.send_str('{"type":"ping"}')
        await ws.receive()
        listing = await start("rooms", "--url", internal, environ={"VERANI_ADMIN_TOKEN": "s3cret"}, stdout=PIPE)
        shown = (await _output(listing)).splitlines()
        assert shown[0].split("  ")[0] == "ROOM"
        assert shown[1].split()[:2] == ["chat/lobby", "awake"]
        assert "recent activity" in shown[1]
        machine = await start(
            "rooms", "--json", "--url", internal, environ={"VERANI_ADMIN_TOKEN": "s3cret"}, stdout=PIPE
        )
        (room,) = json.loads(await _output(machine))
        assert (room["name"], room["connections"], room["woken_by"]) == ("chat/lobby", 1, "connect")
        refused = await start("rooms", "--url", internal)
        assert await refused.end() == 1
        assert "VERANI_ADMIN_TOKEN" in refused.output
    lost = await start("rooms", "--url", public)
    assert await lost.end() == 1
    assert "answered 404; expected the internal listener" in lost.output
    server.process.terminate()
    assert await server.end() == 0
    gone = await start("rooms", "--url", internal)
    assert await gone.end() == 1
    assert f"no answer from {internal}/admin/rooms?limit=1000: Connection refused; is that" in gone.output


@pytest.mark.parametrize("url", ["127.0.0.1:8001", "localhost", "", "http://", "http://127.0.0.1:99999", "ftp://here"])
def test_what_is_no_url_of_a_listener_is_told(capsys: pytest.CaptureFixture[str], url: str) -> None:
    assert main(["rooms", "--url", url]) == 1
    assert capsys.readouterr().err.startswith(
        "verani: error: expected the URL of an internal listener, such as http://127.0.0.1:8001"
    )


async def test_rooms_ends_in_silence_when_nobody_reads_on(start: Start) -> None:
    server = await start("serve", "app:chat", "--port", "0")
    _, internal = await server.urls()
    reading, writing = os.pipe()
    watcher = await start("rooms", "--watch", "--url", internal, stdout=writing)
    os.close(writing)
    os.read(reading, 10)
    os.close(reading)
    assert await watcher.end() == 1
    assert watcher.output == ""


async def test_rooms_goes_on_watching_until_it_is_interrupted(start: Start) -> None:
    server = await start("serve", "app:chat", "--port", "0")
    _, internal = await server.urls()
    watcher = await start("rooms", "--watch", "--url", internal, stdout=PIPE)
    assert watcher.process.stdout is not None
    for _ in range(2):
        assert (await watcher.process.stdout.readline()).endswith(b"AWAKE IN ALL\n")
    watcher.process.send_signal(signal.SIGINT)
    assert await watcher.end() == 130


async def _output(server: Server) -> str:
    assert server.process.stdout is not None
    text = (await server.process.stdout.read()).decode()
    assert await server.end() == 0
    return text


async def test_a_second_signal_ends_a_stop_that_hangs(start: Start) -> None:
    server = await start("serve", "app:hanging", "--port", "0")
    await server.urls()
    server.process.terminate()
    await server.line("cleaning up for ever")
    server.process.send_signal(signal.SIGINT)
    assert await server.end() == 128 + signal.SIGINT


@pytest.mark.usefixtures("loop_kind")
async def test_a_second_signal_ends_a_process_whose_loop_is_blocked(start: Start) -> None:
    server = await start("serve", "app:app", "--port", "0")
    public, _ = await server.urls()
    reader, writer = await asyncio.open_connection("127.0.0.1", int(public.rpartition(":")[2]))
    writer.write(b"GET /block HTTP/1.1\r\nHost: localhost\r\n\r\n")
    await server.line("blocking the loop")
    await server.asleep()
    server.process.terminate()
    await server.asleep()
    server.process.send_signal(signal.SIGINT)
    assert await server.end() == 128 + signal.SIGINT
    assert await reader.read() == b""
    writer.close()


async def test_a_start_up_hook_that_raises_ends_with_exit_code_1(start: Start) -> None:
    server = await start("serve", "app:failing", "--port", "0")
    assert await server.end() == 1
    assert server.lines[-1] == "    RuntimeError: no database"


async def test_a_service_that_fails_to_start_frees_its_ports() -> None:
    application = web.Application()

    async def fail(_: web.Application) -> None:
        raise RuntimeError("no database")

    application.on_startup.append(fail)
    setup(application, define_room("chat"))
    port = free_port()
    settings = Settings(port=port, internal_port=0)
    with pytest.raises(RuntimeError, match="no database"):
        await listeners.Listeners(application, settings, Secrets()).start()
    socket.create_server(("127.0.0.1", port)).close()


@pytest.mark.threat(15)
@pytest.mark.parametrize(
    "sent", [b"", b"GET /health HTTP/1.1\r\nHost: loc", b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n"]
)
async def test_a_connection_without_a_whole_header_is_closed(sent: bytes) -> None:
    service = await _started(header_timeout=0.1)
    reader, writer = await asyncio.open_connection("127.0.0.1", int(service.public_urls[0].rpartition(":")[2]))
    writer.write(sent)
    answer = await reader.read()  # until the server closes
    assert answer.startswith(b"HTTP/1.1 200" if sent.endswith(b"\r\n\r\n") else b"")
    writer.close()
    await service.stop()


async def _started(**chosen: Any) -> listeners.Listeners:
    application = web.Application()
    settings = Settings(port=0, **chosen)
    setup(application, define_room("chat"), settings=settings)
    service = listeners.Listeners(application, settings, Secrets())
    await service.start()
    return service


@pytest.mark.parametrize(
    ("port", "internal", "expected"),
    [(8000, None, 8001), (0, None, 0), (65535, None, 0), (8000, 9, 9), (8000, 0, 0)],
)
def test_the_internal_port_is_the_next_one_or_a_free_one(port: int, internal: int | None, expected: int) -> None:
    assert sockets.internal_port(Settings(port=port, internal_port=internal)) == expected

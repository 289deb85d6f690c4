"""Calls over real sockets: HTTP, stubs for programs and scripts, rooms that call each other, and what goes wrong."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from tests.raw import RawClient, until
from verani import (
    CallCycle,
    CallFailed,
    ConnectionMeta,
    Context,
    DeadlineExceeded,
    Forbidden,
    Interrupted,
    InvalidArguments,
    NotFound,
    RoomBusy,
    RoomDefinition,
    Settings,
    TooLarge,
    Unauthorized,
    VeraniError,
    connect,
    connect_sync,
    define_room,
)
from verani.connect import Service as RemoteService
from verani_gateway.application import GATEWAY, setup
from verani_gateway.config import Secrets
from verani_gateway.gateway import Gateway
from verani_gateway.service.listeners import Listeners

TOKEN = "rpc-token-of-the-test"


class Player(ConnectionMeta, kw_only=True):
    score: int = 0


class Held:
    """What holds the method `wait` up, and what became of it."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.runs: list[str] = []


def a_room(name: str = "chat", held: Held | None = None) -> RoomDefinition[Player, Any]:
    held = held or Held()
    room = define_room(name, meta=Player, websocket_path=f"/{name}/{{room}}")

    @room.rpc
    async def award(actor: Any, user_id: str, points: int = 1) -> int:
        """Give points to a user."""
        for session in actor.get_user_sessions(user_id):
            session.update(score=session.meta.score + points)
            actor.emit_to_user(user_id, "awarded", {"points": points})
        return sum(session.meta.score for session in actor)

    @room.rpc
    async def wait(actor: Any) -> str:
        held.runs.append("began")
        await held.gate.wait()
        held.runs.append("ended")
        return "waited"

    @room.rpc
    def refuse(actor: Any, public: str | None = None) -> None:
        raise Forbidden("a reason that stays here", public=public)

    @room.rpc
    def fail(actor: Any) -> None:
        raise ValueError("a secret that stays here")

    @room.rpc
    async def pass_on(actor: Any, to: list[str], within: float = 5.0) -> Any:
        if not to:
            return actor.name
        definition, _, room_id = to[0].partition("/")
        return await actor.stub(definition, room_id).call("pass_on", to=to[1:], within=within, timeout=within)

    @room.on("add")
    def add(ctx: Context[Player], data: int) -> int:
        ctx.meta.score += data
        return ctx.meta.score

    return room


@dataclass
class Running:
    """A service with both listeners, in this process."""

    room: RoomDefinition[Any, Any]
    held: Held
    gateway: Gateway
    public: str
    internal: str
    service: Listeners

    def remote(self, token: str | None = TOKEN, **options: Any) -> RemoteService:
        return connect(self.internal, token=token, **options)

    async def post(self, path: str, body: bytes | None = None, **headers: str) -> tuple[int, Any, Any]:
        """Send one request and return status, headers and the decoded body."""
        given = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json", **headers}
        given = {name.replace("_", "-"): value for name, value in given.items() if value}
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"{self.internal}{path}", data=body, headers=given) as response,
        ):
            return response.status, response.headers, await response.json()

    async def result(self, path: str, body: bytes | None = None) -> Any:
        status, _, answer = await self.post(path, body)
        assert status == 200, answer
        return answer

    async def client(self, user: str, room: str = "lobby") -> RawClient:
        port = int(self.public.rpartition(":")[2])
        client = await RawClient.open(port)
        await client.upgrade(f"/chat/{room}?userId={user}")
        return client


Start = Callable[..., Awaitable[Running]]


@pytest.fixture
async def start(clean_log: list[str]) -> AsyncIterator[Start]:
    services: list[Listeners] = []
    clean_log += ["a hook of", "did not go to sleep"]

    async def start(*more: RoomDefinition[Any, Any], token: str | None = TOKEN, **settings: Any) -> Running:
        held, app = Held(), web.Application()
        room = a_room(held=held)
        gateway = setup(app, room, *more)
        given = Settings(port=0, internal_port=0, drain_seconds=1.0, **settings)
        gateway.configure(given)
        service = Listeners(app, given, Secrets(rpc_token=token, admin_token=None))
        await service.start()
        services.append(service)
        return Running(room, held, gateway, service.public_urls[0], service.internal_urls[0], service)

    yield start
    for service in services:
        await service.stop()


# --- HTTP ----------------------------------------------------------------------------------------------


async def test_a_call_over_http_wakes_its_room_and_answers_json(start: Start) -> None:
    running = await start(hibernate_after=0.1)
    ada = await running.client("ada")
    await until(lambda: running.gateway.rooms()[0].state == "asleep")
    assert await running.result("/rpc/chat/lobby/award", b'{"user_id":"ada","points":3}') == 3
    assert await ada.text() == b'{"type":"event","channel":"default","data":{"type":"awarded","points":3}}'
    [status] = running.gateway.rooms()
    assert status.woken_by == "call"
    assert await running.result("/rpc/chat/lobby/get_session_count") == 1
    assert await running.result("/rpc/chat/lobby/award", b'["ada"]') == 4
    await ada.end()


async def test_arguments_with_half_an_emoji_and_null_for_what_is_optional_are_taken(start: Start) -> None:
    running = await start()
    ada = await running.client("ada")
    assert await running.result("/rpc/chat/lobby/award", b'{"user_id":"ada","points":null}') == 1
    assert await running.result("/rpc/chat/lobby/award", b'["ada",null]') == 2
    sent = b'{"channel":"default","data":{"type":"\\uD83D","\\ude00":"\\\\ud83d"},"user_ids":null}'
    assert await running.result("/rpc/chat/lobby/broadcast", sent) == 1
    seen = [await ada.data() for _ in range(3)]
    assert seen[2] == {"type": "\ufffd", "\ufffd": "\\ud83d"}
    await ada.end()


@pytest.mark.threat(48)
@pytest.mark.threat(51)
@pytest.mark.parametrize(
    ("path", "body", "headers", "status", "code"),
    [
        ("/rpc/chat/lobby/award", b"{}", {"Authorization": ""}, 401, "unauthorized"),
        ("/rpc/chat/lobby/award", b"{}", {"Authorization": "Bearer wrong"}, 401, "unauthorized"),
        ("/rpc/chat/lobby/award", b"{}", {"Authorization": f"Basic {TOKEN}"}, 401, "unauthorized"),
        ("/rpc/chat/lobby/award", b'{"user_id":"a"}', {"Origin": "http://evil.example"}, 403, "forbidden"),
        ("/rpc/chat/lobby/award", b'{"user_id":"a"}', {"Host": "evil.example"}, 403, "forbidden"),
        ("/rpc/nothing/lobby/award", b"{}", {}, 404, "not_found"),
        ("/rpc/chat/lobby/nothing", b"{}", {}, 404, "not_found"),
        ("/rpc/chat/lobby/_engine", b"{}", {}, 404, "not_found"),
        ("/rpc/chat/lobby/__class__", b"{}", {}, 404, "not_found"),
        ("/rpc/chat/lobby/spawn", b"{}", {}, 404, "not_found"),
        ("/rpc/chat/lobby/on_error", b"{}", {}, 404, "not_found"),
        ("/rpc/chat/a%0ab/award", b"{}", {}, 404, "not_found"),
        ("/rpc/chat/..%2f..%2fetc/award", b"{}", {}, 404, "not_found"),
        ("/rpc/chat/" + "x" * 129 + "/award", b"{}", {}, 404, "not_found"),
        ("/rpc/chat/lobby/award", b"", {}, 400, "invalid"),
        ("/rpc/chat/lobby/award", b"{", {}, 400, "invalid"),
        ("/rpc/chat/lobby/award", b"3", {}, 400, "invalid"),
        ("/rpc/chat/lobby/award", b'{"user_id":5}', {}, 400, "invalid"),
        ("/rpc/chat/lobby/award", b'{"user_id":"a","points":1e999}', {}, 400, "invalid"),
        ("/rpc/chat/lobby/award", b'{"user_id":"a","more":1}', {}, 400, "invalid"),
        ("/rpc/chat/lobby/award", b'{"user_id":"\\ud80"}', {}, 400, "invalid"),
        ("/rpc/chat/lobby/award", b'{"user_id":"a","points":' + b"9" * 5_000 + b"}", {}, 400, "invalid"),
        ("/rpc/chat/lobby/award", b'{"user_id":"\xff"}', {}, 400, "invalid"),
        ("/rpc/chat/lobby/award", b"[" * 5_000 + b"]" * 5_000, {}, 400, "invalid"),
        ("/rpc/chat/lobby/broadcast", b'{"channel":"default","data":1,"except_":"c"}', {}, 400, "invalid"),
        ("/rpc/chat/lobby/broadcast", b'{"channel":"a\\u0000","data":1}', {}, 400, "invalid"),
        ("/rpc/chat/lobby/award", b'{"user_id":"a"}', {"Content_Type": "text/plain"}, 400, "invalid"),
        ("/rpc/chat/lobby/award", b'{"user_id":"a"}', {"Verani_Timeout": "0"}, 400, "invalid"),
        ("/rpc/chat/lobby/award", b'{"user_id":"a"}', {"Verani_Timeout": "nan"}, 400, "invalid"),
        ("/rpc/chat/lobby/award", b'{"user_id":"a"}', {"Verani_Timeout": "soon"}, 400, "invalid"),
        ("/rpc/chat/lobby/award", b'{"user_id":"a"}', {"Verani_Timeout": "1e9"}, 400, "invalid"),
        ("/rpc/chat/lobby/award", b'{"user_id":"a"}', {"Idempotency_Key": "k" * 256}, 400, "invalid"),
        ("/rpc/chat/lobby/award", b'{"user_id":"' + b"a" * 20_000 + b'"}', {}, 413, "too_large"),
        ("/rpc/chat/lobby/refuse", b"{}", {}, 403, "forbidden"),
        ("/rpc/chat/lobby/fail", b"{}", {}, 500, "failed"),
        ("/rpc/chat/lobby/wait", b"{}", {"Verani_Timeout": "0.01"}, 504, "deadline"),
    ],
)
async def test_every_refusal_over_http_has_its_status_and_code(
    start: Start, path: str, body: bytes, headers: dict[str, str], status: int, code: str
) -> None:
    running = await start(max_rpc_bytes=20_000)
    got, given, answer = await running.post(path, body, **headers)
    assert (got, answer["error"]["code"]) == (status, code)
    assert "Traceback" not in str(answer)
    assert "stays here" not in str(answer)
    assert (given.get("WWW-Authenticate") == "Bearer") == (status == 401)
    running.held.gate.set()
    if status in (401, 404, 413):
        assert not running.gateway.rooms(), "no room was woken"


@pytest.mark.threat(49)
async def test_calls_are_not_on_the_public_listener(start: Start) -> None:
    running = await start()
    async with aiohttp.ClientSession() as session:
        for path in ("/rpc/chat/lobby/get_session_count", "/openapi.json", "/asyncapi.json"):
            async with session.post(f"{running.public}{path}", data=b"{}") as response:
                assert response.status == 404


@pytest.mark.threat(48)
async def test_only_post_calls(start: Start) -> None:
    running = await start()
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {TOKEN}"}) as session:
        for method in ("GET", "PUT", "DELETE"):
            async with session.request(method, f"{running.internal}/rpc/chat/lobby/get_session_count") as response:
                assert response.status == 405


# --- stubs ---------------------------------------------------------------------------------------------


async def test_a_stub_calls_from_another_program(start: Start) -> None:
    running = await start()
    ada = await running.client("ada")
    async with running.remote() as service:
        lobby = service.room("chat", "lobby")
        assert await lobby.get_session_count() == 1
        assert await lobby.get_connected_user_ids() == ["ada"]
        assert await lobby.broadcast("default", {"type": "x"}, user_ids=["ada"]) == 1
        assert await lobby.send_to_user("bob", "default", {"type": "x"}) == 0
        assert await lobby.emit_to_channel("default", "y", {"a": 1}) == 1
        assert await lobby.emit_to_user("ada", "z") == 1
        assert await lobby.cleanup_stale_sessions() == 0
        assert await lobby.award("ada", 2) == 2
        assert await lobby.award(user_id="ada") == 3
        typed = service.room(running.room, "lobby")
        assert await typed.award("ada", points=2) == 5
        with pytest.raises(TypeError, match="by name or by position"):
            await lobby.award("ada", points=2)
        with pytest.raises(TypeError):
            await typed.award("ada", nothing=2)
        with pytest.raises(TypeError, match=r"\['ada'\]"):
            await lobby.broadcast("default", 1, user_ids="ada")
        with pytest.raises(InvalidArguments):
            service.room("chat", "no room/id")
    texts = [(await ada.text()).decode() for _ in range(3)]
    assert [text.partition('"data":')[2] for text in texts] == ['{"type":"x"}}', '{"type":"y","a":1}}', '{"type":"z"}}']
    await ada.end()


async def test_a_text_for_people_reaches_callers_beside_the_code(start: Start) -> None:
    running = await start()
    status, _, told = await running.post("/rpc/chat/lobby/refuse", b'["You are muted"]')
    assert (status, told) == (403, {"error": {"code": "forbidden", "message": "You are muted", "public": True}})
    _, _, told = await running.post("/rpc/chat/lobby/refuse", b"[]")
    assert told == {"error": {"code": "forbidden", "message": "chat/lobby: refuse: forbidden"}}
    stub = running.gateway.stub("chat", "lobby")
    async with running.remote() as service:
        for lobby in (stub, service.room("chat", "lobby")):
            with pytest.raises(Forbidden, match="You are muted") as raised:
                await lobby.refuse(public="You are muted")
            assert raised.value.public == "You are muted"
            with pytest.raises(Forbidden) as raised:
                await lobby.refuse()
            assert raised.value.public is None


@pytest.mark.parametrize(
    ("method", "arguments", "error"),
    [
        ("refuse", {}, Forbidden),
        ("fail", {}, CallFailed),
        ("nothing", {}, NotFound),
        ("award", {"user_id": 5}, InvalidArguments),
        ("award", {"user_id": "x" * (1 << 20)}, TooLarge),
        ("wait", {"timeout": 0.05}, DeadlineExceeded),
    ],
)
async def test_errors_are_typed_exceptions(
    start: Start, method: str, arguments: dict[str, Any], error: type[VeraniError]
) -> None:
    running = await start()
    async with running.remote() as service:
        with pytest.raises(error) as raised:
            await service.room("chat", "lobby").call(method, **arguments)
    assert "stays here" not in str(raised.value)
    if isinstance(raised.value, InvalidArguments):
        assert raised.value.path == "$.user_id"
    running.held.gate.set()


async def test_a_wrong_token_says_which_one_is_expected(start: Start) -> None:
    running = await start()
    async with running.remote(token=None) as service:
        with pytest.raises(Unauthorized, match="VERANI_RPC_TOKEN"):
            await service.room("chat", "lobby").get_session_count()


async def test_another_listener_is_recognised(start: Start) -> None:
    running = await start()
    async with connect(running.public) as service:
        with pytest.raises(VeraniError, match="internal listener"):
            await service.room("chat", "lobby").get_session_count()
    async with connect("not a url") as service:
        with pytest.raises(VeraniError, match="URL"):
            await service.room("chat", "lobby").get_session_count()


async def test_a_script_calls_without_an_event_loop(start: Start) -> None:
    running = await start()
    ada = await running.client("ada")

    def script() -> list[Any]:
        with connect_sync(running.internal, token=TOKEN) as service:
            lobby = service.room("chat", "lobby")
            results = [lobby.get_session_count(), lobby.award("ada", 2), lobby.call("award", user_id="ada", timeout=2)]
            try:
                lobby.refuse()
            except Forbidden as error:
                results.append(error.code)
            return results

    assert await asyncio.to_thread(script) == [1, 2, 3, "forbidden"]
    with pytest.raises(RuntimeError, match="connect"):
        connect_sync(running.internal)
    await ada.end()


async def test_a_handler_beside_the_rooms_calls_them_without_http(start: Start) -> None:
    running = await start()
    ada = await running.client("ada")
    stub = running.gateway.stub(running.room, "lobby")
    assert await stub.award("ada", points=2) == 2
    with pytest.raises(NotFound):
        await running.gateway.stub("nothing", "lobby").get_session_count()
    assert await running.service._application[GATEWAY].stub("chat", "lobby").get_session_count() == 1
    await ada.end()


# --- deadlines, retries, keys --------------------------------------------------------------------------


async def test_a_full_service_answers_busy_at_once_and_is_tried_again(start: Start) -> None:
    running = await start(max_rpc_calls=2)
    async with running.remote() as service:
        waiting = [asyncio.create_task(service.room("chat", f"r{n}").wait()) for n in range(2)]
        await until(lambda: len(running.gateway.calls) >= 2)
        status, headers, answer = await running.post("/rpc/chat/lobby/get_session_count")
        assert (status, headers["Retry-After"], answer["error"]["code"]) == (503, "1", "busy")
        with pytest.raises(RoomBusy):
            await service.room("chat", "lobby").get_session_count(timeout=0.2)
        patient = asyncio.create_task(service.room("chat", "lobby").get_session_count())
        running.held.gate.set()
        assert await patient == 0
        assert await asyncio.gather(*waiting) == ["waited"] * 2
    assert not len(running.gateway.calls)


async def test_expired_calls_are_dropped_before_they_run(start: Start) -> None:
    running = await start()
    async with running.remote() as service:
        lobby = service.room("chat", "lobby")
        first = asyncio.create_task(lobby.wait())
        await until(lambda: running.held.runs)
        late = [asyncio.create_task(lobby.wait(timeout=0.05)) for _ in range(5)]
        for call in late:
            with pytest.raises(DeadlineExceeded):
                await call
        running.held.gate.set()
        assert await first == "waited"
        assert await lobby.get_session_count() == 0
    assert running.held.runs == ["began", "ended"]


async def test_a_caller_that_leaves_leaves_nothing_behind(start: Start) -> None:
    running = await start()
    async with running.remote() as service:
        call = asyncio.create_task(service.room("chat", "lobby").wait(timeout=0.2))
        await until(lambda: running.held.runs)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
    local = asyncio.create_task(running.gateway.stub("chat", "other").wait())
    await until(lambda: len(running.held.runs) >= 2)
    local.cancel()
    with pytest.raises(asyncio.CancelledError):
        await local
    await until(lambda: not len(running.gateway.calls))  # the one over HTTP ends at its deadline
    running.held.gate.set()


async def test_a_key_lets_a_lost_call_be_repeated(start: Start) -> None:
    """A proxy cuts the first answer off: with a key the call is made again and has still run once."""
    running = await start()
    ada = await running.client("ada")
    port = int(running.internal.rpartition(":")[2])
    cut = 0

    async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal cut
        upstream, downstream = await asyncio.open_connection("127.0.0.1", port)
        request = await reader.read(65536)
        downstream.write(request)
        answer = await upstream.read(65536)
        if cut < 2:
            cut += 1
        else:
            writer.write(answer)
        for each in (writer, downstream):
            each.close()

    server = await asyncio.start_server(proxy, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with connect(url, token=TOKEN) as service:
        lobby = service.room("chat", "lobby")
        with pytest.raises(Interrupted):
            await lobby.award("ada")
        assert await lobby.award(user_id="ada", points=10, idempotency_key="once") == 11
    server.close()
    await server.wait_closed()
    assert cut == 2
    await ada.end()


async def test_a_call_is_tried_again_while_nobody_listens(start: Start, unused_tcp_port: int) -> None:
    url = f"http://127.0.0.1:{unused_tcp_port}"
    async with connect(url, token=TOKEN) as service:
        with pytest.raises(RoomBusy, match="cannot connect"):
            await service.room("chat", "lobby").get_session_count(timeout=0.2)
        patient = asyncio.create_task(service.room("chat", "lobby").get_session_count(timeout=20))
        await asyncio.sleep(0)
        app = web.Application()
        setup(app, a_room())
        settings = Settings(port=0, internal_port=unused_tcp_port)
        late = Listeners(app, settings, Secrets(rpc_token=TOKEN, admin_token=None))
        await late.start()
        assert await patient == 0
        await late.stop()


# --- rooms that call rooms -----------------------------------------------------------------------------


async def test_rooms_call_each_other_through_any_number_of_rooms(start: Start) -> None:
    running = await start(a_room("game"))
    stub = running.gateway.stub("chat", "a")
    assert await stub.pass_on(to=["game/b", "chat/c", "game/d"]) == "game/d"


@pytest.mark.parametrize("path", [["chat/a"], ["chat/b", "chat/a"], ["chat/b", "chat/c", "chat/b"]])
async def test_a_call_that_comes_back_to_a_waiting_room_is_refused_at_once(
    start: Start, path: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    running = await start()
    with pytest.raises(CallFailed):  # the room that made the cycle failed; what it did not handle is in its log
        await running.gateway.stub("chat", "a").pass_on(to=path)
    assert CallCycle.__name__ in caplog.text


async def test_crossing_calls_end_at_the_deadline_for_both(start: Start) -> None:
    running = await start()
    crossing = [
        # Long enough for both to begin on a machine that is busy.
        asyncio.create_task(running.gateway.stub("chat", a).pass_on(to=[f"chat/{b}"], within=1.0))
        for a, b in (("a", "b"), ("b", "a"))
    ]
    for call in crossing:
        with pytest.raises((DeadlineExceeded, CallFailed)):
            await call
    assert await running.gateway.stub("chat", "a").get_session_count() == 0
    assert await running.gateway.stub("chat", "b").get_session_count() == 0


async def test_a_full_mailbox_answers_busy_at_once(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("verani_gateway.inputs.congestion.MAX_ROOM_IN_FLIGHT", 4096)
    running = await start()
    stub = running.gateway.stub("chat", "lobby")
    first = asyncio.create_task(stub.wait())
    await until(lambda: running.held.runs)
    queued = [asyncio.create_task(stub.broadcast("default", "x" * 1024)) for _ in range(5)]
    results = await asyncio.wait_for(asyncio.wait(queued, return_when=asyncio.FIRST_COMPLETED), 5)
    for call in results[0]:
        assert isinstance(call.exception(), RoomBusy)
    assert await running.gateway.stub("chat", "other").get_session_count() == 0, "other rooms are not concerned"
    running.held.gate.set()
    assert await first == "waited"
    await asyncio.gather(*queued, return_exceptions=True)


async def test_calls_that_wait_at_a_stop_are_answered(start: Start) -> None:
    running = await start()
    waiting = asyncio.create_task(running.gateway.stub("chat", "lobby").wait(timeout=60))
    await until(lambda: running.held.runs)
    await running.service.stop()
    with pytest.raises((Interrupted, DeadlineExceeded)):
        await waiting
    with pytest.raises(RoomBusy):
        await running.gateway.stub("chat", "lobby").get_session_count()

"""The internal listener answers operators and probes, and no web page."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from tests.measured import measured
from verani.room.definition import define_room
from verani.settings import Settings
from verani_actors.operating.answers import RoomsQuestion
from verani_gateway.application import setup
from verani_gateway.cli.rooms import show_rooms
from verani_gateway.config import Secrets
from verani_gateway.gateway import Gateway
from verani_gateway.operating.alone import Alone
from verani_gateway.operating.internal import internal_application
from verani_gateway.operating.service_answers import Listing

Client = TestClient[web.Request, web.Application]
Open = Callable[..., Awaitable[Client]]

TOKEN = Secrets(rpc_token="rpc", admin_token="s3cret")


@pytest.fixture
async def gateway() -> AsyncIterator[Gateway]:
    application = web.Application()
    gateway = setup(application, define_room("chat"))
    runner = web.AppRunner(application)
    await runner.setup()
    yield gateway
    await runner.cleanup()


@pytest.fixture
async def open_client(gateway: Gateway) -> AsyncIterator[Open]:
    clients: list[Client] = []

    async def open_client(settings: Settings | None = None, secrets: Secrets | None = None) -> Client:
        application = internal_application(gateway, settings or Settings(), secrets or Secrets())
        clients.append(TestClient(TestServer(application)))
        await clients[-1].start_server()
        return clients[-1]

    yield open_client
    for client in clients:
        await client.close()


async def _status(client: Client, path: str, **headers: str) -> int:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    async with client.get(path, headers=names) as response:
        return response.status


@pytest.mark.threat(60)
async def test_ready_turns_to_503_when_the_gateway_stops_accepting(open_client: Open, gateway: Gateway) -> None:
    client = await open_client()
    async with client.get("/ready") as response:
        assert (response.status, await response.json()) == (200, {"status": "ready"})
    gateway.stop_accepting()
    async with client.get("/ready") as response:
        assert (response.status, await response.json()) == (503, {"status": "not ready"})


async def test_ready_needs_neither_token_nor_a_known_host(open_client: Open) -> None:
    client = await open_client(secrets=TOKEN)
    assert await _status(client, "/ready", Host="10.1.2.3:8001") == 200


async def test_rooms_are_listed_as_json(open_client: Open) -> None:
    client = await open_client()
    async with client.get("/admin/rooms") as response:
        assert response.status == 200
        assert response.content_type == "application/json"
        assert isinstance(await response.json(), list)


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("", ["chat/a", "chat/b", "chat/c"]),
        ("?limit=2", ["chat/a", "chat/b"]),
        ("?limit=0", []),
        ("?state=awake", ["chat/a", "chat/b", "chat/c"]),
        ("?state=asleep", []),
        ("?state=awake&limit=1", ["chat/a"]),
    ],
)
async def test_the_list_of_rooms_may_be_cut(open_client: Open, gateway: Gateway, query: str, names: list[str]) -> None:
    for room in ("a", "b", "c"):
        await gateway.stub("chat", room).get_session_count()
    client = await open_client()
    async with client.get(f"/admin/rooms{query}") as response:
        assert [room["name"] for room in await response.json()] == names


class _Full(Alone):
    """A service that has more rooms than it tells."""

    async def rooms(self, question: RoomsQuestion) -> Listing:
        return (await super().rooms(question))._replace(cut=True)


@pytest.mark.parametrize("kind", [Alone, _Full])
async def test_a_list_of_rooms_that_was_cut_says_so(
    gateway: Gateway, capsys: pytest.CaptureFixture[str], kind: type[Alone]
) -> None:
    await gateway.stub("chat", "a").get_session_count()
    application = internal_application(gateway, Settings(), Secrets(), kind(gateway))
    async with TestClient(TestServer(application)) as client, client.get("/admin/rooms") as response:
        assert response.headers.get("X-Verani-Truncated") == ("true" if kind is _Full else None)
        url = str(client.make_url("/"))
        await asyncio.to_thread(show_rooms, url, Secrets(), as_json=True, watch=False, limit=1)
    output, errors = capsys.readouterr()
    assert [room["name"] for room in json.loads(output)] == ["chat/a"]
    assert errors == ("more rooms than shown\n" if kind is _Full else "")


async def test_a_limit_that_is_no_number_is_refused(open_client: Open) -> None:
    client = await open_client()
    for limit in ("-1", "many", "1.5", "\u0661", "9" * 5000):
        async with client.get("/admin/rooms", params={"limit": limit}) as response:
            assert response.status == 400


async def test_prometheus_reads_it_with_the_admin_token(open_client: Open) -> None:
    client = await open_client(secrets=TOKEN)
    assert await _status(client, "/metrics") == 401
    async with client.get("/metrics", headers={"Authorization": "Bearer s3cret"}) as response:
        assert (response.status, response.headers["Content-Type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
        assert measured(await response.text())["connections"] == 0


async def test_one_process_describes_itself_as_a_service(open_client: Open, gateway: Gateway) -> None:
    client = await open_client()
    async with client.get("/admin/cluster") as response:
        status = await response.json()
    assert (status["members"], status["missing"]) == ([], [])
    assert [each["id"] for each in status["gateways"]] == [gateway.id]
    async with client.get("/admin/quarantine") as response:
        assert await response.json() == []


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"target": "host:a-0"}, (404, "the service is one process; SIGTERM drains it")),
        ({"target": "a-0"}, (400, "target: expected host:ID, gateway:ID or all, got 'a-0'")),
        ({"goal": "all"}, (400, "expected a JSON object with target")),
        ([], (400, "expected a JSON object with target")),
    ],
)
async def test_an_order_to_drain_that_cannot_be_carried_out_says_why(
    open_client: Open, body: object, expected: tuple[int, str]
) -> None:
    client = await open_client()
    async with client.post("/admin/drain", json=body) as response:
        assert response.status == expected[0]
        assert expected[1] in (await response.json())["error"]["message"]


@pytest.mark.threat(49)
async def test_members_and_orders_need_the_admin_token(open_client: Open) -> None:
    client = await open_client(secrets=TOKEN)
    assert await _status(client, "/admin/cluster") == 401
    assert await _status(client, "/admin/quarantine") == 401
    async with client.post("/admin/drain", json={"target": "all"}) as response:
        assert response.status == 401


@pytest.mark.threat(51)
async def test_an_order_that_a_page_could_send_unasked_is_refused(open_client: Open) -> None:
    client = await open_client()
    headers = {"Content-Type": "text/plain"}
    async with client.post("/admin/drain", data='{"target":"all"}', headers=headers) as response:
        assert response.status == 400


@pytest.mark.parametrize("path", ["/", "/health", "/ws", "/ws/lobby", "/admin", "/admin/", "/debug", "/verani.ts"])
async def test_everything_else_is_not_there(open_client: Open, path: str) -> None:
    assert await _status(await open_client(), path) == 404


async def test_it_only_reads(open_client: Open) -> None:
    client = await open_client()
    async with client.post("/admin/rooms") as response:
        assert response.status == 405


@pytest.mark.threat(51)
@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("localhost", 200),
        ("localhost:8001", 200),
        ("127.0.0.1:9", 200),
        ("[::1]:8001", 200),
        ("verani.internal", 200),
        ("10.9.9.9:8001", 200),
        ("evil.com", 403),
        ("evil.com:8001", 403),
        ("localhost.evil.com", 403),
        ("10.9.9.8", 403),
        ("0.0.0.0:8001", 403),
        ("", 403),
    ],
)
async def test_host_must_be_a_name_of_the_listener(open_client: Open, host: str, expected: int) -> None:
    settings = Settings(internal_host="10.9.9.9", internal_hosts=("verani.internal",))
    assert await _status(await open_client(settings), "/admin/rooms", Host=host) == expected


@pytest.mark.threat(51)
@pytest.mark.parametrize("path", ["/ready", "/admin/rooms", "/nowhere"])
@pytest.mark.parametrize(
    "origin", ["https://evil.com", "http://localhost:3000", "https://localhost:8001", "null", "http://evil.com:8001"]
)
async def test_a_page_of_another_origin_reaches_nothing(open_client: Open, path: str, origin: str) -> None:
    client = await open_client()
    assert await _status(client, path, Host="localhost:8001", Origin=origin) == 403


async def test_its_own_pages_may_ask(open_client: Open) -> None:
    client = await open_client()
    own = "http://localhost:8001"
    assert await _status(client, "/admin/rooms", Host="localhost:8001", Origin=own) == 200


@pytest.mark.threat(49)
@pytest.mark.parametrize(
    ("authorization", "expected"),
    [
        ("Bearer s3cret", 200),
        ("bearer s3cret", 200),
        ("Bearer s3cre", 401),
        ("Bearer s3crett", 401),
        ("Bearer S3CRET", 401),
        ("Bearer rpc", 401),
        ("Bearer ", 401),
        ("Bearer", 401),
        ("Basic s3cret", 401),
        ("s3cret", 401),
        ("Bearer ☃", 401),
        ("", 401),
    ],
)
async def test_once_set_the_token_is_required_on_loopback_too(
    open_client: Open, authorization: str, expected: int
) -> None:
    client = await open_client(secrets=TOKEN)
    async with client.get("/admin/rooms", headers={"Authorization": authorization}) as response:
        assert response.status == expected
        assert response.headers.get("WWW-Authenticate") == ("Bearer" if expected == 401 else None)
        assert "s3cret" not in await response.text()


@pytest.mark.threat(47)
async def test_a_token_in_the_query_does_not_count(open_client: Open) -> None:
    client = await open_client(secrets=TOKEN)
    assert await _status(client, "/admin/rooms?token=s3cret&access_token=s3cret") == 401


@pytest.mark.threat(51)
@pytest.mark.parametrize(
    ("path", "headers"),
    [("/ready", {}), ("/admin/rooms", {}), ("/nowhere", {}), ("/admin/rooms", {"Host": "evil.com"})],
)
async def test_every_answer_forbids_caching_guessing_and_framing(
    open_client: Open, path: str, headers: dict[str, Any]
) -> None:
    client = await open_client()
    async with client.get(path, headers=headers) as response:
        assert response.headers["Cache-Control"] == "no-store"
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert "frame-ancestors 'none'" in response.headers["Content-Security-Policy"]

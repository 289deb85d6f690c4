"""What happens before the 101: how headers are read, who is refused, and what the log says of it; over real sockets."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import ClientSession, web
from aiohttp.test_utils import TestServer

from tests.raw import KEY, RawClient, Response, handshake
from tests.server import Serve, Server
from tests.tokens import AUDIENCE, ISSUER, public_pem, token
from verani import ConnectionMeta, ConnectRequest, DefinitionError, Forbidden, RoomDefinition, define_room
from verani.auth import jwt_auth
from verani_gateway.application import setup
from verani_gateway.http.handshake import not_of_handshakes

if TYPE_CHECKING:
    from aiohttp.typedefs import Handler

HEAD = f"GET /ws HTTP/1.1\r\nHost: localhost\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n"
UPGRADE = "Upgrade: websocket\r\nConnection: Upgrade\r\n"
INVALID = b'{"error":{"code":"invalid"}}'


def echo_room(**options: Any) -> RoomDefinition[Any, Any]:
    """Make a room that answers `say` with what it got."""
    room = define_room("chat", **options)
    room.on("say")(lambda ctx, data: ctx.emit("said", {"data": data}))
    return room


async def asked(server: Server, lines: str, head: str = HEAD) -> tuple[RawClient, Response]:
    """Send a handshake with these lines besides those that every one has."""
    client = await server.tcp()
    return client, await client.request(f"{head}{lines}\r\n".encode("latin-1"))


# --- headers that are lists, and those that are none ----------------------------------------------------------


@pytest.mark.parametrize(
    "lines",
    [
        "Connection: keep-alive\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n",
        "Connection: Upgrade\r\nConnection: keep-alive\r\nUpgrade: websocket\r\n",
        "Upgrade: websocket\r\nConnection: keep-alive,\r\nConnection:\r\nConnection: , UPGRADE ,\r\n",
        "Connection: keep-alive, Upgrade\r\nUpgrade: websocket, foo\r\n",
        "Connection: Upgrade\r\nUpgrade: foo, WebSocket\r\n",
        "Connection: Upgrade\r\nUpgrade: foo/2\r\nUpgrade: websocket\r\n",
        "Connection: Upgrade\r\nUpgrade: websocket\r\nUpgrade: h2c\r\n",
        "Connection: Upgrade\r\nUpgrade:\r\nUpgrade: websocket,\r\n",
        UPGRADE + "Sec-WebSocket-Extensions: permessage-deflate\r\nSec-WebSocket-Extensions: x-other\r\n",
        UPGRADE + "X-Odd: \xff\xfe\r\nSec-WebSocket-Protocol: other\r\n",
    ],
)
async def test_lines_of_one_header_are_one_list_of_which_one_is_enough(serve: Serve, lines: str) -> None:
    client, response = await asked(await serve(echo_room()), lines)
    assert (response.status, response.headers["upgrade"]) == (101, "websocket")
    client.send({"type": "say", "data": 1})
    assert await client.data() == {"type": "said", "data": 1}


@pytest.mark.parametrize(
    "lines",
    [
        "Connection: keep-alive\r\nUpgrade: websocket\r\n",
        "Connection: upgraded\r\nUpgrade: websocket\r\n",
        "Connection: not-upgrade\r\nUpgrade: websocket\r\n",
        "Connection: Upgrade\r\n",
        "Connection: Upgrade\r\nUpgrade: websocketx\r\n",
        'Connection: Upgrade\r\nUpgrade: "websocket"\r\n',
        "Connection: Upgrade\r\nUpgrade: h2c\r\n",
        # The Kelvin sign, of which lower-casing makes a k.
        "Connection: Upgrade\r\nUpgrade: websoc\xe2\x84\xaaet\r\n",
        "Upgrade: websocket\r\n",
    ],
)
async def test_what_asks_for_no_websocket_is_told_to(serve: Serve, lines: str) -> None:
    _, response = await asked(await serve(echo_room()), lines)
    assert (response.status, response.body) == (426, b'{"error":{"code":"upgrade_required"}}')
    assert (response.headers["upgrade"], response.headers["connection"]) == ("websocket", "Upgrade, close")


@pytest.mark.parametrize(
    "lines",
    [
        "Origin: http://localhost\r\nOrigin: http://evil.test\r\n",
        "Origin: http://localhost\r\norigin: http://localhost\r\n",
        f"Sec-WebSocket-Key: {KEY}\r\n",
        "Sec-WebSocket-Version: 13\r\n",
        "Sec-WebSocket-Version: 8\r\n",
        "Authorization: Bearer a\r\nAuthorization: Bearer b\r\n",
    ],
)
async def test_two_lines_of_a_header_that_has_one_are_400(serve: Serve, lines: str) -> None:
    _, response = await asked(await serve(echo_room(), allowed_origins=("*",)), UPGRADE + lines)
    assert (response.status, response.body) == (400, INVALID)


async def test_a_list_of_versions_is_answered_with_the_one_that_is_spoken(serve: Serve) -> None:
    server = await serve(echo_room())
    response = await server.request(handshake(Sec_WebSocket_Version="13, 8"))
    assert (response.status, response.headers["sec-websocket-version"]) == (426, "13")


async def test_cookies_of_several_lines_are_those_of_one(serve: Serve) -> None:
    seen: list[dict[str, str]] = []

    def identify(request: ConnectRequest) -> ConnectionMeta:
        seen.append(dict(request.cookies))
        return ConnectionMeta(user_id="ann", client_id="c")

    server = await serve(echo_room(extract_meta=identify))
    for lines in ("Cookie: a=1; b=2\r\nCookie: c=3\r\n", "Cookie: a=1; b=2; c=3\r\n"):
        _, response = await asked(server, UPGRADE + lines)
        assert response.status == 101
    assert seen == [{"a": "1", "b": "2", "c": "3"}] * 2


# --- subprotocols --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("listed", "offered", "answered"),
    [
        (None, "Sec-WebSocket-Protocol: verani\r\n", "verani"),
        (None, "Sec-WebSocket-Protocol: bearer.a.b.c, verani\r\n", "verani"),
        (None, "Sec-WebSocket-Protocol: bearer.a.b.c\r\nSec-WebSocket-Protocol: verani\r\n", "verani"),
        (None, "Sec-WebSocket-Protocol: bearer.a.b.c\r\n", None),
        (None, "Sec-WebSocket-Protocol: Verani\r\n", None),
        (None, "Sec-WebSocket-Protocol: ,,\r\n", None),
        (None, "", None),
        (("v2", "v1"), "Sec-WebSocket-Protocol: v1,v2\r\n", "v1"),
        (["v2"], "Sec-WebSocket-Protocol: verani, v2\r\n", "v2"),
        ((), "Sec-WebSocket-Protocol: verani\r\n", None),
    ],
)
async def test_the_first_offered_subprotocol_that_is_listed_is_answered(
    serve: Serve, listed: Any, offered: str, answered: str | None
) -> None:
    options = {} if listed is None else {"subprotocols": listed}
    client, response = await asked(await serve(echo_room(**options)), UPGRADE + offered)
    assert response.status == 101
    assert response.headers.get("sec-websocket-protocol") == answered
    client.send({"type": "say", "data": 1})
    assert await client.data() == {"type": "said", "data": 1}


async def test_extract_meta_sees_what_is_offered(serve: Serve) -> None:
    seen: list[tuple[str, ...]] = []

    def identify(request: ConnectRequest) -> ConnectionMeta:
        seen.append(request.subprotocols)
        return ConnectionMeta(user_id="ann", client_id="c")

    server = await serve(echo_room(extract_meta=identify))
    await asked(server, UPGRADE + "Sec-WebSocket-Protocol: verani, bearer.x\r\nSec-WebSocket-Protocol: other\r\n")
    await asked(server, UPGRADE)
    assert seen == [("verani", "bearer.x", "other"), ()]


@pytest.mark.parametrize("given", ["verani", ("",), ("a b",), ("bearer.x",), (1,), 5, ("a", "ä")])
def test_subprotocols_are_names_and_never_what_carries_a_token(given: Any) -> None:
    with pytest.raises(DefinitionError, match="^chat: expected subprotocols= to be names such as 'verani'"):
        define_room("chat", subprotocols=given)


async def test_a_token_may_come_as_a_subprotocol_and_is_neither_answered_nor_logged(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    verifier = jwt_auth(algorithms=["RS256"], audience=AUDIENCE, issuer=ISSUER, key=public_pem())
    server = await serve(echo_room(extract_meta=verifier))
    good, bad = token(), token()[:-8] + "AAAAAAAA"
    for offered, authorization, status in (
        (f"verani, bearer.{good}", "", 101),
        (f"bearer.{good}", "", 101),
        (f"verani, bearer.{bad}", "", 401),
        (f"verani, bearer.{bad}, bearer.{good}", "", 401),
        (f"verani, bearer.{bad}", f"Bearer {good}", 101),
        (f"verani, bearer.{good}", f"Bearer {bad}", 401),
        ("verani, bearer.", "", 401),
        (f"verani, {good}", "", 401),
    ):
        headers: dict[str, Any] = {"Authorization": authorization} if authorization else {}
        response = await server.request(handshake(Sec_WebSocket_Protocol=offered, **headers))
        assert response.status == status, offered
        assert response.headers.get("sec-websocket-protocol") in (None, "verani")
    assert good not in caplog.text
    assert bad not in caplog.text


# --- origins -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("origin", "allowed", "status"),
    [
        ("null", ("null",), 101),
        ("null", ("file://",), 403),
        ("file://", ("file://",), 101),
        ("https://a.example.com", ("https://*.example.com",), 101),
        ("https://example.com.evil.test", ("https://*.example.com",), 403),
        ("https://app.example.com", ("https://app.example.com/",), 101),
    ],
)
async def test_origins_may_be_listed_as_patterns_and_opaque_ones_by_name(
    serve: Serve, origin: str, allowed: tuple[str, ...], status: int
) -> None:
    server = await serve(echo_room(), allowed_origins=allowed)
    assert (await server.request(handshake(Origin=origin))).status == status


@pytest.mark.parametrize(
    ("headers", "trusted", "status"),
    [
        ({"Host": "localhost.", "Origin": "http://localhost"}, (), 101),
        ({"Origin": "https://localhost", "X_Forwarded_Proto": "https"}, ("127.0.0.1",), 101),
        (
            {"Origin": "https://localhost", "X_Forwarded_Proto": "https, http", "X_Forwarded_For": "1.2.3.4, 10.0.0.2"},
            ("127.0.0.1", "10.0.0.0/8"),
            101,
        ),
        (
            {"Origin": "https://localhost", "X_Forwarded_Proto": "https, http", "X_Forwarded_For": "1.2.3.4, 10.0.0.2"},
            ("127.0.0.1",),
            403,
        ),
        ({"Origin": "https://app.test", "Forwarded": "for=1.2.3.4;proto=https;host=app.test"}, ("127.0.0.1",), 101),
        ({"Origin": "https://app.test", "Forwarded": "for=1.2.3.4;proto=https;host=app.test"}, (), 403),
    ],
)
async def test_a_page_is_known_by_what_the_last_trusted_proxy_says(
    serve: Serve, headers: dict[str, Any], trusted: tuple[str, ...], status: int
) -> None:
    server = await serve(echo_room(), trusted_proxies=trusted)
    assert (await server.request(handshake(**headers))).status == status


@pytest.mark.parametrize(
    ("headers", "settings", "status"),
    [
        ({"Host": "evil.test:9000", "Origin": "http://evil.test:9000"}, {}, 403),
        ({"Host": "evil.test", "Origin": "http://evil.test", "X_Forwarded_Host": "evil.test"}, {}, 403),
        ({"Host": "localhost:9000", "Origin": "http://localhost:9000"}, {}, 101),
        ({"Host": "127.0.0.1:9000", "Origin": "http://127.0.0.1:9000"}, {}, 101),
        ({"Host": "app.test", "Origin": "http://app.test"}, {"public_hosts": ("app.test",)}, 101),
        ({"Host": "evil.test", "Origin": "http://evil.test"}, {"public_hosts": ("app.test",)}, 403),
        ({"Host": "evil.test", "Origin": "http://evil.test"}, {"public_hosts": ("*",)}, 101),
        # A page that is listed is known by its Origin, whatever the name led to.
        ({"Host": "evil.test", "Origin": "http://app.test"}, {"allowed_origins": ("http://app.test",)}, 101),
        # No page makes a browser speak for a proxy.
        ({"Host": "evil.test", "Origin": "http://evil.test"}, {"trusted_proxies": ("127.0.0.1",)}, 403),
        (
            {"Host": "app.test", "Origin": "http://app.test", "X_Forwarded_For": "1.2.3.4"},
            {"trusted_proxies": ("127.0.0.1",)},
            101,
        ),
        (
            {"Host": "127.0.0.1:8000", "Origin": "https://app.test", "Forwarded": "host=app.test;proto=https"},
            {"trusted_proxies": ("127.0.0.1",)},
            101,
        ),
    ],
)
async def test_a_name_that_was_made_to_lead_to_loopback_is_nobodys_own(
    serve: Serve, headers: dict[str, Any], settings: dict[str, Any], status: int
) -> None:
    server = await serve(echo_room(), **{"public_hosts": (), **settings})
    assert (await server.request(handshake(**headers))).status == status


async def test_names_of_settings_made_in_python_may_be_in_lists(serve: Serve) -> None:
    server = await serve(
        echo_room(), public_hosts=["app.test"], allowed_origins=["https://other.test"], trusted_proxies=["127.0.0.1"]
    )
    cases: list[tuple[dict[str, Any], int]] = [
        ({"Host": "app.test", "Origin": "http://app.test"}, 101),
        ({"Host": "app.test", "Origin": "https://other.test"}, 101),
        ({"Host": "app.test", "Origin": "https://app.test", "X_Forwarded_Proto": "https"}, 101),
        ({"Host": "evil.test", "Origin": "http://evil.test"}, 403),
    ]
    for headers, status in cases:
        assert (await server.request(handshake(**headers))).status == status


# --- what the log says ---------------------------------------------------------------------------------------


def told(caplog: pytest.LogCaptureFixture, level: int = logging.INFO) -> list[str]:
    """Give what was logged of refusals."""
    return [
        record.getMessage()
        for record in caplog.records
        if record.name == "verani_gateway.connections.refusal_log" and record.levelno == level
    ]


async def test_a_refused_handshake_is_logged_with_its_reason_and_without_its_query(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    def identify(request: ConnectRequest) -> ConnectionMeta:
        raise Forbidden("ann is not invited")

    server = await serve(echo_room(extract_meta=identify))
    await server.request(handshake("/ws?room=lobby&token=s3cret"))
    await server.request(handshake("/ws?room=a/b"))
    await server.request(handshake(Origin="https://elsewhere.test"))
    await server.request(handshake(drop=("Upgrade",)))
    await server.request(handshake(Sec_WebSocket_Key="short"))
    assert told(caplog) == [
        "refused a handshake for chat/lobby at /ws from 127.0.0.1 with 403: ann is not invited",
        "refused a handshake for chat at /ws from 127.0.0.1 with 404: no such room",
        "refused a handshake for chat at /ws from 127.0.0.1 with 403: Origin 'https://elsewhere.test' is neither that"
        " of the request (http://localhost) nor in allowed_origins",
        "refused a handshake for chat at /ws from 127.0.0.1 with 426: expected a WebSocket handshake; does a proxy keep"
        " back Upgrade and Connection?",
        "refused a handshake for chat at /ws from 127.0.0.1 with 400: expected Sec-WebSocket-Key to be 16 bytes in"
        " base64",
    ]
    assert "s3cret" not in caplog.text


async def test_a_handshake_at_a_path_that_was_mistyped_is_logged(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    server = await serve(echo_room(), define_room("board", websocket_path="/board/{room}"))
    assert (await server.request(handshake("/wss?token=s3cret"))).status == 404
    assert (await server.request(b"GET /favicon.ico HTTP/1.1\r\nHost: localhost\r\n\r\n")).status == 404
    # The path is right here.
    assert (await server.request(handshake().replace(b"GET", b"POST"))).status == 405
    assert told(caplog) == [
        "refused a handshake at /wss from 127.0.0.1 with 404: nothing is at this path, rooms are at /board/{room}, /ws"
    ]


async def test_refusals_of_one_kind_fill_no_log(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    server = await serve(echo_room())
    clock = [0.0]
    server.gateway.refusals._clock = lambda: clock[0]
    for number in range(25):
        await server.request(handshake(Origin=f"https://{number}.test"))
    await server.request(handshake("/ws?room=a/b"))
    assert len(told(caplog)) == 11, "another kind is still shown"
    clock[0] = 60.0
    await server.request(handshake(Origin="https://again.test"))
    assert told(caplog)[-1].endswith("nor in allowed_origins (15 more like it were not shown)")


async def test_nothing_that_a_client_sends_forges_a_line_in_a_log_of_the_applications_own(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    server = await serve(echo_room(websocket_path="/ws/{room}"))
    await server.request(handshake("/ws/a%0aINFO%20fake%1b"))
    await server.request(handshake("/x%0dINFO%20fake"))
    await server.request(handshake("/ws/a", Origin="\xff\x85"))
    assert len(told(caplog)) == 3
    assert all(line.isprintable() for line in told(caplog))


async def test_a_long_reason_is_cut(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    server = await serve(echo_room())
    await server.request(handshake(Origin="https://" + "x" * 5000))
    assert [len(line) < 500 for line in told(caplog)] == [True]


async def test_a_proxy_that_nobody_trusts_is_warned_of_once(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    server = await serve(echo_room())
    for name in ("X_Forwarded_For", "X_Forwarded_Proto", "Forwarded"):
        await (await server.tcp()).upgrade(**{name: "1.2.3.4"})  # type: ignore[arg-type]  # a header by its name
    assert [line.split(",")[0] for line in told(caplog, logging.WARNING)] == [
        "127.0.0.1 sends X-Forwarded-* or Forwarded headers"
    ]


async def test_a_proxy_that_is_trusted_is_warned_of_never(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    server = await serve(echo_room(), trusted_proxies=("127.0.0.1",))
    await server.connect(X_Forwarded_For="unknown")
    await server.connect()
    assert told(caplog, logging.WARNING) == []


# --- the answer ----------------------------------------------------------------------------------------------


async def test_the_answer_has_what_signals_and_middlewares_of_the_application_expect() -> None:
    seen: list[tuple[bool, int]] = []

    async def sign(_: web.Request, response: web.StreamResponse) -> None:
        response.headers["X-Signed"] = "yes"
        seen.append((response.prepared, response.status))

    @web.middleware
    async def watch(request: web.Request, handler: Handler) -> web.StreamResponse:
        response = await handler(request)
        seen.append((response.prepared, response.status))
        return response

    application = web.Application(middlewares=[watch])
    setup(application, echo_room())
    application.on_response_prepare.append(sign)
    async with (
        TestServer(application) as server,
        ClientSession() as session,
        session.ws_connect(server.make_url("/ws")) as ws,
    ):
        assert ws._response.headers["X-Signed"] == "yes"
        await ws.send_json({"type": "say", "data": 1})
        assert (await ws.receive_json())["data"] == {"type": "said", "data": 1}
    assert seen == [(False, 101), (True, 101)]


async def test_a_signal_that_is_not_of_handshakes_is_asked_of_other_answers_alone() -> None:
    seen: list[str] = []

    @not_of_handshakes
    async def note(request: web.Request, _: web.StreamResponse) -> None:
        seen.append(request.path)

    application = web.Application()
    setup(application, echo_room())
    application.on_response_prepare.append(note)
    async with TestServer(application) as server, ClientSession() as session:
        async with session.get(server.make_url("/health")) as response:
            assert response.status == 200
        async with session.ws_connect(server.make_url("/ws")) as ws:
            await ws.send_json({"type": "say", "data": 1})
            assert (await ws.receive_json())["data"] == {"type": "said", "data": 1}
    assert seen == ["/health"]


async def test_no_text_that_a_signal_puts_in_a_header_becomes_another_header() -> None:
    async def echo(request: web.Request, response: web.StreamResponse) -> None:
        response.headers["X-Request-Id"] = request.headers["X-Request-Id"]

    async def sign(_: web.Request, response: web.StreamResponse) -> None:
        response.headers["X-Signed"] = "yes"

    inner, application = web.Application(), web.Application()
    setup(inner, echo_room())
    inner.on_response_prepare.append(sign)
    application.on_response_prepare.append(echo)
    application.add_subapp("/in", inner)
    id = "1\u2028Set-Cookie: a=b"  # which is the end of a line to some readers
    async with (
        TestServer(application) as server,
        ClientSession() as session,
        session.ws_connect(server.make_url("/in/ws"), headers={"X-Request-Id": id}) as ws,
    ):
        headers = ws._response.headers
    assert (headers["X-Request-Id"], headers["X-Signed"]) == (id, "yes")
    assert "Set-Cookie" not in headers

"""Who may connect to a room that authenticates, over real sockets: threats 39, 44, 45 and 47."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import os
import re
import signal
import sys
import time
from asyncio.subprocess import PIPE
from pathlib import Path
from typing import Any

import pytest

from tests.raw import RawClient, Response, handshake, text, until
from tests.server import Serve, Server
from tests.tokens import AUDIENCE, ISSUER, OTHER, RSA, SECRET, claims, encode_part, jwk, public_pem, sign, token
from verani import (
    ConnectionMeta,
    ConnectRequest,
    Context,
    Forbidden,
    NotFound,
    RateLimited,
    RoomDefinition,
    define_room,
)
from verani.auth import JwtVerifier, cookie_auth, jwt_auth, public_meta
from verani_actors.upkeep.log_lines import TextFormatter

ROOT = Path(__file__).parents[2]
_SOURCES = (ROOT, ROOT / "actors", ROOT / "gateway")

UNAUTHORIZED = (401, b'{"error":{"code":"unauthorized"}}')
FORBIDDEN = (403, b'{"error":{"code":"forbidden"}}')
FAILED = (500, b'{"error":{"code":"failed"}}')


class Member(ConnectionMeta):
    """A member of a team."""

    role: str = "guest"
    level: int = 0


def by_token(**options: Any) -> JwtVerifier:
    return jwt_auth(**{"algorithms": ["RS256"], "audience": AUDIENCE, "issuer": ISSUER, "key": public_pem(), **options})


def who_room(extract_meta: Any, **options: Any) -> RoomDefinition[Any, Any]:
    """Make a room that tells clients who it takes them for."""
    room = define_room("chat", meta=Member, extract_meta=extract_meta, **options)

    @room.on("who")
    def who(ctx: Context[Member], data: Any) -> None:
        meta = ctx.meta
        ctx.emit("you", {"user": meta.user_id, "role": meta.role, "level": meta.level, "channels": meta.channels})

    return room


async def refused(server: Server, path: str = "/ws", **headers: Any) -> tuple[int, bytes]:
    response: Response = await server.request(handshake(path, **headers))
    return response.status, response.body


async def who(client: RawClient) -> dict[str, Any]:
    client.send({"type": "who"})
    while "data" not in (frame := await client.json()):
        pass  # a refresh that is through by now
    told: dict[str, Any] = frame["data"]
    return told


# --- tokens that are good ------------------------------------------------------------------------------------


async def test_a_token_is_taken_from_the_header_or_else_from_the_query(serve: Serve) -> None:
    server = await serve(who_room(by_token()))
    by_header = await server.connect("/ws?token=not-looked-at", Authorization=f"Bearer {token(sub='bea')}")
    by_query = await server.connect(f"/ws?token={token(role='admin', level=3)}")
    by_proxy = await server.connect(f"/ws?token={token()}", Authorization="Basic cHJveHk6c2VjcmV0")
    guest = {"type": "you", "role": "guest", "level": 0, "channels": ["default"]}
    assert await who(by_header) == {**guest, "user": "bea"}
    assert await who(by_query) == {**guest, "user": "ann", "role": "admin", "level": 3}
    assert await who(by_proxy) == {**guest, "user": "ann"}


async def test_claims_of_another_name_fill_fields_and_channels(serve: Serve) -> None:
    names = {"role": "https://chat.test/role", "channels": "rooms"}
    server = await serve(who_room(by_token(claims=names)))
    good = token(role="not this one", level=2, rooms=["a", "b"], **{"https://chat.test/role": "admin"})
    assert await who(await server.connect(f"/ws?token={good}")) == {
        "type": "you",
        "user": "ann",
        "role": "admin",
        "level": 2,
        "channels": ["a", "b"],
    }
    plain = await who(await server.connect(f"/ws?token={token(role='not this one')}"))
    assert (plain["role"], plain["channels"]) == ("guest", ["default"])


async def test_no_claim_names_the_user_the_client_or_the_channels_by_itself(serve: Serve) -> None:
    server = await serve(who_room(by_token(), same_client="reject"))
    sly = token(user_id="root", client_id="one", channels=["admin"])
    for _ in range(2):  # a client id out of the token would be rejected the second time
        told = await who(await server.connect(f"/ws?token={sly}"))
        assert (told["user"], told["channels"]) == ("ann", ["default"])


async def test_claims_that_do_not_fit_the_meta_are_refused_like_any_bad_token(serve: Serve) -> None:
    server = await serve(who_room(by_token()))
    assert await refused(server, f"/ws?token={token(level='three')}") == UNAUTHORIZED


async def test_a_shared_secret_verifies_tokens_too(serve: Serve) -> None:
    server = await serve(who_room(by_token(algorithms=["HS256"], key=SECRET)))
    assert (await who(await server.connect(f"/ws?token={token(alg='HS256', key=SECRET)}")))["user"] == "ann"
    wrong = token(alg="HS256", key=SECRET + b"!")
    assert await refused(server, f"/ws?token={wrong}") == UNAUTHORIZED


# --- 44: tokens that are no tokens of ours -------------------------------------------------------------------


def _header(**more: Any) -> str:
    return sign(claims(), header={"alg": "RS256", "typ": "JWT", **more}, key=OTHER)


def _none(alg: Any) -> str:
    return f"{encode_part({'alg': alg, 'typ': 'JWT'})}.{encode_part(claims())}."


def _edited() -> str:
    header, _, signature = token().split(".")
    return f"{header}.{encode_part(claims(sub='root'))}.{signature}"


FORGED: dict[str, Any] = {
    "nothing": lambda: "",
    "no token": lambda: "secret",
    "alg none": lambda: _none("none"),
    "alg None with a signature": lambda: _none("None") + "AAAA",
    "alg missing": lambda: sign(claims(), header={"typ": "JWT"}),
    "alg no string": lambda: sign(claims(), header={"alg": ["RS256"]}),
    "HS256 signed with the public key": lambda: _hs256_by_public_key(),
    "alg not in the list": lambda: token(alg="PS256"),
    "alg of another family": lambda: token(alg="HS512", key=SECRET * 2),
    "signed by somebody else": lambda: token(key=OTHER),
    "kid is a path": lambda: _header(kid="../../../../dev/null"),
    "kid is a path, and the key empty": lambda: sign(
        claims(), header={"alg": "HS256", "kid": "../../../../dev/null"}, alg="HS256", key=b""
    ),
    "kid is no string": lambda: _header(kid={"a": 1}),
    "jku": lambda: _header(jku="http://127.0.0.1:9/jwks.json", kid="1"),
    "x5u": lambda: _header(x5u="http://127.0.0.1:9/cert.pem"),
    "jwk": lambda: _header(jwk=jwk(OTHER, "1")),
    "crit": lambda: sign(claims(), header={"alg": "RS256", "crit": ["exp"], "exp": 1}),
    "b64 false": lambda: sign(claims(), header={"alg": "RS256", "crit": ["b64"], "b64": False}),
    "claims edited": _edited,
    "two parts": lambda: token().rpartition(".")[0],
    "four parts": lambda: token() + ".AAAA",
    "five parts": lambda: token() + ".AAAA.AAAA",
    "an empty third part": lambda: token().rpartition(".")[0] + ".",
    "padding": lambda: token() + "==",
    "a newline at the end": lambda: token() + "%0a",
    "a newline within": lambda: token().replace(".", "%0a.", 1),
    "a space within": lambda: token().replace(".", "%20.", 1),
    "a zero byte": lambda: token() + "%00",
    "another alphabet": lambda: token() + "%2b%2f",
    "header no JSON": lambda: f"{encode_part(b'{')}.{encode_part(claims())}.AAAA",
    "header nested without end": lambda: f"{encode_part(b'[' * 5000)}.{encode_part(claims())}.AAAA",
    "payload no JSON": lambda: sign(b"{"),
    "payload no object": lambda: sign([1]),
    "payload no UTF-8": lambda: sign(b"\xff\xfe"),
    "payload nested without end": lambda: sign(b'{"a":' + b"[" * 5000),
}


def _hs256_by_public_key() -> str:
    # PyJWT refuses to sign with such a key, an attacker does not.
    signed = f"{encode_part({'alg': 'HS256', 'typ': 'JWT'})}.{encode_part(claims())}"
    return f"{signed}.{encode_part(hmac.new(public_pem(), signed.encode(), hashlib.sha256).digest())}"


@pytest.mark.threat(44)
@pytest.mark.parametrize("forge", FORGED.values(), ids=FORGED.keys())
async def test_a_forged_token_is_401_before_the_upgrade(serve: Serve, forge: Any) -> None:
    server = await serve(who_room(by_token()))
    forged = forge()
    assert await refused(server, f"/ws?token={forged}") == UNAUTHORIZED
    if "%" not in forged:
        assert await refused(server, Authorization=f"Bearer {forged}") == UNAUTHORIZED
    assert server.gateway.rooms() == []


@pytest.mark.threat(44)
async def test_a_token_of_100_kb_is_refused_before_it_is_looked_at(serve: Serve, clean_log: list[str]) -> None:
    clean_log.append("Error handling request")  # aiohttp, about a request line over 8190 bytes
    verifier = by_token()
    server = await serve(who_room(verifier))
    status, _ = await refused(server, "/ws?token=" + "A" * 100_000)
    assert status == 400, "aiohttp reads no such line"
    with pytest.raises(Exception, match="^expected a valid token$"):
        await verifier.verify_token(token(padding="x" * 8192))
    assert (await refused(server))[0] == 401


# --- 45: tokens whose claims do not hold ---------------------------------------------------------------------

NOW = int(time.time())

CLAIMS: dict[str, Any] = {
    "exp missing": {"exp": ...},
    "exp null": {"exp": None},
    "exp past": {"exp": NOW - 31},
    "exp too long past for the connection to last": {"exp": NOW - 26},
    "exp a string": {"exp": str(NOW + 3600)},
    "exp true": {"exp": True},
    "exp a list": {"exp": [NOW + 3600]},
    "exp NaN": {"exp": float("nan")},
    "exp infinite": {"exp": float("inf")},
    "exp 1e308": {"exp": 1e308},
    "exp of 400 digits": {"exp": 10**400},
    "nbf future": {"nbf": NOW + 3600},
    "nbf a string": {"nbf": str(NOW)},
    "nbf NaN": {"nbf": float("nan")},
    "iat far future": {"iat": NOW + 10**6},
    "iat a string": {"iat": "yesterday"},
    "iat null": {"iat": None},
    "aud missing": {"aud": ...},
    "aud another": {"aud": "other"},
    "aud empty": {"aud": ""},
    "aud a list": {"aud": [AUDIENCE]},
    "aud a list of others": {"aud": ["other"]},
    "aud a number": {"aud": 5},
    "aud a longer one": {"aud": AUDIENCE + "-admin"},
    "iss missing": {"iss": ...},
    "iss another": {"iss": "https://issuer.test.evil"},
    "iss a list": {"iss": [ISSUER]},
    "sub missing": {"sub": ...},
    "sub null": {"sub": None},
    "sub empty": {"sub": ""},
    "sub a number": {"sub": 5},
    "sub a list": {"sub": ["ann"]},
    "sub with a line break": {"sub": "ann\nroot"},
    "sub with a direction override": {"sub": "ann‮root"},
    "sub over 255 characters": {"sub": "a" * 256},
    "jti a number": {"jti": 5},
}


@pytest.mark.threat(45)
@pytest.mark.parametrize("changes", CLAIMS.values(), ids=CLAIMS.keys())
async def test_a_token_whose_claims_do_not_hold_is_401(serve: Serve, changes: dict[str, Any]) -> None:
    server = await serve(who_room(by_token()))
    assert await refused(server, f"/ws?token={token(**changes)}") == UNAUTHORIZED
    assert server.gateway.rooms() == []


@pytest.mark.threat(45)
@pytest.mark.parametrize("number", [b"1e400", b"-1e400", b"9" * 5000, b"NaN"])
async def test_an_expiry_that_is_no_json_number_of_a_date_is_401(serve: Serve, number: bytes) -> None:
    server = await serve(who_room(by_token()))
    payload = b'{"sub":"ann","aud":"chat","iss":"https://issuer.test","exp":%b}' % number
    assert await refused(server, f"/ws?token={sign(payload)}") == UNAUTHORIZED


@pytest.mark.threat(45)
async def test_a_clock_may_be_wrong_by_half_a_minute(serve: Serve) -> None:
    server = await serve(who_room(by_token()))
    now = int(time.time())
    offsets: tuple[dict[str, Any], ...] = ({"nbf": now + 20}, {"iat": now + 20}, {"exp": now - 15})
    for near in offsets:
        await server.connect(f"/ws?token={token(**near)}")


@pytest.mark.threat(45)
async def test_a_list_of_audiences_is_taken_only_where_that_is_said(serve: Serve) -> None:
    server = await serve(who_room(by_token(accept_audience_list=True)))
    await server.connect(f"/ws?token={token(aud=['other', AUDIENCE])}")
    assert await refused(server, f"/ws?token={token(aud=['other'])}") == UNAUTHORIZED


# --- cookies -------------------------------------------------------------------------------------------------


async def test_a_session_cookie_is_looked_up_and_everything_else_is_401(serve: Serve) -> None:
    asked: list[str] = []

    async def lookup(value: str) -> dict[str, Any] | None:
        asked.append(value)
        return {"user_id": "ann", "role": "admin"} if value == "s3cret" else None

    server = await serve(who_room(cookie_auth("session", lookup)))
    told = await who(await server.connect("/ws?userId=root&channels=admin", Cookie="a=b; session=s3cret"))
    assert (told["user"], told["role"], told["channels"]) == ("ann", "admin", ["default"])
    for cookie in ("", "session=", "other=s3cret", "session=wrong", "session=" + "x" * 4097, "session=\xff\xfe"):
        assert await refused(server, "/ws?session=s3cret", Cookie=cookie) == UNAUTHORIZED
    assert asked == ["s3cret", "wrong"]


async def test_a_lookup_that_fails_is_500_and_its_text_stays_here(serve: Serve, clean_log: list[str]) -> None:
    clean_log.append("extract_meta or name_from_request of chat failed")

    async def lookup(value: str) -> None:
        raise RuntimeError("the database is away")

    server = await serve(who_room(cookie_auth("session", lookup)))
    assert await refused(server, Cookie="session=1") == FAILED


# --- 39: channels --------------------------------------------------------------------------------------------


@pytest.mark.threat(39)
async def test_a_room_that_authenticates_does_not_read_the_channels_of_the_query(serve: Serve) -> None:
    server = await serve(who_room(by_token()))
    many = ",".join(str(number) for number in range(1000))
    for channels in ("admin", many):
        told = await who(await server.connect(f"/ws?channels={channels}&token={token()}"))
        assert told["channels"] == ["default"]


def _guarded(decide: Any) -> RoomDefinition[Any, Any]:
    def extract_meta(request: ConnectRequest) -> Member:
        channels = tuple(request.query["channels"].split(","))
        return Member(user_id="ann", client_id="c", channels=channels)

    room = who_room(extract_meta, authorize_channel=decide)

    @room.on("join")
    def join(ctx: Context[Member], channel: str) -> str:
        try:
            ctx.join(channel)
        except Forbidden as error:
            return f"forbidden: {error}"
        return "joined"

    return room


@pytest.mark.threat(39)
async def test_authorize_channel_decides_at_the_handshake_and_in_join(serve: Serve) -> None:
    asked: list[tuple[str, str]] = []

    def decide(asker: Context[Member] | ConnectRequest, channel: str) -> bool:
        asked.append((type(asker).__name__, channel))
        return channel != "admin"

    server = await serve(_guarded(decide))
    assert await refused(server, "/ws?channels=a,admin,b") == FORBIDDEN
    assert asked == [("ConnectRequest", "a"), ("ConnectRequest", "admin")]
    client = await server.connect("/ws?channels=a,b")
    asked.clear()
    client.send({"type": "join", "data": "c", "id": 1}, {"type": "join", "data": "admin", "id": 2})
    assert (await client.json())["data"] == "joined"
    assert (await client.json())["data"].startswith("forbidden: ")
    assert asked == [("Context", "c"), ("Context", "admin")]
    assert (await who(client))["channels"] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        (Forbidden("no"), FORBIDDEN),
        (RateLimited("slowly"), (429, b'{"error":{"code":"rate_limited"}}')),
        (RuntimeError("secret"), FAILED),
        (SystemExit("secret"), FAILED),
        (None, FAILED),
        ("yes", FAILED),
    ],
)
async def test_what_authorize_channel_raises_is_the_status(
    serve: Serve, clean_log: list[str], result: Any, expected: tuple[int, bytes]
) -> None:
    clean_log.append("extract_meta or name_from_request of chat failed")

    def decide(asker: Any, channel: str) -> Any:
        if isinstance(result, BaseException):
            raise result
        return result

    server = await serve(_guarded(decide))
    assert await refused(server, "/ws?channels=a") == expected


@pytest.mark.threat(39)
@pytest.mark.parametrize("channels", [",".join(map(str, range(129))), "x" * 256, "a%0ab"])
async def test_channels_that_may_not_pass_are_400_before_anybody_is_asked(serve: Serve, channels: str) -> None:
    asked: list[str] = []

    def decide(asker: Any, channel: str) -> bool:
        asked.append(channel)
        return True

    server = await serve(_guarded(decide))
    assert (await refused(server, f"/ws?channels={channels}"))[0] == 400
    assert asked == []


# --- who may be in a room ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        (True, None),
        (False, FORBIDDEN),
        (Forbidden("not you"), FORBIDDEN),
        (NotFound("no such game"), (404, b'{"error":{"code":"not_found"}}')),
        (RateLimited("slowly"), (429, b'{"error":{"code":"rate_limited"}}')),
        (RuntimeError("secret"), FAILED),
        (SystemExit("secret"), FAILED),
        (None, FAILED),
        ("yes", FAILED),
    ],
)
@pytest.mark.parametrize("is_async", [True, False], ids=["async def", "def"])
async def test_what_authorize_room_answers_is_the_status(
    serve: Serve, clean_log: list[str], result: Any, expected: tuple[int, bytes] | None, is_async: bool
) -> None:
    clean_log.append("authorize_room, extract_meta or name_from_request of chat failed")
    seen: list[tuple[str, str | None]] = []

    def decide(meta: Any, request: ConnectRequest) -> Any:
        seen.append((meta.user_id, request.room))
        if isinstance(result, BaseException):
            raise result
        return result

    async def later(meta: Any, request: ConnectRequest) -> Any:
        return decide(meta, request)

    server = await serve(who_room(by_token(), authorize_room=later if is_async else decide))
    if expected is None:
        assert (await who(await server.connect(f"/ws?room=lobby&token={token()}")))["user"] == "ann"
    else:
        assert await refused(server, f"/ws?room=lobby&token={token()}") == expected
    assert seen == [("ann", "lobby")]


async def test_authorize_room_is_asked_whoever_said_who_it_is(serve: Serve) -> None:
    async def lookup(value: str) -> dict[str, Any]:
        return {"user_id": value}

    for extract_meta in (cookie_auth("session", lookup), public_meta, lambda request: {"user_id": "bob"}):
        server = await serve(who_room(extract_meta, authorize_room=lambda meta, request: meta.user_id == "ann"))
        assert await refused(server, "/ws?userId=bob", Cookie="session=bob") == FORBIDDEN


# --- 47: where tokens must not be ----------------------------------------------------------------------------


@pytest.mark.threat(47)
async def test_no_token_reaches_the_log_or_an_attachment(
    serve: Serve, clean_log: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    clean_log += ["verify_token of chat failed", "extract_meta or name_from_request of chat failed"]
    verifier = by_token()

    class Fragile:
        """Fail where the token says so, as an application's own code may."""

        async def __call__(self, request: ConnectRequest) -> Any:
            if "fail" in request.query:
                raise RuntimeError("the database is away")
            return await verifier(request)

        async def verify_token(self, token: str, /) -> Any:
            if token == failing:
                raise RuntimeError("the database is away")
            return await verifier.verify_token(token)

    failing = token(jti="failing")
    shown = {
        "good": token(role="admin", exp=int(time.time()) + 20),
        "expired": token(exp=1),
        "forged": token(key=OTHER),
        "edited": _edited(),
        "new": token(jti="new"),
        "other": token(sub="bea"),
        "failing": failing,
    }
    with caplog.at_level(logging.DEBUG):
        server = await serve(who_room(Fragile()))
        client = await server.connect(f"/ws?token={shown['good']}")
        for name in ("expired", "forged", "edited"):
            assert await refused(server, f"/ws?token={shown[name]}") == UNAUTHORIZED
            assert await refused(server, Authorization=f"Bearer {shown[name]}") == UNAUTHORIZED
        assert await refused(server, f"/ws?fail=1&token={shown['good']}") == FAILED
        for name in ("forged", "other", "failing", "new"):
            client.send({"type": "verani.refresh", "data": {"token": shown[name]}})
            await client.pinged()
        assert (await who(client))["role"] == "admin"
        rooms = server.gateway.attachments.rooms
        kept = "".join(repr(record.attachment) for room in rooms.values() for record in room.records.values())
        client.send(text(b"\xff"))  # and what ends in an error
        await client.closed()
    logged = "\n".join(map(TextFormatter().format, caplog.records))
    assert "a token was refused" in logged
    assert "admin" in kept
    for name, secret in shown.items():
        for part in (secret, secret.split(".")[1], secret.split(".")[2]):
            assert part not in logged, name
            assert part not in kept, name
    assert repr(RSA) not in logged


_APP = """
from pathlib import Path
from verani import define_room
from verani.auth import jwt_auth

chat = define_room(
    "chat", extract_meta=jwt_auth(algorithms=["RS256"], audience="chat", key=Path("key.pem").read_bytes())
)
"""


@pytest.mark.threat(47)
async def test_no_token_of_a_query_reaches_the_log_of_a_served_room(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(_APP)
    (tmp_path / "key.pem").write_bytes(public_pem())
    paths = os.pathsep.join(map(str, (tmp_path, *_SOURCES)))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "verani_gateway", "serve", "app:chat", "--log-level", "debug"),
        *("--port", "0", "--internal-port", "0"),
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": paths, "PYTHONASYNCIODEBUG": "1"},
        stderr=PIPE,
    )
    assert process.stderr is not None
    lines: list[str] = []
    shown = {"good": token(), "forged": token(key=OTHER), "expired": token(exp=1), "refresh": token(jti="1")}
    listening = asyncio.create_task(_collect(process.stderr, lines))
    clients: list[RawClient] = []
    try:
        await until(lambda: any("public listener" in line for line in lines), "".join(lines))
        match = re.search(r"public listener: http://127\.0\.0\.1:(\d+)", "".join(lines))
        assert match is not None
        for name, request, status in (
            ("good", handshake(f"/ws?token={shown['good']}"), 101),
            ("forged", handshake(f"/ws?token={shown['forged']}"), 401),
            ("expired", handshake(f"/ws?token={shown['expired']}"), 401),
            ("not found", handshake(f"/nowhere?token={shown['good']}"), 404),
            ("no upgrade", f"GET /ws?token={shown['good']} HTTP/1.1\r\nHost: a\r\n\r\n".encode(), 426),
            ("no method", f"POST /ws?token={shown['good']} HTTP/1.1\r\nHost: a\r\n\r\n".encode(), 405),
            ("no header", f"GET /ws?token={shown['good']} HTTP/1.1\r\nbad\r\n\r\n".encode(), 400),
        ):
            clients.append(await RawClient.open(int(match[1])))
            assert (await clients[-1].request(request)).status == status, name
        clients[0].send({"type": "verani.refresh", "data": {"token": shown["refresh"]}})
        assert await clients[0].text() == b'{"type":"verani.refreshed"}'
    finally:
        for client in clients:
            await client.end()
        process.send_signal(signal.SIGTERM)
        await process.wait()
        await listening
    output = "".join(lines)
    assert "DEBUG" in output
    for name, secret in shown.items():
        assert not [part for part in secret.split(".")[1:] if part in output], name


async def _collect(stream: asyncio.StreamReader, lines: list[str]) -> None:
    while line := await stream.readline():
        lines.append(line.decode())

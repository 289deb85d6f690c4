"""No secret, token or query string is in what a service writes or tells: every one is sent, and everything is searched.

The service is a real `verani serve` at its most talkative. Each secret that is sent has a name of its own, so that a
leak says where it came from.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import signal
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.raw import PATIENCE, RawClient, close, handshake, text
from tests.tokens import AUDIENCE, SECRET, encode_part, sign
from tests.tokens import token as make_token
from verani import RoomBusy
from verani.auth import jwt_auth
from verani_actors.upkeep.log_lines import TextFormatter

ROOT = Path(__file__).parents[2]
SOURCES = (ROOT, ROOT / "actors", ROOT / "gateway")

APP = """
import os
from typing import Any
import msgspec
from verani import Forbidden, define_room
from verani.auth import cookie_auth, jwt_auth

class Credentials(msgspec.Struct):
    token: str
    attempts: int = 0

class Strict(msgspec.Struct):
    attempts: int

def hooks(room):
    @room.on("login")
    def login(ctx, data: Credentials):
        raise RuntimeError("no database")

    @room.on("count")
    def count(ctx, data: Strict):
        return data.attempts

    @room.on("refuse")
    def refuse(ctx, data):
        raise Forbidden("no")

    @room.rpc
    def login_as(actor, token: str) -> str:
        raise RuntimeError("no database")

    return room

by_token = hooks(define_room("by_token", websocket_path="/token/{room}", extract_meta=jwt_auth(
    algorithms=["HS256"], audience="chat", key=os.environ["TEST_KEY"].encode())))

async def lookup(value: str) -> dict[str, str] | None:
    if "fail" in value:
        raise RuntimeError("no database")
    return {"user_id": "ann"} if "good" in value else None

by_cookie = hooks(define_room(
    "by_cookie", websocket_path="/cookie/{room}", extract_meta=cookie_auth("session", lookup)))

def fragile_meta(request):
    if "fail" in request.query:
        raise RuntimeError("no database")
    return {"user_id": 5}

fragile = define_room("fragile", websocket_path="/fragile/{room}", extract_meta=fragile_meta)

def raise_it(ctx):
    raise RuntimeError("no database")

on_connect = define_room("on_connect", websocket_path="/on_connect/{room}", on_connect=raise_it, on_disconnect=raise_it)
"""


class Secrets:
    """Everything that must not be seen again, by a name that says where it was sent."""

    def __init__(self) -> None:
        self.sent: dict[str, str] = {}

    def new(self, name: str) -> str:
        """Make text that is nowhere else."""
        secret = f"xq{len(self.sent)}z{os.urandom(6).hex()}"
        self.sent[name] = secret
        return secret

    def token(self, name: str, **claims: Any) -> str:
        """Make a token that is good unless the claims say otherwise; its claims and signature are secrets."""
        made = make_token(alg="HS256", key=SECRET, **{"jti": os.urandom(6).hex(), "iss": ..., **claims})
        return self.keep(name, made)

    def keep(self, name: str, token: str) -> str:
        """Take a token as a secret."""
        for number, part in enumerate(token.split(".")[1:]):
            self.sent[f"{name}, part {number + 1}"] = part
        return token

    def found_in(self, output: str) -> list[str]:
        return [name for name, secret in self.sent.items() if secret and secret in output]


@dataclass
class Served:
    """A running `verani serve`, what was sent to it, and what it said."""

    public: int
    internal: int
    secrets: Secrets
    rpc: str
    admin: str
    answers: list[str] = field(default_factory=list)
    output: str = ""

    async def send(self, port: int, data: bytes) -> int:
        """Send bytes on a connection of their own; return the status, keep the answer."""
        client = await RawClient.open(port)
        try:
            client.writer.write(data)
            async with asyncio.timeout(PATIENCE):
                head = await client.reader.readuntil(b"\r\n\r\n")
                length = re.search(rb"(?i)content-length: (\d+)", head)
                body = await client.reader.readexactly(int(length[1])) if length else b""
            self.answers.append((head + body).decode("latin-1"))
            return int(head.split(b" ")[1])
        finally:
            client.reset()

    async def connect(self, path: str, **headers: str) -> RawClient:
        client = await RawClient.open(self.public)
        await client.upgrade(path, together=b"", **headers)
        return client

    async def ask(self, method: str, path: str, token: str, body: bytes = b"", **headers: str) -> int:
        """Ask the internal listener."""
        lines = {"Host": "127.0.0.1", "Authorization": f"Bearer {token}", "Content-Length": str(len(body))}
        lines |= {"Content-Type": "application/json"} | {k.replace("_", "-"): v for k, v in headers.items()}
        head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        return await self.send(self.internal, f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode() + body)


@asynccontextmanager
async def serve(tmp_path: Path, level: str, log_format: str = "text") -> AsyncIterator[Served]:
    """Run the service; `output` is complete when this ends."""
    (tmp_path / "app.py").write_text(APP)
    secrets = Secrets()
    rpc, admin = secrets.new("the RPC token"), secrets.new("the admin token")
    (tmp_path / "admin").write_text(admin)
    secrets.sent["the key"] = SECRET.decode()
    with (tmp_path / "log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-X", "dev", "-W", "ignore", "-m", "verani_gateway", "serve"),
            *("app:by_token", "app:by_cookie", "app:fragile", "app:on_connect"),
            *(
                "--log-level",
                level,
                "--log-format",
                log_format,
                "--port",
                "0",
                "--internal-port",
                "0",
                "--hibernate-after",
                "0.1",
            ),
            cwd=tmp_path,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(map(str, (tmp_path, *SOURCES))),
                "VERANI_RPC_TOKEN": rpc,
                "VERANI_ADMIN_TOKEN_FILE": "admin",
                "TEST_KEY": SECRET.decode(),
            },
            stdout=log,
            stderr=log,
        )
    said = (tmp_path / "log").read_text
    try:
        async with asyncio.timeout(PATIENCE):
            while not (internal := re.search(r"internal listener: http://127\.0\.0\.1:(\d+)", said())):
                assert process.returncode is None, said()
                await asyncio.sleep(0.01)
        public = re.search(r"public listener: http://127\.0\.0\.1:(\d+)", said())
        assert public is not None
        served = Served(int(public[1]), int(internal[1]), secrets, rpc, admin)
        yield served
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
            await process.wait()
    assert process.returncode == 0, said()
    served.output = said()


# --- what is sent --------------------------------------------------------------------------------------------


class Attempt(NamedTuple):
    """A request with a secret in it, and its status."""

    name: str
    data: bytes
    status: int


def refused_handshakes(secrets: Secrets) -> Iterator[Attempt]:
    """Hold a secret out to the public listener in every way that is refused."""
    past = int(time.time()) - 100
    bad = {
        "expired": secrets.token("an expired token", exp=past),
        "of another audience": secrets.token("a token for others", aud=AUDIENCE + "x"),
        "with a user that may not pass": secrets.token("a token with a bad user", sub="a\nb" + secrets.new("a sub")),
        "of another key": secrets.keep("a forged token", make_token(alg="HS256", key=SECRET[::-1], iss=...)),
        "without alg": secrets.keep(
            "an unsigned token", f"{encode_part({'alg': 'none'})}.{encode_part({'sub': 'eve'})}."
        ),
        "that is no JSON": secrets.keep(
            "a broken token", sign(b"{" + os.urandom(8).hex().encode(), alg="HS256", key=SECRET)
        ),
        "that is none": secrets.new("what is no token"),
    }
    for name, token in bad.items():
        yield Attempt(f"a token {name} in the query", handshake(f"/token/a?token={token}"), 401)
        yield Attempt(f"a token {name} in the header", handshake("/token/a", Authorization=f"Bearer {token}"), 401)
    good = secrets.token("a good token that is refused")
    query = f"token={good}&q={secrets.new('a query')}"
    yield Attempt("no path of ours", handshake(f"/nowhere?{query}"), 404)
    yield Attempt("no room", handshake(f"/token/a%0a?{query}"), 404)
    yield Attempt("another Origin", handshake(f"/token/a?{query}", Origin="https://evil.test"), 403)
    yield Attempt("no upgrade", f"GET /token/a?{query} HTTP/1.1\r\nHost: a\r\n\r\n".encode(), 426)
    yield Attempt("no GET", f"POST /token/a?{query} HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n".encode(), 405)
    yield Attempt("no key", handshake(f"/token/a?{query}", drop=("Sec-WebSocket-Key",)), 400)
    yield Attempt("a hook that raises", handshake(f"/fragile/a?fail=1&{query}"), 500)
    yield Attempt("a hook that returns nonsense", handshake(f"/fragile/a?{query}"), 500)
    for name, status in (("unknown", 401), ("fail", 500)):
        cookie = f"session={name}-{secrets.new(f'a cookie, {name}')}"
        yield Attempt(f"a cookie: {name}", handshake(f"/cookie/a?{query}", Cookie=cookie), status)
    yield Attempt("basic", handshake("/token/a", Authorization=f"Basic {secrets.new('a password')}"), 401)


def malformed_requests(secrets: Secrets) -> Iterator[Attempt]:
    """Hold a secret out in requests that are no HTTP, which aiohttp itself refuses and logs."""
    end = " HTTP/1.1\r\nHost: a\r\n\r\n"

    def bad(name: str, request: str, status: int = 400) -> Attempt:
        return Attempt(name, request.encode("latin-1"), status)

    yield bad("a long line", f"GET /token/a?token={secrets.new('a long line')}{'x' * 17000}{end}", 431)
    yield bad("a control character", f"GET /token/a?token={secrets.new('a control character')}\x01{end}")
    yield bad("an odd version", f"GET /token/a?token={secrets.new('an odd version')} HTTP/9.1\r\nHost: a\r\n\r\n")
    yield bad("a space", f"GET /token/a?token={secrets.new('a space')} x{end}")
    yield bad("an odd URL", f"GET http://[bad?token={secrets.new('an odd URL')}{end}")
    authorization = "GET /token/a HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer"
    yield bad("a long header", f"{authorization} {secrets.new('a long header')}{'x' * 17000}\r\n\r\n", 431)
    yield bad("a control character in a header", f"{authorization} {secrets.new('a bad header')}\x01\r\n\r\n")
    yield bad("no colon", f"GET /token/a HTTP/1.1\r\nHost: a\r\nAuthorization {secrets.new('no colon')}\r\n\r\n")
    yield bad("a bad cookie", f"GET / HTTP/1.1\r\nHost: a\r\nCookie: session={secrets.new('a bad cookie')}\0\r\n\r\n")


async def use_sockets(served: Served) -> None:
    """Connect with secrets that are good, and send more of them in frames of every kind."""
    secrets = served.secrets
    path = f"/token/a?token={secrets.token('a good token', exp=int(time.time()) + 20)}&q={secrets.new('a good query')}"
    in_query = await served.connect(path)
    in_header = await served.connect(
        "/token/b",
        Authorization=f"Bearer {secrets.token('a token in a header')}",
        Sec_WebSocket_Protocol=f"bearer, {secrets.new('a token as a subprotocol')}",
    )
    in_cookie = await served.connect(
        f"/cookie/a?q={secrets.new('x')}", Cookie=f"session=good-{secrets.new('a cookie')}"
    )
    refused = await served.connect(f"/on_connect/a?token={secrets.new('on_connect raises')}")
    assert (await refused.closed()).code == 1011
    for client in (in_query, in_header, in_cookie):
        for name, data in {
            "of another key": secrets.keep("a forged refresh", make_token(alg="HS256", key=SECRET[::-1], iss=...)),
            "of somebody else": secrets.token("a refresh of another user", sub="bea"),
            "that is none": secrets.new("a refresh that is none"),
            "that is good": secrets.token("a good refresh"),
        }.items():
            client.send({"type": "verani.refresh", "data": {"token": data}, "name": name})
            await client.pinged()
        client.send({"type": "verani.refresh", "data": {"tokens": secrets.new("a refresh with a typo")}})
        client.send({"type": "login", "data": {"token": secrets.new("a payload of a hook that raises")}})
        client.send({"type": "login", "data": {"token": secrets.new("a payload that does not fit"), "attempts": "x"}})
        client.send({"type": "count", "data": {"attempts": secrets.new("a string where a number should be")}})
        client.send({"type": "refuse", "data": secrets.new("a payload of a hook that refuses")})
        client.send({"type": "nobody", "data": secrets.new("a payload that nobody handles")})
        client.send(text('{"type":5,"token":"' + secrets.new("an invalid frame") + '"}'))
        client.send(text('{"token":"' + secrets.new("no type") + '"'))
        client.send(text('{"type":"login","data":{"token":"' + secrets.new("1e999") + '","n":1e999}}'))
        client.send(text('{"type":"login","data":"' + secrets.new("half an escape") + '\\ud80"}'))
        await client.pinged()
    in_header.send(text(b'{"token":"' + secrets.new("no UTF-8").encode() + b'\xff"}'))
    assert (await in_header.closed()).code == 1007
    in_cookie.send(close(4999, secrets.new("a reason to close").encode()))
    await in_cookie.closed()
    for client in (in_query, in_header, in_cookie, refused):
        client.reset()


async def call_and_look(served: Served) -> None:
    """Use the internal listener with good and with wrong tokens, and read all of it."""
    secrets, ask = served.secrets, served.ask
    query = f"?token={served.rpc}&q={secrets.new('a query of a call')}"
    count, login = f"/rpc/by_token/a/get_session_count{query}", f"/rpc/by_token/a/login_as{query}"
    assert await ask("POST", count, served.rpc) == 200
    assert await ask("POST", count, secrets.new("a wrong RPC token")) == 401
    assert await ask("POST", count, served.admin) == 401
    assert await ask("POST", count, served.rpc, Origin="https://evil.test") == 403
    assert await ask("POST", count, served.rpc, b'{"x":"' + secrets.new("an argument too many").encode() + b'"}') == 400
    assert await ask("POST", login, served.rpc, b'{"token":"' + secrets.new("an argument").encode() + b'"}') == 500
    assert await ask("POST", login, served.rpc, b'["' + secrets.new("a broken argument").encode()) == 400
    key = secrets.new("an idempotency key")
    assert await ask("POST", login, served.rpc, b'["a"]', Idempotency_Key=key) == 500
    assert await ask("GET", "/admin/rooms", secrets.new("a wrong admin token")) == 401
    assert await ask("GET", f"/nowhere?q={secrets.new('a query of nothing')}", served.admin) == 404
    for path in ("/admin/rooms", "/admin/rooms/by_token/a", "/metrics"):
        assert await ask("GET", f"{path}{query}", served.admin) in (200, 404)
    for document in ("openapi", "asyncapi"):
        assert await ask("GET", f"/{document}.json{query}", served.rpc) == 200


# --- what is searched ----------------------------------------------------------------------------------------


@pytest.mark.threat(47)
@pytest.mark.parametrize("log_format", ["text", "json"])
async def test_no_secret_is_in_the_log_at_any_level_nor_in_any_answer(tmp_path: Path, log_format: str) -> None:
    async with serve(tmp_path, "debug", log_format) as served:
        for attempt in refused_handshakes(served.secrets):
            assert await served.send(served.public, attempt.data) == attempt.status, attempt.name
        await use_sockets(served)
        await call_and_look(served)
    assert "DEBUG" in served.output
    assert "no database" in served.output, "hooks were run and their errors logged"
    assert "a token was refused" in served.output
    assert served.secrets.found_in(served.output) == []
    assert served.secrets.found_in("\n".join(served.answers)) == []
    assert not re.search(r"[?&](token|q|room|userId|channels)=", served.output), "no query string"


@pytest.mark.threat(47)
@pytest.mark.threat(18)
@pytest.mark.parametrize("level", ["info", "debug"])
async def test_no_secret_of_a_request_that_is_no_http_is_in_the_log(tmp_path: Path, level: str) -> None:
    async with serve(tmp_path, level) as served:
        for port in (served.public, served.internal):
            for attempt in malformed_requests(served.secrets):
                assert await served.send(port, attempt.data) == attempt.status, attempt.name
    assert served.secrets.found_in(served.output) == []
    assert "Traceback" not in served.output


@pytest.mark.threat(18)
@pytest.mark.threat(48)
async def test_a_body_that_is_not_what_it_says_leaves_no_traceback(tmp_path: Path) -> None:
    lie = b"Content-Encoding: gzip\r\nContent-Length: 10\r\n\r\n0123456789"
    async with serve(tmp_path, "info") as served:
        for line, status in ((b"POST /token/a", 405), (b"GET /health", 200), (b"POST /nowhere", 404)):
            assert await served.send(served.public, line + b" HTTP/1.1\r\nHost: a\r\n" + lie) == status
        count = "/rpc/by_token/a/get_session_count"
        for encoding in ("gzip", "deflate"):
            status = await served.ask("POST", count, served.rpc, b"0123456789", Content_Encoding=encoding)
            assert status == 415, encoding
        # A caller that leaves in the middle of its arguments.
        leaving = await RawClient.open(served.internal)
        head = f"POST {count} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {served.rpc}\r\n"
        leaving.writer.write(f"{head}Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{{".encode())
        await leaving.flush()
        # Each answer says that the server has come past what was sent before.
        assert await served.ask("POST", count, served.rpc, b"{}") == 200
        leaving.reset()
        assert await served.ask("POST", count, served.rpc, b"{}") == 200
    assert "Traceback" not in served.output


@pytest.mark.threat(47)
async def test_the_query_of_a_key_set_that_cannot_be_fetched_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"no HTTP\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1")
    port = server.sockets[0].getsockname()[1]
    verifier = jwt_auth(algorithms=["RS256"], audience=AUDIENCE, jwks_url=f"http://127.0.0.1:{port}/?key=xq-the-key")
    with caplog.at_level(logging.DEBUG), pytest.raises(RoomBusy):
        await verifier.verify_token(make_token(kid="1"))
    server.close()
    logged = "\n".join(map(TextFormatter().format, caplog.records))
    assert "fetching the key set" in logged
    assert "xq-the-key" not in logged

"""Connections that expire (protocol 19, threats 46): warned, refreshed or closed, and the room sleeps through it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tests.raw import RawClient, close, until
from tests.server import Serve
from tests.tokens import AUDIENCE, OTHER, public_pem, token
from verani import ConnectionMeta, ConnectRequest, Identity, RoomDefinition, Unauthorized, define_room
from verani.auth import jwt_auth
from verani_gateway.connections.expiry import Expiry

REFRESHED = b'{"type":"verani.refreshed"}'
WHO = {"user_id": "ann", "client_id": "c"}


def expiring(seconds: int) -> bytes:
    return b'{"type":"verani.expiring","data":{"seconds":%d}}' % seconds


def refresh(with_token: Any) -> dict[str, Any]:
    return {"type": "verani.refresh", "data": {"token": with_token}}


def token_room(**options: Any) -> RoomDefinition[Any, Any]:
    by_token = jwt_auth(algorithms=["RS256"], audience=AUDIENCE, key=public_pem())
    return define_room("chat", extract_meta=by_token, **options)


class Users:
    """An application's own `extract_meta`: it is said when a connection expires, and how tokens are verified."""

    def __init__(self, expires_in: float | None, verify: Callable[[str], Awaitable[Any]] | None = None) -> None:
        self.expires_in = expires_in
        self.verify = verify

    def __call__(self, request: ConnectRequest) -> Identity:
        return Identity(WHO, None if self.expires_in is None else time.time() + self.expires_in)

    async def verify_token(self, token: str, /) -> Any:
        assert self.verify is not None
        return await self.verify(token)


async def never(token: str) -> Any:
    raise Unauthorized("not this one")


# Seconds since the expiry of a token that is still let in, and whose connection ends soon.
STALE = 23.8

# How often a gateway looks what is due follows from this one, too.
HASTY = {"max_unread": 0.4}


def ago(seconds: float) -> float:
    return time.time() - seconds


# --- when ----------------------------------------------------------------------------------------------------


def test_a_client_is_told_once_when_30_seconds_are_left() -> None:
    expiry = Expiry(1000.0)
    assert [expiry.notice(now) for now in (900.0, 969.9, 970.0, 970.9, 1000.0)] == [None, None, 30, None, None]


@pytest.mark.parametrize(("now", "seconds"), [(970.4, 30), (990.0, 10), (999.9, 1), (1000.0, 0), (1024.0, 0)])
def test_a_client_that_comes_late_is_told_what_is_left(now: float, seconds: int) -> None:
    assert Expiry(1000.0).notice(now) == seconds


def test_a_connection_lasts_25_seconds_longer_than_its_token() -> None:
    assert [Expiry(1000.0).is_over(now) for now in (1000.0, 1024.9, 1025.0, 5000.0)] == [False, False, True, True]


async def test_the_warning_comes_when_it_is_due(serve: Serve) -> None:
    server = await serve(define_room("chat", extract_meta=Users(30.3)), **HASTY)
    client = await server.connect()
    client.send({"type": "ping"})
    assert await client.text() == b'{"type":"pong"}', "nothing is said before"
    assert await client.text() == expiring(30)


async def test_the_warning_comes_at_once_where_less_is_left(serve: Serve) -> None:
    server = await serve(define_room("chat", extract_meta=Users(9.9)))
    client = await server.connect()
    assert await client.text() == expiring(10)
    client.send({"type": "ping"})
    assert await client.text() == b'{"type":"pong"}', "it is said once"


async def test_an_identity_without_an_expiry_is_never_told(serve: Serve) -> None:
    server = await serve(define_room("chat", extract_meta=Users(None)))
    client = await server.connect()
    client.send({"type": "ping"})
    assert await client.text() == b'{"type":"pong"}'


@pytest.mark.parametrize("expires_at", [float("nan"), float("inf"), "soon", True])
async def test_an_expiry_that_is_no_time_is_500(serve: Serve, clean_log: list[str], expires_at: Any) -> None:
    clean_log.append("extract_meta or name_from_request of chat failed")
    server = await serve(define_room("chat", extract_meta=lambda request: Identity(WHO, expires_at)))
    assert (await server.request(b"GET /ws HTTP/1.1\r\nHost: a\r\n\r\n")).status == 426
    with pytest.raises(AssertionError, match="status=500"):
        await server.connect()


@pytest.mark.threat(46)
async def test_silence_ends_in_4001(serve: Serve) -> None:
    server = await serve(token_room(), **HASTY)
    client = await server.connect(f"/ws?token={token(exp=ago(STALE))}")
    assert await client.text() == expiring(0)
    closed = await client.receive()
    assert (closed.code, closed.payload[2:]) == (4001, b"token expired")
    with pytest.raises(AssertionError, match="status=401"):
        await server.connect(f"/ws?token={token(exp=ago(26))}")


# --- refreshing ----------------------------------------------------------------------------------------------


@pytest.mark.threat(46)
async def test_a_refreshed_connection_outlives_its_first_token(serve: Serve) -> None:
    server = await serve(token_room(), **HASTY)
    old = f"/ws?token={token(exp=ago(STALE))}"
    client, control = await server.connect(old), await server.connect(old)
    client.send(refresh(token()))
    assert await client.text() == expiring(0)
    assert await client.text() == REFRESHED
    assert (await control.closed()).code == 4001
    control.send(close(4001))
    await until(lambda: len(server.gateway.connections) == 1)
    await client.pinged()


async def test_the_expiry_of_the_new_token_counts(serve: Serve) -> None:
    server = await serve(token_room(), **HASTY)
    client = await server.connect(f"/ws?token={token()}")
    client.send(refresh(token(exp=ago(STALE))))
    assert await client.text() == REFRESHED
    assert await client.text() == expiring(0), "it is told again"
    assert (await client.closed()).code == 4001


async def test_a_refresh_may_end_the_expiry(serve: Serve) -> None:
    async def verify(token: str) -> Any:
        return WHO

    server = await serve(define_room("chat", extract_meta=Users(-STALE, verify)), **HASTY)
    client, control = await server.connect(), await server.connect("/ws?room=other")
    client.send(refresh("t"))
    assert await client.text() == expiring(0)
    assert await client.text() == REFRESHED
    assert (await control.closed()).code == 4001
    control.send(close(4001))
    await client.pinged()


FAILURES: dict[str, Any] = {
    "another user": lambda: token(sub="bea"),
    "forged": lambda: token(key=OTHER),
    "expired": lambda: token(exp=ago(3600)),
    "expired for 26 s": lambda: token(exp=ago(26)),
    "no token": lambda: "secret",
    "empty": lambda: "",
    "of 60 KB": lambda: "A" * 60_000,
}


@pytest.mark.threat(46)
async def test_a_refresh_that_fails_answers_nothing_until_4001(serve: Serve) -> None:
    server = await serve(token_room(), **HASTY)

    async def answers(bad: Callable[[], str]) -> tuple[bytes, int | None]:
        client = await server.connect(f"/ws?token={token(exp=ago(STALE))}")
        client.send(refresh(bad()))
        return await client.text(), (await client.receive()).code

    got = await asyncio.gather(*map(answers, FAILURES.values()))
    assert dict(zip(FAILURES, got, strict=True)) == dict.fromkeys(FAILURES, (expiring(0), 4001))


async def test_who_may_not_be_in_the_room_any_more_is_not_refreshed(serve: Serve) -> None:
    asked: list[tuple[str | None, str | None, str]] = []

    async def decide(meta: ConnectionMeta, request: ConnectRequest) -> bool:
        asked.append((request.room, request.query.get("seat"), meta.client_id))
        return meta.client_id != "banned"

    by_token = jwt_auth(algorithms=["RS256"], audience=AUDIENCE, key=public_pem(), claims={"client_id": "jti"})
    server = await serve(define_room("chat", extract_meta=by_token, authorize_room=decide), **HASTY)
    client = await server.connect(f"/ws?room=lobby&seat=4&token={token(exp=ago(STALE), jti='first')}")
    client.send(refresh(token(jti="banned")))
    assert await client.text() == expiring(0)
    assert (await client.receive()).code == 4001
    assert asked == [("lobby", "4", "first"), ("lobby", "4", "banned")]


async def test_an_extract_meta_without_verify_token_refreshes_nothing(serve: Serve) -> None:
    def extract_meta(request: ConnectRequest) -> Identity:
        return Identity(ConnectionMeta(user_id="ann", client_id="c"), ago(STALE))

    server = await serve(define_room("chat", extract_meta=extract_meta), **HASTY)
    client = await server.connect()
    client.send(refresh("t"))
    assert await client.text() == expiring(0)
    assert (await client.receive()).code == 4001


async def test_a_client_may_try_again_after_a_refresh_that_failed(serve: Serve) -> None:
    server = await serve(token_room(), **HASTY)
    client = await server.connect(f"/ws?token={token()}")
    for _ in range(3):
        client.send(refresh("secret"))
        await client.pinged()
    client.send(refresh(token()))
    assert await client.text() == REFRESHED


async def test_the_room_sleeps_through_expiry_and_refresh(serve: Serve) -> None:
    seen: list[str] = []
    room = token_room(
        on_message=lambda ctx, frame: seen.append(frame.type),
        on_hibernation_restore=lambda actor: seen.append("woke"),
    )
    server = await serve(room, hibernate_after=0.02)
    client = await server.connect(f"/ws?token={token(exp=ago(STALE))}")
    await until(lambda: server.state("chat/default") == "asleep")
    client.send(refresh(token()))
    assert await client.text() == expiring(0)
    assert await client.text() == REFRESHED
    client.send(refresh("secret"), refresh(5))
    await client.pinged()
    assert server.state("chat/default") == "asleep"
    assert seen == []


@pytest.mark.parametrize("frame", [refresh(5), {"type": "verani.refresh"}, {"type": "verani.refresh", "data": []}])
async def test_a_refresh_without_a_token_is_an_invalid_frame(serve: Serve, frame: dict[str, Any]) -> None:
    server = await serve(token_room(), **HASTY)
    client = await server.connect(f"/ws?token={token()}")
    client.send(frame)
    await client.pinged()
    assert server.gateway.metrics.invalid_frames == 1


async def test_a_refresh_of_what_never_expires_is_dropped(serve: Serve) -> None:
    seen: list[str] = []
    server = await serve(define_room("chat", on_message=lambda ctx, frame: seen.append(frame.type)))
    client = await server.connect()
    client.send(refresh(token()), {"type": "other"})
    await until(lambda: seen)
    assert seen == ["other"]
    client.send({"type": "ping"})
    assert await client.text() == b'{"type":"pong"}'


# --- what an application's own code may do -------------------------------------------------------------------


class Gate:
    """A `verify_token` that waits until it is told to go on."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.opened = asyncio.Event()
        self.cancelled = asyncio.Event()

    async def __call__(self, token: str) -> Identity:
        self.asked.append(token)
        try:
            await self.opened.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        return Identity(WHO, time.time() + 3600)


async def _at_the_gate(serve: Serve, **settings: Any) -> tuple[Any, RawClient, Gate]:
    gate = Gate()
    server = await serve(define_room("chat", extract_meta=Users(3600, gate)), **settings)
    client = await server.connect()
    client.send(refresh("first"))
    await until(lambda: gate.asked)
    return server, client, gate


async def test_a_connection_refreshes_one_token_at_a_time_and_is_read_meanwhile(serve: Serve) -> None:
    _, client, gate = await _at_the_gate(serve)
    client.send(refresh("second"))
    await client.pinged()
    gate.opened.set()
    assert await client.text() == REFRESHED
    assert gate.asked == ["first"]
    client.send(refresh("third"))
    assert await client.text() == REFRESHED
    assert gate.asked == ["first", "third"]


async def test_the_end_of_a_connection_ends_its_refresh(serve: Serve) -> None:
    server, client, gate = await _at_the_gate(serve)
    client.reset()
    async with asyncio.timeout(10):
        await gate.cancelled.wait()
    await until(lambda: not server.gateway.connections)


async def test_a_refresh_has_the_time_of_a_hook(serve: Serve, clean_log: list[str]) -> None:
    clean_log.append("verify_token of chat failed")
    _, client, gate = await _at_the_gate(serve, hook_timeout=0.05)
    async with asyncio.timeout(10):
        await gate.cancelled.wait()
    gate.opened.set()
    await client.pinged()
    client.send(refresh("second"))
    assert await client.text() == REFRESHED


@pytest.mark.parametrize(
    "error", [RuntimeError("secret"), SystemExit(3), KeyboardInterrupt(), asyncio.CancelledError(), None]
)
async def test_a_verify_token_that_misbehaves_is_logged_and_hurts_nobody(
    serve: Serve, clean_log: list[str], caplog: pytest.LogCaptureFixture, error: BaseException | None
) -> None:
    clean_log.append("verify_token of chat failed")

    async def verify(token: str) -> Any:
        if error is not None:
            raise error

    server = await serve(define_room("chat", extract_meta=Users(3600, verify)))
    client = await server.connect()
    with caplog.at_level(logging.ERROR):
        client.send(refresh("t"))
        await until(lambda: caplog.messages)
    assert caplog.messages == ["authorize_room or verify_token of chat failed"]
    client.send({"type": "ping"})
    assert await client.text() == b'{"type":"pong"}'


async def test_refreshes_count_towards_the_rate(serve: Serve) -> None:
    users = Users(3600, never)
    server = await serve(define_room("chat", extract_meta=users), rate_limit=1, rate_burst=5, rate_policy="close")
    client = await server.connect()
    client.send(*[refresh("t")] * 6)
    assert (await client.receive()).code == 1008

"""Operators see who is in a room, and nothing that could be a secret."""

from __future__ import annotations

import time
from typing import Any

import msgspec
import pytest

from tests.server import Serve
from verani import ConnectionMeta, ConnectRequest, Identity, Unauthorized, define_room
from verani_gateway.operating.alone import Alone
from verani_gateway.operating.sessions import MAX_SESSIONS, SessionSeen, SessionsTold, sessions_of


class Point(msgspec.Struct):
    x: int = 1


class Person(ConnectionMeta, kw_only=True):
    role: str = "guest"
    level: int = 3
    ratio: float = 0.5
    away: bool = False
    team: str | None = None
    essay: str = "x" * 41
    huge: int = 2**60
    where: Point = msgspec.field(default_factory=Point)
    tags: list[str] = msgspec.field(default_factory=lambda: ["secret inside"])
    access_token: str = "t0ps3cret"
    Password: str = "t0ps3cret"
    api_key: bytes = b"t0ps3cret"
    sessionId: str = "t0ps3cret"  # as people name them


async def seen(serve: Serve, identity: Any) -> SessionSeen:
    room = define_room("chat", meta=Person, extract_meta=lambda request: identity)
    server = await serve(room)
    await server.connect("/ws")
    (session,) = sessions_of(server.gateway, "chat/default").sessions
    return session


async def test_own_fields_are_told_as_far_as_they_are_small_and_no_secrets(serve: Serve) -> None:
    session = await seen(serve, Person(user_id="ann", client_id="one", channels=("default", "news")))
    assert (session.user_id, session.client_id, session.channels) == ("ann", "one", ("default", "news"))
    assert session.meta == {
        "role": "guest",
        "level": 3,
        "ratio": 0.5,
        "away": False,
        "team": None,
        "essay": "(text of 41 characters)",
        "huge": "(int)",
        "where": "(Point)",
        "tags": "(list)",
        "access_token": "(hidden)",
        "Password": "(hidden)",
        "api_key": "(hidden)",
        "sessionId": "(hidden)",
    }
    told = msgspec.json.encode(SessionsTold([session]))
    assert b"t0ps3cret" not in told
    assert b"secret inside" not in told


async def test_an_identity_that_expires_says_in_how_many_seconds(serve: Serve) -> None:
    session = await seen(serve, Identity(Person(user_id="ann"), expires_at=time.time() + 1000))
    assert session.expires_seconds == pytest.approx(1000, abs=60)
    assert session.connected_seconds is not None


async def test_channels_and_fields_beyond_a_limit_are_left_out(serve: Serve) -> None:
    wide = msgspec.defstruct("Wide", [(f"f{n}", int, n) for n in range(50)], bases=(ConnectionMeta,), kw_only=True)

    def extract(request: ConnectRequest) -> Any:
        return wide(user_id="ann", channels=tuple(f"channel {n}" for n in range(50)))

    server = await serve(define_room("chat", meta=wide, extract_meta=extract))
    await server.connect("/ws")
    (session,) = sessions_of(server.gateway, "chat/default").sessions
    assert len(session.channels) == 20
    assert len(session.meta) == 20


async def test_of_a_crowd_the_first_are_told_and_that_there_are_more(serve: Serve) -> None:
    server = await serve(define_room("chat"))
    for _ in range(MAX_SESSIONS + 1):
        await server.connect("/ws")
    told = sessions_of(server.gateway, "chat/default")
    assert (len(told.sessions), told.more) == (MAX_SESSIONS, True)


async def test_what_a_hook_raises_that_decides_who_may_connect_is_told_like_that_of_a_room(
    serve: Serve, clean_log: list[str]
) -> None:
    clean_log.append("extract_meta or name_from_request of chat failed")

    def extract(request: ConnectRequest) -> Any:
        if "userId" not in request.query:
            raise Unauthorized("on purpose")
        raise LookupError("no such user")

    server = await serve(define_room("chat", extract_meta=extract))
    for query, status in (("", 401), ("?userId=ann", 500), ("?userId=ann", 500)):
        request = f"GET /ws{query} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        key = "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
        assert (await server.request((request + key).encode())).status == status
    (failure,) = await Alone(server.gateway).errors()
    assert (failure.room, failure.type, failure.text, failure.count) == ("chat", "LookupError", "no such user", 2)
    assert "extract_meta" in failure.hook
    assert (await Alone(server.gateway).activity()).errors == 2

"""The Python client in a room that authenticates: it brings its token, and a new one when that expires."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

import pytest

from tests.raw import until
from tests.server import Serve
from tests.tokens import AUDIENCE, public_pem, token
from verani import RoomDefinition, define_room
from verani.auth import jwt_auth
from verani.client import HandshakeRefused, VeraniClient
from verani.client.reconnection import Reconnection

AT_ONCE = Reconnection(initial_delay=0.001, max_delay=0.002, max_attempts=None)
HASTY = {"max_unread": 0.4}


def stale() -> str:
    """Make a token that is let in and expires a second later."""
    return token(exp=time.time() - 23.8)


def who_room() -> RoomDefinition[Any, Any]:
    room = define_room("chat", extract_meta=jwt_auth(algorithms=["RS256"], audience=AUDIENCE, key=public_pem()))
    room.on("who")(lambda ctx, data: ctx.meta.user_id)
    return room


class Tokens:
    """Hand out these tokens, one a call, and the last one from then on."""

    def __init__(self, *tokens: str | Exception) -> None:
        self.tokens = tokens
        self.asked = 0

    async def __call__(self) -> str:
        self.asked += 1
        given = self.tokens[min(self.asked, len(self.tokens)) - 1]
        if isinstance(given, Exception):
            raise given
        return given


async def test_a_client_brings_its_token_in_the_header(serve: Serve) -> None:
    server = await serve(who_room())
    async with VeraniClient(f"ws://127.0.0.1:{server.port}/ws", token=lambda: token()) as client:
        assert await client.request("who") == "ann"


async def test_a_client_whose_token_is_refused_ends(serve: Serve) -> None:
    server = await serve(who_room())
    url = f"ws://127.0.0.1:{server.port}/ws"
    client = VeraniClient(f"{url}?room=lobby", token=lambda: "secret")
    with pytest.raises(HandshakeRefused) as caught:
        await client.connect()
    assert str(caught.value) == f"{url} refused the handshake with 401 (unauthorized)"
    await client.close()


async def test_a_client_may_bring_a_token_that_is_a_string(serve: Serve) -> None:
    server = await serve(who_room())
    async with VeraniClient(f"ws://127.0.0.1:{server.port}/ws", token=token()) as client:
        assert await client.request("who") == "ann"


async def test_a_client_whose_only_token_expires_tells_those_who_iterate(serve: Serve) -> None:
    server = await serve(who_room(), **HASTY)
    async with VeraniClient(f"ws://127.0.0.1:{server.port}/ws", token=stale(), reconnection=AT_ONCE) as client:
        events = aiter(client)
        async with asyncio.timeout(30):
            assert (await anext(events)).type == "verani.expiring"
            with pytest.raises(HandshakeRefused, match="401"):
                [event async for event in events]


async def test_a_client_refreshes_when_it_is_told_and_hears_nothing_of_it(serve: Serve) -> None:
    server = await serve(who_room(), **HASTY)
    tokens = Tokens(stale(), token())
    heard: list[Any] = []
    closed: list[int] = []
    client = VeraniClient(f"ws://127.0.0.1:{server.port}/ws", token=tokens)
    client.on("*", heard.append)
    client.on("close", lambda code, reason: closed.append(code))
    control = await server.connect(f"/ws?token={tokens.tokens[0]}")
    async with client:
        await until(lambda: tokens.asked == 2)
        assert (await control.closed()).code == 4001
        assert await client.request("who") == "ann"
        assert (heard, closed) == ([], [])


async def test_a_client_that_has_no_new_token_comes_back_when_it_has_one(
    serve: Serve, caplog: pytest.LogCaptureFixture, clean_log: list[str]
) -> None:
    clean_log.append("the function that returns tokens failed")
    server = await serve(who_room(), **HASTY)
    tokens = Tokens(stale(), RuntimeError("not now"), RuntimeError("not now"), token())
    codes: list[int] = []
    with caplog.at_level(logging.DEBUG):
        client = VeraniClient(f"ws://127.0.0.1:{server.port}/ws", token=tokens, reconnection=AT_ONCE)
        client.on("close", lambda code, reason: codes.append(code))
        async with client:
            await until(lambda: codes)
            async with asyncio.timeout(10):
                assert await client.request("who") == "ann"
        assert codes[0] == 4001
        assert tokens.asked == 4
    for secret in (tokens.tokens[0], tokens.tokens[3]):
        assert str(secret) not in caplog.text

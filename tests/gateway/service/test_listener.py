"""A connection of `verani serve`, from its accept to its first frames."""

from __future__ import annotations

import asyncio
import socket
from asyncio import selector_events
from typing import Any

import pytest
from aiohttp import web

from tests.listeners import Listen
from tests.raw import frame, handshake, text
from verani import Context, define_room
from verani_gateway.connections.intake import Intake

echoes = define_room("echoes", websocket_path="/ws/{room}")


@echoes.on("say")
def say(ctx: Context[Any, Any], data: Any) -> None:
    ctx.emit("said", data)


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """List the protocols that transports are given."""
    protocols: list[object] = []
    give = selector_events._SelectorTransport.set_protocol  # type: ignore[attr-defined]

    def set_protocol(transport: Any, protocol: object) -> None:
        protocols.append(protocol)
        give(transport, protocol)

    monkeypatch.setattr(selector_events._SelectorTransport, "set_protocol", set_protocol)  # type: ignore[attr-defined]
    return protocols


async def test_a_websocket_keeps_the_protocol_that_its_connection_began_with(
    listen: Listen, given: list[object]
) -> None:
    running = await listen(room=echoes)
    client = await running.tcp(running.public)
    await client.upgrade("/ws/lobby")
    client.send(text({"type": "say", "data": {"n": 1}}))
    assert (await client.json())["data"]["n"] == 1
    assert [type(each) for each in given if isinstance(each, web.RequestHandler | Intake)] == [Intake]


@pytest.mark.parametrize("many", [1, 50])
async def test_frames_that_come_with_the_handshake_are_handled_after_it(listen: Listen, many: int) -> None:
    running = await listen(room=echoes)
    client = await running.tcp(running.public)
    early = b"".join(frame(1, b'{"type":"say","data":{"n":%d}}' % n) for n in range(many))
    await client.upgrade("/ws/lobby", together=early)
    client.send(text({"type": "say", "data": {"n": many}}))
    assert [(await client.json())["data"]["n"] for _ in range(many + 1)] == list(range(many + 1))


async def test_a_request_may_come_before_the_handshake_on_the_same_connection(listen: Listen) -> None:
    running = await listen(room=echoes)
    client = await running.tcp(running.public)
    assert (await client.request(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n")).status == 200
    await client.upgrade("/ws/lobby")
    assert len(running.gateway.connections) == 1


async def test_bytes_of_a_handshake_are_not_those_of_a_connection(listen: Listen) -> None:
    running = await listen(room=echoes)
    client = await running.tcp(running.public)
    await client.upgrade("/ws/lobby")
    sent = text({"type": "say", "data": {"n": 1}})
    client.send(sent)
    await client.json()
    assert running.gateway.metrics.received_bytes == len(sent)


async def test_connections_send_without_delay_and_are_probed_while_they_are_silent(listen: Listen) -> None:
    running = await listen(room=echoes)
    await (await running.tcp(running.public)).upgrade("/ws/lobby")
    (connection,) = running.gateway.connections.values()
    opened = connection.outbox._transport.get_extra_info("socket")
    assert opened.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    assert opened.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


async def test_a_handshake_in_pieces_is_one(listen: Listen) -> None:
    running = await listen(room=echoes, header_timeout=10.0)
    client = await running.tcp(running.public)
    for piece in handshake("/ws/lobby").splitlines(keepends=True):
        client.writer.write(piece)
        await asyncio.sleep(0)
    head = await client.reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 101 ")

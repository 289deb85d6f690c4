"""What a room in the same process handles within the call that brings it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.raw import until
from verani import ConnectionMeta, Context, define_room

if TYPE_CHECKING:
    from tests.server import Serve


@pytest.mark.parametrize("asks", [False, True], ids=["of which no hook hears", "of which a hook hears"])
async def test_a_room_lets_a_connection_in_within_the_call_that_brings_it_unless_a_hook_hears_of_it(
    serve: Serve, asks: bool
) -> None:
    chat = define_room("chat")
    if asks:

        @chat.on_connect
        def greet(ctx: Context) -> None:
            ctx.emit("hello", ctx.meta.user_id)

    server = await serve(chat)
    await server.connect("/ws?room=lobby")
    gateway = server.gateway
    held = gateway.attachments.rooms["chat/lobby"]
    await until(lambda: not held.unprocessed, "nothing waits")
    engine = gateway.host.directory.rooms["chat/lobby"].engine
    assert engine is not None
    (first,) = held.records.values()
    gateway.ingress.shortest.connect("chat/lobby", "another", chat.codec(1024).admit(ConnectionMeta(user_id="bob")))
    another = held.records["another"]
    assert another.connected is not asks
    assert (engine.connections, len(held.unprocessed)) == ((1, 1) if asks else (2, 0))
    await until(lambda: another.connected, "the room has let it in")
    assert engine.connections == 2
    assert another.order > first.order
    gateway.ingress.close("chat/lobby", "another", 1000, "")

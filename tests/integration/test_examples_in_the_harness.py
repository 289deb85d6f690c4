"""The examples, tested as their users would: with the test kit, without a server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from examples.chat import chat
from examples.game import game
from examples.notifications import notifications
from examples.poll import poll
from examples.presence import presence
from verani import Conflict, Forbidden, InvalidArguments, RoomBusy, Unauthorized
from verani.testing import Event, RoomHarness, assert_hibernation_transparent


async def chatting(room: RoomHarness[Any, Any]) -> None:
    ann = await room.connect(query={"userId": "ann"})
    bob = await room.connect(query={"userId": "bob", "channels": "default,random"})
    await ann.request("chat.join", "random")
    await bob.send("chat.message", {"channel": "random", "text": "anybody?"})
    await bob.request("chat.leave", "random")
    with pytest.raises(Forbidden):
        await bob.request("chat.message", {"channel": "random", "text": "I left"})
    await room.advance(60)
    await bob.close(1006)
    await ann.send("chat.message", {"channel": "random", "text": "alone"})


async def test_chat_tells_who_is_here_and_keeps_channels_apart() -> None:
    async with RoomHarness(chat, room_id="lobby") as room:
        ann = await room.connect(user_id="ann")
        bob = await room.connect(user_id="bob")
        both = Event("presence", {"type": "presence", "users": ["ann", "bob"]}, "default")
        assert ann.take() == [Event("presence", {"type": "presence", "users": ["ann"]}, "default"), both]
        assert bob.take() == [both]
        await ann.request("chat.join", "general")
        await ann.send("chat.message", {"channel": "general", "text": "hi"})
        assert ann.take() == [Event("chat.message", {"type": "chat.message", "from": "ann", "text": "hi"}, "general")]
        assert bob.take() == []
        with pytest.raises(InvalidArguments) as refusal:
            await ann.request("chat.message", {"channel": "general", "text": ""})
        assert refusal.value.path == "$.text"


async def test_nobody_notices_that_the_chat_sleeps() -> None:
    assert await assert_hibernation_transparent(chat, chatting) == 9


async def being_present(room: RoomHarness[Any, Any]) -> None:
    bob = await room.connect(query={"userId": "bob"})
    ann = await room.connect(query={"userId": "ann"})
    await ann.request("status.set", "away")
    phone = await room.connect(query={"userId": "ann"})
    assert bob.received[-1].data == {"type": "presence.update", "user": "ann", "status": "active"}
    await phone.close()
    assert bob.received[-1].data == {"type": "presence.update", "user": "ann", "status": "away"}
    await ann.close()
    assert bob.received[-1].data == {"type": "presence.update", "user": "ann", "status": "offline"}


async def test_presence_combines_the_connections_of_a_user() -> None:
    async with RoomHarness(presence, room_id="office") as room:
        await being_present(room)


async def test_nobody_notices_that_presence_sleeps() -> None:
    await assert_hibernation_transparent(presence, being_present)


async def notifying(room: RoomHarness[Any, Any]) -> None:
    phone = await room.connect(query={"token": "ann-demo"})
    laptop = await room.connect(query={"token": "ann-demo", "channels": "default,urgent"})
    ops = await room.connect(query={"token": "ops-demo", "room": "ann"})
    assert await ops.request("notify", {"text": "lunch"}) == {"devices": 2}
    assert await ops.request("notify", {"text": "fire", "channel": "urgent"}) == {"devices": 1}
    assert [event.data["text"] for event in phone.received] == ["lunch"]
    await phone.send("read", phone.received[0].data["id"])
    assert laptop.received[-1].data == {"type": "notification.read", "id": phone.received[0].data["id"]}


async def test_notifications_reach_the_devices_of_their_user() -> None:
    async with RoomHarness(notifications, room_id="ann") as room:
        await notifying(room)
        with pytest.raises(Unauthorized):
            await room.connect(query={"token": "wrong"})
        with pytest.raises(Forbidden):
            await room.connect(query={"token": "bob-demo", "room": "ann"})
        with pytest.raises(ValueError, match="asks for 'bob'"):
            await room.connect(query={"token": "bob-demo"})


async def test_nobody_notices_that_notifications_sleep() -> None:
    await assert_hibernation_transparent(notifications, notifying, room_id="ann")


async def test_a_round_of_the_game_keeps_its_table_awake() -> None:
    async with RoomHarness(game, room_id="table-1") as room:
        ann = await room.connect(user_id="ann")
        eve = await room.connect(user_id="eve")
        await ann.request("game.join")
        await ann.request("game.start", 1)
        assert await ann.request("game.click") == 1
        with pytest.raises(Conflict):
            await ann.request("game.start", 1)
        with pytest.raises(Forbidden):
            await eve.request("game.click")
        await room.advance(60)
        assert room.awake
        over = await eve.wait_for("game.over")  # the example's clock is the real one
        assert over == Event("game.over", {"type": "game.over", "scores": {"ann": 1}}, "chat")
        assert [event.type for event in ann.received] == ["game.tick", "game.over"]
        await room.advance(60)
        assert not room.awake
        await eve.send("chat.message", "again?")
        assert ann.received[-1].data["text"] == "again?"


async def test_poll_keeps_its_votes_while_nobody_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLLS", str(tmp_path / "polls"))
    async with RoomHarness(poll, room_id="Suppe & mehr") as room:
        ann = await room.connect(user_id="ann")
        await room.idle()
        assert await ann.request("poll.vote", "soup") == {"soup": 1}
        await ann.close()
        await room.hibernate()
        bob = await room.connect(user_id="bob")
        await room.idle()
        assert bob.take() == [Event("poll.votes", {"type": "poll.votes", "count": {"soup": 1}}, "default")]
        assert await bob.request("poll.vote", "salad") == {"salad": 1, "soup": 1}
        await room.hibernate()
        [file] = (tmp_path / "polls").iterdir()
        file.write_bytes(b'{"votes":{"ann":')
        with pytest.raises(RoomBusy):
            await bob.request("poll.vote", "pizza")
        await room.hibernate()
        assert file.read_bytes() == b'{"votes":{"ann":', "what could not be loaded is not saved over"
        assert len(room.take_errors()) == 1

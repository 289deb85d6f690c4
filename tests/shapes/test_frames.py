"""What travels between a client and its room, byte by byte where it matters, and in which order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.shapes.app import ON_PURPOSE
from verani.errors import VeraniError

if TYPE_CHECKING:
    from tests.shapes.conftest import Gates, Visit
    from tests.shapes.service import Service

pytestmark = pytest.mark.shapes


async def test_frames_are_handled_and_answered_in_the_order_they_were_sent(visit: Visit) -> None:
    guest = await visit()
    await guest.text(*({"type": "reply", "data": {"n": n}} for n in range(500)))
    assert [(await guest.next())["n"] for _ in range(500)] == list(range(500))


async def test_events_look_as_the_protocol_says(visit: Visit) -> None:
    guest = await visit(channels="b,a", userId="ann")
    for sent, received in (
        (
            '{"type":"reply","data":{"n":1}}',
            '{"type":"event","channel":"b","data":{"type":"replied","n":1}}',
        ),
        (
            '{"type":"reply","data":"text"}',
            '{"type":"event","channel":"b","data":{"type":"replied","value":"text"}}',
        ),
        (
            '{"type":"say","data":{"channel":"a","text":null}}',
            '{"type":"event","channel":"a","data":{"type":"said","by":"ann","text":null}}',
        ),
        (
            '{"type":"tell","data":{"to":"ann","text":"hi"}}',
            '{"type":"event","channel":"default","data":{"type":"told","text":"hi"}}',
        ),
        ('{"type":"echo","id":7,"data":[1]}', '{"type":"ack","id":7,"data":[1]}'),
        ('{"type":"botch","id":8,"data":"x"}', '{"type":"event","channel":"b","data":{"type":"botched"}}'),
    ):
        await guest.text(sent)
        assert await guest.raw() == received
    assert await guest.raw() == '{"type":"ack","id":8,"error":{"code":"failed"}}'


@pytest.mark.parametrize("data", [0, "", False, None, [], {}, 1.5, "\u0000\u2028\U0001f600", {"__proto__": {"a": 1}}])
async def test_data_of_every_kind_comes_back_as_it_was(visit: Visit, data: Any) -> None:
    assert await (await visit()).ask("echo", data) == data


async def test_absent_data_is_an_empty_object(visit: Visit) -> None:
    assert await (await visit()).ask("echo") == {}


async def test_the_first_handler_with_an_answer_gives_it_and_all_run(visit: Visit) -> None:
    guest = await visit()
    assert await guest.ask("both") == "second"
    assert [event["type"] for event in await guest.heard()] == ["first", "second", "third"]


async def test_a_refusal_brings_its_text_for_people(visit: Visit) -> None:
    guest = await visit()
    for number, (text, told) in enumerate(((None, {}), ("Bücher \u2026", {"message": "Bücher \u2026"})), 20):
        await guest.send("mute", text, id=number)
        assert await guest.frame() == {"type": "ack", "id": number, "error": {"code": "forbidden", **told}}


async def test_what_a_thread_of_a_hook_does_in_the_room_is_part_of_the_hook(visit: Visit) -> None:
    guest = await visit()
    assert await guest.ask("work", 3) == [1, 2, 3]
    assert [event["step"] for event in await guest.heard()] == [0, 1, 2]
    assert (await guest.ask("who"))["said"] == 3


async def test_a_request_with_data_that_no_room_holds_is_answered_in_turn(visit: Visit) -> None:
    guest = await visit()
    for n in range(40, 80, 2):
        await guest.text({"type": "echo", "id": n}, f'{{"type":"echo","id":{n + 1},"data":{"[" * 64}{"]" * 64}}}')
        assert await guest.frame() == {"type": "ack", "id": n, "data": {}}
        assert await guest.frame() == {"type": "ack", "id": n + 1, "error": {"code": "invalid"}}
    await guest.text(r'{"type":"echo","id":1,"channel":null,"data":{"\ude00":"half \ud83d"}}')
    assert await guest.frame() == {"type": "ack", "id": 1, "data": {"\ufffd": "half \ufffd"}}


async def test_a_handler_without_an_answer_is_answered_with_null(visit: Visit) -> None:
    assert await (await visit()).ask("nick", "anne") is None


@pytest.mark.parametrize(
    ("event", "data", "code", "path"),
    [
        ("nothing of that name", None, "not_found", None),
        ("say", {"channel": 5}, "invalid", "$.channel"),
        ("botch", "x", "failed", None),
        ("refuse", "forbidden", "forbidden", None),
        ("refuse", "conflict", "conflict", None),
        ("refuse", "rate_limited", "rate_limited", None),
    ],
)
async def test_a_request_that_fails_is_answered_with_its_code_and_the_connection_stays(
    visit: Visit, event: str, data: Any, code: str, path: str | None
) -> None:
    guest = await visit()
    with pytest.raises(VeraniError) as refused:
        await guest.ask(event, data)
    assert (refused.value.code, getattr(refused.value, "path", None)) == (code, path)
    assert ON_PURPOSE not in str(refused.value), "what the hook said stays on the server"
    assert await guest.ask("echo", 1) == 1


async def test_acks_keep_the_order_of_their_requests_also_where_handlers_wait(visit: Visit, gates: Gates) -> None:
    guest, gate = await visit(), gates()
    slow = {"gate": gate.name, "n": 0, "naps": 5}
    await guest.text(
        {"type": "wait", "id": 901, "data": slow},
        {"type": "echo", "id": 902},
        {"type": "wait", "id": 903, "data": {**slow, "naps": 0}},
        {"type": "nothing", "id": 904},
    )
    await gate.reached("0")
    await gate.open()
    frames = [await guest.frame() for _ in range(6)]
    assert [frame["id"] for frame in frames if frame["type"] == "ack"] == [901, 902, 903, 904]


async def test_a_wildcard_handler_gets_every_event_and_on_message_what_nobody_else_takes(
    visit: Visit, room: str
) -> None:
    wild = await visit(f"/wild/{room}", greet=False)
    assert await wild.ask("known", 1) == "known"
    assert await wild.ask("unknown", 2) == "anything"
    assert [await wild.next() for _ in range(2)] == [
        {"type": "seen", "event": "known", "payload": 1},
        {"type": "seen", "event": "unknown", "payload": 2},
    ]
    plain = await visit("/plain", room=room)
    assert await plain.ask("unknown") == room
    assert await plain.heard() == [{"type": "message", "event": "unknown"}]


async def test_middleware_can_drop_a_frame(visit: Visit, room: str) -> None:
    guest = await visit(f"/wild/{room}", greet=False)
    assert await guest.ask("secret") is None
    assert await guest.ask("public") == "anything"
    assert (await guest.next())["event"] == "public"


INVALID = ("", "null", "[]", "{", '{"type":1}', '{"type":"echo","channel":5}', '{"type":"echo","id":0}', "\ufeff{}")


async def test_invalid_frames_are_dropped_and_the_connection_stays(visit: Visit) -> None:
    guest = await visit()
    await guest.text(*INVALID)
    await guest.ws.send_bytes(b'{"type":"reply"}')
    assert await guest.heard() == []


async def test_the_16th_invalid_frame_closes_with_1008(visit: Visit) -> None:
    guest = await visit()
    await guest.text(*["nonsense"] * 15)
    assert await guest.ask("echo", 1) == 1
    await guest.text("nonsense")
    assert (await guest.closed())[0] == 1008


async def test_large_frames_pass_both_ways(visit: Visit) -> None:
    guest, other = await visit(), await visit()
    text = "é" * 30_000
    assert await guest.ask("echo", text) == text
    assert await guest.ask("say", {"text": text, "but_me": True}) == 1
    assert (await other.next())["text"] == text


async def test_a_frame_over_the_limit_closes_with_1009_and_harms_nobody_else(visit: Visit) -> None:
    guest, other = await visit(), await visit(channels="presence")
    await guest.text({"type": "echo", "data": "x" * 65_536})
    assert (await guest.closed())[0] == 1009
    while (told := await other.next())["type"] != "left":
        pass
    assert told["code"] == 1009


async def test_a_hook_that_drains_waits_for_a_client_that_does_not_read(
    service: Service, visit: Visit, room: str
) -> None:
    """Without draining, the client would be owed more than it may be and be closed as too slow."""
    guest, other = await visit(), await visit("/plain", room=room)
    number = await guest.request("load", {"frames": 100, "size": 100_000})
    await service.until(f"chat/{room}", kept_awake_by="running hook")
    # Nothing is read for as long as another room takes to fall asleep.
    await other.ask("echo")
    await service.asleep(f"plain/{room}")
    assert (await service.status(f"chat/{room}"))["kept_awake_by"] == "running hook"
    await guest.answer(number)
    assert [event["n"] for event in await guest.heard()] == list(range(100))


async def test_pings_are_answered_while_a_handler_waits_and_never_reach_the_room(
    visit: Visit, gates: Gates, room: str
) -> None:
    guest, gate = await visit(), gates()
    number = await guest.request("wait", {"gate": gate.name})
    await gate.reached("0")
    await guest.ping()
    await gate.open()
    assert await guest.answer(number) == 0
    wild = await visit(f"/wild/{room}", greet=False)
    await wild.ping()
    assert await wild.ask("known") == "known"
    assert (await wild.next())["event"] == "known"

"""Calls from outside, from other rooms, over HTTP and from handlers beside the rooms."""

from __future__ import annotations

import asyncio
from importlib import import_module
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from tests.shapes.app import ON_PURPOSE, chat
from verani import (
    CallFailed,
    Conflict,
    DeadlineExceeded,
    Forbidden,
    InvalidArguments,
    NotFound,
    RoomStub,
    Unauthorized,
    VeraniError,
    connect,
    connect_sync,
)
from verani import Service as Caller

if TYPE_CHECKING:
    from tests.shapes.conftest import Gates, Visit
    from tests.shapes.service import Service

pytestmark = pytest.mark.shapes


async def test_a_refusal_of_a_call_brings_its_text_for_people(stub: RoomStub) -> None:
    for text in (None, "You are muted"):
        with pytest.raises(Forbidden) as refused:
            await stub.muted(public=text)
        assert refused.value.public == text
        assert ON_PURPOSE not in str(refused.value)


async def test_the_built_in_methods_reach_connections_and_count_them(visit: Visit, stub: RoomStub) -> None:
    ann = await visit(userId="ann", clientId="phone", channels="default,news")
    bob = await visit(userId="bob", clientId="laptop")
    assert await stub.get_session_count() == 2
    assert await stub.get_connected_user_ids() == ["ann", "bob"]
    assert await stub.broadcast("default", {"type": "b", "n": 1}) == 2
    assert await stub.broadcast("default", {"n": 2}, user_ids=["ann"], client_ids=["phone", "laptop"]) == 1
    assert await stub.send_to_user("ann", "news", {"n": 3}) == 1
    assert await stub.send_to_user("bob", "news", {"n": 3}) == 0
    assert await stub.emit_to_channel("news", "e", {"n": 4}) == 1
    assert await stub.emit_to_user("bob", "e", {"n": 5}) == 1
    assert await stub.cleanup_stale_sessions() == 0
    assert await ann.heard() == [{"type": "b", "n": 1}, {"n": 2}, {"n": 3}, {"type": "e", "n": 4}]
    assert await bob.heard() == [{"type": "b", "n": 1}, {"type": "e", "n": 5}]


async def test_methods_of_its_own_have_typed_arguments_by_name_or_by_position(stub: RoomStub) -> None:
    assert await stub.measure("abc") == {"length": 3}
    assert await stub.measure(text="abc", times=2) == {"length": 6}
    assert await stub.measure("abc", 3) == {"length": 9}


@pytest.mark.parametrize(
    ("method", "arguments", "code", "path"),
    [
        ("measure", {"text": 5}, "invalid", "$.text"),
        ("measure", {"text": "a", "times": 0}, "invalid", "$.times"),
        ("measure", {}, "invalid", "$.text"),
        ("measure", {"text": "a", "more": 1}, "invalid", "$.more"),
        ("no_such_method", {}, "not_found", None),
        ("fail", {}, "failed", None),
        ("too_large_on_purpose", {"size": 2 << 20}, "too_large", None),
        ("decline", {"code": "forbidden"}, "forbidden", None),
        ("decline", {"code": "conflict"}, "conflict", None),
        ("decline", {"code": "not_found"}, "not_found", None),
        ("lean", {"room": ON_PURPOSE}, "failed", None),
    ],
)
async def test_a_call_that_fails_comes_back_with_its_code_and_never_its_text(
    stub: RoomStub, method: str, arguments: dict[str, Any], code: str, path: str | None
) -> None:
    with pytest.raises(VeraniError) as refused:
        await stub.call(method, **arguments)
    assert (refused.value.code, getattr(refused.value, "path", None)) == (code, path)
    assert ON_PURPOSE not in str(refused.value).replace(method, "")


async def test_there_are_no_rooms_of_a_definition_that_does_not_exist(caller: Caller, room: str) -> None:
    with pytest.raises(NotFound):
        await caller.room("nothing", room).get_session_count()


async def test_a_call_with_a_key_runs_once_while_the_room_is_awake(stub: RoomStub) -> None:
    await stub.stay()
    assert [await stub.add(5, idempotency_key="k") for _ in range(3)] == [5, 5, 5]
    assert await stub.add(1) == 6
    with pytest.raises(Conflict):
        await stub.add(6, idempotency_key="k")
    with pytest.raises(CallFailed):
        await stub.call("fail", idempotency_key="f")
    with pytest.raises(Conflict):
        await stub.add(1, idempotency_key="f")
    assert await stub.add(0) == 6


async def test_calls_at_once_run_one_after_the_other_and_none_is_lost(caller: Caller, stub: RoomStub) -> None:
    await stub.stay()
    totals = await asyncio.gather(*(stub.add(1) for _ in range(200)))
    assert sorted(totals) == list(range(1, 201))


async def test_a_call_ends_at_its_deadline_and_one_that_still_waited_never_runs(
    stub: RoomStub, gates: Gates, monkeypatch: pytest.MonkeyPatch
) -> None:
    # It is the service that ends it, however late it has heard of it.
    monkeypatch.setattr(import_module("verani.connect"), "_GRACE", 30.0)
    gate = gates()
    await stub.stay()
    held = asyncio.create_task(stub.hold(gate.name, timeout=30))
    await gate.reached("held")
    with pytest.raises(DeadlineExceeded):
        await stub.hold(gate.name, "expired", timeout=0.05)
    await gate.open()
    assert await held == "held"
    assert await stub.notes() == ["held"]


async def test_a_call_that_runs_goes_on_after_its_deadline(stub: RoomStub, gates: Gates) -> None:
    gate = gates()
    await stub.stay()
    late = asyncio.create_task(stub.hold(gate.name, "late", timeout=0.5))
    await gate.reached("late")
    with pytest.raises(DeadlineExceeded):
        await late
    await gate.open()
    assert await stub.notes() == ["late"]


async def test_a_call_waits_for_its_turn_behind_the_hook_that_runs(visit: Visit, stub: RoomStub, gates: Gates) -> None:
    guest, gate = await visit(), gates()
    number = await guest.request("wait", {"gate": gate.name})
    await gate.reached("0")
    call = asyncio.create_task(stub.emit_to_channel("default", "called"))
    await guest.ping()
    assert not call.done()
    await gate.open()
    assert await call == 1
    assert await guest.answer(number) == 0
    assert [(await guest.next())["type"] for _ in range(2)] == ["waited", "called"]


async def test_a_room_calls_rooms_on_every_host(service: Service, stub: RoomStub, room: str) -> None:
    rooms = [f"{room}-{n}" for n in range(40)]
    assert len(set(await stub.visit(rooms))) == service.hosts


@pytest.mark.threat(75)
async def test_a_chain_of_calls_that_comes_back_is_refused_at_once(stub: RoomStub, room: str) -> None:
    others = [f"{room}-{n}" for n in range(5)]
    assert await stub.relay(others) == "arrived"
    assert await stub.relay([room]) == f"{room}: call_cycle"
    assert await stub.relay([*others, others[0]]) == f"{others[-1]}: call_cycle"
    assert await stub.relay([*others, room]) == f"{others[-1]}: call_cycle"


async def test_a_stub_made_with_the_definition_knows_its_methods(caller: Caller, room: str) -> None:
    assert await caller.room(chat, room).measure("abc", times=2) == {"length": 6}
    assert isinstance(await caller.room(chat, room).started(), tuple)


async def test_scripts_call_without_an_event_loop(service: Service, visit: Visit, room: str) -> None:
    guest = await visit(userId="ann")

    def script() -> tuple[int, list[str]]:
        with connect_sync(service.internal, token=service.token) as caller:
            stub = caller.room("chat", room)
            return stub.emit_to_channel("default", "news"), stub.get_connected_user_ids()

    assert await asyncio.to_thread(script) == (1, ["ann"])
    assert await guest.next() == {"type": "news"}


@pytest.mark.parametrize(
    ("body", "status", "answer"),
    [
        ({"text": "abc"}, 200, {"length": 3}),
        (["abc", 2], 200, {"length": 6}),
        ({"text": 5}, 400, "invalid"),
    ],
)
async def test_anything_that_speaks_http_may_call(
    service: Service, room: str, body: Any, status: int, answer: Any
) -> None:
    got, given = await service.ask(f"/rpc/chat/{room}/measure", method="POST", json=body)
    assert (got, given if got == 200 else given["error"]["code"]) == (status, answer)


async def test_http_callers_give_a_key_and_a_deadline_in_headers(
    service: Service, stub: RoomStub, gates: Gates, room: str
) -> None:
    await stub.stay()
    for _ in range(2):
        headers = {"Idempotency-Key": "k"}
        assert await service.ask(f"/rpc/chat/{room}/add", method="POST", json=[2], headers=headers) == (200, 2)
    gate = gates()
    status, told = await service.ask(
        f"/rpc/chat/{room}/hold", method="POST", json=[gate.name], headers={"Verani-Timeout": "0.05"}
    )
    assert (status, told["error"]["code"]) == (504, "deadline")
    await gate.open()


async def test_callers_show_a_token(service: Service, room: str) -> None:
    status, told = await service.ask(f"/rpc/chat/{room}/where", method="POST", token=None)
    assert (status, told["error"]["code"]) == (401, "unauthorized")
    async with connect(service.internal, token="another") as caller:
        with pytest.raises(Unauthorized):
            await caller.room("chat", room).where()


async def test_a_room_id_that_no_room_has_is_refused(service: Service, caller: Caller) -> None:
    with pytest.raises(InvalidArguments):
        caller.room("chat", "a\nb")
    status, told = await service.ask("/rpc/chat/a%0Ab/where", method="POST")
    assert (status, told["error"]["code"]) == (404, "not_found")


async def test_an_http_handler_beside_the_rooms_calls_them(service: Service, visit: Visit, room: str) -> None:
    guests = [await visit() for _ in range(2)]
    for url in service.urls:
        async with aiohttp.ClientSession() as session, session.get(f"{url}/count/{room}") as response:
            assert await response.json() == {"sessions": 2}
        for guest in guests:
            assert await guest.next() == {"type": "counted"}

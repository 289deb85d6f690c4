"""The AsyncAPI document is one for its own parser, and what goes over a WebSocket is as it says."""

from __future__ import annotations

import asyncio
import importlib
import json
import random
from pathlib import Path
from typing import Any, Final

import jsonschema_rs  # what Schemathesis checks with
import msgspec
import pytest
from msgspec import UNSET

from tests.gateway.browser.test_types import compile_types
from tests.gateway.random_types import RandomTypes, changed
from tests.gateway.typed_rooms import ROOMS, SENT, TAKEN
from tests.node_packages import PACKAGES, node, node_package
from verani import define_room
from verani.frames import encode, named_event_frame
from verani.room.contract import contracts_of
from verani.room.definition import RoomDefinition
from verani.room.sent_events import NotDeclared, SentEvent
from verani.settings import Settings
from verani.testing import RoomHarness
from verani_gateway.cli.typescript import typescript
from verani_gateway.operating.asyncapi import asyncapi_document

EXAMPLES: Final = ("board", "chat", "game", "notifications", "notify", "poll", "presence")

# What the parser calls these: an error is 0, and what it would like to be told besides is 2.
ERROR: Final = 0


def document_of(*rooms: RoomDefinition[Any, Any], settings: Settings | None = None) -> dict[str, Any]:
    paths = {room.name: room.websocket_path for room in rooms}
    return json.loads(msgspec.json.encode(asyncapi_document(rooms, paths, settings or Settings())))  # type: ignore[no-any-return]


async def parse(folder: Path, documents: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Give what the parser says of each document."""
    node_package("@asyncapi/parser")
    for name, document in documents.items():
        (folder / f"{name}.json").write_text(json.dumps(document))
    process = await asyncio.create_subprocess_exec(
        node(),
        str(PACKAGES.parent / "asyncapi.cjs"),
        *(f"{folder / name}.json" for name in documents),
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await process.communicate()
    return dict(zip(documents, json.loads(output), strict=True))


def validator(document: dict[str, Any], room: str, message: str) -> jsonschema_rs.Draft7Validator:
    """Make what validates the payload of a message, whose references point into the document."""
    payload = document["channels"][room]["messages"][message]["payload"]
    return jsonschema_rs.Draft7Validator({"allOf": [payload], "components": document["components"]})


def key_of(document: dict[str, Any], room: str, name: str, prefix: str) -> str:
    messages = document["channels"][room]["messages"]
    return next(str(key) for key, message in messages.items() if message["name"] == name and key.startswith(prefix))


async def test_its_own_parser_finds_no_error_in_any_document(tmp_path: Path) -> None:
    documents = {"typed": document_of(*ROOMS), "none": document_of(define_room("bare"))}
    for name in EXAMPLES:
        module = importlib.import_module(f"examples.{name}")
        documents[name] = document_of(*(each for each in vars(module).values() if isinstance(each, RoomDefinition)))
    broken = document_of(define_room("bare"))
    broken["operations"]["bare.ping"]["messages"] = [{"$ref": "#/channels/bare/messages/nobody"}]
    parsed = await parse(tmp_path, {**documents, "broken": broken})
    assert parsed.pop("broken")["channels"] is None
    for name, found in parsed.items():
        assert [told for told in found["told"] if told[0] == ERROR] == [], name
        assert sorted(found["channels"]) == sorted(documents[name]["channels"])


async def test_what_a_room_sends_fits_the_document_and_is_the_message_of_its_name_alone() -> None:
    document = document_of(*ROOMS)
    for name, _, data in SENT:
        async with RoomHarness(ROOMS[0]) as room:
            ann = await room.connect(user_id="ann")
            room.actor.emit(name, data)
        message = validator(document, "sends", key_of(document, "sends", name, "emit."))
        frame = json.loads(ann.raw[0])
        message.validate(frame)
        assert not message.is_valid({**frame, "data": {**frame["data"], "type": "other"}})
        assert not message.is_valid({**frame, "type": "ack"})


def test_what_a_room_takes_fits_the_document() -> None:
    document = document_of(*ROOMS)
    for name, _, text in TAKEN:
        message = validator(document, "takes", key_of(document, "takes", name, "on."))
        frame = {"type": name, "data": json.loads(text), "channel": "default", "id": 1}
        message.validate(frame)
        assert not message.is_valid({**frame, "id": 0})
    pair = validator(document, "takes", "on.pair")
    assert not pair.is_valid({"type": "pair"})
    assert not pair.is_valid({"type": "pair", "data": ["left"]})
    assert not pair.is_valid({"type": "pair", "data": [1, "right", "more"]})
    assert validator(document, "takes", "on.node").is_valid({"type": "node"})


async def test_an_answer_fits_the_message_that_the_operation_names() -> None:
    room = define_room("asked")

    @room.on("sum")
    def add(ctx: Any, numbers: list[int]) -> dict[str, int]:
        """Add them."""
        return {"sum": sum(numbers)}

    document = document_of(room)
    operation = document["operations"]["asked.on.sum"]
    assert (operation["action"], operation["description"]) == ("receive", "Add them.")
    keys = [reference["$ref"].rpartition("/")[2] for reference in operation["reply"]["messages"]]
    answer, refused = (validator(document, "asked", key) for key in keys)
    async with RoomHarness(room) as harness:
        ann = await harness.connect(user_id="ann")
        await ann.send_raw(b'{"type":"sum","data":[1,2],"id":1}')
        await ann.send_raw(b'{"type":"sum","data":["x"],"id":2}')
        first, second = map(json.loads, ann.raw)
    answer.validate(first)
    refused.validate(second)
    assert not answer.is_valid(second)
    assert not refused.is_valid(first)


def test_a_channel_says_how_to_connect() -> None:
    by_path = define_room("a", websocket_path="/a/{room}")
    by_token = define_room("b", websocket_path="/b", extract_meta=lambda request: {"user_id": "ann"})
    channels = document_of(by_path, by_token)["channels"]
    assert channels["a"]["address"] == "/a/{room}"
    assert list(channels["a"]["parameters"]) == ["room"]
    assert "parameters" not in channels["b"]
    queries = {name: list(each["bindings"]["ws"]["query"]["properties"]) for name, each in channels.items()}
    assert queries == {"a": ["userId", "channels"], "b": ["room", "token"]}
    assert "| 4001 | the token has expired |" in channels["a"]["description"]


@pytest.mark.parametrize(
    ("settings", "host"),
    [
        (Settings(), "127.0.0.1:8000"),
        (Settings(host="0.0.0.0", port=80), "localhost:80"),
        (Settings(host="[::1]"), "[::1]:8000"),
        (Settings(host=("10.0.0.1", "10.0.0.2"), port=0), "10.0.0.1"),
        (Settings(public_hosts=("chat.example.com", "www.example.com")), "chat.example.com"),
        (Settings(unix_socket="/run/verani.sock"), None),
    ],
)
def test_the_server_is_the_public_listener(settings: Settings, host: str | None) -> None:
    servers = document_of(define_room("bare"), settings=settings)["servers"]
    assert [server["host"] for server in servers.values()] == ([host] if host else [])


def test_a_room_that_declares_nothing_may_send_anything_and_one_that_takes_everything_says_so() -> None:
    room = define_room("open")

    @room.on("*")
    def whatever(ctx: Any, data: Any) -> None: ...

    document = document_of(room)
    assert {"open.on._", "open.emit._"} <= set(document["operations"])
    validator(document, "open", "on._").validate({"type": "whatever", "data": 5})
    frame = {"type": "event", "channel": "default", "data": {"type": "whatever", "more": 1}}
    validator(document, "open", "emit._").validate(frame)


# --- random types ------------------------------------------------------------------------------------------


def refuses(event: SentEvent, data: Any) -> bool:
    try:
        event.check(data)
    except NotDeclared:
        return True
    return False


@pytest.mark.parametrize("seed", range(3))
async def test_tests_the_document_and_the_compiler_say_the_same_of_random_types(seed: int, tmp_path: Path) -> None:
    made, chance = RandomTypes(seed), random.Random(seed)
    types = [made.type() for _ in range(40)]
    room = define_room("random")
    for number, each in enumerate(types):
        room.event(f"e{number}", each.kind)
    document = document_of(room)
    lines = ['import type { Random } from "./rooms";']
    wrong = 0
    for number, (each, event) in enumerate(zip(types, room.events, strict=True)):
        message = validator(document, "random", f"emit.e{number}")
        for value in (each.value() if each.kind is not None else UNSET for _ in range(6)):
            event.check(value)
            frame = json.loads(named_event_frame("default", event.name, value))
            message.validate(frame)
            sent = {key: inner for key, inner in frame["data"].items() if key != "type"}
            lines.append(f"const c{len(lines)}: Random['serverEvents']['e{number}'] = {json.dumps(sent)};")
            plain = json.loads(encode(value)) if value is not UNSET else {}
            other = changed(plain, chance)
            if not isinstance(plain, dict) or not isinstance(other, dict):
                continue  # of the ways to be an object, one may not mind a key `value`
            told = json.loads(named_event_frame("default", event.name, other))
            assert refuses(event, other) is not message.is_valid(told), (each.kind, other)
            wrong += not message.is_valid(told)
    assert wrong > 10
    (tmp_path / "rooms.d.ts").write_text(typescript(*contracts_of([room])))
    assert await compile_types(tmp_path, "\n".join(lines)) == ""

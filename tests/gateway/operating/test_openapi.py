"""The OpenAPI document says what the listener does: schemas are the checks themselves, and requests that fit pass."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from verani import define_room
from verani_gateway.operating.openapi import openapi_document


class Ban(msgspec.Struct):
    user_id: str
    days: Annotated[int, Meta(ge=1)] = 7


def a_document(**options: Any) -> dict[str, Any]:
    chat, game = define_room("chat"), define_room("game", websocket_path="/game")

    @chat.rpc
    def ban(actor: Any, ban: Ban, reason: str = "") -> dict[str, int]:
        """Keep a user out."""
        return {}

    @game.rpc
    def move(actor: Any, cell: tuple[int, int], odd: Any = None):  # type: ignore[no-untyped-def]
        return None

    return openapi_document([chat, game], **{"with_token": True, **options})


def test_every_method_of_every_definition_is_an_operation_with_its_types() -> None:
    document = a_document()
    assert document["openapi"] == "3.1.0"
    operation = document["paths"]["/rpc/chat/{room}/ban"]["post"]
    assert operation["description"] == "Keep a user out."
    assert operation["security"] == [{"rpc_token": []}]
    schema = operation["requestBody"]["content"]["application/json"]["schema"]
    assert schema["properties"] == {"ban": {"$ref": "#/components/schemas/Ban"}, "reason": {"type": "string"}}
    assert (schema["required"], schema["additionalProperties"]) == (["ban"], False)
    assert document["components"]["schemas"]["Ban"]["properties"]["days"]["minimum"] == 1
    assert "/rpc/game/{room}/get_session_count" in document["paths"]
    result = document["paths"]["/rpc/chat/{room}/get_session_count"]["post"]["responses"]["200"]
    assert result["content"]["application/json"]["schema"] == {"type": "integer"}
    assert {"400", "401", "404", "409", "413", "500", "502", "503", "504"} <= set(operation["responses"])
    assert "security" not in a_document(with_token=False)["paths"]["/rpc/chat/{room}/ban"]["post"]


def test_the_document_is_json_whose_references_resolve() -> None:
    document = msgspec.json.decode(msgspec.json.encode(a_document()))

    def references(value: Any) -> list[str]:
        if isinstance(value, dict):
            own = [value["$ref"]] if "$ref" in value else []
            return own + [found for each in value.values() for found in references(each)]
        return [found for each in value for found in references(each)] if isinstance(value, list) else []

    for reference in references(document):
        assert reference.removeprefix("#/components/schemas/") in document["components"]["schemas"]


def test_a_type_without_a_schema_may_be_anything() -> None:
    room = define_room("chat")

    @room.rpc
    def odd(actor: Any, kind: msgspec.Raw, plain: int) -> None: ...

    document = openapi_document([room], with_token=False)
    schema = document["paths"]["/rpc/chat/{room}/odd"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert schema["properties"] == {"kind": {}, "plain": {"type": "integer"}}


def test_what_probes_ask_is_there() -> None:
    assert set(a_document()["paths"]["/ready"]["get"]["responses"]) == {"200", "503"}

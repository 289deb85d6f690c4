"""Describe what clients of a service say and hear as an AsyncAPI 3.0 document, from the definitions that are served.

There is a channel for each definition, and all that goes over its WebSocket is there as it is on the wire.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from verani.frames import PING
from verani.names import MAX_CHANNELS, MAX_NAME, ROOM_ID
from verani.room.contract import Contract, SendsEvent, TakesEvent, contracts_of
from verani.room.definition import RoomDefinition
from verani.schemas import Components, Schema, is_object, options_of, resolved
from verani.settings import Settings
from verani.version import __version__

__all__ = ["asyncapi_document"]

_ABOUT: Final = """\
Messages are JSON in text frames. A client that gives a frame an `id` is answered with one `ack`.

| close code | when | come back |
|---|---|---|
| 1000 | the room sends the client away; the reason is its code, such as `forbidden` | no |
| 1002, 1007 | the client breaks RFC 6455, or its text is no UTF-8 | yes |
| 1008 | too many invalid frames, or frames beyond the rate | yes |
| 1009 | a message is too large | yes |
| 1011 | `on_connect` failed | yes |
| 1012 | the service restarts | yes |
| 1013 | the client does not read, or the room cannot take it now | yes |
| 4001 | the token has expired | yes, with a new one |
| 4009 | another connection came with the same client id | yes |
| 3000 to 4999 | the application says so | yes |
"""

_NAME: Final = {"type": "string", "minLength": 1, "maxLength": MAX_NAME}
_REQUEST_ID: Final = {
    "type": "integer",
    "minimum": 1,
    "maximum": 2**53 - 1,
    "description": "asks for an ack; unique among the client's requests that are not answered",
}
_QUERY: Final = {
    "room": {"type": "string", "description": f"{ROOM_ID}; `default` where absent"},
    "userId": {**_NAME, "description": "who connects; random where absent"},
    "channels": {
        "type": "string",
        "description": f"channels to be in from the start, with commas between, {MAX_CHANNELS} at most; `default` where"
        " absent",
    },
    "token": {
        "type": "string",
        "description": "who connects, if the application reads it here; else it is in a cookie, in the header"
        " Authorization or in a subprotocol `bearer.TOKEN`",
    },
}

# Messages that every room has, by their keys.
_COMMON: Final[dict[str, Schema]] = {
    "ping": {"type": "object", "properties": {"type": {"const": PING}}, "required": ["type"]},
    "pong": {"type": "object", "properties": {"type": {"const": "pong"}}, "required": ["type"]},
    "refused": {
        "type": "object",
        "properties": {
            "type": {"const": "ack"},
            "id": _REQUEST_ID,
            "error": {
                "type": "object",
                "properties": {
                    "code": {"type": "string", "description": "such as `invalid`, `not_found`, `forbidden`, `failed`"},
                    "path": {"type": "string", "description": "where in the data"},
                    "message": {"type": "string", "description": "the application's text for people"},
                },
                "required": ["code"],
            },
        },
        "required": ["type", "id", "error"],
    },
}


def asyncapi_document(
    definitions: Sequence[RoomDefinition[Any, Any]], paths: Mapping[str, str], settings: Settings
) -> dict[str, Any]:
    """Build the document; `paths` are those that clients connect to, by the names of definitions."""
    contracts, components = contracts_of(definitions)
    rooms = [_Room(contract, paths[contract.definition.name], components) for contract in contracts]
    return {
        "asyncapi": "3.0.0",
        "info": {"title": "Verani", "version": __version__, "description": "The rooms of a service."},
        "defaultContentType": "application/json",
        "servers": _servers(settings),
        "channels": {room.name: room.channel for room in rooms},
        "operations": {key: operation for room in rooms for key, operation in room.operations.items()},
        "components": {"schemas": {name: _draft_07(schema) for name, schema in components.items()}},
    }


def _servers(settings: Settings) -> dict[str, Any]:
    if settings.public_hosts:
        host = settings.public_hosts[0]
    elif settings.unix_socket is not None:
        return {}
    else:
        address = settings.public_addresses[0]
        address = "localhost" if address in ("", "0.0.0.0", "::") else f"[{address}]" if ":" in address else address
        host = f"{address}:{settings.port}" if settings.port else address
    about = "The public listener; behind a proxy it has another name, and is at wss."
    return {"public": {"host": host, "protocol": "ws", "description": about}}


class _Room:
    """The channel of one definition, and its operations."""

    def __init__(self, contract: Contract, path: str, components: Components) -> None:
        self.name = contract.definition.name
        self.operations: dict[str, Any] = {}
        self._messages: dict[str, Any] = {}
        self._components = components
        for key, schema in _COMMON.items():
            self._add_message(key, key, schema)
        self._add_operation("ping", "receive", ["ping"], reply=["pong"])
        for taken in contract.takes:
            self._take(taken)
        if contract.takes_others:
            self._take(TakesEvent("*", {}, False, {}, "Any other event."))
        for sent in contract.sends:
            self._send(sent)
        if not contract.sends:
            self._send(SendsEvent("*", {}))
        self.channel = {
            "address": path,
            "title": f"Rooms of the definition {self.name}",
            "description": _ABOUT,
            **({"parameters": {"room": {"description": f"{ROOM_ID}, percent-encoded"}}} if "{room}" in path else {}),
            "messages": self._messages,
            "bindings": {"ws": {"method": "GET", "query": _query(contract.definition), "bindingVersion": "0.1.0"}},
        }

    def _take(self, event: TakesEvent) -> None:
        key = self._key(f"on.{event.name}")
        frame = _record(
            {"type": _named(event.name), "data": event.data, "channel": _NAME, "id": _REQUEST_ID},
            ["type", "data"] if event.needs_data else ["type"],
        )
        self._add_message(key, event.name, frame, event.description)
        answer = self._key(f"ack.{event.name}")
        ack = _record({"type": {"const": "ack"}, "id": _REQUEST_ID, "data": event.result}, ["type", "id", "data"])
        self._add_message(answer, f"answer to {event.name}", ack)
        self._add_operation(key, "receive", [key], reply=[answer, "refused"], description=event.description)

    def _send(self, event: SendsEvent) -> None:
        key = self._key(f"emit.{event.name}")
        data = _with_type(event.name, event.data, self._components)
        frame = _record({"type": {"const": "event"}, "channel": _NAME, "data": data}, ["type", "channel", "data"])
        self._add_message(key, event.name, frame)
        self._add_operation(key, "send", [key])

    def _key(self, name: str) -> str:
        """Make a key that needs no escaping of a name that may be any text."""
        plain = re.sub(r"[^A-Za-z0-9_.-]", "_", name)
        numbered = (f"{plain}-{number}" if number else plain for number in range(len(self._messages) + 1))
        return next(key for key in numbered if key not in self._messages)

    def _add_message(self, key: str, name: str, payload: Schema, description: str = "") -> None:
        about = {"description": description} if description else {}
        self._messages[key] = {"name": name, **about, "payload": _draft_07(payload)}

    def _add_operation(
        self, key: str, action: str, messages: Iterable[str], *, reply: Iterable[str] = (), description: str = ""
    ) -> None:
        channel = {"$ref": f"#/channels/{self.name}"}
        operation: dict[str, Any] = {"action": action, "channel": channel, "messages": self._references(messages)}
        if reply := list(reply):
            operation["reply"] = {"channel": channel, "messages": self._references(reply)}
        if description:
            operation["description"] = description
        self.operations[f"{self.name}.{key}"] = operation

    def _references(self, keys: Iterable[str]) -> list[dict[str, str]]:
        return [{"$ref": f"#/channels/{self.name}/messages/{key}"} for key in keys]


def _query(definition: RoomDefinition[Any, Any]) -> Schema:
    by_query = "{room}" not in definition.websocket_path and "name_from_request" not in definition.hooks
    names = [*(["room"] if by_query else []), *(["userId", "channels"] if definition.is_public else ["token"])]
    return {"type": "object", "properties": {name: _QUERY[name] for name in names}}


def _record(properties: dict[str, Any], required: list[str]) -> Schema:
    return {"type": "object", "properties": properties, "required": required}


def _named(event: str) -> Schema:
    return _NAME if event == "*" else {"const": event}


def _with_type(event: str, schema: Schema | None, components: Components) -> Schema:
    """Describe data that has the event's name in it, as clients get it."""
    found = resolved(schema or {}, components)
    if (options := options_of(found)) is not None:
        return {"anyOf": [_with_type(event, each, components) for each in options]}
    if not is_object(found):
        return _record({"type": _named(event)}, ["type"])
    whole = {
        **found,
        "properties": {"type": _named(event), **found.get("properties", {})},
        "required": ["type", *found.get("required", ())],
    }
    if "propertyNames" in found:
        whole["propertyNames"] = {"anyOf": [{"const": "type"}, found["propertyNames"]]}
    for limit in found.keys() & {"minProperties", "maxProperties"}:
        whole[limit] = found[limit] + 1
    return whole


# --- the dialect of AsyncAPI -----------------------------------------------------------------------------

_OF_NAMES: Final = frozenset({"properties", "patternProperties"})
_OF_LISTS: Final = frozenset({"anyOf", "oneOf", "allOf"})
_OF_ONE: Final = frozenset({"items", "additionalProperties", "propertyNames", "not", "contains"})


def _draft_07(schema: Any) -> Any:
    """Say the same in draft 07, which AsyncAPI is based on; its `discriminator` is another one."""
    if not isinstance(schema, dict):
        return schema
    told: Schema = {}
    for word, value in schema.items():
        if word in _OF_NAMES:
            told[word] = {name: _draft_07(each) for name, each in value.items()}
        elif word in _OF_LISTS:
            told[word] = [_draft_07(each) for each in value]
        elif word in _OF_ONE:
            told[word] = _draft_07(value)
        elif word not in ("prefixItems", "discriminator"):
            told[word] = value
    if "prefixItems" in schema:
        told["items"] = [_draft_07(each) for each in schema["prefixItems"]]
        told["additionalItems"] = _draft_07(schema.get("items", True))
    return told

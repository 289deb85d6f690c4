"""Describe the internal listener as an OpenAPI 3.1 document, from the definitions that are served.

The schemas are msgspec's own, so what is described is what is checked.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from typing import Any, Final

from verani.connect import KEY_HEADER, TIMEOUT_HEADER
from verani.errors import error_for
from verani.names import MAX_ROOM_ID, ROOM_ID
from verani.room.definition import RoomDefinition
from verani.room.methods import MAX_TIMEOUT, MIN_TIMEOUT, Method
from verani.schemas import REF, describe
from verani.version import __version__

__all__ = ["openapi_document"]

# What a call may come to (design section 8), besides its result.
_CODES: Final = (
    "invalid",
    "unauthorized",
    "forbidden",
    "not_found",
    "conflict",
    "call_cycle",
    "too_large",
    "rate_limited",
    "failed",
    "interrupted",
    "busy",
    "deadline",
)

_ROOM: Final = {
    "name": "room",
    "in": "path",
    "required": True,
    "description": f"{ROOM_ID}, percent-encoded",
    "schema": {"type": "string", "minLength": 1, "maxLength": MAX_ROOM_ID, "pattern": "^[^/]*$"},
}

_OPTIONS: Final = (
    {
        "name": TIMEOUT_HEADER,
        "in": "header",
        "description": "seconds until the call is answered with `deadline`; the setting rpc_timeout where absent",
        "schema": {"type": "number", "minimum": MIN_TIMEOUT, "maximum": MAX_TIMEOUT},
    },
    {
        "name": KEY_HEADER,
        "in": "header",
        "description": "a call with the same key is not run again while its room is awake",
        "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[ -~]*$"},
    },
)


def openapi_document(definitions: Sequence[RoomDefinition[Any, Any]], *, with_token: bool) -> dict[str, Any]:
    """Build the document; `with_token` says that calls need the rpc token."""
    methods = [(definition, method) for definition in definitions for method in definition.methods.values()]
    types = [kind for _, method in methods for kind in (*method.types.values(), method.result_type)]
    found, components = describe(types)
    schemas = iter(found)
    paths = {
        f"/rpc/{definition.name}/{{room}}/{method.name}": {"post": _operation(definition, method, schemas, with_token)}
        for definition, method in methods
    }
    paths["/ready"] = {"get": {"operationId": "ready", "responses": {"200": {"description": "it takes connections"}}}}
    paths["/ready"]["get"]["responses"]["503"] = {"description": "it does not, or no more"}
    return {
        "openapi": "3.1.0",
        "info": {"title": "Verani", "version": __version__, "description": "The internal listener of a service."},
        "paths": paths,
        "components": {
            "schemas": {**components, "VeraniError": _ERROR},
            "securitySchemes": {"rpc_token": {"type": "http", "scheme": "bearer"}},
        },
    }


_ERROR: Final = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["code", "message"],
            "properties": {
                "code": {"type": "string"},
                "message": {"type": "string"},
                "path": {"type": "string", "description": "where in the arguments"},
                "public": {"const": True, "description": "the message is the application's, and for people"},
            },
        }
    },
}


def _operation(
    definition: RoomDefinition[Any, Any], method: Method, schemas: Iterator[Any], with_token: bool
) -> dict[str, Any]:
    properties = {name: next(schemas) for name in method.types}
    parameters = method.signature.parameters.values()
    required = [parameter.name for parameter in parameters if parameter.default is parameter.empty]
    arguments = {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }
    operation: dict[str, Any] = {
        "operationId": f"{definition.name}.{method.name}",
        "tags": [definition.name],
        "description": inspect.getdoc(method.function) or "",
        "parameters": [_ROOM, *_OPTIONS],
        "requestBody": {
            "required": bool(required),
            "content": {"application/json": {"schema": arguments}},
        },
        "responses": {
            "200": {"description": "the result", "content": {"application/json": {"schema": next(schemas)}}},
            **_failures(),
        },
    }
    if with_token:
        operation["security"] = [{"rpc_token": []}]
    return operation


def _failures() -> dict[str, Any]:
    by_status: dict[int, list[str]] = {}
    for code in _CODES:
        by_status.setdefault(error_for(code).status, []).append(code)
    content = {"application/json": {"schema": {"$ref": REF.format(name="VeraniError")}}}
    return {str(status): {"description": ", ".join(codes), "content": content} for status, codes in by_status.items()}

"""Describe types as JSON Schema (2020-12): what a service takes, and what it sends.

One class may have two schemas: who sends to a room may leave out what has a default, while what a room sends is whole.
The schemas are msgspec's own, and Pydantic's of its models, so what is described is what is checked.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Final, TypeAlias, get_args, get_origin

import msgspec
from msgspec import UnsetType, inspect

from .model_schemas import ModelSchemas
from .models import hints_of, parts_of

__all__ = [
    "REF",
    "Components",
    "Schema",
    "describe",
    "describe_both",
    "is_object",
    "options_of",
    "resolved",
]

Schema: TypeAlias = dict[str, Any]
Components: TypeAlias = dict[str, Schema]

# Where documents of OpenAPI and AsyncAPI keep what is used more than once.
REF: Final = "#/components/schemas/{name}"

# What msgspec raises for a type without a schema, and for two classes of the same full name.
_NO_SCHEMA: Final = (TypeError, ValueError, KeyError)

# Types whose instances are objects with keys, or arrays with places.
_RECORDS: Final = (inspect.StructType, inspect.DataclassType, inspect.TypedDictType, inspect.NamedTupleType)


def describe(types: Sequence[Any], *, sent: bool = False) -> tuple[list[Schema], Components]:
    """Return the schema of each type and the components they share; a type that has none may be anything.

    `sent` describes what a room sends of these types, rather than what it takes.
    """
    try:
        return _describe(types, sent)
    except _NO_SCHEMA:
        pass
    known: list[Any] = []
    for kind in types:
        try:
            _describe([*known, kind], sent)
        except _NO_SCHEMA:
            known.append(Any)
        else:
            known.append(kind)
    return _describe(known, sent)


def describe_both(taken: Sequence[Any], sent: Sequence[Any]) -> tuple[list[Schema], list[Schema], Components]:
    """Describe what is taken and what is sent, with one set of components.

    What is taken has names of its own, ``Message-Input``, where it is not what is sent.
    """
    taken_schemas, taken_components = describe(taken)
    sent_schemas, sent_components = describe(sent, sent=True)
    names = {name: f"{name}-Input" for name in _differing(taken_components, sent_components)}
    components = {names.get(name, name): _renamed(schema, names) for name, schema in taken_components.items()}
    return [_renamed(schema, names) for schema in taken_schemas], sent_schemas, sent_components | components


def resolved(schema: Schema, components: Components) -> Schema:
    """Return what a schema refers to, or itself."""
    while (reference := schema.get("$ref")) is not None:
        schema = components[_name_in(reference)]
    return schema


def is_object(schema: Schema) -> bool:
    """Tell whether what fits a resolved schema is always an object."""
    return schema.get("type") == "object"


def options_of(schema: Schema) -> list[Any] | None:
    """Return the schemas of which a value fits one, where there are several."""
    return schema.get("anyOf") or schema.get("oneOf")


# --- how they are made -----------------------------------------------------------------------------------


def _describe(types: Sequence[Any], sent: bool) -> tuple[list[Schema], Components]:
    records = (
        {info.cls: info for kind in types for info in parts_of(kind) if isinstance(info, _RECORDS)} if sent else {}
    )
    models = ModelSchemas(REF, sent=sent)
    # Records are asked for besides, because msgspec does not tell which component is whose.
    found, components = msgspec.json.schema_components(
        [*types, *records], schema_hook=models.describe, ref_template=REF
    )
    for info, reference in zip(records.values(), found[len(types) :], strict=True):
        _make_whole(components[_name_in(reference["$ref"])], info)
    names, own, model_components = models.settle(components)
    described = {name: _renamed(schema, names) for name, schema in components.items()}
    described |= {own[name]: _renamed(schema, own) for name, schema in model_components.items()}
    return [_renamed(schema, names) for schema in found[: len(types)]], described


def _make_whole(schema: Schema, info: Any) -> None:
    """Let the schema of a record say what is always there when a room sends it."""
    if "prefixItems" in schema:
        schema["minItems"] = len(schema["prefixItems"])
    else:
        absent = set(_perhaps_absent(info))
        schema["required"] = [name for name in schema["properties"] if name not in absent]


def _perhaps_absent(info: Any) -> Iterable[str]:
    kind = getattr(info.cls, "__origin__", info.cls)
    hints = hints_of(kind)
    omits = isinstance(info, inspect.TypedDictType) or (
        isinstance(info, inspect.StructType) and kind.__struct_config__.omit_defaults
    )
    for field in info.fields:
        if (omits and not field.required) or _may_be_unset(hints.get(field.name)):
            yield field.encode_name


def _may_be_unset(hint: Any) -> bool:
    if get_origin(hint) is Annotated:
        return _may_be_unset(get_args(hint)[0])
    return UnsetType in get_args(hint)


def _name_in(reference: str) -> str:
    return reference.rpartition("/")[2]


def _references(value: Any) -> set[str]:
    if isinstance(value, Mapping):
        own = {_name_in(value["$ref"])} if isinstance(value.get("$ref"), str) else set()
        return own.union(*map(_references, value.values()))
    return set().union(*map(_references, value)) if isinstance(value, list | tuple) else set()


def _differing(taken: Components, sent: Components) -> set[str]:
    """Name the components of both that are not the same, or refer to one that is not."""
    found = {name for name in taken.keys() & sent.keys() if taken[name] != sent[name]}
    while more := {name for name in taken.keys() & sent.keys() - found if _references(taken[name]) & found}:
        found |= more
    return found


def _renamed(value: Any, names: Mapping[str, str]) -> Any:
    if isinstance(value, Mapping):
        return {
            key: REF.format(name=names.get(_name_in(inner), _name_in(inner)))
            if key == "$ref" and isinstance(inner, str)
            else _renamed(inner, names)
            for key, inner in value.items()
        }
    return [_renamed(each, names) for each in value] if isinstance(value, list | tuple) else value

"""Describe types as JSON Schema (2020-12): what a service takes, and what it sends.

One class may have two schemas: who sends to a room may leave out what has a default, while what a room sends is whole.
The schemas are msgspec's own, and Pydantic's of its models, so what is described is what is checked.
"""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Final, NamedTuple, TypeAlias, get_args, get_origin

import msgspec
from msgspec import UNSET, UnsetType, inspect

from .models import hints_of, is_model, is_plain, parts_of

__all__ = [
    "REF",
    "Components",
    "Misfit",
    "Schema",
    "describe",
    "describe_both",
    "is_object",
    "misfit",
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
    models = _Models(sent)
    # Records are asked for besides, because msgspec does not tell which component is whose.
    found, components = msgspec.json.schema_components(
        [*types, *records], schema_hook=models.describe, ref_template=REF
    )
    for info, reference in zip(records.values(), found[len(types) :], strict=True):
        _make_whole(components[_name_in(reference["$ref"])], info)
    return list(found[: len(types)]), components | models.components


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


class _Models:
    """Describes Pydantic's models; `components` has what they refer to, by names that no class has."""

    def __init__(self, sent: bool) -> None:
        self.components: Components = {}
        self._sent = sent
        self._names: dict[type, str] = {}

    def describe(self, kind: Any) -> Schema:
        """Describe one type that msgspec leaves to us."""
        if not is_model(kind):
            if is_plain(kind):
                return {}
            raise NotImplementedError  # what msgspec expects
        name = self._name(kind)
        options = {"mode": "serialization", "schema_generator": _whole_models()} if self._sent else {}
        try:
            schema = kind.model_json_schema(ref_template=REF.format(name=f"{name}-{{model}}"), **options)
        except sys.modules["pydantic"].PydanticUserError:  # of a field that has no schema
            return {"type": "object", "title": kind.__name__, "additionalProperties": True}
        self.components |= {f"{name}-{inner}": found for inner, found in schema.pop("$defs", {}).items()}
        return dict(schema)

    def _name(self, kind: type) -> str:
        if kind not in self._names:
            name = re.sub(r"[^A-Za-z0-9_]", "_", kind.__name__)
            taken = set(self._names.values())
            numbered = (f"{name}-{number}" for number in range(2, len(taken) + 3))
            self._names[kind] = name if name not in taken else next(each for each in numbered if each not in taken)
        return self._names[kind]


@functools.cache
def _whole_models() -> type[Any]:
    """Make a generator for which models are sent with all their fields, as `encode_hook` writes them."""
    from pydantic.json_schema import GenerateJsonSchema

    class WholeModels(GenerateJsonSchema):
        def field_is_required(self, field: Any, total: bool) -> bool:
            if field["type"] == "typed-dict-field":
                return super().field_is_required(field, total)
            return field.get("serialization_exclude_if") is None

    return WholeModels


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


# --- what decoders let pass ------------------------------------------------------------------------------


class Misfit(NamedTuple):
    """Where an object is not as described: a key is missing there, or nobody has declared it."""

    path: str
    is_missing: bool


def misfit(schema: Any, components: Components, value: Any, path: str = "$") -> Misfit | None:
    """Find a key that is missing in a value, or that nobody declared; None where every object is as described.

    The value is known to fit its type: a decoder takes what lacks a default, and what it has no field for.
    """
    if not isinstance(schema, dict) or not isinstance(value, dict | list):
        return None
    schema = resolved(schema, components)
    if (options := options_of(schema)) is not None:
        found = [misfit(each, components, value, path) for each in options if _may_hold(each, components, value)]
        return None if None in found or not found else found[0]
    inner = _places(schema, value, path) if isinstance(value, list) else _properties(schema, value, path)
    for place, within, held in inner:
        if within is None:
            return Misfit(place, held is UNSET)
        if (deeper := misfit(within, components, held, place)) is not None:
            return deeper
    return None


def _places(schema: Schema, value: list[Any], path: str) -> Iterator[tuple[str, Any, Any]]:
    places = [*schema.get("prefixItems", ()), *[schema.get("items", True)] * len(value)]
    return ((f"{path}[{index}]", places[index], held) for index, held in enumerate(value))


def _properties(schema: Schema, value: dict[str, Any], path: str) -> Iterator[tuple[str, Any, Any]]:
    """Give path, schema and value of each property; no schema for what is missing or not declared."""
    properties = schema.get("properties", {})
    # A type with fields has no others, if it does not say so; one without is a dict.
    others = schema.get("additionalProperties", None if properties else True) or None
    for name in schema.get("required", ()):
        if name not in value:
            yield f"{path}.{name}", None, UNSET
    for name, held in value.items():
        yield f"{path}.{name}", properties.get(name, others), held


def _may_hold(schema: Any, components: Components, value: dict[str, Any] | list[Any]) -> bool:
    """Tell whether one of several schemas is meant for a value: it has its kind, and its tag."""
    schema = resolved(schema, components)
    if (options := options_of(schema)) is not None:
        return any(_may_hold(each, components, value) for each in options)
    if not schema.keys() & _SAYING:
        return True
    if isinstance(value, list) or not is_object(schema):
        return isinstance(value, list) and schema.get("type") == "array"
    tags = ((name, _only(inner)) for name, inner in schema.get("properties", {}).items())
    return all(only is None or value.get(name) in only for name, only in tags)


# What a schema that lets everything pass has none of.
_SAYING: Final = frozenset({"type", "enum", "const"})


def _only(schema: Any) -> list[Any] | None:
    if not isinstance(schema, dict):
        return None
    return [schema["const"]] if "const" in schema else schema.get("enum")

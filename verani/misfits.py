"""Find in a value what decoders let pass: keys that are missing although they are always sent, and keys too many."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from msgspec import UNSET

from .schemas import Components, Schema, is_object, options_of, resolved

__all__ = ["Misfit", "misfit"]


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
    """Give path, schema and value of each place of an array; no schema for one that is missing."""
    places = schema.get("prefixItems", ())
    for index, held in enumerate(value):
        yield f"{path}[{index}]", places[index] if index < len(places) else schema.get("items", True), held
    for index in range(len(value), len(places)):
        if index < schema.get("minItems", 0):
            yield f"{path}[{index}]", None, UNSET


def _properties(schema: Schema, value: dict[str, Any], path: str) -> Iterator[tuple[str, Any, Any]]:
    """Give path, schema and value of each property; no schema for what is missing or not declared."""
    properties = schema.get("properties", {})
    # A type with fields has no others, if it does not say so; one without is a dict.
    others = schema.get("additionalProperties", "properties" not in schema) or None
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
    return all(only is None or name not in value or value[name] in only for name, only in tags)


# What a schema that lets everything pass has none of.
_SAYING: Final = frozenset({"type", "enum", "const"})


def _only(schema: Any) -> list[Any] | None:
    if not isinstance(schema, dict):
        return None
    return [schema["const"]] if "const" in schema else schema.get("enum")

"""Write what rooms take and send as TypeScript, for ``new VeraniClient<Chat>(...)``.

The shape of a room's type is that of `browser/verani.d.ts`. The same rooms give the same text.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from verani.names import LIFECYCLE_EVENTS
from verani.room.contract import Contract, SendsEvent, TakesEvent
from verani.schemas import Components, Schema, is_object, options_of

__all__ = ["typescript"]

_IDENTIFIER: Final = re.compile(r"[A-Za-z_$][A-Za-z0-9_$]*")
# What takes `[]` behind it without brackets around it.
_SIMPLE: Final = re.compile(r"[\w$]+(?:\[\])*")
_SCALARS: Final = {"string": "string", "integer": "number", "number": "number", "boolean": "boolean", "null": "null"}
# Characters of braces that stay on one line.
_SHORT: Final = 80
# Names of types that are used here, and are the language's.
_TAKEN: Final = ("Array",)


def typescript(contracts: Sequence[Contract], components: Components) -> str:
    """Return the text of a ``.d.ts``: an interface for each definition, then the types that they use."""
    names = _Names()
    rooms = [names.give(contract.definition.name, "Room") for contract in contracts]
    writer = _Writer({name: names.give(name, "Type") for name in components})
    return "\n".join(
        [
            *(writer.room(name, contract) for name, contract in zip(rooms, contracts, strict=True)),
            *(writer.component(name, schema) for name, schema in components.items()),
        ]
    )


class _Names:
    """Gives each definition and each type an identifier of its own."""

    def __init__(self) -> None:
        self._taken = set(_TAKEN)

    def give(self, name: str, prefix: str) -> str:
        """Make an identifier of any text; the prefix is for one that does not begin with a letter."""
        joined = "".join(word[0].upper() + word[1:] for word in re.findall(r"[A-Za-z0-9]+", name))
        base = joined if joined[:1].isalpha() else f"{prefix}{joined}"
        numbered = (base, *(f"{base}{number}" for number in range(2, len(self._taken) + 2)))
        found = next(each for each in numbered if each not in self._taken)
        self._taken.add(found)
        return found


class _Writer:
    """Writes types; `names` are the identifiers of components."""

    def __init__(self, names: Mapping[str, str]) -> None:
        self._names = names

    def room(self, name: str, contract: Contract) -> str:
        """Write the interface of a definition."""
        about = _comment(f"Rooms of the definition {contract.definition.name}.")
        server, client = (_lines(*each) for each in (self._server_events(contract), self._client_events(contract)))
        return f"{about}export interface {name} {_lines(f'serverEvents: {server};', f'clientEvents: {client};')}\n"

    def component(self, name: str, schema: Schema) -> str:
        """Write a type with a name; what is plainly an object is an interface."""
        about = _comment(schema.get("description"))
        if is_object(schema):
            return f"{about}export interface {self._names[name]} {_lines(*self._members(schema))}\n"
        return f"{about}export type {self._names[name]} = {self._type(schema)};\n"

    # --- events ----------------------------------------------------------------------------------------

    def _server_events(self, contract: Contract) -> Iterator[str]:
        if not contract.sends:
            yield "// It declares none, so nothing is known of them.\n"
            yield "[event: string]: any;\n"
        for event in contract.sends:
            if event.name in LIFECYCLE_EVENTS:
                yield f"// {_literal(event.name)} is the client's own: only listeners of \"*\" hear the room's.\n"
            else:
                yield f"{_literal(event.name)}: {self._sent(event)};\n"

    def _sent(self, event: SendsEvent) -> str:
        return "{}" if event.data is None else self._type(event.data)

    def _client_events(self, contract: Contract) -> Iterator[str]:
        for event in contract.takes:
            yield _comment(event.description)
            yield f"{_literal(event.name)}: {self._taken(event)};\n"
        if contract.takes_others:
            yield "// It has a handler for whatever else is sent.\n"
            yield "[event: string]: { data: any; result: any };\n"

    def _taken(self, event: TakesEvent) -> str:
        data = self._type(event.data)
        data = data if event.needs_data or data == "unknown" else f"{data} | undefined"
        return _block([f"data: {data};\n", f"result: {self._type(event.result)};\n"])

    # --- types -----------------------------------------------------------------------------------------

    def _type(self, schema: Any) -> str:
        if not isinstance(schema, dict):  # true, false
            return "unknown" if schema else "never"
        if (reference := schema.get("$ref")) is not None:
            return self._names[reference.rpartition("/")[2]]
        if (options := options_of(schema)) is not None:
            return self._joined(" | ", options)
        if (parts := schema.get("allOf")) is not None:
            return self._joined(" & ", parts)
        if (values := [schema["const"]] if "const" in schema else schema.get("enum")) is not None:
            return " | ".join(map(_literal, values)) or "never"
        return self._plain(schema)

    def _plain(self, schema: Schema) -> str:
        match schema.get("type"):
            case "object":
                return self._object(schema)
            case "array":
                return self._array(schema)
            case list() as kinds:
                return self._joined(" | ", [{**schema, "type": kind} for kind in kinds])
            case kind:
                return _SCALARS.get(kind, "unknown") if isinstance(kind, str) else "unknown"

    def _joined(self, sign: str, schemas: Iterable[Any]) -> str:
        types = dict.fromkeys(self._type(schema) for schema in schemas)
        if len(types) == 1:
            return next(iter(types))
        return sign.join(_grouped(each) if "&" in sign else each for each in types) or "unknown"

    def _object(self, schema: Schema) -> str:
        return _block(list(self._members(schema)))

    def _members(self, schema: Schema) -> Iterator[str]:
        properties = schema.get("properties", {})
        yield from self._properties(properties, schema.get("required", ()))
        # A type with fields has no others, if it does not say so; one without is a dict.
        others = schema.get("additionalProperties", "properties" not in schema)
        if others is not False or "patternProperties" in schema:
            # Beside properties of other types, TypeScript wants it to hold all of them.
            yield f"[key: string]: {'unknown' if properties else self._type(others)};\n"
        elif not properties:
            yield "[key: string]: never;\n"

    def _properties(self, properties: Mapping[str, Any], required: Sequence[str]) -> Iterator[str]:
        for name, schema in properties.items():
            about = schema if isinstance(schema, dict) else {}
            is_default_told = name not in required and "default" in about
            default = f"@default {json.dumps(about['default'])}" if is_default_told else ""
            yield _comment("\n".join(filter(None, [about.get("description"), default])))
            key = name if _IDENTIFIER.fullmatch(name) else _literal(name)
            yield f"{key}{'' if name in required else '?'}: {self._type(schema)};\n"

    def _array(self, schema: Schema) -> str:
        places = schema.get("prefixItems", ())
        if not places:
            inner = self._type(schema.get("items", True))
            return "[]" if schema.get("maxItems") == 0 else _listed(inner)
        least = schema.get("minItems", 0)
        types = [self._type(each) for each in places]
        kept = [each if index < least else f"{_grouped(each)}?" for index, each in enumerate(types)]
        if isinstance(rest := schema.get("items"), dict):
            kept.append(f"...{_listed(self._type(rest))}")
        return f"[{', '.join(kept)}]"


def _listed(inner: str) -> str:
    return f"{inner}[]" if _SIMPLE.fullmatch(inner) else f"Array<{inner}>"


def _grouped(inner: str) -> str:
    return f"({inner})" if " | " in inner or " & " in inner else inner


def _literal(value: object) -> str:
    """Write a value as JavaScript does, which is JSON."""
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=not value.isprintable())
    return json.dumps(value) if value is None or isinstance(value, int | float) else "unknown"


def _lines(*lines: str) -> str:
    if not lines:
        return "{}"
    return "{\n" + "".join(f"  {line}\n" for each in lines for line in each.splitlines()) + "}"


def _block(lines: Sequence[str]) -> str:
    """Put lines in braces: on one line where that is short, and needs no comment."""
    text = "".join(lines)
    inline = f"{{ {' '.join(text.splitlines()).removesuffix(';')} }}"
    if not re.search(r"^\s*/[/*]|\n\s", text, re.MULTILINE) and len(inline) <= _SHORT:
        return inline if lines else "{}"
    return _lines(text)


def _comment(text: str | None) -> str:
    lines = inspect.cleandoc(text or "").replace("*/", "*\\/").splitlines()
    if not lines:
        return ""
    if len(lines) == 1:
        return f"/** {lines[0]} */\n"
    return "/**\n" + "".join(f" * {line}".rstrip() + "\n" for line in lines) + " */\n"

"""Say what rooms take and send, for whoever writes it down: types for browsers, documents.

Everything is a JSON Schema here; how events look on the wire around their data is the writer's business.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple

from ..schemas import Components, Schema, describe_both, is_object, options_of, resolved
from .definition import RoomDefinition
from .handlers import Handler
from .sent_events import SentEvent

__all__ = ["Contract", "SendsEvent", "TakesEvent", "contracts_of"]

_NULL: Final = {"type": "null"}


class TakesEvent(NamedTuple):
    """An event that clients send: its data, which they may leave out unless `needs_data`, and the answer."""

    name: str
    data: Schema
    needs_data: bool
    result: Schema
    description: str


class SendsEvent(NamedTuple):
    """An event that a room sends, with the data that clients get, but for the ``type``; None where it has no data."""

    name: str
    data: Schema | None


class Contract(NamedTuple):
    """What rooms of one definition take and send; `takes_others` is whether any other event is taken, too."""

    definition: RoomDefinition[Any, Any]
    takes: list[TakesEvent]
    sends: list[SendsEvent]
    takes_others: bool


def contracts_of(definitions: Sequence[RoomDefinition[Any, Any]]) -> tuple[list[Contract], Components]:
    """Describe definitions, in order, and give the components that their schemas share."""
    handlers = [handler for definition in definitions for _, found in _handlers_of(definition) for handler in found]
    sent = [event for definition in definitions for event in definition.events]
    taken_schemas, sent_schemas, components = describe_both(
        [handler.taken for handler in handlers],
        [*(handler.returned for handler in handlers), *(event.kind for event in sent)],
    )
    data, results, events = iter(taken_schemas), iter(sent_schemas), iter(sent_schemas[len(handlers) :])
    contracts = [
        Contract(
            definition,
            [_takes(name, found, data, results) for name, found in _handlers_of(definition)],
            [_sends(event, next(events), components) for event in definition.events],
            "*" in definition.handlers.names or "on_message" in definition.hooks,
        )
        for definition in definitions
    ]
    return contracts, components


def _handlers_of(definition: RoomDefinition[Any, Any]) -> Iterator[tuple[str, tuple[Handler, ...]]]:
    return ((name, definition.handlers.of(name)) for name in definition.handlers.names if name != "*")


def _takes(name: str, handlers: Sequence[Handler], data: Iterator[Schema], results: Iterator[Schema]) -> TakesEvent:
    taken = [next(data) for _ in handlers]
    # Of several handlers the first that returns anything answers.
    answers = [schema for schema in (next(results) for _ in handlers) if schema != _NULL]
    texts = (inspect.getdoc(handler.function) for handler in handlers)
    return TakesEvent(
        name,
        _one_of("allOf", (schema for schema in taken if schema), {}),
        any(handler.needs_data for handler in handlers),
        _one_of("anyOf", answers, _NULL),
        next(filter(None, texts), ""),
    )


def _one_of(word: str, schemas: Iterable[Schema], none: Schema) -> Schema:
    different: list[Schema] = []
    for schema in schemas:
        if schema not in different:
            different.append(schema)
    return {word: different} if len(different) > 1 else different[0] if different else none


def _sends(event: SentEvent, schema: Schema, components: Components) -> SendsEvent:
    return SendsEvent(event.name, None if event.kind is None else _spread(schema, components))


def _spread(schema: Schema, components: Components) -> Schema:
    """Describe what `emit` makes of data: an object stays one, anything else goes as its ``value``."""
    found = resolved(schema, components)
    if (options := options_of(found)) is not None:
        return {"anyOf": [_spread(each, components) for each in options]}
    if is_object(found) or not found.keys() - {"title", "description"}:
        return schema
    return {"type": "object", "properties": {"value": schema}, "required": ["value"]}

"""Keep what a room says it sends: its events by name, each with the type of its data.

Nothing of it is looked at when a room sends. Documents are made of it, and in tests a `CheckedActor` holds rooms to it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, TypeVar

import msgspec
from msgspec import UNSET

from .. import frames
from ..errors import DefinitionError, VeraniError
from ..frames import PING
from ..misfits import misfit
from ..models import is_model, make_decoder
from ..names import RESERVED_PREFIX, check_name
from ..schemas import Components, Schema, describe, options_of, resolved
from ..signatures import label_of

__all__ = ["NotDeclared", "SentEvent", "SentEvents", "check_event_name"]

K = TypeVar("K", bound=type)


class NotDeclared(VeraniError):
    """A room sends what it has not declared: an `event` of another name, or data of another type, at `path`.

    Raised in tests only, where the room sends it.
    """

    def __init__(self, message: str, event: str, path: str | None = None) -> None:
        super().__init__(message)
        self.event = event
        self.path = path


def check_event_name(owner: str, event: str) -> None:
    """Raise an error for what no application may call an event."""
    if callable(event):
        written = '@room.on("message") or @room.event("message")'
        raise TypeError(f"{owner}: expected {written} above {label_of(event)}, got no name of an event")
    check_name(event, "event")
    if event.startswith(RESERVED_PREFIX):
        raise DefinitionError(f"{owner}: event names that start with {RESERVED_PREFIX!r} are reserved")
    if event == PING:
        raise DefinitionError(f"{owner}: {PING!r} is answered by the gateway, and no event of a room")


class SentEvent:
    """One event that a room sends; `kind` is the type of its data, None for an event without data."""

    def __init__(self, owner: str, name: str, kind: Any) -> None:
        """Take a type; raises `DefinitionError` for one that cannot be the data of an event."""
        self.name = name
        self.kind = kind
        self._owner = owner
        with suppress(NameError):  # of a class that stands further down, or is the one that is being made
            self._checked  # noqa: B018

    def check_type(self) -> None:
        """Raise `DefinitionError` for a type that names what is still not there."""
        try:
            self._checked  # noqa: B018
        except NameError as error:
            raise DefinitionError(f"{self._label}: expected a type whose names exist: {error}") from error

    def check(self, data: Any) -> None:
        """Raise `NotDeclared` for data that is not of the type; TypeError for what cannot be encoded.

        Clients cannot tell no data from an empty object.
        """
        payload = b"{}" if data is UNSET else frames.encode(data)
        if self.kind is None:
            if payload != b"{}":
                raise self._error("expected no data")
            return
        if is_model(self.kind) and type(data) is self.kind:  # which Pydantic has checked, and writes as it does
            return
        decoder, schema, components = self._checked
        try:
            decoder.decode(payload)
        except msgspec.ValidationError as error:
            why = str(error) if data is not UNSET else f"expected data, got none: {error}"
            raise self._error(why, frames.path_of(error) or "$") from error
        if (found := misfit(schema, components, msgspec.json.decode(payload))) is not None:
            why = "is missing; what has a default is sent, too" if found.is_missing else "is not declared"
            raise self._error(f"`{found.path}` {why}", found.path)

    @functools.cached_property
    def _checked(self) -> tuple[msgspec.json.Decoder[Any], Schema, Components]:
        try:
            decoder = make_decoder(self.kind, self._label)
        except TypeError as error:
            raise DefinitionError(f"{self._label}: expected a type that msgspec can decode: {error}") from error
        [schema], components = describe([self.kind], sent=True)
        if "type" in _keys_of(schema, components):
            raise DefinitionError(
                f"{self._label}: expected data without a 'type', which is the event's name; give that field or tag "
                "another name"
            )
        return decoder, schema, components

    @property
    def _label(self) -> str:
        return f"{self._owner}: event {self.name!r}"

    def _error(self, why: str, path: str | None = None) -> NotDeclared:
        declared = "None" if self.kind is None else _name_of(self.kind)
        return NotDeclared(f"{self._label}, which is declared as {declared}: {why}", self.name, path)


def _keys_of(schema: Schema, components: Components) -> set[str]:
    schema = resolved(schema, components)
    keys = set(schema.get("properties", ()))
    return keys.union(*(_keys_of(each, components) for each in options_of(schema) or ()))


def _name_of(kind: Any) -> str:
    return kind.__name__ if isinstance(kind, type) else str(kind)


class SentEvents:
    """The events that a definition declares, in order."""

    def __init__(self, owner: str) -> None:
        self._owner = owner
        self._declared: dict[str, SentEvent] = {}
        # Whose decorator has been made, and not used.
        self._unused: set[str] = set()
        # Set by what tests applications: rooms of this definition are held to it.
        self.are_checked = False

    def __iter__(self) -> Iterator[SentEvent]:
        return iter(self._declared.values())

    def declare(self, event: str, kind: Any) -> None:
        """Add an event; raises `DefinitionError`."""
        self._check_name(event)
        self._unused.discard(event)
        self._declared[event] = SentEvent(self._owner, event, kind)

    def decorator(self, event: str) -> Callable[[K], K]:
        """Return what declares an event with the class below it."""
        self._check_name(event)
        self._unused.add(event)

        def declare(kind: K) -> K:
            self.declare(event, kind)
            return kind

        return declare

    def _check_name(self, event: str) -> None:
        check_event_name(self._owner, event)
        if event == "*":
            raise DefinitionError(f"{self._owner}: expected an event to be declared by its name, got '*'")
        if event in self._declared:
            raise DefinitionError(f"{self._owner}: event {event!r} is declared twice; expected one type for each event")

    def check_types(self) -> None:
        """Raise `DefinitionError` for what can only be known once the whole module has run."""
        for event in self._unused:
            raise DefinitionError(
                f"{self._owner}: event {event!r}: expected the type of its data as a second argument, None for no data,"
                " or a class below it"
            )
        for declared in self:
            declared.check_type()

    def check(self, event: str, data: Any) -> None:
        """Raise `NotDeclared` for an event that is not declared as it is sent; a room may declare none at all."""
        if not self._declared:
            return
        declared = self._declared.get(event)
        if declared is None:
            names = ", ".join(map(repr, self._declared))
            raise NotDeclared(f"{self._owner}: event {event!r} is not declared; declared are {names}", event)
        declared.check(data)

    def check_spread(self, event: str, data: dict[str, Any]) -> None:
        """Raise `NotDeclared` for data as clients get it: what is no object is the ``value`` of one."""
        try:
            self.check(event, data)
        except NotDeclared:
            if data.keys() != {"value"}:
                raise
            self.check(event, data["value"])

"""Keep the event handlers of a definition, and find those of a frame."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import msgspec

from ..errors import DefinitionError
from ..models import make_decoder
from ..settings import RatePolicy
from ..signatures import check_arity, is_async, label_of, resolve

__all__ = ["EventRate", "Handler", "Handlers"]


class Handler:
    """One registered event handler and the decoder for the type its payload is annotated with."""

    __slots__ = ("decoder", "function", "is_async")

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.is_async = is_async(function)
        self.decoder = _payload_decoder(function)


def _payload_decoder(function: Callable[..., Any]) -> msgspec.json.Decoder[Any] | None:
    label = label_of(function)
    parameter = check_arity(function, label, ("ctx", "data"))[1]
    try:
        annotation = resolve(function, {"data": parameter.annotation})["data"]
        return None if annotation is Any else make_decoder(annotation, label)
    except (NameError, TypeError) as error:
        raise DefinitionError(
            f"{label}: expected the type of {parameter.name!r} to be one that msgspec can decode: {error}"
        ) from error


class Handlers:
    """The handlers of a definition, by event, in registration order; those of ``"*"`` are for every event."""

    def __init__(self) -> None:
        self._registered: dict[str, list[Handler]] = {}
        # What `of` found for names that handlers are registered for.
        self.found: dict[str, tuple[Handler, ...]] = {}

    def add(self, event: str, function: Callable[..., Any]) -> None:
        """Register a function."""
        self._registered.setdefault(event, []).append(Handler(function))
        self.found.clear()

    def remove(self, event: str, function: Callable[..., Any]) -> None:
        """Forget a function, if it is registered."""
        left = [entry for entry in self._registered.get(event, []) if entry.function != function]
        if left:
            self._registered[event] = left
        else:
            self._registered.pop(event, None)
        self.found.clear()

    @property
    def names(self) -> Collection[str]:
        """Name the events that handlers are registered for, ``"*"`` too."""
        return self._registered.keys()

    def of(self, event: str) -> tuple[Handler, ...]:
        """Return what handles an event, in order: its handlers, then those of ``"*"``."""
        found = self.found.get(event)
        if found is None:
            named = self._registered.get(event, ()) if event != "*" else ()  # clients may send that name, too
            found = (*named, *self._registered.get("*", ()))
            if event in self._registered:  # other names are the clients' choice, and without end
                self.found[event] = found
        return found


class EventRate(NamedTuple):
    """How often one connection may send an event; `burst` and `policy` as `rate_burst` and `rate_policy`."""

    rate: float
    burst: int | None
    policy: RatePolicy | None

"""Keep the event handlers of a definition with what they take, and find those of a frame."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection
from functools import cached_property
from typing import Any, NamedTuple

import msgspec

from .. import frames
from ..errors import DefinitionError
from ..models import make_decoder
from ..settings import RatePolicy
from ..signatures import check_arity, is_async, label_of, resolve
from .options import check_options, is_number

__all__ = ["EventRate", "Handler", "Handlers", "event_rate"]


class Handler:
    """One registered event handler, the type its payload is annotated with, and the decoder for that."""

    __slots__ = ("decoder", "function", "is_async", "taken")

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.is_async = is_async(function)
        self.taken, self.decoder = _payload_of(function)

    @property
    def needs_data(self) -> bool:
        """False where clients may leave out the data, which is ``{}`` then."""
        try:
            frames.decode_data(None, self.decoder)
        except Exception:  # a __post_init__ of a payload type is the user's code, too  # noqa: BLE001
            return True
        return False

    @property
    def returned(self) -> Any:
        """The type its result is annotated with; `Any` where that is not known."""
        annotation = getattr(inspect.unwrap(self.function), "__annotations__", {}).get("return", Any)
        try:
            return resolve(self.function, {"return": annotation})["return"]
        except (NameError, TypeError):  # of a name that exists for type checkers alone
            return Any


def _payload_of(function: Callable[..., Any]) -> tuple[Any, msgspec.json.Decoder[Any] | None]:
    label = label_of(function)
    parameter = check_arity(function, label, ("ctx", "data"))[1]
    try:
        annotation = resolve(function, {"data": parameter.annotation})["data"]
        return annotation, None if annotation is Any else make_decoder(annotation, label)
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
        # Names of which `first_misfit` has told; no others than registered ones.
        self._misfits: set[str] = set()

    def add(self, event: str, function: Callable[..., Any]) -> None:
        """Register a function."""
        self._registered.setdefault(event, []).append(Handler(function))
        self._forget_found()

    def remove(self, event: str, function: Callable[..., Any]) -> None:
        """Forget a function, if it is registered."""
        left = [entry for entry in self._registered.get(event, []) if entry.function != function]
        if left:
            self._registered[event] = left
        else:
            self._registered.pop(event, None)
        self._forget_found()

    def _forget_found(self) -> None:
        self.found.clear()
        self.__dict__.pop("plain", None)

    @cached_property
    def plain(self) -> frozenset[str]:
        """The names that are handled by one handler alone, which is a plain `def`."""
        found = ((event, self.of(event)) for event in self._registered)
        return frozenset(event for event, handlers in found if len(handlers) == 1 and not handlers[0].is_async)

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

    def first_misfit(self, event: str) -> tuple[str, str] | None:
        """Return what an event is registered as and the types its data has to fit, once a name in this process."""
        name = event if event in self._registered and event != "*" else "*"
        if name in self._misfits:
            return None
        self._misfits.add(name)
        taken = [handler.taken for handler in self.of(event) if handler.decoder is not None]
        return name, " and ".join(map(inspect.formatannotation, taken))


class EventRate(NamedTuple):
    """How often one connection may send an event; `burst` and `policy` as `rate_burst` and `rate_policy`."""

    rate: float
    burst: int | None
    policy: RatePolicy | None


def event_rate(
    owner: str, event: str, rate: float | None, burst: int | None, policy: RatePolicy | None
) -> EventRate | None:
    """Make the rate that an event is given, if it is; raises `DefinitionError`, which begins with `owner`."""
    if rate is None:
        if burst is not None or policy is not None:
            raise DefinitionError(f"{owner}: expected rate= with burst= and policy=")
        return None
    if event == "*":
        raise DefinitionError(f"{owner}: expected rate_limit= of define_room for all events, got rate= for one")
    if not is_number(rate) or rate <= 0:
        raise DefinitionError(f"{owner}: expected rate= to be more than 0, got {rate!r}")
    given = {"rate_burst": burst, "rate_policy": policy}
    check_options(owner, {option: value for option, value in given.items() if value is not None})
    return EventRate(float(rate), burst, policy)

"""Keep the event handlers of a definition, and find those of a frame."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec

from ..errors import DefinitionError
from ..models import make_decoder
from ..settings import RatePolicy
from ..signatures import check_arity, label_of, resolve

__all__ = ["EventRate", "Handler"]


class Handler:
    """One registered event handler and the decoder for the type its payload is annotated with."""

    __slots__ = ("decoder", "function")

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
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


class EventRate(NamedTuple):
    """How often one connection may send an event; `burst` and `policy` as `rate_burst` and `rate_policy`."""

    rate: float
    burst: int | None
    policy: RatePolicy | None

"""Read what a user's function takes and returns: its arity and its annotations.

What follows from that is decided by whoever registers the function.
"""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Callable, Mapping
from typing import Any

from .errors import DefinitionError

__all__ = ["check_arity", "is_async", "label_of", "resolve"]


def label_of(function: Callable[..., Any]) -> str:
    """Name a function for an error message."""
    return str(getattr(function, "__qualname__", repr(function)))


def is_async(function: Callable[..., Any]) -> bool:
    """Tell whether a function, or a callable object, is an ``async def``."""
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)


def check_arity(function: Callable[..., Any], label: str, expected: tuple[str, ...]) -> list[inspect.Parameter]:
    """Return the parameters that the expected arguments bind to, the last one repeated for ``*args``.

    Raises `DefinitionError` for a function that cannot be called with them.
    """
    count = len(expected)
    try:
        signature = inspect.signature(function)
        signature.bind(*expected)
    except TypeError as error:
        raise DefinitionError(f"{label}: expected a function that takes ({', '.join(expected)})") from error
    except ValueError:  # a callable of C without a signature
        return [inspect.Parameter("data", inspect.Parameter.POSITIONAL_ONLY)] * count
    parameters = list(signature.parameters.values())[:count]
    return parameters + parameters[-1:] * (count - len(parameters))


def resolve(function: Callable[..., Any], annotations: Mapping[str, Any]) -> dict[str, Any]:
    """Turn these annotations of a function into types; others of it may name what exists for type checkers alone.

    An empty annotation is `Any`. Raises NameError or TypeError for what cannot be resolved.
    """
    holder = type(label_of(function), (), {"__annotations__": dict(annotations)})
    hints = typing.get_type_hints(holder, globalns=_globals_of(function), include_extras=True)
    return {name: Any if hint is inspect.Parameter.empty else hint for name, hint in hints.items()}


def _globals_of(function: Any) -> dict[str, Any]:
    """Find the module that a function, method, partial or callable object was written in."""
    function = inspect.unwrap(function)
    while isinstance(function, functools.partial):
        function = function.func
    if not hasattr(function, "__globals__"):  # neither a function nor a method of one
        function = type(function).__call__
    return getattr(function, "__globals__", {})

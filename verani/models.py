"""Make decoders for what users annotate: msgspec's types, and Pydantic's models where those are.

Pydantic is never imported here: who has a model has imported it. Types that neither of the two checks are refused when
the definition is made, or every payload would be, later.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import msgspec
from msgspec import inspect

from .errors import DefinitionError

__all__ = [
    "Unfit",
    "check_plain",
    "decode_hook",
    "encode_hook",
    "hints_of",
    "is_model",
    "is_plain",
    "make_decoder",
    "parts_of",
]

# What JSON decodes to where no type is asked for.
_PLAIN = (dict, list, str, int, float, bool, type(None))
# Who wrote what stands in an `Annotated`; msgspec reads none of it.
_FOREIGN = frozenset({"pydantic", "pydantic_core", "annotated_types"})


class Unfit(ValueError):
    """A value that a Pydantic model refuses, and where in it: ``.items[0].price``."""

    def __init__(self, text: str, path: str) -> None:
        super().__init__(text)
        self.path = path


def make_decoder(annotation: Any, label: str) -> msgspec.json.Decoder[Any]:
    """Return the decoder of an annotation.

    Raises `DefinitionError`, which begins with `label`, for one that nobody checks, and TypeError for one that msgspec
    does not take.
    """
    for kind in _unchecked(annotation):
        raise DefinitionError(
            f"{label}: nobody would check {kind}; expected types of msgspec (Struct, dataclass, TypedDict and built-in "
            "ones, with msgspec.Meta for constraints) or Pydantic models"
        )
    return msgspec.json.Decoder(annotation, dec_hook=decode_hook)


def check_plain(kind: type[msgspec.Struct], label: str) -> None:
    """Raise `DefinitionError` for a struct with fields that msgspec alone cannot check."""
    for found in _unchecked(kind, models=False):
        raise DefinitionError(f"{label}: nobody could read {found} back; expected fields of msgspec's types")


def _unchecked(annotation: Any, *, models: bool = True) -> Iterator[str]:
    yield from _foreign_constraints(annotation)
    for info in parts_of(annotation):
        kind = getattr(info, "cls", None)
        if isinstance(info, inspect.CustomType):
            if not ((is_model(kind) and models) or is_plain(kind)):
                yield f"{kind!r}"
        elif hasattr(kind, "__pydantic_validator__"):
            yield f"the Pydantic dataclass {kind!r}"
        elif isinstance(kind, type):
            for hint in hints_of(kind).values():
                yield from _foreign_constraints(hint)


def parts_of(annotation: Any) -> Iterator[inspect.Type]:
    """Give a type and all that it is made of, each once; raises TypeError for one that msgspec does not take."""
    seen: set[int] = set()
    waiting = [inspect.type_info(annotation)]
    while waiting:
        info = waiting.pop()
        if id(info) in seen:
            continue
        seen.add(id(info))
        yield info
        for field in info.__struct_fields__:
            waiting += _types_in(getattr(info, field))


def hints_of(kind: type) -> Mapping[str, Any]:
    """Give the annotations of a class; none where one cannot be resolved."""
    try:
        return get_type_hints(kind, include_extras=True)
    except NameError:  # of a name that msgspec did not need, because it belongs to a base class elsewhere
        return {}


def is_plain(kind: Any) -> bool:
    """Tell whether what JSON holds may be one of these: `object`, for example."""
    return isinstance(kind, type) and any(issubclass(plain, kind) for plain in _PLAIN)


def _types_in(value: Any) -> Iterable[inspect.Type]:
    if isinstance(value, inspect.Type):
        return (value,)
    if isinstance(value, inspect.Field):
        return (value.type,)
    return [each for item in value for each in _types_in(item)] if isinstance(value, tuple) else ()


def _foreign_constraints(annotation: Any) -> Iterator[str]:
    if get_origin(annotation) is Annotated:
        for constraint in annotation.__metadata__:
            if type(constraint).__module__.partition(".")[0] in _FOREIGN:
                yield f"the constraint {constraint!r}"
    for argument in get_args(annotation):
        if not isinstance(argument, str | int):  # of a Literal
            yield from _foreign_constraints(argument)


def is_model(kind: Any) -> bool:
    """Tell whether this is a Pydantic model that `decode_hook` takes."""
    model = getattr(sys.modules.get("pydantic"), "BaseModel", None)
    if model is None or not (isinstance(kind, type) and issubclass(kind, model)):
        return False
    return hasattr(kind, "model_validate")  # version 1 has other methods


def decode_hook(kind: Any, value: Any) -> Any:
    """Make what msgspec leaves to us of a decoded value; raises `Unfit`."""
    if not is_model(kind):
        if isinstance(value, kind):
            return value
        raise Unfit(f"Expected `{kind.__name__}`, got `{type(value).__name__}`", "")
    try:
        return kind.model_validate(value)
    except sys.modules["pydantic"].ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        raise Unfit(first["msg"], _path_of(first["loc"])) from None


def _path_of(location: Iterable[str | int]) -> str:
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in location)


def encode_hook(value: Any) -> Any:
    """Make what msgspec can encode of what it cannot; raises TypeError as it does by itself."""
    if is_model(type(value)):
        return value.model_dump(mode="json", by_alias=True)
    raise TypeError(f"Encoding objects of type {type(value).__name__} is unsupported")

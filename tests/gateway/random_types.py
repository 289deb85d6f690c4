"""Make random types of msgspec's and values of them, by a seed: the same every time.

Not of those that are texts of some format, which JSON Schema names and does not check.
"""

from __future__ import annotations

import enum
import random
import string
from collections.abc import Callable
from typing import Any, Final, Literal, NamedTuple, NotRequired, TypedDict

import msgspec
from msgspec import UNSET, UnsetType

__all__ = ["Made", "RandomTypes", "changed"]

# Letters that need care in JSON, in TypeScript or in a path.
_LETTERS: Final = string.ascii_lowercase + " \"\\'\n\u2028é✓/*"

# How deep types are nested.
_DEPTH: Final = 3


class Made(NamedTuple):
    """A type, and how to make a value of it."""

    kind: Any
    value: Callable[[], Any]


class RandomTypes:
    """Types and values, one after the other."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._serial = 0

    def type(self, depth: int = _DEPTH) -> Made:
        """Make a type that is nested so deep at most."""
        makers: list[Callable[[int], Made]] = [self._scalar, self._literal, self._enum]
        if depth:
            makers += [self._list, self._tuple, self._dict, self._optional, self._struct, self._struct]
            makers += [self._typed_dict, self._tagged]
        return self._random.choice(makers)(depth - 1)

    def text(self) -> str:
        """Make a short text."""
        return "".join(self._random.choices(_LETTERS, k=self._random.randrange(4)))

    def _name(self) -> str:
        self._serial += 1
        return f"T{self._serial}"

    def _scalar(self, _: int) -> Made:
        number = self._random.randrange
        return self._random.choice(
            [
                Made(int, lambda: number(-5, 5)),
                Made(float, lambda: number(-5, 5) + 0.5),
                Made(str, self.text),
                Made(bool, lambda: self._random.random() < 0.5),
                Made(None, lambda: None),
                Made(Any, lambda: self._random.choice([None, 1, "x", [1], {"a": [None]}])),
            ]
        )

    def _literal(self, _: int) -> Made:
        values = tuple(dict.fromkeys(self._random.choice([1, 2, "a", 'b"', "c\\", None]) for _ in range(3)))
        return Made(Literal[values], lambda: self._random.choice(values))

    def _enum(self, _: int) -> Made:
        kind = enum.Enum(self._name(), {f"M{i}": f"{self.text()}{i}" for i in range(3)})  # type: ignore[misc]  # made here
        return Made(kind, lambda: self._random.choice(list(kind)))

    def _list(self, depth: int) -> Made:
        inner = self.type(depth)
        return Made(list[inner.kind], lambda: [inner.value() for _ in range(self._random.randrange(3))])  # type: ignore[name-defined]

    def _tuple(self, depth: int) -> Made:
        inner = [self.type(depth) for _ in range(self._random.randrange(1, 4))]
        return Made(tuple[tuple(each.kind for each in inner)], lambda: tuple(each.value() for each in inner))  # type: ignore[misc]

    def _dict(self, depth: int) -> Made:
        inner = self.type(depth)
        key = self._random.choice([Made(str, lambda: f"k{self.text()}"), Made(int, lambda: self._random.randrange(9))])
        return Made(
            dict[key.kind, inner.kind],  # type: ignore[name-defined]
            lambda: {key.value(): inner.value() for _ in range(self._random.randrange(3))},
        )

    def _optional(self, depth: int) -> Made:
        inner = self.type(depth)
        if inner.kind in (Any, None):
            return inner
        return Made(inner.kind | None, lambda: inner.value() if self._random.random() < 0.7 else None)

    def _fields(self, depth: int) -> dict[str, Made]:
        names = ["plain", "odd-key", "with space", "it's", "class", "ünï"]
        chosen = self._random.sample(names, self._random.randrange(1, 4))
        return {name: self.type(depth) for name in chosen}

    def _struct(self, depth: int, **options: Any) -> Made:
        if not options and self._random.random() < 0.3:
            options = {self._random.choice(["array_like", "omit_defaults"]): True}
        fields = self._fields(depth)
        of_python = {name: f"f{number}" for number, name in enumerate(fields)}
        made: list[tuple[str, Any, Any]] = []
        for name, inner in fields.items():
            kind, default = inner.kind, inner.value()
            if self._random.random() < 0.2 and kind is not Any and "array_like" not in options:
                kind, default = kind | UnsetType, UNSET
            has_default = self._random.random() < 0.5 or default is UNSET
            factory = (lambda value: lambda: value)(default)
            made.append(
                (
                    of_python[name],
                    kind,
                    msgspec.field(default_factory=factory, name=name) if has_default else msgspec.field(name=name),
                )
            )
        kind = msgspec.defstruct(self._name(), made, kw_only=True, module="made", **options)

        def value() -> Any:
            given = {of_python[name]: inner.value() for name, inner in fields.items()}
            may_default = {name for (name, _, field) in made if field.default_factory is not msgspec.NODEFAULT}
            return kind(**{k: v for k, v in given.items() if k not in may_default or self._random.random() < 0.5})

        return Made(kind, value)

    def _typed_dict(self, depth: int) -> Made:
        fields = self._fields(depth)
        optional = {name for name in fields if self._random.random() < 0.4}
        hints = {name: NotRequired[made.kind] if name in optional else made.kind for name, made in fields.items()}
        kind = TypedDict(self._name(), hints)  # type: ignore[misc]  # made here

        def value() -> Any:
            left_out = {name for name in optional if self._random.random() < 0.5}
            return {name: made.value() for name, made in fields.items() if name not in left_out}

        return Made(kind, value)

    def _tagged(self, depth: int) -> Made:
        options = [self._struct(depth, tag_field="kind", tag=f"tag-{number}") for number in range(2)]
        kind: Any = options[0].kind | options[1].kind
        return Made(kind, lambda: self._random.choice(options).value())


def changed(value: Any, chance: random.Random) -> Any:
    """Change one place of a JSON value: leave out a key or put another kind of value there."""
    inner = value if isinstance(value, dict) else dict(enumerate(value)) if isinstance(value, list) else {}
    if not inner or chance.random() < 0.3:
        others: list[Any] = ["text", 7, None, True, [], {}]
        return chance.choice([each for each in others if type(each) is not type(value)])
    key = chance.choice(list(inner))
    if isinstance(value, dict) and chance.random() < 0.4:
        return {name: each for name, each in value.items() if name != key}
    new: dict[Any, Any] = {name: changed(each, chance) if name == key else each for name, each in inner.items()}
    return new if isinstance(value, dict) else list(new.values())

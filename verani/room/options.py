"""Name the options of `define_room`, with what each may be."""

from __future__ import annotations

import math
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, Literal, TypeAlias, TypedDict, get_args

from msgspec import UNSET

from ..errors import DefinitionError
from ..frames import Frame
from ..settings import RatePolicy
from .context import Actor, Context
from .request import BEARER, ConnectRequest

__all__ = ["HOOKS", "RATES", "RoomOptions", "SameClient", "check_options", "check_subprotocols", "is_number"]

SameClient: TypeAlias = Literal["replace", "reject"]

# The hooks that exist, as options of `define_room` and as decorators of the definition, and what each is given.
HOOKS = MappingProxyType(
    {
        "extract_meta": ("request",),
        "authorize_room": ("meta", "request"),
        "authorize_channel": ("ctx_or_request", "channel"),
        "name_from_request": ("request",),
        "on_wake": ("actor",),
        "on_connect": ("ctx",),
        "on_message": ("ctx", "frame"),
        "on_disconnect": ("ctx",),
        "on_error": ("error", "ctx"),
        "on_hibernate": ("actor",),
        "on_hibernation_restore": ("actor",),
        "on_startup": (),
        "on_shutdown": (),
    }
)

# The settings that a definition may have of its own.
RATES = ("rate_limit", "rate_limit_bytes", "rate_burst", "rate_policy")


class RoomOptions(TypedDict, total=False):
    """The options of `define_room` besides its types; each hook may come as a decorator instead."""

    meta_version: int
    websocket_path: str
    hibernate_after: float | None
    min_awake: float
    same_client: SameClient
    subprotocols: Iterable[str]
    rate_limit: float
    rate_limit_bytes: float
    rate_burst: int
    rate_policy: RatePolicy
    extract_meta: Callable[[ConnectRequest], Any]
    authorize_room: Callable[[Any, ConnectRequest], bool | Awaitable[bool]]
    authorize_channel: Callable[[Any, str], bool]
    name_from_request: Callable[[ConnectRequest], Any]
    on_wake: Callable[[Actor[Any, Any]], Any]
    on_connect: Callable[[Context[Any, Any]], Any]
    on_message: Callable[[Context[Any, Any], Frame], Any]
    on_disconnect: Callable[[Context[Any, Any]], Any]
    on_error: Callable[[BaseException, Context[Any, Any]], Any]
    on_hibernate: Callable[[Actor[Any, Any]], Any]
    on_hibernation_restore: Callable[[Actor[Any, Any]], Any]
    on_startup: Callable[[], Any]
    on_shutdown: Callable[[], Any]


def is_number(value: object) -> bool:
    """Tell whether something is a number that one can count with."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


_PATH = re.compile(r"/[A-Za-z0-9_.~/-]*(?:\{room\})?")
# A token of HTTP (RFC 6455 4.1), and never what carries one of a client: it would be sent back.
_SUBPROTOCOL = re.compile(rf"(?!{re.escape(BEARER)})[!#$%&'*+.^_`|~0-9A-Za-z-]+")


def _is_path(value: object) -> bool:
    return isinstance(value, str) and _PATH.fullmatch(value) is not None


def _is_idle_time(value: Any) -> bool:
    return value is UNSET or value is None or (isinstance(value, int | float) and value > 0)


def _is_awake_time(value: Any) -> bool:
    return value is UNSET or (type(value) in (int, float) and value >= 0)


def _is_limit(value: Any) -> bool:
    return is_number(value) and value >= 0


_LIMIT = (_is_limit, "to be a number from 0 up, 0 for no limit")

# What fits each option, and the words for it.
_EXPECTED: Mapping[str, tuple[Callable[[Any], bool], str]] = MappingProxyType(
    {
        "websocket_path": (_is_path, "such as '/ws' or '/ws/{room}'"),
        "same_client": (lambda value: value in get_args(SameClient), "'replace' or 'reject'"),
        "hibernate_after": (_is_idle_time, "more than 0 seconds or None"),
        "min_awake": (_is_awake_time, "to be 0 seconds or more"),
        "meta_version": (lambda value: type(value) is int and value >= 0, "to be a number from 0 up"),
        "rate_limit": _LIMIT,
        "rate_limit_bytes": _LIMIT,
        "rate_burst": (lambda value: type(value) is int and value >= 1, "to be a number from 1 up"),
        "rate_policy": (
            lambda value: value in get_args(RatePolicy),
            f"to be one of {', '.join(get_args(RatePolicy))}",
        ),
    }
)


def check_options(owner: str, given: Mapping[str, object]) -> None:
    """Raise `DefinitionError`, which names the owner, for an option that is not what it may be."""
    for option, (fits, expected) in _EXPECTED.items():
        if option in given and not fits(given[option]):
            raise DefinitionError(f"{owner}: expected {option}= {expected}, got {given[option]!r}")


def check_subprotocols(owner: str, given: object) -> tuple[str, ...]:
    """Return the names of subprotocols; raises `DefinitionError`."""
    names = tuple(given) if isinstance(given, Iterable) and not isinstance(given, str) else (None,)
    if not all(isinstance(each, str) and _SUBPROTOCOL.fullmatch(each) for each in names):
        raise DefinitionError(
            f"{owner}: expected subprotocols= to be names such as 'verani', none of which starts with {BEARER!r}, got"
            f" {given!r}"
        )
    return names

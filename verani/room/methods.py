"""Describe the methods that callers outside a room may call: what they take, what they answer.

Running them is the engine's work, carrying calls the gateways'.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import UNSET, Struct, UnsetType

from .. import frames
from ..errors import DefinitionError, InvalidArguments, error_for
from ..link.messages import Outcome
from ..models import decode_hook, make_decoder
from ..names import EventName, Name
from ..signatures import label_of, resolve

if TYPE_CHECKING:
    from .context import Actor

__all__ = [
    "BUILT_IN",
    "CALL_OPTIONS",
    "MAX_TIMEOUT",
    "MIN_TIMEOUT",
    "Call",
    "Method",
    "result_of",
]

# Keywords of every call, so no method may have arguments of these names.
CALL_OPTIONS = ("timeout", "idempotency_key")

# Seconds that a call may be given: no room has its turn sooner than the first, and nobody waits for longer.
MIN_TIMEOUT, MAX_TIMEOUT = 0.001, 3600.0


class Call(Struct, frozen=True):
    """One call as middleware and `on_error` see it: `ctx.call`."""

    method: str
    arguments: Mapping[str, Any]


class Method:
    """One method, its arguments' types and its result's type."""

    __slots__ = (
        "_by_name",
        "_by_position",
        "_never_null",
        "_only_by_name",
        "_result",
        "function",
        "name",
        "result_type",
        "signature",
        "types",
    )

    def __init__(self, name: str, function: Callable[..., Any]) -> None:
        """Read the signature; raises `DefinitionError` for one that JSON cannot serve."""
        label = label_of(function)
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise DefinitionError(f"{label}: expected a function that returns its result, not one that yields")
        if not name.isidentifier() or name.startswith("_") or name == "call":
            raise DefinitionError(f"{label}: expected an rpc method's name not to be 'call' or to start with '_'")
        parameters = _parameters(function, label)
        try:
            types = resolve(function, {p.name: p.annotation for p in parameters} | _result_of(function))
            self.result_type = types.pop("return", Any)
            # Null for an argument that may be left out and cannot be null means that it is left out.
            self._never_null = {
                p.name for p in parameters if p.default is not p.empty and not _takes_null(types[p.name])
            }
            fields = {
                p.name: (p.name, types[p.name])
                if p.default is p.empty
                else (p.name, types[p.name] | None | UnsetType, UNSET)
                for p in parameters
            }
            by_name = msgspec.defstruct(name, fields.values(), forbid_unknown_fields=True, kw_only=True)
            positional = [fields[p.name] for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
            by_position = msgspec.defstruct(name, positional, forbid_unknown_fields=True, array_like=True)
            self._by_name = make_decoder(by_name, label).decode
            self._by_position = make_decoder(by_position, label).decode
            self._result = None if self.result_type is Any else make_decoder(self.result_type, label).decode
        except (NameError, TypeError) as error:
            raise DefinitionError(
                f"{label}: expected types of arguments and result that msgspec can decode: {error}"
            ) from error
        self.name = name
        self.function = function
        # Without the actor, for callers that bind their arguments.
        self.signature = inspect.Signature(parameters)
        # Of the arguments, by name.
        self.types = types
        self._only_by_name = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is p.empty]

    def __repr__(self) -> str:
        return f"<Method {self.name!r}>"

    def decode(self, payload: bytes) -> dict[str, Any]:
        """Return the arguments by name, of an object or an array; raises `InvalidArguments`."""
        is_by_position = payload.lstrip()[:1] == b"["
        if is_by_position and self._only_by_name:
            raise InvalidArguments(f"expected an object: {', '.join(self._only_by_name)} are given by name only")
        decode = self._by_position if is_by_position else self._by_name
        try:
            payload.decode()  # msgspec skips what it does not keep
            arguments = frames.decode_json(payload, decode)
        except msgspec.ValidationError as error:
            path = frames.path_of(error)
            text = _text_of(error) if path or payload.lstrip()[:1] in (b"{", b"[") else "expected an object or array"
            raise InvalidArguments(text, path=path) from error
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
            raise InvalidArguments(f"expected a JSON object or array: {error}") from error
        if frames.is_too_deep(payload):
            raise InvalidArguments(f"expected at most {frames.MAX_DEPTH} nested arrays and objects")
        found = ((name, getattr(arguments, name)) for name in arguments.__struct_fields__)
        return {
            name: value
            for name, value in found
            if value is not UNSET and (value is not None or name not in self._never_null)
        }

    def encode(self, result: Any) -> bytes:
        """Return the result as JSON; raises TypeError if it is not what was annotated."""
        if inspect.iscoroutine(result):
            result.close()
            raise TypeError(f"rpc {self.name} returned a coroutine: an await is missing")
        try:
            payload = frames.encode(result)
            if self._result is not None:
                self._result(payload)
        except Exception as error:  # also whatever an object's own encoding raises
            raise TypeError(f"the result of rpc {self.name}: {error}") from error
        return payload

    def decode_result(self, payload: bytes) -> Any:
        """Return the result that a caller is given."""
        return frames.decode_json(payload, self._result or msgspec.json.decode)


def _parameters(function: Callable[..., Any], label: str) -> list[inspect.Parameter]:
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError) as error:
        raise DefinitionError(f"{label}: expected a function (actor, ...) for rpc") from error
    actor, arguments = parameters[:1], parameters[1:]
    if not actor or actor[0].kind not in (actor[0].POSITIONAL_ONLY, actor[0].POSITIONAL_OR_KEYWORD):
        raise DefinitionError(f"{label}: expected a function (actor, ...) for rpc")
    for parameter in arguments:
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise DefinitionError(f"{label}: expected named arguments for rpc, got {parameter}")
        if parameter.name in CALL_OPTIONS:
            raise DefinitionError(f"{label}: {parameter.name!r} is an option of every call; expected another name")
    return arguments


def _takes_null(annotation: Any) -> bool:
    try:
        msgspec.convert(None, annotation, dec_hook=decode_hook)
    except msgspec.ValidationError:
        return False
    return True


def _result_of(function: Callable[..., Any]) -> dict[str, Any]:
    annotation = inspect.signature(function).return_annotation
    return {} if annotation is inspect.Signature.empty else {"return": annotation}


def _text_of(error: msgspec.ValidationError) -> str:
    return str(error).rpartition(" - at `")[0] or str(error)


# What a caller reads where an outcome has no text of its own.
_SENTENCES = MappingProxyType(
    {
        "busy": "the room takes no call now",
        "deadline": "did not answer in time, and may still be running or waiting for its turn",
        "failed": "failed; the log of the service says why",
        "interrupted": "was interrupted and may have run",
        "not_found": "there is no such method",
    }
)


def result_of(outcome: Outcome, room: str, method: str) -> bytes:
    """Return the result of a call as JSON text, or raise the `VeraniError` that its outcome names."""
    if outcome.code is not None:
        text = outcome.public or outcome.message or _SENTENCES.get(outcome.code, outcome.code)
        if outcome.path is not None:
            text += f", at {outcome.path}"
        raise error_for(outcome.code, f"{room}: {method}: {text}", path=outcome.path, public=outcome.public)
    return outcome.result if outcome.result is not None else b"null"


# --- what every room can do (design section 8) -----------------------------------------------------------


def send_to_user(actor: Actor[Any, Any], user_id: str, channel: Name, data: Any) -> int:
    """Send data, unchanged, to the user's connections that are in the channel."""
    return actor.send_to_user(user_id, channel, data)


def broadcast(
    actor: Actor[Any, Any],
    channel: Name,
    data: Any,
    user_ids: list[str] | None = None,
    client_ids: list[str] | None = None,
) -> int:
    """Send data, unchanged, to the channel; filters are ANDed."""
    return actor.broadcast(channel, data, user_ids=user_ids, client_ids=client_ids)


def emit_to_channel(actor: Actor[Any, Any], channel: Name, event: EventName, data: Any = UNSET) -> int:
    """Emit an event to the whole channel."""
    _check_emitted(data)
    return actor.emit_to_channel(channel, event, data)


def emit_to_user(actor: Actor[Any, Any], user_id: str, event: EventName, data: Any = UNSET) -> int:
    """Emit an event to all connections of a user."""
    _check_emitted(data)
    return actor.emit_to_user(user_id, event, data)


def _check_emitted(data: Any) -> None:
    if isinstance(data, dict) and "type" in data:
        text = "expected data without a type, which is the event's name; broadcast and send_to_user take one"
        raise InvalidArguments(path="$.data.type", public=text)


def get_session_count(actor: Actor[Any, Any]) -> int:
    """Count the sessions."""
    return actor.get_session_count()


def get_connected_user_ids(actor: Actor[Any, Any]) -> list[str]:
    """List the users, each once, in first-seen order."""
    return actor.get_connected_user_ids()


def cleanup_stale_sessions(actor: Actor[Any, Any]) -> int:
    """Take out the sessions whose close is queued, and count them."""
    return actor.cleanup_stale_sessions()


BUILT_IN: Mapping[str, Method] = MappingProxyType(
    {
        function.__name__: Method(function.__name__, function)
        for function in (
            send_to_user,
            broadcast,
            emit_to_channel,
            emit_to_user,
            get_session_count,
            get_connected_user_ids,
            cleanup_stale_sessions,
        )
    }
)

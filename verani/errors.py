"""Say what went wrong, by whose fault: one base, one child a code of the error table.

The table is shared by acks, HTTP refusals and (later) calls, so a code means the same everywhere.
The text of an error stays on the server; only its `code`, and its `public` text, reach a client.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, TypeVar

from .names import well_formed

__all__ = [
    "VeraniError",
    "InvalidArguments",
    "Unauthorized",
    "Forbidden",
    "NotFound",
    "Conflict",
    "TooLarge",
    "RateLimited",
    "CallFailed",
    "RoomBusy",
    "CallCycle",
    "DeadlineExceeded",
    "Interrupted",
    "HookInterrupted",
    "HookTimeout",
    "RoomAsleep",
    "WrongThread",
    "DefinitionError",
    "SettingsError",
    "CODES",
    "REFUSALS",
    "error_for",
    "fresh",
    "is_refusal",
    "refusal_for",
]


# Characters of a text for people.
_MAX_PUBLIC = 1000


class VeraniError(Exception):
    """Base of every error this project raises on purpose.

    `public` is a text for people: a client that is refused with this error gets it beside the code, as `message`. It is
    cut at 1,000 characters. The other text of an error stays on the server.
    """

    code: ClassVar[str] = "failed"
    status: ClassVar[int] = 500
    public: str | None = None

    # True for what a call of another room came to: a hook that lets it pass has failed, and "surely did not run" or
    # "not for you" is not said about that hook.
    is_of_call: bool = False

    def __init__(self, message: str = "", *, public: str | None = None) -> None:
        if not (public is None or isinstance(public, str)):
            raise TypeError(f"public: expected a text or None, got {type(public).__name__}")
        super().__init__(message or public or "")
        self.public = None if public is None else well_formed(public)[:_MAX_PUBLIC]


class InvalidArguments(VeraniError):
    """Arguments or payload do not fit; `path` says where in them, for example ``$.text``."""

    code = "invalid"
    status = 400

    def __init__(self, message: str = "", *, path: str | None = None, public: str | None = None) -> None:
        super().__init__(message, public=public)
        self.path = path


class Unauthorized(VeraniError):
    """The caller is not known."""

    code = "unauthorized"
    status = 401


class Forbidden(VeraniError):
    """The caller is known and may not."""

    code = "forbidden"
    status = 403


class NotFound(VeraniError):
    """No such definition, room, method or handler."""

    code = "not_found"
    status = 404


class Conflict(VeraniError):
    """Another connection holds this client id and the definition rejects a second one."""

    code = "conflict"
    status = 409


class TooLarge(VeraniError):
    """A frame, a hook's output or a meta is over its limit."""

    code = "too_large"
    status = 413


class RateLimited(VeraniError):
    """Too many for now; `retry_after` is in seconds."""

    code = "rate_limited"
    status = 429

    def __init__(self, message: str = "", *, retry_after: float = 1.0, public: str | None = None) -> None:
        super().__init__(message, public=public)
        self.retry_after = retry_after


class CallFailed(VeraniError):
    """The hook raised; what it raised stays on the server."""


class RoomBusy(VeraniError):
    """No capacity for now; it surely did not run, so it is safe to try again after `retry_after` seconds."""

    code = "busy"
    status = 503

    def __init__(self, message: str = "", *, retry_after: float = 1.0, public: str | None = None) -> None:
        super().__init__(message, public=public)
        self.retry_after = retry_after


class CallCycle(VeraniError):
    """The chain of calls already holds this room."""

    code = "call_cycle"
    status = 409


class DeadlineExceeded(VeraniError):
    """No answer in time; it may have run."""

    code = "deadline"
    status = 504


class Interrupted(VeraniError):
    """It began and its owner went away; it may have run."""

    code = "interrupted"
    status = 502


class HookInterrupted(Interrupted):
    """A hook had visibly begun when its room's owner died; given to `on_error` by the next owner, never run again."""


class HookTimeout(DeadlineExceeded):
    """A hook was cut off at its time budget."""


class RoomAsleep(VeraniError):
    """A context or actor handle was used after its room slept or its hook was abandoned."""


class WrongThread(VeraniError, RuntimeError):
    """A call from another thread than that of the event loop it belongs to; the text names the way."""


class DefinitionError(VeraniError):
    """A room definition that cannot work, told when it is made or loaded."""


class SettingsError(VeraniError):
    """A setting with a wrong name, type or value; the text names the option."""


E = TypeVar("E", bound=Exception)

REFUSALS = (InvalidArguments, Unauthorized, Forbidden, NotFound, Conflict, RateLimited, RoomBusy)


def is_refusal(error: BaseException) -> bool:
    """Tell what an application raises to refuse a client from what went wrong."""
    return isinstance(error, REFUSALS) and not error.is_of_call


def fresh(error: E) -> E:
    """Copy an error, for one who raises it more than once: what was raised holds the frames it went through."""
    copy = type(error).__new__(type(error), *error.args)
    copy.__dict__.update(error.__dict__)
    copy.__cause__, copy.__suppress_context__ = error.__cause__, error.__suppress_context__
    return copy


def refusal_for(code: str, message: str) -> VeraniError | None:
    """Rebuild the refusal that `code` names; None where it names something else."""
    kind = _BY_CODE.get(code)
    return kind(message) if kind in REFUSALS else None


_BY_CODE: Mapping[str, type[VeraniError]] = {
    kind.code: kind
    for kind in (
        InvalidArguments,
        Unauthorized,
        Forbidden,
        NotFound,
        Conflict,
        TooLarge,
        RateLimited,
        CallFailed,
        RoomBusy,
        CallCycle,
        DeadlineExceeded,
        Interrupted,
    )
} | {"overloaded": RoomBusy}


# What there is to label a count with; a subclass of one's own may have any code.
CODES = frozenset(_BY_CODE)


def error_for(code: str, message: str = "", *, path: str | None = None, public: str | None = None) -> VeraniError:
    """Rebuild the error that `code` names; an unknown code, from a newer server, is a `CallFailed`."""
    error = _BY_CODE.get(code, CallFailed)(message or code, public=public)
    if isinstance(error, InvalidArguments):
        error.path = path
    return error

"""Choose what clients and callers hear of what failed, and how a connection is closed for it.

Only errors made for them have a code, a path and a text of their own; of all others the text stays in the log.
"""

from __future__ import annotations

from .. import frames
from ..errors import InvalidArguments, RateLimited, RoomBusy, VeraniError, is_refusal
from ..link import messages
from ..names import MAX_REASON_BYTES
from .sink import Sink

__all__ = ["PASSING", "closing_of", "closing_of_wake", "outcome_of", "refuse", "reply", "turn_away"]

# Refusals that invite to try again: answered from memory, they would never pass.
PASSING = frozenset({RoomBusy.code, RateLimited.code})


def outcome_of(error: BaseException) -> messages.Outcome:
    """Say what a client or caller hears of an error."""
    if not isinstance(error, VeraniError) or error.is_of_call:
        return messages.Outcome(code="failed")
    path = error.path if isinstance(error, InvalidArguments) else None
    return messages.Outcome(code=error.code, path=path, public=error.public)


def closing_of(error: BaseException) -> tuple[int, str]:
    """Choose how a connection is closed that `on_connect` failed for: whom it refused is to stay away."""
    if isinstance(error, VeraniError) and is_refusal(error):
        return _stay_away(error.code)
    return 1011, ""


def closing_of_wake(outcome: messages.Outcome) -> tuple[int, str]:
    """Choose how a connection is closed whose room could not wake."""
    code = outcome.code or RoomBusy.code
    return (1013, "") if code in PASSING else _stay_away(code)


def _stay_away(code: str) -> tuple[int, str]:
    return 1000, code.encode()[:MAX_REASON_BYTES].decode(errors="ignore")


def refuse(sink: Sink, gateway: str, event: messages.FrameInput, outcome: messages.Outcome) -> None:
    """Answer a request with an error; a frame that asked for no answer gets none."""
    if event.request is not None:
        payload = frames.error_ack_frame(event.request, outcome.code or "failed", outcome.path, outcome.public)
        sink.output(gateway, messages.Deliver((event.connection,), payload), event.number)


def reply(sink: Sink, gateway: str, event: messages.CallInput, outcome: messages.Outcome) -> None:
    """Answer a call."""
    sink.output(gateway, messages.Reply(event.number, outcome), event.number)


def turn_away(sink: Sink, gateway: str, event: messages.Connect, code: int, reason: str = "") -> None:
    """Close a connection that becomes no session: it never gets an `on_disconnect`."""
    sink.output(gateway, messages.Kick(event.connection, code, reason, refused=True), event.number)

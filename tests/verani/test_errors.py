"""The table of error codes, which acks, HTTP refusals and calls share."""

from __future__ import annotations

import pytest

from verani import errors
from verani.errors import CallFailed, InvalidArguments, RateLimited, RoomBusy, VeraniError, error_for

# Section 8 of the design.
TABLE = {
    "invalid": ("InvalidArguments", 400),
    "unauthorized": ("Unauthorized", 401),
    "forbidden": ("Forbidden", 403),
    "not_found": ("NotFound", 404),
    "call_cycle": ("CallCycle", 409),
    "conflict": ("Conflict", 409),
    "too_large": ("TooLarge", 413),
    "rate_limited": ("RateLimited", 429),
    "failed": ("CallFailed", 500),
    "interrupted": ("Interrupted", 502),
    "busy": ("RoomBusy", 503),
    "deadline": ("DeadlineExceeded", 504),
}


@pytest.mark.parametrize("code", TABLE)
def test_a_code_stands_for_one_error_and_one_http_status(code: str) -> None:
    error = error_for(code, "why")
    assert (type(error).__name__, error.status) == TABLE[code]
    assert error.code == code
    assert str(error) == "why"


def test_overloaded_is_busy_and_an_unknown_code_is_a_failed_call() -> None:
    assert isinstance(error_for("overloaded"), RoomBusy)
    assert isinstance(error_for("of-the-future"), CallFailed)
    assert str(error_for("of-the-future")) == "of-the-future"


def test_an_invalid_argument_says_where() -> None:
    error = error_for("invalid", path="$.text")
    assert isinstance(error, InvalidArguments)
    assert error.path == "$.text"


def test_the_errors_of_a_wait_say_how_long() -> None:
    assert (RateLimited().retry_after, RoomBusy(retry_after=3).retry_after) == (1.0, 3)


def test_every_error_has_the_one_base_and_a_code_of_the_table() -> None:
    for name in errors.__all__:
        kind = getattr(errors, name)
        if isinstance(kind, type):
            assert issubclass(kind, VeraniError)
            assert kind.code in TABLE
            assert kind.status >= 400
